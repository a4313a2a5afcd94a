import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from emolib import baselines, faces, profiles, texts
from emolib.labels import FACE_CLASSES, TEXT_CLASSES

PROFILE = profiles.get("sample")


def few_texts(rows=("i feel sad today", "glad", "", "i i i i i i feel glad")):
    column = np.empty(len(rows), dtype=object)
    column[:] = rows
    n = len(rows)
    return texts.Texts(np.arange(n), np.arange(n) % 6, np.array(["train"] * n), TEXT_CLASSES, "", column)


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU])
def test_padding_and_neighbours_change_nothing(cell):
    data = few_texts()
    vocabulary = baselines.Vocabulary(data, 1)
    model = baselines.TextRNN(cell, PROFILE.gru, len(vocabulary), 6).eval()
    batches = baselines.TextBatches(data, vocabulary, PROFILE.gru)
    together = model(*batches.batch(np.arange(4), None, 1.0))
    for row in range(4):
        alone = model(*batches.batch(np.array([row]), None, 1.0))
        assert torch.allclose(together[row], alone[0], atol=1e-6)


def test_vocabulary_knows_training_words_only():
    vocabulary = baselines.Vocabulary(few_texts(), 2)
    assert set(vocabulary.numbers) == {"i", "feel", "glad"}
    assert vocabulary.encode("unheard of", 5).tolist() == [1, 1]
    assert vocabulary.encode("", 5).tolist() == [1]
    assert len(vocabulary.encode("i " * 50, 7)) == 7


def test_word_dropout_blanks_words_only_in_training():
    data = few_texts(("i feel glad " * 10,) * 8)
    config = dataclasses.replace(PROFILE.gru, word_dropout=0.5)
    vocabulary = baselines.Vocabulary(data, 1)
    batches = baselines.TextBatches(data, vocabulary, config)
    clean, lengths = batches.batch(np.arange(8), None, 1.0)
    noisy, _ = batches.batch(np.arange(8), np.random.default_rng(0), 0.0)
    assert 0.4 < (noisy == 1).double().mean() < 0.6 and (clean > 1).all() and lengths.tolist() == [30] * 8


def test_dropout_keeps_the_mean():
    x = torch.ones(100_000)
    dropped = baselines.dropout(x, 0.3, training=True)
    assert dropped.mean().item() == pytest.approx(1, abs=0.02) and (dropped == 0).double().mean().item() == pytest.approx(
        0.3, abs=0.02
    )
    assert baselines.dropout(x, 0.3, training=False) is x


def some_faces(sample_faces, n=30):
    return sample_faces.select(np.arange(n))


def test_faces_are_normalised_one_by_one(sample_faces):
    config = PROFILE.cnn
    (x,) = baselines.FaceBatches(some_faces(sample_faces), config).batch(np.arange(30), None, 1.0)
    assert x.mean((1, 2, 3)).abs().max() < 1e-5 and x.shape == (30, 1, 48, 48)
    black = dataclasses.replace(some_faces(sample_faces), pixels=np.zeros((30, 48, 48), np.uint8))
    assert (baselines.FaceBatches(black, config).batch(np.arange(30), None, 1.0)[0] == 0).all()


@pytest.mark.parametrize("name", ["sample", "mini"])
def test_views_have_the_size_and_scale_of_training(sample_faces, name):
    config = profiles.get(name).cnn
    batches = baselines.FaceBatches(some_faces(sample_faces), config)
    inputs = batches.batch(np.arange(30), None, 1.0)
    for progress in (0.1, 1.0):
        side = batches.side(progress)
        early, late = (batches.views(inputs, progress, final=final) for final in (False, True))
        assert len(early) == 2 and len(late) == 10
        assert {view[0].shape[-1] for view in early + late} == {side}
        assert torch.equal(early[0][0].flip(-1), early[1][0])
        still = dataclasses.replace(config, augment=0.0, erase=0.0)
        augmented = baselines.augment(inputs[0], np.random.default_rng(0), side, still)
        # without turns and shifts a training picture is the centre crop or its mirror image (but for resampling), and
        # not the whole face squeezed into as many pixels
        squeezed = torch.nn.functional.interpolate(inputs[0], size=side, mode="bilinear", antialias=True)
        right, wrong = (
            torch.minimum(*[(augmented - x).abs().mean((1, 2, 3)) for x in pair])
            for pair in ([view[0] for view in early], [squeezed, squeezed.flip(-1)])
        )
        assert (right < wrong).double().mean() > 0.9


def test_augmentation_is_seeded_and_moves_pixels(sample_faces):
    batches = baselines.FaceBatches(some_faces(sample_faces), profiles.get("mini").cnn)
    first, again, other = (batches.batch(np.arange(30), np.random.default_rng(s), 0.9)[0] for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other) and first.shape == (30, 1, 44, 44)


def test_cnn_starts_as_its_shortcuts_and_takes_any_size():
    model = baselines.FaceCNN(PROFILE.cnn, 7).eval()
    for side in (24, 31, 48):
        assert model(torch.zeros(2, 1, side, side)).shape == (2, 7)
    block = baselines.Residual(4, 4, 1).eval()
    x = torch.rand(1, 4, 5, 5)
    assert torch.equal(block(x), x)


def test_majority_is_the_training_share(sample_texts):
    found = baselines.majority(sample_texts)
    shares = sample_texts.counts()[0] / sample_texts.counts()[0].sum()
    assert np.allclose(found.probs, shares) and set(found.split) == {"validation", "test"}


def test_nearest_remembers_a_twin(sample_faces):
    found = baselines.nearest(sample_faces)
    group, train = faces.twins(sample_faces), sample_faces.split == "train"
    for row in np.flatnonzero(np.isin(group, group[train]) & ~train):
        twins = np.flatnonzero((group == group[row]) & train)
        if not faces.constant(sample_faces)[row]:
            guess = found.posterior[found.ids == sample_faces.ids[row]].argmax()
            assert guess in sample_faces.labels[twins]


def test_saliency_finds_the_pixel_that_counts(sample_faces):
    class Corner(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return x[:, 0, 5, 7, None] * self.weight * torch.ones(7)

    config = profiles.get("mini").cnn  # which sees the middle 44 of 48 pixels
    maps = baselines.saliency(Corner(), some_faces(sample_faces, 200), config)
    assert maps.shape == (7, 48, 48) and (maps.reshape(7, -1).argmax(1) == 7 * 48 + 9).all() and np.allclose(maps.max((1, 2)), 1)


def test_leaned_on_finds_the_word_that_counts():
    rows = tuple(f"{word} {filler} it" for filler in "abcdefgh" for word in ("sad", "glad"))
    data = few_texts(rows)
    data = dataclasses.replace(data, labels=np.array([0, 1] * 8))
    vocabulary = baselines.Vocabulary(data, 1)

    class Reader(nn.Module):
        def forward(self, words, lengths):
            sad, glad = ((words == vocabulary.numbers[w]).any(1).double() for w in ("sad", "glad"))
            return torch.stack([3 * sad, 3 * glad] + [0 * sad] * 4, 1)

    found = baselines.leaned_on(Reader(), data, vocabulary, PROFILE.gru)
    assert found["sadness"][0] == "sad" and found["joy"][0] == "glad"


def test_class_names_are_the_official_order():
    assert FACE_CLASSES == ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
    assert TEXT_CLASSES == ("sadness", "joy", "love", "anger", "fear", "surprise")
