import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from emolib.results import metrics
from emolib.results.predictions import Facts, Predictions


def random_predictions(seed, n, k):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(k), (1, n)).astype(np.float32)
    return Predictions(np.array(["test"] * n), np.arange(n), rng.integers(0, k, n), probs, tuple("abcdefgh"[:k]), "f", "made")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(20, 120))
def test_scores_equal_scikit_learn(seed, k, n):
    data = random_predictions(seed, n, k)
    probs, labels, guess = data.posterior / data.posterior.sum(1, keepdims=True), data.labels, data.predicted
    matrix = metrics.confusion(labels, guess, k)
    assert np.array_equal(matrix, reference.confusion_matrix(labels, guess, labels=range(k)))
    assert metrics.accuracy(matrix) == pytest.approx(reference.accuracy_score(labels, guess))
    present = sorted(set(labels) | set(guess))
    assert metrics.macro_f1(matrix) == pytest.approx(reference.f1_score(labels, guess, average="macro", labels=present))
    seen = sorted(set(labels))
    assert metrics.recalls(matrix)[seen] == pytest.approx(reference.recall_score(labels, guess, labels=seen, average=None))
    assert metrics.negative_log_likelihood(probs, labels) == pytest.approx(
        reference.log_loss(labels, probs, labels=range(k)), rel=1e-6
    )
    weights = metrics.resamples(np.arange(n), count=3)
    counted = [reference.confusion_matrix(labels, guess, labels=range(k), sample_weight=w) for w in weights]
    assert np.array_equal(metrics.confusion(labels, guess, k, weights), counted)


def test_calibration_error_by_hand():
    probs = np.array([[0.9, 0.1]] * 10 + [[0.6, 0.4]] * 10)
    labels = np.array([0] * 9 + [1] + [0] * 3 + [1] * 7)
    assert metrics.expected_calibration_error(probs, labels, bins=2) == pytest.approx((0.0 + 0.3) / 2)
    # equal confidences are one bin, in whatever order their items come
    same, truth = np.tile([0.7, 0.3], (20, 1)), np.repeat([0, 1], [13, 7])
    assert metrics.expected_calibration_error(same, truth) == pytest.approx(0.05)
    with pytest.raises(ValueError, match="sum to 1"):
        metrics.expected_calibration_error(probs * 1.01, labels)


def test_a_temperature_mends_what_it_bent():
    rng = np.random.default_rng(0)
    honest = rng.dirichlet([1, 1, 1], 6000)
    labels = np.array([rng.choice(3, p=p) for p in honest])
    bent = metrics.sharpen(honest, 0.5)[None].astype(np.float32)  # too sure by a factor of two
    data = Predictions(np.array(["validation"] * 6000), np.arange(6000), labels, bent, ("a", "b", "c"), "f", "made")
    assert metrics.fit_temperature(data) == pytest.approx(2.0, rel=0.1)
    assert np.allclose(metrics.sharpen(honest, 1.0), honest)
    assert np.allclose(metrics.sharpen(np.array([[0.8, 0.2]]), 2.0), [[2 / 3, 1 / 3]]), "roots of 4 to 1"
    assert (metrics.sharpen(honest, 3.0).argmax(1) == honest.argmax(1)).all()


def test_rare_classes_are_favoured_as_far_as_validation_says():
    """Nine of ten items are "often"; a model that learned these shares names "rare" too seldom for macro-F1."""
    rng = np.random.default_rng(0)
    labels = (rng.random(4000) < 0.1).astype(int)
    odds = np.exp(1.5 * (2 * labels - 1) + 1.5 * rng.normal(size=4000)) / 9  # rare against often, shares and all
    probs = np.stack([1 / (1 + odds), odds / (1 + odds), np.full(4000, 1e-9)], 1)[None].astype(np.float32)
    split = np.repeat(["validation", "test"], 2000)
    found = Predictions(split, np.arange(4000), labels, probs, ("often", "rare", "never"), "f", "made")
    fair, power = metrics.favour_rare(found)
    shares = np.bincount(labels[:2000], minlength=3) / 2000
    by_hand = probs[0] / np.maximum(shares, 1 / 2000) ** power
    assert 0 < power < 1 and np.allclose(fair.probs[0], by_hand / by_hand.sum(1, keepdims=True), atol=1e-6)
    assert (fair.posterior.argmax(1) != 2).all(), "a class without items is favoured without end"
    before, after = (metrics.score(some.test, count=0)["macro_f1"] for some in (found, fair))
    assert after > before + 0.02
    swapped = np.where(split == "test", 1 - labels, labels)
    assert metrics.favour_rare(dataclasses.replace(found, labels=swapped))[1] == power, "the power looks at test items"


def test_a_logistic_regression_is_that_of_scikit_learn_and_never_names_an_unseen_class(monkeypatch):
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    inputs = rng.normal(0, 1, (200, 3))
    for known in ((0, 2, 3), (1, 3)):  # two classes are another parametrisation
        labels = np.array(known)[inputs[:, : len(known)].argmax(1)]
        weight, bias = metrics.logistic(inputs, labels, 5, 2.0)
        logits = inputs @ weight.T + bias
        probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        wanted = LogisticRegression(C=2.0, tol=1e-8, max_iter=1000).fit(inputs, labels).predict_proba(inputs)
        assert np.allclose(probs[:, known], wanted, atol=1e-4)
        assert not set(probs.argmax(1)) - set(known)
        with monkeypatch.context() as patch:  # of many classes and dimensions, without all second derivatives
            patch.setattr(metrics, "HESSIAN", 0)
            again = metrics.logistic(inputs, labels, 5, 2.0)
        assert np.allclose(again[0], weight, atol=1e-4) and np.allclose(again[1], bias, atol=1e-4)


def test_choosing_on_test_is_impossible(make):
    good, bad = make(n=100, validation=100, sharp=4), make(n=100, validation=100, sharp=0)

    def score(p):
        return (p.predicted == p.labels).mean()

    assert metrics.choose({"bad": bad, "good": good}, score) == "good"
    assert metrics.choose({"first": good, "second": good}, score) == "first"
    mixed = make(validation=100)
    for wrong in (make(), mixed, mixed.rows(np.zeros(0, int))):
        with pytest.raises(metrics.TestSplitError, match="validation items only"):
            metrics.choose({"a": good, "b": wrong}, score)
        with pytest.raises(metrics.TestSplitError, match=r"predictions\.validation"):
            metrics.fit_temperature(wrong)
    assert metrics.fit_temperature(mixed.validation) > 0


def test_bootstrap_interval_covers_and_groups_widen_it(make):
    data = make(n=400, seeds=1)
    hit = (data.predicted == data.labels).mean()
    half = 1.96 * np.sqrt(hit * (1 - hit) / 400)
    assert metrics.score(data)["accuracy_interval"] == pytest.approx((hit - half, hit + half), abs=0.012)
    copies = data.rows(np.repeat(np.arange(100), 4))
    audit = Facts("f", "made", {}, {"ids": copies.ids, "group": copies.ids})
    alone, together = metrics.score(copies), metrics.score(copies, audit)
    widths = [np.diff(s["accuracy_interval"])[0] for s in (alone, together)]
    assert widths[1] == pytest.approx(2 * widths[0], rel=0.15)  # four copies are one item: half the root


def test_resamples_draw_groups_whole_once_for_all_systems():
    weights = metrics.resamples(np.array([5, 5, 7, 9]), count=50)
    assert (weights[:, 0] == weights[:, 1]).all() and (weights[:, [0, 2, 3]].sum(1) == 3).all()
    assert metrics.resamples(np.array([1, 1, 2, 3]), count=50) is weights, "the same groups, whatever their numbers"
    mixed = metrics.resamples(np.array([3, 1, 3, 2]), count=50)
    assert np.array_equal(mixed[:, 0], mixed[:, 2]) and not np.array_equal(mixed[:, 0], mixed[:, 1])
    assert not np.array_equal(metrics.resamples(np.array([1, 2, 2, 3]), count=50), weights)
    assert not np.array_equal(metrics.resamples(np.array([1, 1, 2, 3]), count=50, seed=1), weights)
    with pytest.raises(ValueError, match="read-only"):
        weights[0] = 0


def test_scores_are_means_over_seeds(make):
    data = make(seeds=3)
    each = [(p.argmax(1) == data.labels).mean() for p in data.probs]
    found = metrics.score(data)
    assert found["accuracy"] == pytest.approx(np.mean(each)) and found["accuracy_sd"] == pytest.approx(np.std(each, ddof=1))
    assert found["accuracy_interval"][0] < found["accuracy"] < found["accuracy_interval"][1]
    assert metrics.hits(data).mean() == pytest.approx(found["accuracy"])
    quick = metrics.score(data, count=0)
    assert quick["accuracy_interval"] is None and quick["macro_f1"] == found["macro_f1"]
    assert metrics.score(make(seeds=1))["accuracy_sd"] is None


def test_mcnemar_by_hand_and_only_on_the_same_items(make):
    a, b = make(seeds=1), make(seeds=1)
    b = dataclasses.replace(b, probs=b.probs[:, ::-1])
    found = metrics.mcnemar(a, b)
    right_a, right_b = (p.predicted == p.labels for p in (a, b))
    assert found["n10"] == (right_a & ~right_b).sum() and found["n01"] == (~right_a & right_b).sum()
    assert found["difference"] == pytest.approx(right_a.mean() - right_b.mean())
    assert metrics.mcnemar(a, a)["p"] == 1
    with pytest.raises(ValueError, match="same items"):
        metrics.mcnemar(a, b.rows(np.arange(299)))


def test_holm_by_hand():
    assert metrics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert metrics.holm([]) == []


def test_change_is_paired():
    before = np.random.default_rng(0).random(1000) < 0.5
    after = before.copy()
    after[:30] = ~after[:30]
    value, (low, high) = metrics.change(before, after)
    assert np.isclose(value, after.mean() - before.mean()) and low <= value <= high
    assert high - low < 0.03  # unpaired it would be four times as wide
    assert metrics.change(before, before) == (0.0, (0.0, 0.0))


def test_auroc_is_that_of_scikit_learn_and_its_interval_holds_it():
    rng = np.random.default_rng(0)
    truth = rng.random(300) < 0.4
    score = np.round(rng.normal(truth * 0.8, 1), 1)  # with ties
    area, (low, high) = metrics.auroc(truth, score)
    assert (
        area == pytest.approx(reference.roc_auc_score(truth, score), abs=1e-12) and 0.05 < high - low < 0.2 and low < area < high
    )
    drawn = rng.integers(0, 300, (500, 300))
    others = np.percentile([reference.roc_auc_score(truth[rows], score[rows]) for rows in drawn], [2.5, 97.5])
    assert np.allclose(others, (low, high), atol=0.01), "as many resamples one by one"


def test_test_variants_leave_out_what_the_audit_marks(make):
    found = make(n=10, validation=4)
    group, ferplus = np.arange(10) % 7, np.array([0, 0, 0, 0, 3, -1, -1, 2, -1, -1])
    arrays = {"ids": found.ids, "group": group, "duplicate": np.array([0, 0, 0, 0, 2, 1, 0, 0, 2, 0]), "ferplus": ferplus}
    variants = metrics.test_variants(found, Facts("f", "made", {}, arrays))
    ids = {name: p.ids.tolist() for name, p in variants.items()}
    assert ids == {
        "raw": [4, 5, 6, 7, 8, 9],
        "de-duplicated": [5, 6, 7, 9],
        "no near duplicate": [6, 7, 9],
        "FER+ labels": [4, 7],
    }
    assert variants["FER+ labels"].labels.tolist() == [3, 2]
    assert "FER+ labels" not in metrics.test_variants(found, Facts("f", "made", {}, arrays | {"ferplus": np.full(10, -1)}))
    assert metrics.groups(found.test, Facts("f", "made", {}, arrays)).tolist() == group[4:].tolist()
    with pytest.raises(ValueError, match="different items"):
        metrics.test_variants(found, Facts("f", "made", {}, arrays | {"ids": found.ids[::-1]}))


def test_majority_and_prompts_keep_the_items(make):
    data = make(n=200, validation=100, arrays={"probs.one": make(n=200).probs[1], "other": np.zeros(3)})
    found = metrics.majority(data)
    assert np.allclose(found.probs, np.bincount(data.labels[:100], minlength=4) / 100)
    assert found.probs.shape == (1, 100, 4) and set(found.split) == {"test"}
    (name, asked), = metrics.by_prompts(data).items()  # fmt: skip
    assert name == "one" and np.array_equal(asked.probs[0], data.arrays["probs.one"]) and np.array_equal(asked.ids, data.ids)


def test_the_trade_off_obeys_its_limit_and_is_chosen_on_one_half(mixtures):
    rng = np.random.default_rng(0)
    order = rng.permutation(100)
    mixed = dataclasses.replace(mixtures, arrays={k: v[..., order] for k, v in mixtures.arrays.items()})
    mixed.arrays["right.task"] = mixed.arrays["right.emotion"][::-1]
    assert set(metrics.known([mixed])) == {"retrieval", "task"}
    by_hand = dataclasses.replace(mixtures, arrays={"ranks": np.array([[[0, 4, 20], [1, 0, 9]]])})
    assert np.allclose(metrics.known([by_hand])["retrieval"], [[5 / 6, 5 / 6, 1 / 6]])
    assert metrics.kept([mixed], 0)[0] == 0 and np.mean([metrics.kept([mixed], h)[2] for h in (0, 1)]) == pytest.approx(-0.4)
    value, (low, high) = metrics.kept_at([mixed], 2)
    assert (
        value == pytest.approx(metrics.kept([mixed], 1)[2]) and low < value < high and high - value == pytest.approx(value - low)
    )
    assert metrics.kept_at([mixed], 0) == (0, (0, 0))
    assert metrics.trade_off({"a": [mixed]}, allowed=1.0) == ("a", 1.0)
    assert metrics.trade_off({"a": [mixed]}, allowed=0.01) == ("a", 0.0)
    seen = metrics.trade_off({"a": [mixed]}, allowed=0.2)
    for name in ("ranks", "right.task"):
        mixed.arrays[name][..., 1::2] = mixed.arrays[name][..., 1::2][::-1]  # the half for reporting is not looked at
    assert metrics.trade_off({"a": [mixed]}, allowed=0.2) == seen


def test_the_probe_is_judged_on_the_mixtures_items(make):
    probe = make(n=400, seeds=1, validation=200)
    found = Facts("f", "made", {}, {"right.emotion": np.zeros((3, 50), bool)})
    rows = np.random.default_rng(0).permutation(200)[:50]
    assert metrics.judged_probe([found], probe) == (probe.validation.predicted == probe.validation.labels)[rows].mean()
