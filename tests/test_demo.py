"""The demo: recorded answers and live ones are the classifier's; the controls do what they say."""

import io

import numpy as np
import pytest
from PIL import Image

from emolib import clip, demo, fusion, heads, profiles, prompts, sample
from emolib.classifier import EmotionClassifier
from emolib.fusion import Calibration
from emolib.labels import FACE_CLASSES, SHARED_CLASSES

SAMPLE = profiles.get("sample")


@pytest.fixture(scope="module")
def classifier():
    encoder = clip.load(SAMPLE)
    cues = {"image": prompts.FACES["single"], "text": prompts.TEXTS["single"]}
    made = {cue: heads.zero_shot(encoder, asked) for cue, asked in cues.items()}
    return EmotionClassifier(encoder, made, {cue: Calibration(1.0, np.zeros(5)) for cue in cues}, np.full(5, 0.2))


@pytest.fixture(scope="module")
def asked(classifier):
    return demo.ask(classifier)


def test_drawn_faces_differ_only_by_what_the_face_does():
    still, smile = demo.face({}), demo.face({12: 1.0})
    assert still.shape == (48, 48) and still.dtype == np.uint8
    changed = np.abs(still.astype(int) - smile) > 20
    assert changed[28:44].sum() > 20 and changed[:20].sum() == 0
    assert {unit for units in demo.SLIDERS.values() for unit in units} <= set(sample.UNITS)


def test_what_was_asked_is_what_the_classifier_answers(classifier, asked):
    assert asked.arrays["face"].shape == (7, 5) and asked.arrays["text"].shape == (len(demo.SENTENCES), 5)
    for name, number in demo.SCENES:
        picture = None if name is None else demo.face(sample.ACTION_UNITS[name])
        answer = classifier(text=None if number is None else demo.SENTENCES[number], image=picture)
        seen = None if name is None else asked.arrays["face"][FACE_CLASSES.index(name)]
        said = None if number is None else asked.arrays["text"][number]
        both, score = demo.fused(seen, said, asked.arrays["prior"])
        assert np.allclose(both, list(answer.posterior.values()), atol=1e-9)
        assert (score is None) == (answer.conflict is None) and (score is None or abs(score - answer.conflict) < 1e-9)
        assert answer.label in demo.verdict(both, score)


def test_the_pictures_bars_are_the_posteriors(asked):
    fig = demo.scenes(asked)
    rights = [part.axes[2] for part in fig.subfigs]
    assert len(rights) == len(demo.SCENES)
    heights = [bar.get_height() / 100 for bar in rights[1].patches]
    (name, number), prior = demo.SCENES[1], asked.arrays["prior"]
    seen, said = asked.arrays["face"][FACE_CLASSES.index(name)], asked.arrays["text"][number]
    assert np.allclose(heights, [*seen, *said, *fusion.product(seen, said, prior)])
    assert len(rights[2].patches) == len(rights[3].patches) == 10  # a missing cue has no bars
    assert demo.told(asked).count("\n") == len(demo.SCENES) - 1


def box(found, profile):
    note, words, which, drawing, picture = demo.play(found, profile).children
    return note, words, which, drawing, picture


def test_without_a_classifier_one_chooses_from_what_was_asked(asked):
    note, words, which, drawing, picture = box(asked, profiles.get("published"))
    assert "python -m emolib run --profile mini" in note.value
    assert words.options == (demo.NONE, *demo.SENTENCES) and demo.OWN not in which.options
    before = picture.value
    assert Image.open(io.BytesIO(before)).format == "PNG" and drawing.layout.display == "none"
    words.value = demo.SENTENCES[2]
    assert picture.value != before
    which.value = words.value = demo.NONE
    assert Image.open(io.BytesIO(picture.value)).format == "PNG"


def test_with_a_classifier_one_types_and_draws(classifier, asked, tmp_path, monkeypatch):
    monkeypatch.setenv("EMOLIB_OUT", str(tmp_path))
    classifier.save_pretrained(demo.folder(SAMPLE), "a card")
    shown = []
    monkeypatch.setattr(demo, "show", lambda part, *what: shown.append(what))
    _, words, which, drawing, _ = box(asked, SAMPLE)
    words.value = "i feel furious about the train"
    which.value = demo.OWN
    assert drawing.layout.display is None
    drawing.children[3].value = 1.0  # smile
    picture, sentence, seen, said, _ = shown[-1]
    assert sentence == "i feel furious about the train"
    assert np.array_equal(picture, demo.face(dict.fromkeys(demo.SLIDERS["smile"], 1.0)))
    answer = classifier(text=sentence, image=picture)
    assert np.allclose(seen, list(answer.image.values()), atol=1e-6)
    assert np.allclose(said, [answer.text[c] for c in SHARED_CLASSES], atol=1e-6)
    words.value = "  "
    assert shown[-1][1] is None and shown[-1][3] is None
