"""Arrays and JSON on disk: safetensors only, whole or not at all; a cache of them. Knows nothing of the study; no torch."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file


@contextmanager
def atomic(path: Path):
    """Yields a temporary path beside `path` and renames it at the end, so that a kill leaves the old file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        yield Path(name)
        open_to_all(Path(name))
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


def open_to_all(path: Path) -> None:
    """Let everybody read a file, where its drive knows of permissions."""
    with suppress(OSError):
        path.chmod(0o644)


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


def cached(path: Path, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays that an earlier call kept at the path; made anew where the file is missing, cut or changed.

    A folder that cannot be written is said once, and done without.
    """
    try:
        found = read_arrays(path)
        if read_note(path).get("sha256") == digest(found):
            return found
    except (OSError, SafetensorError, ValueError):
        pass
    made = make()
    try:
        write_arrays(path, made, {"sha256": digest(made)})
    except (OSError, SafetensorError) as error:
        say_once(f"{path.parent} cannot be written ({str(error)[:100]}): what is computed is not kept")
    return made


def digest(arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 of arrays with their names, types and shapes."""
    found = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        found.update(f"{name} {array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def say_once(message: str) -> None:
    """Print to stderr, each message once a process."""
    print(message, file=sys.stderr)
