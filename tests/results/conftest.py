"""Made-up predictions and records for the tests of this room."""

import dataclasses

import numpy as np
import pytest

from emolib.results.predictions import Facts, Predictions


def make_predictions(seed=0, n=300, classes=("a", "b", "c", "d"), seeds=2, validation=0, sharp=2.0, **changes):
    """A system that is right more often than not; the first `validation` items are validation items."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(classes), n)
    logits = rng.normal(0, 1, (seeds, n, len(classes))) + sharp * np.eye(len(classes))[labels]
    probs = (np.exp(logits) / np.exp(logits).sum(2, keepdims=True)).astype(np.float32)
    split = np.array(["validation"] * validation + ["test"] * (n - validation))
    return dataclasses.replace(Predictions(split, np.arange(n), labels, probs, tuple(classes), "f", "made"), **changes)


def make_mixtures(n=100):
    """A record of `generality.mixtures`: retrieval falls by 20 and 50 points along alpha, emotion rises from 30 to 60 %."""
    ranks = np.zeros((3, 2, n), int)
    ranks[1, :, : n // 5], ranks[2, :, : n // 2] = 50, 50
    emotion = np.arange(n) < np.array([[30], [50], [60]]) * n // 100
    return Facts("f", "made", {"alphas": [0.0, 0.5, 1.0]}, {"ranks": ranks, "right.emotion": emotion})


@pytest.fixture
def make():
    return make_predictions


@pytest.fixture
def mixtures():
    return make_mixtures()
