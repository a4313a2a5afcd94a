"""Pairs: one label, one split, each item once, no twin twice."""

import numpy as np
import pandas as pd
import pytest
from conftest import REAL, needs_real_data

from emolib import faces, pairs, profiles, sample, texts
from emolib.items import DataError, MissingData
from emolib.labels import FACE_CLASSES, FACE_TO_SHARED, SHARED_CLASSES, TEXT_CLASSES


def test_both_sides_carry_the_pairs_label_and_split(sample_faces, sample_texts):
    data = pairs.match(sample_faces, sample_texts)
    for split in ("train", "validation", "test"):
        assert (data.part(split).faces.split == split).all() and (data.part(split).texts.split == split).all()
    shared = [SHARED_CLASSES[label] for label in data.labels]
    assert [FACE_TO_SHARED[FACE_CLASSES[label]] for label in data.faces.labels] == shared
    assert [TEXT_CLASSES[label] for label in data.texts.labels] == shared


def test_each_item_is_used_at_most_once_and_no_twin_inside_a_split(sample_faces, sample_texts):
    data = pairs.match(sample_faces, sample_texts)
    assert len(set(data.face)) == len(data) == len(set(data.text))
    face_twins, text_twins = faces.twins(sample_faces), texts.twins(sample_texts)
    for split in ("train", "validation", "test"):
        part = data.part(split)
        for label in range(5):
            rows = part.labels == label
            assert len(set(face_twins[part.face[rows]])) == rows.sum() == len(set(text_twins[part.text[rows]]))


def test_the_rarer_side_decides_and_the_seed_repeats(sample_faces, sample_texts):
    data, again, other = (pairs.match(sample_faces, sample_texts, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(data.face, again.face) and not np.array_equal(data.face, other.face)
    for label, name in enumerate(SHARED_CLASSES):
        count = (data.part("test").labels == label).sum()
        text_rows = (sample_texts.split == "test") & (sample_texts.labels == TEXT_CLASSES.index(name))
        face = next(f for f, s in FACE_TO_SHARED.items() if s == name)
        face_rows = (sample_faces.split == "test") & (sample_faces.labels == FACE_CLASSES.index(face))
        # as many as the rarer side has, but for twins and for items whose label was planted wrong
        assert 0 <= min(text_rows.sum(), face_rows.sum()) - count <= 3
    assert data.part("train").select(np.arange(3)).all_faces is sample_faces


def save(picture, path):
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
    return path.read_bytes()


@pytest.fixture
def tables(sample_faces, tmp_path):
    """Three little parts: {split: DataFrame(image bytes, title, caption, label)}."""
    found = {}
    for i, split in enumerate(("train", "dev", "test")):
        pixels = sample_faces.pixels[10 * i : 10 * i + 4]
        found[split] = pd.DataFrame({
            "image": [save(p, tmp_path / "made" / f"{split}-{j}.png") for j, p in enumerate(pixels)],
            "title": ["one.", "two", "", "four"], "caption": [f"{split} seen {j}" for j in range(4)],
            "label": ["calm", "glad", "calm", "glad"],
        })  # fmt: skip
    return found


def test_genuine_pairs_are_read_from_parquet_csv_and_folders_alike(tables, tmp_path):
    for split, table in tables.items():
        (tmp_path / "parquet").mkdir(exist_ok=True)
        table.to_parquet(tmp_path / "parquet" / f"{split}.parquet")
        paths = [f"../made/{split}-{j}.png" for j in range(4)]
        (tmp_path / "csv").mkdir(exist_ok=True)
        table.assign(image=paths).to_csv(tmp_path / "csv" / f"{split}.csv", index=False)
        folder = tmp_path / "folders" / {"dev": "validation"}.get(split, split)
        folder.mkdir(parents=True)
        for j in range(4):
            (folder / f"{j}.png").write_bytes(table.image[j])
        table.drop(columns="image").assign(file_name=[f"{j}.png" for j in range(4)]).to_csv(folder / "metadata.csv", index=False)
    read = [pairs.read_genuine(tmp_path / kind, text=("title", "caption")) for kind in ("parquet", "csv", "folders")]
    for found in read:
        assert found.classes == ("calm", "glad") and found.labels.tolist() == [0, 1, 0, 1] * 3
        assert found.split.tolist() == ["train"] * 4 + ["validation"] * 4 + ["test"] * 4
        assert found.texts[0] == "one. train seen 0" and found.texts[2] == "train seen 2"
        contents = [p if isinstance(p, bytes) else p.read_bytes() for p in found.pictures]
        assert contents == [b for t in tables.values() for b in t.image]
        assert found.fingerprint == read[0].fingerprint


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("label", "grim", "train, row 2: the label is 'grim', wanted one of calm, glad"),
        ("caption", " ", "train, row 2: the text is .* wanted at least one word in title or caption"),
        ("image", None, "train, row 2: the picture is None, wanted encoded bytes"),
    ],
)
def test_a_bad_pair_is_named_or_counted(tables, tmp_path, column, value, message):
    tables["train"].loc[2, column] = value
    for split, table in tables.items():
        table.to_parquet(tmp_path / f"{split}.parquet")
    read = {"text": ("title", "caption"), "classes": ("calm", "glad")}
    with pytest.raises(DataError, match=message):
        pairs.read_genuine(tmp_path, **read)
    found = pairs.read_genuine(tmp_path, on_error="skip", **read)
    assert len(found) == 11 and "1 unreadable rows left out" in found.source


def test_a_source_without_parts_or_columns_says_what_is_wanted(tables, tmp_path):
    with pytest.raises(MissingData, match="no part test and no part train and no part validation"):
        pairs.read_genuine(tmp_path)
    with pytest.raises(MissingData, match="ID@REVISION"):
        pairs.read_genuine("someone/pairs")
    for split, table in tables.items():
        table.to_parquet(tmp_path / f"{split}.parquet")
    with pytest.raises(DataError, match=r"missing \['text'\]"):
        pairs.read_genuine(tmp_path)


def test_training_twins_of_held_out_pairs_are_left_out_and_counted(tables, tmp_path):
    tables["train"].loc[0, "image"] = tables["test"].image[1]
    tables["train"].loc[1, "title"], tables["train"].loc[1, "caption"] = "Two", "DEV  seen 1"
    for split, table in tables.items():
        table.to_parquet(tmp_path / f"{split}.parquet")
    found = pairs.without_twins(pairs.read_genuine(tmp_path, text=("title", "caption")))
    assert found.counts().sum(1).tolist() == [2, 4, 4] and "2 Training pairs with a twin" in found.source


def test_twins_are_found_by_content_not_by_path(tables, tmp_path):
    tables["train"].loc[0, "image"] = tables["test"].image[1]
    for split, table in tables.items():
        for j, content in enumerate(table.image):
            (tmp_path / f"{split}-{j}.png").write_bytes(content)
        table.assign(image=[f"{split}-{j}.png" for j in range(4)]).to_csv(tmp_path / f"{split}.csv", index=False)
    found = pairs.without_twins(pairs.read_genuine(tmp_path, text=("title", "caption")))
    assert found.counts().sum(1).tolist() == [3, 4, 4]


def test_a_hub_set_is_read_at_its_revision(tables, monkeypatch):
    import datasets

    features = datasets.Features(
        image=datasets.Image(), title=datasets.Value("string"), caption=datasets.Value("string"),
        label=datasets.ClassLabel(names=["calm", "glad"]),
    )  # fmt: skip
    made = datasets.DatasetDict({
        split: datasets.Dataset.from_dict({**table.to_dict("list"), "image": [{"bytes": b} for b in table.image]}, features)
        for split, table in zip(("train", "validation", "test"), tables.values(), strict=True)
    })  # fmt: skip
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda name, revision: asked.append((name, revision)) or made)
    found = pairs.read_genuine("someone/pairs@abc", text=("title", "caption"))
    assert asked == [("someone/pairs", "abc")] and found.classes == ("calm", "glad")
    assert found.pictures[0] == tables["train"].image[0] and found.labels.tolist() == [0, 1, 0, 1] * 3


def test_words_that_name_an_emotion_are_masked_and_others_stay():
    texts = [
        "Smiling woman feels HAPPY in Madrid", "sad", "An angry man is made to tear a letter, unhappily",
        "A crystal saddle and a joystick happen to lie on the Amazon, a hat on the moor",
    ]  # fmt: skip
    zeros = np.zeros(4, int)
    data = pairs.Genuine(np.arange(4), zeros, np.repeat("test", 4), ("x",), "s", zeros, np.array(texts, object))
    left = ["woman in Madrid", "a picture", "An man is made to tear a letter,", texts[3]]
    assert pairs.masked(data).texts.tolist() == left


def test_ironic_pairs_are_told_by_no_single_cue():
    data = pairs.genuine(profiles.get("sample"))
    assert data.counts().sum(1).tolist() == [600, 100, 300]
    glad = np.array([any(w in t for w in sample.CUES["joy"]) for t in data.texts])
    assert abs(data.labels[glad].mean() - 0.5) < 0.06 and abs(data.labels.mean() - 0.5) < 0.05
    assert np.array_equal(data.pictures, sample.ironic()[0])


def test_listed_pairs_lead_back_to_their_items(sample_faces, sample_texts):
    data = pairs.match(sample_faces, sample_texts)
    found = pairs.listed(data)
    test = found.arrays["split"] == 1
    part = data.part("test")
    assert np.array_equal(found.arrays["face"][test], part.faces.ids) and np.array_equal(
        found.arrays["text"][test], part.texts.ids
    )
    assert np.array_equal(found.arrays["labels"][test], part.labels)


@needs_real_data
def test_the_genuine_pairs_of_msed():
    profile = profiles.get("mini")
    if not (REAL / "msed").is_dir():
        pytest.skip("MSED is not at hand")
    data = pairs.genuine(profile)
    assert data.counts().sum(1).tolist()[1:] == [1021, 2042] and 5900 < (data.split == "train").sum() < 6127
