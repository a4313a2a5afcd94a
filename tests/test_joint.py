"""Learned fusions: they find an interaction where there is one and none where there is none; a missing cue stays missing."""

import dataclasses

import numpy as np
import pytest
import torch

from emolib import clip, fusion, joint, profiles, training
from emolib.joint import Cues

SAMPLE = profiles.get("sample")
FIT = dataclasses.replace(SAMPLE.fusion.fit, epochs=12, batch_size=64, learning_rate=3e-3)
PROFILE = dataclasses.replace(SAMPLE, fusion=dataclasses.replace(SAMPLE.fusion, fit=FIT, seeds=(0,), pairings=5, emap=80))


def simulated(kind, n=1500, *, size=8, seed=0):
    """Two unit vectors a pair. "independent": each says something of the class. "xor": only both together do."""
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 2, (2, n))
    if kind == "xor":
        labels = first ^ second
    else:
        labels, first, second = first, first, first
    vectors = []
    for side, code in enumerate((first, second)):
        direction = np.random.default_rng(5 + side).normal(0, 1, size)
        points = (2 * code[:, None] - 1) * direction + rng.normal(0, 1.2 if kind == "xor" else 2.5, (n, size))
        vectors.append((points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32))
    tokens = [v[:, None].astype(np.float16) for v in vectors]
    split = np.repeat(["train", "validation", "test"], [n - 500, 200, 300])
    return Cues(np.arange(n), labels, split, ("no", "yes"), "simulated", *vectors, *tokens, matched=kind != "xor")


@pytest.fixture(autouse=True)
def out(tmp_path, monkeypatch):
    monkeypatch.setenv("EMOLIB_OUT", str(tmp_path))


def null_model(cues):
    """The product of the two one-sided networks, on test items."""
    sides = [joint.learn(kind, cues, PROFILE, f"test/{kind}") for kind in ("face", "text")]
    both = fusion.experts(*sides)
    return both.fused(both.rules["product"]).test.posterior, sides


def test_an_interaction_is_found_and_emap_shows_it():
    cues = simulated("xor")
    null, _ = null_model(cues)
    found = joint.learn("concat", cues, PROFILE, "test/concat")
    labels = found.test.labels
    assert (null.argmax(1) == labels).mean() < 0.6, "no single cue and no product of them can tell"
    right = found.test.posterior.argmax(1) == labels
    assert right.mean() > 0.75
    rows = found.arrays["rows"]
    assert (found.arrays["additive"] == labels[rows]).mean() < right[rows].mean() - 0.15, "what EMAP takes away"
    assert "repaired" not in found.arrays, "genuine pairs are not re-paired"


def test_on_independent_cues_the_null_model_is_not_beaten():
    cues = simulated("independent")
    null, sides = null_model(cues)
    found = joint.learn("concat", cues, PROFILE, "test/concat")
    labels = found.test.labels
    alone = max((s.test.posterior.argmax(1) == labels).mean() for s in sides)
    hits = [(p.argmax(1) == labels).mean() for p in (null, found.test.posterior)]
    assert hits[0] > alone and hits[1] <= hits[0] + 0.02
    rows = found.arrays["rows"]
    assert abs((found.arrays["additive"] == labels[rows]).mean() - (found.test.posterior.argmax(1) == labels)[rows].mean()) < 0.05
    assert found.arrays["repaired"].shape == (5, 300)
    agree = fusion.conflicts(labels, 0.5) == np.arange(300)
    assert np.allclose(found.arrays["apart"][agree], found.test.posterior[agree], atol=1e-6)
    assert np.abs(found.arrays["apart"][~agree] - found.test.posterior[~agree]).max() > 0.1


@pytest.mark.parametrize("kind", fusion.KINDS)
def test_every_kind_learns_and_does_without_a_cue(kind):
    cues = simulated("independent", 2000)
    found = joint.learn(kind, cues, PROFILE, f"test/{kind}")
    labels = found.test.labels
    assert (found.test.posterior.argmax(1) == labels).mean() > 0.7
    test = cues.part("test")
    own = np.arange(len(test))
    for name, seen, there in (("no_face", "text", (False, True)), ("no_text", "face", (True, False))):
        with training.arithmetic(PROFILE):  # the checkpoint is there: nothing is trained again
            probs = joint.answers([joint.fit(kind, cues, PROFILE, f"test/{kind}", 0).model], test, own, own, there)[0]
        if kind in fusion.BOTH_CUES:
            assert np.allclose(found.arrays[name], probs, atol=1e-6)
        assert np.allclose(probs.sum(1), 1, atol=1e-5)
        hits = (probs.argmax(1) == labels).mean()
        one = kind.removesuffix("-tokens")
        assert hits > (0.54 if kind == "joint" else 0.7) if one not in ("face", "text") or one == seen else hits < 0.65


@pytest.mark.parametrize("kind", fusion.KINDS)
def test_what_is_missing_is_not_looked_at(kind):
    cues = simulated("independent", 700)
    sizes = (8, 8, 8)
    torch.manual_seed(0)
    model = joint.Fusion(kind, sizes, 2, PROFILE.fusion).double()
    rows = np.arange(10)
    changed = dataclasses.replace(cues, face=cues.face[::-1].copy(), face_tokens=cues.face_tokens[::-1].copy())
    torch.set_default_dtype(torch.float64)
    try:
        hidden = [joint.answers([model], c, rows, rows, (False, True)) for c in (cues, changed)]
        shown = [joint.answers([model], c, rows, rows) for c in (cues, changed)]
    finally:
        torch.set_default_dtype(torch.float32)
    assert np.array_equal(*hidden)
    assert np.array_equal(*shown) == (kind in ("text", "text-tokens"))


def test_padding_is_not_looked_at():
    cues = simulated("independent", 700)
    longer = np.concatenate([cues.text_tokens, np.zeros_like(cues.text_tokens)], 1)
    torch.set_default_dtype(torch.float64)
    try:
        model = joint.Fusion("attention", (8, 8, 8), 2, PROFILE.fusion)
        rows = np.arange(10)
        both = [joint.answers([model], dataclasses.replace(cues, text_tokens=t), rows, rows) for t in (cues.text_tokens, longer)]
    finally:
        torch.set_default_dtype(torch.float32)
    assert np.allclose(*both, atol=1e-12)


def test_texts_are_exchanged_inside_a_class_in_training_only():
    cues = simulated("independent", 700).part("train")
    batches = joint.CueBatches(cues, "concat", 0.0)
    rows = np.arange(50)
    text = batches.batch(rows, np.random.default_rng(0), 0.5)[1].numpy()
    own = [np.flatnonzero((cues.text == row.astype(np.float32)).all(1))[0] for row in text]
    assert (cues.labels[own] == cues.labels[rows]).all() and (own != rows).any()
    assert np.allclose(batches.batch(rows, None, 1.0)[1].numpy(), cues.text[rows])
    genuine = joint.CueBatches(dataclasses.replace(cues, matched=False), "concat", 0.5)
    _, text, *_, there = genuine.batch(rows, np.random.default_rng(0), 0.5)
    assert np.allclose(text.numpy(), cues.text[rows]) and there.any(1).all() and not there.all()


def test_an_unknown_fusion_names_the_choices():
    with pytest.raises(ValueError, match="choose from face, text, face-tokens, text-tokens, concat, gate, attention, joint"):
        joint.Fusion("magic", (8, 8, 8), 2, PROFILE.fusion)


def test_tokens_of_pictures_and_texts(sample_faces):
    encoder = clip.load(SAMPLE)
    patches = encoder.encode_images(sample_faces.pixels[:5], tokens=True)
    words = encoder.encode_texts(["i feel happy", "a " * 60], tokens=True)
    assert patches.shape == (5, 16, 64) and patches.dtype == np.float16 and (patches != 0).any(2).all()
    assert words.shape == (2, clip.WORDS, 64)
    assert (words[0] != 0).any(1).sum() == len(encoder.tokenize(["i feel happy"])[0]) and (words[1] != 0).any(1).all()
