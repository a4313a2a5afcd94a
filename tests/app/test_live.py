"""The whole sample study live, in a file of its own so that one test process runs it: today's numbers are the stored ones."""

import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from emolib import profiles
from emolib.profiles import ROOT
from emolib.results import metrics, records
from emolib.results.predictions import Predictions

CLOCKS = ("runs", "seconds", "images_per_second")
SAMPLE = profiles.get("sample")


def numbers(record):
    """Everything a reader sees of a record but the clock: scores, notes and arrays."""
    found = {"notes": {k: v for k, v in record.notes.items() if k not in CLOCKS}}
    if isinstance(record, Predictions):
        found |= {split: metrics.score(getattr(record, split), count=200) for split in ("validation", "test")}
    return found | {"arrays": {k: v for k, v in record.arrays.items() if v.dtype.kind in "iub"}}


def assert_close(new, old, where):
    """The same structure, and every number within 1e-6."""
    if isinstance(old, dict):
        assert new.keys() == old.keys(), where
        for key in old.keys() - set(CLOCKS):
            assert_close(new[key], old[key], f"{where}, {key}")
    elif isinstance(old, (list, tuple)):
        assert len(new) == len(old), where
        for i, (a, b) in enumerate(zip(new, old, strict=True)):
            assert_close(a, b, f"{where}[{i}]")
    elif isinstance(old, (str, bool, type(None))):
        assert new == old, f"{where} is {new}, stored is {old}"
    else:
        same = np.allclose(np.asarray(new, float), np.asarray(old, float), rtol=0, atol=1e-6, equal_nan=True)
        assert same, f"{where} is {new}, stored is {old}"


@pytest.fixture(scope="session")
def live(tmp_path_factory):
    out = tmp_path_factory.mktemp("sample")
    command = [sys.executable, "-m", "emolib", "run", "--profile", "sample", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return out, done


def test_the_sample_study_runs_live_and_equals_its_stored_numbers(live, monkeypatch):
    monkeypatch.setenv("EMOLIB_OUT", str(live[0]))
    today, stored = records.Run("live", SAMPLE), records.Run("live", SAMPLE, replays=True)
    assert records.names(today.folder) == records.names(stored.folder)
    for name in records.names(stored.folder):
        assert_close(numbers(today.load(name)), numbers(stored.load(name)), name)


def test_the_sample_run_ends_by_naming_one_self_contained_page(live):
    out, done = live
    assert done.stdout.strip().splitlines()[-1] == f"open {out / 'report.html'}"
    html = (out / "report.html").read_text(encoding="utf8")
    assert "<script" not in html and 'src="http' not in html and "@import" not in html and SAMPLE.says in html
    assert html.count("data:image/png;base64") >= 8
    assert html.count("<section") == len(list((ROOT / "notebooks").glob("*.ipynb")))


def test_a_finished_run_is_not_computed_again_unless_fresh(live):
    copy = live[0].parent / "again"
    shutil.copytree(live[0], copy)
    made = (copy / "records" / "texts" / "majority.json").stat().st_mtime_ns
    code = (
        "from emolib import profiles; from emolib.data import sets; from emolib.models import baselines; "
        "from emolib.results.records import Run; sample = profiles.get('sample'); "
        "Run('02_baselines', sample).step('texts/majority', baselines.majority, sets.texts(sample))"
    )
    environment = {**os.environ, "EMOLIB_OUT": str(copy)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert "--fresh computes it anew" in done.stderr
    assert (copy / "records" / "texts" / "majority.json").stat().st_mtime_ns == made


def test_the_snippet_of_the_readme_prints_what_stands_below_it(live):
    code, printed = re.search(
        r"```python\n(.*?)```\n\n    (.*?)\n", (ROOT / "README.md").read_text(encoding="utf8"), re.S
    ).groups()
    code = code.replace("runs/sample", str(live[0]))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == printed


def test_the_comparison_fails_where_a_number_moved():
    stored = {"a": [1.0, {"b": np.array([0.5, 0.25])}], "c": "text", "seconds": 3.0}
    assert_close({"a": [1.0 + 5e-7, {"b": np.array([0.5, 0.25])}], "c": "text", "seconds": 9.0}, stored, "whole")
    moved = ({"a": [1.0 + 2e-6, stored["a"][1]]}, {"c": "other"}, {"a": [1.0, {"b": np.array([0.5, 0.26])}]}, {"a": [1.0]})
    for change in moved:
        with pytest.raises(AssertionError):
            assert_close(stored | change, stored, "whole")
    with pytest.raises(AssertionError):
        assert_close({k: v for k, v in stored.items() if k != "c"}, stored, "whole")
