"""Learned fusions: they find an interaction where there is one and none where there is none; what is missing stays missing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from emolib.data.dataset import Dataset, column
from emolib.models import fusion, training
from emolib.models import fusion_networks as networks
from emolib.profiles import Work, get

CONFIG = get("sample").fusion
FIT = replace(CONFIG.fit, epochs=12, batch_size=64, learning_rate=3e-3)
CONFIG = replace(CONFIG, fit=FIT, seeds=(0,), pairings=5, emap=80)
SIZE = 16


class Reader:
    """An encoder for tests: unit vectors that stand in the pixels and in the words, as numbers around 128."""

    def encode_images(self, images, tokens=False):
        return self.vectors(images.reshape(len(images), -1).astype(float), tokens)

    def encode_texts(self, texts, tokens=False):
        return self.vectors(np.array([[*map(float, t.split()), *[128.0] * SIZE][:SIZE] for t in texts]), tokens)

    def vectors(self, numbers, tokens):
        found = (numbers - 128) / np.maximum(np.linalg.norm(numbers - 128, axis=1, keepdims=True), 1e-9)
        return found[:, None].astype(np.float16) if tokens else found.astype(np.float32)


READER = Reader()


def simulated(kind, n=1500, *, seed=0):
    """Pairs of two classes. "independent": image and text each say something of the class. "xor": only both together do."""
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 2, (2, n))
    labels = first ^ second if kind == "xor" else first
    numbers = []
    for side, code in enumerate((first, second if kind == "xor" else first)):
        direction = np.random.default_rng(5 + side).normal(0, 1, SIZE)
        points = (2 * code[:, None] - 1) * direction + rng.normal(0, 1.2 if kind == "xor" else 3.5, (n, SIZE))
        numbers.append(np.clip(128 + 12 * points, 0, 255).round().astype(np.uint8))
    split = np.repeat(["train", "validation", "test"], [n - 500, 200, 300])
    images, texts = numbers[0].reshape(n, 4, 4), column([" ".join(map(str, row)) for row in numbers[1]])
    return Dataset(np.arange(n), labels, split, ("no", "yes"), "simulated", images, texts)


@pytest.fixture
def work(tmp_path):
    return Work("float64", 1, tmp_path)


def learn(data, kind, work, *, matched=True):
    return networks.learn(READER, data, kind, CONFIG, matched, replace(work, step=f"pairs/{kind}"))


def right(found):
    return found.test.predicted == found.test.labels


def test_an_interaction_is_found_and_emap_shows_it(work):
    data = simulated("xor")
    experts = fusion.experts(*(learn(data, kind, work, matched=False) for kind in fusion.ONE))
    found = learn(data, "concat", work, matched=False)
    assert right(experts.fused()).mean() < 0.6, "no single modality and no product of them can tell"
    assert right(found).mean() > 0.75
    rows = found.arrays["rows"]
    additive = found.arrays["additive"] == found.test.labels[rows]
    assert additive.mean() < right(found)[rows].mean() - 0.15, "what EMAP takes away"
    assert set(found.arrays) == {"rows", "additive"}, "genuine pairs are not re-paired"


def test_on_independent_modalities_the_product_is_not_beaten(work):
    data = simulated("independent")
    alone = [learn(data, kind, work) for kind in fusion.ONE]
    null, found = fusion.experts(*alone).fused(), learn(data, "concat", work)
    assert right(null).mean() > max(right(a).mean() for a in alone)
    assert right(found).mean() <= right(null).mean() + 0.02
    whole = fusion.calibrated(found).test
    rows = found.arrays["rows"]
    additive = found.arrays["additive"] == whole.labels[rows]
    assert abs(additive.mean() - (whole.predicted == whole.labels)[rows].mean()) < 0.05
    assert found.arrays["repaired"].shape == (5, 300)
    agree = fusion.conflicts(whole.labels, 0.5) == np.arange(300)
    assert np.allclose(found.arrays["apart"][agree], whole.posterior[agree], atol=1e-6), "calibrated as the experts are"
    assert np.abs(found.arrays["apart"][~agree] - whole.posterior[~agree]).max() > 0.1


@pytest.mark.parametrize("kind", fusion.KINDS)
def test_every_kind_learns_and_does_without_a_modality(kind, work):
    data = simulated("independent", 2000)
    found = learn(data, kind, work)
    assert right(found).mean() > 0.7
    whole, own = networks.features(READER, data, True), np.arange(300)
    calibration = fusion.calibrate(found.validation)
    for name, seen, there in (("no_image", "text", (False, True)), ("no_text", "image", (True, False))):
        with training.arithmetic(work):  # the checkpoint is there: nothing is trained again
            model = networks.fit(whole, kind, CONFIG, True, 0, replace(work, step=f"pairs/{kind}")).model
            probs = networks.answers([model], whole.part("test"), own, own, there)[0]
        if kind in fusion.BOTH:
            assert np.allclose(found.arrays[name], calibration(probs), atol=1e-6)
        assert np.allclose(probs.sum(1), 1, atol=1e-5)
        hits, one = (probs.argmax(1) == found.test.labels).mean(), kind.removesuffix("-tokens")
        assert hits > (0.54 if kind == "joint" else 0.7) if one not in fusion.ONE or one == seen else hits < 0.65


@pytest.mark.parametrize("kind", fusion.KINDS)
def test_what_is_missing_is_not_looked_at(kind, work):
    data = networks.features(READER, simulated("independent", 700), True)
    turned = {name: data.extras[name][::-1].copy() for name in ("image", "image-tokens")}
    changed, rows = replace(data, extras=data.extras | turned), np.arange(10)
    with training.arithmetic(work):
        torch.manual_seed(0)
        model = networks.Fusion(kind, (SIZE, SIZE, SIZE), 2, CONFIG)
        hidden = [networks.answers([model], d, rows, rows, (False, True)) for d in (data, changed)]
        shown = [networks.answers([model], d, rows, rows) for d in (data, changed)]
    assert np.array_equal(*hidden)
    assert np.array_equal(*shown) == (kind in ("text", "text-tokens"))


def test_padding_is_not_looked_at(work):
    data = networks.features(READER, simulated("independent", 700), True)
    words, rows = data.extras["text-tokens"], np.arange(10)
    longer = replace(data, extras=data.extras | {"text-tokens": np.concatenate([words, np.zeros_like(words)], 1)})
    with training.arithmetic(work):
        model = networks.Fusion("attention", (SIZE, SIZE, SIZE), 2, CONFIG)
        assert np.allclose(*(networks.answers([model], d, rows, rows) for d in (data, longer)), atol=1e-12)


def test_texts_are_exchanged_inside_a_class_in_training_of_matched_pairs_only():
    data = networks.features(READER, simulated("independent", 700), True).part("train")
    texts, rows = data.extras["text"], np.arange(50)
    batches = networks.PairBatches(data, "concat", matched=True)
    text = batches.batch(rows, np.random.default_rng(0), 0.5)[1].numpy()
    own = [np.flatnonzero((texts == row).all(1))[0] for row in text]
    assert (data.labels[own] == data.labels[rows]).all() and (own != rows).any()
    assert np.allclose(batches.batch(rows, None, 1.0)[1].numpy(), texts[rows])
    _, text, *_, there = networks.PairBatches(data, "concat", drop=0.5).batch(rows, np.random.default_rng(0), 0.5)
    assert np.allclose(text.numpy(), texts[rows]) and there.any(1).all() and not there.all()


def test_an_unknown_fusion_names_the_choices():
    with pytest.raises(ValueError, match="choose from image, text, image-tokens, text-tokens, concat, gate, attention, joint"):
        networks.Fusion("magic", (SIZE, SIZE, SIZE), 2, CONFIG)
