"""The study's own formats: FER-2013 with FER+ votes, GoEmotions, MSED, Flickr8k. Each reader returns a `Dataset`."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from emolib import store
from emolib.data import audit, hub, readers
from emolib.data.cells import read_picture
from emolib.data.dataset import DataError, Dataset, MissingData, column, refuse
from emolib.data.files import csv_rows, is_utf8, read_file, text_lines
from emolib.data.labels import FACE_CLASSES, FERPLUS_COLUMNS, MSED_CLASSES, SHARED_CLASSES, SPLITS
from emolib.data.pictures import SIDE, grey_pixels
from emolib.profiles import ROOT

CACHE = ROOT / "data" / "cache"
USAGES = {"Training": "train", "PublicTest": "validation", "PrivateTest": "test"}
FER_HUB = "clip-benchmark/wds_fer2013@9399b94167523fe5c40b3a857e24ef931ee4395b"
FER_SHARDS = {"train": "train/*.tar", "test": "test/*.tar"}  # beside them lie text files, which would be taken for the data
# Training images per class in that copy, in the order of FACE_CLASSES; its own label numbers follow another order.
FER_TRAINING_COUNTS = (3995, 436, 4097, 7215, 4830, 3171, 4965)
GOEMOTIONS_HUB = "google-research-datasets/go_emotions:simplified@add492243ff905527e67aeb8b80c082af02207c3"
# The numbers of GoEmotions' 28 labels, alphabetical but for neutral at the end, by Ekman's emotions: its ekman_mapping.json.
EKMAN = {
    "anger": (2, 3, 10), "disgust": (11,), "fear": (14, 19), "joy": (0, 1, 4, 5, 8, 13, 15, 17, 18, 20, 21, 23),
    "sadness": (9, 12, 16, 24, 25), "surprise": (6, 7, 22, 26), "neutral": (27,),
}  # fmt: skip
EKMAN_OF = [next(name for name, numbers in EKMAN.items() if number in numbers) for number in range(28)]
GOEMOTIONS_LISTS = ("labels.txt", "emotions.txt")
FLICKR = ("Flickr8k_text.zip", "Flickr8k_Dataset.zip")
MERGED = "FER-2013, Public and Private test together as test, they cannot be told apart here"


def read_pixel_csv(path: str | Path, *, votes: str | Path | None = None, on_error: str = "raise") -> Dataset:
    """FER-2013 in Kaggle's formats (columns emotion, pixels, Usage; also `icml_face_data.csv`), read once, then cached.

    votes: `fer2013new.csv` of FER+, joined by row into extras["votes"], (N, 10) int of `FERPLUS_COLUMNS`.
    """
    path = Path(path)
    stat = path.stat()
    key = hashlib.sha256(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns} {on_error} v1".encode()).hexdigest()
    cache = CACHE / f"faces-{key[:16]}.safetensors"
    arrays = store.cached(cache, lambda: parse_pixels(path, on_error))
    source = f"FER-2013, {path.name}" + readers.left_out(int(arrays["skipped"][0]))
    faces = Dataset(arrays["ids"], arrays["labels"], np.array(SPLITS)[arrays["usage"]], FACE_CLASSES, source, arrays["pixels"])
    return join_votes(faces, Path(votes)) if votes and Path(votes).exists() else faces


def parse_pixels(path: Path, on_error: str) -> dict[str, np.ndarray]:
    """The whole csv, row by row, so that its text never lies in memory at once."""
    rows, problems, lines = [], [], csv_rows(path)
    head = [name.strip() for name in next(lines)[1]]
    if missing := {"emotion", "pixels", "Usage"} - set(head):
        raise DataError(f"{path}: columns found {head!s:.300}, missing {sorted(missing)}")
    where = [head.index(name) for name in ("emotion", "pixels", "Usage")]
    for number, (_, cells) in enumerate(tqdm(lines, desc=f"reading {path.name}", unit="row", unit_scale=True, leave=False)):
        found = parse_face(f"{path}, row {number}", number, *(cells[i].strip() for i in where))
        (problems if isinstance(found, str) else rows).append(found)
    refuse(problems, on_error)
    if not rows:
        raise DataError(f"{path}: no readable row")
    columns = (np.array(cells) for cells in zip(*rows, strict=True))
    return dict(zip(("pixels", "labels", "usage", "ids"), columns, strict=True)) | {"skipped": np.array([len(problems)])}


def parse_face(where: str, row: int, emotion: str, pixels: str, usage: str) -> tuple | str:
    """(pixels, label, split number, row), or a sentence that says what is wrong. Row 0 is the first below the header."""
    if emotion not in tuple("0123456"):
        return f"{where}: emotion is {emotion!r:.100}, wanted 0 to 6"
    if usage not in USAGES:
        return f"{where}: Usage is {usage!r:.100}, wanted one of {', '.join(USAGES)}"
    try:
        values = np.fromstring(pixels, sep=" ", dtype=np.int64)
    except ValueError:
        bad = next((word for word in pixels.split() if not word.lstrip("-").isdecimal()), pixels)
        return f"{where}: a pixel is {bad!r:.20}, wanted a number from 0 to 255"
    if len(values) != SIDE * SIDE:
        return f"{where}: {len(values)} pixels, wanted {SIDE * SIDE}"
    if (bad := values[(values < 0) | (values > 255)]).size:
        return f"{where}: a pixel is {bad[0]}, wanted 0 to 255"
    return values.astype(np.uint8).reshape(SIDE, SIDE), int(emotion), list(USAGES).index(usage), row


def join_votes(faces: Dataset, path: Path) -> Dataset:
    """FER+ votes, joined **by row**: `Image name` drifts by one after each blank row and four names are wrong.

    Raises DataError where votes are missing for a row, or the two files differ in a row's Usage.
    """
    table = read_file(path)
    if missing := {"Usage", *FERPLUS_COLUMNS} - set(table.columns):
        raise DataError(f"{path}: columns found {list(table.columns)!s:.300}, missing {sorted(missing)}")
    if faces.ids.max() >= len(table):
        raise DataError(f"{path}: {len(table)} rows, wanted at least {faces.ids.max() + 1}, one for each row of FER-2013")
    usage = table["Usage"].map(USAGES).to_numpy()[faces.ids]
    if (bad := np.flatnonzero(usage != faces.split)).size:
        row = bad[0]
        raise DataError(f"{path}, row {faces.ids[row]}: Usage means {usage[row]}, FER-2013 says {faces.split[row]}")
    votes = table[list(FERPLUS_COLUMNS)].iloc[faces.ids]
    counts = votes.apply(pd.to_numeric, errors="coerce")
    if (bad := np.argwhere(~counts.isin(range(11)).to_numpy())).size:
        row, place = bad[0]
        raise DataError(f"{path}, line {votes.index[row]}: {votes.iloc[row, place]!r:.50} votes, wanted 0 to 10")
    return replace(faces, extras={"votes": counts.to_numpy(int)})


def read_fer_hub() -> Dataset:
    """FER-2013's webdataset copy on the Hub at a pinned revision: Public and Private are merged, as `source` says."""
    tables = hub.tables(FER_HUB, FER_SHARDS)
    counts = np.bincount(tables["train"]["cls"], minlength=len(FACE_CLASSES)).tolist()
    if sorted(counts) != sorted(FER_TRAINING_COUNTS):
        raise DataError(f"{FER_HUB}: Training has {counts} images per class, wanted {sorted(FER_TRAINING_COUNTS)} in any order")
    order = np.array([FER_TRAINING_COUNTS.index(count) for count in counts])
    whole = pd.concat([tables["train"], tables["test"]])
    split = np.repeat(np.array(["train", "test"], "U10"), [len(tables["train"]), len(tables["test"])])
    pixels = grey_pixels([read_picture(cell, Path()) for cell in whole["jpg"]], SIDE)
    faces = Dataset(np.arange(len(split)), order[whole["cls"]], split, FACE_CLASSES, f"{MERGED} ({FER_HUB})", pixels)
    return audit.draw_splits(faces, SPLITS[1:2])


def read_goemotions(folder: str | Path) -> Dataset:
    """GoEmotions (Demszky et al. 2020, arXiv:2005.00547) with Ekman labels, see `one_emotion`.

    folder: {train,dev,test}.tsv (text, label numbers, id) and emotions.txt, as its authors publish them with 28 labels, which
    become Ekman's; or labels.txt with Ekman's own. DataError names a broken line or another list of labels.
    """
    folder = Path(folder)
    listed = next((path for name in GOEMOTIONS_LISTS if (path := folder / name).exists()), folder / GOEMOTIONS_LISTS[-1])
    names, rows = listed.read_text(encoding="utf8").split(), []
    if len(names) == len(EKMAN_OF):
        names = list(EKMAN_OF)
    elif set(names) != set(EKMAN):
        raise DataError(f"{listed}: {len(names)} labels, {', '.join(names):.100}, wanted the 28 of GoEmotions or Ekman's seven")
    for split, stem in zip(SPLITS, ("train", "dev", "test"), strict=True):
        with text_lines(folder / f"{stem}.tsv") as file:
            lines = [line.rstrip("\r\n") for line in file]
        for number, line in enumerate(lines):
            cells = line.split("\t")
            if not is_utf8(line):
                raise DataError(f"{folder / stem}.tsv, row {number}: the text is not UTF-8")
            if len(cells) != 3 or not all(n.isdecimal() and int(n) < len(names) for n in cells[1].split(",")):
                raise DataError(f"{folder / stem}.tsv, row {number}: {line!r:.80}, wanted text, label numbers, id")
            rows.append((split, cells[0], {names[int(n)] for n in cells[1].split(",")}))
    return one_emotion(rows)


def read_goemotions_hub() -> Dataset:
    """The same from the Hub at a pinned revision, its 28 labels mapped to Ekman's as its authors do."""
    tables = hub.tables(GOEMOTIONS_HUB)
    cells = ((split, *row) for split in SPLITS for row in tables[split][["text", "labels"]].itertuples(index=False))
    return one_emotion((split, text, {EKMAN_OF[n] for n in numbers}) for split, text, numbers in cells)


def one_emotion(rows: Iterable[tuple[str, str, set[str]]]) -> Dataset:
    """Those texts of GoEmotions, (split, text, emotions), with one of the five shared emotions; `source` counts the others."""
    rows = list(rows)
    kept = [
        (number, SHARED_CLASSES.index(*names), split, text.strip())
        for number, (split, text, names) in enumerate(rows)
        if len(names) == 1 and names <= set(SHARED_CLASSES) and text.strip()
    ]
    if not kept:
        raise DataError(f"GoEmotions: none of {len(rows)} rows has one of {', '.join(SHARED_CLASSES)} alone")
    ids, labels, split, texts = zip(*kept, strict=True)
    source = f"GoEmotions (Ekman), {len(rows) - len(kept)} of {len(rows)} rows with several or other labels left out"
    return Dataset(np.array(ids), np.array(labels), np.array(split), SHARED_CLASSES, source, texts=column(texts))


def read_flickr8k(folder: str | Path) -> Dataset:
    """The test pictures of Flickr8k (Hodosh et al. 2013) with their first caption; extras["captions"] (N, 5) are all.

    folder: the two zip files of `FLICKR`, which are not unpacked. All rows are "test", of the class "pair". Raises MissingData
    where one is not there, or cut.
    """
    try:
        words, pictures = (zipfile.ZipFile(Path(folder) / name) for name in FLICKR)
    except (OSError, zipfile.BadZipFile) as error:
        raise MissingData(str(error)) from error
    with words, pictures:
        said: dict[str, list[str]] = {}
        for line in words.read("Flickr8k.token.txt").decode().splitlines():
            name, _, caption = line.partition("\t")
            said.setdefault(name.partition("#")[0], []).append(caption.strip())
        names = words.read("Flickr_8k.testImages.txt").decode().split()
        images = column([pictures.read(f"Flicker8k_Dataset/{name}") for name in names])
    n, captions = len(names), np.array([said[name] for name in names], object)
    texts, extras = column(captions[:, 0].tolist()), {"captions": captions}
    return Dataset(
        np.arange(n), np.zeros(n, int), np.full(n, "test"), ("pair",), f"Flickr8k test, {n} pairs", images, texts, extras
    )


def read_msed(folder: str | Path) -> Dataset:
    """MSED (Jia et al. 2022): pictures with title and caption as their text, labels its emotions, extras caption.

    folder: a clone of github.com/MSEDdataset/MSED ({split}/{split}.csv, {split}/images/1.jpg ...), or its tables as .parquet.
    """
    tables = readers.find_tables(Path(folder))
    for path in sorted(Path(folder).glob("*/*.csv")):
        if path.stem == path.parent.name and readers.split_named(path.stem) not in {None, *tables}:
            table = read_file(path).rename(columns=str.lower)
            table["image"] = [f"images/{number + 1}.jpg" for number in range(len(table))]
            tables[readers.split_named(path.stem)] = [(str(path), table, path.parent)]
    columns = readers.Columns("image", ("title", "caption"), "emotion", ("caption",))
    return readers.assemble(tables, "MSED", columns, MSED_CLASSES)
