"""A thousand random corruptions of each kind of file that the readers take: refused, or every line left alone is still there."""

import gzip
import io
import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from emolib.data import files, official, readers
from emolib.data.dataset import DataError

N, TIMES = 12, 1000
ROWS = [(f"{i}", f"so {'glad' if i % 2 else 'sad'}, number {i}", ("joy", "sadness")[i % 2]) for i in range(N)]
TABLE = pd.DataFrame(ROWS, columns=["n", "text", "label"])


def packed(frame, write, **options):
    stream = io.BytesIO()
    getattr(frame, write)(stream, **options)
    return stream.getvalue()


TEXTS = {
    "a.csv": TABLE.to_csv(index=False).encode(),
    "a.tsv": TABLE.to_csv(index=False, sep="\t").encode(),
    "a.jsonl": TABLE.to_json(orient="records", lines=True).encode(),
    "a.txt": "".join(f"{text};{label}\n" for _, text, label in ROWS).encode(),
}
PACKED = {"a.csv.gz": gzip.compress(TEXTS["a.csv"], mtime=0), "a.parquet": packed(TABLE, "to_parquet")}


def corrupted(rng, whole: bytes) -> tuple[bytes, int, int]:
    """The bytes with some flipped, put in, taken out or cut off, and from where to where they differ from the original."""
    at, size = int(rng.integers(len(whole))), int(rng.integers(1, 6))
    pieces = [
        b'"',
        b'""',
        b",",
        b"\t",
        b"\n",
        b"\r",
        b";",
        b"\x00",
        b"\xff",
        b"{",
        b"\\",
        bytes(rng.integers(0, 256, size, dtype=np.uint8)),
    ]
    new = pieces[rng.integers(len(pieces))]
    kind = rng.integers(4)
    if kind == 0:
        return whole[:at], at, len(whole)
    if kind == 1:
        return whole[:at] + whole[at + size :], at, at + size
    end = at if kind == 2 else at + len(new)
    return whole[:at] + new + whole[end:], at, end


def untouched(name: str, whole: bytes, start: int, end: int) -> list[tuple[str, str]]:
    """Text and label of the rows whose lines, and whose line breaks, the corruption left alone."""
    ends = np.cumsum([len(line) for line in whole.splitlines(keepends=True)])
    begins = np.r_[0, ends[:-1]]
    kept = [i for i, (a, b) in enumerate(zip(begins, ends, strict=True)) if (start < a and end <= a) or start >= b]
    kept = [i for i in kept if i - 1 in kept or i == 0]  # a break before a line belongs to the line before
    head = 0 if name.endswith((".jsonl", ".txt")) else 1
    return [ROWS[i - head][1:] for i in kept if i >= head]


@pytest.mark.parametrize("name", TEXTS)
def test_a_corrupted_table_is_refused_or_keeps_every_line_left_alone(name, tmp_path):
    rng, refused, path = np.random.default_rng(0), 0, tmp_path / name
    for _ in range(TIMES):
        broken, start, end = corrupted(rng, TEXTS[name])
        path.write_bytes(broken)
        try:
            table = files.read_file(path).rename(columns={0: "text", 1: "label"})
        except DataError as error:
            refused += 1
            assert str(path) in str(error) and len(str(error)) < 600
            continue
        if not {"text", "label"} <= set(table.columns):
            continue  # the header was hit, and whoever asks for these columns is told
        found = list(zip(table.text, table.label, strict=True))
        lost = [row for row in untouched(name, TEXTS[name], start, end) if row not in found]
        assert not lost, (broken, lost)
    assert refused < TIMES and (refused > TIMES / 50 or name == "a.txt")  # a line of .txt may hold anything


@pytest.mark.parametrize("name", PACKED)
def test_a_corrupted_packed_table_is_refused_or_read_whole(name, tmp_path):
    rng, path = np.random.default_rng(1), tmp_path / name
    for _ in range(TIMES):
        path.write_bytes(corrupted(rng, PACKED[name])[0])
        try:
            table = files.read_file(path)
        except DataError as error:
            assert str(path) in str(error)
            continue
        assert len(table) == N


def test_a_corrupted_set_is_an_error_that_names_a_place_or_a_whole_set(tmp_path, sample_faces):
    """The whole way: labels, texts, splits and pictures."""
    rng = np.random.default_rng(2)
    lines = [json.dumps({"image": f"{i}.png", "text": f"text {i}", "label": "ab"[i % 2], "split": s}) for i, s in
             enumerate(["train", "train", "val", "val", "test", "test"])]  # fmt: skip
    whole = "\n".join(lines).encode() + b"\n"
    for i in range(6):
        Image.fromarray(sample_faces.images[i]).save(tmp_path / f"{i}.png")
    for _ in range(TIMES):
        (tmp_path / "a.jsonl").write_bytes(corrupted(rng, whole)[0])
        try:
            data = readers.read_table(tmp_path / "a.jsonl", image="image", text="text")
        except (DataError, FileNotFoundError) as error:
            assert "a.jsonl" in str(error)
            continue
        rows = [line for line in (tmp_path / "a.jsonl").read_bytes().split(b"\n") if line.strip()]
        assert len(data) == len(rows)


def test_a_corrupted_picture_is_refused_or_a_picture_of_the_same_size(sample_faces):
    rng = np.random.default_rng(3)
    for kind in ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF"):
        stream = io.BytesIO()
        Image.fromarray(sample_faces.images[0]).convert("RGB").save(stream, kind)
        for _ in range(TIMES // 5):
            try:
                found = readers.open_picture(corrupted(rng, stream.getvalue())[0], "picture 7")
            except DataError as error:
                assert str(error).startswith("picture 7 cannot be read")
                continue
            assert found.mode == "RGB" and max(found.size) <= 1 << 16


def test_a_corrupted_fer_file_is_refused_or_keeps_its_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(official, "CACHE", tmp_path / "cache")
    rng, face = np.random.default_rng(4), " ".join(["7"] * 2304)
    whole = ("emotion,pixels,Usage\n" + "".join(f"{k},{face},{u}\n" for k, u in enumerate(official.USAGES))).encode()
    for _ in range(TIMES // 5):
        (tmp_path / "fer2013.csv").write_bytes(corrupted(rng, whole)[0])
        try:
            data = official.parse_pixels(tmp_path / "fer2013.csv", "raise")
        except DataError as error:
            assert "fer2013.csv" in str(error)
            continue
        assert len(data["labels"]) == 3
