"""What an encoder still knows beside the emotions that it was tuned on: retrieval, tasks of another kind, other texts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from tqdm import tqdm

from emolib.data import sets
from emolib.data.dataset import Dataset
from emolib.data.labels import TEXT_CLASSES
from emolib.models import heads
from emolib.models.encoder import Encoder, load, stacked
from emolib.models.tuning import Tuned
from emolib.profiles import Clip, Generality, Profile, Work
from emolib.results.predictions import Facts, Predictions, facts, predictions

Prompts = list[list[str]]

WORN = {
    "glasses": [["a person with short hair", "a person"], ["a person with glasses", "a face with glasses"]],
    "beard": [["a person with short hair", "a person"], ["a person with a beard", "a face with a beard"]],
    "long hair": [["a person with short hair"], ["a person with long hair"]],
}


def tasks(profile: Profile) -> dict[str, tuple[Dataset, Prompts]]:
    """Zero-shot tasks that are not emotion: {name: (labelled pictures, prompts per class)}. Raises MissingData.

    `sample`: glasses, beard and long hair of drawn people; else CIFAR-10, with a prompt of Radford et al. 2021.
    """
    if profile.generated:
        known = sets.captioned(profile)
        each = {name: replace(known, labels=known.extras["tags"][:, i], classes=("no", "yes")) for i, name in enumerate(WORN)}
        return {name: (data, WORN[name]) for name, data in each.items()}
    data = sets.cifar10(profile)
    return {"CIFAR-10": (data, [[f"a photo of a {name}."] for name in data.classes])}


def ranks(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """How many others come before each query's own partner: (2, N) int, texts for each image, then images for each text.

    images, texts: (N, D) unit vectors, row i of the one belongs to row i of the other. Of those that tie with the partner
    (the same caption written twice) half come before it.
    """
    scores = images.astype(np.float64) @ texts.astype(np.float64).T
    own, found = np.diag(scores)[:, None], []
    for table in (scores, scores.T):
        better, tied = (table > own + 1e-9).sum(1), (np.abs(table - own) <= 1e-9).sum(1) - 1
        found.append(better + tied // 2)
    return np.stack(found)


def opened(encoder: Encoder, data: Dataset) -> np.ndarray | torch.Tensor:
    """The pictures as `encode_images` takes them, so that the same ones are not opened for each of many encoders."""
    return encoder.open(data.images) if stacked(data.images) is None else data.images


def mixtures(
    encoder: Encoder, data: Dataset, method: str, prompts: Prompts, config: Generality, captioned: Dataset,
    tasks: dict[str, tuple[Dataset, Prompts]], seed: int | None = None, *, work: Work = Work(),
) -> Facts:  # fmt: skip
    """Emotion accuracy and generality of the mixtures of pretrained and fine-tuned encoder (WiSE-FT), at each alpha.

    method, seed: their model is loaded, without a seed the first one's. Where the method moves the text encoder (FLYP), each
    mixture makes its head anew of the `prompts`.
    Returns arrays "ranks" (A, 2, N) of the captioned pictures, "right.<task>" (A, M) and "right.emotion" (A, V), the last on
    validation pictures. FileNotFoundError says which command trains a missing model.
    """
    validation, found = data.part("validation"), {}
    if config.faces:
        validation = validation.select(np.random.default_rng(0).permutation(len(validation))[: config.faces])
    end = Tuned.load(work.model(f"faces/clip-{method}", seed or 0))
    start = Tuned(encoder.weights, heads.zero_shot(encoder, prompts))
    tasks, images = tasks | {"emotion": (validation, prompts)}, opened(encoder, captioned)
    pictures = {name: opened(encoder, task) for name, (task, _) in tasks.items()}
    for alpha in tqdm(config.alphas, desc="mixtures", unit="alpha", leave=False):
        mixed = end.mixed(start, alpha)
        other = encoder.with_weights(mixed.weights)
        found.setdefault("ranks", []).append(ranks(other.encode_images(images), other.encode_texts(captioned.texts)))
        for name, (task, asked) in tasks.items():
            head = mixed.head if name == "emotion" and method != "flyp" else heads.zero_shot(other, asked)
            right = head.posterior(other.encode_images(pictures[name])).argmax(1) == task.labels
            found.setdefault(f"right.{name}", []).append(right)
    arrays = {name: np.stack(values).astype(np.int16 if name == "ranks" else bool) for name, values in found.items()}
    return facts(data, {"alphas": list(config.alphas), "pairs": captioned.source}, arrays)


def at_own_size(
    used: Encoder, captioned: Dataset, tasks: dict[str, tuple[Dataset, Prompts]], clip: Clip, *, work: Work = Work()
) -> Facts:  # fmt: skip
    """The pretrained encoder at its checkpoint's own picture size: what a smaller one costs, beside what tuning costs.

    used: the encoder of `clip`, so that the record knows whose they are. notes: "size". arrays as of `mixtures`, A = 1, without
    the emotion.
    """
    encoder = load(replace(clip, image_size=None), work.precision)
    found = {"ranks": ranks(encoder.encode_images(captioned.images), encoder.encode_texts(captioned.texts)).astype(np.int16)}
    for name, (task, asked) in tasks.items():
        posterior = heads.zero_shot(encoder, asked).posterior(encoder.encode_images(task.images))
        found[f"right.{name}"] = posterior.argmax(1) == task.labels
    return facts(captioned, {"size": encoder.size}, {name: values[None] for name, values in found.items()})


def chosen_mixture(
    encoder: Encoder, data: Dataset, method: str, alpha: float, prompts: Prompts, *, work: Work = Work()
) -> Predictions:
    """One mixture judged on all held-out pictures, its model kept under the name of this step."""
    start, end = Tuned(encoder.weights, heads.zero_shot(encoder, prompts)), Tuned.load(work.model(f"faces/clip-{method}"))
    mixed = end.mixed(start, alpha)
    other = encoder.with_weights(mixed.weights)
    if method == "flyp":
        mixed = replace(mixed, head=heads.zero_shot(other, prompts))
    mixed.save(work.model())
    probs = mixed.head.posterior(other.vectors(data.select(data.held_out)))
    return predictions(data, probs[None], {"method": method, "alpha": alpha, "encoder": encoder.facts})


def other_texts(encoder: Encoder, data: Dataset, prompts: Prompts, *, work: Work = Work()) -> Facts:
    """Answers of the text classifiers on another set's test sentences: arrays "labels" and one per classifier, (N,) int8.

    prompts: of the six text classes. A head's classes that `data` lacks are not allowed as answers. The probe and the
    fine-tuned model are loaded; FileNotFoundError says which command trains a missing one.
    """
    test, columns = data.part("test"), [TEXT_CLASSES.index(name) for name in data.classes]
    linear, tuned = (Tuned.load(work.model(f"texts/clip-{name}")) for name in ("linear", "tuned"))
    systems = {
        "zero-shot": (encoder, heads.zero_shot(encoder, prompts)), "linear probe": (encoder, linear.head),
        "fine-tuned": (encoder.with_weights(tuned.weights), tuned.head),
    }  # fmt: skip
    arrays = {n: head.posterior(e.encode_texts(test.texts))[:, columns].argmax(1) for n, (e, head) in systems.items()}
    return facts(data, {"n": len(test)}, {name: a.astype(np.int8) for name, a in (arrays | {"labels": test.labels}).items()})
