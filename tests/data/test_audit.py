import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from emolib.data import audit
from emolib.data.dataset import Dataset, column
from emolib.data.labels import FACE_CLASSES
from emolib.profiles import ROOT


def make(texts, labels=None, splits=None, classes=("a", "b")):
    n = len(texts)
    labels, splits = labels or [0] * n, splits or ["train"] * n
    return Dataset(np.arange(n), np.array(labels), np.array(splits), classes, "made", texts=column(list(texts)))


@pytest.fixture(scope="module")
def planted():
    return json.loads((ROOT / "data" / "sample" / "planted.json").read_text())


def recurring(group):
    return sorted(np.flatnonzero(group == g).tolist() for g in np.flatnonzero(np.bincount(group) > 1))


def test_the_audit_finds_exactly_the_planted_faces(sample_faces, planted):
    planted, blank = planted["faces"], audit.constant(sample_faces)
    assert np.flatnonzero(blank).tolist() == sorted(planted["constant"])
    copies = recurring(audit.duplicates(sample_faces, "image"))
    assert [rows for rows in copies if not blank[rows[0]]] == sorted(planted["twins"])
    assert audit.near_duplicates(sample_faces, "image")[:, :2].tolist() == sorted(planted["near_twins"])
    notes, arrays = audit.audit(sample_faces)
    assert notes["not_a_face"] == [3, 1, 1] and sum(notes["constant"]) == len(planted["constant"])
    test = arrays["duplicate"][np.isin(arrays["ids"], sample_faces.part("test").ids)]
    assert np.bincount(test).tolist() == [400 - 16, 5, 11] and notes["exposed"] == [0, 7, 16]
    assert arrays["mean_images"].shape == (7, 48, 48) and arrays["mean_images"].min() > 50


def test_the_audit_finds_exactly_the_planted_texts(sample_texts, planted):
    copies = recurring(audit.duplicates(sample_texts, "text"))
    assert copies == sorted(planted["texts"]["twice"])
    assert all(sample_texts.labels[a] != sample_texts.labels[b] for a, b in copies)
    notes, arrays = audit.audit(sample_texts)
    assert notes["near_duplicates"]["pairs"] == 0 and notes["feel"] > 0.95 and notes["dropped_by_cleaning"] == 7
    assert np.bincount(arrays["duplicate"]).tolist() == [791, 0, 9] and "constant" not in notes


def test_cleaning_touches_training_only(sample_faces, sample_texts):
    for data in (sample_faces, sample_texts):
        cleaned = audit.clean(data)
        for split in ("validation", "test"):
            assert cleaned.part(split).ids.tolist() == data.part(split).ids.tolist()
        assert len(data) - len(cleaned) == audit.audit(data)[0]["dropped_by_cleaning"] > 0
        assert not audit.leaks(cleaned).any()
    assert not audit.constant(audit.clean(sample_faces).part("train")).any()


def test_near_duplicates_survive_light_and_mirror_but_not_another_face(sample_faces):
    few = sample_faces.select(np.arange(40))
    few.images[38] = np.clip(few.images[0] * 0.6 + 50, 0, 255)
    few.images[39] = few.images[1][:, ::-1]
    assert audit.near_duplicates(few, "image")[:, :2].tolist() == [[0, 38], [1, 39]]
    slanted = replace(few, images=few.images // 2 + (np.arange(48) * 2).astype(np.uint8))
    slanted.images[39] = slanted.images[1][:, ::-1]
    assert [1, 39, 1] in audit.near_duplicates(slanted, "image").tolist()


def test_pictures_of_any_kind_and_size_are_audited(sample_faces):
    few = replace(sample_faces.select(np.arange(32)), extras={})
    few.images[30] = few.images[0]
    colour = np.stack([np.asarray(Image.fromarray(face).resize((70, 50)).convert("RGB")) for face in few.images])
    for images in (colour, column([Image.fromarray(picture) for picture in colour]), few.images[:, :40, :40].copy()):
        data = replace(few, images=images, split=np.array(["train"] * 30 + ["test"] * 2))
        data.images[31] = Image.fromarray(colour[5] // 2) if images.dtype == object else data.images[5] // 2
        notes, arrays = audit.audit(data)
        assert arrays["duplicate"].tolist() == [2, 1] and notes["duplicates"]["train-test"]["rows"] == 1
        assert notes["agreement"] is None and (arrays["ferplus"] == -1).all() and arrays["mean_images"].shape == (7, 48, 48)


def test_an_image_or_a_text_makes_pairs_duplicates(sample_faces):
    few = replace(sample_faces.select(np.arange(4)), extras={}, split=np.array(["train", "train", "test", "test"]))
    few.images[2] = few.images[0]
    pairs = replace(few, texts=column(["one thing", "Something  else", "a third", "something else"]))
    notes, arrays = audit.audit(pairs)
    assert arrays["duplicate"].tolist() == [2, 2] and notes["dropped_by_cleaning"] == 2 and {"words", "constant"} <= set(notes)
    assert arrays["group"][0] != arrays["group"][1]


def test_near_texts_by_hand():
    data = make(["a b c d", "a b c d e", "d c b a", "a x", "a b c d e f"])
    # 4/5 and 5/6 are enough, 4/6 is not; "d c b a" has the same words as "a b c d" but is another text
    assert audit.near_duplicates(data, "text", block=2).tolist() == [[0, 1], [0, 2], [1, 2], [1, 4]]


def test_duplicates_are_counted_by_hand():
    # labels make x conflict across train-validation and y inside test
    data = make("xxyxzyy", [0, 0, 1, 1, 0, 1, 0], ["train"] * 3 + ["validation"] * 2 + ["test"] * 2)
    group = audit.duplicates(data, "text")
    found = audit.count_duplicates(data, group)
    assert found["distinct"] == 3 and found["surplus"] == 4 and found["conflicting_groups"] == 2
    assert found["train"] == {"surplus": 1, "groups": 1, "conflicting_groups": 0}
    assert found["test"] == {"surplus": 1, "groups": 1, "conflicting_groups": 1}
    assert found["train-validation"] == {"rows": 1, "conflicting_rows": 1}
    assert found["train-test"] == {"rows": 2, "conflicting_rows": 1}
    assert found["validation-test"] == {"rows": 0, "conflicting_rows": 0}
    assert audit.leaks(data).tolist() == [True, True, True, False, False, False, False]
    assert audit.in_earlier_split(data, group).tolist() == [False, False, False, True, False, True, True]


def test_near_duplicates_are_counted_by_rows_of_the_later_split_and_join_groups():
    data = make("abcd", splits=["test", "train", "train", "test"])
    found = audit.count_near_duplicates(data, np.array([[0, 1], [0, 2], [2, 3]]))
    assert found == {"pairs": 3, "train-validation": 0, "train-test": 2, "validation-test": 0}
    joined = audit.merge([np.array([0, 1, 0, 3, 4])], np.array([[2, 3]]))
    assert joined[0] == joined[2] == joined[3] and len({joined[0], joined[1], joined[4]}) == 3


def test_ferplus_majority():
    votes = np.zeros((5, 10), int)
    for row, entries in enumerate(({1: 6, 0: 4}, {1: 5, 0: 5}, {9: 10}, {7: 8, 0: 2}, {3: 10})):
        for place, count in entries.items():
            votes[row, place] = count
    data = replace(make("abcde", classes=FACE_CLASSES), extras={"votes": votes})
    assert audit.ferplus_labels(data).tolist() == [FACE_CLASSES.index("happy"), -1, -1, -1, FACE_CLASSES.index("sad")]
    assert (audit.ferplus_labels(replace(data, extras={})) == -1).all()


def test_top_terms_names_the_telling_word():
    data = make(["i feel sad"] * 5 + ["i feel glad"] * 5, [0] * 5 + [1] * 5, classes=("sadness", "joy"))
    assert {c: words[0] for c, words in audit.top_terms(data).items()} == {"sadness": "sad", "joy": "glad"}
