"""Where the study's own sets come from; the real ones, where they are at hand, hold what is known of them."""

from unittest.mock import Mock

import numpy as np
import pytest

from emolib import profiles
from emolib.data import audit, official, sets
from emolib.data.dataset import MissingData

SAMPLE, MINI = profiles.get("sample"), profiles.get("mini")


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (sets.raw_faces, r"FER-2013 is not at hand.*nowhere/fer2013.*Kaggle.*EMOLIB_DATA=FOLDER"),
        (sets.raw_texts, r"DAIR-AI Emotion is not at hand.*offline.*\.txt \(text;label\).*EMOLIB_DATA=FOLDER"),
        (sets.genuine, r"MSED is not at hand.*python -m emolib data.*EMOLIB_DATA=FOLDER"),
        (sets.captioned, r"MSED is not at hand"),
        (sets.other_texts, r"GoEmotions is not at hand: looked for emotions.txt.*offline.*EMOLIB_DATA=FOLDER"),
        (sets.cifar10, r"CIFAR-10 is not at hand.*offline.*EMOLIB_DATA=FOLDER"),
    ],
)
def test_a_set_that_is_not_there_says_how_to_get_it(load, message, monkeypatch):
    monkeypatch.setenv("EMOLIB_DATA", "/nowhere")
    monkeypatch.setattr("datasets.load_dataset", Mock(side_effect=ConnectionError("offline")))
    with pytest.raises(MissingData, match=message):
        load(MINI)


def test_only_full_asks_the_hub_for_faces(monkeypatch):
    monkeypatch.setenv("EMOLIB_DATA", "/nowhere")
    monkeypatch.setattr(official, "read_fer_hub", lambda: "the Hub's")
    assert sets.raw_faces(profiles.get("full")) == "the Hub's"


def test_another_folder_is_read_anew(monkeypatch, tmp_path):
    for name, text in (("one", "first"), ("two", "second")):
        (tmp_path / name / "emotion").mkdir(parents=True)
        for stem in ("train", "val", "test"):
            (tmp_path / name / "emotion" / f"{stem}.txt").write_text(f"{text};joy\n")
        monkeypatch.setenv("EMOLIB_DATA", str(tmp_path / name))
        assert sets.raw_texts(MINI).texts[0] == text and sets.raw_texts(MINI) is sets.raw_texts(MINI)


def test_ironic_pairs_are_told_by_no_single_modality(maker):
    data = sets.genuine(SAMPLE)
    assert data.counts().sum(1).tolist() == [600, 100, 300]
    glad = np.array([any(w in t for w in maker.CUES["joy"]) for t in data.texts])
    assert abs(data.labels[glad].mean() - 0.5) < 0.06 and abs(data.labels.mean() - 0.5) < 0.05


def test_captioned_people_are_tagged_with_what_they_wear():
    data = sets.captioned(SAMPLE)
    assert len(data) == SAMPLE.generality.pairs and set(data.split) == {"test"} and data.extras["tags"].shape == (len(data), 3)
    for word, worn in zip(("glasses", "beard", "long"), data.extras["tags"].T, strict=True):
        named = np.array([word in text.split() for text in data.texts])
        assert named.any() and worn[named].all()


def test_real_faces_hold_the_known_defects(needs_real_data):
    data = sets.raw_faces(MINI)
    assert data.counts().sum(1).tolist() == [28709, 3589, 3589]
    found = audit.count_duplicates(data, audit.duplicates(data, "image"))
    assert (found["distinct"], found["surplus"], found["conflicting_groups"]) == (34034, 1853, 57)
    assert [found[k]["rows"] for k in ("train-validation", "train-test", "validation-test")] == [280, 288, 44]
    votes = audit.count_votes(data)
    assert audit.by_split(data, audit.constant(data)) == [11, 1, 0] and votes["not_a_face"] == [150, 10, 16]
    assert 0.61 < np.mean(votes["agreement"]) < 0.63


def test_real_texts_hold_the_known_defects(needs_real_data):
    data = sets.raw_texts(MINI)
    assert data.counts().tolist()[2] == [581, 695, 159, 275, 224, 66]
    found = audit.count_duplicates(data, audit.duplicates(data, "text"))
    assert found["train"] == {"surplus": 31, "groups": 31, "conflicting_groups": 30}
    for pair, rows in (("train-test", 11), ("train-validation", 5), ("validation-test", 3)):
        assert found[pair] == {"rows": rows, "conflicting_rows": rows}
    assert abs(audit.count_words(data)[0]["feel"] - 0.988) < 0.005


def test_the_genuine_pairs_of_msed_and_a_part_of_cifar10(needs_real_data):
    if not (needs_real_data / "msed").is_dir() or not (needs_real_data / "cifar10").is_dir():
        pytest.skip("MSED or CIFAR-10 is not at hand")
    data = sets.genuine(MINI)
    assert data.counts().sum(1).tolist() == [5928, 1021, 2042] and "199 Training pairs" in data.source
    assert len(sets.captioned(MINI)) == 1000 and set(sets.captioned(MINI).texts) <= set(data.part("test").extras["caption"])
    assert len(sets.cifar10(MINI)) == sets.CIFAR_ROWS and len(sets.cifar10(profiles.get("full"))) == 10_000
