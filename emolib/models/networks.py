"""Networks of one modality, and how their rows reach them: a residual CNN on grey pictures, an LSTM or GRU on words."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from emolib.data.dataset import Dataset
from emolib.data.pairing import tokens
from emolib.data.pictures import SIDE, grey_pixels
from emolib.models import training
from emolib.models.encoder import device
from emolib.profiles import Convolutional, Recurrent, Tuning

LEAST = 24  # pixels of a picture's side; smaller ones shrink to nothing in a network with four strides
SEEN = 0.9  # the share of a picture's width that small training pictures show


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
    """A small residual network for grey pictures: (N, 1, S, S) -> logits (N, K), any S that its strides leave a pixel of."""

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
        pooled = dropout(pooled, self.dropout, training=self.training)
        return training.logits(pooled, self.head.weight, self.head.bias)


class TextRNN(nn.Module):
    """A bidirectional LSTM or GRU over words, maximum and mean over time: (N, T) word numbers -> logits (N, K).

    Without a cell the words' own vectors are pooled, whatever their order (Iyyer et al. 2015, deep averaging networks).
    Sources: Hochreiter and Schmidhuber 1997; Cho et al. 2014, arXiv:1406.1078; pooling as in Conneau et al. 2017.
    """

    def __init__(self, cell: type[nn.LSTM] | type[nn.GRU] | None, config: Recurrent, words: int, classes: int):
        super().__init__()
        self.embedding = nn.Embedding(words, config.embedding, padding_idx=0)
        with torch.no_grad():
            self.embedding.weight.mul_(0.1)  # a rare word, hardly trained, should say little
        self.rnn = cell and cell(config.embedding, config.hidden, batch_first=True, bidirectional=True)
        self.dropout, self.head = config.dropout, nn.Linear(4 * config.hidden if cell else 2 * config.embedding, classes)

    def forward(self, words: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        states = dropout(self.embedding(words), self.dropout, training=self.training)
        if self.rnn:  # packed, so that the backward direction starts at a text's last word and not in its padding
            packed = nn.utils.rnn.pack_padded_sequence(states, lengths.cpu(), batch_first=True, enforce_sorted=False)
            states, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        padding = (torch.arange(states.shape[1], device=states.device) >= lengths[:, None]).unsqueeze(2)
        mean = states.masked_fill(padding, 0).sum(1) / lengths[:, None]
        pooled = torch.cat([states.masked_fill(padding, -torch.inf).amax(1), mean], 1)
        pooled = dropout(pooled, self.dropout, training=self.training)
        return training.logits(pooled, self.head.weight, self.head.bias)


def dropout(x: torch.Tensor, share: float, *, training: bool) -> torch.Tensor:
    """Dropout from uniform numbers: unlike `nn.Dropout`'s, these are the same on every CPU in float64."""
    return x * (torch.rand_like(x) >= share) / (1 - share) if training and share else x


class Vocabulary:
    """Words of the *training* texts seen at least `min_count` times; 0 is padding, 1 any other word."""

    def __init__(self, texts: np.ndarray, min_count: int):
        counts = Counter(word for text in texts for word in tokens(text))
        self.numbers = {word: i for i, word in enumerate(sorted(w for w, n in counts.items() if n >= min_count), 2)}

    def __len__(self) -> int:
        return len(self.numbers) + 2

    def encode(self, text: str, length: int) -> np.ndarray:
        """The text's first `length` words as numbers; a text without any word is one unknown word."""
        return np.array([self.numbers.get(word, 1) for word in tokens(text)[:length]] or [1])


class WordBatches(training.Batches):
    """Texts for training and prediction: word numbers (N, T) and lengths (N,); training blanks words at random."""

    def __init__(self, data: Dataset, vocabulary: Vocabulary, config: Recurrent):
        rows = [vocabulary.encode(text, config.max_length) for text in data.texts]
        self.lengths = np.array([len(row) for row in rows])
        self.words = np.zeros((len(rows), config.max_length), dtype=np.int64)
        self.words[np.arange(config.max_length) < self.lengths[:, None]] = np.concatenate(rows)
        self.labels, self.config = data.labels, config

    def batch(self, rows, rng, progress):
        words = self.words[rows, : self.lengths[rows].max()]
        if rng is not None:
            words[(rng.random(words.shape) < self.config.word_dropout) & (words > 0)] = 1
        return torch.from_numpy(words), torch.from_numpy(self.lengths[rows])


class ImageBatches(training.Batches):
    """Pictures as normalised grey ones for training and prediction: (N, 1, S, S); augmentation runs on whole batches.

    A configuration's training sizes are for pictures of 48 pixels; those of others are in proportion. Grey squares keep
    their size, whatever else there is becomes 48x48. Raises ValueError for squares of less than 24 pixels.
    """

    def __init__(self, data: Dataset, config: Convolutional):
        self.pixels = torch.from_numpy(grey_pixels(data.images)).to(device())  # a GPU augments them itself
        self.own = self.pixels.shape[-1]
        if self.own < LEAST:
            raise ValueError(f"{data.source}: pictures of {self.own}x{self.own} pixels, wanted at least {LEAST}x{LEAST}")
        self.labels, self.config = data.labels, config

    def batch(self, rows, rng, progress):
        x = self.pixels[rows].unsqueeze(1).to(torch.get_default_dtype()) / 255
        mean, std = x.mean((1, 2, 3), keepdim=True), x.std((1, 2, 3), keepdim=True)
        x = (x - mean) / (std + 0.05)  # a picture at a time: light and contrast are nuisances, black pictures stay zero
        side = self.side(progress)
        # Near the whole frame when pictures are small, a crop at native scale at the end.
        return (x,) if rng is None else (augment(x, rng, side, self.config, seen=max(side / self.own, SEEN)),)

    def side(self, progress: float) -> int:
        """The picture size at this point of the training."""
        ends = np.cumsum([share for share, _ in self.config.sizes])
        stage = min(int((progress >= ends - 1e-9).sum()), len(ends) - 1)
        return round(self.config.sizes[stage][1] * self.own / SIDE)

    def views(self, inputs, progress, *, final):
        """The picture and its mirror image; at the end also four shifted crops of each (ten-crop averaging).

        Size and scale are those of the training pictures at this point: convolutions that pad know where the edge is.
        """
        (x,) = inputs
        side = self.side(progress)
        frame = min(self.own, round(side / SEEN))
        if frame < self.own:
            x = F.interpolate(x, size=frame, mode="bilinear", antialias=True)
        edge = frame - side
        corners = [(i, j) for i in (0, edge) for j in (0, edge)] if final else []
        crops = [x[..., i : i + side, j : j + side] for i, j in [(edge // 2, edge // 2), *corners]]
        return [(crop,) for crop in crops] + [(crop.flip(-1),) for crop in crops]


def augment(x: torch.Tensor, rng: np.random.Generator, side: int, config: Convolutional | Tuning, *, seen: float = 1.0):
    """Mirror, turn, scale, shift, contrast and a blanked rectangle, each picture its own: (N, C, S, S) -> (N, C, side, side).

    seen: the share of a picture's width that is seen on average. Random numbers come from NumPy: the same on every CPU.
    """
    n, much = len(x), config.augment
    angle = rng.uniform(-0.22, 0.22, n) * much  # radians, about 13 degrees
    scale = seen * np.exp(rng.uniform(-0.12, 0.12, n) * much)
    mirror = rng.choice([-1.0, 1.0], n)
    shift = rng.uniform(-0.14, 0.14, (2, n)) * much
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    theta = np.stack([np.stack([cos * mirror, -sin, shift[0]], 1), np.stack([sin * mirror, cos, shift[1]], 1)], 1)
    grid = F.affine_grid(torch.from_numpy(theta).to(x), [n, 1, side, side], align_corners=False)
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    gain, bias = 1 + rng.uniform(-0.25, 0.25, n) * much, rng.uniform(-0.25, 0.25, n) * much
    x = x * torch.from_numpy(gain).to(x).view(n, 1, 1, 1) + torch.from_numpy(bias).to(x).view(n, 1, 1, 1)
    return erase(x, np.flatnonzero(rng.random(n) < config.erase), rng)


def erase(x: torch.Tensor, rows: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
    """Blank a random rectangle, a sixth to half of the side in each direction, of the pictures in `rows`: (N, C, S, S)."""
    side = x.shape[-1]
    size = rng.integers(side // 6, side // 2, (2, len(rows)))
    start = rng.integers(0, side - size)
    inside = (np.arange(side) >= start[..., None]) & (np.arange(side) < (start + size)[..., None])
    blank = np.zeros((len(x), 1, side, side), dtype=bool)
    blank[rows, 0] = inside[0][:, :, None] & inside[1][:, None, :]
    return x.masked_fill(torch.from_numpy(blank).to(x.device), 0)
