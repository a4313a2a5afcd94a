"""Pairs of a face and a text: matched by label inside a split, and genuine ones, where a person wrote about a picture."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from emolib import items, profiles
from emolib.faces import Faces
from emolib.items import DataError, Items, MissingData, held_out_rows
from emolib.labels import FACE_TO_SHARED, MSED_CLASSES, SHARED_CLASSES, SPLITS, TEXT_TO_SHARED
from emolib.profiles import Profile
from emolib.records import Facts, facts
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


def listed(data: Pairs) -> Facts:
    """Which held-out items the pairs are made of, so that any expert's answers can be looked up by a reader without data.

    arrays, in the order of every record: "ids" (N,) of the pairs, "face" and "text" (N,) of the items, "labels" (N,), "split"
    (N,) 0 validation, 1 test.
    """
    rows = held_out_rows(data)
    arrays = {
        "ids": data.ids[rows], "labels": data.labels[rows],
        "face": data.all_faces.ids[data.face[rows]], "text": data.all_texts.ids[data.text[rows]],
        "split": (data.split[rows] == "test").astype(np.int8),
    }  # fmt: skip
    return facts(data, {"counts": data.counts().tolist()}, {k: v.astype(np.int32) for k, v in arrays.items()})


@dataclass(frozen=True)
class Genuine(Items):
    """Pairs that belong together: someone wrote about a picture. pictures: (N,) object, encoded bytes or paths, or
    (N, 48, 48) uint8; texts: (N,) str."""

    pictures: np.ndarray
    texts: np.ndarray


NO_MSED = (
    "MSED is not at hand: looked for {} (train, dev and test .parquet with columns image, title, caption, sentiment, emotion, "
    "desire). Ask its authors (Jia et al. 2022, Beyond Emotion: A Multi-Modal Dataset for Human Desire Understanding), or name "
    "the folder that holds msed/: EMOLIB_DATA=FOLDER python -m emolib run"
)


@cache
def genuine(profile: Profile) -> Genuine:
    """Genuine pairs of a profile, Training without twins of held-out pictures or texts: MSED with title and caption as its
    text, labels its emotion; in `sample` drawn faces with sentences, sincere or ironic. Raises MissingData."""
    if profile.data.generated:
        from emolib import sample

        pixels, said, labels, split = sample.ironic()
        source = "drawn faces with built sentences, sincere or ironic"
        return Genuine(np.arange(len(labels)), labels, split, ("sincere", "ironic"), source, pixels, said)
    folder = profiles.data_folder() / "msed"
    if not (folder / "train.parquet").exists():
        raise MissingData(NO_MSED.format(folder))
    return without_twins(read_genuine(folder, text=("title", "caption"), label="emotion", classes=MSED_CLASSES))


def without_twins(data: Genuine) -> Genuine:
    """Without the Training pairs whose picture or text occurs in validation or test too."""
    pictures = items.twin_groups(
        p.read_bytes() if isinstance(p, Path) else p.tobytes() if isinstance(p, np.ndarray) else p for p in data.pictures
    )
    texts = items.twin_groups(" ".join(t.lower().split()) for t in data.texts)
    leak = items.leaks(data, pictures) | items.leaks(data, texts)
    return replace(
        data.select(~leak), source=f"{data.source}, {leak.sum()} Training pairs with a twin in validation or test left out"
    )


def read_genuine(
    source: str | Path, *, image: str = "image", text: tuple[str, ...] = ("text",), label: str = "label",
    classes: tuple[str, ...] | None = None, on_error: str = "raise",
) -> Genuine:  # fmt: skip
    """Pairs of a picture, a text and a label from any folder or Hub set with train, validation and test parts.

    A folder holds train/dev/test files .parquet (pictures inside) or .csv (paths relative to the file), or folders
    train/validation/test with metadata.csv and a column file_name (`imagefolder`); a Hub set is named ID@REVISION. text:
    columns that are joined. classes: default, the labels of Training in alphabetical order. Raises MissingData where there
    is no such source, DataError naming part, row, value found and value wanted.
    """
    rows, problems = [], []
    tables = list(_tables(source, image))
    known = classes or tuple(sorted({str(v) for split, table, _ in tables if split == "train" for v in table[label]}))
    for split, table, folder in tables:
        if missing := {image, label, *text} - set(table.columns):
            raise DataError(f"{source}, {split}: columns found {sorted(table.columns)}, missing {sorted(missing)}")
        for number, (cell, name, *parts) in enumerate(zip(table[image], table[label], *(table[t] for t in text), strict=True)):
            where = f"{source}, {split}, row {number}"
            picture = _picture(cell, folder)
            words = ". ".join(str(part).strip().rstrip(".") for part in parts if isinstance(part, str) and part.strip())
            if str(name) not in known:
                problems.append(f"{where}: the label is {name!r}, wanted one of {', '.join(known)}")
            elif not words:
                problems.append(f"{where}: the text is {parts!r}, wanted at least one word in {' or '.join(text)}")
            elif picture is None or (isinstance(picture, Path) and not picture.is_file()):
                problems.append(f"{where}: the picture is {cell!r}, wanted encoded bytes or the path of a file")
            else:
                rows.append((split, picture, words, known.index(str(name))))
        items.refuse(problems, on_error)
    if not rows:
        raise DataError(f"{source}: no readable row")
    split, pictures, texts, labels = zip(*rows, strict=True)
    column = np.empty(len(rows), object)
    column[:] = pictures
    said = f"{Path(source).name}, {len(rows)} genuine pairs" + (f", {len(problems)} unreadable rows left out" if problems else "")
    return Genuine(np.arange(len(rows)), np.array(labels), np.array(split), known, said, column, np.array(texts, object))


_PARTS = {
    "train": "train",
    "dev": "validation",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}


def _tables(source: str | Path, image: str) -> Iterator[tuple[str, pd.DataFrame, Path]]:
    """(split, table, folder that its paths are relative to) of each part."""
    folder, found = Path(source), {}
    for path in sorted(folder.glob("*.parquet")) + sorted(folder.glob("*.csv")) + sorted(folder.glob("*/metadata.csv")):
        name = path.parent.name if path.name == "metadata.csv" else path.stem.split("-")[0]
        if name in _PARTS:
            table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, keep_default_na=False)
            found.setdefault(_PARTS[name], []).append((table.rename(columns={"file_name": image}), path.parent))
    if not folder.is_dir():
        found = _hub(str(source))
    if missing := set(_PARTS.values()) - set(found):
        raise MissingData(
            f"{source} has no part {' and no part '.join(sorted(missing))}; wanted train, validation (or dev) and test, as "
            ".parquet or .csv files, or as folders with metadata.csv, or a Hub set with such splits, named ID@REVISION"
        )
    for split in ("train", "validation", "test"):
        yield from ((split, table, parent) for table, parent in found[split])


def _hub(source: str) -> dict[str, list]:
    """The splits of a Hub set at a pinned revision, pictures left encoded."""
    from datasets import Image, load_dataset

    name, _, revision = source.partition("@")
    if not revision:
        raise MissingData(f"{source} is no folder; a set of the Hub is named with its revision, ID@REVISION")
    found: dict[str, list] = {}
    for split, rows in load_dataset(name, revision=revision).items():
        for column, kind in rows.features.items():
            rows = rows.cast_column(column, Image(decode=False)) if isinstance(kind, Image) else rows
        table = rows.to_pandas()
        for column, kind in rows.features.items():
            if names := getattr(kind, "names", None):  # class labels are numbers there
                table[column] = [names[i] for i in table[column]]
        if split in _PARTS:
            found.setdefault(_PARTS[split], []).append((table, Path()))
    return found


def _picture(cell, folder: Path) -> bytes | Path | None:
    """What a cell holds: encoded bytes, a path, or the two as `datasets` writes them; None if it is none of these."""
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, bytes):
        return cell
    return folder / cell if isinstance(cell, str) and cell else None


# Words that name an emotion or its opposite: whole words, then stems. What is left of a text describes the picture.
_NAMES_EMOTION = re.compile(
    r"\b(?:(?:mad|cry|cries|cried|crying|tears|tearful|rage|raging|gross|joy|joys|joyful|joyous|hate|hates|hated|hatred|calm|calmly"
    r"|love|loves|loved|loving|lovingly|moods?|moody)\b|(?:happ(?:y|i)|unhapp|glad|cheer|delight|smil|laugh|sad(?:\b|der|dest|den|ly|ness)|sorrow"
    r"|depress|miser|grie[fv]|anger|angr|furi|fury|annoy|irritat|fear|afraid|scar[ey]|terrif|terror|horr|anxi|worr|panic|disgust"
    r"|revolt|surpris|astonish|amaz(?:e|ing)|shock|neutral|emotion|feel|frustrat|upset|lonel|excit|enjoy)\w*)",
    re.IGNORECASE,
)


def masked(data: Genuine) -> Genuine:
    """The same pairs, words that name an emotion taken out of the texts: captions often give the label away."""
    texts = [" ".join(_NAMES_EMOTION.sub(" ", text).split()) for text in data.texts]
    texts = [text if re.search(r"\w", text) else "a picture" for text in texts]
    return replace(data, texts=np.array(texts, object), source=f"{data.source}, emotion words masked")


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
        raise MissingData(NO_MSED.format(path))
    table = pd.read_parquet(path, columns=["image", "caption", "desire"])
    if len(bad := np.flatnonzero(table.caption.str.strip() == "")):
        raise DataError(f"{path}, row {bad[0]}: the caption is empty, wanted a sentence")
    table = table.iloc[np.random.default_rng(0).permutation(len(table))[: profile.generality.pairs]]
    pictures = [cell["bytes"] for cell in table.image]
    return Captioned(pictures, table.caption.tolist(), table.desire.to_numpy(str), f"MSED test, {len(table)} pairs")
