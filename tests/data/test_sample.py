import numpy as np
import pytest

from emolib.data import drawing, sample
from emolib.data.labels import FACE_CLASSES, FERPLUS_COLUMNS, FERPLUS_TO_FACE, TEXT_CLASSES
from emolib.profiles import ROOT


def test_the_sample_is_the_same_bit_for_bit_when_made_anew(tmp_path):
    sample.make(tmp_path)
    kept, made = ROOT / "data" / "sample", [path.relative_to(tmp_path) for path in tmp_path.rglob("*.*")]
    for name in made:
        assert name.suffix == ".npz" or (tmp_path / name).read_bytes() == (kept / name).read_bytes(), name
    assert len(made) == 8
    with np.load(tmp_path / "fer2013/faces.npz") as new, np.load(kept / "fer2013/faces.npz") as old:
        assert new.files == old.files
        for key in new.files:
            assert np.array_equal(new[key], old[key]), key


def test_the_sample_is_small():
    assert sum(p.stat().st_size for p in (ROOT / "data" / "sample").rglob("*") if p.is_file()) <= 10e6


def test_captions_say_what_is_drawn():
    pixels, captions, who = sample.captioned(np.random.default_rng(0), 400)
    for word, worn in (("glasses", who.glasses), ("beard", who.beard), ("long", who.long_hair)):
        named = [bool(w) for w, c in zip(worn, captions, strict=True) if word in c.split()]
        assert len(named) > 30 and all(named), word
    # an open mouth is darker than a closed one
    mouth = {word: np.mean([p[32:40, 20:28].mean() for p, c in zip(pixels, captions, strict=True) if word in c])
             for word in ("an open mouth", "pressed lips")}  # fmt: skip
    assert mouth["an open mouth"] < mouth["pressed lips"]
    named = [c for c in captions if any(word in c for words in sample._AFFECT.values() for word in words)]
    assert 0.2 < len(named) / 400 < 0.5
    assert {"glasses", "beard", "hair", "smile", "eyebrows"} <= {w for c in captions for w in c.split()}


def test_every_emotion_has_action_units_and_cues():
    assert set(drawing.ACTION_UNITS) == set(FACE_CLASSES) and set(sample.CUES) == set(TEXT_CLASSES)
    assert all(set(units) <= set(drawing.UNITS) for units in drawing.ACTION_UNITS.values())
    assert all(set(others) < set(FACE_CLASSES) for others in sample._CONFUSED.values())


@pytest.mark.parametrize("label", range(6))
def test_the_last_feeling_named_is_the_labels(label):
    rng = np.random.default_rng(label)
    own = set(sample.CUES[TEXT_CLASSES[label]])
    every = {word for words in sample.CUES.values() for word in words}
    for _ in range(100):
        text = sample.sentence(rng, label)
        for scenery in (*sample._CONTEXTS, *sample._TOPICS):  # "write it down", "the empty street"
            text = text.replace(scenery, "")
        words = text.split()
        asides = {"even", "felt"}  # "i feel glad about it even if i felt sad": the aside comes last
        if not asides <= set(words):
            assert [w for w in words if w in every][-1] in own, " ".join(words)


def test_sample_is_hard_enough_that_systems_differ(sample_faces, sample_texts):
    """8 % and 4 % of the labels are wrong, so no system can be perfect; all classes occur in every split."""
    for data in (sample_faces, sample_texts):
        assert (data.counts() > 15).all()
    agree = sample_faces.extras["votes"].argmax(1)
    names = np.array([FERPLUS_TO_FACE.get(c, "") for c in FERPLUS_COLUMNS])[agree]
    assert 0.5 < (names == np.array(FACE_CLASSES)[sample_faces.labels]).mean() < 0.95
