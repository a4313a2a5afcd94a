"""Arrays and JSON on disk: safetensors only, written whole or not at all. Knows nothing of the study; no torch."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file


@contextmanager
def atomic(path: Path):
    """Yields a temporary path beside `path` and renames it at the end, so that a kill leaves the old file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        yield Path(name)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


def write_arrays(path: Path, arrays: dict[str, np.ndarray], note: dict | None = None) -> None:
    """Write arrays, and a JSON note in the file's header, in one atomic step."""
    header = {"note": json.dumps(note)} if note is not None else None
    with atomic(Path(path)) as temporary:
        save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, temporary, metadata=header)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file."""
    with safe_open(str(path), framework="numpy") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def read_note(path: Path) -> dict:
    """The JSON note of a file's header, {} where there is none."""
    with safe_open(str(path), framework="numpy") as file:
        return json.loads((file.metadata() or {}).get("note", "{}"))


def write_text(path: Path, text: str) -> None:
    """Write a text file in one atomic step."""
    with atomic(Path(path)) as temporary:
        temporary.write_text(text, encoding="utf8")
