"""Classify a csv table row by row, whatever its length: every row gets an answer or a reason, and a killed run goes on."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from emolib import store
from emolib.app.classifier import EmotionClassifier
from emolib.data.dataset import DataError
from emolib.data.pictures import open_picture

CHUNK = 512  # rows between two saves


def columns(classifier: EmotionClassifier) -> list[str]:
    """The columns that `predict` adds: the answer, what each modality says alone in its own classes, what went wrong."""
    if not classifier.classes:
        (own,) = classifier.own.values()
        return ["emotion", *(f"p_{c}" for c in own), "problem"]
    alone = [name for m, own in classifier.own.items() for name in (f"{m}_emotion", *(f"{m}_p_{c}" for c in own))]
    return ["emotion", *(f"p_{c}" for c in classifier.classes), *alone, "conflict", "problem"]


def predict(
    classifier: EmotionClassifier, table: Path, out: Path, *, image_column: str | None = None, text_column: str | None = None,
    delimiter: str = ",",
) -> Counter:  # fmt: skip
    """Classify each row of a csv file; `out` is the table with `columns` added. Returns how many rows had which outcome.

    Read and written in pieces: memory does not grow with the table; a run that is killed goes on where it was and ends with
    the same file. Paths are relative to the table's folder. An image or a text that cannot be read is named in the column
    `problem`, and the other one alone answers, in its own classes: the columns p_ of a fused classifier are then empty.
    Raises DataError for a column that is missing or there already.
    """
    if out.exists():
        raise DataError(f"{out} is there already; remove it, or name another file with --out")
    part, note = out.with_name(f"{out.name}.part"), out.with_name(f"{out.name}.progress")
    size = table.stat().st_size
    with table.open("rb") as raw, tqdm(total=size, desc=table.name, unit="B", unit_scale=True, mininterval=1) as bar:
        rows = csv.reader(_lines(raw, bar), delimiter=delimiter)
        head, added = next(rows, None) or [], columns(classifier)
        where = _places(table, head, added, {"image": image_column, "text": text_column})
        done = _resume(part, note, _key(table, where, delimiter, classifier))
        with part.open("r+b" if done["rows"] else "wb") as file:
            file.truncate(done["bytes"])
            file.seek(done["bytes"])
            if not done["rows"]:
                file.write(_line([*head, *added], delimiter))
            next(islice(rows, done["rows"], done["rows"]), None)  # passes over what an earlier run has done
            while chunk := list(islice(rows, CHUNK)):
                for cells, found, outcome in _classify(classifier, chunk, len(head), where, table.parent, delimiter):
                    done["outcomes"][outcome] = done["outcomes"].get(outcome, 0) + 1
                    file.write(_line([*cells, *found], delimiter))
                file.flush()
                os.fsync(file.fileno())
                done["rows"], done["bytes"] = done["rows"] + len(chunk), file.tell()
                store.write_text(note, json.dumps(done))
    part.replace(out)
    note.unlink(missing_ok=True)
    return Counter(done["outcomes"])


def _places(table: Path, head: list[str], added: list[str], named: dict[str, str | None]) -> dict[str, int]:
    """The number of each modality's column."""
    for column in filter(None, named.values()):
        if column not in head:
            raise DataError(f"{table} has no column {column!r}; its columns are {', '.join(head) or 'none':.300}")
    if clash := [c for c in added if c in head]:
        raise DataError(f"{table} has a column {clash[0]!r} already, under which a result would be written; rename it")
    return {modality: head.index(column) for modality, column in named.items() if column}


def _key(table: Path, where: dict[str, int], delimiter: str, classifier: EmotionClassifier) -> str:
    """Of all that the result depends on: table, columns, classifier."""
    stat = table.stat()
    made = [str(table.resolve()), stat.st_size, stat.st_mtime_ns, where, delimiter, classifier.fingerprint]
    return hashlib.sha256(json.dumps(made).encode()).hexdigest()


def _resume(part: Path, note: Path, key: str) -> dict:
    """Where an earlier run stopped; the beginning if there was none, or it read another table or used another model."""
    fresh = {"key": key, "rows": 0, "bytes": 0, "outcomes": {}}
    if not part.exists() or not note.exists():
        return fresh
    done = json.loads(note.read_text(encoding="utf8"))
    if done["key"] != key:
        return fresh
    print(f"{part}: going on after row {done['rows']}", file=sys.stderr)
    return done


def _lines(raw, bar: tqdm) -> Iterator[str]:
    """Lines of a binary file as text; what is not UTF-8 stays visible as surrogates."""
    csv.field_size_limit(sys.maxsize)
    for number, line in enumerate(raw):
        bar.update(len(line))
        yield line.removeprefix(b"\xef\xbb\xbf" if number == 0 else b"").decode("utf8", "surrogateescape")


def _line(cells: Sequence[str], delimiter: str) -> bytes:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter=delimiter, lineterminator="\n").writerow(cells)
    return buffer.getvalue().encode("utf8", "surrogateescape")


def _classify(classifier, chunk: list[list[str]], width: int, where: dict, folder: Path, delimiter: str) -> Iterator[tuple]:
    """For each row its cells, brought to the header's width, the cells that are added, and the outcome."""
    table, texts, images, problems = [], [], [], []
    for row in chunk:
        said = [f"the row has {len(row)} cells, wanted {width}"] if len(row) != width else []
        # Nothing is lost: too many cells are joined in the last, too few are filled up.
        row = [*row[: width - 1], delimiter.join(row[width - 1 :])] if len(row) > width else row + [""] * (width - len(row))
        table.append(row)
        texts.append(_text(row[where["text"]], said) if "text" in where else None)
        images.append(_image(row[where["image"]], folder, said) if "image" in where else None)
        problems.append(said)
    answers = classifier.posteriors(texts, images)
    for i, said in enumerate(problems):
        there = [name for name, items in (("image", images), ("text", texts)) if items[i] is not None]
        problem = "; ".join(said if there else [*said, "neither a picture nor a text"])
        outcome = "both modalities" if len(there) == 2 else f"{there[0]} only" if there else "no result"
        yield table[i], [*_cells(classifier, answers, i), problem], f"{outcome}, with a problem" if said and there else outcome


def _cells(classifier, answers, row: int) -> list[str]:
    """The cells of one row's answer, in the order of `columns` without the last."""
    alone = {m: [_label(classifier.own[m], probs[row]), *_numbers(probs[row])] for m, probs in answers.own.items()}
    if answers.fused is None:
        return next(iter(alone.values()))
    both = answers.fused[row]
    label = _label(classifier.classes, both) or next((cells[0] for cells in alone.values() if cells[0]), "")
    return [label, *_numbers(both), *(cell for cells in alone.values() for cell in cells), *_numbers(answers.conflict[[row]])]


def _label(classes: Sequence[str], probs: np.ndarray) -> str:
    return "" if np.isnan(probs).any() else classes[int(probs.argmax())]


def _numbers(values: np.ndarray) -> list[str]:
    return ["" if np.isnan(value) else f"{value:.6f}" for value in values]


def _text(cell: str, said: list[str]) -> str | None:
    if not cell.strip():
        return None
    try:
        cell.encode("utf8")
    except UnicodeEncodeError as error:
        said.append(f"the text is not UTF-8 (byte {ord(cell[error.start]) - 0xDC00:#04x} at character {error.start})")
        return None
    return cell


def _image(cell: str, folder: Path, said: list[str]):
    if not cell.strip():
        return None
    path = folder / cell
    try:
        if not path.is_file():
            said.append(f"no file {cell}")
            return None
        return open_picture(path, "the picture")
    except (DataError, ValueError, OSError) as error:
        said.append(" ".join(str(error).split()))
        return None
