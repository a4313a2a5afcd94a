"""Learned fusions on frozen features: small networks that see both modalities at once, and may find what the product cannot."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from functools import lru_cache

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from emolib.data.dataset import Dataset
from emolib.models import fusion, training
from emolib.profiles import Fusion as Config
from emolib.profiles import Work
from emolib.results.predictions import Predictions, predictions

SEE_TOKENS = (*fusion.ONE_ON_TOKENS, "attention")


@lru_cache(maxsize=3)
def features(encoder, pairs: Dataset, tokens: bool) -> Dataset:
    """Pairs with their frozen features as extras: "image", "text" (N, D) float32 unit vectors; "image-tokens" (N, P, W) and
    "text-tokens" (N, T, W') float16, patches and words, where rows of zeros are padding; without `tokens` (N, 0, 0)."""
    found = {"image": encoder.encode_images(pairs.images), "text": encoder.encode_texts(pairs.texts)}
    empty = np.zeros((len(pairs), 0, 0), np.float16)
    found["image-tokens"] = encoder.encode_images(pairs.images, tokens=True) if tokens else empty
    found["text-tokens"] = encoder.encode_texts(pairs.texts, tokens=True) if tokens else empty
    return replace(pairs, extras=found)


def perceptron(inputs: int, width: int, outputs: int, dropout: float) -> nn.Sequential:
    """One hidden layer."""
    return nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, outputs))


class Fusion(nn.Module):
    """Logits (N, K) from image and text vectors (N, D), their tokens (N, P, W) and (N, T, W'), and what is there, (N, 2) bool.

    concat: a perceptron on both vectors. gate: two perceptrons' logits, weighted by a third (Arevalo et al. 2017,
    arXiv:1702.01992). attention: words look at patches and patches at words (Lu et al. 2019, arXiv:1908.02265); image-tokens
    and text-tokens are the same network with nothing on the other side. joint: a linear head on the mean of the vectors,
    CLIP's own way to bring two things together. A modality that is missing is replaced by a learned vector.
    """

    def __init__(self, kind: str, sizes: tuple[int, int, int], classes: int, config: Config):
        super().__init__()
        if kind not in fusion.KINDS:
            raise ValueError(f"unknown fusion {kind!r}; choose from {', '.join(fusion.KINDS)}")
        self.kind, (size, patch, word), width = kind, sizes, config.width
        self.scale = size**0.5  # unit vectors become vectors of unit variance
        self.absent = nn.Parameter(torch.zeros(2, size))
        if kind in (*fusion.ONE, "gate"):
            self.one = nn.ModuleList(perceptron(size, width, classes, config.dropout) for _ in range(1 + (kind == "gate")))
        if kind in ("concat", "gate"):
            self.both = perceptron(2 * size, width, classes if kind == "concat" else 1, config.dropout)
        if kind in SEE_TOKENS:
            self.enter = nn.ModuleList(nn.Sequential(nn.LayerNorm(n), nn.Linear(n, width)) for n in (patch, word))
            self.unseen = nn.Parameter(torch.zeros(2, 1, width))
            self.look = nn.ModuleList(nn.MultiheadAttention(width, width // 32, config.dropout, batch_first=True) for _ in "12")
            self.both = perceptron(2 * width, width, classes, config.dropout)
        if kind == "joint":
            self.both = nn.Linear(size, classes)

    def forward(self, image, text, patches, words, there):
        x, y = (torch.where(there[:, [i]], v, self.absent[i] / self.scale) * self.scale for i, v in enumerate((image, text)))
        if self.kind in fusion.ONE:
            return self.one[0](x if self.kind == "image" else y)
        if self.kind == "concat":
            return self.both(torch.cat([x, y], 1))
        if self.kind == "gate":
            weight = torch.sigmoid(self.both(torch.cat([x, y], 1)))
            # With one modality missing its own logits say nothing: the other's count alone.
            weight = torch.where(there.all(1, keepdim=True), weight, there[:, :1].to(weight.dtype))
            return weight * self.one[0](x) + (1 - weight) * self.one[1](y)
        if self.kind == "joint":
            return self.both(F.normalize(x + y, dim=1) * self.scale)
        if self.kind in fusion.ONE_ON_TOKENS:  # nothing is left of the modality that it must not see
            patches, words = (patches, words[:, :0]) if self.kind == "image-tokens" else (patches[:, :0], words)
        return self.both(torch.cat(self.attend((patches, words), there), 1))

    def attend(self, tokens, there) -> list[torch.Tensor]:
        """What the patches found in the words, and the words in the patches: two (N, width), means over the tokens."""
        sides, masks = [], []
        for i, (enter, side) in enumerate(zip(self.enter, tokens, strict=True)):
            seen = (side != 0).any(2) & there[:, [i]]
            # One learned token a side is always there: what is missing, and something to look at.
            sides.append(torch.cat([self.unseen[i].expand(len(side), 1, -1), enter(side)], 1))
            masks.append(torch.cat([torch.ones_like(there[:, :1]), seen], 1))
        found = []
        for look, own, other in zip(self.look, (0, 1), (1, 0), strict=True):
            seen = look(sides[own], sides[other], sides[other], key_padding_mask=~masks[other], need_weights=False)[0]
            weight = masks[own].to(seen.dtype).unsqueeze(2)
            found.append(((sides[own] + seen) * weight).sum(1) / weight.sum(1))
        return found


class PairBatches(training.Batches):
    """Pairs with features as a fusion's inputs. In training texts are exchanged inside a class where the pairs were `matched`,
    and a share `drop` of the pairs loses one modality (modality dropout)."""

    def __init__(self, data: Dataset, kind: str, *, drop: float = 0.0, matched: bool = False):
        self.data, self.labels, self.drop, self.matched = data, data.labels, drop, matched
        self.tokens, self.dtype = kind in SEE_TOKENS, torch.get_default_dtype()
        self.rows = {label: np.flatnonzero(data.labels == label) for label in np.unique(data.labels)}

    def batch(self, rows, rng, progress):
        there, partner = np.ones((len(rows), 2), bool), rows
        if rng is not None:
            if self.matched:
                partner = np.array([self.rows[label][int(u * len(self.rows[label]))] for label, u in zip(
                    self.labels[rows], rng.random(len(rows)), strict=True)])  # fmt: skip
            u = rng.random(len(rows))
            there[u < self.drop / 2, 0] = there[u >= 1 - self.drop / 2, 1] = False
        return self.inputs(rows, partner, there)

    def inputs(self, rows: np.ndarray, partners: np.ndarray, there: np.ndarray) -> tuple[torch.Tensor, ...]:
        """Tensors for the images in `rows` and the texts in `partners`; tokens are left empty where nothing looks at them."""
        known = self.data.extras
        patches, words = (known[name] if self.tokens else known[name][:, :0, :0] for name in fusion.ONE_ON_TOKENS)
        words = words[partners]
        words = words[:, : int((words != 0).any(2).sum(1).max(initial=0))]  # padding that no text of the batch needs
        columns = (known["image"][rows], known["text"][partners], patches[rows], words)
        return *(torch.from_numpy(c).to(self.dtype) for c in columns), torch.from_numpy(there)


@torch.no_grad()
def answers(models: list[Fusion], data: Dataset, rows: np.ndarray, partners: np.ndarray, there=(True, True)) -> np.ndarray:
    """Posteriors of the images in `rows` of `data` with the texts in `partners`, each model's: (S, N, K) float64."""
    batches, parts, device = PairBatches(data, models[0].kind), [], models[0].absent.device
    for start in range(0, len(rows), 4096):
        images, texts = rows[start : start + 4096], partners[start : start + 4096]
        inputs = tuple(x.to(device) for x in batches.inputs(images, texts, np.tile(there, (len(images), 1))))
        parts.append(np.stack([m.eval()(*inputs).double().softmax(1).cpu().numpy() for m in models]))
    return np.concatenate(parts, 1)


def learn(encoder, pairs: Dataset, kind: str, config: Config, matched: bool, work: Work) -> Predictions:
    """Train one fusion once per seed and ask it everything that the analyses need.

    arrays, all of test pairs and of the seeds' mean posterior, calibrated: of kinds that see both modalities "rows" (M,) and
    "additive" (M,), the classes that the additive part of the fusion gives these rows (EMAP); of matched pairs also
    "repaired" (R, N) classes under R re-pairings, "apart" (N, K) where half are `fusion.conflicts`, "no_image" and "no_text"
    (N, K).
    """
    data = features(encoder, pairs, kind in SEE_TOKENS)
    work = replace(work, precision="float64" if work.precision == "float64" else "float32")  # so small, 16 bits gain nothing
    with training.arithmetic(work):
        fits = [fit(data, kind, config, matched, seed, work) for seed in config.seeds]
        models, rows = [f.model for f in fits], data.held_out
        notes = {"history": [f.history for f in fits], "runs": [f.notes for f in fits]}
        found = predictions(pairs, answers(models, data, rows, rows), notes)
        if kind in fusion.BOTH:
            found = replace(found, arrays=together(models, found.validation, data.part("test"), config, matched))
    return found


def together(models: list[Fusion], validation: Predictions, test: Dataset, config: Config, matched: bool) -> dict:
    """What `learn` asks of a fusion that sees both: EMAP; of matched pairs re-pairings, conflicts, missing modalities."""
    own, calibration = np.arange(len(test)), fusion.calibrate(validation)

    def posterior(rows: np.ndarray, partners: np.ndarray, there=(True, True)) -> np.ndarray:
        return calibration(answers(models, test, rows, partners, there).mean(0))

    rows = np.random.default_rng(0).permutation(own)[: config.emap]
    every, other = (grid.ravel() for grid in np.meshgrid(rows, rows, indexing="ij"))
    table = np.log(np.clip(posterior(every, other), fusion.FLOOR, None)).reshape(len(rows), len(rows), -1)
    found = {"rows": rows.astype(np.int32), "additive": fusion.additive(table).argmax(1).astype(np.int8)}
    if matched:
        pairings = fusion.repairings(test.labels, config.pairings)
        found["repaired"] = np.stack([posterior(own, texts).argmax(1) for texts in pairings]).astype(np.int8)
        probs = {
            "apart": posterior(own, fusion.conflicts(test.labels, 0.5)),
            "no_image": posterior(own, own, (False, True)),
            "no_text": posterior(own, own, (True, False)),
        }
        found |= {name: values.astype(np.float32) for name, values in probs.items()}
    return found


def fit(data: Dataset, kind: str, config: Config, matched: bool, seed: int, work: Work) -> training.Fitted:
    """One run of the project's loop on pairs with features."""
    image, text = data.extras["image"], data.extras["text"]
    sizes = (image.shape[1], *(data.extras[name].shape[2] for name in fusion.ONE_ON_TOKENS))
    torch.manual_seed(seed)
    train, validation = (PairBatches(data.part(s), kind, drop=config.drop, matched=matched) for s in ("train", "validation"))
    digest = hashlib.sha256(image.tobytes() + text.tobytes()).hexdigest()
    key = json.dumps([data.fingerprint, digest, kind, matched, asdict(replace(config, seeds=()))])
    model = Fusion(kind, sizes, len(data.classes), config)
    return training.fit(model, train, validation, config.fit, seed=seed, key=key, work=work)
