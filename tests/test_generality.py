"""Generality: ranks by hand, emotions left out, mixtures that contain the encoder as it came."""

import dataclasses

import numpy as np
import pytest

from emolib import clip, generality, heads, pairs, profiles, prompts, sample, training, tuning
from emolib.items import DataError, MissingData
from emolib.labels import FACE_CLASSES
from emolib.tuning import Tuned

SAMPLE = profiles.get("sample")


def measured(encoder):
    known = pairs.captioned(SAMPLE)
    return generality.measure(encoder, known, generality.tasks(SAMPLE, known))


def test_ranks_by_hand():
    texts = np.eye(4)
    images = np.array([[1, 0, 0, 0], [0.9, 0.4, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0.5]])
    found = generality.ranks(images, texts)
    assert found[0].tolist() == [0, 1, 0, 1]  # image 1 is nearer to text 0, image 3 to text 2
    assert found[1].tolist() == [0, 0, 0, 0]
    same = generality.ranks(np.ones((5, 2)) / np.sqrt(2), np.ones((5, 2)) / np.sqrt(2))
    assert (same == 2).all()  # all tie: half of the others come before


def test_chance_is_chance():
    rng = np.random.default_rng(0)
    images, texts = rng.normal(0, 1, (2, 400, 64))
    found = generality.ranks(images, texts)
    assert abs(found.mean() - 199.5) < 20


def test_seen_only_counts_labels_anew(sample_faces):
    kept = generality.seen_only(sample_faces, ("happy", "fear"))
    assert kept.classes == ("angry", "disgust", "sad", "surprise", "neutral")
    names = np.array(FACE_CLASSES)[sample_faces.labels]
    assert len(kept) == (~np.isin(names, ["happy", "fear"])).sum()
    assert (np.array(kept.classes)[kept.labels] == names[~np.isin(names, ["happy", "fear"])]).all()


def test_few_draws_training_and_validation_and_keeps_test(sample_faces):
    some = generality.few(sample_faces, 100)
    assert [(some.split == s).sum() for s in ("train", "validation", "test")] == [100, 100, sample.SIZES[2]]
    assert np.array_equal(generality.few(sample_faces, None).ids, sample_faces.ids)


def test_the_tiny_clip_knows_glasses_and_more_than_chance_of_emotions(sample_faces):
    encoder = clip.load(SAMPLE)
    found = measured(encoder)
    assert {"ranks", "right.glasses", "right.beard", "right.long hair"} == set(found)
    assert found["right.glasses"].mean() > 0.8 and found["right.beard"].mean() > 0.75
    assert np.median(found["ranks"]) < len(found["right.glasses"]) / 8  # chance: half of them
    test = sample_faces.part("test")
    scores = [heads.accuracy(heads.zero_shot(encoder, asked).posterior(encoder.encode_images(test.pixels)), test.labels)
              for asked in prompts.FACES.values()]  # fmt: skip
    assert max(scores) > 0.3  # the majority class has a quarter


def test_mixtures_begin_with_the_encoder_as_it_came(sample_faces, tmp_path, monkeypatch):
    monkeypatch.setenv("EMOLIB_OUT", str(tmp_path))
    encoder, asked = clip.load(SAMPLE), prompts.FACES["templates"]
    head = heads.zero_shot(encoder, asked)
    profile = dataclasses.replace(SAMPLE, generality=dataclasses.replace(SAMPLE.generality, alphas=(0.0, 1.0), faces=100))
    nudged = {k: v * 1.05 if "visual" in k else v for k, v in encoder.weights.items()}
    found = generality.along(encoder, Tuned(encoder.weights, head), Tuned(nudged, head), sample_faces, profile)
    plain = measured(encoder)
    for name, values in plain.items():
        assert np.array_equal(found.arrays[name][0], values), name
    rows = np.random.default_rng(0).permutation(sample.SIZES[1])[:100]
    validation = sample_faces.part("validation").select(rows)
    right = head.posterior(encoder.encode_images(validation.pixels)).argmax(1) == validation.labels
    assert np.array_equal(found.arrays["right.emotion"][0], right) and len(found.arrays["right.emotion"]) == 2


def test_emotions_left_out_are_never_taught(sample_faces, tmp_path, monkeypatch):
    monkeypatch.setenv("EMOLIB_OUT", str(tmp_path))
    seen = {}

    def spy(job, profile, seed):
        seen["classes"], seen["asked"], seen["rows"] = job.data.classes, job.prompts, (job.data.split == "train").sum()
        model = type("Model", (), {"tuned": lambda self: Tuned(job.encoder.weights, job.head)})()
        return training.Fitted(model, [], {"seconds": 0.0})

    monkeypatch.setattr(tuning, "fit", spy)
    asked = prompts.FACES["single"]
    found = generality.left_out("flyp", clip.load(SAMPLE), sample_faces, asked, SAMPLE)
    assert not set(seen["classes"]) & {"happy", "fear"} and seen["rows"] == SAMPLE.generality.left_out_rows
    assert seen["asked"] == [asked[i] for i, c in enumerate(FACE_CLASSES) if c not in ("happy", "fear")]
    assert np.array_equal(found.arrays["before"], found.arrays["after"])  # nothing was trained
    assert set(np.unique(found.arrays["labels"])) == set(range(7))


def test_missing_pairs_say_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setenv("EMOLIB_DATA", str(tmp_path))
    with pytest.raises(MissingData, match=r"MSED is not at hand.*EMOLIB_DATA=FOLDER"):
        pairs.captioned(profiles.get("mini"))


def test_msed_is_read_and_a_bad_row_named(monkeypatch, tmp_path):
    import pandas as pd

    monkeypatch.setenv("EMOLIB_DATA", str(tmp_path))
    (tmp_path / "msed").mkdir()
    table = pd.DataFrame(
        {"image": [{"bytes": b"x"}, {"bytes": b"y"}], "caption": ["a dog", "a cat"], "desire": ["family", "none"]}
    )
    table.to_parquet(tmp_path / "msed" / "test.parquet")
    found = pairs.captioned(profiles.get("mini"))
    assert found.texts == ["a dog", "a cat"] and found.pictures == [b"x", b"y"] and found.tags.tolist() == ["family", "none"]
    table.assign(caption=["a dog", " "]).to_parquet(tmp_path / "msed" / "test.parquet")
    with pytest.raises(DataError, match=r"test\.parquet, row 1: the caption is empty"):
        pairs.captioned(profiles.get("mini"))


def test_cifar_is_asked_in_the_profile_that_may_ask_the_hub(monkeypatch):
    """The Hub's set by a stand-in of the same columns: pictures, labels, one prompt a class."""
    import datasets
    from PIL import Image

    names = ["airplane", "cat", "frog"]
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    pictures = [Image.new("RGB", (32, 32), (60 * i, 90, 200)) for i in range(4)]
    rows = datasets.Dataset.from_dict({"img": pictures, "label": [2, 0, 1, 2]}, features=features)
    asked = {}
    monkeypatch.setattr(datasets, "load_dataset", lambda name, **options: asked.update(options, name=name) or rows)
    known = pairs.Captioned([], [], np.array([]), "nothing")
    found = generality.tasks(profiles.get("full"), known)["CIFAR-10"]
    assert asked == {"name": "uoft-cs/cifar10", "split": "test", "revision": generality.CIFAR[1]}
    assert found[1].tolist() == [2, 0, 1, 2] and found[2][1] == ["a photo of a cat."]
    assert "CIFAR-10" not in generality.tasks(profiles.get("mini"), known)
    encoder = clip.load(SAMPLE)
    pairs_known = pairs.Captioned(pictures, ["a", "b", "c", "d"], np.zeros(4), "made")
    right = generality.measure(encoder, pairs_known, {"CIFAR-10": found})["right.CIFAR-10"]
    assert right.shape == (4,) and right.dtype == bool
