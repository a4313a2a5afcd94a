"""What stands in one cell of a table: a label, a text, a picture; read, or refused with what was wanted."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from emolib.data.dataset import DataError
from emolib.data.files import is_utf8
from emolib.data.labels import WORDS


def plain(cell) -> str:
    """A cell as text; the empty text where there is none."""
    if cell is None or cell is pd.NA or (isinstance(cell, float) and np.isnan(cell)):
        return ""
    if isinstance(cell, bytes):  # some writers of parquet do not say that a column is text
        return cell.decode("utf8", "surrogateescape")
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def label_of(cell) -> str:
    """A label without spaces around it; "1.0", which a column with a gap makes of 1, as "1"."""
    return re.sub(r"^(-?\d+)\.0+$", r"\1", plain(cell).strip())


def folded(renamed: Mapping[str, str] | None) -> dict[str, str]:
    """{label found: class}, the labels without case."""
    found = {label_of(label).casefold(): name for label, name in (renamed or {}).items()}
    if len(found) < len(renamed or {}):
        raise ValueError(f"renamed has a label twice, in several cases: {', '.join(map(str, renamed)):.300}")
    return found


def rename(cell, renamed: Mapping[str, str]):
    """The class that stands for a label in a `folded` mapping, else the label itself."""
    return renamed.get(label_of(cell).casefold(), cell)


def check_renamed(renamed: Mapping[str, str], labels: Iterable, name: str) -> None:
    """DataError where a `folded` mapping names a label that nothing has."""
    found = {label_of(label).casefold() for label in labels}
    if unknown := [label for label in renamed if label not in found]:
        raise DataError(f"{name}: renamed has {unknown[0]!r}, wanted a label that is there: {', '.join(sorted(found)):.300}")


def class_names(cells: Iterable) -> list[str]:
    """The labels that occur, numbers by size, names by alphabet; of one name in several cases the first by alphabet."""
    spelled: dict[str, str] = {}
    for name in sorted(filter(is_utf8, {label_of(cell) for cell in cells} - {""})):
        spelled.setdefault(name.casefold(), name)
    number = re.compile(r"-?\d{1,9}(\.\d+)?")
    return sorted(spelled.values(), key=lambda name: (float(name) if number.fullmatch(name) else -math.inf, name))


def read_label(cell, classes: Sequence[str], beside: Sequence = ()) -> int:
    """A class's number from its name, in any case or as one of its `WORDS`, from its number, or from both ("3_happy")."""
    name = label_of(cell)
    for known in (plain(cell).strip(), name):
        if known in classes:
            return classes.index(known)
    check_utf8(name)
    numbered = any(known.isdecimal() for known in classes)  # then a number is a name, and no other number stands for it
    if name.isdecimal() and not numbered and len(name) < 9 and int(name) < len(classes):
        return int(name)
    for said in (name, re.sub(r"^\d+[\s_.-]+", "", name)):
        words = {said.casefold()}.union(*(group for group in WORDS if said.casefold() in group))
        if len(found := [i for i, known in enumerate(classes) if known.casefold() in words]) == 1:
            return found[0]
    wanted = f"wanted one of {', '.join(classes):.300} or 0 to {len(classes) - 1}"
    if not name:
        text = f" beside {', '.join(map(plain, beside))!r:.60}" if beside else ""
        raise DataError(f"no label{text}, {wanted} (in a .txt file: text;label)")
    raise DataError(f"label is {name!r:.100}, {wanted}")


def read_text(cells: Sequence, names: Sequence[str]) -> str:
    """The texts of a row joined as sentences; one text alone stays as it is."""
    parts = [part for part in (plain(cell).strip() for cell in cells) if part]
    text = parts[0] if len(names) == 1 and parts else ". ".join(part.rstrip(".") for part in parts)
    if not text.strip(". "):
        raise DataError(f"the text is empty, wanted at least one word in {' or '.join(names)}")
    check_utf8(text)
    return text


def check_utf8(text: str) -> None:
    """DataError for a text with a byte that was let through as a surrogate."""
    try:
        text.encode("utf8")
    except UnicodeEncodeError as error:
        byte = f"byte {ord(text[error.start]) & 255:#04x} at column {error.start}"
        raise DataError(f"{byte} is not UTF-8; save the file as UTF-8") from error


def read_picture(cell, folder: Path) -> bytes | Path:
    """A picture's encoded bytes or the path of its file, also from the two as `datasets` writes them."""
    found = (cell.get("bytes") or cell.get("path")) if isinstance(cell, dict) else cell
    if isinstance(found, bytes):
        return found
    with suppress(OSError, ValueError):  # what is no name of a file at all
        if isinstance(found, str) and found and (folder / found).is_file():
            return folder / found
    raise DataError(f"the picture is {cell!r:.100}, wanted encoded bytes or the path of a file in {folder.absolute()}")
