"""Pairs: one label, one split, each item once, no duplicate twice; and the ways to make them worse."""

from dataclasses import replace

import numpy as np
import pytest

from emolib.data import audit, pairing
from emolib.data.dataset import column
from emolib.data.labels import FACE_CLASSES, FACE_TO_SHARED, SHARED_CLASSES, SPLITS, TEXT_CLASSES


@pytest.fixture(scope="module")
def pairs(sample_faces, sample_texts):
    return pairing.match(sample_faces, sample_texts)


def test_both_sides_carry_the_pairs_label_split_and_content(pairs, sample_faces, sample_texts):
    face, text = pairs.extras["face_id"], pairs.extras["text_id"]  # the sample's ids are its rows
    assert (sample_faces.split[face] == pairs.split).all() and (sample_texts.split[text] == pairs.split).all()
    shared = [SHARED_CLASSES[label] for label in pairs.labels]
    assert [FACE_TO_SHARED[FACE_CLASSES[label]] for label in sample_faces.labels[face]] == shared
    assert [TEXT_CLASSES[label] for label in sample_texts.labels[text]] == shared
    assert np.array_equal(pairs.images, sample_faces.images[face]) and (pairs.texts == sample_texts.texts[text]).all()


def test_each_item_is_used_at_most_once_and_no_duplicate_inside_a_split(pairs):
    assert len(set(pairs.extras["face_id"])) == len(pairs) == len(set(pairs.extras["text_id"]))
    for modality in ("image", "text"):
        group = audit.duplicates(pairs, modality)
        for split in SPLITS:
            for label in range(5):
                inside = group[(pairs.split == split) & (pairs.labels == label)]
                assert len(set(inside)) == len(inside) > 0


def test_the_rarer_side_decides_and_the_seed_repeats(pairs, sample_faces, sample_texts):
    again, other = (pairing.match(sample_faces, sample_texts, seed=seed) for seed in (0, 1))
    assert np.array_equal(pairs.extras["face_id"], again.extras["face_id"]) and pairs.fingerprint == again.fingerprint
    assert not np.array_equal(pairs.extras["face_id"], other.extras["face_id"])
    # The very pairs that the recorded results are about.
    assert [int(np.arange(1579) @ pairs.extras[name]) for name in ("face_id", "text_id")] == [1766583871, 1766170511]
    for label, name in enumerate(SHARED_CLASSES):
        count = (pairs.part("test").labels == label).sum()
        text_rows = (sample_texts.split == "test") & (sample_texts.labels == TEXT_CLASSES.index(name))
        face = next(f for f, s in FACE_TO_SHARED.items() if s == name)
        face_rows = (sample_faces.split == "test") & (sample_faces.labels == FACE_CLASSES.index(face))
        # as many as the rarer side has, but for duplicates
        assert 0 <= min(text_rows.sum(), face_rows.sum()) - count <= 3


def test_listed_pairs_lead_back_to_their_items(pairs):
    notes, arrays = pairing.list_pairs(pairs)
    test, part = arrays["split"] == 1, pairs.part("test")
    assert np.array_equal(arrays["image"][test], part.extras["face_id"]) and np.array_equal(arrays["ids"][test], part.ids)
    assert np.array_equal(arrays["text"][test], part.extras["text_id"]) and np.array_equal(arrays["labels"][test], part.labels)
    assert np.sum(notes["counts"]) == len(pairs)


def test_words_that_name_an_emotion_are_masked_and_others_stay(sample_texts):
    texts = [
        "Smiling woman feels HAPPY in Madrid", "sad", "An angry man is made to tear a letter, unhappily",
        "A crystal saddle and a joystick happen to lie on the Amazon, a hat on the moor",
    ]  # fmt: skip
    given = replace(sample_texts.select(np.arange(4)), texts=column(texts), split=np.array(["train", "test", "train", "test"]))
    assert pairing.count_emotion_words(given) == ({"named": [2, 0, 1]}, {})
    data = pairing.mask_emotion_words(given)
    assert data.texts.tolist() == ["woman in Madrid", "a picture", "An man is made to tear a letter,", texts[3]]
    assert data.source.endswith("emotion words masked")
