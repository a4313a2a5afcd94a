"""What is trained of a dual encoder, and how: full, LoRA, LP-FT, contrastive with prompts (FLYP).

Every method ends in plain weights of the encoder's own shape and a `Head`, so that whatever is measured of one encoder can
be measured of each, and of each mixture with the pretrained one (WiSE-FT).
"""

from __future__ import annotations

import copy
import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from emolib.data.dataset import Dataset
from emolib.data.labels import METHODS, SPLITS
from emolib.models import heads, training
from emolib.models.encoder import PARTS, Encoder, stacked
from emolib.models.heads import Head
from emolib.models.networks import augment
from emolib.profiles import Search, Tuning, Work
from emolib.results.predictions import Facts, Predictions, facts, predictions

HELD = 2**31  # bytes
LORA_LAYERS = "q_proj|k_proj|v_proj|query|key|value"  # as in CLIP-LoRA, Zanella and Ben Ayed 2024, arXiv:2405.18541


@dataclass(frozen=True)
class Tuned:
    """A further trained encoder: those of its weights that may have changed, by name, and its head.

    alpha-mixtures of two are Tuned as well.
    """

    weights: dict[str, torch.Tensor]
    head: Head

    def mixed(self, start: Tuned, alpha: float) -> Tuned:
        """(1 - alpha) x start + alpha x this, weight by weight and in the head: `start` at 0, this at 1, exactly.

        Raises ValueError for an alpha outside [0, 1].
        Source: Wortsman et al. 2022, Robust fine-tuning of zero-shot models (WiSE-FT), arXiv:2109.01903, equation 1.
        """
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha is {alpha}, wanted 0 to 1")
        weights = {k: blend(start.weights[k], v, alpha) for k, v in self.weights.items()}
        head = Head(blend(start.head.weight, self.head.weight, alpha), blend(start.head.bias, self.head.bias, alpha))
        return Tuned(weights, head)

    def save(self, path: Path) -> None:
        """One safetensors file, written whole or not at all."""
        heads.save(path, self.weights, self.head)

    @staticmethod
    def load(path: Path) -> Tuned:
        """What `save` wrote; FileNotFoundError says which command makes it."""
        if not path.exists():
            page = {"genuine": "05", "own": "06"}.get(path.parent.name, "04")
            raise FileNotFoundError(f"{path} is not there; make it: python -m emolib run --profile PROFILE --fresh {page}")
        tensors = load_file(path)
        head = Head(tensors.pop("head.weight").numpy(), tensors.pop("head.bias").numpy())
        return Tuned({k.removeprefix("model."): v for k, v in tensors.items()}, head)


def blend(start, end, alpha: float):
    """(1 - alpha) x start + alpha x end; counters and other whole numbers are the end's."""
    whole = isinstance(end, torch.Tensor) and not end.is_floating_point()
    return end if whole else (1 - alpha) * start + alpha * end


class Classifier(nn.Module):
    """A dual encoder with a head on the unit vectors of one modality, or on the mean of both.

    Inputs: pixels (N, 3, S, S) for images; tokens and mask (N, T) for texts; all three for both. Output: logits (N, K).
    """

    def __init__(self, encoder: Encoder, modalities: tuple[str, ...], head: Head, config: Tuning, *, train_head: bool = False):
        super().__init__()
        self.encoder, self.modalities, self.lora = copy.copy(encoder), modalities, []
        self.changes = modalities  # whose encoders may end with other weights
        self.encoder.model = self.model = copy.deepcopy(encoder.model)
        # The backward pass of PyTorch's fused attention takes a third of a step on a CPU; "eager" would round float64 to float32.
        if self.model.device.type == "cpu" and self.model.dtype != torch.float64:
            self.model.set_attn_implementation("eager")
        self.learn(modalities if not config.rank else ())
        kinds = {"dtype": self.model.dtype, "device": self.model.device}
        self.weight = nn.Parameter(torch.tensor(head.weight, **kinds), requires_grad=train_head)
        self.bias = nn.Parameter(torch.tensor(head.bias, **kinds), requires_grad=train_head)
        if config.rank:
            from peft import LoraConfig, get_peft_model

            where = rf"({'|'.join(part for m in modalities for part in PARTS[m])})\..*({LORA_LAYERS})"
            lora = LoraConfig(r=config.rank, lora_alpha=2 * config.rank, target_modules=where, init_lora_weights=True)
            self.lora = [get_peft_model(self.model, lora)]  # in a list: its parameters are those of self.model already
        if config.patches < 1:
            embeddings = next(m for n, m in self.model.named_modules() if n.endswith("vision_model.embeddings"))
            # The hook asks its own module: copies of this classifier (averages) keep the hook, each in a mode of its own.
            embeddings.register_forward_hook(lambda module, _, out: some_patches(out, config.patches) if module.training else out)

    def learn(self, modalities: tuple[str, ...]) -> None:
        """Let the encoders of these modalities learn, and nothing else of the model."""
        parts = tuple(part for modality in modalities for part in PARTS[modality])
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name.startswith(parts))

    def vectors(self, *inputs: torch.Tensor) -> torch.Tensor:
        """(N, D) unit vectors of one modality, or the two vectors' mean, again of length 1."""
        encoded = [self.encoder.image_vectors(inputs[0])] if "image" in self.modalities else []
        encoded += [self.encoder.text_vectors(*inputs[-2:])] if "text" in self.modalities else []
        return encoded[0] if len(encoded) == 1 else F.normalize(encoded[0] + encoded[1], dim=-1)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return training.logits(self.vectors(*inputs), self.weight, self.bias)

    def tuned(self) -> Tuned:
        """The weights of the trained encoders in their own shape (LoRA merged) and the head."""
        model = copy.deepcopy(self.lora[0]).merge_and_unload() if self.lora else self.model
        parts = tuple(part for modality in self.changes for part in PARTS[modality])
        weights = {k: v.detach().cpu() for k, v in model.state_dict().items() if k.startswith(parts)}
        return Tuned(weights, Head(*(p.detach().cpu().double().numpy() for p in (self.weight, self.bias))))


class Prompted(Classifier):
    """The head is the text encoder's view of the class prompts, and both encoders learn (FLYP)."""

    def __init__(self, encoder: Encoder, modalities: tuple[str, ...], head: Head, config: Tuning, prompts: list[list[str]]):
        super().__init__(encoder, modalities, head, config)
        self.changes = tuple(PARTS)
        self.learn(self.changes)
        tokens = encoder.pad(encoder.tokenize([prompt for some in prompts for prompt in some]))
        self.tokens, self.mask = (x.to(encoder.model.device) for x in tokens)  # no buffers: nothing to be averaged
        self.ends = np.cumsum([0] + [len(some) for some in prompts])

    def directions(self) -> torch.Tensor:
        """(K, D) unit vectors: in training of one prompt per class, drawn anew each step; else the mean over its prompts."""
        spans = list(zip(self.ends[:-1], self.ends[1:], strict=True))
        if self.training:
            draw = torch.rand(len(spans)).tolist()
            rows = torch.tensor([int(a + (b - a) * u) for (a, b), u in zip(spans, draw, strict=True)])
            return self.encoder.text_vectors(self.tokens[rows], self.mask[rows])
        each = self.encoder.text_vectors(self.tokens, self.mask)
        return F.normalize(torch.stack([each[a:b].mean(0) for a, b in spans]), dim=-1)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return training.logits(self.encoder.scale * self.vectors(*inputs), self.directions())

    @torch.no_grad()
    def tuned(self) -> Tuned:
        self.eval()
        weight = self.encoder.scale * self.directions().double().cpu().numpy()
        return replace(super().tuned(), head=Head(weight, np.zeros(len(weight))))


def contrastive(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    """CLIP's loss between the items of a batch and the prompts of their classes: (N, K) logits -> a scalar, nats.

    Each item is to find its own prompt among the batch's, and each prompt its item; two items of one class count as each
    other's mistakes, as in the source: Goyal et al. 2023, Finetune like you pretrain, arXiv:2212.00638, equation 2. Targets
    shared by all items of a class would give the same: their prompt is one, so their columns are equal.
    """
    pairs, own = logits[:, labels], torch.arange(len(labels), device=labels.device)
    rows = F.cross_entropy(pairs, own, label_smoothing=label_smoothing)
    return (rows + F.cross_entropy(pairs.T, own, label_smoothing=label_smoothing)) / 2


def some_patches(tokens: torch.Tensor, share: float) -> torch.Tensor:
    """A random share of the patch tokens, the class token always: (N, 1 + P, W) -> (N, 1 + P', W), each picture its own."""
    n, patches, width = tokens[:, 1:].shape
    kept = torch.rand(n, patches, device=tokens.device).argsort(1)[:, : max(1, round(share * patches))].sort(1).values
    return torch.cat([tokens[:, :1], tokens[:, 1:].gather(1, kept.unsqueeze(2).expand(-1, -1, width))], 1)


def thinned(tokens: list[int], rng: np.random.Generator, share: float) -> list[int]:
    """A text without a random share of its tokens; the first and the last, which begin and end it, stay."""
    kept = rng.random(len(tokens)) >= share
    kept[[0, -1]] = True
    return [token for token, keep in zip(tokens, kept, strict=True) if keep]


class Batches(training.Batches):
    """An encoder's inputs by the columns that are there: pixels, or tokens and mask, or all three.

    Square uint8 pictures lie on the device and are resized there. Others are opened once, where all of them at the encoder's
    size take no more than `HELD` bytes, else batch by batch in each epoch.
    """

    def __init__(self, data: Dataset, encoder: Encoder, config: Tuning):
        self.data, self.labels, self.encoder, self.config = data, data.labels, encoder, config
        square = None if data.images is None else stacked(data.images)
        if data.images is not None and square is None and 0 < len(data) * 3 * encoder.size**2 <= HELD:
            square = encoder.open(data.images, data.ids)
        self.images = data.images if square is None else square.to(encoder.model.device)
        self.tokens = None if data.texts is None else encoder.tokenize(data.texts)
        self.lengths = None if data.texts is None else np.array([len(tokens) for tokens in self.tokens])

    def batch(self, rows, rng, progress):
        pixels = () if self.images is None else (self.pixels(rows, rng),)
        if self.tokens is None:
            return pixels
        tokens, share = [self.tokens[row] for row in rows], self.config.drop
        if rng is not None and share:
            tokens = [thinned(some, rng, share) for some in tokens]
        return (*pixels, *self.encoder.pad(tokens))

    def pixels(self, rows: np.ndarray, rng: np.random.Generator | None) -> torch.Tensor:
        """(N, 3, S, S) normalised pictures; with `rng` augmented."""
        images, ids = self.images[rows], self.data.ids[rows]
        if rng is None:
            return self.encoder.pixels(images, ids)
        opened = images if isinstance(images, torch.Tensor) else self.encoder.open(images, ids).to(self.encoder.model.device)
        x = opened.to(self.encoder.model.dtype) / 255 - 0.5  # what is turned in is middle grey
        return self.encoder.normalise(augment(x, rng, self.encoder.size, self.config) + 0.5)


def tune(
    encoder: Encoder, data: Dataset, method: str, config: Tuning, prompts: list[list[str]] | None, *, work: Work = Work()
) -> Predictions:  # fmt: skip
    """Train the encoders of the modalities that `data` has, once per seed, and judge them on held-out items.

    method: "full" and "lora" keep the zero-shot head of `prompts` (K lists of sentences), "lpft" starts from a linear probe's
    head and trains it (Kumar et al. 2022, arXiv:2202.10054), "flyp" trains both encoders against the prompts.
    The seeds differ in the order of the rows, the augmentation and LoRA's start. Models of the seeds `config.kept` are kept
    where `work` has a folder.
    """
    if method not in METHODS or (method == "lora") != bool(config.rank):
        raise ValueError(f"method {method!r} with rank {config.rank}; choose from {', '.join(METHODS)}; lora alone has a rank")
    head = first_head(encoder, data, method, prompts)
    held_out, notes, probs = data.select(data.held_out), {"history": [], "runs": [], "encoder": encoder.facts}, []
    for seed in config.seeds:
        done = fit(encoder, data, method, config, prompts, head, seed=seed, work=work)
        tuned = done.model.tuned()
        if work.folder and seed in config.kept:
            tuned.save(work.model(seed=seed))
        probs.append(tuned.head.posterior(encoder.with_weights(tuned.weights).vectors(held_out)))
        notes["history"].append(done.history)
        notes["runs"].append(done.notes)
    return predictions(data, np.stack(probs), notes)


def search(
    encoder: Encoder, data: Dataset, method: str, config: Tuning, prompts: list[list[str]] | None, grid: Search,
    ranks: tuple[int, ...] | None = None, *, work: Work = Work(),
) -> Facts:  # fmt: skip
    """Short trainings at several learning rates, on fixed random Training and validation items, with the first seed.

    Where the best rate is the lowest or highest, the next one beyond it is tried as well, `grid.beyond` times at most. One
    whose loss is not finite is left out; FloatingPointError where that is so of all. ranks: of LoRA, each tried at the best
    rate of the configuration's own rank.
    notes: "tried", of each rate (and rank) the best epoch's validation accuracy and loss; "rate" (and "rank"), the best by
    accuracy, of several the one with the lowest loss; "rows", "n", "epochs".
    """
    rng = np.random.default_rng(0)
    rows = [rng.permutation(np.flatnonzero(data.split == split))[: grid.rows] for split in SPLITS[:2]]
    some = data.select(np.concatenate(rows))
    head = first_head(encoder, some, method, prompts)

    def attempt(rate: float, rank: int = config.rank) -> list[dict]:
        short = config.at(rate, rank)
        short = replace(short, fit=replace(short.fit, epochs=grid.epochs))
        try:
            done = fit(encoder, some, method, short, prompts, head, seed=config.seeds[0], work=replace(work, folder=None))
        except FloatingPointError as error:  # a rate too high is no candidate, and no reason to stop
            print(f"{work.step}, rate {rate:g}{f', rank {rank}' if ranks else ''} left out: {error}", file=sys.stderr)
            return []
        found = {"rate": rate} | ({"rank": rank} if ranks else {})
        return [found | done.history[training.best_epoch(done.history)]]

    tried = [found for factor in sorted(grid.factors) for found in attempt(factor * config.fit.learning_rate)]
    if not tried:
        raise FloatingPointError(f"{work.step}: no rate of the search gives a finite loss; start from a lower one")
    for _ in range(grid.beyond if len(tried) > 1 else 0):
        best, apart = training.best_epoch(tried), tried[1]["rate"] / tried[0]["rate"]
        if best not in (0, len(tried) - 1):
            break
        further = attempt(tried[0]["rate"] / apart if best == 0 else tried[-1]["rate"] * apart)
        if not further:
            break
        tried = further + tried if best == 0 else tried + further
    rate = tried[training.best_epoch(tried)]["rate"]
    tried += [found for rank in ranks or () if rank != config.rank for found in attempt(rate, rank)]
    best = tried[training.best_epoch(tried)]  # one rule for epochs, rates and ranks
    chosen = {k: best[k] for k in ("rate", "rank") if k in best}
    return facts(data, {"tried": tried, **chosen, "rows": len(rows[0]), "n": len(rows[1]), "epochs": grid.epochs})


def first_head(encoder: Encoder, data: Dataset, method: str, prompts: list[list[str]] | None) -> Head:
    """The head with which a method starts: LP-FT's is a linear probe's, that of the others the zero-shot one."""
    return heads.fit_probe(data, encoder.vectors(data))[1] if method == "lpft" else heads.zero_shot(encoder, prompts)


def model_and_loss(encoder, modalities, method, config, prompts, head: Head) -> tuple[Classifier, Callable]:
    """The model that a method trains, as it is before the first step, and its loss."""
    if method == "flyp":
        return Prompted(encoder, modalities, head, config, prompts), contrastive
    return Classifier(encoder, modalities, head, config, train_head=method == "lpft"), F.cross_entropy


def fit(encoder, data, method, config, prompts, head: Head, *, seed: int, work: Work) -> training.Fitted:
    """One run of the loop."""
    settings = asdict(replace(config, seeds=(), kept=()))
    parts = {"settings": settings, "prompts": prompts if method == "flyp" else None, "method": method}
    start = hashlib.sha256(head.weight.tobytes() + head.bias.tobytes()).hexdigest()
    key = json.dumps([data.fingerprint, data.modalities, encoder.fingerprint, encoder.size, parts, start])
    with training.arithmetic(work):
        torch.manual_seed(seed)
        model, loss = model_and_loss(encoder, data.modalities, method, config, prompts, head)
        train, validation = (Batches(data.part(split), encoder, config) for split in ("train", "validation"))
        return training.fit(model, train, validation, config.fit, seed=seed, key=key, work=work, loss=loss)
