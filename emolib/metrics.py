"""Predictions in, numbers out: scores, intervals, calibration, paired tests; choices from validation only.

Wherever probs are (N, K) float with rows that sum to 1 and labels (N,) int in [0, K).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy.optimize import minimize_scalar
from sklearn.linear_model import LogisticRegression
from statsmodels.stats.contingency_tables import mcnemar as _mcnemar
from statsmodels.stats.multitest import multipletests

from emolib.records import Facts, Predictions


class TestSplitError(ValueError):
    """Something was to be chosen or fitted on test items."""

    __test__ = False  # not a test class, whatever pytest thinks of its name


def validation_only(predictions: Predictions, what: str) -> None:
    """Raise TestSplitError unless all items are validation items."""
    if set(predictions.split) != {"validation"}:
        raise TestSplitError(
            f"{what} takes validation items only, found {', '.join(sorted(set(predictions.split))) or 'no items'}; "
            "pass predictions.validation"
        )


def choose(candidates: dict[str, Predictions], score: Callable[[Predictions], float]) -> str:
    """Name of the candidate with the highest score on validation items; of equals the first.

    Raises TestSplitError if any candidate holds other than validation items.
    """
    for name, candidate in candidates.items():
        validation_only(candidate, f"choose ({name})")
    return max(candidates, key=lambda name: score(candidates[name]))


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Counts, rows true, columns predicted: (K, K); with weights (R, N), one matrix a resample: (R, K, K).

    Accuracy, macro-F1 and recall are functions of this matrix, so their bootstrap is one matrix product.
    """
    cell = np.zeros((len(labels), classes * classes))
    cell[np.arange(len(labels)), labels * classes + predicted] = 1
    weights = np.ones((1, len(labels))) if weights is None else weights
    matrices = (weights @ cell).reshape(-1, classes, classes)
    return matrices if len(matrices) > 1 else matrices[0]


def accuracy(matrix: np.ndarray) -> np.ndarray:
    """Share of items on the diagonal of (..., K, K) counts."""
    return np.trace(matrix, axis1=-2, axis2=-1) / matrix.sum((-2, -1))


def recalls(matrix: np.ndarray) -> np.ndarray:
    """Recall of each class, (..., K); NaN for a class without items."""
    with np.errstate(invalid="ignore"):
        return np.diagonal(matrix, axis1=-2, axis2=-1) / matrix.sum(-1)


def macro_f1(matrix: np.ndarray) -> np.ndarray:
    """Mean F1 over the classes that occur or are predicted, as scikit-learn's f1_score(average="macro")."""
    hits = np.diagonal(matrix, axis1=-2, axis2=-1)
    total = matrix.sum(-1) + matrix.sum(-2)
    with np.errstate(invalid="ignore"):
        return np.nanmean(2 * hits / total, axis=-1)


def negative_log_likelihood(probs: np.ndarray, labels: np.ndarray) -> float:
    """Mean of -ln p(true class), probabilities clipped at 1e-12; nats."""
    return float(-np.log(np.clip(probs[np.arange(len(labels)), labels], 1e-12, None)).mean())


def brier(probs: np.ndarray, labels: np.ndarray) -> float:
    """Mean squared distance to the one-hot truth, summed over classes, in [0, 2] (Brier 1950)."""
    return float(((probs - np.eye(probs.shape[1])[labels]) ** 2).sum(1).mean())


def reliability(probs: np.ndarray, labels: np.ndarray, *, bins: int = 15) -> np.ndarray:
    """Confidence, accuracy and item count of equal-mass confidence bins: (at most `bins`, 3).

    Items of equal confidence stay in one bin, or the order of the file would decide which of them meet.

    Source: Guo et al. 2017, arXiv:1706.04599, with the equal-mass bins of Nguyen and O'Connor 2015.
    """
    if np.abs(probs.sum(1) - 1).max() > 1e-4:
        raise ValueError("a row of probs does not sum to 1 within 1e-4")
    confidence, hit = probs.max(1), probs.argmax(1) == labels
    order = np.argsort(confidence, kind="stable")
    lasts = np.cumsum([len(part) for part in np.array_split(order, bins)])
    ends = np.unique(np.searchsorted(confidence[order], confidence[order[lasts - 1]], side="right"))
    parts = np.split(order, ends[:-1])
    return np.array([[confidence[p].mean(), hit[p].mean(), len(p)] for p in parts])


def expected_calibration_error(probs: np.ndarray, labels: np.ndarray, *, bins: int = 15) -> float:
    """Gap between confidence and accuracy, averaged over equal-mass confidence bins.

    probs: (N, K) float, rows sum to 1. labels: (N,) int in [0, K). Returns a float in [0, 1]; 0 is perfect.
    Raises ValueError if a row of probs does not sum to 1 within 1e-4.
    Source: Guo et al. 2017, arXiv:1706.04599, eq. 3, with the equal-mass bins of Nguyen and O'Connor 2015.
    """
    table = reliability(probs, labels, bins=bins)
    return float((np.abs(table[:, 0] - table[:, 1]) * table[:, 2]).sum() / table[:, 2].sum())


def sharpen(probs: np.ndarray, temperature: float) -> np.ndarray:
    """softmax(ln p / T): T > 1 flattens, T < 1 sharpens; the order of the classes stays."""
    logits = np.log(np.clip(probs, 1e-12, None)) / temperature
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def fit_temperature(validation: Predictions) -> float:
    """The temperature with the lowest validation NLL of the seed-averaged posterior (Guo et al. 2017).

    Raises TestSplitError on other than validation items.
    """
    validation_only(validation, "fit_temperature")
    probs, labels = validation.posterior, validation.labels
    found = minimize_scalar(
        lambda t: negative_log_likelihood(sharpen(probs, np.exp(t)), labels), bounds=(-3, 3), method="bounded"
    )
    return float(np.exp(found.x))


def logistic(inputs: np.ndarray, labels: np.ndarray, classes: int, strength: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Weight (K, D) and bias (K,) of a multinomial logistic regression at its optimum; strength: scikit-learn's C.

    A class without an item gets the bias -30: it is never chosen.
    """
    # Newton's method reaches the optimum itself; lbfgs stops short of it, at a point that moves with the number of threads.
    fitted = LogisticRegression(C=strength, solver="newton-cholesky", tol=1e-8).fit(inputs, labels)
    weight, bias = np.zeros((classes, inputs.shape[1])), np.full(classes, -30.0)
    if len(fitted.classes_) == 2:  # scikit-learn keeps one row for two classes, the odds of the second
        weight[fitted.classes_[1]], bias[fitted.classes_] = fitted.coef_[0], [0.0, fitted.intercept_[0]]
    else:
        weight[fitted.classes_], bias[fitted.classes_] = fitted.coef_, fitted.intercept_
    return weight, bias


def resamples(groups: np.ndarray, *, count: int = 2000, seed: int = 0) -> np.ndarray:
    """Bootstrap weights: how often each item is drawn, (count, N). Items of one group (duplicates) are drawn together."""
    _, group = np.unique(groups, return_inverse=True)
    n = group.max() + 1
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=count)
    return draws[:, group].astype(np.float64)


def score(predictions: Predictions, *, groups: np.ndarray | None = None, count: int = 2000) -> dict:
    """Accuracy, macro-F1, recalls, ECE, NLL and Brier; the first two with 95 % bootstrap intervals and spread over seeds.

    Scores are means over seeds; an interval resamples items (all seeds alike; `groups` (N,) together).
    """
    labels, k = predictions.labels, len(predictions.classes)
    weights = resamples(np.arange(len(labels)) if groups is None else groups, count=count)
    chosen = predictions.probs.argmax(2)
    exact = np.stack([confusion(labels, guess, k) for guess in chosen])
    drawn = [confusion(labels, guess, k, weights) for guess in chosen]
    found: dict = {"n": len(labels), "seeds": len(chosen), "confusion": exact.mean(0), "recalls": recalls(exact).mean(0)}
    for name, measure in (("accuracy", accuracy), ("macro_f1", macro_f1)):
        values = measure(exact)
        found[name] = float(values.mean())
        found[f"{name}_sd"] = float(values.std(ddof=1)) if len(values) > 1 else None
        found[f"{name}_interval"] = tuple(np.percentile(np.mean([measure(m) for m in drawn], 0), [2.5, 97.5]).tolist())
    for name, measure in (("ece", expected_calibration_error), ("nll", negative_log_likelihood), ("brier", brier)):
        found[name] = float(np.mean([measure(p.astype(np.float64), labels) for p in predictions.probs]))
    return found


def auroc(truth: np.ndarray, score: np.ndarray, *, count: int = 2000, seed: int = 0) -> tuple[float, tuple[float, float]]:
    """Area under the ROC curve with a 95 % bootstrap interval over items. truth: (N,) bool; score: (N,), high means true.

    A tie counts half (Mann-Whitney). Weighted sums over the sorted scores, all resamples at once.
    """
    values, rank = np.unique(score, return_inverse=True)
    one = np.eye(2, dtype=bool)[truth.astype(int)].T  # false, true
    weights = np.random.default_rng(seed).multinomial(len(score), np.full(len(score), 1 / len(score)), size=count)
    areas = []
    for weight in np.concatenate([np.ones((1, len(score)), int), weights]):
        below, own = (np.bincount(rank[side], weight[side], minlength=len(values)) for side in one)
        areas.append((own * (np.cumsum(below) - below / 2)).sum() / (own.sum() * below.sum()))
    return float(areas[0]), tuple(np.percentile(areas[1:], [2.5, 97.5]).tolist())


def mcnemar(first: Predictions, second: Predictions) -> dict:
    """Exact McNemar test of two systems' seed-averaged decisions on the same items.

    Returns n10 (only the first is right), n01, difference in accuracy (first minus second) and the two-sided p.
    Raises ValueError if the items differ. Source: Dietterich 1998, Neural Computation 10(7).
    """
    if not np.array_equal(first.ids, second.ids) or not np.array_equal(first.labels, second.labels):
        raise ValueError("the two systems were not judged on the same items in the same order")
    a, b = (p.posterior.argmax(1) == p.labels for p in (first, second))
    table = [[int((a & b).sum()), int((a & ~b).sum())], [int((~a & b).sum()), int((~a & ~b).sum())]]
    n10, n01 = table[0][1], table[1][0]
    return {"n10": n10, "n01": n01, "difference": (n10 - n01) / len(a), "p": float(_mcnemar(table, exact=True).pvalue)}


def holm(p_values: list[float]) -> list[float]:
    """P values corrected for their number (Holm 1979)."""
    return multipletests(p_values, method="holm")[1].tolist() if p_values else []


def recall(ranks: np.ndarray, k: int) -> np.ndarray:
    """Recall at k of each direction: ranks (..., 2, N), how many others come before a query's partner -> (..., 2)."""
    return (ranks < k).mean(-1)


def mean_recall(ranks: np.ndarray) -> np.ndarray:
    """For each pair the mean of its six hits, at 1, 5 and 10 and in both directions: ranks (2, N) -> (N,) in [0, 1]."""
    return np.mean([ranks < k for k in (1, 5, 10)], axis=(0, 1))


def change(before: np.ndarray, after: np.ndarray, *, count: int = 2000) -> tuple[float, tuple[float, float]]:
    """Mean of after - before over the same items, with its 95 % bootstrap interval. before, after: (N,)."""
    gap = after.astype(float) - before.astype(float)
    drawn = resamples(np.arange(len(gap)), count=count) @ gap / len(gap)
    return float(gap.mean()), tuple(np.percentile(drawn, [2.5, 97.5]).tolist())


def majority(found: Predictions) -> Predictions:
    """What a system that always states validation's class shares would say of the test items that another one answered."""
    shares = np.bincount(found.validation.labels, minlength=len(found.classes)) / len(found.validation.labels)
    test = found.test
    return replace(test, probs=np.tile(shares, (1, len(test.labels), 1)).astype(np.float32), notes={}, arrays={})


def known(found: Facts) -> dict[str, np.ndarray]:
    """What a record of `generality.along` measured beside emotion: {name: (A, N)} one value an item and alpha."""
    tasks = {k.removeprefix("right."): v.astype(float) for k, v in found.arrays.items() if k.startswith("right.")}
    tasks.pop("emotion")
    return {"retrieval": np.stack([mean_recall(ranks) for ranks in found.arrays["ranks"]])} | tasks


def kept(found: Facts, half: int) -> np.ndarray:
    """Change of generality along the alphas, averaged over its measures: (A,), 0 at the encoder as it came.

    half: 0 for the items on which a trade-off is chosen (every other one), 1 for those on which it is reported.
    """
    return np.mean([(values - values[0])[:, half::2].mean(1) for values in known(found).values()], axis=0)


def trade_off(paths: dict[str, Facts], *, allowed: float = 0.01) -> tuple[str, float]:
    """The way and alpha with the best emotion accuracy on validation among those that lose at most `allowed` generality.

    paths: {way: record of `generality.along`}. Both are measured on items kept for choosing.
    """
    options = []
    for way, found in paths.items():
        loss, right = kept(found, 0), found.arrays["right.emotion"].mean(1)
        options += [(right[i], way, a) for i, a in enumerate(found.notes["alphas"]) if loss[i] >= -allowed]
    _, way, alpha = max(options, key=lambda option: option[0])
    return way, alpha


def harmonic(labels: np.ndarray, predicted: np.ndarray, unseen: list[int]) -> tuple[float, float, float]:
    """Accuracy on seen and on unseen classes, all classes allowed as answers, and their harmonic mean."""
    new, right = np.isin(labels, unseen), predicted == labels
    seen, other = float(right[~new].mean()), float(right[new].mean())
    return seen, other, 2 * seen * other / max(seen + other, 1e-12)
