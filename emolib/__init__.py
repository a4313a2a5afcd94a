"""Multimodal emotion recognition with CLIP: the library behind the notebooks. Nothing is loaded before it is named."""

import importlib
import warnings

# What libraries under us tell each other, and no reader of a page can mend.
for _noise in ("IProgress not found", "`is_gradient_checkpointing` is deprecated"):
    warnings.filterwarnings("ignore", message=_noise)
__version__ = "0.1.0"


def __getattr__(name: str):
    if name == "EmotionClassifier":
        return importlib.import_module("emolib.app.classifier").EmotionClassifier
    raise AttributeError(f"module 'emolib' has no attribute {name!r}")
