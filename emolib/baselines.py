"""Baselines of one modality: majority, TF-IDF + logistic regression, LSTM and GRU on texts, a residual CNN on faces."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional as F

from emolib import metrics, training
from emolib.faces import SIDE, Faces, block_means
from emolib.items import Items, held_out_rows
from emolib.labels import SPLITS
from emolib.profiles import Convolutional, Profile, Recurrent, Tuning, out_folder
from emolib.records import Predictions, predictions
from emolib.texts import Texts, tokens

SEEN = 0.9  # the share of a face's width that small training pictures show


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016, arXiv:1512.03385; averaged shortcut of arXiv:1812.01187)."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.shortcut = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride, ceil_mode=True), nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
            )
        nn.init.zeros_(self.body[-1].weight)  # each block starts as its shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class FaceCNN(nn.Module):
    """A small residual network for grey faces: (N, 1, S, S) -> logits (N, K), any S from 24 up."""

    def __init__(self, config: Convolutional, classes: int):
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(1, config.stem, 3, 1, 1, bias=False), nn.BatchNorm2d(config.stem), nn.ReLU()
        ]  # fmt: skip
        inputs = config.stem
        for width, blocks in zip(config.widths, config.blocks, strict=True):
            for block in range(blocks):
                layers.append(Residual(inputs, width, 2 if block == 0 else 1))
                inputs = width
        self.features = nn.Sequential(*layers)
        self.dropout, self.head = config.dropout, nn.Linear(inputs, classes)
        self.to(memory_format=torch.channels_last)  # a fifth faster on a CPU

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = self.features(x.contiguous(memory_format=torch.channels_last)).mean((2, 3))
        return self.head(dropout(pooled, self.dropout, training=self.training))


def dropout(x: torch.Tensor, share: float, *, training: bool) -> torch.Tensor:
    """Dropout from uniform numbers: unlike `nn.Dropout`'s, these are the same on every CPU in float64."""
    return x * (torch.rand_like(x) >= share) / (1 - share) if training and share else x


class TextRNN(nn.Module):
    """A bidirectional LSTM or GRU over words, maximum and mean over time: (N, T) word numbers -> logits (N, K).

    Sources: Hochreiter and Schmidhuber 1997; Cho et al. 2014, arXiv:1406.1078; pooling as in Conneau et al. 2017.
    """

    def __init__(self, cell: type[nn.LSTM] | type[nn.GRU], config: Recurrent, words: int, classes: int):
        super().__init__()
        self.embedding = nn.Embedding(words, config.embedding, padding_idx=0)
        with torch.no_grad():
            self.embedding.weight.mul_(0.1)  # a rare word, hardly trained, should say little
        self.rnn = cell(config.embedding, config.hidden, batch_first=True, bidirectional=True)
        self.dropout, self.head = config.dropout, nn.Linear(4 * config.hidden, classes)

    def forward(self, words: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        x = dropout(self.embedding(words), self.dropout, training=self.training)
        # Packed, so that the backward direction starts at a text's last word and not in its padding.
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        padding = (torch.arange(states.shape[1], device=x.device) >= lengths[:, None]).unsqueeze(2)
        mean = states.masked_fill(padding, 0).sum(1) / lengths[:, None]
        pooled = torch.cat([states.masked_fill(padding, -torch.inf).amax(1), mean], 1)
        return self.head(dropout(pooled, self.dropout, training=self.training))


class Vocabulary:
    """Words of the *training* texts seen at least `min_count` times; 0 is padding, 1 any other word."""

    def __init__(self, texts: Texts, min_count: int):
        counts = Counter(word for text in texts.texts for word in tokens(text))
        self.numbers = {word: i for i, word in enumerate(sorted(w for w, n in counts.items() if n >= min_count), 2)}

    def __len__(self) -> int:
        return len(self.numbers) + 2

    def encode(self, text: str, length: int) -> np.ndarray:
        """The text's first `length` words as numbers; a text without any word is one unknown word."""
        return np.array([self.numbers.get(word, 1) for word in tokens(text)[:length]] or [1])


class TextBatches:
    """Texts for training and prediction (see `training.Batches`); training blanks words at random."""

    def __init__(self, texts: Texts, vocabulary: Vocabulary, config: Recurrent):
        self.words = [vocabulary.encode(text, config.max_length) for text in texts.texts]
        self.lengths = np.array([len(w) for w in self.words])
        self.labels, self.config = texts.labels, config

    def batch(self, rows, rng, progress):
        words = np.zeros((len(rows), self.lengths[rows].max()), dtype=np.int64)
        for i, row in enumerate(rows):
            words[i, : self.lengths[row]] = self.words[row]
        if rng is not None:
            words[(rng.random(words.shape) < self.config.word_dropout) & (words > 0)] = 1
        return torch.from_numpy(words), torch.from_numpy(self.lengths[rows])

    def views(self, inputs, progress, *, final):
        return [inputs]


class FaceBatches:
    """Faces for training and prediction (see `training.Batches`); augmentation runs on whole batches."""

    lengths = None

    def __init__(self, faces: Faces, config: Convolutional):
        self.pixels = torch.from_numpy(faces.pixels)
        self.labels, self.config = faces.labels, config

    def batch(self, rows, rng, progress):
        x = self.pixels[rows].unsqueeze(1).to(torch.get_default_dtype()) / 255
        mean, std = x.mean((1, 2, 3), keepdim=True), x.std((1, 2, 3), keepdim=True)
        x = (x - mean) / (std + 0.05)  # a face at a time: light and contrast are nuisances, black pictures stay zero
        return (x,) if rng is None else (augment(x, rng, self.side(progress), self.config),)

    def side(self, progress: float) -> int:
        """The picture size at this point of the training."""
        end = 0.0
        for share, side in self.config.sizes:
            end += share
            if progress < end - 1e-9:
                return side
        return self.config.sizes[-1][1]

    def views(self, inputs, progress, *, final):
        """The face and its mirror image; at the end also four shifted crops of each (ten-crop averaging).

        Size and scale are those of the training pictures at this point: convolutions that pad know where the edge is.
        """
        (x,) = inputs
        side = self.side(progress)
        frame = min(SIDE, round(side / SEEN))
        if frame < SIDE:
            x = F.interpolate(x, size=frame, mode="bilinear", antialias=True)
        edge = frame - side
        corners = [(i, j) for i in (0, edge) for j in (0, edge)] if final else []
        crops = [x[..., i : i + side, j : j + side] for i, j in [(edge // 2, edge // 2), *corners]]
        return [(crop,) for crop in crops] + [(crop.flip(-1),) for crop in crops]


def augment(x: torch.Tensor, rng: np.random.Generator, side: int, config: Convolutional | Tuning) -> torch.Tensor:
    """Mirror, turn, scale, shift, contrast and a blanked rectangle, each face its own: (N, 1, 48, 48) -> (N, 1, side, side).

    Random numbers come from NumPy, so that they are the same on every CPU.
    """
    n, much = len(x), config.augment
    angle = rng.uniform(-0.22, 0.22, n) * much  # radians, about 13 degrees
    # The part of the frame that is seen: near the whole when pictures are small, a crop at native scale at the end; all
    # of it in pictures that are enlarged.
    scale = min(max(side / SIDE, SEEN), 1.0) * np.exp(rng.uniform(-0.12, 0.12, n) * much)
    mirror = rng.choice([-1.0, 1.0], n)
    shift = rng.uniform(-0.14, 0.14, (2, n)) * much
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    theta = np.stack([np.stack([cos * mirror, -sin, shift[0]], 1), np.stack([sin * mirror, cos, shift[1]], 1)], 1)
    grid = F.affine_grid(torch.from_numpy(theta).to(x), [n, 1, side, side], align_corners=False)
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    gain, bias = 1 + rng.uniform(-0.25, 0.25, n) * much, rng.uniform(-0.25, 0.25, n) * much
    x = x * torch.from_numpy(gain).to(x).view(n, 1, 1, 1) + torch.from_numpy(bias).to(x).view(n, 1, 1, 1)
    for face in np.flatnonzero(rng.random(n) < config.erase):
        height, width = rng.integers(side // 6, side // 2, 2)
        top, left = rng.integers(0, side - height), rng.integers(0, side - width)
        x[face, :, top : top + height, left : left + width] = 0
    return x


def majority(data: Items) -> Predictions:
    """The class shares of Training, whatever the item: what a score is worth that knows nothing."""
    train = data.labels[data.split == "train"]
    shares = np.bincount(train, minlength=len(data.classes)) / len(train)
    return predictions(data, np.tile(shares, (1, int((data.split != "train").sum()), 1)))


def tfidf(data: Texts) -> Predictions:
    """TF-IDF of words and word pairs with a logistic regression; its C is chosen on validation.

    notes: the C and the words of the largest weight for each class.
    """
    train, held_out = data.part("train"), data.select(held_out_rows(data))
    vectors = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    inputs, unseen = vectors.fit_transform(train.texts), vectors.transform(held_out.texts)
    grid = {}
    for strength in (1.0, 3.0, 10.0, 30.0, 100.0):
        model = LogisticRegression(C=strength, max_iter=1000).fit(inputs, train.labels)
        found = predictions(data, model.predict_proba(unseen)[None], {"C": strength, "top_terms": _top(model, vectors, data)})
        grid[str(strength)] = found
    best = metrics.choose(
        {c: p.validation for c, p in grid.items()}, lambda p: -metrics.negative_log_likelihood(p.posterior, p.labels)
    )
    return grid[best]


def _top(model, vectors, data: Texts, count: int = 8) -> dict[str, list[str]]:
    names = vectors.get_feature_names_out()
    return {c: names[np.argsort(-row, kind="stable")[:count]].tolist() for c, row in zip(data.classes, model.coef_, strict=True)}


def nearest(data: Faces) -> Predictions:
    """The label of the most alike Training face (correlation of 16x16 block means): it can only remember.

    What it gains when Training is not cleaned is what twins are worth.
    """
    train, held_out = data.part("train"), data.select(held_out_rows(data))
    memory = block_means(train)
    rows = [(block_means(held_out.select(slice(i, i + 500))) @ memory.T).argmax(1) for i in range(0, len(held_out), 500)]
    return predictions(data, np.eye(len(data.classes))[train.labels[np.concatenate(rows)]][None])


def recurrent(kind: str, data: Texts, profile: Profile) -> Predictions:
    """An LSTM or GRU ("lstm", "gru") trained once a seed; notes: curves, cost, the words it leans on."""
    config: Recurrent = getattr(profile, kind)
    cell = {"lstm": nn.LSTM, "gru": nn.GRU}[kind]
    with training.arithmetic(profile):
        vocabulary = Vocabulary(data.part("train"), config.min_count)
        probs, fitted = fit_seeds(
            f"texts/{kind}", lambda: TextRNN(cell, config, len(vocabulary), len(data.classes)),
            lambda rows: TextBatches(rows, vocabulary, config), data, config, profile,
        )  # fmt: skip
        words = leaned_on(fitted[0].model, data.part("validation"), vocabulary, config)
    return predictions(data, probs, summary(fitted) | {"vocabulary": len(vocabulary), "leans_on": words})


def cnn(data: Faces, profile: Profile) -> Predictions:
    """The residual CNN trained once a seed; notes: curves, cost. arrays: mean saliency of each class."""
    config = profile.cnn
    with training.arithmetic(profile):
        probs, fitted = fit_seeds(
            "faces/cnn", lambda: FaceCNN(config, len(data.classes)), lambda rows: FaceBatches(rows, config), data, config, profile
        )
        maps = saliency(fitted[0].model, data.part("validation"), config)
    return predictions(data, probs, summary(fitted), {"saliency": maps})


def summary(fitted: list[training.Fitted]) -> dict:
    """The curves of each seed, and what the runs cost."""
    return {"history": [f.history for f in fitted], "runs": [f.notes for f in fitted]}


@torch.no_grad()
def leaned_on(model: TextRNN, texts: Texts, vocabulary: Vocabulary, config: Recurrent, *, least: int = 5, count: int = 8):
    """For each class the words whose removal costs its log posterior most, on average over the texts of that class.

    Only words in at least `least` of these texts. Returns {class: [word, ...]}.
    """
    model.eval()
    cost: dict = {name: {} for name in texts.classes}
    for text, label in zip(texts.texts, texts.labels, strict=True):
        words = tokens(text)[: config.max_length]
        if len(words) < 2:
            continue
        whole = vocabulary.encode(" ".join(words), config.max_length)
        shorter = np.stack([np.delete(whole, i) for i in range(len(whole))])
        full = model(torch.from_numpy(whole[None]), torch.tensor([len(whole)])).log_softmax(1)[0, label]
        less = model(torch.from_numpy(shorter), torch.full((len(whole),), len(whole) - 1)).log_softmax(1)[:, label]
        for word, value in zip(words, (full - less).tolist(), strict=True):
            cost[texts.classes[label]].setdefault(word, []).append(value)
    means = {c: {w: np.mean(v) for w, v in words.items() if len(v) >= least} for c, words in cost.items()}
    return {c: sorted(words, key=lambda w: -words[w])[:count] for c, words in means.items()}


def saliency(model: FaceCNN, faces: Faces, config: Convolutional) -> np.ndarray:
    """Mean |d logit of the true class / d pixel| over the faces of each class: (K, 48, 48) float32, each map's peak 1.

    Source: Simonyan et al. 2014, arXiv:1312.6034, averaged over a class.
    """
    model.eval()
    device = next(model.parameters()).device
    batches, total = FaceBatches(faces, config), np.zeros((len(faces.classes), SIDE, SIDE))
    for start in range(0, len(faces), 256):
        rows = np.arange(start, min(start + 256, len(faces)))
        x = batches.batch(rows, None, 1.0)[0].to(device).requires_grad_()
        (view,) = batches.views((x,), 1.0, final=False)[0]
        labels = torch.as_tensor(faces.labels[rows], device=device)
        (gradient,) = torch.autograd.grad(model(view).gather(1, labels[:, None]).sum(), x)
        np.add.at(total, faces.labels[rows], gradient.abs()[:, 0].cpu().numpy())
    return (total / total.max((1, 2), keepdims=True)).astype(np.float32)


def fit_seeds(name: str, build, wrap, data, config, profile: Profile) -> tuple[np.ndarray, list[training.Fitted]]:
    """Train once a seed, each run with a checkpoint of its own; posteriors of validation then test: (S, N, K).

    build(): a fresh model. wrap(rows): the rows as `training.Batches`. data: cleaned `Items` with all three splits.
    """
    key = json.dumps([data.fingerprint, asdict(replace(config, seeds=()))])
    train, validation, test = (wrap(data.part(split)) for split in SPLITS)
    fitted, probs = [], []
    for seed in config.seeds:
        torch.manual_seed(seed)
        checkpoint = out_folder(profile) / "checkpoints" / name / f"seed-{seed}.safetensors"
        fitted.append(training.fit(build(), train, validation, config.fit, profile, seed=seed, checkpoint=checkpoint, key=key))
        device = next(fitted[-1].model.parameters()).device
        probs.append(np.concatenate([training.predict(fitted[-1].model, part, device) for part in (validation, test)]))
    return np.stack(probs), fitted
