import json

import numpy as np
import pandas as pd
import pytest
from conftest import REAL, needs_real_data

from emolib import profiles, texts
from emolib.items import DataError, MissingData
from emolib.labels import TEXT_CLASSES
from emolib.profiles import ROOT

ROWS = [("i feel; oddly enough, fine", "joy"), ("i feel down", "sadness"), ("im scared", "fear")]


def write(folder, suffix, rows=ROWS, stems=("train", "val", "test")):
    folder.mkdir(exist_ok=True)
    table = pd.DataFrame(rows, columns=["text", "label"])
    for stem in stems:
        path = folder / f"{stem}{suffix}"
        if suffix == ".txt":
            path.write_text("".join(f"{text};{label}\n" for text, label in rows))
        elif suffix == ".csv":
            table.to_csv(path, index=False)
        elif suffix == ".jsonl":
            table.to_json(path, orient="records", lines=True)
        else:
            table.to_parquet(path)
    return folder


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("stems", [("train", "val", "test"), ("train", "dev", "test")])
def test_every_format_reads_alike(tmp_path, suffix, stems):
    data = texts.read_folder(write(tmp_path / "set", suffix, stems=stems))
    assert data.texts.tolist() == [text for text, _ in ROWS] * 3
    assert [TEXT_CLASSES[k] for k in data.labels[:3]] == ["joy", "sadness", "fear"]
    assert data.ids.tolist() == list(range(9)) and data.split.tolist()[3] == "validation"


def test_numbers_are_labels_too(tmp_path):
    data = texts.read_folder(write(tmp_path / "set", ".csv", [(t, TEXT_CLASSES.index(c)) for t, c in ROWS]))
    assert [TEXT_CLASSES[k] for k in data.labels[:3]] == ["joy", "sadness", "fear"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"i feel odd;bored", "row 1: label is 'bored', wanted one of sadness, joy"),
        (b"i feel odd;6", "row 1: label is '6'"),
        (b" ;joy", "row 1: the text is empty"),
        (b"i feel odd", "row 1: no semicolon in 'i feel odd'"),
        (b"i f\xe9el;joy", "row 1: byte 0xe9 at column 3 is not UTF-8"),
    ],
)
def test_a_bad_row_is_named_and_can_be_left_out(tmp_path, line, message):
    folder = write(tmp_path / "set", ".txt")
    (folder / "val.txt").write_bytes(b"i feel fine;joy\n" + line + b"\ni feel down;sadness\n")
    with pytest.raises(DataError, match=message) as error:
        texts.read_folder(folder)
    assert "val.txt" in str(error.value)
    kept = texts.read_folder(folder, on_error="skip")
    assert kept.ids.tolist() == [0, 1, 2, 3, 5, 6, 7, 8] and "1 unreadable rows left out" in kept.source


def test_missing_split_column_and_hub(tmp_path, monkeypatch):
    folder = write(tmp_path / "set", ".csv")
    (folder / "test.csv").write_text("sentence,label\nx,joy\n")
    with pytest.raises(DataError, match=r"missing \['text'\]"):
        texts.read_folder(folder)
    (folder / "test.csv").unlink()
    with pytest.raises(MissingData, match=r"test split.*test.txt, test.csv.*dair-ai/emotion"):
        texts.read_folder(folder)
    monkeypatch.setenv("EMOLIB_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setattr(pytest.importorskip("datasets"), "load_dataset", lambda *a, **k: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(MissingData, match=r"cannot be had from the Hub.*EMOLIB_DATA=FOLDER"):
        texts.load(profiles.get("mini"))


def test_hub_rows_keep_their_order(monkeypatch):
    parts = {s: {"text": [f"{s} one", f"{s} two"], "label": [1, 3]} for s in ("train", "validation", "test")}
    monkeypatch.setattr(pytest.importorskip("datasets"), "load_dataset", lambda *a, **k: parts)
    data = texts.read_hub()
    assert data.texts.tolist()[2] == "validation one" and data.labels.tolist() == [1, 3] * 3
    parts["test"]["text"][0] = " "
    with pytest.raises(DataError, match="row 4: the text is empty"):
        texts.read_hub()
    assert len(texts.read_hub(on_error="skip")) == 5


def test_audit_finds_exactly_the_planted_defects(sample_texts):
    planted = json.loads((ROOT / "data" / "sample" / "planted.json").read_text())["texts"]
    group = texts.twins(sample_texts)
    found = [np.flatnonzero(group == g).tolist() for g in np.flatnonzero(np.bincount(group) > 1)]
    assert sorted(found) == sorted(planted["twice"])
    assert all(sample_texts.labels[a] != sample_texts.labels[b] for a, b in found)
    assert len(texts.near_twins(sample_texts)) == 0
    notes, arrays = texts.audit(sample_texts)
    assert notes["feel"] > 0.95
    assert arrays["twin"].sum() == notes["twins"]["train-validation"]["rows"] + notes["twins"]["train-test"]["rows"]


def test_near_twins_by_hand():
    column = np.array(["a b c d", "a b c d e", "d c b a", "a x", "a b c d e f"], dtype=object)
    data = texts.Texts(np.arange(5), np.zeros(5, int), np.array(["train"] * 5), TEXT_CLASSES, "", column)
    # 4/5 and 5/6 are enough, 4/6 is not; "d c b a" has the same words as "a b c d" but is another text
    assert texts.near_twins(data, block=2).tolist() == [[0, 1], [0, 2], [1, 2], [1, 4]]


def test_cleaning_touches_training_only(sample_texts):
    cleaned = texts.clean(sample_texts)
    for split in ("validation", "test"):
        assert cleaned.part(split).ids.tolist() == sample_texts.part(split).ids.tolist()
    held_out = set(cleaned.texts[cleaned.split != "train"])
    assert not held_out & set(cleaned.part("train").texts)
    assert len(sample_texts) - len(cleaned) == texts.audit(sample_texts)[0]["dropped_by_cleaning"] == 7


def test_top_terms_names_the_telling_word():
    column = np.array(["i feel sad"] * 5 + ["i feel glad"] * 5, dtype=object)
    data = texts.Texts(np.arange(10), np.repeat([0, 1], 5), np.array(["train"] * 10), ("sadness", "joy"), "", column)
    assert {c: words[0] for c, words in texts.top_terms(data).items()} == {"sadness": "sad", "joy": "glad"}


@needs_real_data
def test_real_texts_hold_the_known_defects(monkeypatch):
    monkeypatch.setenv("EMOLIB_DATA", str(REAL))
    data = texts.load(profiles.get("mini"))
    assert data.counts().tolist()[2] == [581, 695, 159, 275, 224, 66]
    notes, _ = texts.audit(data)
    twins = notes["twins"]
    assert twins["train"] == {"surplus": 31, "groups": 31, "conflicting_groups": 30}
    for pair, rows in (("train-test", 11), ("train-validation", 5), ("validation-test", 3)):
        assert twins[pair] == {"rows": rows, "conflicting_rows": rows}
    assert abs(notes["feel"] - 0.988) < 0.005


def test_goemotions_keeps_single_shared_labels_and_names_a_bad_row(tmp_path, monkeypatch):
    monkeypatch.setenv("EMOLIB_DATA", str(tmp_path))
    mini = profiles.get("mini")
    with pytest.raises(MissingData, match=r"GoEmotions is not at hand.*EMOLIB_DATA=FOLDER"):
        texts.load_other(mini)
    folder = tmp_path / "goemotions"
    folder.mkdir()
    (folder / "labels.txt").write_text("anger\ndisgust\nfear\njoy\nneutral\nsadness\nsurprise")
    for stem in ("train", "dev"):
        (folder / f"{stem}.tsv").write_text("so glad\t3\tid1\n")
    (folder / "test.tsv").write_text("what\u2028a day\t6\tid2\nugh\t1\tid3\nmixed\t0,2\tid4\nno !\t0\tid5\n")
    found = texts.load_other(mini)
    assert found.part("test").texts.tolist() == ["what\u2028a day", "no !"]
    assert [found.classes[label] for label in found.labels] == ["joy", "joy", "surprise", "anger"]
    assert "2 of 6 rows" in found.source and found.ids.tolist() == [0, 1, 2, 5]
    (folder / "test.tsv").write_text("fine\t3\tid\nbroken line\n")
    with pytest.raises(DataError, match=r"test\.tsv, row 1: 'broken line', wanted text, label numbers, id"):
        texts.load_other(mini)


def test_dropped_words_leave_the_order_and_at_least_one_word(sample_texts):
    some = sample_texts.select(np.arange(200))
    assert np.array_equal(texts.drop_words(some, 0).texts, some.texts)
    half = texts.drop_words(some, 0.5)
    for short, long in zip(half.texts, some.texts, strict=True):
        words = iter(long.split())
        assert short and all(word in words for word in short.split())
    share = sum(len(t.split()) for t in half.texts) / sum(len(t.split()) for t in some.texts)
    assert 0.45 < share < 0.55
    assert all(len(t.split()) == 1 for t in texts.drop_words(some, 1.0).texts)
