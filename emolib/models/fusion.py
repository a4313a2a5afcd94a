"""How what a picture says and what a text says become one posterior, and what to do when they disagree. Needs no torch.

Posteriors are (..., N, K) float64, rows sum to 1; a row of NaN stands for a modality that is missing. Rules broadcast over
leading axes, so that hundreds of re-pairings are one call. prior: (K,), the classes' shares among the pairs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax, xlogy

from emolib.data.labels import SHARED_CLASSES, TO_SHARED
from emolib.results import metrics
from emolib.results.predictions import Facts, Predictions

FLOOR = 1e-12
MODALITIES = ("image", "text")
# What is learned on frozen features. "image" and "text" see one modality: their product is the null model on equal features.
# "image-tokens" and "text-tokens" are the same for cross-attention, which sees more than vectors. The others see both.
ONE, ONE_ON_TOKENS = MODALITIES, ("image-tokens", "text-tokens")
BOTH = ("concat", "gate", "attention", "joint")
KINDS = ONE + ONE_ON_TOKENS + BOTH
ON_VECTORS = (*ONE, "concat", "gate", "joint")


def in_shared(probs: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    """(..., K) probabilities of some classes -> (..., 5) of the shared ones; what others had is missing from the sum."""
    columns = [next(i for i, c in enumerate(classes) if TO_SHARED.get(c) == s) for s in SHARED_CLASSES]
    return np.clip(probs[..., columns].astype(np.float64), FLOOR, None)


def shared(found: Predictions) -> Predictions:
    """A system's posterior in the five shared classes, for the items that have such a label; the rest is left out.

    The probability that it gave to other classes (love; disgust, neutral) is shared out in proportion.
    """
    number = np.array([SHARED_CLASSES.index(TO_SHARED[c]) if c in TO_SHARED else -1 for c in found.classes])
    kept = found.rows(number[found.labels] >= 0)
    probs = in_shared(kept.probs, found.classes)
    probs = (probs / probs.sum(-1, keepdims=True)).astype(np.float32)
    return replace(kept, labels=number[kept.labels], probs=probs, classes=SHARED_CLASSES, arrays={})


def pairs_of(found: Predictions, matched: Facts, modality: str) -> Predictions:
    """An expert's answers, one per pair: `found` in the shared classes, looked up by the pairs' image or text ids."""
    known = shared(found)
    position = {number: i for i, number in enumerate(known.ids.tolist())}
    rows = [position[number] for number in matched.arrays[modality].tolist()]
    probs = known.posterior[rows][None].astype(np.float32)
    split = np.array(["validation", "test"])[matched.arrays["split"]]
    numbers, labels = (matched.arrays[name].astype(int) for name in ("ids", "labels"))
    notes = {"seeds": len(found.probs)}
    return Predictions(split, numbers, labels, probs, SHARED_CLASSES, matched.fingerprint, matched.source, notes)


@dataclass(frozen=True)
class Calibration:
    """What turns an expert's posterior into one that can be multiplied: softmax(ln p / temperature + bias). bias: (K,)."""

    temperature: float
    bias: np.ndarray

    def __call__(self, probs: np.ndarray) -> np.ndarray:
        return softmax(np.log(np.clip(probs, FLOOR, None)) / self.temperature + self.bias, axis=-1)


def calibrate(validation: Predictions) -> Calibration:
    """The most likely temperature and class biases, given validation pairs. Raises TestSplitError on other items.

    A priori, ln temperature and each bias are normal around 0 with a standard deviation of 1. Without that a small validation
    set that an expert gets all right has no optimum; some hundreds of pairs hardly notice it.
    The biases carry the expert from the class shares that it was trained on to those of the pairs, and undo what it has of
    its own: its mean posterior comes close to the pairs' class shares. A temperature alone would sharpen it with the rest.
    Source: bias-corrected temperature scaling, Alexandari et al. 2020, arXiv:1901.06852.
    """
    metrics.validation_only(validation, "calibrate")
    logs, truth = np.log(np.clip(validation.posterior, FLOOR, None)), np.eye(len(validation.classes))[validation.labels]

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        slope = np.exp(parameters[0])
        found = log_softmax(slope * logs + parameters[1:], axis=1)
        error = (np.exp(found) - truth) / len(truth)
        nll, slopes = -(found * truth).sum() / len(truth), np.r_[slope * (error * logs).sum(), error.sum(0)]
        apart = parameters / len(truth)  # the prior's share, an item
        return nll + parameters @ apart / 2, slopes + apart

    best = minimize(loss, np.zeros(1 + logs.shape[1]), jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 500}).x
    return Calibration(float(np.exp(-best[0])), best[1:])


def calibrated(found: Predictions, calibration: Calibration | None = None) -> Predictions:
    """The seeds' mean posterior as one system, calibrated (default: on its own validation items); arrays are left out."""
    probs = (calibration or calibrate(found.validation))(found.posterior)
    return replace(found, probs=probs[None].astype(np.float32), arrays={})


def product(image: np.ndarray, text: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """p(y|x,t) proportional to p(y|x) p(y|t) / p(y): Bayes' rule for two modalities independent given the class.

    **The null model**: for pairs drawn inside a class it is optimal by construction; a fusion that has found an
    interaction must beat it.
    """
    return softmax(np.log(np.clip(image, FLOOR, None)) + np.log(np.clip(text, FLOOR, None)) - np.log(prior), axis=-1)


def mean(image: np.ndarray, text: np.ndarray) -> np.ndarray:
    """The average of the two posteriors."""
    return (image + text) / 2


def confidence_weighted(image: np.ndarray, text: np.ndarray) -> np.ndarray:
    """The average, each modality weighted by how far its entropy lies below that of knowing nothing."""
    weights = [np.log(p.shape[-1]) + xlogy(p, p).sum(-1, keepdims=True) + FLOOR for p in (image, text)]
    return (weights[0] * image + weights[1] * text) / (weights[0] + weights[1])


def stack(image: np.ndarray, text: np.ndarray, validation: Predictions) -> Callable:
    """Logistic regression on both log posteriors (Wolpert 1992), a rule (image, text) -> posterior.

    Fit on validation pairs: image, text (N, K) in the order of `validation`, which gives the labels.
    """
    metrics.validation_only(validation, "stack")
    weight, bias = metrics.logistic(_logs(image, text), validation.labels, image.shape[1])
    return lambda f, t: softmax(_logs(f, t) @ weight.T + bias, axis=-1)


def _logs(image: np.ndarray, text: np.ndarray) -> np.ndarray:
    return np.log(np.clip(np.concatenate([image, text], axis=-1), 1e-6, None))


def fuse(rule: Callable, image: np.ndarray, text: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """A rule's posterior; where a modality is missing exactly the other's, where both are missing the prior."""
    image, text = np.broadcast_arrays(image, text)
    no_image, no_text = (np.isnan(p).any(-1, keepdims=True) for p in (image, text))
    both = rule(np.where(no_image, prior, image), np.where(no_text, prior, text))
    return np.where(no_image & no_text, prior, np.where(no_image, text, np.where(no_text, image, both)))


@dataclass(frozen=True)
class Experts:
    """Two calibrated experts on the same pairs. image, text: Predictions of one seed (the mean); prior: (K,).

    calibrations: how image and text were calibrated. fingerprint: SHA-256 of the posteriors as they were before, which are
    the same on every machine; what is fitted differs in the last digits.
    """

    image: Predictions
    text: Predictions
    prior: np.ndarray
    calibrations: tuple[Calibration, Calibration]
    fingerprint: str

    @cached_property
    def stacking(self) -> Callable:
        """Fitted on the validation pairs."""
        return stack(self.image.validation.posterior, self.text.validation.posterior, self.image.validation)

    @cached_property
    def share(self) -> float:
        """The image's weight in the weighted mean, of 21, with the lowest NLL on validation pairs."""
        image, text, nll = self.image.validation, self.text.validation.posterior, metrics.negative_log_likelihood
        return min(np.linspace(0, 1, 21), key=lambda w: nll(w * image.posterior + (1 - w) * text, image.labels))

    @property
    def rules(self) -> dict[str, Callable]:
        """Every rule by name, (image, text) -> posterior; what a rule has to learn it learns when it is first used."""
        return {
            "product": lambda f, t: product(f, t, self.prior), "mean": mean,
            "weighted mean": lambda f, t: self.share * f + (1 - self.share) * t,
            "weighted by confidence": confidence_weighted, "stacking": lambda f, t: self.stacking(f, t),
        }  # fmt: skip

    def fused(self, rule: str = "product") -> Predictions:
        """A rule's answers on the pairs."""
        probs = fuse(self.rules[rule], self.image.posterior, self.text.posterior, self.prior)
        return replace(self.image, probs=probs[None].astype(np.float32))

    def repaired(self, rule: str, pairings: np.ndarray) -> np.ndarray:
        """A rule's classes on test pairs under (R, N) re-pairings: (R, N)."""
        image, text = self.image.test.posterior, self.text.test.posterior
        return np.stack([fuse(self.rules[rule], image, text[texts], self.prior).argmax(1) for texts in pairings])


def experts(image: Predictions, text: Predictions) -> Experts:
    """Calibrate two experts on validation pairs; the prior is the class shares of these."""
    valid = image.validation
    prior = (np.bincount(valid.labels, minlength=len(valid.classes)) + 0.5) / (len(valid.labels) + 0.5 * len(valid.classes))
    digest = hashlib.sha256(image.posterior.tobytes() + text.posterior.tobytes()).hexdigest()
    both = calibrate(image.validation), calibrate(text.validation)
    return Experts(calibrated(image, both[0]), calibrated(text, both[1]), prior, both, digest)


def repairings(labels: np.ndarray, count: int, *, seed: int = 0) -> np.ndarray:
    """(count, N) int: for each image the row whose text it gets, drawn inside its class; each text is used exactly once.

    No single modality's accuracy depends on the pairing, so what varies over re-pairings is due to the fusion alone.
    """
    rng, found = np.random.default_rng(seed), np.empty((count, len(labels)), int)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        for pairing in found:
            pairing[rows] = rng.permutation(rows)
    return found


def conflicts(labels: np.ndarray, rate: float, *, seed: int = 0) -> np.ndarray:
    """(N,) int: for each image the row whose text it gets, so that a share `rate` of the pairs has two different labels.

    Each text is used exactly once. ValueError if the classes are so unequal that no such pairing exists.
    """
    rng = np.random.default_rng(seed)
    partner, order, wanted = np.arange(len(labels)), rng.permutation(len(labels)), round(rate * len(labels))
    moved, rest = order[:wanted], order[wanted:]
    counts = np.bincount(labels[moved], minlength=labels.max() + 1)
    if 2 * counts.max() > wanted:  # half of the moved pairs at most can be of one class: the surplus stays, others go
        own, surplus = moved[labels[moved] == counts.argmax()], counts.max() - wanted // 2
        room = [rest[labels[rest] == label][: max(wanted // 2 - n, 0)] for label, n in enumerate(counts)]
        others = rest[np.isin(rest, np.concatenate(room))]
        moved = np.r_[np.setdiff1d(moved, own[:surplus], assume_unique=True), others[:surplus]]
    # Sorted by class, each row takes the text that lies the size of the largest class further: never its own class.
    moved = moved[np.argsort(labels[moved], kind="stable")]
    largest = np.bincount(labels[moved]).max() if len(moved) else 0
    if len(moved) < wanted or 2 * largest > wanted:
        raise ValueError(f"{np.bincount(labels).max()} of {len(labels)} pairs have one class: no {wanted} can differ in label")
    partner[moved] = np.roll(moved, -largest)
    for _ in range(50):  # exchange texts at random wherever both labels still differ, so that no two classes are favoured
        one, other = rng.permutation(moved)[: len(moved) // 2 * 2].reshape(2, -1)
        fits = (labels[one] != labels[partner[other]]) & (labels[other] != labels[partner[one]])
        one, other = one[fits], other[fits]
        partner[one], partner[other] = partner[other], partner[one]
    return partner


def conflict(image: np.ndarray, text: np.ndarray, prior: np.ndarray, *, rate: float = 0.1) -> np.ndarray:
    """Probability that the two modalities speak of different emotions, (..., N), if a share `rate` of all pairs does; NaN
    where one is missing.

    Bayes' rule: two items of one class have the joint density sum_k f_k t_k / p_k, two of different ones
    (1 - sum_k f_k t_k) / (1 - sum_k p_k^2), relative to items of independent classes; optimal for calibrated experts.
    """
    same = (image * text / prior).sum(-1)
    different = (1 - (image * text).sum(-1)) / (1 - (prior**2).sum())
    return rate * different / (rate * different + (1 - rate) * same)


def follow(fused: np.ndarray, image: np.ndarray, text: np.ndarray) -> np.ndarray:
    """Whose answer a fusion gives where the experts disagree: (3,) shares of text, image, neither. All (N,) classes."""
    apart = image != text
    kinds = [fused == text, fused == image, (fused != text) & (fused != image)]
    return np.array([kind[apart].mean() if apart.any() else np.nan for kind in kinds])


def additive(logits: np.ndarray) -> np.ndarray:
    """The additive part of a fusion on its own pairs: logits (M, M, K) of every image with every text -> (M, K).

    EMAP: mean over texts + mean over images - mean over both. What is lost by it is what the interaction was worth.
    Source: Hessel and Lee 2020, arXiv:2010.06572, equation 3.
    """
    return logits.mean(1) + logits.mean(0) - logits.mean((0, 1))
