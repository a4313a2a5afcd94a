"""The study's fused classifier for one's own pictures and texts: one call, or a table of any length."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from emolib import clip, faces, fusion, pairs, store, texts
from emolib.clip import PARTS, Encoder
from emolib.fusion import Calibration, Experts
from emolib.heads import Head
from emolib.items import DataError, held_out_rows
from emolib.labels import FACE_CLASSES, SHARED_CLASSES, TEXT_CLASSES
from emolib.profiles import Clip, Profile, out_folder
from emolib.records import Facts, facts
from emolib.tuning import Tuned, path_of

OWN = {"image": FACE_CLASSES, "text": TEXT_CLASSES}
CHUNK = 512  # rows of a table between two saves


@dataclass(frozen=True)
class Emotion:
    """What a picture and a text say together. Probabilities are of the five shared classes.

    image, text: each cue's own, None where it is missing. conflict: probability that the two speak of different emotions,
    had half of all pairs done so; None where a cue is missing. outside: for each cue the probability of its classes that
    the other does not have (disgust and neutral of faces, love of texts), which the five leave out.
    """

    label: str
    posterior: dict[str, float]
    image: dict[str, float] | None
    text: dict[str, float] | None
    conflict: float | None
    outside: dict[str, float]


class EmotionClassifier:
    """An encoder with a head and a calibration a cue; fused by the product of experts.

    heads, calibrations: {"image": ..., "text": ...}. prior: (5,) class shares that fusion starts from.
    """

    def __init__(self, encoder: Encoder, heads: dict[str, Head], calibrations: dict[str, Calibration], prior: np.ndarray):
        self.encoder, self.heads, self.calibrations, self.prior = encoder, heads, calibrations, prior

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, precision: str = "float32") -> EmotionClassifier:
        """A classifier from a folder that `save_pretrained` wrote; precision as in a profile, "bfloat16" for speed on a GPU.

        Raises MissingModel naming the file that is not there.
        """
        folder = Path(folder)
        for name in ("emolib.json", "heads.safetensors", "config.json"):
            if not (folder / name).is_file():
                raise clip.MissingModel(
                    f"{folder / name} is not there; wanted a folder that notebook 5 exports: "
                    "python -m emolib run --profile PROFILE, then runs/PROFILE/export/emotion-fusion"
                )
        settings = json.loads((folder / "emolib.json").read_text(encoding="utf8"))
        source = Clip(str(folder.resolve()), "An exported classifier.", None, settings["image_size"])
        encoder = clip.load(Profile("classifier", "An exported classifier.", precision=precision, clip=source), anywhere=False)
        arrays = store.read_arrays(folder / "heads.safetensors")
        heads = {cue: Head(arrays[f"{cue}.weight"], arrays[f"{cue}.bias"]) for cue in OWN}
        prior = arrays["prior"]
        calibrations = {cue: Calibration(settings["temperatures"][cue], arrays[f"{cue}.correction"]) for cue in OWN}
        return cls(encoder, heads, calibrations, prior)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Heads, calibrations' biases and prior, as `heads.safetensors` holds them."""
        found = {"prior": self.prior}
        for cue in OWN:
            found |= {f"{cue}.weight": self.heads[cue].weight, f"{cue}.bias": self.heads[cue].bias}
            found[f"{cue}.correction"] = self.calibrations[cue].bias
        return found

    @property
    def temperatures(self) -> dict[str, float]:
        """Each cue's."""
        return {cue: calibration.temperature for cue, calibration in self.calibrations.items()}

    @property
    def fingerprint(self) -> str:
        """Of all that an answer depends on."""
        parts = [self.encoder.fingerprint, str(self.encoder.size), json.dumps(self.temperatures, sort_keys=True)]
        parts += [f"{name} {hashlib.sha256(array.tobytes()).hexdigest()}" for name, array in sorted(self.arrays.items())]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def save_pretrained(self, folder: str | Path, card: str) -> None:
        """Write encoder, heads, calibration and model card; the encoder's files are those of `transformers`."""
        folder = Path(folder)
        for part in (self.encoder.model, self.encoder.tokenizer, self.encoder.processor):
            part.save_pretrained(folder)
        store.write_arrays(folder / "heads.safetensors", self.arrays)
        settings = {
            "image_size": self.encoder.size, "temperatures": self.temperatures,
            "classes": {"shared": SHARED_CLASSES} | OWN, "fusion": "product of calibrated experts",
        }  # fmt: skip
        store.write_text(folder / "emolib.json", json.dumps(settings, indent=1) + "\n")
        store.write_text(folder / "README.md", card)

    def __call__(self, text=None, image=None) -> Emotion | list[Emotion]:
        """What a text and an image say; either may be missing (None). Lists give a list, None in them is a missing cue.

        image: a path, encoded bytes, a PIL picture or an array. Raises ValueError where both cues are missing or the lists
        differ in length, DataError where a picture cannot be read or a text is empty.
        """
        many = isinstance(text, (list, tuple)) or isinstance(image, (list, tuple))
        texts, images = (x if isinstance(x, (list, tuple)) else None if x is None and many else [x] for x in (text, image))
        n = len(texts if texts is not None else images)
        texts, images = ([None] * n if x is None else list(x) for x in (texts, images))
        if len(texts) != len(images):
            raise ValueError(f"found {len(texts)} texts and {len(images)} images, wanted as many of both")
        if alone := [i for i, (t, p) in enumerate(zip(texts, images, strict=True)) if t is None and p is None]:
            raise ValueError(f"item {alone[0]} has neither a text nor an image, wanted at least one of them")
        opened = [
            p if p is None else clip.open_picture(Path(p) if isinstance(p, str) else p, f"image {i}")
            for i, p in enumerate(images)
        ]
        found = [self._emotion(*row) for row in zip(*self.posteriors(texts, opened), strict=True)]
        return found if many else found[0]

    def posteriors(self, texts: Sequence, images: Sequence) -> tuple[np.ndarray, ...]:
        """(N, 5) posteriors of both cues together, of the image and of the text, (N,) conflict, (N, 2) outside; NaN: missing."""
        cues = {"image": images, "text": texts}
        found, outside = {}, np.full((len(texts), 2), np.nan)
        for i, (cue, items) in enumerate(cues.items()):
            found[cue] = np.full((len(items), len(SHARED_CLASSES)), np.nan)
            rows = [row for row, item in enumerate(items) if item is not None]
            if not rows:
                continue
            encode = self.encoder.encode_images if cue == "image" else self.encoder.encode_texts
            probs = self.heads[cue].posterior(encode([items[row] for row in rows], cache=False))
            shared = fusion.in_shared(probs, OWN[cue])
            outside[rows, i] = 1 - shared.sum(1)
            found[cue][rows] = self.calibrations[cue](shared / shared.sum(1, keepdims=True))
        face, text = found["image"], found["text"]
        both = fusion.fuse(lambda f, t: fusion.product(f, t, self.prior), face, text, self.prior)
        return both, face, text, fusion.conflict(face, text, self.prior), outside

    def _emotion(self, both, face, text, conflict, outside) -> Emotion:
        def named(probs):
            return None if np.isnan(probs).any() else dict(zip(SHARED_CLASSES, probs.tolist(), strict=True))

        beyond = {cue: float(share) for cue, share in zip(OWN, outside, strict=True) if not np.isnan(share)}
        score = None if np.isnan(conflict) else float(conflict)
        return Emotion(SHARED_CLASSES[int(both.argmax())], named(both), named(face), named(text), score, beyond)


def joined(encoder: Encoder, image: dict, text: dict) -> Encoder:
    """One encoder with the image tower of some weights and the text tower of others; both started from `encoder`."""
    weights = encoder.weights | {k: v for k, v in image.items() if k.startswith(PARTS["image"])}
    return encoder.with_weights(weights | {k: v for k, v in text.items() if k.startswith(PARTS["text"])})


def fused(name: str, experts: Experts, profile: Profile) -> EmotionClassifier:
    """The classifier of a fine-tuned image tower (the step `name`) and the fine-tuned text tower, calibrated as `experts`."""
    image, text = (Tuned.load(path_of(profile, step, 0)) for step in (name, "texts/clip-tuned"))
    whole = joined(clip.load(profile), image.weights, text.weights)
    calibrations = dict(zip(OWN, experts.calibrations, strict=True))
    return EmotionClassifier(whole, {"image": image.head, "text": text.head}, calibrations, experts.prior)


def abroad(classifier: EmotionClassifier, data: pairs.Genuine) -> Facts:
    """What a classifier says about the held-out genuine pairs, which it has never seen the like of.

    arrays: "ids", "labels" (N,) in the pairs' own classes (notes), "split" (N,) 0 validation, 1 test, and each cue's posterior
    of the shared classes, "face" and "text" (N, 5).
    """
    part = data.select(held_out_rows(data))
    _, face, text, *_ = classifier.posteriors(part.texts.tolist(), list(part.pictures))
    arrays = {
        "ids": part.ids.astype(np.int32), "labels": part.labels.astype(np.int8), "split": (part.split == "test").astype(np.int8),
        "face": face.astype(np.float32), "text": text.astype(np.float32),
    }  # fmt: skip
    return facts(data, {"classes": list(data.classes)}, arrays)


def export(name: str, experts: Experts, card: str, profile: Profile) -> Facts:
    """Write the fused classifier (see `fused`) to <output folder>/export/emotion-fusion.

    notes: its files, and how far what is loaded from it lies from `experts` on 200 held-out pairs. Raises ValueError if that
    is more than 1e-4.
    """
    folder = out_folder(profile) / "export" / "emotion-fusion"
    fused(name, experts, profile).save_pretrained(folder, card)
    data = pairs.match(faces.prepare(profile), texts.prepare(profile))
    some = data.select(held_out_rows(data)[:200])
    again = EmotionClassifier.from_pretrained(folder, precision=profile.precision)
    probs = again.posteriors(some.texts.texts.tolist(), list(some.faces.pixels))[0]
    worst = float(np.abs(probs - experts.fused(experts.rules["product"]).posterior[:200]).max())
    if worst > 1e-4:
        raise ValueError(f"{folder}: its posteriors lie {worst:.1g} from the recorded experts', wanted at most 0.0001")
    return facts(data, {"files": sorted(p.name for p in folder.iterdir()), "largest_difference": worst})


ADDED = ("emotion", *(f"p_{c}" for c in SHARED_CLASSES), "image_emotion", "text_emotion", "conflict", "problem")


def predict(
    classifier: EmotionClassifier, table: Path, out: Path, *, image_column: str | None = None, text_column: str | None = None,
    delimiter: str = ",",
) -> Counter:  # fmt: skip
    """Classify each row of a csv file; `out` is the table with `ADDED` columns, every row with a result or a problem.

    Read and written in pieces: memory does not grow with the table; a run that is killed goes on where it was and ends with
    the same file. Paths are relative to the table's folder. A cue that cannot be read is named in the column `problem`, and
    the other one alone is used. Returns how many rows had which outcome. Raises DataError for a missing column.
    """
    if out.exists():
        raise DataError(f"{out} is there already; remove it, or name another file with --out")
    part, note = out.with_name(f"{out.name}.part"), out.with_name(f"{out.name}.progress")
    with table.open("rb") as raw:
        counted = _Lines(raw)
        rows = csv.reader(counted, delimiter=delimiter)
        head = next(rows, None) or []
        for column in filter(None, (image_column, text_column)):
            if column not in head:
                raise DataError(f"{table} has no column {column!r}; its columns are {', '.join(head) or 'none'}")
        if clash := [c for c in ADDED if c in head]:
            raise DataError(f"{table} has a column {clash[0]!r} already, under which a result would be written; rename it")
        where = {"image": image_column and head.index(image_column), "text": text_column and head.index(text_column)}
        stat = table.stat()
        made = [str(table.resolve()), stat.st_size, stat.st_mtime_ns, image_column, text_column, delimiter]
        key = hashlib.sha256(json.dumps([*made, classifier.fingerprint]).encode()).hexdigest()
        done = _resume(part, note, key)
        bar = tqdm(total=stat.st_size, desc=table.name, unit="B", unit_scale=True, mininterval=1)
        with part.open("r+b" if done["rows"] else "wb") as file:
            file.truncate(done["bytes"])
            file.seek(done["bytes"])
            if not done["rows"]:
                file.write(_line([*head, *ADDED], delimiter))
            for _ in islice(rows, done["rows"]):
                pass
            while chunk := list(islice(rows, CHUNK)):
                for cells, added in zip(*_classify(classifier, chunk, len(head), where, table.parent, delimiter), strict=True):
                    done["outcomes"][_outcome(added)] = done["outcomes"].get(_outcome(added), 0) + 1
                    file.write(_line([*cells, *added], delimiter))
                file.flush()
                os.fsync(file.fileno())
                done["rows"], done["bytes"] = done["rows"] + len(chunk), file.tell()
                store.write_text(note, json.dumps(done))
                bar.update(counted.read - bar.n)
        bar.close()
    part.replace(out)
    note.unlink(missing_ok=True)
    return Counter(done["outcomes"])


class _Lines:
    """Lines of a binary file as text, counted in bytes; what is not UTF-8 stays visible as surrogates."""

    def __init__(self, raw):
        self.raw, self.read = raw, 0
        csv.field_size_limit(sys.maxsize)

    def __iter__(self) -> Iterator[str]:
        for number, line in enumerate(self.raw):
            self.read += len(line)
            yield line.removeprefix(b"\xef\xbb\xbf" if number == 0 else b"").decode("utf8", "surrogateescape")


class _Buffer(list):
    """What csv.writer writes to."""

    write = list.append


def _line(cells: Sequence[str], delimiter: str) -> bytes:
    buffer = _Buffer()
    csv.writer(buffer, delimiter=delimiter, lineterminator="\n").writerow(cells)
    return "".join(buffer).encode("utf8", "surrogateescape")


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


def _classify(classifier, chunk: list[list[str]], width: int, where: dict, folder: Path, delimiter: str) -> tuple[list, list]:
    """The rows' cells, brought to the header's width, and the cells that are added to each."""
    cells, texts, images, problems = [], [], [], []
    for row in chunk:
        said = [f"the row has {len(row)} cells, wanted {width}"] if len(row) != width else []
        # Nothing is lost: too many cells are joined in the last, too few are filled up.
        row = [*row[: width - 1], delimiter.join(row[width - 1 :])] if len(row) > width else row + [""] * (width - len(row))
        cells.append(row)
        texts.append(_text(row[where["text"]], said) if where["text"] is not None else None)
        images.append(_image(row[where["image"]], folder, said) if where["image"] is not None else None)
        problems.append(said)
    found = classifier.posteriors(texts, images)
    added = []
    for i, said in enumerate(problems):
        both, face, text, conflict, _ = (column[i] for column in found)
        nothing = texts[i] is None and images[i] is None
        if nothing:
            said.append("neither a picture nor a text")
        names = ["" if nothing or np.isnan(p).any() else SHARED_CLASSES[int(p.argmax())] for p in (both, face, text)]
        probs = ["" if nothing else f"{p:.6f}" for p in both]
        added.append([names[0], *probs, *names[1:], "" if np.isnan(conflict) else f"{conflict:.6f}", "; ".join(said)])
    return cells, added


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
        return clip.open_picture(path, "the picture")
    except (DataError, ValueError, OSError) as error:
        said.append(" ".join(str(error).split()))
        return None


def _outcome(added: list[str]) -> str:
    emotion, image, text, problem = added[0], added[-4], added[-3], added[-1]
    cues = "both cues" if image and text else "image only" if image else "text only" if text else "no result"
    return f"{cues}, with a problem" if problem and emotion else cues
