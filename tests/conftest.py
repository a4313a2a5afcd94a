"""Shared fixtures: the sample as data sets, and the real data where it is at hand."""

import os
import sys
from pathlib import Path

import pytest

from emolib import profiles
from emolib.data import hub, official, sets

REAL = Path(os.environ.get("EMOLIB_DATA", profiles.ROOT / "data" / "raw"))


@pytest.fixture
def needs_real_data(monkeypatch):
    """The folder of the real data sets, named in EMOLIB_DATA; a test that asks for it is skipped where they are not."""
    if not (REAL / "fer2013").is_dir() or not (REAL / "emotion").is_dir():
        pytest.skip("the real data sets are not at hand: set EMOLIB_DATA to their folder (data/README.md says how to get them)")
    monkeypatch.setenv("EMOLIB_DATA", str(REAL))
    return REAL


@pytest.fixture(scope="session")
def sample_faces():
    """The drawn faces with all their defects."""
    return sets.raw_faces(profiles.get("sample"))


@pytest.fixture(scope="session")
def sample_texts():
    """The built sentences with all their defects."""
    return sets.raw_texts(profiles.get("sample"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The test's own cache folder, of faces read from a csv and of an encoder's features."""
    folder = tmp_path / "data" / "cache"
    monkeypatch.setattr(official, "CACHE", folder)
    if encoder := sys.modules.get("emolib.models.encoder"):
        monkeypatch.setattr(encoder, "CACHE", folder / "features")
    return folder


@pytest.fixture(autouse=True)
def do_not_wait(monkeypatch):
    """Attempts that fail are repeated at once."""
    monkeypatch.setattr(hub, "WAITS", (0, 0))


@pytest.fixture(autouse=True)
def close_figures():
    """Figures of one test do not pile up for the others."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


def pytest_collection_modifyitems(items):
    """The live run of the study first: with several test processes one is busy with it while the others do the rest."""
    items.sort(key=lambda item: item.path.name != "test_live.py")
