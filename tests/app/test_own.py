"""Notebook 6 on what a stranger brings: class folders of photographs without a split, and a table of texts alone."""

import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from emolib import EmotionClassifier
from emolib.data import sets
from emolib.profiles import ROOT


def run(out, *arguments):
    command = [sys.executable, "-m", "emolib", "run", "06", "--profile", "sample", "--out", str(out)]
    return subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_folder_of_pictures_without_anything_else(tmp_path):
    rng = np.random.default_rng(0)
    for k, name in enumerate(("red", "green", "blue")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(20):
            pixels = rng.integers(0, 90, (*rng.integers(60, 120, 2), 3), dtype=np.uint8)
            pixels[..., k] += 160
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.jpg")
    (tmp_path / "photos" / ".DS_Store").touch()
    done = run(tmp_path / "out", "-p", "data", str(tmp_path / "photos"))
    assert done.returncode == 0, done.stderr[-2000:]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf8")
    assert "1 files that are no pictures of a class skipped" in page and "validation and test drawn from Training" in page
    found = EmotionClassifier.from_pretrained(tmp_path / "out" / "export" / "own-image")
    assert found.own["image"] == ("blue", "green", "red")
    assert found(image=np.full((50, 70, 3), 0.5)).label in found.own["image"]


def test_a_table_of_pictures_alone_reads_as_the_notebook_asks(tmp_path, sample_faces):
    for i in range(21):
        Image.fromarray(sample_faces.images[i]).save(tmp_path / f"{i}.png")
    pd.DataFrame({"path": [f"{i}.png" for i in range(21)], "label": list("abc") * 7}).to_csv(tmp_path / "t.csv", index=False)
    assert sets.own(tmp_path / "t.csv", "path", "", "label").modalities == ("image",)


@pytest.mark.parametrize(("label", "message"), [("mood", None), ("emotion", r"DataError: .*missing \['emotion'\]")])
def test_a_table_of_texts(tmp_path, label, message):
    texts = [f"i feel {word} about {i}" for word in ("happy", "sad") for i in range(30)]
    pd.DataFrame({"said": texts, "mood": ["up"] * 30 + ["down"] * 30}).to_csv(tmp_path / "t.csv", index=False)
    done = run(tmp_path / "out", "-p", "data", str(tmp_path / "t.csv"), "-p", "text", "said", "-p", "label", label)
    if message:
        assert done.returncode == 1 and re.search(message, done.stderr) and "Traceback" not in done.stderr, done.stderr[-2000:]
        return
    assert done.returncode == 0, done.stderr[-2000:]
    found = EmotionClassifier.from_pretrained(tmp_path / "out" / "export" / "own-text")
    assert found.own == {"text": ("down", "up")} and found(text="i feel happy about you").posterior.keys() == {"down", "up"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-p", "date", "x"), "none of the notebooks 06_your_own_data has a parameter date"),
        (("-p", "data", "x", "--profile", "published"), "profile published computes nothing; with -p name --profile sample"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_runs(tmp_path, arguments, message):
    done = run(tmp_path / "out", *arguments)
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
