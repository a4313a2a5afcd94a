"""FER-2013 with FER+ votes: load, audit, clean. Nothing is dropped without being counted."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

from emolib import items, store
from emolib.items import DataError, Items, MissingData
from emolib.labels import FACE_CLASSES, FERPLUS_COLUMNS, FERPLUS_TO_FACE, SPLITS
from emolib.profiles import ROOT, Profile, data_folder
from emolib.records import Facts, Predictions

SIDE = 48
USAGES = {"Training": "train", "PublicTest": "validation", "PrivateTest": "test"}
CSV_NAMES = ("fer2013.csv", "fer2013.csv.gz", "icml_face_data.csv")
HUB = ("clip-benchmark/wds_fer2013", "9399b94167523fe5c40b3a857e24ef931ee4395b")
# Training images a class in that copy, in the order of FACE_CLASSES; its own label numbers follow another order.
_TRAINING_COUNTS = (3995, 436, 4097, 7215, 4830, 3171, 4965)
_MERGED = "Public and Private test cannot be told apart here: test is both together, validation a tenth of Training."


@dataclass(frozen=True)
class Faces(Items):
    """Grey faces. pixels: (N, 48, 48) uint8. votes: (N, 10) int of `FERPLUS_COLUMNS`, -1 where FER+ is not at hand."""

    pixels: np.ndarray
    votes: np.ndarray


def load(profile: Profile, *, on_error: str = "raise") -> Faces:
    """The faces of a profile: generated, else FER-2013 from the folder EMOLIB_DATA/fer2013, else (`full`) the Hub copy.

    Raises MissingData where no source is at hand, DataError at a row that cannot be read.
    """
    if profile.data.generated:
        return read_sample()
    folder = data_folder() / "fer2013"
    for name in CSV_NAMES:
        if (folder / name).exists():
            return read_csv(folder / name, votes=folder / "fer2013new.csv", on_error=on_error)
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        return read_folders(folder, on_error=on_error)
    if profile.name == "full":
        return read_hub()
    raise MissingData(
        f"FER-2013 is not at hand: looked for {', '.join(CSV_NAMES)}, or folders train/ and test/, in {folder}. Get "
        "fer2013.csv from Kaggle (challenges-in-representation-learning-facial-expression-recognition-challenge) and "
        "fer2013new.csv from github.com/microsoft/FERPlus, put both there, or name another folder: "
        "EMOLIB_DATA=FOLDER python -m emolib run --profile mini 01"
    )


def read_sample(folder: Path = ROOT / "data" / "sample" / "fer2013") -> Faces:
    """The drawn faces, with the schema and the defects of FER-2013."""
    with np.load(folder / "faces.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    n = len(arrays["labels"])
    return Faces(
        np.arange(n), arrays["labels"].astype(int), items.split_names(arrays["split"]), FACE_CLASSES, "drawn faces",
        arrays["pixels"], arrays["votes"].astype(int),
    )  # fmt: skip


def read_csv(path: Path, *, votes: Path | None = None, on_error: str = "raise") -> Faces:
    """FER-2013 in Kaggle's formats (columns emotion, pixels, Usage; also `icml_face_data.csv`), read once, then cached.

    votes: `fer2013new.csv` of FER+, joined by row (its "Image name" drifts). Raises DataError naming file, row, value
    found and value wanted; on_error="skip" leaves such rows out and says how many in `source`.
    """
    stat = Path(path).stat()
    key = hashlib.sha256(f"{Path(path).resolve()} {stat.st_size} {stat.st_mtime_ns} {on_error} v1".encode())
    cache = ROOT / "data" / "cache" / f"faces-{key.hexdigest()[:16]}.safetensors"
    if not cache.exists():
        pixels, labels, usage, ids, skipped = _parse(Path(path), on_error)
        store.write_arrays(
            cache, {"pixels": pixels, "labels": labels, "usage": usage, "ids": ids, "skipped": np.array([skipped])}
        )
    arrays = store.read_arrays(cache)
    skipped = int(arrays["skipped"][0])
    source = f"FER-2013, {Path(path).name}" + (f", {skipped} unreadable rows left out" if skipped else "")
    faces = Faces(
        ids=arrays["ids"], labels=arrays["labels"], split=items.split_names(arrays["usage"]), classes=FACE_CLASSES,
        source=source, pixels=arrays["pixels"], votes=np.full((len(arrays["ids"]), 10), -1),
    )  # fmt: skip
    return join_votes(faces, votes) if votes and Path(votes).exists() else faces


def _parse(path: Path, on_error: str):
    """The whole csv, in pieces of 2,000 rows so that the text never lies in memory at once."""
    blocks, problems = [], []
    # surrogateescape keeps a broken byte visible, so that the row check below can name its row.
    reader = pd.read_csv(
        path, dtype=object, chunksize=2000, skipinitialspace=True, keep_default_na=False, encoding_errors="surrogateescape"
    )
    for chunk in tqdm(reader, desc=f"reading {path.name}", unit="x2000 rows", leave=False):
        chunk.columns = [c.strip() for c in chunk.columns]
        if missing := {"emotion", "pixels", "Usage"} - set(chunk.columns):
            raise DataError(f"{path}: columns found {list(chunk.columns)}, missing {sorted(missing)}")
        rows = [_row(path, *row) for row in zip(chunk.index, chunk.emotion, chunk.pixels, chunk.Usage, strict=True)]
        problems += [row for row in rows if isinstance(row, str)]
        items.refuse(problems, on_error)
        good = [row for row in rows if not isinstance(row, str)]
        if good:
            blocks.append([np.array(column) for column in zip(*good, strict=True)])
    if not blocks:
        raise DataError(f"{path}: no readable row")
    pixels, labels, usage, ids = (np.concatenate(column) for column in zip(*blocks, strict=True))
    return pixels, labels, usage, ids, len(problems)


def _row(path: Path, row: int, emotion: str, pixels: str, usage: str):
    """(pixels, label, split number, row), or a sentence that says what is wrong. Row 0 is the first below the header."""
    where = f"{path}, row {row}"
    if emotion not in tuple("0123456"):
        return f"{where}: emotion is {emotion!r}, wanted 0 to 6"
    if usage not in USAGES:
        return f"{where}: Usage is {usage!r}, wanted one of {', '.join(USAGES)}"
    try:
        values = np.fromstring(pixels, sep=" ", dtype=np.int32)
    except ValueError:
        bad = next((word for word in pixels.split() if not word.lstrip("-").isdecimal()), pixels[:20])
        return f"{where}: a pixel is {bad!r}, wanted a number from 0 to 255"
    if len(values) != SIDE * SIDE:
        return f"{where}: {len(values)} pixels, wanted {SIDE * SIDE}"
    if values.min() < 0 or values.max() > 255:
        bad = values[(values < 0) | (values > 255)][0]
        return f"{where}: a pixel is {bad}, wanted 0 to 255"
    return values.astype(np.uint8).reshape(SIDE, SIDE), int(emotion), list(USAGES).index(usage), row


def join_votes(faces: Faces, path: Path) -> Faces:
    """FER+ votes, joined **by row**: `Image name` drifts by one after each blank row and four names are wrong.

    Raises DataError if the two files differ in length or in any row's Usage.
    """
    table = pd.read_csv(path)
    if faces.ids.max() >= len(table):
        raise DataError(f"{path}: {len(table)} rows, wanted at least {faces.ids.max() + 1}, one for each row of FER-2013")
    usage = table["Usage"].map(USAGES).to_numpy()[faces.ids]
    if (bad := np.flatnonzero(usage != faces.split)).size:
        row = bad[0]
        raise DataError(f"{path}, row {faces.ids[row]}: Usage means {usage[row]}, FER-2013 says {faces.split[row]}")
    return replace(faces, votes=table[list(FERPLUS_COLUMNS)].to_numpy()[faces.ids])


def read_folders(folder: Path, *, on_error: str = "raise") -> Faces:
    """Class folders `train/happy/*.jpg`, `test/...` (Kaggle re-uploads): Public and Private are merged, as `source` says."""
    from PIL import Image, UnidentifiedImageError

    files = [(s, path) for s in ("train", "test") for path in sorted((Path(folder) / s).glob("*/*")) if path.is_file()]
    rows, problems = [], []
    for number, (split, path) in enumerate(tqdm(files, desc="reading faces", unit="image", leave=False)):
        if path.parent.name not in FACE_CLASSES:
            problems.append(f"{path}: folder {path.parent.name!r}, wanted one of {', '.join(FACE_CLASSES)}")
            continue
        try:
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("L"))
        except (UnidentifiedImageError, OSError) as error:
            problems.append(f"{path}: cannot be read as a picture ({error})")
            continue
        if pixels.shape != (SIDE, SIDE):
            problems.append(f"{path}: {pixels.shape[1]}x{pixels.shape[0]} pixels, wanted {SIDE}x{SIDE}")
            continue
        rows.append((pixels, FACE_CLASSES.index(path.parent.name), split, number))
    items.refuse(problems, on_error)
    if not rows:
        raise MissingData(f"{folder}: no picture in train/<class>/ or test/<class>/, classes {', '.join(FACE_CLASSES)}")
    note = f" {len(problems)} unreadable files left out." if problems else ""
    return _merged(*zip(*rows, strict=True), source=f"FER-2013, class folders. {_MERGED}{note}")


def read_hub() -> Faces:
    """The webdataset copy on the Hub at a pinned revision: Public and Private are merged, as `source` says."""
    from datasets import load_dataset

    try:
        parts = load_dataset(HUB[0], revision=HUB[1])
    except Exception as error:
        raise MissingData(
            f"{HUB[0]} cannot be had from the Hub ({type(error).__name__}: {error}). With a network, try again; without "
            f"one, put fer2013.csv into {data_folder() / 'fer2013'}"
        ) from error
    split = np.repeat(["train", "test"], [len(parts["train"]), len(parts["test"])])
    numbers = np.array([*parts["train"]["cls"], *parts["test"]["cls"]])
    counts = np.bincount(numbers[split == "train"]).tolist()
    if sorted(counts) != sorted(_TRAINING_COUNTS):
        raise DataError(f"{HUB[0]}: Training has {counts} images a class, wanted {sorted(_TRAINING_COUNTS)} in any order")
    order = np.array([_TRAINING_COUNTS.index(count) for count in counts])
    pixels = [np.asarray(picture.convert("L")) for part in ("train", "test") for picture in parts[part]["jpg"]]
    return _merged(pixels, order[numbers], split, np.arange(len(split)), source=f"FER-2013, {HUB[0]}. {_MERGED}")


def _merged(pixels, labels, split, ids, *, source: str) -> Faces:
    split, ids = np.array(split).astype("U10"), np.array(ids)
    train = np.flatnonzero(split == "train")
    split[np.random.default_rng(0).permutation(train)[: len(train) // 10]] = "validation"
    votes = np.full((len(ids), 10), -1)
    return Faces(ids, np.array(labels), split, FACE_CLASSES, source, np.stack(pixels), votes)


def ferplus_labels(faces: Faces) -> np.ndarray:
    """(N,) int: the face class that more than half of the ten FER+ annotators chose, -1 where there is none."""
    to_class = [FACE_CLASSES.index(FERPLUS_TO_FACE[c]) if c in FERPLUS_TO_FACE else -1 for c in FERPLUS_COLUMNS]
    winner = faces.votes.argmax(1)
    majority = faces.votes[np.arange(len(faces)), winner] * 2 > faces.votes.sum(1)
    return np.where(majority & (faces.votes[:, 0] >= 0), np.array(to_class)[winner], -1)


def twins(faces: Faces) -> np.ndarray:
    """(N,) int: pixel-identical faces share a number."""
    return items.twin_groups(face.tobytes() for face in faces.pixels)


def constant(faces: Faces) -> np.ndarray:
    """(N,) bool: pictures of one single grey value."""
    flat = faces.pixels.reshape(len(faces), -1)
    return flat.min(1) == flat.max(1)


def clean(faces: Faces) -> Faces:
    """Training without exact twins of validation or test items and without constant images; the rest is untouched."""
    return faces.select(~(items.leaks(faces, twins(faces)) | (constant(faces) & (faces.split == "train"))))


def prepare(profile: Profile) -> Faces:
    """The faces that systems see: loaded, and cleaned unless the profile's switch says otherwise."""
    data = load(profile)
    return clean(data) if profile.data.clean_training else data


def near_twins(faces: Faces, *, coarse: float = 0.94, fine: float = 0.90, block: int = 2048) -> np.ndarray:
    """Pairs of different faces that look the same, mirrored or not: (P, 3) rows first < second, and 1 if only mirrored.

    Two faces count if their 16x16 block means correlate at `coarse` or more and all their pixels at `fine` or more: the
    same photograph after a change of light, contrast or compression, a water mark, a shift of a pixel. Of 48
    pairs of FER-2013 drawn just above these limits and looked at on a contact sheet, all seemed the same photograph;
    just below, two of 16 did not.
    One matrix product; constant faces have none.
    """
    unit = block_means(faces)
    mirrored = unit.reshape(-1, 16, 16)[:, :, ::-1].reshape(len(unit), -1)
    found = []
    for start in tqdm(range(0, len(faces), block), desc="near duplicates", unit="block", leave=False):
        for flip, other in ((0, unit), (1, mirrored)):
            first, second = np.nonzero(unit[start : start + block] @ other[start:].T >= coarse)
            keep = first < second
            found.append(np.stack([first[keep] + start, second[keep] + start, np.full(keep.sum(), flip)], 1))
    pairs = np.concatenate(found)
    # Sorted, a pair that matches both ways comes unmirrored first, and that one is kept.
    pairs = pairs[np.lexsort(pairs.T[::-1])]
    pairs = pairs[np.unique(pairs[:, :2], axis=0, return_index=True)[1]]
    group = twins(faces)
    pairs = pairs[group[pairs[:, 0]] != group[pairs[:, 1]]]
    whole = faces.pixels[pairs[:, 1]]
    whole = np.where(pairs[:, 2, None, None] == 1, whole[:, :, ::-1], whole)
    return pairs[(_unit(faces.pixels[pairs[:, 0]]) * _unit(whole)).sum(1) >= fine]


def block_means(faces: Faces) -> np.ndarray:
    """(N, 256) float32: the means of 16x16 blocks, each face centred and of length 1, so that products are correlations."""
    return _unit(faces.pixels.reshape(len(faces), 16, 3, 16, 3).mean((2, 4), dtype=np.float32))


def _unit(pictures: np.ndarray) -> np.ndarray:
    """Pictures as vectors of mean 0 and length 1; constant ones as zeros."""
    flat = pictures.reshape(len(pictures), -1).astype(np.float32)
    flat = flat - flat.mean(1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.divide(flat, length, out=np.zeros_like(flat), where=length > 1e-3)


DAMAGES = {"blur": (0, 1, 2, 4), "noise": (0, 20, 40, 80), "occlusion": (0, 0.33, 0.67, 1)}


def damage(faces: Faces, how: str, level: float, *, seed: int = 0) -> Faces:
    """Faces made worse: Gaussian blur (standard deviation in pixels), noise (in grey levels), or a grey square at a random
    place that covers a share of the side. Level 0 changes nothing. ValueError names the choices."""
    if how not in DAMAGES:
        raise ValueError(f"unknown damage {how!r}; choose from {', '.join(DAMAGES)}")
    rng, pixels = np.random.default_rng(seed), faces.pixels.astype(np.float64)
    if how == "blur":
        pixels = gaussian_filter(pixels, (0, level, level))
    elif how == "noise":
        pixels = pixels + level * rng.normal(0, 1, pixels.shape)
    else:
        side = round(level * SIDE)
        for picture, (top, left) in zip(pixels, rng.integers(0, SIDE - side + 1, (len(pixels), 2)), strict=True):
            picture[top : top + side, left : left + side] = 128
    return replace(faces, pixels=np.clip(pixels.round(), 0, 255).astype(np.uint8))


def audit(faces: Faces) -> tuple[dict, dict]:
    """What a reader must know before trusting a score: counts and arrays for a record; no single picture among them."""
    group, near = twins(faces), near_twins(faces)
    linked = items.link(group, near[:, :2])
    train, held_out = faces.split == "train", items.held_out_rows(faces)
    voted = bool((faces.votes >= 0).all())
    winner, blank = faces.votes.argmax(1), constant(faces)
    no_face = faces.votes[:, -1] == 10
    matrix = np.zeros((len(FACE_CLASSES), len(FERPLUS_COLUMNS)), int)
    np.add.at(matrix, (faces.labels, winner), 1)
    same = np.array([FERPLUS_TO_FACE.get(c) for c in FERPLUS_COLUMNS])[winner] == np.array(FACE_CLASSES)[faces.labels]
    # 2: an exact twin in an earlier split, 1: only a near one, 0: none. Training comes before validation before test.
    before = {"validation": train, "test": train | (faces.split == "validation")}
    twin = np.zeros(len(faces), np.int8)
    for split, earlier in before.items():
        inside = faces.split == split
        twin[inside & np.isin(linked, linked[earlier])] = 1
        twin[inside & np.isin(group, group[earlier])] = 2
    notes = {
        "counts": faces.counts().tolist(),
        "twins": items.shared_between(faces, group),
        "near_twins": items.pairs_between(faces, near[:, :2]),
        "exposed": [int((twin[faces.split == s] > 0).sum()) for s in SPLITS],
        "mirrored_near_twins": int(near[:, 2].sum()),
        "constant": [int((blank & (faces.split == s)).sum()) for s in SPLITS],
        "not_a_face": [int((no_face & (faces.split == s)).sum()) for s in SPLITS] if voted else None,
        "agreement": [float(same[faces.split == s].mean()) for s in SPLITS] if voted else None,
        "agreement_all": float(same.mean()) if voted else None,
        "agreement_matrix": matrix.tolist() if voted else None,
        "dropped_by_cleaning": int((items.leaks(faces, group) | (blank & train)).sum()),
    }
    means = np.stack([faces.pixels[train & (faces.labels == k)].mean(0) for k in range(len(FACE_CLASSES))])
    arrays = {"ids": faces.ids[held_out], "group": linked[held_out], "twin": twin[held_out],
              "ferplus": ferplus_labels(faces)[held_out], "mean_faces": means.astype(np.float32)}  # fmt: skip
    return notes, arrays


def test_variants(predictions: Predictions, audit: Facts) -> dict[str, Predictions]:
    """The test items of a face system, raw and stricter: without exact twins, without near twins, with FER+ labels.

    audit: the record faces/audit. Raises ValueError if it speaks of other items than the predictions.
    """
    if not np.array_equal(predictions.ids, audit.arrays["ids"]):
        raise ValueError("faces/audit and the predictions hold different items; record both anew from the same data")
    test, twin, relabelled = predictions.split == "test", audit.arrays["twin"], audit.arrays["ferplus"].astype(int)
    found = {
        "raw": predictions.rows(test),
        "de-duplicated": predictions.rows(test & (twin < 2)),
        "no near twin": predictions.rows(test & (twin == 0)),
    }
    if (relabelled >= 0).any():
        keep = test & (relabelled >= 0)
        found["FER+ relabelled"] = replace(predictions.rows(keep), labels=relabelled[keep])
    return found
