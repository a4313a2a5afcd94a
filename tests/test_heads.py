"""Heads: zero-shot by hand, probes that cannot see held-out items, choices on validation."""

import dataclasses

import numpy as np
import pytest

from emolib import clip, heads, metrics, profiles, prompts, report
from emolib.heads import Head
from emolib.labels import FACE_CLASSES, SHARED_CLASSES, TEXT_CLASSES

SAMPLE = profiles.get("sample")


@pytest.fixture(scope="module")
def encoder():
    return clip.load(SAMPLE)


def test_the_zero_shot_head_is_the_nearest_class_direction(encoder, sample_faces):
    faces, asked = sample_faces.pixels[:50], prompts.FACES["templates"]
    vectors = encoder.encode_images(faces)
    head = heads.zero_shot(encoder, asked)
    by_hand = np.zeros((50, len(asked)))
    for k, sentences in enumerate(asked):
        mean = np.mean([encoder.encode_texts([s], cache=False)[0].astype(float) for s in sentences], axis=0)
        by_hand[:, k] = vectors @ (mean / np.sqrt((mean**2).sum()))
    assert np.array_equal(head.posterior(vectors).argmax(1), by_hand.argmax(1))
    odds = np.exp(encoder.scale * by_hand)
    assert np.allclose(head.posterior(vectors), odds / odds.sum(1, keepdims=True), atol=1e-5)
    assert np.isclose(encoder.scale, np.exp(encoder.model.logit_scale.item()))


def test_every_class_has_prompts_of_its_own():
    for sets, classes in ((prompts.FACES, FACE_CLASSES), (prompts.TEXTS, TEXT_CLASSES), (prompts.PAIRS, SHARED_CLASSES)):
        for name, asked in sets.items():
            flat = [sentence for some in asked for sentence in some]
            assert len(asked) == len(classes) and all(asked) and len(set(flat)) == len(flat), name
            assert not any("{" in sentence for sentence in flat)


def points(data, seed=0):
    """Vectors that tell the class, on the unit sphere."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 1, (len(data.classes), 16))
    vectors = centres[data.labels] + rng.normal(0, 1.2, (len(data), 16))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_a_probe_learns_from_training_and_chooses_on_validation(sample_faces):
    vectors = points(sample_faces)
    found, head = heads.linear(sample_faces, vectors)
    assert metrics.score(found.test, count=10)["accuracy"] > 0.6
    assert found.notes["C"] in heads.STRENGTHS and head.weight.shape == (7, 16)
    scrambled = vectors.copy()
    test = sample_faces.split == "test"
    scrambled[test] = scrambled[test][::-1]
    again, same = heads.linear(sample_faces, scrambled)
    assert np.array_equal(head.weight, same.weight) and np.array_equal(again.validation.probs, found.validation.probs)


def test_a_probe_with_few_classes():
    rng = np.random.default_rng(0)
    labels = np.repeat([1, 3], 40)
    vectors = rng.normal(0, 0.3, (80, 5)) + np.eye(5)[labels]
    head = heads.probe(vectors, labels, 4, 1.0)
    assert (head.posterior(vectors).argmax(1) == labels).mean() > 0.9 and head.posterior(vectors)[:, [0, 2]].max() < 1e-6
    from sklearn.linear_model import LogisticRegression

    theirs = LogisticRegression(C=1.0, tol=1e-10).fit(vectors * np.sqrt(5), labels)
    assert np.allclose(head.posterior(vectors)[:, [1, 3]], theirs.predict_proba(vectors * np.sqrt(5)), atol=1e-6)


def test_a_probe_is_at_its_optimum_with_fewer_items_than_dimensions_too():
    """The gradient of scikit-learn's own objective, C * sum(log loss) + |w|^2 / 2, vanishes."""
    for n, d in ((9, 40), (200, 12)):
        rng = np.random.default_rng(n)
        vectors, labels = rng.normal(0, 1, (n, d)), np.arange(n) % 3
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        head = heads.probe(vectors, labels, 3, 0.1)
        error = head.posterior(vectors) - np.eye(3)[labels]
        gradient = 0.1 * error.T @ vectors * np.sqrt(d) + head.weight / np.sqrt(d)
        assert np.abs(gradient).max() < 1e-7 and np.abs(error.sum(0)).max() < 1e-6


def test_asking_keeps_every_set_and_chooses_on_validation(encoder, sample_faces):
    counts = {"train": 20, "validation": 100, "test": 100}
    some = sample_faces.select(np.concatenate([np.flatnonzero(sample_faces.split == s)[:n] for s, n in counts.items()]))
    found = heads.ask(encoder, some, prompts.FACES)
    each = report.by_prompts(found)
    assert each.keys() == prompts.FACES.keys()
    scores = {n: heads.accuracy(p.validation.posterior, p.validation.labels) for n, p in each.items()}
    assert scores[found.notes["prompts"]] == max(scores.values())
    assert np.array_equal(each[found.notes["prompts"]].probs, found.probs)


def test_more_shots_are_better_and_only_training_teaches(sample_faces):
    config = dataclasses.replace(SAMPLE.frozen, shots=(1, 64), shot_seeds=3)
    found = heads.shots(sample_faces, points(sample_faces), config).notes["shots"]
    assert [s["k"] for s in found] == [1, 64] and len(found[0]["test"]) == 3
    assert np.mean(found[1]["test"]) > np.mean(found[0]["test"]) + 0.05


def test_sizes_are_compared_on_training_and_validation_only(sample_faces, monkeypatch):
    small = dataclasses.replace(SAMPLE, frozen=dataclasses.replace(SAMPLE.frozen, sizes=(32, 48), size_rows=40))
    found = heads.sizes(sample_faces, small)
    assert [row["size"] for row in found.notes["sizes"]] == [32, 48] and found.notes["rows"] == found.notes["n"] == 40
    assert all(0 <= row["accuracy"] <= 1 and row["images_per_second"] > 0 for row in found.notes["sizes"])


def test_a_posterior_by_hand():
    head = Head(np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([0.5, 0.0]))
    assert np.allclose(head.posterior(np.array([[1.0, 1.0]])), np.exp([1.5, 2.0]) / np.exp([1.5, 2.0]).sum())
