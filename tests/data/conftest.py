"""The scripts that make the sample, which lie outside the package."""

import importlib
import sys

import pytest

from emolib.data.sets import SAMPLE


@pytest.fixture(scope="session")
def script():
    """Imports a script of data/sample by name."""
    sys.path.insert(0, str(SAMPLE))
    yield importlib.import_module
    sys.path.remove(str(SAMPLE))


@pytest.fixture(scope="session")
def maker(script):
    """data/sample/make.py"""
    return script("make")


@pytest.fixture(scope="session")
def drawing(script):
    """data/sample/drawing.py"""
    return script("drawing")
