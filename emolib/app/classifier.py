"""A classifier of pictures, texts, or both, for any classes: a dual encoder, a head per modality, fused by their product."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from emolib import store
from emolib.data.dataset import DataError
from emolib.data.labels import TO_SHARED
from emolib.data.pictures import open_picture
from emolib.models import fusion
from emolib.models.fusion import Calibration
from emolib.profiles import Clip

SETTINGS, CARD = "emolib.json", "README.md"


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
    crop: cuts from each picture what is to be judged, say the face: a function from an RGB PIL picture to one, or to None where
    there is nothing. Raises ValueError for a class that a modality lacks, and for a head of another size.
    """

    def __init__(self, encoder, heads: dict, own: dict[str, tuple[str, ...]], *, classes: tuple[str, ...] = (),
                 calibrations: dict[str, Calibration] | None = None, prior: np.ndarray | None = None,
                 conflict_rate: float = 0.1, crop: Callable | None = None):  # fmt: skip
        self.encoder, self.heads, self.conflict_rate, self.crop = encoder, heads, conflict_rate, crop
        if not 0 <= conflict_rate <= 1:
            raise ValueError(f"conflict_rate is {conflict_rate}, wanted a share from 0 to 1")
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
    def from_pretrained(cls, folder: str | Path, *, precision: str = "float32", **options) -> EmotionClassifier:
        """A classifier from a folder that `save_pretrained` wrote; "auto" computes in 16 bits where the machine is fast in them.

        options: `crop`, or another `conflict_rate` than was saved. Raises MissingModel naming the file that is not there.
        """
        from emolib.models import encoder
        from emolib.models.heads import Head

        folder = Path(folder)
        settings = read_settings(folder)
        arrays, temperatures = store.read_arrays(folder / "heads.safetensors"), settings["temperatures"]
        source = Clip(str(folder.resolve()), image_size=settings["image_size"], elsewhere=False)
        heads = {m: Head(arrays[f"{m}.weight"], arrays[f"{m}.bias"]) for m in temperatures}
        calibrations = {m: Calibration(t, arrays[f"{m}.correction"]) for m, t in temperatures.items()}
        fused = {"classes": settings["classes"], "calibrations": calibrations, "prior": arrays["prior"]}
        loaded = encoder.load(source, precision)
        return cls(loaded, heads, settings["own_classes"], **fused, **{"conflict_rate": settings["conflict_rate"]} | options)

    def save_pretrained(self, folder: str | Path, card: str) -> None:
        """Write encoder, heads, calibrations and model card; the encoder's files are those of `transformers`."""
        folder = Path(folder)
        for part in (self.encoder.model, self.encoder.tokenizer, self.encoder.processor):
            part.save_pretrained(folder)
        store.write_arrays(folder / "heads.safetensors", self.arrays)
        files = sorted(path for path in folder.iterdir() if path.is_file() and path.name not in (SETTINGS, CARD))
        for path in files:
            store.open_to_all(path)  # safetensors leaves its files to their owner alone
        settings = self.settings | {"files": {path.name: store.file_digest(path) for path in files}}
        store.write_text(folder / SETTINGS, json.dumps(settings, indent=1) + "\n")
        store.write_text(folder / CARD, card)

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
        parts = [self.encoder.fingerprint, json.dumps(self.settings, sort_keys=True), store.digest(self.arrays)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def __call__(self, text=None, image=None) -> Emotion | list[Emotion]:
        """What a text and an image say; either may be missing (None). Several give a list, None in them is a missing one.

        text: a str; image: whatever `open_picture` takes. Several are a list, a tuple, a pandas Series or an array of objects.
        Raises ValueError where both are missing, where they differ in number or the classifier has no head for one; DataError
        where a picture or a text cannot be read.
        """
        texts, images = several(text), several(image)
        many = texts is not None or images is not None
        n = len(texts if texts is not None else images) if many else 1
        texts, images = ([x] * n if found is None else found for x, found in ((text, texts), (image, images)))
        if len(texts) != len(images):
            raise ValueError(f"found {len(texts)} texts and {len(images)} images, wanted as many of both")
        if alone := [i for i, pair in enumerate(zip(texts, images, strict=True)) if all(item is None for item in pair)]:
            raise ValueError(f"item {alone[0]} has neither a text nor an image, wanted at least one of them")
        answers = self.posteriors(texts, [p if p is None else self.prepare(p, f"image {i}") for i, p in enumerate(images)])
        found = [self._emotion(answers, row) for row in range(n)]
        return found if many else found[0]

    def prepare(self, picture, name: str):
        """(3, S, S) uint8: any picture, cropped, at the encoder's size. DataError with its name where it cannot be read."""
        opened = open_picture(picture, name, side=None if self.crop else self.encoder.size)
        if self.crop:
            try:
                opened = self.crop(opened)
            except MemoryError:
                raise
            except Exception as error:  # as with a decoder: it is this picture's problem
                raise DataError(f"{name}: the crop failed: {type(error).__name__}: {str(error)[:200]}") from error
        if opened is None or not all(opened.size):
            raise DataError(f"{name}: the crop found nothing in it")
        return self.encoder.open([opened])[0]

    def posteriors(self, texts: Sequence, images: Sequence) -> Posteriors:
        """What N texts and N images say; None for a missing one. ValueError for a modality without a head.

        images: as `prepare` gives them, or whatever else it takes but for tensors.
        """
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
        if rows:
            probs[rows] = self.heads[modality].posterior(self._encode(modality, items, rows))
        return probs

    def _encode(self, modality: str, items: Sequence, rows: list[int]) -> np.ndarray:
        import torch

        if modality == "text":
            return self.encoder.encode_texts([items[row] for row in rows], cache=False)
        prepared = [x if isinstance(x := items[row], torch.Tensor) else self.prepare(x, f"image {row}") for row in rows]
        return self.encoder.encode_images(torch.stack(prepared), cache=False)

    def _emotion(self, answers: Posteriors, row: int) -> Emotion:
        alone = {m: named(self.own[m], probs[row]) for m, probs in answers.own.items()}
        there = [m for m, probs in alone.items() if probs]
        posterior = named(self.classes, answers.fused[row]) if len(there) == 2 else alone[there[0]]
        outside = {m: float(answers.outside[m][row]) for m in there if self.classes}
        conflict = float(answers.conflict[row]) if len(there) == 2 else None
        return Emotion(max(posterior, key=posterior.get), posterior, alone.get("image"), alone.get("text"), conflict, outside)


def read_settings(folder: Path) -> dict:
    """emolib.json of an export, whose files are all there and as they were written; MissingModel names the one that is not."""
    from emolib.models.encoder import MissingModel

    made = "python -m emolib run --profile PROFILE, then runs/PROFILE/export/emotion-fusion"
    wanted = f"wanted a folder that notebook 4, 5 or 6 exports: {made}"
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf8"))
        kept = settings["files"].items()
        _ = settings["temperatures"], settings["own_classes"], settings["classes"], settings["conflict_rate"]
    except FileNotFoundError as error:
        raise MissingModel(f"{folder / SETTINGS} is not there; {wanted}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MissingModel(f"{folder / SETTINGS} is damaged or of an older edition ({error}); {wanted}") from error
    for name, written in kept:
        if not (folder / name).is_file():
            raise MissingModel(f"{folder / name} is not there; {wanted}")
        if store.file_digest(folder / name) != written:
            raise MissingModel(f"{folder / name} is not the file that was written with {SETTINGS}: cut or changed; {wanted}")
    return settings


def several(items) -> list | None:
    """The items of a list, a tuple, a Series or an array of objects or texts, NaN and NA as None; None for what is one item."""
    array = isinstance(items, np.ndarray) and items.dtype.kind in "OU" and items.ndim == 1
    if not array and not isinstance(items, (list, tuple, pd.Series)):
        return None
    return [None if item is pd.NA or (isinstance(item, float) and np.isnan(item)) else item for item in items]


def place(name: str, own: Sequence[str]) -> int:
    """Where a fused class stands among a modality's own; ValueError where it does not."""
    found = [i for i, c in enumerate(own) if name in (c, TO_SHARED.get(c))]
    if len(found) != 1:
        raise ValueError(f"{len(found)} of the classes {', '.join(own):.200} stand for the fused class {name}, wanted one")
    return found[0]


def named(classes: Sequence[str], probs: np.ndarray) -> dict[str, float] | None:
    """{class: probability}; None for a row of NaN."""
    return None if np.isnan(probs).any() else dict(zip(classes, probs.tolist(), strict=True))
