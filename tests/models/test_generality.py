"""Generality: ranks by hand, mixtures that contain the pretrained encoder, tasks that are not emotion, other texts."""

from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from emolib.data import prompts, sets
from emolib.data.dataset import Dataset, MissingData, column
from emolib.data.labels import SHARED_CLASSES, TEXT_CLASSES
from emolib.models import generality, heads
from emolib.models.encoder import Encoder, load
from emolib.models.tuning import Tuned
from emolib.profiles import Work, get

SAMPLE = get("sample")
ASKED = prompts.FACES["templates"]


@pytest.fixture(scope="module")
def encoder():
    return load(SAMPLE.clip, "float64")


@pytest.fixture
def work(tmp_path):
    return Work("float64", 1, tmp_path, "faces/clip-wise")


def test_ranks_by_hand():
    images = np.array([[1, 0, 0, 0], [0.9, 0.4, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0.5]])
    found = generality.ranks(images, np.eye(4))
    assert found[0].tolist() == [0, 1, 0, 1]  # image 1 is nearer to text 0, image 3 to text 2
    assert found[1].tolist() == [0, 0, 0, 0]
    same = generality.ranks(np.ones((5, 2)) / np.sqrt(2), np.ones((5, 2)) / np.sqrt(2))
    assert (same == 2).all()  # all tie: half of the others come before
    images, texts = np.random.default_rng(0).normal(0, 1, (2, 400, 64))
    assert abs(generality.ranks(images, texts).mean() - 199.5) < 20  # chance


def test_mixtures_begin_with_the_pretrained_encoder(encoder, sample_faces, work):
    start = Tuned(encoder.weights, heads.zero_shot(encoder, ASKED))
    head = replace(start.head, bias=np.arange(7.0))
    end = Tuned({k: v + 0.02 if "visual" in k else v for k, v in encoder.weights.items()}, head)
    end.save(work.model("faces/clip-full"))
    config, known = replace(SAMPLE.generality, alphas=(0.0, 1.0), faces=100), sets.captioned(SAMPLE)
    tasks = generality.tasks(SAMPLE)
    arrays = generality.mixtures(encoder, sample_faces, "full", ASKED, config, known, tasks, work=work).arrays
    assert set(arrays) == {"ranks", "right.glasses", "right.beard", "right.long hair", "right.emotion"}
    validation = sample_faces.part("validation")
    validation = validation.select(np.random.default_rng(0).permutation(len(validation))[:100])
    for i, tuned in enumerate((start, end)):
        who = encoder.with_weights(tuned.weights)
        wanted = tuned.head.posterior(who.vectors(validation)).argmax(1) == validation.labels
        assert np.array_equal(arrays["right.emotion"][i], wanted)
        ranks = generality.ranks(who.encode_images(known.images), who.encode_texts(known.texts))
        assert np.array_equal(arrays["ranks"][i], ranks) and np.median(ranks) < len(known) / (8 if i == 0 else 1)
    start.save(work.model("faces/clip-full", 2))
    other = generality.mixtures(encoder, sample_faces, "full", ASKED, config, known, tasks, 2, work=work).arrays
    assert np.array_equal(other["ranks"][1], arrays["ranks"][0]), "the model of the seed that is asked for"
    assert arrays["right.glasses"][0].mean() > 0.8 and arrays["right.beard"][0].mean() > 0.75
    assert not np.array_equal(arrays["ranks"][0], arrays["ranks"][1])
    whole = generality.at_own_size(encoder, known, tasks, SAMPLE.clip, work=work)
    assert whole.notes == {"size": encoder.size} and "right.emotion" not in whole.arrays
    assert all(np.array_equal(values[0], arrays[name][0]) for name, values in whole.arrays.items())


def test_the_chosen_mixture_is_kept_and_flyp_asks_its_head_anew(encoder, sample_faces, work):
    some = sample_faces.select(np.flatnonzero(sample_faces.split == "test")[:30])
    weights = {k: v + 0.02 if "projection" in k else v for k, v in encoder.weights.items()}
    start = Tuned(encoder.weights, heads.zero_shot(encoder, ASKED))
    for method in ("full", "flyp"):
        Tuned(weights, start.head).save(work.model(f"faces/clip-{method}"))
        found = generality.chosen_mixture(encoder, some, method, 0.5, ASKED, work=work)
        kept = Tuned.load(work.model())
        other = encoder.with_weights(Tuned(weights, start.head).mixed(start, 0.5).weights)
        head = start.head if method == "full" else heads.zero_shot(other, ASKED)
        assert np.allclose(kept.head.weight, head.weight)
        assert np.allclose(found.probs[0], kept.head.posterior(other.encode_images(some.images)), atol=1e-6)


def test_pictures_are_opened_once_for_all_mixtures(encoder, sample_faces, work, monkeypatch):
    pictures = column([Image.new("RGB", (32, 32), (60 * i, 90, 200)) for i in range(4)])
    data = Dataset(np.arange(4), np.array([2, 0, 1, 2]), np.full(4, "test"), ("airplane", "cat", "frog"), "made", pictures)
    monkeypatch.setattr(sets, "cifar10", lambda profile: data)
    tasks = generality.tasks(get("mini"))
    assert tasks["CIFAR-10"][1][1] == ["a photo of a cat."]
    Tuned(encoder.weights, heads.zero_shot(encoder, ASKED)).save(work.model("faces/clip-full"))
    opened, usual = [], Encoder.open
    monkeypatch.setattr(Encoder, "open", lambda self, images: opened.extend(images) or usual(self, images))
    known = replace(data, texts=column(["a", "b", "c", "d"]))
    found = generality.mixtures(encoder, sample_faces, "full", ASKED, SAMPLE.generality, known, tasks, work=work)
    assert opened == [*pictures] * 2 and found.arrays["right.CIFAR-10"].shape == (5, 4)
    monkeypatch.setattr(sets, "cifar10", Mock(side_effect=MissingData("not at hand")))
    with pytest.raises(MissingData):
        generality.tasks(get("full"))


def test_other_texts_are_answered_in_their_own_classes(encoder, work):
    data, head = sets.other_texts(SAMPLE), heads.zero_shot(encoder, prompts.TEXTS["single"])
    love = replace(head, bias=np.where(np.arange(6) == TEXT_CLASSES.index("love"), 99.0, 0.0))  # never an answer here
    for name, tuned in {"linear": Tuned({}, love), "tuned": Tuned(encoder.weights, head)}.items():
        tuned.save(work.model(f"texts/clip-{name}"))
    found = generality.other_texts(encoder, data, prompts.TEXTS["single"], work=work)
    answers = found.arrays
    assert data.classes == SHARED_CLASSES and np.array_equal(answers["labels"], data.part("test").labels)
    for name in ("zero-shot", "linear probe", "fine-tuned"):
        assert np.array_equal(answers[name], answers["zero-shot"]) and set(np.unique(answers[name])) <= set(range(5))
