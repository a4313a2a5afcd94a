"""The whole sample study live, in a file of its own so that one test process runs it: today's numbers are the stored ones."""

import dataclasses
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from emolib import metrics, profiles, records
from emolib.profiles import ROOT
from emolib.records import Predictions

CLOCKS = ("runs", "seconds", "images_per_second", "peak_memory")


def numbers(record):
    """Everything a reader sees of a record but the clock: scores, notes and arrays."""
    found = {"notes": {k: v for k, v in record.notes.items() if k not in CLOCKS}}
    if isinstance(record, Predictions):
        for split in ("validation", "test"):
            found[split] = metrics.score(getattr(record, split), count=200)
    return found | {"arrays": {k: v for k, v in record.arrays.items() if v.dtype.kind in "iub"}}


def assert_close(new, old, where):
    """The same structure, and every number within 1e-6."""
    if isinstance(old, dict):
        assert new.keys() == old.keys(), where
        for key in old:
            if key not in CLOCKS:
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
    done = subprocess.run(
        [sys.executable, "-m", "emolib", "run", "--profile", "sample", "--out", str(out)], cwd=ROOT, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return out, done


def test_the_sample_study_runs_live_and_equals_its_stored_numbers(live):
    out, _ = live
    stored = records.RECORDS / "sample"
    assert records.names(out / "records") == records.names(stored)
    sample = profiles.get("sample")
    shown = dataclasses.replace(profiles.get("published"), replays="sample")
    os.environ["EMOLIB_OUT"] = str(out)
    try:
        for name in records.names(stored):
            assert_close(numbers(records.read(name, sample)), numbers(records.read(name, shown)), name)
    finally:
        del os.environ["EMOLIB_OUT"]


def test_the_sample_run_ends_by_naming_one_self_contained_page(live):
    out, done = live
    assert done.stdout.strip().splitlines()[-1] == f"open {out / 'report.html'}"
    html = (out / "report.html").read_text(encoding="utf8")
    assert "<script" not in html and 'src="http' not in html and "@import" not in html
    assert html.count("data:image/png;base64") >= 8 and "Generated faces and sentences" in html
    assert html.count("<section") == len(list((ROOT / "notebooks").glob("*.ipynb")))


def test_a_finished_run_is_not_computed_again_unless_fresh(live):
    out, _ = live
    copy = out.parent / "again"
    shutil.copytree(out, copy)
    made = (copy / "records" / "texts" / "gru.json").stat().st_mtime_ns
    code = "from emolib.records import Run, profiles; Run('02_baselines', profiles.get('sample')).step('texts/gru', None)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "EMOLIB_OUT": str(copy)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--fresh computes it anew" in done.stderr
    assert (copy / "records" / "texts" / "gru.json").stat().st_mtime_ns == made


def test_the_comparison_fails_where_a_number_moved():
    stored = {"a": [1.0, {"b": np.array([0.5, 0.25])}], "c": "text", "seconds": 3.0}
    assert_close({"a": [1.0 + 5e-7, {"b": np.array([0.5, 0.25])}], "c": "text", "seconds": 9.0}, stored, "whole")
    moved = ({"a": [1.0 + 2e-6, stored["a"][1]]}, {"c": "other"}, {"a": [1.0, {"b": np.array([0.5, 0.26])}]}, {"a": [1.0]})
    for change in moved:
        with pytest.raises(AssertionError):
            assert_close(stored | change, stored, "whole")
    with pytest.raises(AssertionError):
        assert_close({k: v for k, v in stored.items() if k != "c"}, stored, "whole")
