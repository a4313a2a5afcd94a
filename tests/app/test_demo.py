"""The demo shows what the classifier answers, about drawn faces and sentences of our own."""

from types import SimpleNamespace

import numpy as np
import pytest

from emolib import profiles
from emolib.app import demo, steps
from emolib.data import prompts
from emolib.data.labels import FACE_CLASSES, SHARED_CLASSES
from emolib.models import encoder, fusion, heads
from emolib.models.tuning import Tuned
from emolib.profiles import Work

PRIOR = np.array([0.1, 0.2, 0.3, 0.2, 0.2])


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """The recorded answers, and the classifier that gave them."""
    clip, work = encoder.load(profiles.get("sample").clip, "float64"), Work("float64", 1, tmp_path_factory.mktemp("runs"))
    for modality, words in (("image", prompts.FACES), ("text", prompts.TEXTS)):
        Tuned(clip.weights, heads.zero_shot(clip, words["single"])).save(work.model(modality))
    calibrations = fusion.Calibration(1.2, np.zeros(5)), fusion.Calibration(0.9, np.log(PRIOR))
    experts = fusion.Experts(SimpleNamespace(classes=SHARED_CLASSES), None, PRIOR, calibrations, "-")
    models = {"image": "image", "text": "text"}
    return demo.ask(clip, models, experts, work=work), steps.assemble(clip, models, experts, steps.OWN, work)


def test_every_scene_is_the_classifiers_own_answer(asked):
    found, classify = asked
    assert found.arrays["image"].shape == (len(FACE_CLASSES), 5) and found.arrays["text"].shape == (len(demo.SENTENCES), 5)
    scenes = demo.scenes(found, PRIOR)
    assert [(s["picture"] is None, s["sentence"] is None) for s in scenes].count((False, False)) == 2
    for scene in scenes:
        answer = classify(text=scene["sentence"], image=scene["picture"])
        if answer.image and answer.text:
            assert np.allclose(scene["both"], list(answer.posterior.values())) and scene["conflict"] == pytest.approx(
                answer.conflict
            )
        else:
            assert np.isnan(scene["conflict"]) and np.isfinite(scene["both"]).all()
            (there,) = [m for m in ("image", "text") if np.isfinite(scene[m]).all()]
            assert np.array_equal(scene["both"], scene[there]) and getattr(answer, there)


def test_scenes_agree_and_disagree_by_their_words(asked):
    agreeing, disagreeing = (s["conflict"] for s in demo.scenes(asked[0], PRIOR)[:2])
    assert disagreeing > agreeing
