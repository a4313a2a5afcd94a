"""Pairs of an image and a text: matched by label inside a split, or with the words masked that name an emotion."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from emolib.data.dataset import Dataset, column, content
from emolib.data.labels import FACE_TO_SHARED, SHARED_CLASSES, SPLITS, TEXT_TO_SHARED

# Words that name an emotion or its opposite: whole words, then stems. What is left of a text describes the picture.
_NAMES_EMOTION = re.compile(
    r"\b(?:(?:mad|cry|cries|cried|crying|tears|tearful|rage|raging|gross|joy|joys|joyful|joyous|hate|hates|hated|hatred|calm|calmly"
    r"|love|loves|loved|loving|lovingly|moods?|moody)\b|(?:happ(?:y|i)|unhapp|glad|cheer|delight|smil|laugh|sad(?:\b|der|dest|den|ly|ness)"
    r"|sorrow|depress|miser|grie[fv]|anger|angr|furi|fury|annoy|irritat|fear|afraid|scar[ey]|terrif|terror|horr|anxi|worr|panic|disgust"
    r"|revolt|surpris|astonish|amaz(?:e|ing)|shock|neutral|emotion|feel|frustrat|upset|lonel|excit|enjoy)\w*)",
    re.IGNORECASE,
)


def match(faces: Dataset, texts: Dataset, *, seed: int = 0) -> Dataset:
    """Pairs of one label inside each split, each item at most once, in the five shared classes; ids count the pairs.

    Given the class the two are independent, by construction: knowing both tells what each tells, and no more. Duplicates
    of either set are not paired twice inside a split and class. The rarer side decides how many pairs a class has. extras:
    "face_id", "text_id" (N,), the ids of the items.
    """
    rng = np.random.default_rng(seed)
    face, text, labels, split = [], [], [], []
    for part in SPLITS:
        for label, shared in enumerate(SHARED_CLASSES):
            f = _distinct(faces, faces.images, part, [c for c, s in FACE_TO_SHARED.items() if s == shared], rng)
            t = _distinct(texts, texts.texts, part, [c for c, s in TEXT_TO_SHARED.items() if s == shared], rng)
            n = min(len(f), len(t))
            face.append(f[:n]), text.append(t[:n]), labels.append(np.full(n, label)), split.append(np.full(n, part))
    labels, split, face, text = (np.concatenate(rows) for rows in (labels, split, face, text))
    return Dataset(
        np.arange(len(labels)), labels, split, SHARED_CLASSES, f"label-matched pairs of {faces.source} and {texts.source}",
        faces.images[face], texts.texts[text], {"face_id": faces.ids[face], "text_id": texts.ids[text]},
    )  # fmt: skip


def _distinct(data: Dataset, items: Sequence, split: str, classes: list[str], rng: np.random.Generator) -> np.ndarray:
    """Rows of a split and class in random order, of equal items the first only."""
    wanted = np.isin(data.labels, [data.classes.index(c) for c in classes])
    rows = rng.permutation(np.flatnonzero((data.split == split) & wanted))
    first: dict[bytes, int] = {}
    for row in rows:
        first.setdefault(hashlib.sha256(content(items[row])).digest(), row)
    return np.array(list(first.values()), dtype=int)


def list_pairs(pairs: Dataset) -> tuple[dict, dict]:
    """Which held-out items matched pairs are made of, so that a reader without data can look up any expert's answers.

    arrays, in the order of every record: "ids" (N,) of the pairs, "image" and "text" (N,) of the items, "labels" (N,), "split"
    (N,) 0 validation, 1 test.
    """
    held_out = pairs.select(pairs.held_out)
    arrays = {
        "ids": held_out.ids, "labels": held_out.labels, "image": held_out.extras["face_id"], "text": held_out.extras["text_id"],
        "split": held_out.split == "test",
    }  # fmt: skip
    return {"counts": pairs.counts().tolist()}, {name: values.astype(np.int32) for name, values in arrays.items()}


def tokens(text: str) -> list[str]:
    """Lower-case words: whatever letters, digits and apostrophes stand together."""
    return "".join(c if c.isalnum() or c == "'" else " " for c in text.lower()).split()


def count_emotion_words(data: Dataset) -> tuple[dict, dict]:
    """How many texts of each split hold a word that `mask_emotion_words` takes out: notes "named", three counts."""
    named = np.array([_NAMES_EMOTION.search(text) is not None for text in data.texts])
    return {"named": [int(named[data.split == split].sum()) for split in SPLITS]}, {}


def mask_emotion_words(data: Dataset) -> Dataset:
    """The same items, words that name an emotion taken out of the texts: captions often give the label away."""
    texts = [" ".join(_NAMES_EMOTION.sub(" ", text).split()) for text in data.texts]
    texts = [text if re.search(r"\w", text) else "a picture" for text in texts]
    return replace(data, texts=column(texts), source=f"{data.source}, emotion words masked")
