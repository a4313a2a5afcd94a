"""Pairs: one label, one split, each item once, no twin twice."""

import numpy as np

from emolib import faces, pairs, texts
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
