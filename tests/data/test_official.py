import gzip
import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from emolib.data import official
from emolib.data.dataset import DataError
from emolib.data.labels import FERPLUS_COLUMNS


def encoded(picture):
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


GOOD = " ".join(["7"] * 2304)


def write_csv(path, rows, head="emotion,pixels,Usage"):
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


def test_all_three_kaggle_formats_read_alike(tmp_path, cache):
    rows = [f"3,{GOOD},Training", f"0,{GOOD},PublicTest", f"6,{GOOD},PrivateTest"]
    plain = write_csv(tmp_path / "fer2013.csv", rows)
    (tmp_path / "fer2013.csv.gz").write_bytes(gzip.compress(plain.read_bytes()))
    spaced = [f"{e}, {u}, {p}" for e, p, u in (row.split(",") for row in rows)]
    write_csv(tmp_path / "icml_face_data.csv", spaced, head="emotion, Usage, pixels")
    for name in ("fer2013.csv", "fer2013.csv.gz", "icml_face_data.csv"):
        data = official.read_pixel_csv(tmp_path / name)
        assert data.labels.tolist() == [3, 0, 6] and data.split.tolist() == ["train", "validation", "test"]
        assert data.images.shape == (3, 48, 48) and (data.images == 7).all()
    assert len(list(cache.iterdir())) == 3
    write_csv(plain, [row.replace("3,", "4,") for row in rows])  # a file of another time is read anew
    assert official.read_pixel_csv(plain).labels.tolist() == [4, 0, 6]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (f"7,{GOOD},Training", "row 1: emotion is '7', wanted 0 to 6"),
        (f"3,{GOOD[:-2]},Training", "row 1: 2303 pixels, wanted 2304"),
        (f"3,{GOOD[:-1]}300,Training", "row 1: a pixel is 300, wanted 0 to 255"),
        (f"3,{GOOD[:-1]}-1,Training", "row 1: a pixel is -1"),
        (f"3,{GOOD[:-1]}x,Training", "row 1: a pixel is 'x', wanted a number"),
        ("3,,Training", "row 1: 0 pixels"),
        (f"3,{GOOD},Train\xe9ng", "row 1: Usage is 'Train.*ng', wanted one of Training, PublicTest, PrivateTest"),
        (f",{GOOD},Training", "row 1: emotion is ''"),
    ],
)
def test_a_bad_row_is_named_and_can_be_left_out(tmp_path, cache, row, message):
    path = tmp_path / "fer2013.csv"
    path.write_bytes(f"emotion,pixels,Usage\n3,{GOOD},Training\n{row}\n0,{GOOD},PublicTest\n".encode("latin1"))
    with pytest.raises(DataError, match=message) as error:
        official.read_pixel_csv(path)
    assert str(path) in str(error.value) and not cache.exists()
    kept = official.read_pixel_csv(path, on_error="skip")
    assert kept.ids.tolist() == [0, 2] and "1 unreadable rows left out" in kept.source


def test_missing_columns_are_named(tmp_path, cache):
    with pytest.raises(DataError, match=r"missing \['Usage'\]"):
        official.read_pixel_csv(write_csv(tmp_path / "fer2013.csv", [f"3,{GOOD}"], head="emotion,pixels"))


def test_votes_join_by_row_and_refuse_another_file(tmp_path, cache):
    path = write_csv(tmp_path / "fer2013.csv", [f"3,{GOOD},Training", f"9,{GOOD},Training", f"0,{GOOD},PublicTest"])
    head = "Usage,Image name," + ",".join(FERPLUS_COLUMNS)
    rows = [f"{usage},fer9.png,{k}" + ",0" * 9 for k, usage in enumerate(["Training", "Training", "PublicTest"])]
    votes = write_csv(tmp_path / "fer2013new.csv", rows, head)
    joined = official.read_pixel_csv(path, votes=votes, on_error="skip")
    assert joined.extras["votes"][:, 0].tolist() == [0, 2]  # the left-out row's votes are left out with it
    for lines, message in (([rows[0], rows[1], rows[1]], "row 2: Usage means train, FER-2013 says validation"),
                           (rows[:1], "1 rows, wanted at least 3")):  # fmt: skip
        write_csv(votes, lines, head)
        with pytest.raises(DataError, match=message):
            official.read_pixel_csv(path, votes=votes, on_error="skip")


def test_the_hub_copy_finds_its_own_class_order(monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (286, 48, 48), dtype=np.uint8)
    monkeypatch.setattr(official, "FER_TRAINING_COUNTS", counts := (39, 7, 40, 72, 48, 31, 49))
    # That copy's order ends in neutral, sad, surprise.
    table = pd.DataFrame({"cls": np.repeat(np.arange(7), [counts[k] for k in (0, 1, 2, 3, 6, 4, 5)])})
    table["jpg"] = [{"bytes": encoded(Image.fromarray(p))} for p in pixels]
    monkeypatch.setattr(official.hub, "tables", lambda source, files: dict.fromkeys(files, table))
    data = official.read_fer_hub()
    assert np.bincount(data.labels[data.split == "test"]).tolist() == list(counts)
    assert "cannot be told apart" in data.source and np.array_equal(data.images[:286], pixels)
    assert data.counts().sum(1).tolist() == [245, 41, 286]
    monkeypatch.setattr(official, "FER_TRAINING_COUNTS", (40, *counts[1:]))
    with pytest.raises(DataError, match="images per class"):
        official.read_fer_hub()


def test_goemotions_keeps_single_shared_labels_and_names_a_bad_row(tmp_path):
    (tmp_path / "labels.txt").write_text("anger\ndisgust\nfear\njoy\nneutral\nsadness\nsurprise")
    for stem in ("train", "dev"):
        (tmp_path / f"{stem}.tsv").write_text("so glad\t3\tid1\n")
    (tmp_path / "test.tsv").write_text("what\u2028a day\t6\tid2\nugh\t1\tid3\nmixed\t0,2\tid4\nno !\t0\tid5\n")
    data = official.read_goemotions(tmp_path)
    assert data.part("test").texts.tolist() == ["what\u2028a day", "no !"]
    assert [data.classes[label] for label in data.labels] == ["joy", "joy", "surprise", "anger"]
    assert "2 of 6 rows" in data.source and data.ids.tolist() == [0, 1, 2, 5]
    (tmp_path / "test.tsv").write_text("fine\t3\tid\nbroken line\n")
    with pytest.raises(DataError, match=r"test\.tsv, row 1: 'broken line', wanted text, label numbers, id"):
        official.read_goemotions(tmp_path)
    (tmp_path / "labels.txt").unlink()
    (tmp_path / "emotions.txt").write_text("\n".join(f"emotion-{i}" for i in range(28)))  # as its authors publish it
    (tmp_path / "test.tsv").write_text("grr\t3\tid\nwow\t26,22\tid\nso so\t27\tid\n")
    data = official.read_goemotions(tmp_path)
    assert [data.classes[label] for label in data.part("test").labels] == ["anger", "surprise"]


def test_msed_reads_alike_from_its_authors_clone_and_from_parquet(tmp_path):
    for split in ("train", "dev", "test"):
        (tmp_path / "clone" / split / "images").mkdir(parents=True)
        (tmp_path / "tables").mkdir(exist_ok=True)
        table = pd.DataFrame({"Title": ["A man.", "Rain"], "Caption": [split, "it rains"], "Emotion": ["sad", "fear"],
                              "Desire": ["none", "family"]})  # fmt: skip
        table.to_csv(tmp_path / "clone" / split / f"{split}.csv", index=False)
        pictures = [f"{split} {number}".encode() for number in (1, 2)]
        for number, picture in enumerate(pictures):
            (tmp_path / "clone" / split / "images" / f"{number + 1}.jpg").write_bytes(picture)
        table.rename(columns=str.lower).assign(image=pictures).to_parquet(tmp_path / "tables" / f"{split}.parquet")
    clone, tables = (official.read_msed(tmp_path / name) for name in ("clone", "tables"))
    assert clone.texts.tolist() == tables.texts.tolist() and clone.texts[0] == "A man. train"
    assert [path.read_bytes() for path in clone.images] == tables.images.tolist()
    assert clone.labels.tolist() == [2, 4] * 3
