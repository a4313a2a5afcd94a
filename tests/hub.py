"""A stand-in for the Hugging Face Hub on loopback that holds the sample under the names that profile `full` asks for.

    with hub.serve(hub.contents(), every=7) as address:  # HF_ENDPOINT=address; each 7th request fails once

It answers what huggingface_hub asks of one pinned commit: the repository, its tree, its files with Range.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import numpy as np
from PIL import Image

from emolib import profiles
from emolib.data import official, sets

Files = dict[str, bytes]
FACES = (60, 12, 61, 90, 70, 50, 65)  # Training faces a class, each number once: by them the classes are known


def split(source: str) -> tuple[str, str]:
    """ID and commit of ID:CONFIG@COMMIT."""
    name, _, commit = source.partition("@")
    return name.partition(":")[0], commit


def contents() -> dict[tuple[str, str, str], Files]:
    """{(kind, ID, commit): its files}: the tiny encoder, sentences, drawn faces, patches of colour in CIFAR-10's classes."""
    clip, sample = profiles.get("full").clip, profiles.get("sample")
    folder = profiles.ROOT / "data" / "sample" / "clip-tiny"
    held = {("models", clip.source, clip.revision): {path.name: path.read_bytes() for path in folder.iterdir()}}
    texts, other = sets.raw_texts(sample), sets.other_texts(sample)
    numbers = [official.EKMAN[name][0] for name in other.classes]
    rows = {"text": texts.texts, "label": texts.labels}
    held["datasets", *split(sets.EMOTION_HUB)] = tables("split", rows, texts, {"label": texts.classes})
    rows = {"text": other.texts, "labels": [[numbers[label]] for label in other.labels]}
    held["datasets", *split(official.GOEMOTIONS_HUB)] = tables("simplified", rows, other, {})
    held["datasets", *split(sets.CIFAR_HUB)] = things()
    held["datasets", *split(official.FER_HUB)] = shards(sets.raw_faces(sample))
    return held


def tables(config: str, rows: dict, data, names: dict[str, tuple[str, ...]]) -> Files:
    """A set as parquet files of its splits, with the card that tells the Hub's library about them."""
    import datasets

    files, parts = {}, []
    for part in dict.fromkeys(data.split.tolist()):
        some = {
            key: [value for value, where in zip(cells, data.split, strict=True) if where == part] for key, cells in rows.items()
        }
        table = datasets.Dataset.from_dict(some)
        for key, classes in names.items():
            table = table.cast_column(key, datasets.ClassLabel(names=list(classes)))
        table.to_parquet(made := io.BytesIO())
        files[f"{config}/{part}-00000-of-00001.parquet"] = made.getvalue()
        parts += [f"  - split: {part}", f"    path: {config}/{part}-*"]
    card = ["---", "configs:", f"- config_name: {config}", "  default: true", "  data_files:", *parts, "---"]
    return files | {"README.md": "\n".join(card).encode()}


def things() -> Files:
    """CIFAR-10's test split with patches of colour."""
    from types import SimpleNamespace

    labels = np.arange(60) % 10
    pictures = [{"bytes": encoded(np.full((32, 32, 3), (25 * k, 255 - 25 * k, 9 * i % 256), np.uint8)), "path": None}
                for i, k in enumerate(labels)]  # fmt: skip
    rows = {"img": pictures, "label": labels.tolist()}
    return tables("plain_text", rows, SimpleNamespace(split=np.full(60, "test")), {"label": sets.CIFAR_CLASSES})


def shards(faces) -> Files:
    """Drawn faces as the webdataset copy of FER-2013, classes numbered in the order of its own names, text files beside."""
    order, files = (0, 1, 2, 3, 5, 6, 4), {}
    for part, wanted in (("train", FACES), ("test", (12,) * 7)):
        rows = np.concatenate([np.flatnonzero((faces.split == part) & (faces.labels == k))[:n] for k, n in enumerate(wanted)])
        with tarfile.open(fileobj=(made := io.BytesIO()), mode="w") as tar:
            for number, row in enumerate(rows):
                for suffix, data in (("cls", str(order[faces.labels[row]]).encode()), ("jpg", encoded(faces.images[row]))):
                    entry = tarfile.TarInfo(f"s{number:07d}.{suffix}")
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
        files |= {f"{part}/0.tar": made.getvalue(), f"{part}/nshards.txt": b"1"}
    return files


def encoded(pixels: np.ndarray) -> bytes:
    """A picture file of pixels."""
    Image.fromarray(pixels).save(made := io.BytesIO(), "png")
    return made.getvalue()


class Handler(BaseHTTPRequestHandler):
    """One request of a client."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        server, parts = self.server, [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        server.asked += 1
        if server.every and server.asked % server.every == 0 and self.path not in server.failed:
            server.failed.add(self.path)
            return self.send(503, b"fails on purpose", {})
        api = parts.pop(0) if parts[0] == "api" else ""
        kind = parts.pop(0) if api or parts[0] == "datasets" else "models"
        name, (what, commit, *path) = "/".join(parts[:2]), (parts[2:] if len(parts) > 3 else ("revision", "main"))
        if commit == "main":
            commit = next((known[2] for known in server.held if known[:2] == (kind, name)), commit)
        files, path = server.held.get((kind, name, commit)), "/".join(path)
        if files is None:
            missing = "RevisionNotFound" if any((kind, name) == known[:2] for known in server.held) else "RepoNotFound"
            return self.send(404, b"{}", {"X-Error-Code": missing})
        if what == "revision":
            return self.say({"id": name, "sha": commit, "siblings": [{"rfilename": file} for file in files]}, commit)
        if what == "tree":
            return self.say(entries(files, path, deep="recursive=True" in self.path), commit)
        if path not in files:
            return self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
        data, status, headers = (
            files[path],
            200,
            {"ETag": f'"{tag(files[path])}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"},
        )
        if span := self.headers.get("Range"):
            first, _, last = span.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last), len(data) - 1) if last else len(data) - 1
            status, headers["Content-Range"] = 206, f"bytes {start}-{end}/{len(data)}"
            data = data[start : end + 1]
        self.send(status, data, headers)

    do_GET = do_HEAD = do_POST = answer

    def say(self, value, commit: str) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json", "X-Repo-Commit": commit})

    def send(self, status: int, body: bytes, headers: dict) -> None:
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments) -> None:
        """Nothing: the tests' own output says enough."""


def entries(files: Files, path: str, *, deep: bool) -> list[dict]:
    """What a tree lists below a folder, folders too."""
    below = {name: data for name, data in files.items() if not path or name.startswith(f"{path}/")}
    named = {"/".join(name.split("/")[: depth + 1]) for name in below for depth in range(name.count("/"))}
    found = [{"type": "file", "path": name, "size": len(data), "oid": tag(data)} for name, data in below.items()]
    found += [{"type": "directory", "path": name, "size": 0, "oid": tag(name.encode())} for name in sorted(named)]
    inside = len(path.split("/")) if path else 0
    return [
        one
        for one in found
        if one["path"].startswith(path) and one["path"] != path and (deep or one["path"].count("/") == inside)
    ]


def tag(data: bytes) -> str:
    """git's name of a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def serve(held: dict[tuple[str, str, str], Files], every: int = 0):
    """Serve repositories on loopback; yields the address. every: each so-manieth request fails once with 503."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.held, server.every, server.asked, server.failed = held, every, 0, set()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
