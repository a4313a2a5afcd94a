import io
import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from emolib.data import sets
from emolib.data.labels import FACE_CLASSES, FERPLUS_COLUMNS, FERPLUS_TO_FACE, TEXT_CLASSES
from emolib.data.sets import SAMPLE


def contents(path):
    """Arrays of an npz file, pixels of pictures, text of anything else."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return {key: (array.dtype.str, array.tolist()) for key, array in file.items()}
    if path.suffix == ".parquet":
        table = pd.read_parquet(path)
        pixels = [np.asarray(Image.open(io.BytesIO(picture))).tolist() for picture in table.image]
        return pixels, table.drop(columns="image").to_numpy().tolist()
    return np.asarray(Image.open(path)).tolist() if path.suffix == ".png" else path.read_text(encoding="utf8")


def test_the_sample_is_the_same_when_made_anew(maker, tmp_path):
    maker.main(tmp_path)
    made, kept = ({path.relative_to(folder) for path in folder.rglob("*.*") if path.is_file()} for folder in (tmp_path, SAMPLE))
    assert made == {path for path in kept if path.suffix != ".pyc" and path.suffix != ".py" and path.parts[0] != "clip-tiny"}
    for name in made:
        assert contents(tmp_path / name) == contents(SAMPLE / name), name


def test_the_encoder_made_anew_has_the_kept_ones_layout(script):
    made = script("pretrain").untrained(["a photo of a happy person with glasses"] * 3)
    kept = json.loads((SAMPLE / "clip-tiny" / "config.json").read_text())
    ours = json.loads(made[0].config.to_json_string(use_diff=False))
    for part in ("text_config", "vision_config"):
        unlike = {key for key, value in kept[part].items() if ours[part].get(key) != value}
        assert unlike <= {"vocab_size", "bos_token_id", "eos_token_id", "pad_token_id"}, part


def test_the_sample_is_small():
    assert sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file()) <= 10e6


def test_the_demo_shows_one_person_with_every_expression():
    faces = sets.demo_faces()
    assert tuple(faces) == FACE_CLASSES and all(face.shape == (48, 48) for face in faces.values())
    assert np.array_equal(np.asarray(Image.open(SAMPLE / "face.png")), faces["happy"])


def test_captions_say_what_is_drawn(maker):
    pixels, captions, who = maker.captioned(np.random.default_rng(0), 400)
    for word, worn in (("glasses", who.glasses), ("beard", who.beard), ("long", who.long_hair)):
        named = [bool(w) for w, c in zip(worn, captions, strict=True) if word in c.split()]
        assert len(named) > 30 and all(named), word
    # an open mouth is darker than a closed one
    mouth = {word: np.mean([p[32:40, 20:28].mean() for p, c in zip(pixels, captions, strict=True) if word in c])
             for word in ("an open mouth", "pressed lips")}  # fmt: skip
    assert mouth["an open mouth"] < mouth["pressed lips"]
    named = [c for c in captions if any(word in c for words in maker._AFFECT.values() for word in words)]
    assert 0.2 < len(named) / 400 < 0.5
    assert {"glasses", "beard", "hair", "smile", "eyebrows"} <= {w for c in captions for w in c.split()}


def test_every_emotion_has_action_units_and_cues(maker, drawing):
    assert set(drawing.ACTION_UNITS) == set(FACE_CLASSES) and set(maker.CUES) == set(TEXT_CLASSES)
    assert all(set(units) <= set(drawing.UNITS) for units in drawing.ACTION_UNITS.values())
    assert all(set(others) < set(FACE_CLASSES) for others in maker._CONFUSED.values())


@pytest.mark.parametrize("label", range(6))
def test_the_last_feeling_named_is_the_labels(label, maker):
    rng = np.random.default_rng(label)
    own = set(maker.CUES[TEXT_CLASSES[label]])
    every = {word for words in maker.CUES.values() for word in words}
    for _ in range(100):
        text = maker.sentence(rng, label)
        for scenery in (*maker._CONTEXTS, *maker._TOPICS):  # "write it down", "the empty street"
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
