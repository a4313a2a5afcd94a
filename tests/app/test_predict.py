"""Tables of any kind lose no row, and a killed run ends with the same file."""

import csv
import dataclasses
import io
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from emolib import EmotionClassifier, profiles
from emolib.app import predict
from emolib.app.steps import OWN
from emolib.data import files, prompts
from emolib.data.dataset import DataError
from emolib.data.labels import FACE_CLASSES, SHARED_CLASSES, TEXT_CLASSES
from emolib.models import encoder, heads
from emolib.profiles import ROOT


@pytest.fixture(scope="module")
def model():
    clip = encoder.load(profiles.get("sample").clip, "float32")
    made = {"image": heads.zero_shot(clip, prompts.FACES["single"]), "text": heads.zero_shot(clip, prompts.TEXTS["single"])}
    return EmotionClassifier(clip, made, OWN, classes=SHARED_CLASSES)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    where = tmp_path_factory.mktemp("model")
    model.save_pretrained(where, "# a test\n")
    return where


def broken_table(path, faces, rows):
    """A csv file with every defect that people's tables have; returns the kind of each row."""
    folder = path.parent / "p"
    folder.mkdir()
    for i in range(5):
        Image.fromarray(faces[i]).save(folder / f"{i}.png")
    whole = (folder / "0.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("not a picture")
    names = np.random.default_rng(0).choice(list(KINDS), rows)
    path.write_bytes(b"\xef\xbb\xbfid,face,said\n" + b"".join(KINDS[name][0](i) for i, name in enumerate(names)))
    return names


# What a row looks like, which modalities answer, and what the column `problem` says.
KINDS = {
    "good": (lambda i: f'{i},p/{i % 5}.png,"so glad, {i}"\n'.encode(), ["image", "text"], ""),
    "lost": (lambda i: f"{i},p/none.png,i feel sad\n".encode(), ["text"], "the picture is 'p/none.png', wanted"),
    "cut": (lambda i: f"{i},p/cut.png,i feel sad\n".encode(), ["text"], "the picture .*cut.png.* cannot be read"),
    "fake": (lambda i: f"{i},p/text.png,\n".encode(), [], "cannot be read.*neither a picture"),
    "mute": (lambda i: f"{i},p/1.png,  \n".encode(), ["image"], ""),
    "latin": (lambda i: f"{i},p/2.png,i feel tr".encode() + b"\xe8s mal\n", ["image"], "byte 0xe8 at column 9 is not UTF-8"),
    "latin alone": (lambda i: f"{i},,".encode() + b"\xff\n", [], "not UTF-8.*neither a picture"),
    "lines": (lambda i: f'{i},p/3.png,"two\nlines ""quoted"""\n'.encode(), ["image", "text"], ""),
    "long": (lambda i: f"{i},p/4.png,one,too many\n".encode(), ["image", "text"], "4 cells, wanted 3"),
    "short": (lambda i: f"{i},p/4.png\n".encode(), ["image"], "2 cells, wanted 3"),
    "empty": (lambda i: f"{i},,\n".encode(), [], "neither a picture nor a text"),
    "emoji": (lambda i: f"{i},,überglücklich 😀 好\n".encode(), ["text"], ""),
}


def read(path):
    return list(csv.DictReader(io.StringIO(path.read_bytes().decode("utf8", "surrogateescape"), newline="")))


def numbers(row, prefix, classes):
    return [float(row[f"{prefix}{c}"]) for c in classes]


def test_every_row_of_a_broken_table_has_a_result_or_a_reason(model, sample_faces, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "CHUNK", 64)
    names = broken_table(tmp_path / "table.csv", sample_faces.images, 200)
    found = predict.predict(model, tmp_path / "table.csv", tmp_path / "out.csv", image_column="face", text_column="said")
    rows = read(tmp_path / "out.csv")
    assert [row["id"] for row in rows] == [str(i) for i in range(200)] and found.total() == 200
    assert list(rows[0]) == ["id", "face", "said", *predict.columns(model)]
    for name, row in zip(names, rows, strict=True):
        _, there, problem = KINDS[name]
        assert re.search(problem, row["problem"]) and bool(row["problem"]) == bool(problem), (name, row)
        assert [m for m in OWN if row[f"{m}_emotion"]] == there and bool(row["emotion"]) == bool(there), (name, row)
        assert bool(row["conflict"]) == bool(row["p_joy"]) == (len(there) == 2), (name, row)
        for m in there:
            assert row[f"{m}_emotion"] == OWN[m][int(np.argmax(numbers(row, f"{m}_p_", OWN[m])))]
        answer = numbers(row, "p_", SHARED_CLASSES) if len(there) == 2 else None
        wanted = SHARED_CLASSES[int(np.argmax(answer))] if answer else row[f"{there[0]}_emotion"] if there else ""
        assert row["emotion"] == wanted
    said = {name: row["said"] for name, row in zip(names, rows, strict=True)}
    assert said["long"] == "one,too many" and 'two\nlines "quoted"' in said["lines"] and "\udce8" in said["latin"]
    row = rows[list(names).index("good")]
    one = model(text=row["said"], image=tmp_path / row["face"])
    assert numbers(row, "p_", SHARED_CLASSES) == pytest.approx(list(one.posterior.values()), abs=2e-6)
    assert numbers(row, "text_p_", TEXT_CLASSES) == pytest.approx(list(one.text.values()), abs=2e-6)
    assert found["both modalities, with a problem"] == (names == "long").sum() and found["no result"] > 0
    assert {p.name for p in tmp_path.iterdir()} == {"p", "table.csv", "out.csv"}


def test_a_killed_run_goes_on_and_ends_with_the_same_file(folder, model, sample_faces, tmp_path):
    broken_table(tmp_path / "table.csv", sample_faces.images, 2500)
    command = [sys.executable, "-m", "emolib", "predict", str(tmp_path / "table.csv"), "--model", str(folder)]
    command += ["--image-column", "face", "--text-column", "said", "--out", str(tmp_path / "out.csv")]
    started = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (first := list(tmp_path.glob("out.csv.*.parts/0.json"))) and started.poll() is None:
        time.sleep(0.05)
    os.kill(started.pid, signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL and not (tmp_path / "out.csv").exists()
    (first[0].parent / "1.json").write_text('{"key": "half a fi')  # what a disk that breaks leaves
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.search(r"[1-4] of 5 chunks of 512 rows were there already", again.stderr) and "2,500 rows" in again.stdout
    predict.predict(model, tmp_path / "table.csv", tmp_path / "whole.csv", image_column="face", text_column="said")
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode != 0 and "is there already" in refused.stderr and "Traceback" not in refused.stderr


def test_a_surplus_cell_keeps_the_tables_own_delimiter(model, tmp_path):
    (tmp_path / "t.csv").write_text("id;said\n1;so glad;at last\n")
    predict.predict(model, tmp_path / "t.csv", tmp_path / "o.csv", text_column="said")
    row = next(csv.DictReader(io.StringIO((tmp_path / "o.csv").read_text()), delimiter=";"))
    assert row["said"] == "so glad;at last" and "3 cells, wanted 2" in row["problem"] and row["text_emotion"]


def test_a_lone_carriage_return_ends_no_row(model, tmp_path):
    (tmp_path / "t.csv").write_bytes(b'said\n"so\rglad"\nfine\n')
    predict.predict(model, tmp_path / "t.csv", tmp_path / "o.csv", text_column="said")
    assert [row["said"] for row in read(tmp_path / "o.csv")] == ["so\rglad", "fine"]
    assert [cells[0] for _, cells in files.csv_rows(tmp_path / "o.csv")] == ["said", "so\rglad", "fine"]


def test_texts_of_parquet_that_are_bytes_are_texts(model, tmp_path):
    pd.DataFrame({"said": [b"so glad", b"\xff\xd8"], "face": [b"P5 1 1 9\n0"] * 2}).to_parquet(tmp_path / "t.parquet")
    predict.predict(model, tmp_path / "t.parquet", tmp_path / "o.csv", image_column="face", text_column="said")
    first, second = read(tmp_path / "o.csv")
    assert first["face"] == "10 bytes"
    assert (
        first["said"] == "so glad" and first["text_emotion"] and second["said"] == "2 bytes" and "not UTF-8" in second["problem"]
    )


def test_crops_that_hold_different_values_are_different(model, tmp_path):
    def by(margin):
        return lambda picture: picture.crop((margin, margin, 40, 40))

    class Detector:
        def largest(self, picture):
            return picture

    table, keys = predict.Table.open(tmp_path), []
    for crop in (by(4), by(8), None, Detector().largest, Detector().largest):
        cropping = EmotionClassifier(model.encoder, model.heads, OWN, classes=SHARED_CLASSES, crop=crop)
        keys.append(predict.key_of(table, {"image": 0}, cropping))
    assert len(set(keys)) == 4 and keys[3] == keys[4], "where it lies in memory says nothing"


def test_a_classifier_of_one_modality_adds_its_own_classes(model, sample_faces, tmp_path):
    alone = EmotionClassifier(model.encoder, {"image": model.heads["image"]}, OWN)
    Image.fromarray(sample_faces.images[0]).save(tmp_path / "0.png")
    (tmp_path / "t.csv").write_text("face\n0.png\nnone.png\n")
    found = predict.predict(alone, tmp_path / "t.csv", tmp_path / "o.csv", image_column="face")
    first, second = read(tmp_path / "o.csv")
    assert list(first) == ["face", "emotion", *(f"p_{c}" for c in FACE_CLASSES), "problem"]
    assert numbers(first, "p_", FACE_CLASSES) == pytest.approx(list(alone(image=tmp_path / "0.png").posterior.values()), abs=2e-6)
    assert second["emotion"] == second["p_sad"] == "" and found == {"image only": 1, "no result": 1}


def test_a_run_is_not_continued_with_another_head(model, tmp_path, monkeypatch):
    (tmp_path / "t.csv").write_text("said\n" + "so glad\n" * 4)
    monkeypatch.setattr(predict, "CHUNK", 2)
    other = {m: dataclasses.replace(h, weight=h.weight / 3) for m, h in model.heads.items()}
    changed = EmotionClassifier(model.encoder, other, OWN, classes=SHARED_CLASSES)
    with monkeypatch.context() as patch:
        kept, calls = predict.store.write_text, iter([None])
        patch.setattr(predict.store, "write_text", lambda *given: (next(calls), kept(*given)))  # killed at the second save
        with pytest.raises(StopIteration):
            predict.predict(model, tmp_path / "t.csv", tmp_path / "o.csv", text_column="said")
    assert [p.name for p in tmp_path.glob("o.csv.*.parts/*")] == ["0.json"]
    predict.predict(changed, tmp_path / "t.csv", tmp_path / "o.csv", text_column="said")
    assert len({row["text_p_joy"] for row in read(tmp_path / "o.csv")}) == 1 and model.fingerprint != changed.fingerprint


def test_wrong_columns_are_named(model, tmp_path):
    for text, column, message in (
        ("id,said\n1,hello\n", "face", "no column 'face'; its columns are id, said"),
        ("emotion,said\n1,hello\n", "said", "a column 'emotion' already"),
        ("", "said", "t.csv is empty, wanted a header and rows"),
        ('id,said\n1,"hello\n2,you"\n', "said", "line 2: a quote opens a cell that takes in whole rows"),
        ("id,said,said\n1,a,b\n", "said", "the column 'said' is there twice"),
    ):
        (tmp_path / "t.csv").write_text(text)
        with pytest.raises(DataError, match=message):
            predict.predict(model, tmp_path / "t.csv", tmp_path / "o.csv", text_column=column)


def test_two_processes_write_what_one_does(folder, model, sample_faces, tmp_path):
    """And what is left when one of them is killed is taken up."""
    broken_table(tmp_path / "table.csv", sample_faces.images, 1700)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    command += [
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--num_cpu_threads_per_process",
        "1",
        "--main_process_port",
        "0",
    ]
    command += ["-m", "emolib", "predict", str(tmp_path / "table.csv"), "--model", str(folder), "--image-column", "face"]
    command += ["--text-column", "said", "--out", str(tmp_path / "out.csv")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("1,700 rows") == 1
    predict.predict(model, tmp_path / "table.csv", tmp_path / "whole.csv", image_column="face", text_column="said")
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert not list(tmp_path.glob("*.parts"))


def test_parquet_tables_and_folders_of_pictures(model, sample_faces, tmp_path):
    (tmp_path / "p" / "q").mkdir(parents=True)
    for i, name in enumerate(("0.png", "1.jpg", "q/2.png")):
        Image.fromarray(sample_faces.images[i]).save(tmp_path / "p" / name)
    (tmp_path / "p" / "note.txt").write_text("no picture")
    (tmp_path / "p" / "._0.png").write_bytes(b"what a Macintosh leaves behind")
    (tmp_path / "p" / "3.png").write_bytes(b"broken")
    found = predict.predict(model, tmp_path / "p", tmp_path / "folder.csv")
    rows = read(tmp_path / "folder.csv")
    assert [row["path"] for row in rows] == ["0.png", "1.jpg", "3.png", "q/2.png"] and found == {"image only": 3, "no result": 1}
    encoded = [(tmp_path / "p" / name).read_bytes() for name in ("0.png", "q/2.png")]
    table = pd.DataFrame(
        {"n": [1, 2, 3], "said": ["so glad", None, "sad"], "face": [*({"bytes": b, "path": None} for b in encoded), None]}
    )
    table.to_parquet(tmp_path / "t.parquet")
    predict.predict(model, tmp_path / "t.parquet", tmp_path / "o.csv", image_column="face", text_column="said")
    first, second, third = read(tmp_path / "o.csv")
    assert first["n"] == "1" and first["face"].endswith(" bytes") and first["image_emotion"] == rows[0]["image_emotion"]
    assert second["said"] == "" and second["text_emotion"] == "" and second["image_p_sad"] == rows[3]["image_p_sad"]
    assert third["image_emotion"] == "" and third["text_emotion"] and not any(row["problem"] for row in (first, second, third))
