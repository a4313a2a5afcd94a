import numpy as np
import pytest

from emolib import sample
from emolib.labels import FACE_CLASSES, TEXT_CLASSES
from emolib.profiles import ROOT


def test_the_sample_is_the_same_bit_for_bit_when_made_anew(tmp_path):
    sample.make(tmp_path)
    kept = ROOT / "data" / "sample"
    for name in ("emotion/train.txt", "emotion/val.txt", "emotion/test.txt", "planted.json"):
        assert (tmp_path / name).read_bytes() == (kept / name).read_bytes(), name
    with np.load(tmp_path / "fer2013/faces.npz") as new, np.load(kept / "fer2013/faces.npz") as old:
        assert new.files == old.files
        for key in new.files:
            assert np.array_equal(new[key], old[key]), key


def test_the_sample_is_small():
    assert sum(p.stat().st_size for p in (ROOT / "data" / "sample").rglob("*") if p.is_file()) <= 10e6


def test_drawn_features_change_the_picture_where_they_should():
    """Each named feature darkens or lights its own region and little else."""
    who = sample.people(np.random.default_rng(0), 1)
    still = np.zeros((1, len(sample.UNITS)))

    def face(action=still, **change):
        changed = sample.People(**{**vars(who), "glasses": np.zeros(1), "beard": np.zeros(1), **change})
        return sample.draw(np.random.default_rng(3), changed, action)[0].astype(int)

    plain = face()
    upper, lower = slice(0, 28), slice(28, 48)
    glasses, beard = (np.abs(face(**{k: np.ones(1)}) - plain) for k in ("glasses", "beard"))
    assert glasses[upper].sum() > 5 * glasses[lower].sum() and beard[lower].sum() > 5 * beard[upper].sum()
    for unit, region in ((1, upper), (4, upper), (12, lower), (26, lower)):
        action = still.copy()
        action[0, sample.UNITS.index(unit)] = 1
        moved = np.abs(face(action) - plain)
        other = lower if region is upper else upper
        assert moved[region].sum() > 1.5 * moved[other].sum() and moved.max() > 40, unit


def test_captions_say_what_is_drawn():
    pixels, captions, who = sample.captioned(np.random.default_rng(0), 400)
    assert pixels.shape == (400, 48, 48) and len(captions) == 400
    again = sample.captioned(np.random.default_rng(0), 400)
    assert np.array_equal(again[0], pixels) and again[1] == captions
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
    assert set(sample.ACTION_UNITS) == set(FACE_CLASSES) and set(sample.CUES) == set(TEXT_CLASSES)
    assert all(set(units) <= set(sample.UNITS) for units in sample.ACTION_UNITS.values())
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
    agree = sample_faces.votes.argmax(1)
    from emolib.labels import FERPLUS_COLUMNS, FERPLUS_TO_FACE

    names = np.array([FERPLUS_TO_FACE.get(c, "") for c in FERPLUS_COLUMNS])[agree]
    assert 0.5 < (names == np.array(FACE_CLASSES)[sample_faces.labels]).mean() < 0.95
