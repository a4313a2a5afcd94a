"""What every data set shares: aligned columns, the three splits, a fingerprint, errors that say how to mend."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from emolib.labels import SPLITS


class DataError(ValueError):
    """A row that cannot be read: names file, row, value found and value wanted."""


class MissingData(FileNotFoundError):
    """A data set that is not there: says where it was looked for and how to get it."""


@dataclass(frozen=True)
class Items:
    """Rows of a data set, column by column; every array field has length N.

    ids: (N,) int, the row's position in the official files. labels: (N,) int in [0, K). split: (N,) str of `SPLITS`.
    classes: the K names. source: one sentence on where the rows came from, printed with every number made of them.
    """

    ids: np.ndarray
    labels: np.ndarray
    split: np.ndarray
    classes: tuple[str, ...]
    source: str

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, rows: np.ndarray) -> Items:
        """The given rows (a mask or indices) of every column."""
        columns = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return dataclasses.replace(self, **{k: v[rows] for k, v in columns.items() if isinstance(v, np.ndarray)})

    def part(self, split: str) -> Items:
        """The rows of one split; ValueError names the choices."""
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; choose from {', '.join(SPLITS)}")
        return self.select(self.split == split)

    def counts(self) -> np.ndarray:
        """Items a split and class: (3, K) int, rows in the order of `SPLITS`."""
        return np.array([np.bincount(self.labels[self.split == s], minlength=len(self.classes)) for s in SPLITS])

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the sorted ids with their labels and splits: equal for equal protocols, whatever the file format."""
        order = np.argsort(self.ids, kind="stable")
        splits = np.array([SPLITS.index(s) for s in self.split[order]], dtype="<i8")
        table = np.stack([self.ids[order].astype("<i8"), self.labels[order].astype("<i8"), splits], axis=1)
        return hashlib.sha256(np.ascontiguousarray(table).tobytes()).hexdigest()


def held_out_rows(data: Items) -> np.ndarray:
    """Row numbers of the validation items, then of the test items: the order of every record."""
    return np.concatenate([np.flatnonzero(data.split == split) for split in SPLITS[1:]])


def split_names(numbers: np.ndarray) -> np.ndarray:
    """Split numbers (positions in `SPLITS`) as names."""
    return np.array(SPLITS)[numbers]


def refuse(problems: list[str], on_error: str) -> None:
    """Raise DataError with the first problem, or (`on_error="skip"`) leave them to be counted by the caller."""
    if on_error not in ("raise", "skip"):
        raise ValueError(f'on_error is {on_error!r}; choose "raise" or "skip"')
    if problems and on_error == "raise":
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise DataError(f'{problems[0]}{more}; load with on_error="skip" to leave such rows out and count them')


def twin_groups(contents) -> np.ndarray:
    """(N,) int: rows with equal content (hashable, one a row) share a number; numbers follow first appearance."""
    numbers: dict = {}
    return np.array([numbers.setdefault(content, len(numbers)) for content in contents])


def leaks(data: Items, group: np.ndarray) -> np.ndarray:
    """(N,) bool: Training rows whose content occurs in validation or test as well."""
    held_out = data.split != "train"
    return ~held_out & np.isin(group, group[held_out])


def shared_between(data: Items, group: np.ndarray) -> dict:
    """Content that recurs: how much of it inside each split and across each two, and with how many different labels.

    Counts for each split: surplus rows (copies beyond the first), groups, and groups whose rows disagree on the label;
    for each two splits: rows of the later split with a twin in the earlier one, and how many of these rows have a twin
    there with another label.
    """
    found: dict = {"distinct": len(np.unique(group)), "surplus": len(group) - len(np.unique(group))}
    found["conflicting_groups"] = _conflicts(group, data.labels)
    for split in SPLITS:
        inside = data.split == split
        sizes = np.bincount(group[inside])
        found[split] = {
            "surplus": int(inside.sum() - (sizes > 0).sum()),
            "groups": int((sizes > 1).sum()),
            "conflicting_groups": _conflicts(group[inside], data.labels[inside]),
        }
    for early, late in (("train", "validation"), ("train", "test"), ("validation", "test")):
        before, after = data.split == early, data.split == late
        known: dict[int, set] = {}
        for number, label in zip(group[before], data.labels[before], strict=True):
            known.setdefault(number, set()).add(label)
        rows = np.flatnonzero(after & np.isin(group, group[before]))
        others = [bool(known[group[row]] - {data.labels[row]}) for row in rows]
        found[f"{early}-{late}"] = {"rows": len(rows), "conflicting_rows": int(np.sum(others))}
    return found


def _conflicts(group: np.ndarray, labels: np.ndarray) -> int:
    """Groups whose rows carry more than one label."""
    pairs = np.unique(np.stack([group, labels], 1), axis=0)
    return int((np.bincount(pairs[:, 0]) > 1).sum()) if len(pairs) else 0


def pairs_between(data: Items, pairs: np.ndarray) -> dict:
    """Near twins (P, 2): pairs in all, and for each two splits the later split's rows that have one in the earlier."""
    found = {"pairs": len(pairs)}
    first, second = data.split[pairs[:, 0]], data.split[pairs[:, 1]]
    for early, late in (("train", "validation"), ("train", "test"), ("validation", "test")):
        rows = np.concatenate([
            pairs[(first == early) & (second == late), 1], pairs[(first == late) & (second == early), 0]
        ])  # fmt: skip
        found[f"{early}-{late}"] = len(np.unique(rows))
    return found


def link(group: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """(N,) int: groups of exact twins, merged wherever a pair of near twins joins them."""
    n = len(group)
    anchor = {number: row for row, number in reversed(list(enumerate(group.tolist())))}
    rows = np.concatenate([np.arange(n), pairs[:, 0]])
    columns = np.concatenate([[anchor[number] for number in group.tolist()], pairs[:, 1]]).astype(int)
    return connected_components(coo_matrix((np.ones(len(rows)), (rows, columns)), (n, n)), directed=False)[1]
