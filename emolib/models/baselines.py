"""Baselines of one modality: majority, TF-IDF, nearest picture; LSTM, GRU and CNN, which alone import torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from emolib.data import audit
from emolib.data.dataset import Dataset
from emolib.data.labels import SPLITS
from emolib.profiles import Convolutional, Recurrent, Work
from emolib.results import metrics
from emolib.results.predictions import Predictions, predictions

STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)  # of the logistic regression: C in scikit-learn


def majority(data: Dataset) -> Predictions:
    """The class shares of Training, whatever the item: what a score is worth that knows nothing."""
    train = data.part("train").labels
    shares = np.bincount(train, minlength=len(data.classes)) / len(train)
    return predictions(data, np.tile(shares, (1, len(data.held_out), 1)))


def tfidf(data: Dataset) -> Predictions:
    """TF-IDF of words and word pairs with a logistic regression; its C is chosen on validation.

    notes: "C", the strength that was chosen.
    """
    train, held_out = data.part("train"), data.select(data.held_out)
    vectors = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    inputs, unseen = vectors.fit_transform(train.texts), vectors.transform(held_out.texts)
    grid = {}
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=1000).fit(inputs, train.labels)
        probs = np.zeros((len(held_out), len(data.classes)))
        probs[:, model.classes_] = model.predict_proba(unseen)  # a class without a Training text stays at zero
        grid[str(strength)] = predictions(data, probs[None], {"C": strength})
    best = metrics.choose(
        {c: p.validation for c, p in grid.items()}, lambda p: -metrics.negative_log_likelihood(p.posterior, p.labels)
    )
    return grid[best]


def nearest(data: Dataset) -> Predictions:
    """The label of the most alike Training picture (correlation of 16x16 block means): it can only remember.

    What it gains when Training is not cleaned is what duplicates are worth.
    """
    pixels, train, held_out = audit.squares(data), np.flatnonzero(data.split == "train"), data.held_out
    blocks = pixels.reshape(len(data), 16, pixels.shape[1] // 16, 16, -1)
    unit = audit.unit(blocks.mean((2, 4), dtype=np.float32))
    parts = [(unit[held_out[i : i + 500]] @ unit[train].T).argmax(1) for i in range(0, len(held_out), 500)]
    return predictions(data, np.eye(len(data.classes))[data.labels[train[np.concatenate(parts)]]][None])


def recurrent(data: Dataset, cell: str, config: Recurrent, *, work: Work = Work()) -> Predictions:
    """An LSTM or GRU (cell "lstm", "gru"; "none": words without order), once per seed; notes: curves, cost, vocabulary."""
    from torch import nn

    from emolib.models import networks

    kind = {"lstm": nn.LSTM, "gru": nn.GRU, "none": None}[cell]
    vocabulary = networks.Vocabulary(data.part("train").texts, config.min_count)
    return fit_seeds(
        data, lambda: networks.TextRNN(kind, config, len(vocabulary), len(data.classes)),
        lambda part: networks.WordBatches(part, vocabulary, config), config, work, {"vocabulary": len(vocabulary)},
    )  # fmt: skip


def cnn(data: Dataset, config: Convolutional, *, work: Work = Work()) -> Predictions:
    """A small residual CNN on grey pictures, trained once per seed; notes: curves, cost. ValueError below 24 pixels."""
    from emolib.models import networks

    return fit_seeds(
        data, lambda: networks.FaceCNN(config, len(data.classes)), lambda part: networks.ImageBatches(part, config), config, work
    )


def fit_seeds(data: Dataset, build: Callable, wrap: Callable, config, work: Work, notes: dict | None = None) -> Predictions:
    """Train once per seed, each run with a checkpoint of its own, and judge the held-out rows.

    build(): a fresh model. wrap(part): the rows of a split as `training.Batches`. config: with `fit` and `seeds`.
    """
    import torch

    from emolib.models import training

    key, fitted, probs = json.dumps([data.fingerprint, asdict(replace(config, seeds=()))]), [], []
    with training.arithmetic(work):
        train, validation, test = (wrap(data.part(split)) for split in SPLITS)
        for seed in config.seeds:
            torch.manual_seed(seed)
            fitted.append(training.fit(build(), train, validation, config.fit, seed=seed, key=key, work=work))
            progress = training.best_epoch(fitted[-1].history) / config.fit.epochs  # as the epoch was judged
            how = {"precision": work.precision, "progress": progress}
            probs.append(np.concatenate([training.predict(fitted[-1].model, part, **how) for part in (validation, test)]))
    notes = {"history": [f.history for f in fitted], "runs": [f.notes for f in fitted]} | (notes or {})
    return predictions(data, np.stack(probs), notes)
