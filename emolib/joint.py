"""Learned fusions on frozen features: small networks that see both cues at once, and may find what the null model cannot."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import cache

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from emolib import clip, faces, fusion, pairs, texts, training
from emolib.clip import Encoder
from emolib.items import Items, held_out_rows
from emolib.profiles import Profile, out_folder
from emolib.records import Predictions, predictions

SEE_TOKENS = (*fusion.ONE_CUE_TOKENS, "attention")


@dataclass(frozen=True)
class Cues(Items):
    """Frozen features of pairs, one a row. face, text: (N, D) float32 unit vectors.

    face_tokens, text_tokens: (N, P, W), (N, T, W') float16, patches and words; rows of zeros are padding.
    matched: the texts may be exchanged inside a class, for the pairs were drawn so.
    """

    face: np.ndarray
    text: np.ndarray
    face_tokens: np.ndarray
    text_tokens: np.ndarray
    matched: bool = False


def cues(encoder: Encoder, data: Items, pictures, sentences, *, matched: bool = False) -> Cues:
    """The frozen features of pairs: `pictures` and `sentences` are whatever `encoder` encodes, one a row of `data`."""
    return Cues(
        data.ids, data.labels, data.split, data.classes, data.source,
        encoder.encode_images(pictures), encoder.encode_texts(sentences),
        encoder.encode_images(pictures, tokens=True), encoder.encode_texts(sentences, tokens=True), matched,
    )  # fmt: skip


@cache
def of_matched(profile: Profile) -> tuple[Cues, dict[str, list[Cues]]]:
    """The study's matched pairs in frozen features, and their test part with damaged faces and with words dropped.

    Tokens are not taken of what was damaged: cross-attention is left out of that analysis.
    """
    encoder = clip.load(profile)
    data = pairs.match(faces.prepare(profile), texts.prepare(profile))
    whole, part = cues(encoder, data, data.faces.pixels, data.texts.texts, matched=True), data.part("test")
    test, worse = whole.part("test"), {}
    for how, levels in faces.DAMAGES.items():
        vectors = [encoder.encode_images(faces.damage(part.faces, how, level).pixels) for level in levels]
        worse[how] = [replace(test, face=v) for v in vectors]
    vectors = [encoder.encode_texts(texts.drop_words(part.texts, share).texts) for share in texts.DROPS]
    return whole, worse | {"dropped words": [replace(test, text=v) for v in vectors]}


@cache
def of_genuine(profile: Profile, masked: bool) -> Cues:
    """The genuine pairs in frozen features, emotion words masked or not; the pictures are encoded once."""
    data, encoder = pairs.genuine(profile), clip.load(profile)
    if not masked:
        return cues(encoder, data, data.pictures, data.texts)
    data = pairs.masked(data)
    vectors, tokens = encoder.encode_texts(data.texts), encoder.encode_texts(data.texts, tokens=True)
    return replace(of_genuine(profile, False), source=data.source, text=vectors, text_tokens=tokens)


def perceptron(inputs: int, width: int, outputs: int, dropout: float) -> nn.Sequential:
    """One hidden layer."""
    return nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, outputs))


class Fusion(nn.Module):
    """Logits (N, K) from face and text vectors (N, D), their tokens (N, P, W) and (N, T, W'), and what is there, (N, 2) bool.

    concat: a perceptron on both vectors. gate: two perceptrons' logits, weighted by a third (Arevalo et al. 2017,
    arXiv:1702.01992). attention: words look at patches and patches at words (Lu et al. 2019, arXiv:1908.02265); face-tokens
    and text-tokens are the same network with nothing on the other side. joint:
    a linear head on the mean of the vectors, CLIP's own way to bring two things together. A cue that is missing is
    replaced by a learned vector.
    """

    def __init__(self, kind: str, sizes: tuple[int, int, int], classes: int, config):
        super().__init__()
        if kind not in fusion.KINDS:
            raise ValueError(f"unknown fusion {kind!r}; choose from {', '.join(fusion.KINDS)}")
        self.kind, (size, patch, word), width = kind, sizes, config.width
        self.scale = size**0.5  # unit vectors become vectors of unit variance
        self.absent = nn.Parameter(torch.zeros(2, size))
        if kind in (*fusion.ONE_CUE, "gate"):
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

    def forward(self, face, text, patches, words, there):
        x, y = (torch.where(there[:, [i]], v, self.absent[i] / self.scale) * self.scale for i, v in enumerate((face, text)))
        if self.kind in fusion.ONE_CUE:
            return self.one[0](x if self.kind == "face" else y)
        if self.kind == "concat":
            return self.both(torch.cat([x, y], 1))
        if self.kind == "gate":
            weight = torch.sigmoid(self.both(torch.cat([x, y], 1)))
            # With one cue missing its own logits say nothing: the other's count alone.
            weight = torch.where(there.all(1, keepdim=True), weight, there[:, :1].to(weight.dtype))
            return weight * self.one[0](x) + (1 - weight) * self.one[1](y)
        if self.kind == "joint":
            return self.both(F.normalize(x + y, dim=1) * self.scale)
        if self.kind in fusion.ONE_CUE_TOKENS:  # nothing is left of the cue that it must not see
            patches, words = (patches, words[:, :0]) if self.kind == "face-tokens" else (patches[:, :0], words)
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


class CueBatches:
    """Pairs as a fusion's inputs (see `training.Batches`); in training texts are exchanged inside a class where that is
    allowed, and a share of the pairs loses one of its cues (modality dropout)."""

    lengths = None

    def __init__(self, cues: Cues, kind: str, drop: float):
        self.labels, self.cues, self.drop, self.dtype = cues.labels, cues, drop, torch.get_default_dtype()
        self.tokens = kind in SEE_TOKENS
        self.rows = {label: np.flatnonzero(cues.labels == label) for label in np.unique(cues.labels)}

    def batch(self, rows, rng, progress):
        there, partner = np.ones((len(rows), 2), bool), rows
        if rng is not None:
            if self.cues.matched:
                partner = np.array([self.rows[label][int(u * len(self.rows[label]))] for label, u in zip(
                    self.labels[rows], rng.random(len(rows)), strict=True)])  # fmt: skip
            u = rng.random(len(rows))
            there[u < self.drop / 2, 0] = there[u >= 1 - self.drop / 2, 1] = False
        return self.inputs(rows, partner, there)

    def inputs(self, rows: np.ndarray, partners: np.ndarray, there: np.ndarray) -> tuple[torch.Tensor, ...]:
        """Tensors for the faces in `rows` and the texts in `partners`; tokens are left empty where nothing looks at them."""
        patches, words = (x if self.tokens else x[:, :0, :0] for x in (self.cues.face_tokens, self.cues.text_tokens))
        words = words[partners]
        words = words[:, : int((words != 0).any(2).sum(1).max(initial=0))]  # padding that no text of the batch needs
        columns = (self.cues.face[rows], self.cues.text[partners], patches[rows], words)
        return *(torch.from_numpy(c).to(self.dtype) for c in columns), torch.from_numpy(there)

    def views(self, inputs, progress, *, final):
        return [inputs]


@torch.no_grad()
def answers(models: list[Fusion], cues: Cues, rows: np.ndarray, partners: np.ndarray, there=(True, True)) -> np.ndarray:
    """Posteriors of the faces in `rows` of `cues` with the texts in the rows `partners`, each model's: (S, N, K) float64."""
    batches, parts = CueBatches(cues, models[0].kind, 0.0), []
    device = models[0].absent.device
    for start in range(0, len(rows), 4096):
        face, text = rows[start : start + 4096], partners[start : start + 4096]
        inputs = batches.inputs(face, text, np.tile(there, (len(face), 1)))
        inputs = tuple(x.to(device) for x in inputs)
        parts.append(np.stack([m.eval()(*inputs).double().softmax(1).cpu().numpy() for m in models]))
    return np.concatenate(parts, 1)


def learn(kind: str, cues: Cues, profile: Profile, name: str, degraded: dict[str, list[Cues]] | None = None) -> Predictions:
    """Train one fusion once a seed and ask it everything that the analyses need.

    degraded: {how: test cues at rising levels}. arrays, all of test pairs and the seeds' mean posterior: of those that see both
    cues "rows" (M,) and "additive" (M,) the classes that the additive part of the fusion gives these rows (EMAP); of matched
    pairs also "repaired" (R, N) classes under R re-pairings, "apart" (N, K) where half are `fusion.conflicts`, "no_face" and
    "no_text" (N, K), and "degraded.<how>" (L, N) classes, of those that see one cue (L, N, K) posteriors under damage to it.
    """
    with training.arithmetic(profile):
        done = [fit(kind, cues, profile, name, seed) for seed in profile.fusion.seeds]
        models, held_out, test = [d.model for d in done], held_out_rows(cues), cues.part("test")
        probs = answers(models, cues, held_out, held_out)
        arrays = together(models, test, profile.fusion) if kind in fusion.BOTH_CUES else {}
        for how, levels in (degraded or {}).items():
            own = fusion.ONE_CUE[0 if how in faces.DAMAGES else 1]
            if kind not in SEE_TOKENS and (kind == own or kind in fusion.BOTH_CUES):  # no tokens are taken of what is damaged
                arrays[f"degraded.{how}"] = worse(models, levels, kind == own)
    notes = {"history": [d.history for d in done], "runs": [d.notes for d in done]}
    return predictions(cues, probs, notes, arrays)


def together(models: list[Fusion], test: Cues, config) -> dict[str, np.ndarray]:
    """What `learn` asks of a fusion that sees both cues: EMAP; of matched pairs re-pairings, conflicts, missing cues."""
    own = np.arange(len(test))
    rows = np.random.default_rng(0).permutation(own)[: config.emap]
    every, other = (grid.ravel() for grid in np.meshgrid(rows, rows, indexing="ij"))
    # Of the seeds' mean posterior, so that the table's diagonal is what the system answers.
    table = fusion.log_odds(answers(models, test, every, other).mean(0)).reshape(len(rows), len(rows), -1)
    found = {"rows": rows.astype(np.int32), "additive": fusion.additive(table).argmax(1).astype(np.int8)}
    if test.matched:
        pairings = fusion.repairings(test.labels, config.pairings)
        found["repaired"] = np.stack([classes(models, test, own, partners) for partners in pairings])
        asked = {
            "apart": (fusion.conflicts(test.labels, 0.5),), "no_face": (own, (False, True)), "no_text": (own, (True, False)),
        }  # fmt: skip
        found |= {name: answers(models, test, own, *how).mean(0).astype(np.float32) for name, how in asked.items()}
    return found


def worse(models: list[Fusion], levels: list[Cues], one: bool) -> np.ndarray:
    """Answers on ever worse cues: posteriors (L, N, K) of an expert, for the null model; classes (L, N) of the others."""
    own = np.arange(len(levels[0]))
    found = np.stack([answers(models, level, own, own).mean(0) for level in levels])
    return found.astype(np.float16) if one else found.argmax(2).astype(np.int8)


def classes(models: list[Fusion], cues: Cues, rows: np.ndarray, partners: np.ndarray) -> np.ndarray:
    """The class of the seeds' mean posterior, (N,) int8."""
    return answers(models, cues, rows, partners).mean(0).argmax(1).astype(np.int8)


def fit(kind: str, cues: Cues, profile: Profile, name: str, seed: int) -> training.Fitted:
    """One run of the project's loop."""
    config = profile.fusion
    sizes = (cues.face.shape[1], cues.face_tokens.shape[2], cues.text_tokens.shape[2])
    torch.manual_seed(seed)
    train, validation = (CueBatches(cues.part(split), kind, config.drop) for split in ("train", "validation"))
    features = hashlib.sha256(cues.face.tobytes() + cues.text.tobytes()).hexdigest()
    key = json.dumps([cues.fingerprint, features, kind, asdict(replace(config, seeds=()))])
    return training.fit(
        Fusion(kind, sizes, len(cues.classes), config), train, validation, config.fit, profile, seed=seed, key=key,
        checkpoint=out_folder(profile) / "checkpoints" / name / f"seed-{seed}.safetensors",
    )  # fmt: skip
