"""Multimodal emotion recognition with CLIP: the library behind the notebooks. Modules load when first named."""

import importlib

__version__ = "0.1.0"
_MODULES = (
    "baselines", "classifier", "clip", "demo", "faces", "fusion", "generality", "heads", "items", "joint", "labels", "metrics",
    "pairs", "profiles", "prompts", "records", "report", "sample", "texts", "training", "tuning",
)  # fmt: skip


def __getattr__(name: str):
    if name == "EmotionClassifier":
        return importlib.import_module("emolib.classifier").EmotionClassifier
    # `published` pages never import torch: they name emolib.baselines only inside steps that are not run.
    if name in _MODULES:
        return importlib.import_module(f"emolib.{name}")
    raise AttributeError(f"module 'emolib' has no attribute {name!r}")
