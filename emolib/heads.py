"""A head turns unit vectors into class posteriors: a (K, D) weight, whether it comes from prompts or from labels."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import softmax
from tqdm import tqdm

from emolib import clip, metrics
from emolib.items import Items, held_out_rows
from emolib.labels import SPLITS
from emolib.profiles import Frozen, Profile
from emolib.records import Facts, Predictions, facts, predictions

STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


@dataclass(frozen=True)
class Head:
    """Logits = vectors @ weight.T + bias. weight: (K, D), bias: (K,), float64."""

    weight: np.ndarray
    bias: np.ndarray

    def posterior(self, vectors: np.ndarray) -> np.ndarray:
        """(N, D) unit vectors -> (N, K) probabilities."""
        return softmax(vectors.astype(np.float64) @ self.weight.T + self.bias, axis=1)


def zero_shot(encoder, prompts: list[list[str]]) -> Head:
    """The classifier that a dual encoder has without training: one direction a class, the mean of its prompts' vectors.

    encoder: a `clip.Encoder`. prompts: K lists of sentences. The weight carries the encoder's scale, so that logits are
    scale x cosine. Source: Radford et al. 2021, arXiv:2103.00020, section 3.1.
    """
    flat = encoder.encode_texts([prompt for some in prompts for prompt in some]).astype(np.float64)
    parts = np.split(flat, np.cumsum([len(some) for some in prompts])[:-1])
    means = np.stack([part.mean(0) for part in parts])
    directions = means / np.linalg.norm(means, axis=1, keepdims=True)
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


def linear(data: Items, vectors: np.ndarray, strengths: tuple[float, ...] = STRENGTHS) -> tuple[Predictions, Head]:
    """A linear probe on Training's vectors (N, D, one a row of `data`); its strength is chosen on validation (NLL)."""
    train, held_out = data.split == "train", held_out_rows(data)
    grid, found = {}, {}
    for strength in tqdm(strengths, desc="linear probe", unit="fit", leave=False):
        head = probe(vectors[train], data.labels[train], len(data.classes), strength)
        notes = {"C": strength, "parameters": head.weight.size + head.bias.size}
        grid[str(strength)], found[str(strength)] = predictions(data, head.posterior(vectors[held_out])[None], notes), head
    best = metrics.choose(
        {c: p.validation for c, p in grid.items()}, lambda p: -metrics.negative_log_likelihood(p.posterior, p.labels)
    )
    return grid[best], found[best]


def ask(encoder, data: Items, sets: dict[str, list[list[str]]]) -> Predictions:
    """Zero-shot posteriors with each set of prompts; the set with the best validation accuracy is the system.

    notes: the chosen set. arrays: "probs.<set>" (N, K) of each, in the order of the predictions.
    """
    vectors = clip.vectors(encoder, data.select(held_out_rows(data)))
    found = {name: predictions(data, zero_shot(encoder, asked).posterior(vectors)[None]) for name, asked in sets.items()}
    best = metrics.choose({n: p.validation for n, p in found.items()}, lambda p: accuracy(p.posterior, p.labels))
    arrays = {f"probs.{name}": p.probs[0] for name, p in found.items()}
    return replace(found[best], notes={"prompts": best, "encoder": encoder.facts}, arrays=arrays)


def one_side(side: str, encoder, data, prompts: list[list[str]]) -> Predictions:
    """What one half of each pair says, asked with the pairs' prompts. side: "face" or "text"; data: Pairs."""
    held_out = data.select(held_out_rows(data))
    vectors = clip.vectors(encoder, {"face": held_out.faces, "text": held_out.texts}[side])
    return predictions(data, zero_shot(encoder, prompts).posterior(vectors)[None], {"encoder": encoder.facts})


def accuracy(probs: np.ndarray, labels: np.ndarray) -> float:
    """Share of rows whose largest probability is the label's."""
    return float((probs.argmax(1) == labels).mean())


def shots(data: Items, vectors: np.ndarray, config: Frozen) -> Facts:
    """Linear probes on k Training items a class, several draws each: validation chooses the strength of each k.

    vectors: (N, D), one a row of `data`. notes: "k", "classes with fewer items", and test accuracies (K, draws).
    """
    held = {split: data.split == split for split in SPLITS}
    classes, results = len(data.classes), []
    for k in tqdm(config.shots, desc="k-shot", unit="k", leave=False):
        grid = []
        for strength in STRENGTHS:
            scores = []
            for seed in range(config.shot_seeds):
                rng = np.random.default_rng([seed, k])
                rows = [rng.permutation(np.flatnonzero(held["train"] & (data.labels == c)))[:k] for c in range(classes)]
                rows = np.concatenate(rows)
                head = probe(vectors[rows], data.labels[rows], classes, strength)
                pair = (accuracy(head.posterior(vectors[held[s]]), data.labels[held[s]]) for s in SPLITS[1:])
                scores.append(tuple(pair))
            grid.append(np.array(scores))
        best = max(range(len(grid)), key=lambda i: grid[i][:, 0].mean())
        results.append({"k": k, "C": STRENGTHS[best], "test": grid[best][:, 1].tolist()})
    return facts(data, {"shots": results})


def sizes(faces, profile: Profile) -> Facts:
    """What the picture size costs and brings: a probe on frozen features at each size, validation accuracy and speed.

    Speed is in images a second of the GPU, else of processor time, which other work on the machine disturbs less.
    """
    config, found = profile.frozen, []
    rng = np.random.default_rng(0)
    rows = [rng.permutation(np.flatnonzero(faces.split == s))[: config.size_rows] for s in SPLITS[:2]]
    some = faces.select(np.concatenate(rows))
    train = some.split == "train"
    for size in config.sizes:
        encoder = clip.load(replace(profile, clip=replace(profile.clip, image_size=size)))
        clock = time.monotonic if clip.device().type == "cuda" else time.process_time
        started = clock()
        vectors = encoder.encode_images(some.pixels, cache=False)
        speed = len(some) / (clock() - started)
        tried = [probe(vectors[train], some.labels[train], len(some.classes), c) for c in STRENGTHS]
        scores = [accuracy(head.posterior(vectors[~train]), some.labels[~train]) for head in tried]
        found.append({"size": size, "accuracy": max(scores), "images_per_second": round(speed, 1)})
    return facts(faces, {"sizes": found, "rows": int(train.sum()), "n": int((~train).sum())})
