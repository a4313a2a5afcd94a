import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from emolib import profiles
from emolib.data.dataset import Dataset, column
from emolib.models import baselines, training
from emolib.profiles import Fit, Work

SAMPLE = profiles.get("sample")
CLASSES = ("across", "down", "never")  # the last has no item
LABELS = np.random.default_rng(1).integers(0, 2, 240)
SPLIT = np.repeat(("train", "validation", "test"), (160, 40, 40))


def stripes(side, n=240):
    """Stripes across or down, each at its own place, with noise."""
    rng = np.random.default_rng(0)
    waves = np.sin(np.arange(side) * 12 / side + rng.uniform(0, 6, (n, 1)))[:, None] + rng.normal(0, 0.5, (n, side, side))
    images = np.where(LABELS[:, None, None], waves, waves.swapaxes(1, 2)) * 40 + 128
    return Dataset(np.arange(n), LABELS, SPLIT, CLASSES, "stripes", images=images.clip(0, 255).astype(np.uint8))


def sentences(n=240):
    words = np.random.default_rng(0).choice(list("efghijkl"), (n, 5))
    texts = [" ".join(("glad" if label else "sad", *some, "it is")) for label, some in zip(LABELS, words, strict=True)]
    return Dataset(np.arange(n), LABELS, SPLIT, CLASSES, "sentences", texts=column(texts))


def right(found):
    return (found.test.predicted == found.test.labels).mean()


def test_majority_is_the_training_share():
    found = baselines.majority(sentences())
    assert np.allclose(found.probs, (1 - LABELS[:160].mean(), LABELS[:160].mean(), 0)) and found.probs.shape == (1, 80, 3)


def test_tfidf_tells_sentences_by_their_words():
    found = baselines.tfidf(sentences())
    assert right(found) == 1
    assert found.notes["C"] in baselines.STRENGTHS and (found.probs[..., 2] == 0).all()


def test_nearest_remembers_a_duplicate():
    data = stripes(64)
    data.images[data.split == "test"] = data.images[:40]
    flipped = dataclasses.replace(data, labels=np.where(data.split == "test", data.labels, 1 - data.labels))
    assert (baselines.nearest(flipped).test.predicted == flipped.labels[:40]).all()


@pytest.mark.parametrize(("cell", "epochs"), [("lstm", 6), ("gru", 6), ("none", 40)])  # short vectors alone are slow to start
def test_a_network_learns_once_per_seed(cell, epochs, tmp_path):
    config = dataclasses.replace(SAMPLE.gru, fit=dataclasses.replace(SAMPLE.gru.fit, epochs=epochs))
    found = baselines.recurrent(sentences(), cell, config, work=Work("float64", 1, tmp_path, f"texts/{cell}"))
    assert right(found) == 1
    assert found.probs.shape == (2, 80, 3) and not np.array_equal(*found.probs)
    still = dataclasses.replace(SAMPLE.gru, fit=dataclasses.replace(SAMPLE.gru.fit, epochs=1, learning_rate=0.0))
    assert not np.allclose(*baselines.recurrent(sentences(), cell, still).probs)  # each seed has a start of its own
    assert len(found.notes["history"][1]) <= epochs and found.notes["vocabulary"] == 14
    assert len(list((tmp_path / "checkpoints" / "texts" / cell).iterdir())) == 2


@pytest.mark.parametrize("side", [24, 48, 64])
def test_a_cnn_learns_from_pictures_of_any_size(side):
    fit = Fit(epochs=8, batch_size=16, learning_rate=1e-2, warmup=0.1)
    config = dataclasses.replace(SAMPLE.cnn, fit=fit, seeds=(0,))
    assert right(baselines.cnn(stripes(side), config)) > 0.9


def test_the_module_needs_no_torch():
    code = "import sys, emolib.models.baselines; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=profiles.ROOT, check=False).returncode == 0


def test_a_network_answers_at_the_picture_size_at_which_its_epoch_was_chosen(monkeypatch):
    fit = Fit(epochs=4, batch_size=32, learning_rate=1e-2)
    config = dataclasses.replace(SAMPLE.cnn, fit=fit, seeds=(0,), sizes=((0.5, 8), (0.5, 16)))
    history = [{"validation_accuracy": a, "validation_loss": 1.0} for a in (0.1, 0.9, 0.2, 0.2)]
    asked = []

    def predict(model, part, *, precision, progress):
        asked.append(part.side(progress))
        return np.full((len(part.labels), len(CLASSES)), 1 / 3)

    monkeypatch.setattr(training, "fit", lambda model, *rest, **how: training.Fitted(model, history, {}))
    monkeypatch.setattr(training, "predict", predict)
    baselines.cnn(stripes(24), config)
    assert asked == [4, 4]  # of 24 pixels, which are half of the 48 that the sizes speak of
