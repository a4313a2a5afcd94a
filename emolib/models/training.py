"""ONE visible training loop for every trained system: early stop on validation, checkpoint each epoch, resume."""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from emolib import store
from emolib.profiles import Fit, Work

PRECISIONS = ("float64", "float32", "bfloat16", "auto")


class Batches(Protocol):
    """Rows that a model can be trained on and asked about; what inherits this states labels and `batch`.

    labels: (N,) int. lengths: (N,) int where rows of like length should meet, so that little is padded, else None.
    """

    labels: np.ndarray
    lengths: np.ndarray | None = None

    def batch(self, rows: np.ndarray, rng: np.random.Generator | None, progress: float) -> tuple[torch.Tensor, ...]:
        """The model's inputs for some rows; with `rng` augmented for training, `progress` in [0, 1) telling how far it is."""

    def views(self, inputs: tuple[torch.Tensor, ...], progress: float, *, final: bool) -> list[tuple[torch.Tensor, ...]]:
        """The inputs as a model trained so far is to see them; posteriors are averaged over these, more of them at the end."""
        return [inputs]


@dataclass
class Fitted:
    """What a run leaves: the model with its best weights, the curve, the cost."""

    model: nn.Module
    history: list[dict]
    notes: dict


@contextmanager
def arithmetic(work: Work):
    """Default dtype and thread count of a step, put back afterwards.

    float64 makes a run the same on every CPU and number of threads to 1e-14; float32 training is only as repeatable as its CPU.
    """
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float64 if work.precision == "float64" else torch.float32)
    torch.set_num_threads(work.threads or threads)
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)


def half(precision: str) -> torch.dtype | None:
    """The 16-bit type in which to compute, None for none.

    "bfloat16": that type, or float16 on a GPU without it (Colab's T4). "auto": the same on a GPU; on a CPU bfloat16 where
    it has instructions for it, which are two to four times as fast; without them it would be slower than float32.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; choose from {', '.join(PRECISIONS)}")
    if precision in ("float64", "float32"):
        return None
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16
    return torch.bfloat16 if precision == "bfloat16" or cpu_flags() & {"avx512_bf16", "amx_bf16"} else None


@cache
def cpu_flags() -> frozenset[str]:
    """What Linux says that this processor can do; nothing on other systems."""
    source = Path("/proc/cpuinfo")
    lines = source.read_text(encoding="utf8").splitlines() if source.exists() else []
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())


def autocast(precision: str):
    """The context in which a model computes in 16 bits, where the precision asks for them."""
    kind = half(precision)
    return torch.autocast("cuda" if torch.cuda.is_available() else "cpu", kind) if kind else nullcontext()


def logits(vectors: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """(N, D) @ (K, D).T + (K,) at the precision of the weights, also under autocast, whose 8 bits would round logits to 0.1."""
    with torch.autocast(vectors.device.type, enabled=False):
        return F.linear(vectors.to(weight.dtype), weight, bias)


def order(batches: Batches, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """One epoch's rows, batch by batch; texts of like length meet, so that little is padded.

    A short batch would weigh its rows more than others and upset batch normalisation: as many rows as it had are left out, drawn
    anew each epoch, before the texts are sorted, or it would always be the longest.
    """
    n = len(batches.labels)
    rows = rng.permutation(n)[: n // size * size or n]
    if batches.lengths is not None:
        pools = [rows[i : i + 20 * size] for i in range(0, len(rows), 20 * size)]
        rows = np.concatenate([pool[np.argsort(batches.lengths[pool], kind="stable")] for pool in pools])
    parts = [rows[i : i + size] for i in range(0, len(rows), size)]
    return [parts[i] for i in rng.permutation(len(parts))]


def rate(config: Fit, progress: float) -> float:
    """Learning rate at a share of the run: a linear rise over the warm-up, then half a cosine down to zero."""
    if progress < config.warmup:
        return config.learning_rate * progress / config.warmup
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (progress - config.warmup) / (1 - config.warmup)))


def moving_average(decay: float):
    """Exponential moving average of the weights whose decay rises to `decay`, so that the random start is soon forgotten."""

    def update(averaged, current, count):
        if not averaged[0].is_floating_point():  # torch would truncate an average of whole numbers: token positions move
            return [a.copy_(c) for a, c in zip(averaged, current, strict=True)]
        get_ema_multi_avg_fn(min(decay, (1 + int(count)) / (10 + int(count))))(averaged, current, count)

    return update


def make_optimizer(model: nn.Module, config: Fit) -> torch.optim.Optimizer:
    """AdamW or Nesterov SGD; gains and biases are not decayed. ValueError for another name."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=0.9, nesterov=True)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate)
    raise ValueError(f"optimizer is {config.optimizer!r}; choose from sgd, adamw")


@dataclass
class Run:
    """A training under way: `model` as the processes share it, `bare` beneath it, its average, what is known so far."""

    name: str
    config: Fit
    precision: str
    loss: Callable[..., torch.Tensor]
    acc: Accelerator
    model: nn.Module
    started: float = field(default_factory=time.monotonic)
    history: list[dict] = field(default_factory=list)
    best: dict[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self):
        self.model = self.acc.prepare(self.model)
        self.bare = self.acc.unwrap_model(self.model)
        self.optimizer = make_optimizer(self.bare, self.config)
        self.scaler = torch.amp.GradScaler(self.acc.device.type, enabled=half(self.precision) is torch.float16)
        average = moving_average(self.config.ema)
        self.average = AveragedModel(self.bare, multi_avg_fn=average, use_buffers=True) if self.config.ema else None
        self.judged = self.average.module if self.average else self.bare


def fit(
    model: nn.Module, train: Batches, validation: Batches, config: Fit, *,
    seed: int, key: str, work: Work = Work(), loss: Callable[..., torch.Tensor] = F.cross_entropy,
) -> Fitted:  # fmt: skip
    """Train, keep the epoch that is best on validation, and return the model with its weights.

    loss: (logits (N, K), labels (N,), label_smoothing=...) -> a scalar, the mean over the batch.
    key: whatever else the result depends on (data fingerprint); a checkpoint of another key or configuration is not used.
    A killed run goes on from work.checkpoint(seed) to the same weights. FloatingPointError at the first loss not finite.
    """
    run = Run(f"{work.step} seed-{seed}", config, work.precision, loss, Accelerator(mixed_precision="no"), model)
    key, path = hashlib.sha256(json.dumps([key, seed, asdict(config)]).encode()).hexdigest(), work.checkpoint(seed)
    if path and restore(run, path, key):
        print(f"{run.name}: resumed after epoch {len(run.history)}", file=sys.stderr)
    while (epoch := len(run.history)) < config.epochs and not stopped(run.history, config.patience):
        rng = np.random.default_rng([seed, epoch])  # a fresh stream an epoch: nothing random has to be saved
        set_seed(seed * 1000 + epoch)
        mean = train_epoch(run, train, epoch, rng)
        # What the first process found decides for all, or one of them might stop while the others wait for it.
        run.history += broadcast_object_list([{"train_loss": mean} | judge(run, validation, epoch / config.epochs)])
        if best_epoch(run.history) == epoch:
            run.best = {k: v.detach().clone() for k, v in learned(run.judged).items()}
        if path and run.acc.is_main_process:
            save(run, path, key)
        said = ", ".join(f"{k} {v:.4f}" for k, v in run.history[-1].items())
        tqdm.write(f"{run.name} epoch {epoch + 1}: {said}", sys.stderr)
    load_learned(run.bare, run.best)
    trained = sum(p.numel() for p in run.bare.parameters() if p.requires_grad)
    kind = str(half(work.precision) or torch.get_default_dtype()).removeprefix("torch.")
    notes = {"seconds": time.monotonic() - run.started, "parameters": trained, "best_epoch": best_epoch(run.history) + 1}
    notes["arithmetic"] = kind  # what "auto" was on this machine
    return Fitted(run.bare, run.history, notes)


def train_epoch(run: Run, train: Batches, epoch: int, rng: np.random.Generator) -> float:
    """One pass over the training rows; returns the mean loss (nats)."""
    acc, config, losses = run.acc, run.config, []
    parts = order(train, config.batch_size, rng)
    run.model.train()
    name = f"{run.name} {epoch + 1}/{config.epochs}"
    bar = tqdm(parts, name, unit="batch", leave=False, mininterval=1)
    for number, rows in enumerate(bar):
        progress = (epoch + number / len(parts)) / config.epochs
        for group in run.optimizer.param_groups:
            group["lr"] = rate(config, progress)
        # Each process prepares the whole batch and takes its share: random numbers do not depend on it.
        mine = slice(acc.process_index, None, acc.num_processes)
        inputs = tuple(x[mine].to(acc.device) for x in train.batch(rows, rng, progress))
        labels = torch.as_tensor(train.labels[rows[mine]], device=acc.device)
        where = f"epoch {epoch + 1}, batch {number + 1} of {len(parts)}"
        losses.append(train_step(run, inputs, labels, where))
    return float(acc.reduce(torch.stack(losses).double().mean(), reduction="mean"))


def train_step(run: Run, inputs: tuple, labels: torch.Tensor, where: str) -> torch.Tensor:
    """One step down the gradient of a batch's loss; returns that loss (nats), float32 or float64."""
    with autocast(run.precision):
        output = run.model(*inputs)
    output = output.to(torch.promote_types(output.dtype, torch.float32))
    value = run.loss(output, labels, label_smoothing=run.config.label_smoothing)
    # All processes stop together, or those whose share is finite would wait for the one that stopped.
    if run.acc.reduce(value.isfinite().float(), reduction="mean") < 1:
        raise FloatingPointError(
            f"{run.name}, {where}: the loss is {value.item()}, wanted a finite one in every process; lower the learning "
            f"rate ({run.config.learning_rate}) or compute in float32 (here: {run.precision})"
        )
    run.optimizer.zero_grad()
    run.scaler.scale(value).backward()
    run.scaler.unscale_(run.optimizer)
    nn.utils.clip_grad_norm_(run.model.parameters(), run.config.clip_norm)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    if run.average:
        run.average.update_parameters(run.bare)
    return value.detach()


@torch.no_grad()
def predict(model: nn.Module, batches: Batches, *, precision: str = "float32", progress: float = 1.0, final: bool = True,
            size: int = 256) -> np.ndarray:  # fmt: skip
    """Posteriors of every row, averaged over the views: (N, K) float64, rows sum to 1.

    progress: of the training when the weights were chosen. final: whether it is over, and all views are asked.
    """
    model.eval()
    device, rows = next(model.parameters()).device, np.arange(len(batches.labels))
    if batches.lengths is not None:
        rows = rows[np.argsort(batches.lengths, kind="stable")]
    parts = []
    for start in range(0, len(rows), size):
        inputs = tuple(x.to(device) for x in batches.batch(rows[start : start + size], None, 1.0))
        with autocast(precision):
            outputs = [model(*view) for view in batches.views(inputs, progress, final=final)]
        parts.append(torch.stack([output.double().softmax(1) for output in outputs]).mean(0).cpu().numpy())
    return np.concatenate(parts)[np.argsort(rows, kind="stable")]


def judge(run: Run, validation: Batches, progress: float) -> dict[str, float]:
    """Loss (nats) and accuracy on the validation rows."""
    probs = predict(run.judged, validation, precision=run.precision, progress=progress, final=False)
    chosen = np.clip(probs[np.arange(len(probs)), validation.labels], 1e-12, None)
    hits = probs.argmax(1) == validation.labels
    return {"validation_loss": float(-np.log(chosen).mean()), "validation_accuracy": float(hits.mean())}


def best_epoch(history: list[dict]) -> int:
    """The epoch of the highest validation accuracy; of several, the one with the lowest validation loss."""
    return max(range(len(history)), key=lambda i: (history[i]["validation_accuracy"], -history[i]["validation_loss"]))


def stopped(history: list[dict], patience: int) -> bool:
    """Whether `patience` epochs have passed since the best one."""
    return bool(history) and len(history) - 1 - best_epoch(history) >= patience


def learned(model: nn.Module) -> dict[str, torch.Tensor]:
    """What training changes of a model, by name: parameters that are not frozen, and buffers."""
    frozen = {name for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}
    return {k: v for k, v in model.state_dict().items() if k not in frozen}


def load_learned(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Put back what `learned` gave; RuntimeError where a tensor lacks or is of another shape."""
    changing = learned(model)
    model.load_state_dict({k: v for k, v in model.state_dict().items() if k not in changing} | state)


def save(run: Run, path: Path, key: str) -> None:
    """Everything that a run needs to go on and its maker does not know, in one safetensors file, whole or not at all."""
    slots = {f"{i}.{k}": v for i, slots in run.optimizer.state_dict()["state"].items() for k, v in slots.items() if v is not None}
    parts = {"model": learned(run.bare), "best": run.best, "optimizer": slots}
    if run.average:
        parts["average"] = learned(run.average)
    tensors = {f"{part}.{k}": v.detach().cpu().contiguous().clone() for part, some in parts.items() for k, v in some.items()}
    seconds, scaler = time.monotonic() - run.started, run.scaler.state_dict()
    note = {"key": key, "history": run.history, "seconds": seconds, "scaler": scaler}
    with store.atomic(path) as temporary:
        save_file(tensors, temporary, metadata={"note": json.dumps(note)})


def restore(run: Run, path: Path, key: str) -> bool:
    """Put a checkpoint back into place; False where there is none or it belongs to another configuration or data."""
    if not path.exists() or (note := store.read_note(path)).get("key") != key:
        return False
    parts = nested(load_file(path))
    load_learned(run.bare, parts["model"])
    if run.average:
        load_learned(run.average, parts["average"])
    slots = {int(index): some for index, some in nested(parts.get("optimizer", {})).items()}
    run.optimizer.load_state_dict({"state": slots, "param_groups": run.optimizer.state_dict()["param_groups"]})
    if note["scaler"]:
        run.scaler.load_state_dict(note["scaler"])
    run.history, run.best, run.started = note["history"], parts["best"], run.started - note["seconds"]
    return True


def nested(tensors: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """{"a.b.c": x} as {"a": {"b.c": x}}."""
    found: dict[str, dict] = {}
    for name, tensor in tensors.items():
        first, rest = name.split(".", 1)
        found.setdefault(first, {})[rest] = tensor
    return found
