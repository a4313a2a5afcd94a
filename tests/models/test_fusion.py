"""Fusion rules: the null model is Bayes' rule, a missing modality is the other one, re-pairing touches no single modality."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import multivariate_normal

from emolib.data.labels import SHARED_CLASSES, TEXT_CLASSES
from emolib.models import fusion
from emolib.results import metrics
from emolib.results.predictions import Facts, Predictions

K = len(SHARED_CLASSES)
PRIOR = np.array([0.3, 0.1, 0.35, 0.2, 0.05])


def world(n, *, seed=0, spread=1.0):
    """Two modalities, normal around a centre per class, independent given it; their exact posteriors, and the joint one."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(K, n, p=PRIOR)
    likelihoods = []
    for side in range(2):
        centres = np.random.default_rng(10 + side).normal(0, 1, (K, 3))
        points = centres[labels] + rng.normal(0, spread, (n, 3))
        likelihoods.append(np.stack([multivariate_normal(c, spread**2).logpdf(points) for c in centres], 1))
    bayes = [normal(x + np.log(PRIOR)) for x in (*likelihoods, likelihoods[0] + likelihoods[1])]
    return labels, *bayes


def normal(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def judged(labels, probs, split="validation", ids=None):
    n = len(labels)
    ids = np.arange(n) if ids is None else ids
    return Predictions(np.full(n, split), ids, labels, probs[None].astype(np.float32), SHARED_CLASSES, "", "simulated")


def test_the_product_of_calibrated_experts_is_the_analytic_posterior():
    labels, image, text, both = world(500)
    assert np.abs(fusion.product(image, text, PRIOR) - both).max() < 1e-12
    hits = [(p.argmax(1) == labels).mean() for p in (image, text, both)]
    assert hits[2] > max(hits[:2]) + 0.05


def rules(labels, image, text):
    stacking = fusion.stack(image, text, judged(labels, image))
    return {
        "product": lambda f, t: fusion.product(f, t, PRIOR), "mean": fusion.mean, "confidence": fusion.confidence_weighted,
        "stacking": stacking,
    }  # fmt: skip


def test_the_surer_modality_weighs_more_and_one_that_knows_nothing_not_at_all():
    sure, torn, nothing = np.array([[0.97, 0.01, 0.01, 0.01]]), np.array([[0.1, 0.4, 0.4, 0.1]]), np.full((1, 4), 0.25)
    for first, second in ((sure, torn), (torn, sure)):
        weighed = fusion.confidence_weighted(first, second)
        assert np.abs(weighed - sure).sum() < np.abs(weighed - torn).sum() and np.allclose(weighed.sum(1), 1)
    assert np.allclose(fusion.confidence_weighted(nothing, torn), torn, atol=1e-6)


@pytest.mark.parametrize("name", ["product", "mean", "confidence", "stacking"])
def test_a_missing_modality_gives_exactly_the_other_expert(name):
    labels, image, text, _ = world(200)
    rule = rules(labels, image, text)[name]
    gone = np.full_like(image, np.nan)
    half = image.copy()
    half[::2] = np.nan
    assert np.array_equal(fusion.fuse(rule, gone, text, PRIOR), text)
    assert np.array_equal(fusion.fuse(rule, image, gone, PRIOR), image)
    assert np.array_equal(fusion.fuse(rule, gone, gone, PRIOR), np.tile(PRIOR, (200, 1)))
    mixed = fusion.fuse(rule, half, text, PRIOR)
    assert np.array_equal(mixed[::2], text[::2]) and np.allclose(mixed[1::2], rule(image, text)[1::2])
    assert np.allclose(mixed.sum(1), 1)


@given(st.integers(0, 10_000))
def test_a_uniform_expert_adds_nothing_to_the_product(seed):
    expert = np.random.default_rng(seed).dirichlet(np.ones(K), 20)
    fused = fusion.product(expert, np.tile(PRIOR, (20, 1)), PRIOR)
    assert np.allclose(fused, expert, atol=1e-9)


def test_re_pairing_keeps_labels_uses_each_text_once_and_touches_no_single_modality():
    labels, image, text, _ = world(300)
    pairings = fusion.repairings(labels, 50)
    assert (np.sort(pairings, 1) == np.arange(300)).all() and (labels[pairings] == labels).all()
    assert len(np.unique(pairings, axis=0)) == 50
    alone = (text.argmax(1) == labels).mean()
    assert all((text[p].argmax(1) == labels).mean() == alone for p in pairings)
    fused = fusion.product(image, text[pairings], PRIOR).argmax(2) == labels
    assert fused.mean(1).std() > 0


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_conflict_pairs_have_the_wanted_rate_and_each_text_once(rate):
    labels = world(400)[0]
    partner = fusion.conflicts(labels, rate)
    assert sorted(partner) == list(range(400))
    assert (labels[partner] != labels).mean() == pytest.approx(rate, abs=1e-9)
    if rate == 1:  # every two classes meet
        assert len({(a, b) for a, b in zip(labels, labels[partner], strict=True)}) == K * (K - 1)


def test_a_conflict_pairing_that_exists_is_found_where_one_class_could_fill_half():
    labels = np.repeat([0, 1, 2], [3, 43, 30])  # 19 conflicts: nine, nine and one
    for seed in range(20):
        assert (labels[fusion.conflicts(labels, 0.25, seed=seed)] != labels).sum() == 19


def test_no_conflict_pairing_of_one_class():
    with pytest.raises(ValueError, match="8 of 10 pairs have one class"):
        fusion.conflicts(np.array([0] * 8 + [1, 2]), 1.0)


def test_the_conflict_score_is_bayes_rule_and_finds_conflicts():
    labels, image, text, _ = world(4000, spread=0.4)
    rng = np.random.default_rng(1)
    other = rng.permutation(4000)
    apart = labels[other] != labels
    score = fusion.conflict(image, text[other], PRIOR, rate=apart.mean())
    assert ((score >= 0) & (score <= 1)).all()
    from sklearn.metrics import roc_auc_score

    assert roc_auc_score(apart, score) > 0.95
    # calibrated: of the pairs with a score near s a share s disagrees
    for low, high in ((0.0, 0.2), (0.4, 0.6), (0.8, 1.0)):
        rows = (score >= low) & (score < high)
        assert rows.sum() > 20 and abs(apart[rows].mean() - score[rows].mean()) < 0.12
    assert np.isnan(fusion.conflict(image[:2] * np.nan, text[:2], PRIOR)).all()
    # Two that know nothing leave the share that was assumed.
    assert np.isclose(fusion.conflict(PRIOR, PRIOR, PRIOR, rate=0.3), 0.3)


def test_calibration_undoes_a_wrong_temperature_and_a_wrong_prior():
    labels, image, _, _ = world(6000)
    own = np.array([0.1, 0.3, 0.2, 0.2, 0.2])
    skewed = normal(2.5 * (np.log(image) - np.log(PRIOR)) + np.log(own))  # too sure, and trained on other shares
    found = fusion.calibrate(judged(labels, skewed))
    assert found.temperature == pytest.approx(2.5, rel=0.06)
    assert np.abs(found(skewed) - image).max() < 0.06
    assert np.allclose(found(skewed).mean(0), np.bincount(labels) / 6000, atol=1e-3)
    with pytest.raises(metrics.TestSplitError):
        fusion.calibrate(judged(labels, skewed, "test"))
    seeds = dataclasses.replace(judged(labels, skewed), probs=np.repeat(skewed[None].astype(np.float32), 2, 0))
    assert fusion.calibrated(seeds).probs.shape == (1, 6000, K)
    assert np.allclose(fusion.calibrated(seeds).posterior, found(skewed), atol=1e-5)


def test_few_pairs_do_an_expert_that_needs_no_calibration_little_harm():
    """Of 46 pairs a good expert often gets all right: then nothing but the prior holds its temperature."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, K, 5000)
    exact = softmax(3.6 * (rng.normal(0, 1, (5000, K)) + 3.6 * np.eye(K)[labels]), axis=1)
    few, rest = np.arange(20 * 46).reshape(20, 46), slice(1000, None)
    found = [fusion.calibrate(judged(labels[rows], exact[rows]))(exact[rest]) for rows in few]
    after = np.mean([metrics.negative_log_likelihood(probs, labels[rest]) for probs in found])
    assert after < metrics.negative_log_likelihood(exact[rest], labels[rest]) + 0.02


def test_the_product_of_a_weak_and_biased_expert_is_no_worse_than_the_strong_one_alone():
    labels, image, text, _ = world(8000, spread=2.5)
    weak = normal(0.1 * np.log(text) + np.array([0.4, 0.0, -0.4, 0.0, 0.3]))  # timid, with a bias of its own
    split = np.repeat(["validation", "test"], 4000)
    made = [dataclasses.replace(judged(labels, p), split=split) for p in (image, weak)]
    both = fusion.experts(*made)
    hits = [(p.test.posterior.argmax(1) == labels[4000:]).mean() for p in (both.image, both.text, both.fused())]
    assert hits[2] > max(hits[:2])


def test_stacking_cannot_be_fitted_on_test_items():
    labels, image, text, _ = world(50)
    with pytest.raises(metrics.TestSplitError):
        fusion.stack(image, text, judged(labels, image, "test"))


def test_stacking_of_two_classes_and_of_one_that_never_occurs():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    image, text = (normal(np.stack([-x, x], 1)) for x in (2 * labels - 1 + rng.normal(0, 1.5, (2, 200))))
    valid = Predictions(np.full(200, "validation"), np.arange(200), labels, image[None].astype(np.float32), ("a", "b"), "", "s")
    fused = fusion.stack(image, text, valid)(image, text)
    assert fused.shape == (200, 2) and np.allclose(fused.sum(1), 1)
    assert (fused.argmax(1) == labels).mean() > max((p.argmax(1) == labels).mean() for p in (image, text))
    five = [np.concatenate([p, np.full((200, 3), 1e-9)], 1) for p in (image, text)]
    never = fusion.stack(*five, judged(labels, five[0] / five[0].sum(1, keepdims=True)))(*five)
    assert never[:, 2:].max() < 1e-6


def test_follow_counts_only_disagreements():
    image, text, fused = np.array([0, 0, 0, 1]), np.array([0, 1, 1, 2]), np.array([3, 1, 0, 4])
    assert np.allclose(fusion.follow(fused, image, text), [1 / 3, 1 / 3, 1 / 3])
    assert np.isnan(fusion.follow(image, image, image)).all()


def test_the_additive_part_of_an_additive_fusion_is_itself_and_of_xor_is_nothing():
    rng = np.random.default_rng(0)
    image, text = rng.normal(0, 1, (2, 30, K))
    table = image[:, None] + text[None]
    assert np.allclose(fusion.additive(table), table[np.arange(30), np.arange(30)])
    sign = np.sign(rng.normal(0, 1, (2, 30)))
    sign[:, :15], sign[:, 15:] = 1, -1
    xor = sign[0][:, None] * sign[1][None]
    assert np.allclose(fusion.additive(np.stack([xor, -xor], 2)), 0)


def test_the_null_model_is_additive_so_emap_changes_none_of_its_answers():
    _, image, text, _ = world(80)
    table = np.log(fusion.product(image[:, None], text[None], PRIOR))
    own = fusion.product(image, text, PRIOR)
    # Posteriors are normalised a pair, which adds one number to all classes: the additive part keeps every answer.
    assert np.array_equal(fusion.additive(table).argmax(1), own.argmax(1))


def test_the_assumed_share_of_conflicts_moves_the_score_but_not_the_order():
    _, image, text, _ = world(300)
    usual, half = (fusion.conflict(image, text, PRIOR, **rate) for rate in ({}, {"rate": 0.5}))
    assert np.array_equal(np.argsort(usual, kind="stable"), np.argsort(half, kind="stable")) and (usual < half).all()
    assert np.allclose(usual / (1 - usual), half / (1 - half) / 9), "one in ten: odds of one to nine"


def test_experts_are_known_by_what_they_were_made_of():
    labels, image, text, _ = world(60)
    one, other = judged(labels, image), judged(labels, text)
    made = [fusion.experts(*two).fingerprint for two in ((one, other), (one, other), (other, other), (one, one))]
    assert made[0] == made[1] and len(set(made)) == 3


def test_experts_are_looked_up_in_the_shared_classes():
    labels = np.array([TEXT_CLASSES.index(c) for c in ("joy", "love", "fear", "joy")])
    probs = np.random.default_rng(0).dirichlet(np.ones(6), (2, 4)).astype(np.float32)
    found = Predictions(np.full(4, "test"), np.array([7, 8, 9, 5]), labels, probs, TEXT_CLASSES, "", "made")
    five = fusion.shared(found)
    assert five.classes == SHARED_CLASSES and np.allclose(five.probs.sum(2), 1, atol=1e-6)
    assert five.ids.tolist() == [7, 9, 5] and [SHARED_CLASSES[k] for k in five.labels] == ["joy", "fear", "joy"]
    each = probs[:, 0, TEXT_CLASSES.index("joy")] / (1 - probs[:, 0, TEXT_CLASSES.index("love")])  # per seed, then averaged
    assert five.posterior[0, SHARED_CLASSES.index("joy")] == pytest.approx(each.mean(), abs=1e-6)
    arrays = {"ids": np.arange(2), "labels": np.array([2, 1]), "split": np.array([0, 1]), "text": np.array([5, 9])}
    pairs = fusion.pairs_of(found, Facts("f", "pairs", {}, arrays), "text")
    assert np.allclose(pairs.posterior, five.posterior[[2, 1]], atol=1e-6) and pairs.split.tolist() == ["validation", "test"]
    with pytest.raises(KeyError, match="8"):
        fusion.pairs_of(found, Facts("f", "pairs", {}, arrays | {"text": np.array([5, 8])}), "text")


def test_the_rules_need_no_torch():
    code = "import sys, emolib.models.fusion, emolib.models.comparison; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
