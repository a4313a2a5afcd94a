"""Predictions in, numbers out: scores, intervals, calibration, paired tests; choices from validation only.

Wherever probs are (N, K) float with rows that sum to 1 and labels (N,) int in [0, K). Libraries that take a second to import
are imported where they are used: tables of scores need none of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np
from scipy.special import softmax

from emolib.results.predictions import Facts, Predictions

HESSIAN = 6000  # weights of a logistic regression up to which their second derivatives are computed


class TestSplitError(ValueError):
    """Something was to be chosen or fitted on test items."""


def validation_only(predictions: Predictions, what: str) -> None:
    """Raise TestSplitError unless all items are validation items."""
    if (found := set(predictions.split)) != {"validation"}:
        said = ", ".join(sorted(found)) or "no items"
        raise TestSplitError(f"{what} takes validation items only, found {said}; pass predictions.validation")


def choose(candidates: dict[str, Predictions], score: Callable[[Predictions], float]) -> str:
    """Name of the candidate with the highest score on validation items (TestSplitError on others); of equals the first."""
    for name, candidate in candidates.items():
        validation_only(candidate, f"choose ({name})")
    return max(candidates, key=lambda name: score(candidates[name]))


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Counts, rows true, columns predicted: (K, K); with weights (R, N), one matrix a resample: (R, K, K).

    Accuracy, macro-F1 and recall are functions of this matrix, so their bootstrap is one matrix product.
    """
    cell = np.zeros((len(labels), classes * classes), np.float32)  # float32 holds counts below 2**24 exactly
    cell[np.arange(len(labels)), labels * classes + predicted] = 1
    counts = cell.sum(0, dtype=float) if weights is None else (weights @ cell).astype(float)
    return counts.reshape(*counts.shape[:-1], classes, classes)


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


def expected_calibration_error(probs: np.ndarray, labels: np.ndarray, *, bins: int = 15) -> float:
    """Gap between confidence and accuracy, averaged over equal-mass confidence bins.

    probs: (N, K) float, rows sum to 1. labels: (N,) int in [0, K). Returns a float in [0, 1]; 0 is perfect.
    Raises ValueError if a row of probs does not sum to 1 within 1e-4.
    Source: Guo et al. 2017, arXiv:1706.04599, eq. 3, with the equal-mass bins of Nguyen and O'Connor 2015.
    """
    if np.abs(probs.sum(1) - 1).max() > 1e-4:
        raise ValueError("a row of probs does not sum to 1 within 1e-4")
    confidence, hit = probs.max(1), probs.argmax(1) == labels
    order = np.argsort(confidence, kind="stable")
    lasts = np.cumsum([len(part) for part in np.array_split(order, bins)])
    # Items of equal confidence stay in one bin, or the order of the file would decide which of them meet.
    ends = np.unique(np.searchsorted(confidence[order], confidence[order[lasts - 1]], side="right"))
    gaps = [abs(confidence[rows].mean() - hit[rows].mean()) * len(rows) for rows in np.split(order, ends[:-1])]
    return float(sum(gaps) / len(labels))


def sharpen(probs: np.ndarray, temperature: float) -> np.ndarray:
    """softmax(ln p / T): T > 1 flattens, T < 1 sharpens; the order of the classes stays."""
    return softmax(np.log(np.clip(probs, 1e-12, None)) / temperature, axis=-1)


def fit_temperature(validation: Predictions) -> float:
    """The temperature with the lowest validation NLL of the seed-averaged posterior (Guo et al. 2017).

    Raises TestSplitError on other than validation items.
    """
    from scipy.optimize import minimize_scalar

    validation_only(validation, "fit_temperature")
    probs, labels = validation.posterior, validation.labels
    found = minimize_scalar(
        lambda t: negative_log_likelihood(sharpen(probs, np.exp(t)), labels), bounds=(-3, 3), method="bounded"
    )
    return float(np.exp(found.x))


def favour_rare(found: Predictions) -> tuple[Predictions, float]:
    """A system that names rare classes more often, and the power: its posteriors divided by the class shares to that power.

    The shares are validation's; the power, of 0, 0.1 ... 1, is the one with the best macro-F1 on validation. The posteriors
    are then those of other class shares, so their calibration on these items says nothing.
    After Menon et al. 2021, arXiv:2007.07314 (there: the shares of Training, for the mean recall).
    """
    valid = found.validation
    counts = np.maximum(np.bincount(valid.labels, minlength=len(valid.classes)), 1)  # a class without items counts as one
    shares = counts / len(valid.labels)

    def divided(some: Predictions, power: float) -> Predictions:
        probs = some.probs / shares**power
        return replace(some, probs=(probs / probs.sum(-1, keepdims=True)).astype(np.float32))

    powers = {f"{i / 10:g}": divided(valid, i / 10) for i in range(11)}
    power = float(choose(powers, lambda p: score(p, count=0)["macro_f1"]))
    return divided(found, power), power


def logistic(inputs: np.ndarray, labels: np.ndarray, classes: int, strength: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Weight (K, D) and bias (K,) of a multinomial logistic regression at its optimum; strength: scikit-learn's C.

    A class without an item gets the bias -30: it is never chosen.
    """
    from sklearn.linear_model import LogisticRegression

    # Newton's method reaches the optimum itself; lbfgs stops short of it, at a point that moves with the number of threads, but
    # needs no matrix of all weights by all weights.
    how = {"solver": "newton-cholesky"} if classes * (inputs.shape[1] + 1) <= HESSIAN else {"solver": "lbfgs", "max_iter": 5000}
    fitted = LogisticRegression(C=strength, tol=1e-8, **how).fit(inputs, labels)
    weight, bias = np.zeros((classes, inputs.shape[1])), np.full(classes, -30.0)
    if len(fitted.classes_) == 2:  # scikit-learn keeps one row for two classes, the odds of the second
        weight[fitted.classes_[1]], bias[fitted.classes_] = fitted.coef_[0], [0.0, fitted.intercept_[0]]
    else:
        weight[fitted.classes_], bias[fitted.classes_] = fitted.coef_, fitted.intercept_
    return weight, bias


def resamples(groups: np.ndarray, *, count: int = 2000, seed: int = 0) -> np.ndarray:
    """Bootstrap weights, how often each item is drawn: (count, N) float32, read-only. Items of one group are drawn together.

    Equal arguments share one draw, so that systems judged on the same items do.
    """
    _, group = np.unique(groups, return_inverse=True)
    return _drawn(group.astype(np.int32).tobytes(), count, seed)


@lru_cache(maxsize=4)
def _drawn(groups: bytes, count: int, seed: int) -> np.ndarray:
    group = np.frombuffer(groups, np.int32)
    n = group.max() + 1
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=count).astype(np.float32)[:, group]
    weights.flags.writeable = False
    return weights


def percentiles(drawn: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of resampled values."""
    low, high = np.percentile(drawn, [2.5, 97.5]).tolist()
    return low, high


def score(predictions: Predictions, audit: Facts | None = None, count: int = 2000) -> dict:
    """Accuracy, macro-F1, recalls and ECE; the first two with spread over seeds and 95 % bootstrap intervals.

    Scores are means over seeds; an interval resamples items (all seeds alike; the duplicates of an `audit` together); count=0:
    no interval.
    """
    labels, k, n = predictions.labels, len(predictions.classes), len(predictions.labels)
    chosen = predictions.probs.argmax(2)
    exact, drawn = np.stack([confusion(labels, guess, k) for guess in chosen]), []
    if count:
        weights = resamples(np.arange(n) if audit is None else groups(predictions, audit), count=count)
        drawn = [confusion(labels, guess, k, weights) for guess in chosen]
    found: dict = {"n": n, "seeds": len(chosen), "confusion": exact.mean(0), "recalls": recalls(exact).mean(0)}
    for name, measure in (("accuracy", accuracy), ("macro_f1", macro_f1)):
        values = measure(exact)
        found[name] = float(values.mean())
        found[f"{name}_sd"] = float(values.std(ddof=1)) if len(values) > 1 else None
        found[f"{name}_interval"] = percentiles(np.mean([measure(m) for m in drawn], 0)) if drawn else None
    found["ece"] = float(np.mean([expected_calibration_error(p.astype(np.float64), labels) for p in predictions.probs]))
    return found


def hits(predictions: Predictions) -> np.ndarray:
    """(N,) float in [0, 1]: the share of the seeds that are right on each item; its mean is the accuracy of `score`."""
    return (predictions.probs.argmax(2) == predictions.labels).mean(0)


def change(before: np.ndarray, after: np.ndarray, count: int = 2000) -> tuple[float, tuple[float, float]]:
    """Mean of after - before over the same items, with its 95 % bootstrap interval. before, after: (N,)."""
    gap = after.astype(float) - before.astype(float)
    return float(gap.mean()), percentiles(resamples(np.arange(len(gap)), count=count) @ gap / len(gap))


def mcnemar(first: Predictions, second: Predictions) -> dict:
    """Exact McNemar test of two systems' seed-averaged decisions on the same items.

    Returns n10 (only the first is right), n01, difference in accuracy (first minus second) and the two-sided p.
    Raises ValueError if the items differ. Source: Dietterich 1998, Neural Computation 10(7).
    """
    from statsmodels.stats.contingency_tables import mcnemar as exact_test

    if not np.array_equal(first.ids, second.ids) or not np.array_equal(first.labels, second.labels):
        raise ValueError("the two systems were not judged on the same items in the same order")
    a, b = (p.predicted == p.labels for p in (first, second))
    n10, n01 = int((a & ~b).sum()), int((~a & b).sum())
    p = exact_test([[int((a & b).sum()), n10], [n01, int((~a & ~b).sum())]], exact=True).pvalue
    return {"n10": n10, "n01": n01, "difference": (n10 - n01) / len(a), "p": float(p)}


def holm(p_values: list[float]) -> list[float]:
    """P values corrected for their number (Holm 1979)."""
    from statsmodels.stats.multitest import multipletests

    return multipletests(p_values, method="holm")[1].tolist() if p_values else []


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
    return float(areas[0]), percentiles(areas[1:])


def groups(predictions: Predictions, audit: Facts) -> np.ndarray:
    """(N,) int: the audit's duplicate group of each item, so that the bootstrap draws duplicates together."""
    position = {number: i for i, number in enumerate(audit.arrays["ids"].tolist())}
    return audit.arrays["group"][[position[number] for number in predictions.ids.tolist()]]


def test_variants(predictions: Predictions, audit: Facts) -> dict[str, Predictions]:
    """The test items of a system, raw and stricter: without exact duplicates, without near ones, with FER+ labels if known.

    audit: the record of the same data's audit. Raises ValueError if it speaks of other items than the predictions.
    """
    if not np.array_equal(predictions.ids, audit.arrays["ids"]):
        raise ValueError("the audit and the predictions hold different items; record both anew from the same data")
    test, duplicate = predictions.split == "test", audit.arrays["duplicate"]
    parts = {"raw": test, "de-duplicated": test & (duplicate < 2), "no near duplicate": test & (duplicate == 0)}
    found = {name: predictions.rows(mask) for name, mask in parts.items()}
    labels = audit.arrays.get("ferplus", np.full(len(test), -1)).astype(int)
    if (keep := test & (labels >= 0)).any():
        found["FER+ labels"] = replace(predictions.rows(keep), labels=labels[keep])
    return found


def by_prompts(asked: Predictions) -> dict[str, Predictions]:
    """The predictions of each set of prompts, from a record of `heads.ask`."""
    found = {k.removeprefix("probs."): v for k, v in asked.arrays.items() if k.startswith("probs.")}
    return {name: replace(asked, probs=probs[None], arrays={}) for name, probs in found.items()}


def majority(found: Predictions) -> Predictions:
    """What a system that always states validation's class shares would say of the test items that another one answered."""
    shares = np.bincount(found.validation.labels, minlength=len(found.classes)) / len(found.validation.labels)
    test = found.test
    return replace(test, probs=np.tile(shares, (1, len(test.labels), 1)).astype(np.float32), notes={}, arrays={})


def known(mixtures: list[Facts]) -> dict[str, np.ndarray]:
    """What records of `generality.mixtures`, one a seed, measured beside emotion: {name: (A, N)}, the seeds' mean.

    Retrieval: for each pair the mean of its six hits, at 1, 5 and 10 and in both directions.
    """
    each = [np.mean([one.arrays["ranks"] < k for k in (1, 5, 10)], axis=(0, 2)) for one in mixtures]
    found = {"retrieval": np.mean(each, axis=0)}
    names = [name for name in mixtures[0].arrays if name.startswith("right.") and name != "right.emotion"]
    return found | {name.removeprefix("right."): np.mean([one.arrays[name] for one in mixtures], axis=0) for name in names}


def emotion(mixtures: list[Facts]) -> np.ndarray:
    """The same of emotion, right or wrong on validation items: (A, V)."""
    return np.mean([one.arrays["right.emotion"] for one in mixtures], axis=0)


def kept(mixtures: list[Facts], half: int) -> np.ndarray:
    """Change of generality along the alphas, averaged over its measures: (A,), 0 for the pretrained encoder.

    half: 0 for the items on which a trade-off is chosen (every other one), 1 for those on which it is reported.
    """
    return np.mean([(values - values[0])[:, half::2].mean(1) for values in known(mixtures).values()], axis=0)


def kept_at(mixtures: list[Facts], place: int) -> tuple[float, tuple[float, float]]:
    """Change of generality at one alpha on the items kept for reporting, with its 95 % interval over items."""
    gaps = [(values[place] - values[0])[1::2] for values in known(mixtures).values()]
    mean = float(np.mean([gap.mean() for gap in gaps]))
    half = 1.96 * np.sqrt(sum(gap.var() / len(gap) for gap in gaps)) / len(gaps)
    return mean, (mean - half, mean + half)


def trade_off(mixtures: dict[str, list[Facts]], *, allowed: float = 0.01) -> tuple[str, float]:
    """The method and alpha with the best emotion accuracy on validation among those that lose at most `allowed` generality.

    mixtures: {method: records of `generality.mixtures`, one a seed}. Both are measured on items kept for choosing.
    """
    options = []
    for method, found in mixtures.items():
        loss, right = kept(found, 0), emotion(found).mean(1)
        options += [(right[i], method, a) for i, a in enumerate(found[0].notes["alphas"]) if loss[i] >= -allowed]
    _, method, alpha = max(options, key=lambda option: option[0])
    return method, alpha


def judged_probe(mixtures: list[Facts], probe: Predictions) -> float:
    """Accuracy of the linear probe on the validation items that `generality.mixtures` judged emotion on."""
    validation = probe.validation
    rows = np.random.default_rng(0).permutation(len(validation.labels))[: mixtures[0].arrays["right.emotion"].shape[1]]
    return float((validation.predicted == validation.labels)[rows].mean())
