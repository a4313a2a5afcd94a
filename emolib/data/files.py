"""Tables on disk: every row of a file becomes a row here, or the file is refused with the line at which it went wrong."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from emolib.data.dataset import DataError

SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".parquet")
DELIMITERS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";"}
csv.field_size_limit(2**31 - 1)  # as many as a C long of Windows holds


def kind_of(path: Path) -> str:
    """The suffix that tells how to read a file: that before .gz; "" for one that is none of `SUFFIXES`."""
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    return suffix.lower() if suffix.lower() in SUFFIXES else ""


def read_file(path: Path, delimiter: str | None = None) -> pd.DataFrame:
    """A table of text cells, or of parquet's own; a broken byte stays visible as a surrogate, so that its row can be named.

    The index of a text file is the line at which each row begins, from 1, and is called so; of .txt the columns are 0 and 1,
    text and label. Raises DataError with the line where it can be told.
    """
    kind = kind_of(path)
    if not kind:
        raise DataError(f"{path} is no table that can be read, wanted one of {', '.join(SUFFIXES)}")
    if kind == ".parquet":
        return guarded(path, lambda: open_parquet(path).read().to_pandas())
    if kind in (".csv", ".tsv"):
        (_, *numbers), (head, *rows) = zip(*csv_rows(path, delimiter), strict=True)
        return pd.DataFrame(rows, pd.Index(numbers, name="line", dtype=int), head, dtype=object)
    with text_lines(path) as lines:
        numbered = {number: line.rstrip("\r\n") for number, line in enumerate(lines, 1) if line.strip()}
    if kind == ".jsonl":
        rows = [read_json(line, f"{path}, line {number}") for number, line in numbered.items()]
    else:  # the text itself may hold semicolons
        cells = [line.rpartition(";") for line in numbered.values()]
        rows = [(text, label) if found else (label, None) for text, found, label in cells]
    return pd.DataFrame(rows, pd.Index(numbered, name="line", dtype=int), dtype=object)


def open_parquet(path: Path):
    """A parquet file, its head read; DataError where it is none, or has two columns of one name."""
    from pyarrow.parquet import ParquetFile

    file = guarded(path, lambda: ParquetFile(path))
    check_names(file.schema_arrow.names, path)
    return file


def guarded(path: Path, read: Callable):
    """What a reader of others' making returns; whatever it raises is said of the file, as DataError."""
    try:
        return read()
    except (DataError, MemoryError):
        raise
    except Exception as error:
        raise refused(path, error) from error


def csv_rows(path: Path, delimiter: str | None = None, *, ragged: bool = False) -> Iterator[tuple[int, list[str]]]:
    """The line at which each row of a csv file begins, and its cells; the header comes first, blank lines are no rows.

    delimiter: see `delimiter_of`. Raises DataError for a file without header, for a row with more or fewer cells than it (but
    for `ragged`), and for a quote that swallows rows or is never closed.
    """
    delimiter = delimiter_of(path, delimiter)
    with text_lines(path) as lines:
        read: list[str] = []  # lines of the row under way

        def noted():
            for line in lines:
                read.append(line)
                yield line

        rows, width, start = csv.reader(noted(), delimiter=delimiter, strict=True), 0, 1
        try:
            for cells in rows:
                width = width or len(check_names(cells, path))
                if cells and len(cells) != width and not ragged:
                    where = f"{path}, line {start}: {len(cells)} cells, wanted {width} as in the header"
                    raise DataError(f'{where}; put a cell that holds {delimiter!r} in quotes: "..."')
                # In prose a space follows the comma. Lines that each have a row's number of cells, none opening so, are rows.
                if width > 1 and read[1:] and all(len(re.split(rf"{re.escape(delimiter)}(?! )", x)) == width for x in read):
                    where = f"{path}, line {start}: a quote opens a cell that takes in whole rows, up to line {rows.line_num}"
                    raise DataError(f'{where}; write a quote that is text twice, in a quoted cell: "say ""hi"""; or give .jsonl')
                if cells:
                    yield start, cells
                read.clear()
                start = rows.line_num + 1
        except csv.Error as error:
            raise DataError(f"{path}, line {start}: {error}; close each quote, and write one that is text twice") from error
    if not width:
        raise DataError(f"{path} is empty, wanted a header and rows")


def walk(folder: Path) -> list[Path]:
    """All files below a folder, in the order of their paths; links to folders are followed, but not in circles."""
    found = []
    for place, folders, names in os.walk(folder, followlinks=True):
        above = {path.resolve() for path in (Path(place), *Path(place).parents)}
        folders[:] = [name for name in folders if Path(place, name).resolve() not in above]
        found += [path for path in (Path(place, name) for name in names) if path.is_file()]
    return sorted(found)


def delimiter_of(path: Path, name: str | None = None) -> str:
    """The character between the cells of a file: the one given, or that of a name in `DELIMITERS`.

    Default: a tab in .tsv; else a comma, where the header has none a semicolon or tab that it has, as spreadsheets write them
    in many languages. Raises ValueError for a name that stands for none.
    """
    if name is None:
        with text_lines(path) as lines:
            head = next(filter(str.strip, lines), "")
        return next((found for found in ("\t" if kind_of(path) == ".tsv" else ",;\t") if found in head), ",")
    found = DELIMITERS.get(name, name)
    if len(found) != 1 or found in '"\r\n':
        raise ValueError(f"the delimiter is {name!r:.40}, wanted one character or one of {', '.join(DELIMITERS)}")
    return found


@contextmanager
def text_lines(path: Path):
    """The lines of a text file, packed by gzip or not, UTF-8 or (told by its first bytes) UTF-16; else bytes as surrogates."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as raw:
            first = raw.read(1 << 16)
            raw.seek(0)
            wide = first[:2] in (b"\xff\xfe", b"\xfe\xff")
            # Where lines end with \n, a lone \r is a mistake inside a line and not the end of a row.
            newline = "\n" if b"\n" in first else ""
            yield io.TextIOWrapper(raw, "utf-16" if wide else "utf-8-sig", "surrogateescape", newline)
    except (OSError, EOFError, zlib.error, UnicodeError) as error:
        raise refused(path, error) from error


def refused(path: Path, error: Exception) -> DataError:
    """What is said of a file that cannot be read at all."""
    return DataError(f"{path} is no readable {kind_of(path) or 'text'} file: {type(error).__name__}: {str(error)[:200]}")


def check_names(names: Sequence[str], path: Path | str) -> Sequence[str]:
    """The names of a file's columns; DataError where two are the same or one is not UTF-8."""
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise DataError(f"{path}: the column {twice[0]!r:.100} is there twice, wanted each name once; rename one")
    if broken := [name for name in names if not is_utf8(name)]:
        raise DataError(f"{path}: the column {broken[0]!r:.100} is not UTF-8")
    return names


def is_utf8(text: str) -> bool:
    """Whether a text holds no byte that was let through as a surrogate."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def read_json(line: str, where: str) -> dict:
    """One line of a .jsonl file."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: {line!r:.100} is no JSON object ({str(error)[:100]})") from error
    if not isinstance(found, dict):
        raise DataError(f"{where}: {line!r:.100} is no JSON object, wanted one with the names of the columns")
    check_names(list(found), where)
    return found
