"""Pairs of a face and a text: matched by label inside a split, and genuine ones, where a person wrote about a picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from emolib import items, profiles
from emolib.faces import Faces
from emolib.items import DataError, Items, MissingData
from emolib.labels import FACE_TO_SHARED, SHARED_CLASSES, SPLITS, TEXT_TO_SHARED
from emolib.profiles import Profile
from emolib.texts import Texts


@dataclass(frozen=True)
class Pairs(Items):
    """Label-matched pairs. face, text: (N,) int, rows of `all_faces` and `all_texts`."""

    face: np.ndarray
    text: np.ndarray
    all_faces: Faces
    all_texts: Texts

    @property
    def faces(self) -> Faces:
        """The pairs' faces, one a pair."""
        return self.all_faces.select(self.face)

    @property
    def texts(self) -> Texts:
        """The pairs' texts, one a pair."""
        return self.all_texts.select(self.text)


def match(faces: Faces, texts: Texts, *, seed: int = 0) -> Pairs:
    """Pairs of one label inside each split, each item at most once, in the five shared classes; ids count the pairs.

    Inside a class the two are independent, by construction: knowing both tells what each tells, and no more. Twins of
    either set are not paired twice inside a split. The rarer side decides how many pairs a class has.
    """
    rng = np.random.default_rng(seed)
    face, text, labels, split = [], [], [], []
    for part in SPLITS:
        for label, shared in enumerate(SHARED_CLASSES):
            f = _distinct(faces, part, [c for c, s in FACE_TO_SHARED.items() if s == shared], rng)
            t = _distinct(texts, part, [c for c, s in TEXT_TO_SHARED.items() if s == shared], rng)
            n = min(len(f), len(t))
            face.append(f[:n]), text.append(t[:n]), labels.append(np.full(n, label)), split.append(np.full(n, part))
    columns = [np.concatenate(column) for column in (labels, split, face, text)]
    source = f"label-matched pairs of {faces.source} and {texts.source}"
    return Pairs(np.arange(len(columns[0])), columns[0], columns[1], SHARED_CLASSES, source, *columns[2:], faces, texts)


def _distinct(data: Faces | Texts, split: str, classes: list[str], rng: np.random.Generator) -> np.ndarray:
    """Rows of a split and class in random order, of equal items the first only."""
    wanted = np.isin(data.labels, [data.classes.index(c) for c in classes])
    rows = rng.permutation(np.flatnonzero((data.split == split) & wanted))
    contents = data.pixels if isinstance(data, Faces) else data.texts
    group = items.twin_groups(c.tobytes() if isinstance(data, Faces) else c for c in contents[rows])
    return rows[np.sort(np.unique(group, return_index=True)[1])]


@dataclass(frozen=True)
class Captioned:
    """Pictures with what was written about them. pictures: N encoded pictures, or (N, H, W) uint8; texts: N sentences.

    tags: what else is known of each picture, for tasks that are not emotion: MSED's desire (N,), or of drawn people
    whether they wear glasses, a beard, long hair (N, 3).
    """

    pictures: list | np.ndarray
    texts: list[str]
    tags: np.ndarray
    source: str

    def __len__(self) -> int:
        return len(self.texts)


def captioned(profile: Profile) -> Captioned:
    """Genuine pairs to measure retrieval on, none of them trained on: MSED's test set, or as many of it as the profile says
    (the first of a fixed shuffle); in `sample` drawn people.

    MSED (Jia et al. 2022): EMOLIB_DATA/msed/test.parquet with columns image, caption, desire. Raises MissingData.
    """
    if profile.data.generated:
        from emolib import sample

        pixels, texts, who = sample.captioned(np.random.default_rng(77), profile.generality.pairs)
        worn = np.stack([who.glasses, who.beard, who.long_hair], 1).astype(int)
        return Captioned(pixels, texts, worn, "drawn people with captions")
    path = profiles.data_folder() / "msed" / "test.parquet"
    if not path.exists():
        raise MissingData(
            f"MSED's test set is not at hand: looked for {path} (columns image, title, caption, sentiment, emotion, desire). "
            "Ask its authors (Jia et al. 2022, Beyond Emotion: A Multi-Modal Dataset for Human Desire Understanding), or name "
            "the folder that holds msed/: EMOLIB_DATA=FOLDER python -m emolib run"
        )
    table = pd.read_parquet(path, columns=["image", "caption", "desire"])
    if len(bad := np.flatnonzero(table.caption.str.strip() == "")):
        raise DataError(f"{path}, row {bad[0]}: the caption is empty, wanted a sentence")
    table = table.iloc[np.random.default_rng(0).permutation(len(table))[: profile.generality.pairs]]
    pictures = [cell["bytes"] for cell in table.image]
    return Captioned(pictures, table.caption.tolist(), table.desire.to_numpy(str), f"MSED test, {len(table)} pairs")
