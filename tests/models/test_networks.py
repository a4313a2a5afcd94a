import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from emolib import profiles
from emolib.data.dataset import Dataset, column
from emolib.models import networks

GRU, CNN = profiles.get("sample").gru, profiles.get("mini").cnn


def texts(rows=("i feel sad today", "glad", "!", "i i i i i i feel glad")):
    n = len(rows)
    return Dataset(np.arange(n), np.arange(n) % 2, np.repeat("train", n), ("a", "b"), "texts", texts=column(rows))


def pictures(side=48, n=12):
    """Random pictures without fine detail."""
    coarse = np.random.default_rng(0).integers(0, 256, (n, 6, 6), dtype=np.uint8)
    images = np.stack([Image.fromarray(x).resize((side, side), Image.Resampling.BICUBIC) for x in coarse])
    return Dataset(np.arange(n), np.arange(n) % 2, np.repeat("train", n), ("a", "b"), "pictures", images=images)


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, None])
def test_padding_and_neighbours_change_nothing(cell):
    vocabulary = networks.Vocabulary(texts().texts, 1)
    model = networks.TextRNN(cell, GRU, len(vocabulary), 6).eval()
    batches = networks.WordBatches(texts(), vocabulary, GRU)
    together = model(*batches.batch(np.arange(4), None, 1.0))
    for row in range(4):
        assert torch.allclose(together[row], model(*batches.batch(np.array([row]), None, 1.0))[0], atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(*batches.batch(np.arange(4), None, 1.0)).dtype == torch.float32


@pytest.mark.parametrize("cell", [nn.GRU, None])
def test_only_a_network_with_a_cell_reads_in_order(cell):
    model = networks.TextRNN(cell, GRU, 9, 6).eval()
    words, lengths = torch.tensor([[2, 3, 4, 5], [5, 3, 2, 4]]), torch.tensor([4, 4])
    forward, mixed = model(words, lengths)
    assert torch.allclose(forward, mixed, atol=1e-6) == (cell is None)


def test_vocabulary_knows_training_words_only():
    vocabulary = networks.Vocabulary(texts().texts, 2)
    assert set(vocabulary.numbers) == {"i", "feel", "glad"}
    assert vocabulary.encode("unheard of", 5).tolist() == [1, 1] and vocabulary.encode("", 5).tolist() == [1]
    assert len(vocabulary.encode("i " * 50, 7)) == 7


def test_word_dropout_blanks_words_only_in_training():
    data, config = texts(("i feel glad " * 10,) * 8), dataclasses.replace(GRU, word_dropout=0.5)
    batches = networks.WordBatches(data, networks.Vocabulary(data.texts, 1), config)
    noisy, _ = batches.batch(np.arange(8), np.random.default_rng(0), 0.0)
    clean, lengths = batches.batch(np.arange(8), None, 1.0)
    assert 0.4 < (noisy == 1).double().mean() < 0.6 and (clean > 1).all() and lengths.tolist() == [30] * 8


def test_dropout_keeps_the_mean():
    x = torch.ones(100_000)
    dropped = networks.dropout(x, 0.3, training=True)
    assert [dropped.mean().item(), (dropped == 0).double().mean().item()] == pytest.approx([1, 0.3], abs=0.02)
    assert networks.dropout(x, 0.3, training=False) is x


@pytest.mark.parametrize(("side", "early", "late"), [(24, 16, 22), (48, 32, 44), (64, 43, 59)])
def test_pictures_of_every_size_are_seen_as_in_training(side, early, late):
    batches = networks.ImageBatches(pictures(side), CNN)
    (x,) = inputs = batches.batch(np.arange(12), None, 1.0)
    assert x.mean((1, 2, 3)).abs().max() < 1e-5 and x.shape == (12, 1, side, side)
    model = networks.FaceCNN(CNN, 2).eval()
    for progress, size in ((0.1, early), (1.0, late)):
        few, many = (batches.views(inputs, progress, final=final) for final in (False, True))
        assert len(few) == 2 and len(many) == 10 and {view[0].shape[-1] for view in few + many} == {size}
        assert torch.equal(few[0][0].flip(-1), few[1][0]) and model(*few[0]).shape == (12, 2)
        # Without turns and shifts a training picture is the centre crop or its mirror image (but for resampling), and
        # not the whole picture squeezed into as many pixels.
        still = networks.ImageBatches(pictures(side), dataclasses.replace(CNN, augment=0.0, erase=0.0))
        (augmented,) = still.batch(np.arange(12), np.random.default_rng(0), progress)
        squeezed = torch.nn.functional.interpolate(x, size=size, mode="bilinear", antialias=True)
        right, wrong = (
            torch.minimum(*[(augmented - x).abs().mean((1, 2, 3)) for x in pair])
            for pair in ([view[0] for view in few], [squeezed, squeezed.flip(-1)])
        )
        assert (right < wrong).all()


def test_black_and_colour_pictures_are_fine_and_tiny_ones_refused():
    with pytest.raises(ValueError, match="pictures of 23x23 pixels, wanted at least 24x24"):
        networks.ImageBatches(pictures(23), CNN)
    black = dataclasses.replace(pictures(), images=np.zeros((12, 48, 48), np.uint8))
    assert (networks.ImageBatches(black, CNN).batch(np.arange(12), None, 1.0)[0] == 0).all()
    colour = dataclasses.replace(pictures(), images=column([Image.fromarray(x).convert("RGB") for x in pictures().images]))
    assert torch.equal(*(networks.ImageBatches(data, CNN).pixels for data in (pictures(), colour)))


def test_augmentation_is_seeded_and_erases_its_share():
    batches = networks.ImageBatches(pictures(), CNN)
    first, again, other = (batches.batch(np.arange(12), np.random.default_rng(s), 0.9)[0] for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other) and first.shape == (12, 1, 44, 44)
    x = torch.ones(300, 1, 30, 30)
    blank = networks.erase(x, np.arange(200), np.random.default_rng(0)) == 0
    height, width = blank.any(3).sum((1, 2)), blank.any(2).sum((1, 2))
    assert not blank[200:].any() and torch.equal((height * width)[:200], blank.sum((1, 2, 3))[:200])  # each one rectangle
    assert all(len(set(blank[:200].any(axis)[:, 0].int().argmax(1).tolist())) > 15 for axis in (2, 3))  # anywhere
    assert set(height[:200].tolist()) == set(width[:200].tolist()) == set(range(5, 15))


def test_a_block_starts_as_its_shortcut():
    x = torch.rand(1, 4, 5, 5)
    assert torch.equal(networks.Residual(4, 4, 1).eval()(x), x)
