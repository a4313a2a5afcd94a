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
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from emolib import store
from emolib.profiles import Fit, Profile


class Batches(Protocol):
    """Rows that a model can be trained on and asked about."""

    labels: np.ndarray
    lengths: np.ndarray | None

    def batch(self, rows: np.ndarray, rng: np.random.Generator | None, progress: float) -> tuple[torch.Tensor, ...]:
        """The model's inputs for some rows; with `rng` augmented for training, `progress` in [0, 1) telling how far it is."""

    def views(self, inputs: tuple[torch.Tensor, ...], progress: float, *, final: bool) -> list[tuple[torch.Tensor, ...]]:
        """The inputs as a model trained so far is to see them; posteriors are averaged over these, more of them at the end."""


@dataclass
class Fitted:
    """What a run leaves: the model with its best weights, the curve, the cost."""

    model: torch.nn.Module
    history: list[dict] = field(default_factory=list)
    notes: dict = field(default_factory=dict)


Loss = Callable[..., torch.Tensor]


@contextmanager
def arithmetic(profile: Profile):
    """Default dtype and thread count of a profile, put back afterwards.

    float64 makes a run the same on every CPU and number of threads to 1e-14; float32 training is only as repeatable as its CPU.
    """
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float64 if profile.precision == "float64" else torch.float32)
    torch.set_num_threads(profile.threads or threads)
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)


def half(profile: Profile) -> torch.dtype | None:
    """The 16-bit type of a profile that asks for one: bfloat16, or float16 on a GPU without it (Colab's T4)."""
    if profile.precision != "bfloat16":
        return None
    old = torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0)
    return torch.float16 if old else torch.bfloat16


def accelerator(profile: Profile) -> Accelerator:
    """Device, processes and precision, as `accelerate launch` or the machine decides."""
    return Accelerator(mixed_precision={None: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}[half(profile)])


def autocast(profile: Profile):
    """The context in which a model computes at the profile's precision."""
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.autocast(kind, half(profile)) if half(profile) else nullcontext()


def order(batches: Batches, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """One epoch's rows, batch by batch; texts of like length meet, so that little is padded."""
    rows = rng.permutation(len(batches.labels))
    if batches.lengths is not None:
        pools = [rows[i : i + 20 * size] for i in range(0, len(rows), 20 * size)]
        rows = np.concatenate([pool[np.argsort(batches.lengths[pool], kind="stable")] for pool in pools])
    parts = [rows[i : i + size] for i in range(0, len(rows), size)]
    # The last, short batch would weigh its rows more than the others and upsets batch normalisation.
    parts = [part for part in parts if len(part) == size] or parts
    return [parts[i] for i in rng.permutation(len(parts))]


def rate(config: Fit, progress: float) -> float:
    """Learning rate at a share of the run: a linear rise over the warm-up, then half a cosine down to zero."""
    if progress < config.warmup:
        return config.learning_rate * progress / config.warmup
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (progress - config.warmup) / (1 - config.warmup)))


def moving_average(decay: float):
    """Exponential moving average of the weights whose decay rises to `decay`, so that the random start is soon forgotten."""

    def update(averaged, current, count):
        get_ema_multi_avg_fn(min(decay, (1 + int(count)) / (10 + int(count))))(averaged, current, count)

    return update


def make_optimizer(model: torch.nn.Module, config: Fit) -> torch.optim.Optimizer:
    """AdamW or Nesterov SGD; gains and biases are not decayed."""
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


@torch.no_grad()
def predict(model: torch.nn.Module, batches: Batches, device: torch.device, *, progress: float = 1.0, size: int = 256):
    """Posteriors of every row, averaged over the views: (N, K) float64, rows sum to 1. progress: 1 after training."""
    model.eval()
    rows = np.arange(len(batches.labels))
    if batches.lengths is not None:
        rows = rows[np.argsort(batches.lengths, kind="stable")]
    parts = []
    for start in range(0, len(rows), size):
        inputs = tuple(x.to(device) for x in batches.batch(rows[start : start + size], None, 1.0))
        views = [model(*view).double().softmax(1) for view in batches.views(inputs, progress, final=progress >= 1)]
        parts.append(torch.stack(views).mean(0).cpu().numpy())
    probs = np.concatenate(parts)
    return probs[np.argsort(rows, kind="stable")]


def fit(
    model: torch.nn.Module, train: Batches, validation: Batches, config: Fit, profile: Profile, *,
    seed: int, checkpoint: Path, key: str, loss: Loss = cross_entropy,
) -> Fitted:  # fmt: skip
    """Train, keep the epoch that is best on validation, and return the model with its weights.

    loss: (logits (N, K), labels (N,), label_smoothing=...) -> a scalar, the mean over the batch.
    checkpoint: a file written after each epoch; a run that was killed goes on from it and ends with the same weights.
    key: whatever else the result depends on (data fingerprint); a checkpoint of another key or configuration is not used.
    """
    acc, name = accelerator(profile), " ".join(checkpoint.with_suffix("").parts[-2:])  # "gru seed-0"
    started, seconds_before = time.monotonic(), 0.0
    key = hashlib.sha256(json.dumps([key, seed, asdict(config)]).encode()).hexdigest()
    optimizer = make_optimizer(model, config)
    model, optimizer = acc.prepare(model, optimizer)
    bare = acc.unwrap_model(model)
    average = AveragedModel(bare, multi_avg_fn=moving_average(config.ema), use_buffers=True) if config.ema else None
    judged = average.module if average else bare
    best, history = {}, []
    if state := load_checkpoint(checkpoint, key):
        history, seconds_before, best = restore(state, bare, average, optimizer)
        print(f"{name}: resumed after epoch {len(history)}", file=sys.stderr)
    if acc.num_processes > 1 and acc.is_main_process:
        print(f"{name}: training in {acc.num_processes} processes", file=sys.stderr)
    for epoch in range(len(history), config.epochs):
        if stopped(history, config.patience):
            break
        rng = np.random.default_rng([seed, epoch])  # a fresh stream an epoch: nothing random has to be saved
        set_seed(seed * 1000 + epoch)
        mean = train_epoch(acc, model, optimizer, average, train, config, epoch, rng, name=name, loss=loss)
        history.append({"train_loss": mean} | judge(judged, validation, acc.device, progress=epoch / config.epochs))
        if best_epoch(history) == len(history) - 1:
            best = {k: v.detach().clone() for k, v in judged.state_dict().items()}
        if acc.is_main_process:
            seconds = seconds_before + time.monotonic() - started
            save_checkpoint(checkpoint, key, history, seconds, bare, average, optimizer, best)
        said = ", ".join(f"{k} {v:.4f}" for k, v in history[-1].items())
        tqdm.write(f"{name} epoch {epoch + 1}: {said}", sys.stderr)
    bare.load_state_dict(best)
    seconds = seconds_before + time.monotonic() - started
    trained = sum(p.numel() for p in bare.parameters() if p.requires_grad)
    return Fitted(bare, history, {"seconds": seconds, "parameters": trained, "best_epoch": best_epoch(history) + 1})


def train_epoch(acc, model, optimizer, average, train: Batches, config: Fit, epoch: int, rng, *, name: str, loss: Loss) -> float:
    """One pass over the training rows; returns the mean loss (nats)."""
    parts, losses = order(train, config.batch_size, rng), []
    model.train()
    bar = tqdm(parts, desc=f"{name} {epoch + 1}/{config.epochs}", unit="batch", leave=False, mininterval=1)
    for number, rows in enumerate(bar):
        progress = (epoch + number / len(parts)) / config.epochs
        for group in optimizer.param_groups:
            group["lr"] = rate(config, progress)
        # Each process prepares the whole batch and takes its share, so that random numbers do not depend on their count.
        mine = slice(acc.process_index, None, acc.num_processes)
        inputs = tuple(x[mine].to(acc.device) for x in train.batch(rows, rng, progress))
        labels = torch.as_tensor(train.labels[rows[mine]], device=acc.device)
        value = loss(model(*inputs), labels, label_smoothing=config.label_smoothing)
        optimizer.zero_grad()
        acc.backward(value)
        acc.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        if average:
            average.update_parameters(acc.unwrap_model(model))
        losses.append(value.detach())
    return float(acc.reduce(torch.stack(losses).double().mean(), reduction="mean"))


def judge(model: torch.nn.Module, validation: Batches, device: torch.device, *, progress: float) -> dict[str, float]:
    """Loss (nats) and accuracy on the validation rows."""
    probs = predict(model, validation, device, progress=progress)
    chosen = np.clip(probs[np.arange(len(probs)), validation.labels], 1e-12, None)
    hits = probs.argmax(1) == validation.labels
    return {"validation_loss": float(-np.log(chosen).mean()), "validation_accuracy": float(hits.mean())}


def best_epoch(history: list[dict]) -> int:
    """The epoch of the highest validation accuracy; of several, the one with the lowest validation loss."""
    return max(range(len(history)), key=lambda i: (history[i]["validation_accuracy"], -history[i]["validation_loss"]))


def stopped(history: list[dict], patience: int) -> bool:
    """Whether `patience` epochs have passed since the best one."""
    return bool(history) and len(history) - 1 - best_epoch(history) >= patience


def save_checkpoint(path: Path, key: str, history, seconds, model, average, optimizer, best) -> None:
    """Everything a run needs to go on, in one safetensors file, written whole or not at all."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in best.items()}
    if average:
        tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{slot}": v for slot, v in slots.items() if v is not None}
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    note = {"note": json.dumps({"key": key, "history": history, "seconds": seconds})}
    with store.atomic(path) as temporary:
        save_file(tensors, temporary, metadata=note)


def load_checkpoint(path: Path, key: str) -> dict | None:
    """The checkpoint's note and tensors; None where there is none or it belongs to another configuration."""
    if not path.exists():
        return None
    note = store.read_note(path)
    return {**note, "tensors": load_file(path)} if note["key"] == key else None


def restore(state: dict, model, average, optimizer) -> tuple[list[dict], float, dict]:
    """Put a checkpoint back into place; returns its curve, the seconds spent and the best weights."""
    parts: dict[str, dict] = {"model": {}, "best": {}, "average": {}, "optimizer": {}}
    for name, tensor in state["tensors"].items():
        part, rest = name.split(".", 1)
        parts[part][rest] = tensor
    model.load_state_dict(parts["model"])
    if average:
        average.load_state_dict(parts["average"])
    slots: dict[int, dict] = {}
    for name, tensor in parts["optimizer"].items():
        index, slot = name.split(".", 1)
        slots.setdefault(int(index), {})[slot] = tensor
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    return state["history"], state["seconds"], parts["best"]
