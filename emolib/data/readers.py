"""Readers of anybody's data: tables with image, text and label, from a folder or the Hub, and class folders.

A row that cannot be read is a DataError that names file, row, value found and value wanted; with on_error="skip" such rows
are left out, and `source` says how many. Ids count the rows of train, then validation, then test, left-out rows too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from emolib.data.dataset import DataError, Dataset, MissingData, column, refuse
from emolib.data.labels import SPLITS
from emolib.data.pictures import open_picture

STEMS = {"train": "train", "test": "test"} | dict.fromkeys(("val", "valid", "validation", "dev"), "validation")
SUFFIXES = (".txt", ".csv", ".jsonl", ".parquet")
SMALL = 96  # pixels: pictures of one size up to this side are held as an array, others are opened when they are needed

Part = tuple[str, pd.DataFrame, Path]  # where its rows come from, the rows, the folder that its paths are relative to


@dataclass(frozen=True)
class Columns:
    """Which columns of a table hold what."""

    image: str | None
    text: tuple[str, ...]
    label: str
    extras: tuple[str, ...] = ()

    def pick(self, table: pd.DataFrame, where: str) -> pd.DataFrame:
        """Label, image, texts and extras, in this order; DataError lists the columns that are missing."""
        # A .txt file has no header, and `imagefolder` calls its pictures file_name.
        names = {0: self.text[0], 1: self.label} if self.text else {}
        table = table.rename(columns=names if self.image in table else names | {"file_name": self.image})
        wanted = [self.label, *([self.image] if self.image else []), *self.text, *self.extras]
        if missing := set(wanted) - set(table.columns):
            raise DataError(f"{where}: columns found {list(table.columns)!s:.300}, missing {sorted(missing)}")
        return table[wanted]

    def read(self, cells: Sequence, folder: Path, classes: Sequence[str]) -> tuple:
        """(label number, picture, text, extras) of a row that `pick` left; DataError says what is wrong."""
        label, *rest = cells
        image, rest = (rest[0], rest[1:]) if self.image else (None, rest)
        n = len(self.text)
        number, text = read_label(label, classes, rest[:n]), read_text(rest[:n], self.text) if n else None
        return number, read_picture(image, folder) if self.image else None, text, rest[n:]


def read_table(
    source: str | Path, *, image: str | None = None, text: str | Sequence[str] = (), label: str = "label",
    classes: Sequence[str] | None = None, extras: Sequence[str] = (), name: str | None = None, on_error: str = "raise",
) -> Dataset:  # fmt: skip
    """Rows with a picture, a text, or both, and a label, from a folder or from the Hub.

    source: a folder with train, val (valid, validation, dev) and test as `.txt` (`text;label`), `.csv`, `.jsonl` or
    `.parquet`, or with folders of these names that hold a `metadata.csv` (imagefolder), or a set of the Hub with its
    revision, ID@REVISION or ID:CONFIG@REVISION. image: a column of encoded bytes or of paths relative to the file. text: a
    column, or several to be joined. label: a column of class names or numbers. classes: default, the labels of Training in
    alphabetical order. extras: more columns to keep. Raises MissingData where a part is not at hand, DataError.
    """
    columns = Columns(image, (text,) if isinstance(text, str) else tuple(text), label, tuple(extras))
    if not columns.image and not columns.text:
        raise ValueError('name a column of pictures or of texts: read_table(..., image="image", text="text")')
    known = Path(source).is_dir()
    tables = folder_tables(Path(source)) if known else hub_tables(str(source))
    return assemble(tables, name or (Path(source).name if known else str(source)), columns, classes, on_error)


def assemble(
    tables: dict[str, list[Part]], name: str, columns: Columns, classes: Sequence[str] | None = None, on_error: str = "raise"
) -> Dataset:
    """The tables of train, validation and test as one data set."""
    if missing := [split for split in SPLITS if split not in tables]:
        raise MissingData(
            f"{name} has no part {' and no part '.join(missing)}; wanted train, validation (val, valid, dev) and test, each as "
            f"{', '.join(SUFFIXES)} or as a folder with metadata.csv; on the Hub, as splits"
        )
    parts = [(split, where, columns.pick(table, where), folder) for split in SPLITS for where, table, folder in tables[split]]
    known = tuple(classes or class_names(cell for split, _, table, _ in parts if split == "train" for cell in table.iloc[:, 0]))
    rows, problems, total = [], [], 0
    for split, where, table, folder in parts:
        for number, cells in enumerate(table.itertuples(index=False, name=None)):
            try:
                rows.append((total + number, split, *columns.read(cells, folder, known)))
            except DataError as error:
                problems.append(f"{where}, row {number}: {error}")
        total += len(table)
        refuse(problems, on_error)
    if not rows:
        raise DataError(f"{name}: no readable row")
    ids, split, labels, images, texts, extras = zip(*rows, strict=True)
    more = {key: column(cells) for key, cells in zip(columns.extras, zip(*extras, strict=True), strict=True)}
    return Dataset(
        np.array(ids), np.array(labels), np.array(split), known, name + left_out(problems),
        column(images) if columns.image else None, column(texts) if columns.text else None, more,
    )  # fmt: skip


def left_out(problems: list[str]) -> str:
    """What `source` says of rows that were not read."""
    return f", {len(problems)} unreadable rows left out" if problems else ""


def plain(cell) -> str:
    """A cell as text; the empty text where there is none."""
    if cell is None or (isinstance(cell, float) and np.isnan(cell)):
        return ""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def class_names(cells: Iterable) -> list[str]:
    """The labels that occur, numbers by size, names by alphabet."""
    return sorted({plain(cell) for cell in cells} - {""}, key=lambda name: (int(name) if name.isdecimal() else -1, name))


def read_label(cell, classes: Sequence[str], beside: Sequence = ()) -> int:
    """A class's number from its name or number."""
    name = plain(cell)
    if name in classes:
        return classes.index(name)
    if name.isdecimal() and int(name) < len(classes):
        return int(name)
    wanted = f"wanted one of {', '.join(classes):.300} or 0 to {len(classes) - 1}"
    if not name:
        raise DataError(f"no label beside {', '.join(map(plain, beside))!r:.60}, {wanted} (in a .txt file: text;label)")
    raise DataError(f"label is {name!r:.100}, {wanted}")


def read_text(cells: Sequence, names: Sequence[str]) -> str:
    """The texts of a row joined as sentences; one text alone stays as it is."""
    parts = [part for part in (plain(cell).strip() for cell in cells) if part]
    text = parts[0] if len(names) == 1 and parts else ". ".join(part.rstrip(".") for part in parts)
    if not text.strip(". "):
        raise DataError(f"the text is empty, wanted at least one word in {' or '.join(names)}")
    try:
        text.encode("utf8")
    except UnicodeEncodeError as error:  # a byte that the readers let through as a surrogate
        raise DataError(f"byte {ord(text[error.start]) & 255:#04x} at column {error.start} is not UTF-8") from error
    return text


def read_picture(cell, folder: Path) -> bytes | Path:
    """A picture's encoded bytes or the path of its file, also from the two as `datasets` writes them."""
    found = (cell.get("bytes") or cell.get("path")) if isinstance(cell, dict) else cell
    if isinstance(found, str) and found and (folder / found).is_file():
        return folder / found
    if not isinstance(found, bytes):
        raise DataError(f"the picture is {cell!r:.300}, wanted encoded bytes or the path of a file")
    return found


def folder_tables(folder: Path) -> dict[str, list[Part]]:
    """The parts of a folder by split: of several formats of one part the first in `SUFFIXES`, with all its shards."""
    found: dict[str, list[Part]] = {}
    for suffix in SUFFIXES:
        parts: dict[str, list[Part]] = {}
        for path in sorted([*folder.glob(f"*{suffix}"), *folder.glob(f"*/metadata{suffix}")]):
            stem = path.parent.name if path.parent != folder else re.sub(r"-\d+-of-\d+$", "", path.stem)
            if stem in STEMS and STEMS[stem] not in found:
                parts.setdefault(STEMS[stem], []).append((str(path), read_file(path), path.parent))
        found |= parts
    return found


def read_file(path: Path) -> pd.DataFrame:
    """A table of text cells, or of parquet's own; a broken byte stays visible as a surrogate, so that its row can be named."""
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        if path.suffix == ".csv":
            return pd.read_csv(path, dtype=object, keep_default_na=False, encoding_errors="surrogateescape")
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is no readable {path.suffix} file: {str(error)[:300]}") from error
    lines = [line.decode("utf8", "surrogateescape") for line in path.read_bytes().splitlines()]
    if path.suffix == ".jsonl":
        return pd.DataFrame([read_json(line, f"{path}, row {row}") for row, line in enumerate(lines)], dtype=object)
    cells = [line.rpartition(";") for line in lines]  # the text itself may hold semicolons
    return pd.DataFrame([(text, label) if found else (label, None) for text, found, label in cells], dtype=object)


def read_json(line: str, where: str) -> dict:
    """One line of a .jsonl file."""
    try:
        return json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: {line!r:.100} is no JSON object ({error})") from error


def hub_tables(source: str) -> dict[str, list[Part]]:
    """The splits of a Hub set at its revision: pictures left encoded, class numbers as names."""
    from datasets import Image, load_dataset

    name, _, revision = source.partition("@")
    name, _, config = name.partition(":")
    if not revision:
        raise MissingData(f"{source} is no folder; a set of the Hub is named with its revision, ID@REVISION")
    try:
        parts = load_dataset(name, config or None, revision=revision)
    except Exception as error:
        raise MissingData(
            f"{name} cannot be had from the Hub ({type(error).__name__}: {str(error)[:300]}). With a network, try again; without "
            "one, give the folder of a copy"
        ) from error
    found: dict[str, list[Part]] = {}
    for split, rows in parts.items():
        for key, kind in rows.features.items():
            rows = rows.cast_column(key, Image(decode=False)) if isinstance(kind, Image) else rows
        table = rows.to_pandas()
        for key, kind in rows.features.items():
            if names := getattr(kind, "names", None):
                table[key] = [names[i] if i is not None and i >= 0 else None for i in table[key]]  # -1: not labelled
        if split in STEMS:
            found.setdefault(STEMS[split], []).append((f"{source}, {split}", table, Path()))
    return found


def read_class_folders(
    folder: str | Path, classes: Sequence[str] | None = None, *, name: str | None = None, on_error: str = "raise"
) -> Dataset:
    """Pictures in `train/<class>/*` and `test/<class>/*`, perhaps `validation/<class>/*`; else a tenth of train becomes it.

    classes: default, the folders of train in alphabetical order. Pictures of one size up to `SMALL` pixels become one uint8
    array, others an object column of paths. Raises MissingData where a part holds no picture, DataError.
    """
    folder = Path(folder)
    paths = sorted(path for path in folder.glob("*/*/*") if path.is_file() and path.name[0] != ".")
    files = [(split, path) for split in SPLITS for path in paths if STEMS.get(path.parts[-3]) == split]
    known = tuple(classes or class_names(path.parent.name for split, path in files if split == "train"))
    rows, pixels, sizes, problems = [], [], set(), []
    for number, (split, path) in enumerate(tqdm(files, desc=f"reading {folder.name}", unit="image", leave=False)):
        try:
            label, picture = read_label(path.parent.name, known), open_picture(path.read_bytes(), "the picture")
        except DataError as error:
            problems.append(f"{path}: {error}")
            continue
        rows.append((number, label, split, path))
        sizes.add(picture.size)
        if len(sizes) == 1 and max(picture.size) <= SMALL:
            pixels.append(np.asarray(picture))
    refuse(problems, on_error)
    if missing := {"train", "test"} - {split for _, _, split, _ in rows}:
        raise MissingData(f"{folder}: no picture in {' and none in '.join(f'{part}/<class>/' for part in sorted(missing))}")
    ids, labels, split, paths = zip(*rows, strict=True)
    split, said = split_off_validation(np.array(split, "U10"))
    source, held = (name or f"{folder.name}, class folders") + said + left_out(problems), len(pixels) == len(rows)
    return Dataset(np.array(ids), np.array(labels), split, known, source, stack(pixels) if held else column(paths))


def split_off_validation(split: np.ndarray) -> tuple[np.ndarray, str]:
    """Splits with a random tenth of train as validation where there is none, and what `source` says of it."""
    if "validation" in split:
        return split, ""
    train = np.flatnonzero(split == "train")
    split[np.random.default_rng(0).permutation(train)[: len(train) // 10]] = "validation"
    return split, ", validation is a random tenth of train"


def stack(pictures: list[np.ndarray]) -> np.ndarray:
    """RGB pictures of one size as (N, H, W, 3) uint8, or (N, H, W) if they hold no colour."""
    whole = np.stack(pictures)
    return whole[..., 0].copy() if (whole == whole[..., :1]).all() else whole
