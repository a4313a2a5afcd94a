import gzip
import json
import time
from dataclasses import replace

import numpy as np
import pytest
from conftest import REAL, needs_real_data
from PIL import Image

from emolib import faces, profiles
from emolib.items import DataError, MissingData
from emolib.labels import FACE_CLASSES, FERPLUS_COLUMNS
from emolib.profiles import ROOT

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
    for name in faces.CSV_NAMES:
        read = faces.read_csv(tmp_path / name)
        assert read.labels.tolist() == [3, 0, 6]
        assert read.split.tolist() == ["train", "validation", "test"]
        assert read.pixels.shape == (3, 48, 48) and (read.pixels == 7).all()
    assert len(list(cache.iterdir())) == 3


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (f"7,{GOOD},Training", "row 1: emotion is '7', wanted 0 to 6"),
        (f"3,{GOOD[:-2]},Training", "row 1: 2303 pixels, wanted 2304"),
        (f"3,{GOOD[:-1]}300,Training", "row 1: a pixel is 300, wanted 0 to 255"),
        (f"3,{GOOD[:-1]}-1,Training", "row 1: a pixel is -1"),
        (f"3,{GOOD[:-1]}x,Training", "row 1: a pixel is 'x', wanted a number"),
        ("3,,Training", "row 1: 0 pixels"),
        (f"3,{GOOD},Train", "row 1: Usage is 'Train', wanted one of Training, PublicTest, PrivateTest"),
        (f",{GOOD},Training", "row 1: emotion is ''"),
    ],
)
def test_a_bad_row_is_named_and_can_be_left_out(tmp_path, cache, row, message):
    path = write_csv(tmp_path / "fer2013.csv", [f"3,{GOOD},Training", row, f"0,{GOOD},PublicTest"])
    with pytest.raises(DataError, match=message) as error:
        faces.read_csv(path)
    assert str(path) in str(error.value)
    assert not cache.exists()
    kept = faces.read_csv(path, on_error="skip")
    assert kept.ids.tolist() == [0, 2] and "1 unreadable rows left out" in kept.source


def test_broken_utf8_is_named(tmp_path, cache):
    path = tmp_path / "fer2013.csv"
    path.write_bytes(f"emotion,pixels,Usage\n3,{GOOD},Train\xe9ng\n".encode("latin1"))
    with pytest.raises(DataError, match="row 0: Usage is"):
        faces.read_csv(path)


def test_missing_columns_and_missing_files(tmp_path, cache, monkeypatch):
    with pytest.raises(DataError, match=r"missing \['Usage'\]"):
        faces.read_csv(write_csv(tmp_path / "fer2013.csv", [f"3,{GOOD}"], head="emotion,pixels"))
    monkeypatch.setenv("EMOLIB_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(MissingData, match=r"nowhere/fer2013.*Kaggle.*EMOLIB_DATA=FOLDER"):
        faces.load(profiles.get("mini"))


def test_a_changed_file_is_read_anew(tmp_path, cache):
    path = write_csv(tmp_path / "fer2013.csv", [f"3,{GOOD},Training"])
    assert faces.read_csv(path).labels.tolist() == [3]
    write_csv(path, [f"4,{GOOD},Training", f"4,{GOOD},Training"])
    assert faces.read_csv(path).labels.tolist() == [4, 4]


def test_votes_join_by_row_and_refuse_another_file(tmp_path, cache):
    path = write_csv(tmp_path / "fer2013.csv", [f"3,{GOOD},Training", f"9,{GOOD},Training", f"0,{GOOD},PublicTest"])
    head = "Usage,Image name," + ",".join(FERPLUS_COLUMNS)
    rows = [f"{usage},fer9.png,{k}" + ",0" * 9 for k, usage in enumerate(["Training", "Training", "PublicTest"])]
    votes = write_csv(tmp_path / "fer2013new.csv", rows, head)
    joined = faces.read_csv(path, votes=votes, on_error="skip")
    assert joined.votes[:, 0].tolist() == [0, 2]  # the left-out row's votes are left out with it
    write_csv(votes, [rows[0], rows[1], rows[1]], head)
    with pytest.raises(DataError, match="row 2: Usage means train, FER-2013 says validation"):
        faces.read_csv(path, votes=votes, on_error="skip")
    write_csv(votes, rows[:1], head)
    with pytest.raises(DataError, match="1 rows, wanted at least 3"):
        faces.read_csv(path, votes=votes, on_error="skip")


def test_ferplus_majority():
    votes = np.zeros((5, 10), int)
    for row, entries in enumerate(({1: 6, 0: 4}, {1: 5, 0: 5}, {9: 10}, {7: 8, 0: 2}, {3: 10})):
        for column, count in entries.items():
            votes[row, column] = count
    n = len(votes)
    data = faces.Faces(np.arange(n), np.zeros(n, int), np.array(["test"] * n), FACE_CLASSES, "", np.zeros((n, 48, 48)), votes)
    assert faces.ferplus_labels(data).tolist() == [FACE_CLASSES.index("happy"), -1, -1, -1, FACE_CLASSES.index("sad")]
    assert (faces.ferplus_labels(replace(data, votes=np.full((n, 10), -1))) == -1).all()


def folders(root, count=12):
    for split in ("train", "test"):
        for label, name in enumerate(FACE_CLASSES):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                Image.new("L", (48, 48), label * 30 + i).save(root / split / name / f"{i:02}.png")


def test_class_folders_say_that_public_and_private_are_merged(tmp_path):
    folders(tmp_path)
    data = faces.read_folders(tmp_path)
    assert "cannot be told apart" in data.source
    assert data.counts().sum(1).tolist() == [76, 8, 84]
    assert (data.pixels[:, 0, 0] // 30 == data.labels).all()
    assert (faces.ferplus_labels(data) == -1).all()


def test_a_broken_picture_in_a_folder_is_named(tmp_path):
    folders(tmp_path, count=2)
    (tmp_path / "train" / "happy" / "00.png").write_bytes(b"no picture")
    Image.new("L", (50, 48)).save(tmp_path / "train" / "happy" / "01.png")
    with pytest.raises(DataError, match=r"happy/00.png: cannot be read.*and 1 more"):
        faces.read_folders(tmp_path)
    assert "2 unreadable files left out" in faces.read_folders(tmp_path, on_error="skip").source


def hub_copy(counts, order):
    """A stand-in for `datasets.load_dataset` with the columns of the webdataset copy."""
    numbers = np.repeat(np.arange(7), counts)
    picture = Image.new("L", (48, 48), 9)
    part = {"cls": numbers.tolist(), "jpg": [picture] * len(numbers)}

    class Part(dict):
        def __len__(self):
            return len(self["cls"])

    return lambda *args, **kwargs: {"train": Part(part), "test": Part(part)}


def test_hub_copy_finds_its_own_class_order(monkeypatch):
    datasets = pytest.importorskip("datasets")
    order = [0, 1, 2, 3, 6, 4, 5]  # that copy's numbers: angry disgust fear happy neutral sad surprise
    monkeypatch.setattr(datasets, "load_dataset", hub_copy([faces._TRAINING_COUNTS[k] for k in order], order))
    data = faces.read_hub()
    assert np.bincount(data.labels[data.split == "test"]).tolist() == list(faces._TRAINING_COUNTS)
    assert "cannot be told apart" in data.source and len(data) == 2 * 28709
    monkeypatch.setattr(datasets, "load_dataset", hub_copy([10] * 7, order))
    with pytest.raises(DataError, match="images a class"):
        faces.read_hub()


def test_hub_without_a_network_says_what_to_do(monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: (_ for _ in ()).throw(ConnectionError("offline")))
    with pytest.raises(MissingData, match=r"offline.*put fer2013.csv into"):
        faces.read_hub()


def test_audit_finds_exactly_the_planted_defects(sample_faces):
    planted = json.loads((ROOT / "data" / "sample" / "planted.json").read_text())["faces"]
    blank = faces.constant(sample_faces)
    assert np.flatnonzero(blank).tolist() == sorted(planted["constant"])
    group = faces.twins(sample_faces)
    found = [np.flatnonzero(group == g).tolist() for g in np.flatnonzero(np.bincount(group) > 1)]
    assert sorted(pair for pair in found if not blank[pair[0]]) == sorted(planted["twins"])
    near = faces.near_twins(sample_faces)
    assert sorted(near[:, :2].tolist()) == sorted(planted["near_twins"])
    assert np.flatnonzero(sample_faces.votes[:, -1] == 10).tolist() == sorted(planted["not_a_face"])


def test_cleaning_touches_training_only(sample_faces):
    cleaned = faces.clean(sample_faces)
    for split in ("validation", "test"):
        assert cleaned.part(split).ids.tolist() == sample_faces.part(split).ids.tolist()
    dropped = len(sample_faces) - len(cleaned)
    assert dropped == faces.audit(sample_faces)[0]["dropped_by_cleaning"] > 0
    known = {face.tobytes() for face in cleaned.part("train").pixels}
    assert not any(face.tobytes() in known for s in ("validation", "test") for face in cleaned.part(s).pixels)
    assert not faces.constant(cleaned.part("train")).any()


def test_near_twins_survive_light_and_mirror_but_not_another_face(sample_faces):
    few = sample_faces.select(np.arange(40))
    light = np.clip(few.pixels[0] * 0.6 + 50, 0, 255).astype(np.uint8)
    mirrored = few.pixels[1][:, ::-1]
    data = replace(few, pixels=np.concatenate([few.pixels[:38], light[None], mirrored[None]]))
    assert faces.near_twins(data)[:, :2].tolist() == [[0, 38], [1, 39]]
    slanted = replace(data, pixels=data.pixels // 2 + (np.arange(48) * 2).astype(np.uint8))
    slanted.pixels[39] = slanted.pixels[1][:, ::-1]
    assert [1, 39, 1] in faces.near_twins(slanted).tolist()


@needs_real_data
def test_real_faces_load_fast_and_hold_the_known_defects(monkeypatch):
    monkeypatch.setenv("EMOLIB_DATA", str(REAL))
    faces.load(profiles.get("mini"))
    started = time.monotonic()
    data = faces.load(profiles.get("mini"))
    assert time.monotonic() - started < 2
    assert data.counts().sum(1).tolist() == [28709, 3589, 3589]
    started = time.monotonic()
    notes, _ = faces.audit(data)
    assert time.monotonic() - started < 180
    twins = notes["twins"]
    assert (twins["distinct"], twins["surplus"], twins["conflicting_groups"]) == (34034, 1853, 57)
    assert [twins[k]["rows"] for k in ("train-validation", "train-test", "validation-test")] == [280, 288, 44]
    assert notes["constant"] == [11, 1, 0] and notes["not_a_face"] == [150, 10, 16]
    assert 0.61 < np.mean(notes["agreement"]) < 0.63


@pytest.mark.parametrize("how", faces.DAMAGES)
def test_damage_grows_with_its_level_and_level_zero_is_none(sample_faces, how):
    some = sample_faces.select(np.arange(20))
    gaps = []
    for level in faces.DAMAGES[how]:
        worse = faces.damage(some, how, level).pixels
        assert worse.dtype == np.uint8 and np.array_equal(worse, faces.damage(some, how, level).pixels)
        gaps.append(np.abs(worse.astype(int) - some.pixels).mean())
    assert gaps[0] == 0 and np.all(np.diff(gaps) > 0)


def test_an_occlusion_of_everything_leaves_grey_and_an_unknown_damage_names_the_choices(sample_faces):
    some = sample_faces.select(np.arange(3))
    assert (faces.damage(some, "occlusion", 1).pixels == 128).all()
    with pytest.raises(ValueError, match="choose from blur, noise, occlusion"):
        faces.damage(some, "rain", 1)
