"""A data set is a value: aligned columns, three splits, a fingerprint. Every function of the study takes one."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from emolib.data.labels import SPLITS

SHOWN = 50  # problems that are printed one by one


class DataError(ValueError):
    """A row that cannot be read: names file, row, value found, value wanted and what mends it."""


class MissingData(FileNotFoundError):
    """A data set that is not there: says where it was looked for and how to get it."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """N labelled items with a picture, a text, or both.

    ids: (N,) int, unique, the row's position in the source. labels: (N,) int in [0, K). split: (N,) str of `SPLITS`.
    classes: the K names. source: one sentence on where the rows came from, printed with every number made of them.
    images: (N, H, W) uint8 grey, (N, H, W, 3) uint8 RGB, or (N,) object of paths, encoded bytes, arrays or PIL pictures.
    texts: (N,) object of non-empty str. extras: other aligned arrays of length N (votes, tags, frozen features).
    Raises DataError where columns differ in length or a label, split or id is not what it should be.
    """

    ids: np.ndarray
    labels: np.ndarray
    split: np.ndarray
    classes: tuple[str, ...]
    source: str
    images: np.ndarray | None = None
    texts: np.ndarray | None = None
    extras: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self):
        lengths = {name: len(column) for name, column in self.columns.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"{self.source}: columns of different length: {lengths}; wanted one row an item in each")
        if len(self) and not 0 <= self.labels.min() <= self.labels.max() < len(self.classes):
            raise DataError(f"{self.source}: labels from {self.labels.min()} to {self.labels.max()}, wanted 0 to "
                            f"{len(self.classes) - 1} for {', '.join(self.classes)}")  # fmt: skip
        if unknown := set(self.split.tolist()) - set(SPLITS):
            raise DataError(f"{self.source}: split {sorted(map(str, unknown))[0]!r}, wanted one of {', '.join(SPLITS)}")
        if len(np.unique(self.ids)) < len(self):
            raise DataError(f"{self.source}: {len(self) - len(np.unique(self.ids))} ids occur twice, wanted each once")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """Every aligned array by name; extras as "extras.NAME"."""
        named = {name: getattr(self, name) for name in ("ids", "labels", "split", "images", "texts")}
        return {k: v for k, v in named.items() if v is not None} | {f"extras.{k}": v for k, v in self.extras.items()}

    @property
    def modalities(self) -> tuple[str, ...]:
        """("image",), ("text",) or ("image", "text"), by the columns that are there."""
        return tuple(name for name, column in (("image", self.images), ("text", self.texts)) if column is not None)

    def select(self, rows: np.ndarray) -> Dataset:
        """The given rows (a mask, indices or a slice) of every column."""
        chosen = {name: column[rows] for name, column in self.columns.items() if not name.startswith("extras.")}
        return replace(self, **chosen, extras={name: column[rows] for name, column in self.extras.items()})

    def seen(self, modality: str) -> Dataset:
        """The same without the column that a modality ("image", "text" or "both") does not see."""
        return replace(self, **{"image": {"texts": None}, "text": {"images": None}, "both": {}}[modality])

    def part(self, split: str) -> Dataset:
        """The rows of one split; ValueError names the choices."""
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; choose from {', '.join(SPLITS)}")
        return self.select(self.split == split)

    @property
    def held_out(self) -> np.ndarray:
        """Row numbers of the validation items, then of the test items: the order of every record."""
        return np.concatenate([np.flatnonzero(self.split == split) for split in SPLITS[1:]])

    def counts(self) -> np.ndarray:
        """Items per split and class: (3, K) int, rows in the order of `SPLITS`."""
        return np.array([np.bincount(self.labels[self.split == s], minlength=len(self.classes)) for s in SPLITS])

    @property
    def fingerprint(self) -> str:
        """SHA-256 of ids, labels, splits, classes and contents, in the order of the ids: equal for equal data and protocol.

        Pictures and texts count by content; a picture that is a path, by its name and size.
        """
        order = np.argsort(self.ids, kind="stable")
        splits = np.array([SPLITS.index(s) for s in self.split[order]], dtype="<i8")
        table = np.stack([self.ids[order].astype("<i8"), self.labels[order].astype("<i8"), splits], axis=1)
        digest = hashlib.sha256(np.ascontiguousarray(table).tobytes() + "\n".join(self.classes).encode())
        for column in (self.images, self.texts):
            digest.update(b"none" if column is None else hash_items(column[order]))
        return digest.hexdigest()


def hash_items(items: Sequence) -> bytes:
    """One SHA-256 over pictures or texts: (32,) bytes."""
    digest = hashlib.sha256()
    for item in items:
        known = (
            f"{item.name} {item.stat().st_size if item.is_file() else -1}".encode("utf8", "surrogateescape")
            if isinstance(item, Path)
            else content(item)
        )
        digest.update(len(known).to_bytes(8, "big") + known)
    return digest.digest()


def content(item) -> bytes:
    """The bytes that a picture or a text is: a path's file, a text in UTF-8, an array with its shape and type."""
    if isinstance(item, Path):
        return item.read_bytes() if item.is_file() else b""  # whoever opens it says what is wrong
    if isinstance(item, str):
        return item.encode("utf8", "surrogateescape")
    if isinstance(item, bytes):
        return item
    array = np.asarray(item)
    return repr((array.shape, array.dtype)).encode() + array.tobytes()


def column(items: Sequence) -> np.ndarray:
    """(N,) object array of whatever the items are; NumPy would look into equal-sized ones."""
    return np.fromiter(items, object, len(items))


def refuse(problems: list[str], on_error: str) -> None:
    """Raise DataError with the first problem, or (`on_error="skip"`) print each and leave them to be counted by the caller."""
    if on_error not in ("raise", "skip"):
        raise ValueError(f'on_error is {on_error!r}; choose "raise" or "skip"')
    if problems and on_error == "raise":
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise DataError(f'{problems[0]}{more}; on_error="skip" leaves such rows out and lists them')
    for problem in problems[:SHOWN]:
        print(f"left out: {problem}", file=sys.stderr)
    if len(problems) > SHOWN:
        print(f"left out: {len(problems) - SHOWN} more", file=sys.stderr)
