"""Profile `full` end to end on a copy of the study, against a Hub on loopback, without any data: `pytest -m slow`."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from emolib.profiles import ROOT
from tests.hub import FACES, contents, serve

COPIED = ("emolib", "notebooks", "data/sample", "figures", "README.md", "RESULTS.md", "pyproject.toml")
# Every budget of `full` as small as it can be; read by each Python that starts with its folder on the path.
TINY = f"""
from dataclasses import replace
from emolib import profiles
from emolib.data import official

official.FER_TRAINING_COUNTS = {FACES}
full = profiles.PROFILES["full"]
ways = ("lora", "full", "lpft", "flyp", "texts", "genuine", "lstm", "gru", "cnn", "fusion")
small = {{k: replace(c := getattr(full, k), seeds=(0,), fit=replace(c.fit, epochs=1)) for k in ways}}
small["own"] = replace(full.own, fit=replace(full.own.fit, epochs=1))
small["cnn"] = replace(small["cnn"], stem=8, widths=(8, 16), blocks=(1, 1), sizes=((1.0, 24),))
small["clip"] = replace(full.clip, image_size=64)
small["search"] = replace(full.search, epochs=1, rows=60, factors=(1,), beyond=0)
small["frozen"] = replace(full.frozen, sizes=(64,), size_rows=60, shots=(1,), shot_seeds=1)
small["fusion"] = replace(small["fusion"], pairings=5, emap=20, width=32)
profiles.PROFILES["full"] = replace(full, **small)
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A copy of the study, the environment of a machine without data, and a Hub that fails each seventh request."""
    folder = tmp_path_factory.mktemp("study")
    for name in COPIED:
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile)(ROOT / name, folder / name)
    (folder / "tiny").mkdir()
    (folder / "tiny" / "sitecustomize.py").write_text(TINY)
    with serve(contents(), every=7) as address:
        known = {
            "HF_ENDPOINT": address,
            "HF_HOME": str(folder / "hub"),
            "EMOLIB_DATA": str(folder / "raw"),
            "OMP_NUM_THREADS": "1",
        }
        yield folder, os.environ | known | {"PYTHONPATH": f"{folder}{os.pathsep}{folder / 'tiny'}"}


def command(study, *arguments):
    """Start `python -m emolib` there."""
    folder, known = study
    return subprocess.Popen(
        [sys.executable, "-m", "emolib", *arguments], cwd=folder, env=known, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip


@pytest.mark.slow
def test_full_runs_without_data_through_a_kill_and_is_published(study):
    folder, _ = study
    run = ("run", "--profile", "full", "--record", "--out", str(folder / "out"))
    first, made = command(study, *run), folder / "out" / "records"
    while not (made / "faces" / "clip-full.json").exists():
        assert first.poll() is None, first.communicate()[1][-2000:]
        time.sleep(0.2)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    out, err = (again := command(study, *run)).communicate()
    assert again.returncode == 0, err[-3000:]
    for said in ("FER-2013: from the Hub", "MSED: not at hand", "dual encoder: openai/", "unzip it there in data/records"):
        assert said in out
    assert "faces/clip-full: from" in err and (folder / "out" / "records-full.zip").exists()
    kept = {path.stem for path in (folder / "data" / "records" / "full" / "faces").glob("*.json")}
    assert {"cnn", "clip-tuned", "clip-lora"} <= kept
    made = {path.stem for path in (folder / "data" / "records" / "full").glob("g*/*.json")}
    assert made == {"things-checked", "other-texts"}  # neither MSED nor Flickr8k
    out, err = (published := command(study, "publish", "--profile", "full")).communicate()
    assert published.returncode == 0, err[-3000:]
    readme, report = ((folder / name).read_text() for name in ("README.md", "out/report.html"))
    assert "openai/clip-vit-base-patch32 reaches" in readme and "MSED is not at hand" in report and "distrust this run" in report
    assert 'replays="full"' in (folder / "emolib" / "profiles.py").read_text()
    again = [sys.executable, "-m", "pytest", "--nbval", "-q", "-p", "no:cacheprovider", "notebooks"]
    checked = subprocess.run(again, cwd=folder, env=study[1], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout[-3000:]
