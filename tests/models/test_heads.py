"""Heads: zero-shot by hand, probes that cannot see held-out items, choices on validation."""

from dataclasses import replace

import numpy as np
import pytest

from emolib.data import pairing, prompts
from emolib.models import heads
from emolib.models.encoder import load
from emolib.models.tuning import Tuned
from emolib.profiles import Work, get

SAMPLE = get("sample")


@pytest.fixture(scope="module")
def encoder():
    return load(SAMPLE.clip, "float64")


class Points:
    """An encoder whose vectors tell the class of what it is shown, on the unit sphere."""

    def __init__(self, data):
        rng = np.random.default_rng(0)
        centres = rng.normal(0, 1, (len(data.classes), 16))
        vectors = centres[data.labels] + rng.normal(0, 1.2, (len(data), 16))
        self.own = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        self.weights, self.facts = {}, {"name": "points"}

    def vectors(self, data):
        return self.own


def test_the_zero_shot_head_is_the_nearest_class_direction(encoder, sample_faces):
    faces, asked = sample_faces.images[:50], prompts.FACES["templates"]
    vectors = encoder.encode_images(faces)
    head = heads.zero_shot(encoder, asked)
    by_hand = np.zeros((50, len(asked)))
    for k, sentences in enumerate(asked):
        mean = np.mean([encoder.encode_texts([s], cache=False)[0].astype(float) for s in sentences], axis=0)
        by_hand[:, k] = vectors @ (mean / np.sqrt((mean**2).sum()))
    odds = np.exp(encoder.scale * by_hand)
    assert np.allclose(head.posterior(vectors), odds / odds.sum(1, keepdims=True), atol=1e-5)
    assert np.isclose(encoder.scale, np.exp(encoder.model.logit_scale.item()))


def test_a_probe_learns_from_training_and_chooses_on_validation(sample_faces, tmp_path):
    points, work = Points(sample_faces), Work(folder=tmp_path, step="probe")
    found = heads.linear_probe(points, sample_faces, work=work)
    kept = Tuned.load(work.model()).head
    assert heads.accuracy(found.test.posterior, found.test.labels) > 0.6
    assert found.notes["C"] in heads.STRENGTHS and kept.weight.shape == (7, 16) and found.notes["encoder"] == points.facts
    assert np.allclose(kept.posterior(points.own[sample_faces.held_out]), found.probs[0], atol=1e-6)
    test = sample_faces.split == "test"
    points.own[test] = points.own[test][::-1]
    again, same = heads.fit_probe(sample_faces, points.own)
    assert np.array_equal(kept.weight, same.weight) and np.array_equal(again.validation.probs, found.validation.probs)


def test_a_probe_with_few_classes():
    rng = np.random.default_rng(0)
    labels = np.repeat([1, 3], 40)
    vectors = rng.normal(0, 0.3, (80, 5)) + np.eye(5)[labels]
    head = heads.probe(vectors, labels, 4, 1.0)
    assert (head.posterior(vectors).argmax(1) == labels).mean() > 0.9 and head.posterior(vectors)[:, [0, 2]].max() < 1e-6


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
    assert {name.removeprefix("probs.") for name in found.arrays} == prompts.FACES.keys()
    early = found.split == "validation"
    scores = {n: heads.accuracy(found.arrays[f"probs.{n}"][early], found.labels[early]) for n in prompts.FACES}
    assert scores[found.notes["prompts"]] == max(scores.values()) > min(scores.values())
    assert np.array_equal(found.arrays[f"probs.{found.notes['prompts']}"], found.probs[0])


def test_one_modality_of_pairs_does_not_see_the_other(encoder, sample_faces, sample_texts):
    pairs = pairing.match(sample_faces, sample_texts)
    pairs = pairs.select(np.flatnonzero(pairs.split != "train")[:60])
    for modality, column in (("image", "images"), ("text", "texts")):
        other = "texts" if column == "images" else "images"
        answers = [heads.ask(encoder, data.seen(modality), prompts.PAIRS).arrays["probs.both"] for data in
                   (pairs, replace(pairs, **{other: getattr(pairs, other)[::-1]}),
                    replace(pairs, **{column: getattr(pairs, column)[::-1]}))]  # fmt: skip
        assert np.array_equal(answers[0], answers[1]) and not np.allclose(answers[0], answers[2])


def test_more_shots_are_better_and_only_training_teaches(sample_faces):
    config = replace(SAMPLE.frozen, shots=(1, 64), shot_seeds=3)
    found = heads.k_shot(Points(sample_faces), sample_faces, config).notes["shots"]
    assert [s["k"] for s in found] == [1, 64] and len(found[0]["test"]) == 3
    assert np.mean(found[1]["test"]) > np.mean(found[0]["test"]) + 0.05
    swapped = replace(sample_faces, labels=np.where(sample_faces.split == "validation", 0, sample_faces.labels))
    assert heads.k_shot(Points(sample_faces), swapped, config).notes["shots"] == found


def test_few_items_choose_their_own_strength():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    clear = np.eye(8)[labels] + 0.01 * rng.normal(size=(60, 8))
    noise = rng.normal(size=(60, 8))
    chosen = [heads.own_strength(x / np.linalg.norm(x, axis=1, keepdims=True), labels, 3) for x in (clear, noise)]
    assert chosen == [heads.STRENGTHS[-1], heads.STRENGTHS[0]]
    assert heads.own_strength(noise[:3], labels[:3], 3) == heads.STRENGTHS[-1]


def test_sizes_are_compared_on_training_and_validation_only(sample_faces):
    config = replace(SAMPLE.frozen, sizes=(32, 48), size_rows=40)
    found = heads.picture_sizes(sample_faces, SAMPLE.clip, config, work=Work("float64"))
    assert [row["size"] for row in found.notes["sizes"]] == [32, 48] and found.notes["rows"] == found.notes["n"] == 40
    assert all(0 <= row["accuracy"] <= 1 and row["images_per_second"] > 0 for row in found.notes["sizes"])
