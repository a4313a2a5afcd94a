"""Shared fixtures: the sample, and the real data where it is at hand."""

import os
import sys
from pathlib import Path

import pytest

from emolib import faces, profiles, texts

REAL = Path(os.environ.get("EMOLIB_DATA", profiles.ROOT / "data" / "raw"))
needs_real_data = pytest.mark.skipif(
    not (REAL / "fer2013").is_dir() or not (REAL / "emotion").is_dir(),
    reason="the real data sets are not at hand: set EMOLIB_DATA to their folder (data/README.md says how to get them)",
)


@pytest.fixture(scope="session")
def sample_faces():
    return faces.load(profiles.get("sample"))


@pytest.fixture(scope="session")
def sample_texts():
    return texts.load(profiles.get("sample"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder of the test's own."""
    monkeypatch.setattr(faces, "ROOT", tmp_path)
    return tmp_path / "data" / "cache"


@pytest.fixture(autouse=True)
def close_figures():
    """Figures of one test do not pile up for the others."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


def pytest_collection_modifyitems(items):
    """The live run of the study first: with several test processes one is busy with it while the others do the rest."""
    items.sort(key=lambda item: item.path.name != "test_live.py")
