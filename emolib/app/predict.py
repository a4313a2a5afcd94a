"""Classify a table or a folder of pictures, whatever its length: every row gets an answer or a reason; a killed run goes on.

Rows are answered in chunks, each a file of its own until all are there. Several processes (`accelerate launch -m emolib
predict ...`) share the chunks and end with the bytes that one would have written.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np
from accelerate import PartialState
from tqdm import tqdm

from emolib import store
from emolib.app.classifier import EmotionClassifier
from emolib.data import files
from emolib.data.cells import check_utf8, plain, read_picture
from emolib.data.dataset import DataError
from emolib.data.readers import is_picture

CHUNK = 512  # rows between two saves
PATH = "path"  # the one column of a folder of pictures


@dataclass(frozen=True)
class Table:
    """A csv file, a parquet file or a folder of pictures, as rows of cells that are read when they are wanted."""

    path: Path
    delimiter: str
    head: list[str]
    length: int

    @staticmethod
    def open(path: Path, delimiter: str | None = None) -> Table:
        """Reads it once through, so that what is wrong with a whole file is said before the work begins; DataError."""
        if path.is_dir():
            return Table(path, ",", [PATH], sum(1 for _ in pictures(path)))
        if files.kind_of(path) == ".parquet":
            parquet = files.open_parquet(path)
            return Table(path, ",", parquet.schema_arrow.names, parquet.metadata.num_rows)
        if files.kind_of(path) in (".jsonl", ".txt"):
            raise DataError(f"{path} is no table with a header, wanted .csv, .tsv, .parquet or a folder of pictures")
        rows = files.csv_rows(path, delimiter, ragged=True)
        head = next(rows)[1]
        delimiter = files.delimiter_of(path, delimiter)
        return Table(path, delimiter, head, sum(1 for _ in rows))

    def rows(self) -> Iterator[list]:
        """Each row's cells, of a csv file perhaps more or fewer than the header has."""
        if self.path.is_dir():
            yield from ([str(path.relative_to(self.path))] for path in pictures(self.path))
        elif files.kind_of(self.path) == ".parquet":
            for batch in files.open_parquet(self.path).iter_batches(CHUNK):
                yield from (list(row.values()) for row in batch.to_pylist())
        else:
            yield from (cells for _, cells in islice(files.csv_rows(self.path, self.delimiter, ragged=True), 1, None))

    @property
    def folder(self) -> Path:
        """That to which paths of pictures are relative."""
        return self.path if self.path.is_dir() else self.path.parent


def pictures(folder: Path) -> Iterator[Path]:
    """The pictures below a folder, in the order of their paths."""
    return (path for path in files.walk(folder) if is_picture(path, folder))


def columns(classifier: EmotionClassifier) -> list[str]:
    """The columns that `predict` adds: the answer, what each modality says alone in its own classes, what went wrong."""
    if not classifier.classes:
        (own,) = classifier.own.values()
        return ["emotion", *(f"p_{c}" for c in own), "problem"]
    alone = [name for m, own in classifier.own.items() for name in (f"{m}_emotion", *(f"{m}_p_{c}" for c in own))]
    return ["emotion", *(f"p_{c}" for c in classifier.classes), *alone, "conflict", "problem"]


def predict(
    classifier: EmotionClassifier, table: Path, out: Path, *, image_column: str | None = None, text_column: str | None = None,
    delimiter: str | None = None,
) -> Counter:  # fmt: skip
    """Classify each row of a csv or parquet file, or each picture below a folder. Returns how many rows had which outcome.

    out: a csv file, the table with `columns` added. Memory does not grow with the table; a run that is killed goes on where it
    was and ends with the same file. Paths are relative to the table's folder. An image or a text that cannot be read is named in
    the column `problem`, and the other one alone answers, in its own classes: the columns p_ of a fused classifier are then
    empty. Raises DataError for a table that cannot be read, and for a column that is missing or there already.
    """
    if out.exists():
        raise DataError(f"{out} is there already; remove it, or name another file with --out")
    source, added = Table.open(table, delimiter), columns(classifier)
    named = {"image": image_column or (PATH if table.is_dir() else None), "text": text_column}
    where, process = places(source, added, named), PartialState()
    key, rows, chunks = key_of(source, where, classifier), source.rows(), range(-(-source.length // CHUNK))
    parts, marks, reused = out.with_name(f"{out.name}.{key[:8]}.parts"), [], 0
    shown = {"unit": "row", "mininterval": 1, "disable": not process.is_main_process}
    with tqdm(total=source.length, desc=table.name, **shown) as bar:
        for number in chunks:
            chunk = list(islice(rows, CHUNK))
            marks.append(mark_of(key, chunk, source, where))
            mine = number % process.num_processes == process.process_index
            if mine and read_part(parts, number, marks[-1]):
                reused += 1
            elif mine:
                text, outcomes = io.StringIO(newline=""), Counter()
                for cells, found, outcome in classify(classifier, chunk, source, where):
                    write_row(text, [*cells, *found], source.delimiter)
                    outcomes[outcome] += 1
                part = {"key": marks[-1], "outcomes": outcomes, "text": text.getvalue()}
                store.write_text(parts / f"{number}.json", json.dumps(part))
            bar.update(len(chunk))
    process.wait_for_everyone()
    if not process.is_main_process:
        return Counter()
    if reused:
        print(f"{parts}: {reused} of {len(chunks)} chunks of {CHUNK} rows were there already", file=sys.stderr)
    return join(parts, marks, out, [*source.head, *added], source.delimiter)


def join(parts: Path, marks: list[str], out: Path, head: list[str], delimiter: str) -> Counter:
    """Write the whole table from its chunks, and remove them; the outcomes. DataError where another run was at it as well."""
    total = Counter()
    with store.atomic(out) as temporary, temporary.open("w", encoding="utf8", errors="surrogateescape", newline="") as file:
        write_row(file, head, delimiter)
        for number, mark in enumerate(marks):
            if (part := read_part(parts, number, mark)) is None:
                raise DataError(f"{parts / f'{number}.json'} is gone or changed: another run writes {out}; wait, or run again")
            file.write(part["text"])
            total.update(part["outcomes"])
    shutil.rmtree(parts, ignore_errors=True)
    return total


def write_row(file: TextIO, cells: list[str], delimiter: str) -> None:
    """One row of a csv file; a lone \\r is quoted, which not every Python does, and which readers take for the end of a row."""
    quoting = csv.QUOTE_ALL if any("\r" in cell for cell in cells) else csv.QUOTE_MINIMAL
    csv.writer(file, delimiter=delimiter, lineterminator="\n", quoting=quoting).writerow(cells)


def places(table: Table, added: list[str], named: dict[str, str | None]) -> dict[str, int]:
    """The number of each modality's column."""
    for name in filter(None, named.values()):
        if name not in table.head:
            raise DataError(f"{table.path} has no column {name!r:.100}; its columns are {', '.join(table.head):.300}")
    if clash := [name for name in added if name in table.head]:
        raise DataError(f"{table.path} has a column {clash[0]!r} already, under which a result would be written; rename it")
    return {modality: table.head.index(name) for modality, name in named.items() if name}


def key_of(table: Table, where: dict[str, int], classifier: EmotionClassifier) -> str:
    """Of all but the rows that a result depends on: the table's name and columns, the classifier."""
    crop, code = classifier.crop, getattr(classifier.crop, "__code__", None)
    held = [cell.cell_contents for cell in getattr(crop, "__closure__", None) or ()]
    held += [getattr(crop, name, None) for name in ("__defaults__", "__self__")]
    cut = [getattr(crop, "__qualname__", crop), code and [code.co_code.hex(), code.co_consts], held]
    cut = re.sub(r" at 0x[0-9a-f]+", "", repr(cut))  # addresses are another each time
    made = [str(table.path.resolve()), table.head, where, table.delimiter, CHUNK, cut, classifier.fingerprint]
    return hashlib.sha256(json.dumps(made).encode()).hexdigest()


def mark_of(key: str, chunk: list[list], table: Table, where: dict[str, int]) -> str:
    """Of all that the answers to a chunk depend on: its cells, and the files that its pictures are now."""
    found = hashlib.sha256(f"{key} {chunk!r}".encode("utf8", "surrogatepass"))
    for cells in chunk if "image" in where else ():
        cell = cells[where["image"]] if len(cells) > where["image"] else ""
        path = cell.get("path") if isinstance(cell, dict) else cell
        try:
            stat = (table.folder / path).stat() if path else None  # without a path it would be the folder, which changes
        except (OSError, ValueError, TypeError):
            stat = None
        found.update(f"{stat.st_size} {stat.st_mtime_ns}".encode() if stat else b"none")
    return found.hexdigest()


def read_part(parts: Path, number: int, key: str) -> dict | None:
    """A chunk that an earlier run has finished; None where there is none, or one of another table or model, or a damaged one."""
    try:
        part = json.loads((parts / f"{number}.json").read_text(encoding="utf8"))
        return part if part["key"] == key and {"text", "outcomes"} <= part.keys() else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def classify(classifier: EmotionClassifier, chunk: list[list], table: Table, where: dict[str, int]) -> Iterator[tuple]:
    """For each row its cells, brought to the header's width, the cells that are added, and the outcome."""
    shown, texts, images, problems, width = [], [], [], [], len(table.head)
    for cells in chunk:
        said = [f"the row has {len(cells)} cells, wanted {width}"] if len(cells) != width else []
        if len(cells) > width:  # nothing is lost: too many cells are joined in the last, too few are filled up
            cells = [*cells[: width - 1], table.delimiter.join(cells[width - 1 :])]
        cells = cells + [""] * (width - len(cells))
        images.append(read_image(classifier, cells[where["image"]], table.folder, said) if "image" in where else None)
        texts.append(read_text(cells[where["text"]], said) if "text" in where else None)
        shown.append([show(cell, place == where.get("image")) for place, cell in enumerate(cells)])
        problems.append(said)
    answers = classifier.posteriors(texts, images)
    for i, said in enumerate(problems):
        there = [name for name, items in (("image", images), ("text", texts)) if items[i] is not None]
        problem = "; ".join(said if there else [*said, "neither a picture nor a text"])
        outcome = "both modalities" if len(there) == 2 else f"{there[0]} only" if there else "no result"
        yield shown[i], [*answer(classifier, answers, i), problem], f"{outcome}, with a problem" if said and there else outcome


def answer(classifier: EmotionClassifier, answers, row: int) -> list[str]:
    """The cells of one row's answer, in the order of `columns` without the last."""
    alone = {m: [likeliest(classifier.own[m], probs[row]), *numbers(probs[row])] for m, probs in answers.own.items()}
    if answers.fused is None:
        return next(iter(alone.values()))
    both = answers.fused[row]
    label = likeliest(classifier.classes, both) or next((cells[0] for cells in alone.values() if cells[0]), "")
    return [label, *numbers(both), *(cell for cells in alone.values() for cell in cells), *numbers(answers.conflict[[row]])]


def likeliest(classes: Sequence[str], probs: np.ndarray) -> str:
    """The class of the highest probability, "" where there is none."""
    return "" if np.isnan(probs).any() else classes[int(probs.argmax())]


def numbers(values: np.ndarray) -> list[str]:
    """Probabilities as cells."""
    return ["" if np.isnan(value) else f"{value:.6f}" for value in values]


def show(cell, picture: bool) -> str:
    """A cell in a csv file: a picture of a parquet file by its path or its size."""
    if isinstance(cell, dict) and cell.keys() == {"bytes", "path"}:
        cell, picture = cell["path"] or cell["bytes"], True
    text = cell if isinstance(cell, str) else plain(cell)
    return f"{len(cell)} bytes" if isinstance(cell, bytes) and (picture or not files.is_utf8(text)) else text


def read_text(cell, said: list[str]) -> str | None:
    """The text of a cell; None where there is none, or where it cannot be read, which is then said."""
    text = plain(cell)
    try:
        check_utf8(text)
    except DataError as error:
        said.append(f"the text: {error}")
        return None
    return text if text.strip() else None


def read_image(classifier: EmotionClassifier, cell, folder: Path, said: list[str]):
    """The picture of a cell, a path or encoded bytes, at the encoder's size; None as in `read_text`."""
    found = (cell.get("bytes") or cell.get("path")) if isinstance(cell, dict) else cell
    if not isinstance(found, bytes) and not (found := plain(found)).strip():
        return None
    try:
        return classifier.prepare(read_picture(found, folder), "the picture")
    except (DataError, OSError, ValueError) as error:
        said.append(" ".join(str(error).split())[:300])
        return None
