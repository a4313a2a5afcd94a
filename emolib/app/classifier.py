"""A classifier of pictures, texts, or both, for any classes: a dual encoder, a head per modality, fused by their product."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emolib import store
from emolib.data.labels import FACE_TO_SHARED, TEXT_TO_SHARED
from emolib.data.pictures import open_picture
from emolib.models import fusion
from emolib.models.fusion import Calibration
from emolib.profiles import Clip

FILES = ("emolib.json", "heads.safetensors", "config.json")
_TRANSLATED = FACE_TO_SHARED | TEXT_TO_SHARED


@dataclass(frozen=True)
class Emotion:
    """One answer; probabilities by class.

    posterior: in the fused classes where picture and text are there, else in the classes of the one that is; label: its
    likeliest. image, text: what each says alone, in its own classes; None where missing. conflict: probability that the two
    mean different classes, None where one is missing. outside: what each gives to classes that the fused ones leave out.
    """

    label: str
    posterior: dict[str, float]
    image: dict[str, float] | None
    text: dict[str, float] | None
    conflict: float | None
    outside: dict[str, float]


@dataclass(frozen=True)
class Posteriors:
    """N answers as arrays; rows of NaN where something is missing.

    own: {modality: (N, K_m)} in its own classes. experts: {modality: (N, K)} calibrated, in the fused classes; outside:
    {modality: (N,)} what these leave out. fused: (N, K), the experts' product. conflict: (N,). One modality has `own` only.
    """

    own: dict[str, np.ndarray]
    outside: dict[str, np.ndarray]
    experts: dict[str, np.ndarray]
    fused: np.ndarray | None
    conflict: np.ndarray | None


class EmotionClassifier:
    """An encoder with a head per modality; two modalities are fused by the product of their calibrated posteriors.

    heads: {"image": Head, "text": Head} or one of them; own: {modality: its classes}. classes: the K fused ones, which both
    have (by name, or as `data.labels` translates the study's own). calibrations: {modality: Calibration}, none where
    missing. prior: (K,) class shares, None for equal ones. conflict_rate: the share of pairs that are supposed to conflict.
    Raises ValueError for a class that a modality lacks, and for a head of another size.
    """

    def __init__(self, encoder, heads: dict, own: dict[str, tuple[str, ...]], *, classes: tuple[str, ...] = (),
                 calibrations: dict[str, Calibration] | None = None, prior: np.ndarray | None = None,
                 conflict_rate: float = 0.1):  # fmt: skip
        self.encoder, self.heads, self.conflict_rate = encoder, heads, conflict_rate
        self.own, self.classes = {m: tuple(own[m]) for m in heads}, tuple(classes)
        if wrong := [m for m, head in heads.items() if len(head.weight) != len(self.own[m])]:
            rows = len(heads[wrong[0]].weight)
            raise ValueError(f"the {wrong[0]} head has {rows} rows for {len(self.own[wrong[0]])} classes, wanted as many")
        if (len(heads) == 2) != bool(classes):
            raise ValueError(f"{len(heads)} heads and {len(classes)} fused classes; two heads, and only two, want such classes")
        self.places = {m: [place(name, self.own[m]) for name in classes] for m in heads}
        self.calibrations = {m: (calibrations or {}).get(m, Calibration(1.0, np.zeros(len(classes)))) for m in heads}
        self.prior = np.full(len(classes), 1 / max(len(classes), 1)) if prior is None else prior

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, precision: str = "float32") -> EmotionClassifier:
        """A classifier from a folder that `save_pretrained` wrote; "auto" computes in 16 bits where the machine is fast in them.

        Raises MissingModel naming the file that is not there.
        """
        from emolib.models import encoder
        from emolib.models.heads import Head

        folder = Path(folder)
        if missing := [name for name in FILES if not (folder / name).is_file()]:
            raise encoder.MissingModel(
                f"{folder / missing[0]} is not there; wanted a folder that notebook 5 exports: "
                "python -m emolib run --profile PROFILE, then runs/PROFILE/export/emotion-fusion"
            )
        settings = json.loads((folder / "emolib.json").read_text(encoding="utf8"))
        arrays, temperatures = store.read_arrays(folder / "heads.safetensors"), settings["temperatures"]
        source = Clip(str(folder.resolve()), image_size=settings["image_size"], elsewhere=False)
        heads = {m: Head(arrays[f"{m}.weight"], arrays[f"{m}.bias"]) for m in temperatures}
        calibrations = {m: Calibration(t, arrays[f"{m}.correction"]) for m, t in temperatures.items()}
        fused = {"classes": settings["classes"], "calibrations": calibrations, "prior": arrays["prior"]}
        loaded = encoder.load(source, precision)
        return cls(loaded, heads, settings["own_classes"], **fused, conflict_rate=settings["conflict_rate"])

    def save_pretrained(self, folder: str | Path, card: str) -> None:
        """Write encoder, heads, calibrations and model card; the encoder's files are those of `transformers`."""
        folder = Path(folder)
        for part in (self.encoder.model, self.encoder.tokenizer, self.encoder.processor):
            part.save_pretrained(folder)
        store.write_arrays(folder / "heads.safetensors", self.arrays)
        store.write_text(folder / "emolib.json", json.dumps(self.settings, indent=1) + "\n")
        store.write_text(folder / "README.md", card)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Heads, calibrations' biases and prior, as `heads.safetensors` holds them."""
        heads = {f"{m}.{part}": getattr(head, part) for m, head in self.heads.items() for part in ("weight", "bias")}
        return {"prior": self.prior} | heads | {f"{m}.correction": c.bias for m, c in self.calibrations.items()}

    @property
    def settings(self) -> dict:
        """All else, as `emolib.json` holds it."""
        return {
            "image_size": self.encoder.size, "own_classes": self.own, "classes": self.classes,
            "temperatures": {m: c.temperature for m, c in self.calibrations.items()}, "conflict_rate": self.conflict_rate,
        }  # fmt: skip

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that an answer depends on."""
        parts = [self.encoder.fingerprint, json.dumps(self.settings, sort_keys=True)]
        parts += [f"{name} {hashlib.sha256(array.tobytes()).hexdigest()}" for name, array in sorted(self.arrays.items())]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def __call__(self, text=None, image=None) -> Emotion | list[Emotion]:
        """What a text and an image say; either may be missing (None). Lists give a list, None in them is a missing one.

        image: a path, encoded bytes, a PIL picture or an array. Raises ValueError where both are missing, where the lists
        differ in length or the classifier has no head for one; DataError where a picture or a text cannot be read.
        """
        many = isinstance(text, (list, tuple)) or isinstance(image, (list, tuple))
        texts, images = (x if isinstance(x, (list, tuple)) else None if x is None and many else [x] for x in (text, image))
        n = len(images if texts is None else texts)
        texts, images = ([None] * n if x is None else list(x) for x in (texts, images))
        if len(texts) != len(images):
            raise ValueError(f"found {len(texts)} texts and {len(images)} images, wanted as many of both")
        if alone := [i for i, pair in enumerate(zip(texts, images, strict=True)) if all(item is None for item in pair)]:
            raise ValueError(f"item {alone[0]} has neither a text nor an image, wanted at least one of them")
        paths = [Path(p) if isinstance(p, str) else p for p in images]
        opened = [p if p is None else open_picture(p, f"image {i}") for i, p in enumerate(paths)]
        answers = self.posteriors(texts, opened)
        found = [self._emotion(answers, row) for row in range(n)]
        return found if many else found[0]

    def posteriors(self, texts: Sequence, images: Sequence) -> Posteriors:
        """What N texts and N images say; None for a missing one. ValueError for a modality without a head."""
        items = {"image": images, "text": texts}
        if extra := [m for m in items if m not in self.heads and any(item is not None for item in items[m])]:
            raise ValueError(f"this classifier has no head for {extra[0]}s, only for {', '.join(self.heads)}s; leave them out")
        own = {m: self._own(m, items[m]) for m in self.heads}
        if not self.classes:
            return Posteriors(own, {}, {}, None, None)
        inside = {m: np.clip(probs[:, self.places[m]], fusion.FLOOR, None) for m, probs in own.items()}
        experts = {m: self.calibrations[m](probs / probs.sum(1, keepdims=True)) for m, probs in inside.items()}
        both = experts["image"], experts["text"], self.prior
        outside = {m: 1 - probs.sum(1) for m, probs in inside.items()}
        return Posteriors(own, outside, experts, fusion.product(*both), fusion.conflict(*both, rate=self.conflict_rate))

    def _own(self, modality: str, items: Sequence) -> np.ndarray:
        """(N, K_m) posteriors of one modality in its own classes, NaN where an item is None."""
        probs = np.full((len(items), len(self.own[modality])), np.nan)
        rows = [row for row, item in enumerate(items) if item is not None]
        encode = self.encoder.encode_images if modality == "image" else self.encoder.encode_texts
        if rows:
            probs[rows] = self.heads[modality].posterior(encode([items[row] for row in rows], cache=False))
        return probs

    def _emotion(self, answers: Posteriors, row: int) -> Emotion:
        alone = {m: named(self.own[m], probs[row]) for m, probs in answers.own.items()}
        there = [m for m, probs in alone.items() if probs]
        posterior = named(self.classes, answers.fused[row]) if len(there) == 2 else alone[there[0]]
        outside = {m: float(answers.outside[m][row]) for m in there if self.classes}
        conflict = float(answers.conflict[row]) if len(there) == 2 else None
        return Emotion(max(posterior, key=posterior.get), posterior, alone.get("image"), alone.get("text"), conflict, outside)


def place(name: str, own: Sequence[str]) -> int:
    """Where a fused class stands among a modality's own; ValueError where it does not."""
    found = [i for i, c in enumerate(own) if name in (c, _TRANSLATED.get(c))]
    if len(found) != 1:
        raise ValueError(f"{len(found)} of the classes {', '.join(own):.200} stand for the fused class {name}, wanted one")
    return found[0]


def named(classes: Sequence[str], probs: np.ndarray) -> dict[str, float] | None:
    """{class: probability}; None for a row of NaN."""
    return None if np.isnan(probs).any() else dict(zip(classes, probs.tolist(), strict=True))
