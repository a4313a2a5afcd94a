"""The classifier for one's own data: equal to its parts, honest about missing cues, and tables of any kind lose no row."""

import csv
import dataclasses
import io
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from emolib import EmotionClassifier, classifier, clip, fusion, heads, pairs, profiles, prompts
from emolib.fusion import Calibration
from emolib.items import DataError
from emolib.labels import FACE_CLASSES, SHARED_CLASSES, TEXT_CLASSES
from emolib.profiles import ROOT

PRIOR = np.array([0.15, 0.15, 0.35, 0.3, 0.05])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The sample's tiny CLIP as a classifier, in float32 as users have it."""
    encoder = clip.load(profiles.get("sample"))
    both = {
        "image": heads.zero_shot(encoder, prompts.FACES["ensemble"]),
        "text": heads.zero_shot(encoder, prompts.TEXTS["ensemble"]),
    }
    calibrations = {"image": Calibration(1.3, np.log(PRIOR)), "text": Calibration(0.8, np.zeros(5))}
    where = tmp_path_factory.mktemp("model")
    EmotionClassifier(encoder, both, calibrations, PRIOR).save_pretrained(where, "# a test\n")
    return where


@pytest.fixture(scope="module")
def model(folder):
    return EmotionClassifier.from_pretrained(folder)


def test_it_is_the_product_of_its_calibrated_experts(model, sample_faces, sample_texts):
    pictures, texts = list(sample_faces.pixels[:6]), sample_texts.texts[:6].tolist()
    found = model(text=texts, image=pictures)
    by_hand = []
    for cue, classes, vectors in (
        ("image", FACE_CLASSES, model.encoder.encode_images(pictures)), ("text", TEXT_CLASSES, model.encoder.encode_texts(texts)),
    ):  # fmt: skip
        probs = fusion.in_shared(model.heads[cue].posterior(vectors), classes)
        assert np.allclose([e.outside[cue] for e in found], 1 - probs.sum(1))
        by_hand.append(model.calibrations[cue](probs / probs.sum(1, keepdims=True)))
    both = fusion.product(*by_hand, PRIOR)
    for i, emotion in enumerate(found):
        assert list(emotion.posterior) == list(SHARED_CLASSES) and emotion.label == SHARED_CLASSES[both[i].argmax()]
        assert np.allclose(list(emotion.posterior.values()), both[i], atol=1e-6)
        assert np.allclose(list(emotion.image.values()), by_hand[0][i], atol=1e-6)
        assert np.allclose(list(emotion.text.values()), by_hand[1][i], atol=1e-6)
        assert emotion.conflict == pytest.approx(fusion.conflict(by_hand[0][i], by_hand[1][i], PRIOR), abs=1e-6)


def test_a_missing_cue_gives_exactly_the_other_one(model, sample_faces):
    face = sample_faces.pixels[0]
    alone = model(image=face)
    assert alone.text is None and alone.conflict is None and alone.posterior == alone.image and list(alone.outside) == ["image"]
    alone = model(text="i feel so angry")
    assert alone.image is None and alone.posterior == alone.text
    mixed = model(text=["i feel so angry", None, "what a joy"], image=[None, face, face])
    assert (
        mixed[0].posterior == pytest.approx(alone.posterior, abs=1e-6) and mixed[1].text is None and mixed[2].conflict is not None
    )


def test_wrong_calls_say_what_is_wanted(model, sample_faces, tmp_path):
    with pytest.raises(ValueError, match="item 1 has neither"):
        model(text=["a", None], image=[None, None])
    with pytest.raises(ValueError, match="item 0 has neither"):
        model()
    with pytest.raises(ValueError, match="found 2 texts and 1 images"):
        model(text=["a", "b"], image=[sample_faces.pixels[0]])
    with pytest.raises(DataError, match="image 1"):
        model(image=[sample_faces.pixels[0], b"no picture"])
    with pytest.raises(DataError, match="wanted at least one word"):
        model(text=" ")
    with pytest.raises(clip.MissingModel, match=r"emolib\.json is not there.*notebook 5"):
        EmotionClassifier.from_pretrained(tmp_path)


def test_towers_of_two_encoders_are_joined():
    encoder = clip.load(profiles.get("sample"))
    moved = {k: v + 0.1 if v.is_floating_point() else v for k, v in encoder.weights.items()}
    other = encoder.with_weights(moved)
    both = classifier.joined(encoder, encoder.weights, moved)
    face = [np.full((48, 48), 90, np.uint8)]
    assert np.array_equal(both.encode_images(face), encoder.encode_images(face))
    assert np.array_equal(both.encode_texts(["a face"]), other.encode_texts(["a face"]))


def test_abroad_is_asked_of_held_out_pairs_only(model):
    data = pairs.genuine(profiles.get("sample"))
    part = data.select(np.concatenate([np.arange(5), np.flatnonzero(data.split != "train")[:5]]))
    found = classifier.abroad(model, part)
    assert found.arrays["ids"].tolist() == part.ids[5:].tolist() and found.notes["classes"] == ["sincere", "ironic"]
    one = model(text=part.texts[7], image=part.pictures[7])
    assert found.arrays["face"][2] == pytest.approx(list(one.image.values()), abs=1e-6)
    assert found.arrays["text"][2] == pytest.approx(list(one.text.values()), abs=1e-6)


def broken_table(path, faces, rows):
    """A csv file with every defect that people's tables have; returns how many rows have each."""
    folder = path.parent
    (folder / "p").mkdir()
    for i in range(5):
        Image.fromarray(faces[i]).save(folder / "p" / f"{i}.png")
    whole = (folder / "p" / "0.png").read_bytes()
    (folder / "p" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "p" / "text.png").write_text("not a picture")
    kinds = {
        "good": lambda i: f'{i},p/{i % 5}.png,"so glad, {i}"\n'.encode(),
        "lost": lambda i: f"{i},p/none.png,i feel sad\n".encode(),
        "cut": lambda i: f"{i},p/cut.png,i feel sad\n".encode(),
        "fake": lambda i: f"{i},p/text.png,\n".encode(),
        "mute": lambda i: f"{i},p/1.png,  \n".encode(),
        "latin": lambda i: f"{i},p/2.png,i feel tr".encode() + b"\xe8s mal\n",
        "latin alone": lambda i: f"{i},,".encode() + b"\xff\n",
        "lines": lambda i: f'{i},p/3.png,"two\nlines ""quoted"""\n'.encode(),
        "long": lambda i: f"{i},p/4.png,one,too many\n".encode(),
        "short": lambda i: f"{i},p/4.png\n".encode(),
        "empty": lambda i: f"{i},,\n".encode(),
        "emoji": lambda i: f"{i},,überglücklich 😀 好\n".encode(),
    }
    names = np.random.default_rng(0).choice(list(kinds), rows)
    path.write_bytes(b"\xef\xbb\xbfid,face,said\n" + b"".join(kinds[name](i) for i, name in enumerate(names)))
    return names


def read(path):
    text = path.read_bytes().decode("utf8", "surrogateescape")
    return list(csv.DictReader(io.StringIO(text, newline="")))


EXPECTED = {
    "good": "", "lost": "no file p/none.png", "cut": "the picture .*cut.png.* cannot be read", "mute": "", "lines": "",
    "fake": "cannot be read.*neither a picture", "latin": r"not UTF-8 \(byte 0xe8 at character 9\)", "emoji": "",
    "latin alone": "not UTF-8 .*neither a picture", "long": "4 cells, wanted 3", "short": "2 cells, wanted 3",
    "empty": "neither a picture nor a text",
}  # fmt: skip
CUES = {
    "good": "both", "lost": "text", "cut": "text", "fake": "", "mute": "image", "latin": "image", "latin alone": "",
    "lines": "both", "long": "both", "short": "image", "empty": "", "emoji": "text",
}  # fmt: skip


def test_every_row_of_a_broken_table_has_a_result_or_a_reason(model, sample_faces, tmp_path, monkeypatch):
    import re

    monkeypatch.setattr(classifier, "CHUNK", 64)
    names = broken_table(tmp_path / "table.csv", sample_faces.pixels, 200)
    found = classifier.predict(model, tmp_path / "table.csv", tmp_path / "out.csv", image_column="face", text_column="said")
    rows = read(tmp_path / "out.csv")
    assert [row["id"] for row in rows] == [str(i) for i in range(200)] and found.total() == 200
    for name, row in zip(names, rows, strict=True):
        assert re.search(EXPECTED[name], row["problem"]) and bool(row["problem"]) == bool(EXPECTED[name]), (name, row)
        seen = [cue for cue in ("image", "text") if row[f"{cue}_emotion"]]
        assert seen == {"both": ["image", "text"], "": []}.get(CUES[name], [CUES[name]]), (name, row)
        assert bool(row["emotion"]) == bool(seen) and bool(row["conflict"]) == (len(seen) == 2)
        if seen:
            probs = [float(row[f"p_{c}"]) for c in SHARED_CLASSES]
            assert sum(probs) == pytest.approx(1, abs=1e-5) and row["emotion"] == SHARED_CLASSES[int(np.argmax(probs))]
    said = {name: row["said"] for name, row in zip(names, rows, strict=True)}
    assert said["long"] == "one,too many" and 'two\nlines "quoted"' in said["lines"] and "\udce8" in said["latin"]
    row = rows[list(names).index("good")]
    one = model(text=row["said"], image=tmp_path / row["face"])
    assert [float(row[f"p_{c}"]) for c in SHARED_CLASSES] == pytest.approx(list(one.posterior.values()), abs=2e-6)
    assert {p.name for p in tmp_path.iterdir()} == {"p", "table.csv", "out.csv"}


def test_a_killed_run_goes_on_and_ends_with_the_same_file(folder, model, sample_faces, tmp_path, monkeypatch):
    broken_table(tmp_path / "table.csv", sample_faces.pixels, 2500)
    arguments = [
        sys.executable, "-m", "emolib", "predict", str(tmp_path / "table.csv"), "--model", str(folder), "--image-column", "face",
        "--text-column", "said", "--out", str(tmp_path / "out.csv"),
    ]  # fmt: skip
    started = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    note = tmp_path / "out.csv.progress"
    while not note.exists() and started.poll() is None:
        time.sleep(0.05)
    os.kill(started.pid, signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL and not (tmp_path / "out.csv").exists()
    with (tmp_path / "out.csv.part").open("ab") as file:
        file.write(b"half a li")  # what a kill in mid-write leaves
    again = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "going on after row" in again.stderr and "2,500 rows" in again.stdout
    classifier.predict(model, tmp_path / "table.csv", tmp_path / "whole.csv", image_column="face", text_column="said")
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    refused = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode != 0 and "is there already" in refused.stderr and "Traceback" not in refused.stderr


def test_a_surplus_cell_keeps_the_tables_own_delimiter(model, tmp_path):
    (tmp_path / "t.csv").write_text("id;said\n1;so glad;at last\n")
    classifier.predict(model, tmp_path / "t.csv", tmp_path / "o.csv", text_column="said", delimiter=";")
    row = next(csv.DictReader(io.StringIO((tmp_path / "o.csv").read_text()), delimiter=";"))
    assert row["said"] == "so glad;at last" and "3 cells, wanted 2" in row["problem"] and row["text_emotion"]


def test_a_run_is_not_continued_with_another_head(model, tmp_path, monkeypatch):
    (tmp_path / "t.csv").write_text("said\n" + "so glad\n" * 4)
    monkeypatch.setattr(classifier, "CHUNK", 2)
    other = {cue: dataclasses.replace(c, temperature=3 * c.temperature) for cue, c in model.calibrations.items()}
    changed = EmotionClassifier(model.encoder, model.heads, other, model.prior)
    with monkeypatch.context() as patch:
        calls = iter([None])
        patch.setattr(classifier.os, "fsync", lambda _: next(calls))  # the second save is where it is killed
        with pytest.raises(StopIteration):
            classifier.predict(model, tmp_path / "t.csv", tmp_path / "o.csv", text_column="said")
    classifier.predict(changed, tmp_path / "t.csv", tmp_path / "o.csv", text_column="said")
    assert len({row["p_joy"] for row in read(tmp_path / "o.csv")}) == 1
    assert model.fingerprint != changed.fingerprint


def test_wrong_columns_are_named(model, tmp_path):
    (tmp_path / "t.csv").write_text("id,said\n1,hello\n")
    with pytest.raises(DataError, match="no column 'face'; its columns are id, said"):
        classifier.predict(model, tmp_path / "t.csv", tmp_path / "o.csv", image_column="face")
    (tmp_path / "t.csv").write_text("emotion,said\n1,hello\n")
    with pytest.raises(DataError, match="a column 'emotion' already"):
        classifier.predict(model, tmp_path / "t.csv", tmp_path / "o.csv", text_column="said")
    (tmp_path / "t.csv").write_text("")
    with pytest.raises(DataError, match="its columns are none"):
        classifier.predict(model, tmp_path / "t.csv", tmp_path / "o.csv", text_column="said")
