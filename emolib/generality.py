"""What an encoder still knows beside the emotions that it was tuned on: retrieval, other tasks, emotions left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tqdm import tqdm

from emolib import heads, pairs, texts, tuning
from emolib.clip import Encoder
from emolib.faces import Faces
from emolib.items import Items, held_out_rows
from emolib.labels import SHARED_CLASSES, TEXT_CLASSES
from emolib.pairs import Captioned
from emolib.profiles import Profile
from emolib.records import Facts, Predictions, facts, predictions
from emolib.tuning import Tuned

DESIRES = ("family", "romance", "vengeance", "curiosity", "tranquility", "social-contact")
CIFAR = ("uoft-cs/cifar10", "0b2714987fa478483af9968de7c934580d0bb9a2")


def ranks(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """How many others come before each query's own partner: (2, N) int, texts for each image, then images for each text.

    images, texts: (N, D) unit vectors, row i of the one belongs to row i of the other. Of those that tie with the partner
    (the same caption written twice) half come before it.
    """
    scores = images.astype(np.float64) @ texts.astype(np.float64).T
    own = np.diag(scores)
    found = []
    for table, value in ((scores, own[:, None]), (scores.T, own[:, None])):
        better, tied = (table > value + 1e-9).sum(1), (np.abs(table - value) <= 1e-9).sum(1) - 1
        found.append(better + tied // 2)
    return np.stack(found)


def tasks(profile: Profile, known: Captioned) -> dict[str, tuple]:
    """Zero-shot tasks that are not emotion: {name: (rows of `known` or other pictures, labels (N,), prompts a class)}.

    `sample`: glasses, beard and long hair of drawn people. `mini`: which desire a picture of MSED speaks of (not an emotion,
    though not far from one). `full`: CIFAR-10 as well.
    """
    if profile.data.generated:
        asked = {
            "glasses": (["a person with short hair", "a person"], ["a person with glasses", "a face with glasses"]),
            "beard": (["a person with short hair", "a person"], ["a person with a beard", "a face with a beard"]),
            "long hair": (["a person with short hair"], ["a person with long hair"]),
        }
        return {name: (np.arange(len(known)), known.tags[:, i], both) for i, (name, both) in enumerate(asked.items())}
    found, rows = {}, np.flatnonzero(np.isin(known.tags, DESIRES))
    labels = np.array([DESIRES.index(tag) for tag in known.tags[rows]])
    asked = [[f"a photo that shows {d}", f"a photo about {d}", d] for d in (d.replace("-", " ") for d in DESIRES)]
    found["desire (MSED)"] = (rows, labels, asked)
    if profile.clip.revision:  # a profile that may ask the Hub
        found["CIFAR-10"] = cifar()
    return found


def cifar() -> tuple:
    """CIFAR-10's test set from the Hub, at a pinned revision, with the prompt of Radford et al. 2021."""
    from datasets import load_dataset

    rows = load_dataset(CIFAR[0], split="test", revision=CIFAR[1])
    names = rows.features["label"].names
    return rows["img"], np.array(rows["label"]), [[f"a photo of a {name}."] for name in names]


def measure(encoder: Encoder, known: Captioned, asked_of: dict[str, tuple]) -> dict[str, np.ndarray]:
    """What one encoder knows: "ranks" (2, N) of the pairs `known`, and for each of `tasks` what it gets right, (M,) bool."""
    images = encoder.encode_images(known.pictures)
    found = {"ranks": ranks(images, encoder.encode_texts(known.texts)).astype(np.int16)}
    for name, (pictures, labels, asked) in asked_of.items():
        # Pictures that were encoded just now are not encoded again.
        rows = pictures if isinstance(pictures, np.ndarray) and pictures.ndim == 1 else None
        features = images[rows] if rows is not None else encoder.encode_images(pictures)
        found[f"right.{name}"] = heads.zero_shot(encoder, asked).posterior(features).argmax(1) == labels
    return found


def along(
    encoder: Encoder, start: Tuned, end: Tuned, faces: Faces, profile: Profile, asked: list[list[str]] | None = None
) -> Facts:
    """Emotion accuracy and generality of the mixtures between two encoders (WiSE-FT), at each alpha of the profile.

    asked: prompts a class, for ways that move the text tower: the head is then asked anew of each mixture.
    Returns arrays "ranks" (A, 2, N), "right.<task>" (A, M) and "right.emotion" (A, V), the last on validation faces.
    """
    config, validation = profile.generality, faces.part("validation")
    if config.faces:
        validation = validation.select(np.random.default_rng(0).permutation(len(validation))[: config.faces])
    known, found = pairs.captioned(profile), {}
    asked_of = tasks(profile, known)
    if isinstance(known.pictures, list):  # opened once, not at each alpha
        known = replace(known, pictures=encoder.pictures(known.pictures))
    for alpha in tqdm(config.alphas, desc="mixtures", unit="alpha", leave=False):
        mixed = end.mixed(start, alpha)
        encoder = encoder.with_weights(mixed.weights)
        head = heads.zero_shot(encoder, asked) if asked else mixed.head
        right = head.posterior(encoder.encode_images(validation.pixels)).argmax(1) == validation.labels
        for name, value in (measure(encoder, known, asked_of) | {"right.emotion": right}).items():
            found.setdefault(name, []).append(value)
    arrays = {name: np.stack(values).astype(np.int16 if name == "ranks" else bool) for name, values in found.items()}
    return facts(faces, {"alphas": list(config.alphas), "pairs": known.source}, arrays)


def seen_only(faces: Faces, left_out: tuple[str, ...]) -> Faces:
    """The faces of all other classes, their labels counted anew."""
    classes = tuple(c for c in faces.classes if c not in left_out)
    keep = np.isin(faces.labels, [faces.classes.index(c) for c in classes])
    kept = faces.select(keep)
    number = {faces.classes.index(c): i for i, c in enumerate(classes)}
    return replace(kept, labels=np.array([number[label] for label in kept.labels]), classes=classes)


def few(data: Items, rows: int | None) -> Items:
    """`data` with at most so many Training rows, and at most as many validation rows, drawn at random; all test rows."""
    rng, kept = np.random.default_rng(0), [np.flatnonzero(data.split == "test")]
    kept += [rng.permutation(np.flatnonzero(data.split == split))[:rows] for split in ("train", "validation")]
    return data.select(np.sort(np.concatenate(kept)))


def left_out(way: str, encoder: Encoder, faces: Faces, asked: list[list[str]], profile: Profile) -> Facts:
    """Tune without two emotions, then ask for all of them: what is left of zero-shot recognition where nothing was taught.

    Returns arrays "labels", "before" and "after" (N,): the truth and the answers on test faces, all classes allowed.
    """
    config, test = profile.generality, faces.part("test")
    stay = [i for i, c in enumerate(faces.classes) if c not in config.left_out]
    some = few(seen_only(faces, config.left_out), config.left_out_rows)
    job = tuning.way(way, encoder, some, [asked[i] for i in stay], profile, step=f"generality/left-out-{way}")
    trained = tuning.fit(job, profile, job.config.seeds[0])
    after = encoder.with_weights(trained.model.tuned().weights)
    answers = {
        key: heads.zero_shot(e, asked).posterior(e.encode_images(test.pixels)).argmax(1).astype(np.int8)
        for key, e in (("before", encoder), ("after", after))
    }
    notes = {"left_out": list(config.left_out), "rows": int((some.split == "train").sum()), "runs": [trained.notes]}
    return facts(faces, notes, answers | {"labels": test.labels.astype(np.int8)})


def other_texts(encoders: dict[str, tuple[Encoder, heads.Head]], profile: Profile) -> Facts:
    """Answers of text classifiers on another set's test sentences, in the five shared classes: arrays "labels" and names.

    encoders: {name: (encoder, head of the six text classes)}; a head's other classes are not allowed as answers.
    """
    data = texts.load_other(profile)
    test = data.part("test")
    columns = [TEXT_CLASSES.index(c) for c in SHARED_CLASSES]
    answers = {
        name: head.posterior(encoder.encode_texts(test.texts))[:, columns].argmax(1).astype(np.int8)
        for name, (encoder, head) in encoders.items()
    }
    return facts(data, {"n": len(test)}, answers | {"labels": test.labels.astype(np.int8)})


def chosen(way: str, alpha: float, encoder: Encoder, faces: Faces, asked: list[list[str]], profile: Profile) -> Predictions:
    """One mixture judged on all held-out faces, its weights kept like those of a way of tuning ("faces/clip-wise")."""
    start = Tuned(encoder.weights, heads.zero_shot(encoder, asked))
    mixed = Tuned.load(tuning.path_of(profile, f"faces/clip-{way}", getattr(profile, way).seeds[0])).mixed(start, alpha)
    other = encoder.with_weights(mixed.weights)
    if way == "flyp":
        mixed = Tuned(mixed.weights, heads.zero_shot(other, asked))
    mixed.save(tuning.path_of(profile, "faces/clip-wise", 0))
    probs = mixed.head.posterior(other.encode_images(faces.select(held_out_rows(faces)).pixels))
    return predictions(faces, probs[None], {"way": way, "alpha": alpha, "encoder": encoder.facts})
