"""A head turns unit vectors into class posteriors: a (K, D) weight, whether it comes from prompts or from labels."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from scipy.special import softmax
from tqdm import tqdm

from emolib import store
from emolib.data.dataset import Dataset
from emolib.data.labels import SPLITS
from emolib.models.encoder import Encoder, device, load
from emolib.profiles import Clip, Frozen, Work
from emolib.results import metrics
from emolib.results.predictions import Facts, Predictions, facts, predictions

STRENGTHS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


@dataclass(frozen=True)
class Head:
    """Logits = vectors @ weight.T + bias. weight: (K, D), bias: (K,), float64."""

    weight: np.ndarray
    bias: np.ndarray

    def posterior(self, vectors: np.ndarray) -> np.ndarray:
        """(N, D) unit vectors -> (N, K) probabilities."""
        return softmax(vectors.astype(np.float64) @ self.weight.T + self.bias, axis=1)


def save(path: Path, weights: dict[str, torch.Tensor], head: Head) -> None:
    """What was trained of an encoder, by name, and its head: one safetensors file, written whole or not at all."""
    tensors = {f"model.{k}": v.contiguous().clone() for k, v in weights.items()}
    tensors |= {"head.weight": torch.from_numpy(head.weight), "head.bias": torch.from_numpy(head.bias)}
    with store.atomic(path) as temporary:
        save_file(tensors, temporary)


def zero_shot(encoder: Encoder, prompts: list[list[str]]) -> Head:
    """The classifier that a dual encoder has without training: one direction per class, the mean of its prompts' vectors.

    prompts: K lists of sentences. The weight carries the encoder's scale, so that logits are scale x cosine.
    Source: Radford et al. 2021, arXiv:2103.00020, section 3.1.
    """
    each = [encoder.encode_texts(some).astype(np.float64).mean(0) for some in prompts]
    directions = np.stack([mean / np.linalg.norm(mean) for mean in each])
    return Head(encoder.scale * directions, np.zeros(len(prompts)))


def probe(vectors: np.ndarray, labels: np.ndarray, classes: int, strength: float) -> Head:
    """Multinomial logistic regression on frozen unit vectors (N, D); strength: scikit-learn's C for vectors of length sqrt(D).

    A class without a training item gets the bias -30: it is never chosen. A linear probe as in arXiv:2103.00020.
    """
    # The optimum lies in the span of the vectors, so few of them (k-shot) make a small problem.
    vectors, dimension = vectors.astype(np.float64), vectors.shape[1]
    basis = np.linalg.svd(vectors, full_matrices=False)[2] if len(vectors) < dimension else np.eye(dimension)
    weight, bias = metrics.logistic(vectors @ basis.T * np.sqrt(dimension), labels, classes, strength)
    return Head(weight @ basis * np.sqrt(dimension), bias)


def accuracy(probs: np.ndarray, labels: np.ndarray) -> float:
    """Share of rows whose largest probability is the label's."""
    return float((probs.argmax(1) == labels).mean())


def fit_probe(data: Dataset, vectors: np.ndarray) -> tuple[Predictions, Head]:
    """A linear probe on Training's vectors (N, D), one per row of `data`; its strength is chosen on validation (NLL)."""
    train, held_out, found = data.split == "train", data.held_out, {}
    for strength in tqdm(STRENGTHS, desc="linear probe", unit="fit", leave=False):
        head = probe(vectors[train], data.labels[train], len(data.classes), strength)
        notes = {"C": strength, "parameters": head.weight.size + head.bias.size}
        found[str(strength)] = predictions(data, head.posterior(vectors[held_out])[None], notes), head
    best = metrics.choose(
        {c: p.validation for c, (p, _) in found.items()}, lambda p: -metrics.negative_log_likelihood(p.posterior, p.labels)
    )
    return found[best]


def linear_probe(encoder: Encoder, data: Dataset, *, work: Work = Work()) -> Predictions:
    """A linear probe on the frozen encoder; its head is kept where `work` has a folder."""
    found, head = fit_probe(data, encoder.vectors(data))
    if work.folder:
        save(work.model(), {}, head)
    return replace(found, notes=found.notes | {"encoder": encoder.facts})


def ask(encoder: Encoder, data: Dataset, sets: dict[str, list[list[str]]]) -> Predictions:
    """Zero-shot posteriors with each set of prompts; the set with the best validation accuracy is the system.

    notes: the chosen set. arrays: "probs.<set>" (N, K) of each, in the order of the predictions.
    """
    vectors = encoder.vectors(data.select(data.held_out))
    found = {name: predictions(data, zero_shot(encoder, prompts).posterior(vectors)[None]) for name, prompts in sets.items()}
    best = metrics.choose({n: p.validation for n, p in found.items()}, lambda p: accuracy(p.posterior, p.labels))
    arrays = {f"probs.{name}": p.probs[0] for name, p in found.items()}
    return replace(found[best], notes={"prompts": best, "encoder": encoder.facts}, arrays=arrays)


def k_shot(encoder: Encoder, data: Dataset, config: Frozen) -> Facts:
    """Linear probes on k Training items per class, several draws each, and no other label: see `own_strength`.

    notes: "shots", a list of k, and of each draw the chosen C and the test accuracy.
    """
    vectors, results, test = encoder.vectors(data), [], data.split == "test"
    own = [np.flatnonzero((data.split == "train") & (data.labels == c)) for c in range(len(data.classes))]
    for k in tqdm(config.shots, desc="k-shot", unit="k", leave=False):
        chosen, right = [], []
        for seed in range(config.shot_seeds):
            rng = np.random.default_rng([seed, k])
            rows = np.concatenate([rng.permutation(some)[:k] for some in own])
            x, y = vectors[rows], data.labels[rows]
            chosen.append(own_strength(x, y, len(data.classes)))
            head = probe(x, y, len(data.classes), chosen[-1])
            right.append(accuracy(head.posterior(vectors[test]), data.labels[test]))
        results.append({"k": k, "C": chosen, "test": right})
    return facts(data, {"shots": results})


def own_strength(vectors: np.ndarray, labels: np.ndarray, classes: int, folds: int = 4) -> float:
    """The strength of a probe that its own few items (N, D) choose, by cross-validation (NLL).

    With one item in some class nothing can be left out to judge on: then the largest of `STRENGTHS`, fixed beforehand.
    """
    folds = min(folds, np.bincount(labels, minlength=classes)[np.unique(labels)].min())
    if folds < 2:
        return STRENGTHS[-1]
    place = np.zeros(len(labels), int)
    for c in np.unique(labels):
        place[labels == c] = np.arange((labels == c).sum()) % folds
    loss = {}
    for strength in STRENGTHS:
        parts = [(probe(vectors[place != f], labels[place != f], classes, strength), place == f) for f in range(folds)]
        loss[strength] = np.mean([metrics.negative_log_likelihood(h.posterior(vectors[some]), labels[some]) for h, some in parts])
    return min(loss, key=loss.get)


def picture_sizes(data: Dataset, clip: Clip, config: Frozen, *, work: Work = Work()) -> Facts:
    """What the picture size costs and brings: a probe on frozen features at each size, validation accuracy and speed.

    Speed is in images a second of the GPU, else of processor time, which other work on the machine disturbs less.
    """
    rng, found = np.random.default_rng(0), []
    rows = [rng.permutation(np.flatnonzero(data.split == s))[: config.size_rows] for s in SPLITS[:2]]
    some = data.select(np.concatenate(rows))
    train = some.split == "train"
    for size in config.sizes:
        encoder = load(replace(clip, image_size=size), work.precision)
        clock = time.monotonic if device().type == "cuda" else time.process_time
        started = clock()
        vectors = encoder.encode_images(some.images, cache=False)
        speed = len(some) / (clock() - started)
        tried = [probe(vectors[train], some.labels[train], len(some.classes), c) for c in STRENGTHS]
        score = max(accuracy(head.posterior(vectors[~train]), some.labels[~train]) for head in tried)
        found.append({"size": size, "accuracy": score, "images_per_second": round(speed, 1)})
    return facts(data, {"sizes": found, "rows": int(train.sum()), "n": int((~train).sum())})
