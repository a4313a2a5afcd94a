"""Multimodal emotion recognition with CLIP: the library behind the notebooks. Nothing is loaded before it is named."""

import importlib
import warnings

# Pages need no widgets, so a library that would like to draw its bars with them need not warn that there are none.
warnings.filterwarnings("ignore", message="IProgress not found")
__version__ = "0.1.0"


def __getattr__(name: str):
    if name == "EmotionClassifier":
        return importlib.import_module("emolib.app.classifier").EmotionClassifier
    if name in ("app", "data", "models", "results"):
        return importlib.import_module(f"emolib.{name}")
    raise AttributeError(f"module 'emolib' has no attribute {name!r}")
