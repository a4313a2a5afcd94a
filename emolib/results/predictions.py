"""What steps return: posteriors of held-out items, or facts about a data set. Values only; `records` keeps them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from emolib.data.dataset import Dataset


@dataclass(frozen=True)
class Predictions:
    """What a system says about validation and test items.

    split: (N,) "validation" or "test". ids, labels: (N,) int. probs: (S, N, K) float32, S seeds, finite, rows sum to 1.
    fingerprint, source: of the data. notes: JSON values (curves, seconds). arrays: what figures need beyond probs.
    """

    split: np.ndarray
    ids: np.ndarray
    labels: np.ndarray
    probs: np.ndarray
    classes: tuple[str, ...]
    fingerprint: str
    source: str
    notes: dict = field(default_factory=dict)
    arrays: dict = field(default_factory=dict)

    def __post_init__(self):
        n, k = len(self.ids), len(self.classes)
        if self.probs.ndim != 3 or self.probs.shape[1:] != (n, k):
            raise ValueError(f"probs have shape {self.probs.shape}, wanted (seeds, {n}, {k})")
        if bad := int((~np.isfinite(self.probs)).sum()):
            raise ValueError(f"{bad} of {self.probs.size} probabilities are not finite")
        if n and (worst := np.abs(self.probs.sum(2, dtype=np.float64) - 1).max()) > 1e-4:
            raise ValueError(f"a row of probs misses a sum of 1 by {worst:.2g}, allowed is 1e-4")
        if "train" in self.split:
            raise ValueError("predictions hold Training items; wanted validation and test only")

    def rows(self, mask: np.ndarray) -> Predictions:
        """The items of a mask or of indices."""
        return replace(self, split=self.split[mask], ids=self.ids[mask], labels=self.labels[mask], probs=self.probs[:, mask])

    @property
    def validation(self) -> Predictions:
        """The items on which choices are made."""
        return self.rows(self.split == "validation")

    @property
    def test(self) -> Predictions:
        """The items on which results are reported."""
        return self.rows(self.split == "test")

    @property
    def posterior(self) -> np.ndarray:
        """(N, K) float64: the mean over seeds."""
        return self.probs.mean(0, dtype=np.float64)

    @property
    def predicted(self) -> np.ndarray:
        """(N,) int: the class of the largest mean probability."""
        return self.posterior.argmax(1)

    def joined(self, more: Predictions) -> Predictions:
        """The same system with the runs of further seeds behind its own. ValueError where these were asked something else."""
        same = self.fingerprint == more.fingerprint and np.array_equal(self.ids, more.ids) and self.classes == more.classes
        if not same or self.arrays or more.arrays:
            raise ValueError("further seeds can only be joined on the same items, and where nothing but posteriors is kept")
        lists = {key: self.notes[key] + more.notes[key] for key in ("history", "runs")}
        return replace(self, probs=np.concatenate([self.probs, more.probs]), notes=self.notes | lists)


@dataclass(frozen=True)
class Facts:
    """What a step found out that is not a prediction: counts (`notes`, JSON values) and `arrays`."""

    fingerprint: str
    source: str
    notes: dict = field(default_factory=dict)
    arrays: dict = field(default_factory=dict)


def predictions(data: Dataset, probs: np.ndarray, notes: dict | None = None, arrays: dict | None = None) -> Predictions:
    """Predictions for the validation items of `data`, then its test items: probs (S, N, K) in that order."""
    rows = data.held_out
    return Predictions(
        data.split[rows], data.ids[rows], data.labels[rows], probs.astype(np.float32), data.classes, data.fingerprint,
        data.source, notes or {}, arrays or {},
    )  # fmt: skip


def facts(data: Dataset, notes: dict, arrays: dict | None = None) -> Facts:
    """Facts about a data set."""
    return Facts(data.fingerprint, data.source, notes, arrays or {})


Result = Predictions | Facts
