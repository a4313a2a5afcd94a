import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, brier_score_loss, confusion_matrix, f1_score, log_loss, recall_score

from emolib import metrics
from emolib.records import Facts, Predictions


def make(rng, n=200, k=4, seeds=2, split="test", sharp=2.0):
    labels = rng.integers(0, k, n)
    logits = rng.normal(0, 1, (seeds, n, k)) + sharp * np.eye(k)[labels]
    probs = np.exp(logits) / np.exp(logits).sum(2, keepdims=True)
    names = tuple("abcdefgh"[:k])
    return Predictions(np.array([split] * n), np.arange(n), labels, probs.astype(np.float32), names, "f", "made")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(20, 120))
def test_scores_equal_scikit_learn(seed, k, n):
    data = make(np.random.default_rng(seed), n=n, k=k, seeds=1)
    probs, labels = data.posterior / data.posterior.sum(1, keepdims=True), data.labels
    guess = probs.argmax(1)
    matrix = metrics.confusion(labels, guess, k)
    assert np.array_equal(matrix, confusion_matrix(labels, guess, labels=range(k)))
    assert metrics.accuracy(matrix) == pytest.approx(accuracy_score(labels, guess))
    present = sorted(set(labels) | set(guess))
    assert metrics.macro_f1(matrix) == pytest.approx(f1_score(labels, guess, average="macro", labels=present))
    seen = sorted(set(labels))
    assert metrics.recalls(matrix)[seen] == pytest.approx(recall_score(labels, guess, labels=seen, average=None))
    assert metrics.negative_log_likelihood(probs, labels) == pytest.approx(log_loss(labels, probs, labels=range(k)), rel=1e-6)
    one_hot = np.eye(k)[labels]
    by_class = [brier_score_loss(one_hot[:, c], probs[:, c]) for c in range(k)]
    assert metrics.brier(probs, labels) == pytest.approx(sum(by_class), rel=1e-6)


def test_calibration_error_by_hand():
    probs = np.array([[0.9, 0.1]] * 10 + [[0.6, 0.4]] * 10)
    labels = np.array([0] * 9 + [1] + [0] * 3 + [1] * 7)
    assert metrics.expected_calibration_error(probs, labels, bins=2) == pytest.approx((0.0 + 0.3) / 2)
    assert metrics.reliability(probs, labels, bins=2)[:, 2].tolist() == [10, 10]
    # equal confidences are one bin, in whatever order their items come
    same, truth = np.tile([0.7, 0.3], (20, 1)), np.repeat([0, 1], [13, 7])
    assert metrics.reliability(same, truth).tolist() == [[pytest.approx(0.7), 0.65, 20]]
    assert metrics.expected_calibration_error(same, truth) == pytest.approx(0.05)
    with pytest.raises(ValueError, match="sum to 1"):
        metrics.expected_calibration_error(probs * 1.01, labels)


def test_a_temperature_mends_what_it_bent():
    rng = np.random.default_rng(0)
    honest = rng.dirichlet([1, 1, 1], 6000)
    labels = np.array([rng.choice(3, p=p) for p in honest])
    bent = metrics.sharpen(honest, 0.5)  # too sure by a factor of two
    data = Predictions(
        np.array(["validation"] * 6000), np.arange(6000), labels, bent[None].astype(np.float32), ("a", "b", "c"), "f", "made"
    )
    assert metrics.fit_temperature(data) == pytest.approx(2.0, rel=0.1)
    assert np.allclose(metrics.sharpen(honest, 1.0), honest)
    assert (metrics.sharpen(honest, 3.0).argmax(1) == honest.argmax(1)).all()


def test_choosing_on_test_is_impossible():
    rng = np.random.default_rng(0)
    good, bad = make(rng, split="validation", sharp=4), make(rng, split="validation", sharp=0)

    def score(p):
        return (p.posterior.argmax(1) == p.labels).mean()

    assert metrics.choose({"bad": bad, "good": good}, score) == "good"
    assert metrics.choose({"first": good, "second": good}, score) == "first"
    test = make(rng, split="test")
    mixed = Predictions(
        np.array(["validation"] * 100 + ["test"] * 100), test.ids, test.labels, test.probs, test.classes, "f", "made"
    )
    for wrong in (test, mixed):
        with pytest.raises(metrics.TestSplitError, match="validation items only"):
            metrics.choose({"a": good, "b": wrong}, score)
        with pytest.raises(metrics.TestSplitError, match=r"predictions\.validation"):
            metrics.fit_temperature(wrong)
    assert metrics.fit_temperature(mixed.validation) > 0


def test_bootstrap_interval_covers_and_groups_widen_it():
    rng = np.random.default_rng(1)
    data = make(rng, n=400, seeds=1)
    hit = (data.posterior.argmax(1) == data.labels).mean()
    low, high = metrics.score(data)["accuracy_interval"]
    half = 1.96 * np.sqrt(hit * (1 - hit) / 400)
    assert low == pytest.approx(hit - half, abs=0.012) and high == pytest.approx(hit + half, abs=0.012)
    copies = data.rows(np.repeat(np.arange(100), 4))
    alone, together = metrics.score(copies), metrics.score(copies, groups=np.repeat(np.arange(100), 4))
    widths = [np.diff(s["accuracy_interval"])[0] for s in (alone, together)]
    assert widths[1] == pytest.approx(2 * widths[0], rel=0.15)  # four copies are one item: half the root


def test_resamples_draw_groups_whole_and_keep_their_number():
    weights = metrics.resamples(np.array([5, 5, 7, 9]), count=50)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, [0, 2, 3]].sum(1) == 3).all()
    assert np.array_equal(weights, metrics.resamples(np.array([5, 5, 7, 9]), count=50))


def test_scores_are_means_over_seeds():
    data = make(np.random.default_rng(2), seeds=3)
    each = [(p.argmax(1) == data.labels).mean() for p in data.probs]
    found = metrics.score(data)
    assert found["accuracy"] == pytest.approx(np.mean(each)) and found["accuracy_sd"] == pytest.approx(np.std(each, ddof=1))
    assert found["accuracy_interval"][0] < found["accuracy"] < found["accuracy_interval"][1]


def test_mcnemar_by_hand_and_only_on_the_same_items():
    rng = np.random.default_rng(3)
    a, b = make(rng, seeds=1), make(rng, seeds=1)
    b = Predictions(a.split, a.ids, a.labels, b.probs, a.classes, "f", "made")
    found = metrics.mcnemar(a, b)
    right_a, right_b = (p.posterior.argmax(1) == p.labels for p in (a, b))
    assert found["n10"] == (right_a & ~right_b).sum() and found["n01"] == (~right_a & right_b).sum()
    assert found["difference"] == pytest.approx(right_a.mean() - right_b.mean())
    assert metrics.mcnemar(a, a)["p"] == 1
    with pytest.raises(ValueError, match="same items"):
        metrics.mcnemar(a, b.rows(np.arange(199)))


def test_holm_by_hand():
    assert metrics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert metrics.holm([]) == []


def paths(alphas=(0.0, 0.5, 1.0), n=400, seed=0):
    """A way of tuning whose emotion accuracy rises and whose generality falls along alpha."""
    rng = np.random.default_rng(seed)
    ranks = np.stack([rng.integers(0, 10 + round(80 * a), (2, n)) for a in alphas])
    task = np.stack([rng.random(n) < 0.9 - 0.4 * a for a in alphas])
    emotion = np.stack([rng.random(n) < 0.3 + 0.4 * a for a in alphas])
    return Facts("f", "made", {"alphas": list(alphas)}, {"ranks": ranks, "right.task": task, "right.emotion": emotion})


def test_recall_and_mean_recall_by_hand():
    ranks = np.array([[0, 4, 20], [1, 0, 9]])
    assert metrics.recall(ranks, 1).tolist() == [1 / 3, 1 / 3] and metrics.recall(ranks, 10).tolist() == [2 / 3, 1.0]
    assert np.allclose(metrics.mean_recall(ranks), [5 / 6, 5 / 6, 1 / 6])


def test_change_is_paired():
    rng = np.random.default_rng(0)
    before = rng.random(1000) < 0.5
    after = before.copy()
    after[:30] = ~after[:30]
    value, (low, high) = metrics.change(before, after)
    assert np.isclose(value, after.mean() - before.mean()) and low <= value <= high
    assert high - low < 0.03  # unpaired it would be four times as wide
    assert metrics.change(before, before) == (0.0, (0.0, 0.0))


def test_the_trade_off_obeys_its_limit_and_is_chosen_on_one_half():
    found = {"a": paths(), "b": paths(seed=1)}
    assert metrics.trade_off(found, allowed=1.0)[1] == 1.0
    assert metrics.trade_off(found, allowed=0.01)[1] == 0.0
    for half in (0, 1):
        assert metrics.kept(found["a"], half)[0] == 0 and metrics.kept(found["a"], half)[2] < -0.2
    changed = paths()
    for values in changed.arrays.values():
        if len(values) == 3:
            values[..., 1::2] = values[..., 1::2][..., ::-1]  # the half for reporting is not looked at
    changed.arrays["right.emotion"][:] = found["a"].arrays["right.emotion"]
    assert metrics.trade_off({"a": changed}, allowed=0.2) == metrics.trade_off({"a": found["a"]}, allowed=0.2)


def test_harmonic_by_hand():
    labels, predicted = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 1, 1, 2, 0])
    assert np.allclose(metrics.harmonic(labels, predicted, [2]), (0.75, 0.5, 0.6))


def test_auroc_is_that_of_scikit_learn_and_its_interval_holds_it():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    truth = rng.random(300) < 0.4
    score = np.round(rng.normal(truth * 0.8, 1), 1)  # with ties
    area, (low, high) = metrics.auroc(truth, score)
    assert area == pytest.approx(roc_auc_score(truth, score), abs=1e-12) and 0.05 < high - low < 0.2 and low < area < high
    drawn = rng.integers(0, 300, (500, 300))
    others = np.percentile([roc_auc_score(truth[rows], score[rows]) for rows in drawn], [2.5, 97.5])
    assert np.allclose(others, (low, high), atol=0.01), "as many resamples one by one"


def test_majority_states_validations_shares():
    rng = np.random.default_rng(0)
    data = make(rng)
    data = dataclasses.replace(data, split=np.repeat(["validation", "test"], 100))
    found = metrics.majority(data)
    shares = np.bincount(data.labels[:100], minlength=4) / 100
    assert np.allclose(found.probs, shares) and found.probs.shape == (1, 100, 4) and set(found.split) == {"test"}
