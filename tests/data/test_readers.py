import gzip
import json
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from emolib.data import audit, files, readers
from emolib.data.dataset import DataError, MissingData, content
from emolib.data.labels import TEXT_CLASSES

ROWS = [("i feel; oddly enough, fine", "joy"), ("i feel down", "sadness"), ("null", "fear")]


def write(folder, suffix, rows=ROWS, stems=("train", "val", "test")):
    folder.mkdir(exist_ok=True)
    table = pd.DataFrame(rows, columns=["text", "label"])
    for stem in stems:
        path = folder / f"{stem}{suffix}"
        if suffix == ".txt":
            path.write_text("".join(f"{text};{label}\n" for text, label in rows))
        elif suffix in (".csv", ".tsv"):
            table.to_csv(path, index=False, sep="," if suffix == ".csv" else "\t")
        elif suffix == ".jsonl":
            path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
        else:
            table.to_parquet(path)
    return folder


def read(folder, **options):
    return readers.read_table(folder, **{"text": "text", "classes": TEXT_CLASSES} | options)


@pytest.mark.parametrize("suffix", readers.SUFFIXES)
@pytest.mark.parametrize("stems", [("train", "val", "test"), ("train-00000-of-00001", "dev-00000-of-00001-0a1b2c", "test")])
def test_every_format_of_texts_reads_alike(tmp_path, suffix, stems):
    data = read(write(tmp_path / "set", suffix, stems=stems))
    assert data.texts.tolist() == [text for text, _ in ROWS] * 3 and data.images is None
    assert [TEXT_CLASSES[k] for k in data.labels[:3]] == ["joy", "sadness", "fear"]
    assert data.ids.tolist() == list(range(9)) and data.split.tolist()[3] == "validation" and data.source == "set"
    assert read(tmp_path / "set", classes=None).classes == ("fear", "joy", "sadness")


@pytest.mark.parametrize("suffix", readers.SUFFIXES)
def test_numbers_are_labels_too(tmp_path, suffix):
    folder = write(tmp_path / "set", suffix, [(t, TEXT_CLASSES.index(c)) for t, c in ROWS])
    assert [TEXT_CLASSES[k] for k in read(folder).labels[:3]] == ["joy", "sadness", "fear"]
    assert read(folder, classes=None).classes == ("0", "1", "4")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"i feel odd;bored", "line 2: label is 'bored', wanted one of sadness, joy.* or 0 to 5"),
        (b"i feel odd;6", "line 2: label is '6'"),
        (b" ;joy", "line 2: the text is empty, wanted at least one word in text"),
        (b"i feel odd", "line 2: no label beside 'i feel odd'.*text;label"),
        (b"i f\xe9el;joy", "line 2: byte 0xe9 at column 3 is not UTF-8"),
    ],
)
def test_a_bad_line_is_named_and_can_be_left_out(tmp_path, line, message):
    folder = write(tmp_path / "set", ".txt")
    (folder / "val.txt").write_bytes(b"i feel fine;joy\n" + line + b"\ni feel down;sadness\n")
    with pytest.raises(DataError, match=message) as error:
        read(folder)
    assert "val.txt" in str(error.value) and 'on_error="skip"' in str(error.value)
    kept = read(folder, on_error="skip")
    assert kept.ids.tolist() == [0, 1, 2, 3, 5, 6, 7, 8] and "1 unreadable rows left out" in kept.source


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("test.csv", b"text,label\nfine,joy\ni f\xe9el,joy\n", r"test\.csv, line 3: byte 0xe9 at column 3"),
        ("test.csv", b"sentence,label\nx,joy\n", r"test\.csv: columns found \['sentence', 'label'\], missing \['text'\]"),
        ("test.csv", b'text,label\n"x,joy\n', r"test\.csv, line 2: unexpected end of data"),
        ("test.csv", b"", r"test\.csv is empty, wanted a header and rows"),
        ("test.jsonl", b'{"text": "x", "label": "joy"}\n{"text": \n', r"test\.jsonl, line 2: '\{\"text\": ' is no JSON object"),
        ("test.jsonl", b'{"text": "i f\xe9el", "label": "joy"}\n', r"test\.jsonl, line 1: byte 0xe9"),
        ("test.parquet", b"PAR1", r"test\.parquet is no readable \.parquet file"),
    ],
)
def test_a_broken_table_is_named(tmp_path, name, content, message):
    folder = write(tmp_path / "set", ".csv", stems=("train", "val"))
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(folder)


def test_what_is_missing_is_named(tmp_path):
    folder = write(tmp_path / "set", ".csv", stems=("train", "val"))
    with pytest.raises(MissingData, match=r"set has no part test; wanted train, validation \(val"):
        read(folder)
    with pytest.raises(MissingData, match=r"nowhere is no file or folder; .*ID@REVISION"):
        read(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="name a column of pictures or of texts"):
        readers.read_table(folder)


@pytest.fixture
def tables(sample_faces, tmp_path):
    """Three little parts: {split: DataFrame(image bytes, title, caption, label)}."""
    tables = {}
    for i, split in enumerate(("train", "dev", "test")):
        paths = [tmp_path / "made" / f"{split}-{j}.png" for j in range(4)]
        (tmp_path / "made").mkdir(exist_ok=True)
        for path, pixels in zip(paths, sample_faces.images[10 * i :], strict=False):
            Image.fromarray(pixels).save(path)
        tables[split] = pd.DataFrame({
            "image": [path.read_bytes() for path in paths], "title": ["one.", "two", "", "four"],
            "caption": [f"{split} seen {j}" for j in range(4)], "label": ["calm", "glad", "calm", "glad"],
        })  # fmt: skip
    return tables


BOTH = {"image": "image", "text": ("title", "caption")}


def test_pairs_are_read_from_parquet_csv_and_folders_alike(tables, tmp_path):
    for split, table in tables.items():
        folder = tmp_path / "folders" / {"dev": "validation"}.get(split, split)
        for made in (tmp_path / "parquet", tmp_path / "csv", folder):
            made.mkdir(parents=True, exist_ok=True)
        table.to_parquet(tmp_path / "parquet" / f"{split}.parquet")
        paths = [f"../made/{split}-{j}.png" for j in range(4)]
        table.assign(image=paths, file_name="other").to_csv(tmp_path / "csv" / f"{split}.csv", index=False)
        for j in range(4):
            (folder / f"{j}.png").write_bytes(table.image[j])
        table.drop(columns="image").assign(file_name=[f"{j}.png" for j in range(4)]).to_csv(folder / "metadata.csv", index=False)
    for kind in ("parquet", "csv", "folders"):
        data = readers.read_table(tmp_path / kind, **BOTH, extras=("caption",))
        assert data.classes == ("calm", "glad") and data.labels.tolist() == [0, 1, 0, 1] * 3
        assert data.split.tolist() == ["train"] * 4 + ["validation"] * 4 + ["test"] * 4
        assert data.texts[0] == "one. train seen 0" and data.texts[2] == "train seen 2"
        assert data.extras["caption"].tolist() == [c for t in tables.values() for c in t.caption]
        assert [content(picture) for picture in data.images] == [b for t in tables.values() for b in t.image]
    assert readers.read_table(tmp_path / "csv", image="image").modalities == ("image",)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("label", "grim", "row 2: label is 'grim', wanted one of calm, glad"),
        ("label", None, "row 2: no label beside"),
        ("caption", " ", "row 2: the text is empty, wanted at least one word in title or caption"),
        ("image", None, "row 2: the picture is None, wanted encoded bytes or the path of a file"),
        ("image", "nowhere.png", "row 2: the picture is 'nowhere.png'"),
    ],
)
def test_a_bad_pair_is_named_or_counted(tables, tmp_path, column, value, message):
    tables["train"] = tables["train"].astype(object)
    tables["train"].at[2, column] = value
    if value == "nowhere.png":
        tables["train"]["image"] = [f"made/train-{j}.png" if j != 2 else value for j in range(4)]
    for split, table in tables.items():
        table.to_parquet(tmp_path / f"{split}.parquet")
    with pytest.raises(DataError, match=message):
        readers.read_table(tmp_path, **BOTH, classes=("calm", "glad"))
    kept = readers.read_table(tmp_path, **BOTH, classes=("calm", "glad"), on_error="skip")
    assert kept.ids.tolist() == [0, 1, *range(3, 12)] and "1 unreadable rows left out" in kept.source


def test_a_hub_set_is_read_at_its_revision(tables, monkeypatch):
    import datasets

    features = datasets.Features(
        image=datasets.Image(), title=datasets.Value("string"), caption=datasets.Value("string"),
        label=datasets.ClassLabel(names=["glad", "calm"]),
    )  # fmt: skip
    made = datasets.DatasetDict({
        split: datasets.Dataset.from_dict({**table.to_dict("list"), "image": [{"bytes": b} for b in table.image]}, features)
        for split, table in zip(("train", "validation", "test"), tables.values(), strict=True)
    })  # fmt: skip
    monkeypatch.setattr(datasets, "load_dataset", asked := Mock(return_value=made))
    data = readers.read_table("someone/pairs:small@abc", **BOTH)
    asked.assert_called_once_with("someone/pairs", "small", revision="abc")
    assert data.classes == ("calm", "glad")
    assert data.images[0] == tables["train"].image[0] and data.labels.tolist() == [0, 1, 0, 1] * 3
    made["test"] = made["test"].map(lambda row, i: {"label": -1 if i == 1 else row["label"]}, with_indices=True)
    with pytest.raises(DataError, match="someone/pairs@abc, test, row 1: no label"):  # -1: not labelled
        readers.read_table("someone/pairs@abc", **BOTH)


def test_the_hub_out_of_reach_says_what_to_do(monkeypatch):
    monkeypatch.setattr("datasets.load_dataset", Mock(side_effect=ConnectionError("offline")))
    with pytest.raises(MissingData, match=r"someone/texts cannot be had from the Hub.*offline.*folder of a copy"):
        readers.read_table("someone/texts@abc", text="text")


def folders(root, size=(48, 48), count=12, mode="L"):
    for split in ("train", "test"):
        for label, name in enumerate(("cat", "dog", "eel")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                colour = label * 30 + i if mode == "L" else (label * 30 + i, 0, 0)
                Image.new(mode, size, colour).save(root / split / name / f"{i:02}.png")
    return root


@pytest.mark.parametrize(("mode", "shape"), [("L", (24, 48)), ("RGB", (24, 48, 3))])
def test_class_folders_of_small_pictures_become_one_array(tmp_path, mode, shape):
    (folders(tmp_path, (48, 24), mode=mode) / "train" / "cat" / ".hidden").touch()
    data = readers.read_class_folders(tmp_path)
    assert data.classes == ("cat", "dog", "eel") and "1 files that are no pictures of a class skipped" in data.source
    assert "validation drawn from Training (a seventh each, duplicates together)" in data.source
    assert data.counts().sum(1).tolist() == [30, 6, 36] and data.images.shape == (72, *shape)
    assert (data.images.reshape(72, -1)[:, 0] // 30 == data.labels).all()
    assert np.array_equal(data.split, readers.read_class_folders(tmp_path).split)


def test_large_or_unequal_pictures_stay_paths_and_a_validation_folder_is_kept(tmp_path):
    folders(tmp_path / "large", (100, 20), count=7)
    folders(tmp_path / "mixed", count=2)
    (tmp_path / "mixed" / "test").rename(tmp_path / "mixed" / "dev")
    folders(tmp_path / "mixed" / "more", (20, 20), count=1)
    (tmp_path / "mixed" / "more" / "test").rename(tmp_path / "mixed" / "test")
    large, mixed = (readers.read_class_folders(tmp_path / name) for name in ("large", "mixed"))
    assert large.images[0].name == "00.png" and mixed.images.dtype == object
    assert mixed.counts().sum(1).tolist() == [9, 6, 3] and "drawn" not in mixed.source


def test_a_broken_picture_or_an_unknown_folder_is_named(tmp_path):
    folders(tmp_path, count=2)
    (tmp_path / "train" / "dog" / "00.png").write_bytes(b"no picture")
    (tmp_path / "test" / "eel").rename(tmp_path / "test" / "fish")
    with pytest.raises(DataError, match=r"dog/00.png: the picture cannot be read.*and 2 more"):
        readers.read_class_folders(tmp_path)
    (tmp_path / "test").rename(tmp_path / "val")
    folders(tmp_path / "more", count=1)
    (tmp_path / "more" / "test").rename(tmp_path / "test")
    kept = readers.read_class_folders(tmp_path, on_error="skip")
    assert "3 unreadable rows left out" in kept.source and kept.images.shape == (15, 48, 48)
    with pytest.raises(DataError, match=r"fish/00.png: label is 'fish', wanted one of cat, dog, eel"):
        (tmp_path / "train" / "dog" / "00.png").unlink()
        readers.read_class_folders(tmp_path)
    with pytest.raises(MissingData, match=r"no picture in test/<class>/ and none in train/<class>/, or in <class>/"):
        readers.read_class_folders(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('id,text\n1,"we are happy\n2,i am sad\n3,x\n', "line 2: unexpected end of data"),
        ('id,text\n1,"we are happy\n2,i am sad"\n3,x\n', "line 2: a quote opens a cell that takes in whole rows, up to line 3"),
        ('id,text\n1,"we are happy\n2,"i am sad\n', "line 2: .*expected after"),
        ("id,text\n1,happy, really\n", r"line 2: 3 cells, wanted 2 as in the header; put a cell that holds ','"),
        ("id,text\n1\n", "line 2: 1 cells, wanted 2"),
        ("id,text\n1,so\rso\n", "line 2: new-line character seen in unquoted field"),
        ("id,text,text\n1,a,b\n", "the column 'text' is there twice"),
        ("\n\n", "is empty, wanted a header and rows"),
    ],
)
def test_each_row_of_a_file_is_a_row_or_the_file_is_refused_with_the_line(tmp_path, rows, message):
    (tmp_path / "a.csv").write_text(rows, newline="")
    with pytest.raises(DataError, match=rf"a\.csv.*{message}"):
        files.read_file(tmp_path / "a.csv")


def test_tables_in_every_wrapping_read_alike(tmp_path):
    rows = 'id,text\n1,"we are, in\na word, ""happy"" today"\n\n2,null\n'
    wanted = [["1", 'we are, in\na word, "happy" today'], ["2", "null"]]
    wrapped = {
        "plain.csv": rows.encode(), "packed.csv.gz": gzip.compress(rows.encode()), "bom.csv": rows.encode("utf-8-sig"),
        "wide.csv": rows.encode("utf-16"), "dos.CSV": rows.replace("\n", "\r\n").encode(),
        "semicolon.csv": rows.replace("1,", "1;").replace("2,", "2;").replace("id,", "id;").encode(),
        "tab.tsv": rows.replace("1,", "1\t").replace("2,", "2\t").replace("id,", "id\t").encode(),
    }  # fmt: skip
    for name, raw in wrapped.items():
        (tmp_path / name).write_bytes(raw)
        table = files.read_file(tmp_path / name, "semicolon" if name == "semicolon.csv" else None)
        assert table.map(lambda cell: cell.replace("\r", "")).to_numpy().tolist() == wanted and table.index.tolist() == [2, 5], (
            name
        )
    (tmp_path / "mac.csv").write_bytes(b"id,text\r1,so\r2,la\r")
    assert files.read_file(tmp_path / "mac.csv").text.tolist() == ["so", "la"]
    for name, raw in (("cut.csv.gz", gzip.compress(rows.encode())[:-9]), ("no.csv.gz", rows.encode()), ("no.jsonl", b"7\n")):
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(DataError, match=rf"{name}.* no (readable|JSON)"):
            files.read_file(tmp_path / name)
    for wrong in ("", "xy", '"', "\n"):
        with pytest.raises(ValueError, match="wanted one character or one of tab"):
            files.read_file(tmp_path / "plain.csv", wrong)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet", ".csv.gz"])
def test_one_file_with_a_column_of_splits_or_without(tmp_path, suffix):
    table = pd.DataFrame({"text": [f"text {i} of {i % 2}" for i in range(40)], "label": [f"{i % 2}" for i in range(40)]})
    table["Usage"] = ["Training", "PublicTest", "PrivateTest", "train"] * 10

    def written(some):
        path = tmp_path / f"all{suffix}"
        if suffix == ".parquet":
            some.to_parquet(path)
        elif suffix == ".jsonl":
            some.to_json(path, orient="records", lines=True)
        else:
            some.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
        return path

    known = readers.read(written(table), text="text")
    assert known.split.tolist() == ["train", "validation", "test", "train"] * 10 and known.ids.tolist() == list(range(40))
    assert known.classes == ("0", "1") and "drawn" not in known.source
    drawn = readers.read(written(table.drop(columns="Usage")), text="text", renamed={"0": "calm", "1": "glad"})
    assert drawn.classes == ("calm", "glad") and drawn.counts().sum(1).tolist() == [28, 6, 6] and drawn.counts().min() == 3
    assert "validation and test drawn from Training" in drawn.source and drawn.texts.tolist() == table.text.tolist()
    assert readers.read(tmp_path, text="text").fingerprint == readers.read(tmp_path / f"all{suffix}", text="text").fingerprint
    bad = table.assign(Usage=["Training", "holiday"] * 20)
    for options in ({}, {"split": "Usage"}):
        with pytest.raises(DataError, match="the split is 'holiday', wanted train, validation, test"):
            readers.read(written(bad), text="text", **options)
    with pytest.raises(DataError, match="missing the split's, 'part'"):
        readers.read(written(bad), text="text", split="part")


def test_drawn_splits_keep_duplicates_together_and_classes_alike(sample_faces):
    some, half = sample_faces.part("train").select(slice(140)), np.arange(140) // 2
    twins = replace(some, images=some.images[half], labels=half % 3, classes=("a", "b", "c"))
    drawn = audit.draw_splits(twins)
    assert all(len(set(drawn.split[2 * i : 2 * i + 2])) == 1 for i in range(70))
    assert not audit.leaks(drawn).any() and np.array_equal(drawn.split, audit.draw_splits(twins).split)
    counts = drawn.counts()
    assert (counts.sum(0) == np.bincount(twins.labels)).all() and counts[1:].sum() == pytest.approx(40, abs=8)
    assert audit.draw_splits(drawn) is drawn


@pytest.mark.parametrize("above", ["train/{}", "Training/{}", "images/train/{}", "{}"])
def test_class_folders_wherever_they_lie_and_however_they_are_called(tmp_path, above, sample_faces):
    for i, name in enumerate(("Angry", "3_happy", "sadness")):
        folder = tmp_path / above.format(name)
        folder.mkdir(parents=True)
        for j in range(8):
            Image.fromarray(sample_faces.images[8 * i + j]).save(folder / f"{j}.png")
        (folder / "Thumbs.db").touch()
    (tmp_path / ".DS_Store").touch()
    Image.new("L", (9, 9)).save(tmp_path / "cover.png")
    data = readers.read(tmp_path, classes=("angry", "happy", "sad", "neutral")[:3])
    assert np.bincount(data.labels).tolist() == [8] * 3 and "5 files that are no pictures of a class skipped" in data.source
    assert readers.read(tmp_path, renamed={"3_HAPPY": "happy"}).classes == ("Angry", "happy", "sadness")
    with pytest.raises(DataError, match="renamed has 'joy', wanted a label that is there: 3_happy, angry, sadness"):
        readers.read(tmp_path, renamed={"joy": "happy"})


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path, sample_faces):
    for i, name in enumerate(["set/calm", "elsewhere"] * 8):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(sample_faces.images[i]).save(tmp_path / name / f"{i}.png")
    (tmp_path / "set" / "glad").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "again").symlink_to(tmp_path / "set")
    data = readers.read(tmp_path / "set", draw=("validation", "test"))
    assert data.classes == ("calm", "glad") and data.counts().sum(0).tolist() == [8, 8]
    (tmp_path / "set" / "again").symlink_to(tmp_path / "set" / "calm")  # hides nothing
    assert {path.parent.name for path in files.walk(tmp_path / "set")} == {"again", "calm", "glad"}


def test_a_damaged_photograph_is_known_by_its_row_and_what_is_left_out_is_listed(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for i in range(20):
        Image.fromarray(rng.integers(0, 255, (120, 160, 3), np.uint8)).save(tmp_path / f"{i}.jpg")
    (tmp_path / "3.jpg").write_bytes((tmp_path / "3.jpg").read_bytes()[:-2000])
    table = pd.DataFrame({"file": [f"{i}.jpg" for i in range(20)], "mood": ["calm", "glad"] * 10})
    table.to_csv(tmp_path / "t.csv", index=False, sep=";")  # as spreadsheets write it in many languages
    with pytest.raises(DataError, match=r"t\.csv, line 5: the picture \(.*3\.jpg\) cannot be read: OSError"):
        readers.read(tmp_path / "t.csv", image="file", label="mood")
    table.assign(file=table.file.replace("4.jpg", "four.jpg")).to_csv(tmp_path / "t.csv", index=False)
    data = readers.read(tmp_path / "t.csv", image="file", label="mood", on_error="skip")
    said = capsys.readouterr().err
    assert len(data) == 18 and "2 unreadable rows left out" in data.source
    assert "line 6: the picture is 'four.jpg', wanted encoded bytes or the path of a file in " + str(tmp_path) in said
    assert said.count("left out: ") == 2


def test_parquet_of_other_makers_and_numbers_with_gaps(tmp_path):
    table = pd.DataFrame({"text": [f"text {i}" for i in range(18)], "label": ["joy", "sad"] * 9}, dtype="string")
    table.loc[0, "label"] = pd.NA
    table.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="row 0: no label beside 'text 0', wanted one of joy, sad"):
        readers.read(tmp_path / "t.parquet", text="text")
    data = table[1:].map(lambda cell: cell.encode())
    data.to_parquet(tmp_path / "t.parquet")
    found = readers.read(tmp_path / "t.parquet", text="text")
    assert found.classes == ("joy", "sad") and found.texts[0] == "text 1"
    for name, numbers in (("train", (1.0, None, 2.0, 10.0)), ("val", (1, 2, 10)), ("test", (2, 1, 10))):
        rows = pd.DataFrame({"text": [f"{name} {i}" for i in range(len(numbers))], "label": numbers})
        (tmp_path / "gaps").mkdir(exist_ok=True)
        rows.to_csv(tmp_path / "gaps" / f"{name}.csv", index=False)
    found = readers.read(tmp_path / "gaps", text="text", on_error="skip")
    assert found.classes == ("1", "2", "10") and found.labels.tolist() == [0, 1, 2, 0, 1, 2, 1, 0, 2]


def test_a_folder_of_a_split_says_more_than_a_files_name(tmp_path, sample_faces):
    for i, name in enumerate(
        ("train/a/test_1.png", "train/b/x.png", "val/a/y.png", "val/b/z.png", "test/a/train_2.png", "test/b/w.png")
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sample_faces.images[i]).save(tmp_path / name)
    assert readers.read(tmp_path).counts().tolist() == [[1, 1]] * 3


def test_the_official_split_in_a_files_name_is_kept(tmp_path, sample_faces):
    for i, split in enumerate(("Training", "PublicTest", "PrivateTest") * 4):
        (tmp_path / str(i % 2)).mkdir(exist_ok=True)
        Image.fromarray(sample_faces.images[i]).save(tmp_path / str(i % 2) / f"{split}_{i}.jpg")
    data = readers.read(tmp_path)
    assert data.counts().sum(1).tolist() == [4, 4, 4] and data.classes == ("0", "1") and "drawn" not in data.source
