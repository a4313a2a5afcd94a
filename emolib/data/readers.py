"""Readers of anybody's data: tables with image, text and label, from a file, a folder or the Hub, and class folders.

A row that cannot be read is a DataError that names file, row, value found and value wanted; with on_error="skip" such rows
are left out, and `source` says how many. Ids count the rows of the file, of several those of train, then validation, then test,
left-out rows too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from emolib.data import audit, hub
from emolib.data.cells import check_renamed, class_names, folded, plain, read_label, read_picture, read_text, rename
from emolib.data.dataset import DataError, Dataset, MissingData, column, refuse
from emolib.data.files import SUFFIXES, kind_of, read_file, walk
from emolib.data.labels import SPLITS
from emolib.data.pictures import open_picture

STEMS = {"train": "train", "training": "train", "test": "test", "privatetest": "test"}
STEMS |= dict.fromkeys(("val", "valid", "validation", "dev", "eval", "publictest"), "validation")
SPLIT_COLUMNS = ("split", "usage", "partition", "subset", "set")
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
SMALL = 96  # pixels: pictures of one size up to this side are held as an array, others are opened when they are needed

# Where its rows come from, the rows, the folder that its paths are relative to.
Part = tuple[str, pd.DataFrame, Path]


def read(
    source: str | Path, *, image: str | None = None, text: str | Sequence[str] = (), label: str = "label",
    split: str | None = None, **options,
) -> Dataset:  # fmt: skip
    """Anybody's data: class folders where no column is named, else a table; validation and test are drawn where missing.

    Each picture is opened once, so that a damaged one is known by its row. options: whatever `read_table` and
    `read_class_folders` both take. Raises ValueError for a table without columns.
    """
    options = {"draw": SPLITS[1:]} | options
    if image or text:
        return read_table(source, image=image, text=text, label=label, split=split, opened=True, **options)
    if not Path(source).is_dir():
        raise ValueError(f'{source} is no folder of class folders; of a table name the columns: image="...", text="..."')
    return read_class_folders(source, **options)


def split_named(name) -> str | None:
    """The split that a folder, a file or a cell of that name stands for."""
    return STEMS.get(plain(name).strip().casefold())


@dataclass(frozen=True)
class Columns:
    """Which columns of a table hold what, and other names of the classes: {label found: class}."""

    image: str | None
    text: tuple[str, ...]
    label: str
    extras: tuple[str, ...] = ()
    split: str | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)
    opened: bool = False  # whether each picture is opened to see that it can be

    def pick(self, table: pd.DataFrame, where: str) -> pd.DataFrame:
        """Label, image, texts and extras, in this order; DataError lists the columns that are missing."""
        # A .txt file has no header, and `imagefolder` calls its pictures file_name.
        names = {0: self.text[0], 1: self.label} if self.text else {}
        names |= {"file_name": self.image} if self.image and self.image not in table else {}
        table = table.rename(columns=names)
        wanted = [self.label, *([self.image] if self.image else []), *self.text, *self.extras]
        if missing := set(wanted) - set(table.columns):
            raise DataError(f"{where}: columns found {list(table.columns)!s:.300}, missing {sorted(missing)}")
        return table[wanted]

    def splits(self, table: pd.DataFrame, where: str) -> Sequence[str]:
        """Of each row of a table without other parts its split, the cell where that names none; all train by default."""
        if self.split and self.split not in table:
            raise DataError(f"{where}: columns found {list(table.columns)!s:.300}, missing the split's, {self.split!r}")
        known = [c for c in table if str(c).casefold() in SPLIT_COLUMNS and any(map(split_named, table[c]))]
        if chosen := [self.split] if self.split else known[:1]:
            return [split_named(cell) or plain(cell) for cell in table[chosen[0]]]
        return ["train"] * len(table)

    def read(self, cells: Sequence, folder: Path, classes: Sequence[str]) -> tuple:
        """(label number, picture, text, extras) of a row that `pick` left; DataError says what is wrong."""
        label, *rest = cells
        image, rest = (rest[0], rest[1:]) if self.image else (None, rest)
        n = len(self.text)
        number, text = read_label(rename(label, self.renamed), classes, rest[:n]), None
        if n:
            text = read_text(rest[:n], self.text)
        picture = read_picture(image, folder) if self.image else None
        if self.opened and self.image:
            open_picture(picture, "the picture", side=SMALL)
        return number, picture, text, rest[n:]


def read_table(
    source: str | Path, *, image: str | None = None, text: str | Sequence[str] = (), label: str = "label",
    split: str | None = None, classes: Sequence[str] | None = None, renamed: Mapping[str, str] | None = None,
    extras: Sequence[str] = (), name: str | None = None, draw: Sequence[str] = (), on_error: str = "raise", opened: bool = False,
) -> Dataset:  # fmt: skip
    """Rows with a picture, a text, or both, and a label, from a file, a folder or the Hub.

    source: a file (`.txt` of `text;label`, `.csv`, `.tsv`, also .gz, `.jsonl`, `.parquet`); or a folder with such files called
    train, val (valid, validation, dev) and test, or with folders of these names that hold a `metadata.csv` (imagefolder); or a
    set of the Hub with its revision, ID@REVISION or ID:CONFIG@REVISION. image: a column of encoded bytes or of paths relative
    to the file. text: a column, or several to be joined. label: a column of class names or numbers. split: of one file, the
    column that tells the splits; default, one of `SPLIT_COLUMNS` that does. classes: default, the labels of Training in
    alphabetical order. renamed: {label found: class}. extras: more columns to keep. draw: splits that may be drawn from
    Training, see `audit.draw_splits`. opened: whether each picture is opened to see that it can be. Raises MissingData where
    another part is not at hand, DataError.
    """
    texts = (text,) if isinstance(text, str) and text else tuple(text)
    columns = Columns(image, texts, label, tuple(extras), split, folded(renamed), opened)
    if not columns.image and not columns.text:
        raise ValueError('name a column of pictures or of texts: read_table(..., image="image", text="text")')
    path = Path(source)
    tables = find_tables(path) if path.exists() else hub_tables(str(source))
    return assemble(tables, name or (path.name if path.exists() else str(source)), columns, classes, draw, on_error)


def assemble(
    tables: dict[str, list[Part]], name: str, columns: Columns, classes: Sequence[str] | None = None, draw: Sequence[str] = (),
    on_error: str = "raise",
) -> Dataset:  # fmt: skip
    """The tables of train, validation and test, or (under "") one that tells them apart itself, as one data set."""
    parts = []
    for part in (*SPLITS, ""):
        for where, table, folder in tables.get(part, []):
            splits = [part] * len(table) if part else columns.splits(table, where)
            parts.append((where, columns.pick(table, where), folder, splits))
    there = {s for *_, splits in parts for s in splits}
    if missing := [s for s in SPLITS if s not in there and s not in draw]:
        raise MissingData(
            f"{name} has no part {' and no part '.join(missing)}; wanted train, validation (val, valid, dev) and test, each as "
            f"{', '.join(SUFFIXES)} or as a folder with metadata.csv; on the Hub, as splits; in one file, in a column split"
        )
    trained = (cell for _, table, _, splits in parts for cell, s in zip(table.iloc[:, 0], splits, strict=True) if s == "train")
    known = tuple(classes or class_names(rename(cell, columns.renamed) for cell in trained))
    check_renamed(columns.renamed, (cell for _, table, *_ in parts for cell in table.iloc[:, 0]), name)
    rows, left, total = [], 0, 0
    for where, table, folder, splits in parts:
        problems = []
        cells = zip(table.index, splits, table.itertuples(index=False, name=None), strict=True)
        cells = tqdm(cells, f"reading {name}", len(table), leave=False, unit="row", delay=5)
        for number, (place, part, row) in enumerate(cells):
            try:
                if part not in SPLITS:
                    raise DataError(f"the split is {part!r:.50}, wanted {', '.join(SPLITS)} or another name of these")
                rows.append((total + number, part, *columns.read(row, folder, known)))
            except DataError as error:
                problems.append(f"{where}, {table.index.name or 'row'} {place}: {error}")
        total += len(table)
        left += len(problems)
        refuse(problems, on_error)
    if not rows:
        raise DataError(f"{name}: no readable row")
    ids, split, labels, images, texts, extras = zip(*rows, strict=True)
    more = {key: column(cells) for key, cells in zip(columns.extras, zip(*extras, strict=True), strict=True)}
    data = Dataset(
        np.array(ids), np.array(labels), np.array(split, "U10"), known, name + left_out(left),
        column(images) if columns.image else None, column(texts) if columns.text else None, more,
    )  # fmt: skip
    return audit.draw_splits(data, draw)


def left_out(count: int) -> str:
    """What `source` says of rows that were not read."""
    return f", {count} unreadable rows left out" if count else ""


def find_tables(path: Path) -> dict[str, list[Part]]:
    """The parts of a folder by split, or one table under ""; of several formats the first in `SUFFIXES`, with all its shards."""
    if path.is_file():
        return {"": [(str(path), read_file(path), path.parent)]}
    found: dict[str, list[Part]] = {}
    for suffix in SUFFIXES:
        parts: dict[str, list[Part]] = {}
        for file in sorted([*path.glob("*"), *path.glob("*/metadata.*")]):
            packed_twice = file.suffix == ".gz" and file.with_suffix("").exists()
            if kind_of(file) != suffix or not file.is_file() or packed_twice:
                continue
            stem = file.parent.name if file.parent != path else re.sub(r"-\d+-of-\d+(-[0-9a-f]+)?$", "", file.name.split(".")[0])
            if (split := split_named(stem)) and split not in found:
                parts.setdefault(split, []).append((str(file), read_file(file), file.parent))
        found |= parts
    alone = [file for file in path.glob("*") if kind_of(file) in SUFFIXES[1:]]
    return find_tables(alone[0]) if not found and len(alone) == 1 else found


def hub_tables(source: str) -> dict[str, list[Part]]:
    """The splits of a Hub set at its revision, see `hub.tables`."""
    found: dict[str, list[Part]] = {}
    for split, table in hub.tables(source).items():
        if part := split_named(split):
            found.setdefault(part, []).append((f"{source}, {split}", table, Path()))
    return found


def read_class_folders(
    folder: str | Path, classes: Sequence[str] | None = None, *, name: str | None = None,
    renamed: Mapping[str, str] | None = None, draw: Sequence[str] = SPLITS[1:2], on_error: str = "raise",
) -> Dataset:  # fmt: skip
    """Pictures in folders that bear their class's name, perhaps in folders of the splits: `[...]/train/<class>/*`.

    Without folders of the splits all files' names may begin with them (`Training_1.jpg`). classes: default, the folders of
    train in alphabetical order. renamed: {folder found: class}. draw: splits that may be drawn from Training where they are
    missing, see `audit.draw_splits`. Pictures of one size up to `SMALL` pixels become one uint8 array, others an object column
    of paths. `source` says how many files were no pictures in a class folder. Raises MissingData where a part holds no picture,
    DataError.
    """
    folder, other = Path(folder), folded(renamed)
    files, skipped = list_pictures(folder)
    known = tuple(classes or class_names(rename(label, other) for split, label, _ in files if split == "train"))
    check_renamed(other, (label for _, label, _ in files), str(folder))
    rows, pixels, sizes, problems = [], [], set(), []
    for number, (split, label, path) in enumerate(tqdm(files, desc=f"reading {folder.name}", unit="image", leave=False)):
        try:
            found, picture = read_label(rename(label, other), known), open_picture(path.read_bytes(), "the picture")
        except (DataError, OSError) as error:
            problems.append(f"{path}: {error}")
            continue
        rows.append((number, found, split, path))
        sizes.add(picture.size)
        if len(sizes) == 1 and max(picture.size) <= SMALL:
            pixels.append(np.asarray(picture))
    refuse(problems, on_error)
    if missing := set(SPLITS) - set(draw) - {split for _, _, split, _ in rows}:
        parts = " and none in ".join(f"{part}/<class>/" for part in sorted(missing))
        raise MissingData(f"{folder}: no picture in {parts}, or in <class>/ where there are no splits")
    ids, labels, split, paths = zip(*rows, strict=True)
    said = f", {skipped} files that are no pictures of a class skipped" if skipped else ""
    source, held = (name or f"{folder.name}, class folders") + said + left_out(len(problems)), len(pixels) == len(rows)
    images = stack(pixels) if held else column(paths)
    return audit.draw_splits(Dataset(np.array(ids), np.array(labels), np.array(split, "U10"), known, source, images), draw)


def list_pictures(folder: Path) -> tuple[list[tuple[str, str, Path]], int]:
    """(split, class name, path) of each picture below a folder, train first, and how many other files there are.

    Where any picture has a split, those without one are among the others; where none has, all are train.
    """
    files, others = [], 0
    for path in walk(folder):
        *above, label, _ = ("", *path.relative_to(folder).parts)
        if not label or split_named(label) or not is_picture(path, folder):
            others += 1
            continue
        files.append((next(filter(None, map(split_named, reversed(above))), None), label, path))
    if not any(split for split, _, _ in files):
        named = [split_named(path.name.split("_")[0]) for *_, path in files]
        splits = named if all(named) else ["train"] * len(files)
        files = [(split, label, path) for split, (_, label, path) in zip(splits, files, strict=True)]
    sorted_in = [(split, label, path) for part in SPLITS for split, label, path in files if split == part]
    return sorted_in, others + len(files) - len(sorted_in)


def is_picture(path: Path, folder: Path) -> bool:
    """Whether a file below a folder has a picture's suffix and is not hidden, as what systems leave behind is."""
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.relative_to(folder).parts)
    return path.suffix.lower() in PICTURES and not hidden


def stack(pictures: list[np.ndarray]) -> np.ndarray:
    """RGB pictures of one size as (N, H, W, 3) uint8, or (N, H, W) if they hold no colour."""
    whole = np.stack(pictures)
    return whole[..., 0].copy() if (whole == whole[..., :1]).all() else whole
