"""The loop: best epoch, early stop, exact resume after a kill, precision, losses that are not finite."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from emolib import store
from emolib.models import training
from emolib.profiles import ROOT, Fit, Work

CONFIG = Fit(epochs=6, batch_size=32, learning_rate=0.01, ema=0.9)


def test_no_text_is_left_out_of_every_epoch():
    """Of 100 rows a batch of 64 leaves 36 out, and not the longest ones each time."""
    texts = SimpleNamespace(labels=np.zeros(100, int), lengths=np.arange(100))
    epochs = [training.order(texts, 64, np.random.default_rng(epoch)) for epoch in range(12)]
    assert all([len(rows) for rows in parts] == [64] for parts in epochs)
    assert set(np.concatenate([rows for parts in epochs for rows in parts])) == set(range(100))
    assert [len(rows) for rows in training.order(texts, 200, np.random.default_rng(0))] == [100]


class Points(training.Batches):
    """Two clouds of points. end: a signal that comes in mid epoch; asked: random numbers that training used."""

    def __init__(self, seed, n=200, end=None):
        rng = np.random.default_rng(seed)
        self.labels, self.end, self.asked = rng.integers(0, 2, n), end, []
        self.x = rng.normal(0, 1, (n, 3)) + self.labels[:, None]

    def batch(self, rows, rng, progress):
        noise = 0
        if rng is not None:
            if self.end and progress > 0.55:
                if self.end == signal.SIGINT:  # which shells ignore in what they start in the background
                    raise KeyboardInterrupt
                signal.raise_signal(self.end)
            noise = rng.normal(0, 0.1, (len(rows), 3))
            self.asked.append((float(noise[0, 0]), float(torch.rand(1))))
        return (torch.as_tensor(self.x[rows] + noise, dtype=torch.get_default_dtype()),)


def network(frozen=False):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    model[0].requires_grad_(not frozen)
    return model


def fit(folder=None, *, train=None, model=None, key="k", seed=0, precision="float64", loss=F.cross_entropy, **changes):
    """A run on the clouds; changes: of the configuration."""
    work = Work(precision, 1, folder, "clouds")
    with training.arithmetic(work):
        config = dataclasses.replace(CONFIG, **changes)
        model = model() if model else network()
        return training.fit(model, train or Points(1), Points(2), config, seed=seed, key=key, work=work, loss=loss)


def same(first, second):
    states = first.model.state_dict(), second.model.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0] | states[1])


def test_it_learns_reports_and_keeps_nothing_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fitted = fit()
    assert fitted.history[-1]["validation_accuracy"] > 0.7 and not list(tmp_path.iterdir())
    assert fitted.notes["parameters"] == sum(p.numel() for p in network().parameters())
    with training.arithmetic(Work("float64")):
        probs = training.predict(fitted.model, Points(2))
    assert (probs.argmax(1) == Points(2).labels).mean() == max(h["validation_accuracy"] for h in fitted.history)


def test_the_best_epoch_is_kept_and_patience_ends_the_run(tmp_path, monkeypatch):
    script, seen = iter(((0.5, 1), (0.7, 0.9), (0.7, 0.8), (0.6, 0.1), (0.9, 0.1))), []

    def judge(run, validation, progress):
        seen.append({k: v.clone() for k, v in run.judged.state_dict().items()})
        return dict(zip(("validation_accuracy", "validation_loss"), next(script), strict=True))

    monkeypatch.setattr(training, "judge", judge)
    fitted = fit(tmp_path, patience=1)
    assert len(fitted.history) == 4 and fitted.notes["best_epoch"] == 3
    assert all(torch.equal(v, seen[2][k]) for k, v in fitted.model.state_dict().items())
    assert same(fit(tmp_path, patience=1), fitted) and len(seen) == 4  # a run that ended is not trained again


def test_every_epoch_and_seed_has_its_own_random_numbers():
    runs = [Points(1) for _ in range(3)]
    for train, seed in zip(runs, (0, 0, 1), strict=True):
        fit(train=train, seed=seed, epochs=3)
    assert runs[0].asked == runs[1].asked
    numpy, torchs = zip(*runs[0].asked, *runs[2].asked, strict=True)
    assert len(set(numpy)) == len(set(torchs)) == 2 * 3 * 6


def test_label_smoothing_reaches_the_loss():
    smoothed = []

    def loss(logits, labels, label_smoothing):
        smoothed.append(label_smoothing)
        return F.cross_entropy(logits, labels)

    fit(loss=loss, label_smoothing=0.3, epochs=1)
    assert set(smoothed) == {0.3}


def test_the_average_is_judged_and_in_evaluation_mode():
    modes = []

    class Watched(nn.Sequential):
        def forward(self, x):
            modes.append((torch.is_grad_enabled(), self.training))
            return super().forward(x)

    averaged, plain = fit(model=lambda: Watched(*network()), epochs=1), fit(ema=0.0, epochs=1)
    assert set(modes) == {(True, True), (False, False)}
    assert plain.history[0]["train_loss"] == averaged.history[0]["train_loss"]
    for name in ("0.weight", "1.running_mean"):
        assert not torch.equal(averaged.model.state_dict()[name], plain.model.state_dict()[name])


def test_the_average_forgets_the_start_before_it_is_slow():
    averaged = [torch.ones(1)]
    for count, wanted in ((0, 0.1), (1000, 0.09)):
        training.moving_average(0.9)(averaged, [torch.zeros(1)], torch.tensor(count))
        assert averaged[0].item() == pytest.approx(wanted)


@pytest.mark.parametrize("half", [None, torch.float16])
def test_gradients_are_clipped(half, monkeypatch):
    monkeypatch.setattr(training, "half", lambda precision: half)
    fitted = fit(optimizer="sgd", clip_norm=1e-3, weight_decay=0.0, ema=0.0, epochs=1, precision="auto")
    moved = sum(((a - b) ** 2).sum() for a, b in zip(fitted.model.parameters(), network().parameters(), strict=True)) ** 0.5
    assert 1e-5 < moved.item() < 6 * 10 * CONFIG.learning_rate * 1e-3  # six steps, with momentum


def test_sigkill_in_mid_epoch_then_resume_equals_the_uninterrupted_run(tmp_path):
    child = f"import pathlib, test_training as t; t.fit(pathlib.Path({str(tmp_path)!r}), train=t.Points(1, end=9))"
    paths = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, "-c", child], env=paths, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-500:]
    path = tmp_path / "checkpoints" / "clouds" / "seed-0.safetensors"
    assert len(store.read_note(path)["history"]) == 3 and [p.name for p in path.parent.iterdir()] == [path.name]
    resumed, whole = fit(tmp_path), fit()
    assert resumed.history == whole.history and same(resumed, whole)


@pytest.mark.parametrize("half", [None, torch.float16])
@pytest.mark.parametrize("changes", [{"ema": 0.0}, {"optimizer": "sgd"}, {"model": lambda: network(frozen=True)}])
def test_a_run_interrupted_in_mid_epoch_goes_on_exactly(changes, half, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "half", lambda precision: half)
    settings = changes | {"precision": "auto" if half else "float64"}
    whole = fit(tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "cut", train=Points(1, end=signal.SIGINT), **settings)
    train = Points(1)
    resumed = fit(tmp_path / "cut", train=train, **settings)
    assert resumed.history == whole.history and same(resumed, whole) and len(train.asked) == 3 * 6
    notes = [store.read_note(tmp_path / name / "checkpoints/clouds/seed-0.safetensors") for name in ("whole", "cut")]
    assert notes[0]["scaler"] == notes[1]["scaler"] and bool(notes[0]["scaler"]) == bool(half)


def test_a_checkpoint_holds_what_is_trained_and_all_of_it(tmp_path):
    fit(tmp_path, model=lambda: network(frozen=True))
    names = set(store.read_arrays(tmp_path / "checkpoints/clouds/seed-0.safetensors"))
    assert {"model.3.weight", "best.1.running_mean", "average.module.3.bias"} < names
    assert not [name for name in names if "0.weight" in name or "0.bias" in name]
    with pytest.raises(RuntimeError, match="Missing"):
        training.load_learned(network(), training.learned(network(frozen=True)))


def test_a_checkpoint_of_another_configuration_or_data_is_not_used(tmp_path):
    fit(tmp_path)
    for change in ({"key": "other data"}, {"learning_rate": 0.02}, {}):
        train = Points(1)
        fit(tmp_path, train=train, **change)
        assert len(train.asked) == 6 * 6, change


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    broken = Points(1)
    broken.x[:] = np.inf
    with pytest.raises(FloatingPointError, match=r"clouds seed-0, epoch 1, batch 1 of 6: the loss is nan, .* rate \(0.01\)"):
        fit(tmp_path, train=broken)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("precision", "output", "wanted"),
    [("float64", torch.float64, torch.float64), ("bfloat16", torch.bfloat16, torch.float32)],
)
def test_the_loss_is_never_computed_in_16_bits(precision, output, wanted):
    kinds, inner = set(), set()

    def loss(logits, labels, label_smoothing):
        kinds.add(logits.dtype)
        return F.cross_entropy(logits, labels)

    def model():
        watched = network()
        watched.register_forward_hook(lambda module, inputs, output: inner.add(output.dtype))
        return watched

    fit(model=model, precision=precision, epochs=1, loss=loss)
    assert kinds == {wanted} and inner == {output}


def test_logits_keep_the_precision_of_the_weights_under_autocast():
    x, weight = torch.randn(4, 8), torch.randn(3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert F.linear(x, weight).dtype == torch.bfloat16
        found = training.logits(x.bfloat16(), weight)
    assert torch.equal(found, x.bfloat16().float() @ weight.T)


@pytest.mark.parametrize(
    ("precision", "capability", "flags", "wanted"),
    [
        ("auto", None, {"avx2"}, None),
        ("auto", None, {"avx512_bf16"}, torch.bfloat16),
        ("auto", None, {"amx_bf16"}, torch.bfloat16),
        ("auto", (7, 5), {"avx512_bf16"}, torch.float16),  # Colab's T4, which only emulates bfloat16
        ("auto", (8, 0), set(), torch.bfloat16),
        ("bfloat16", None, set(), torch.bfloat16),
        ("bfloat16", (7, 5), set(), torch.float16),
        ("float32", (9, 0), {"amx_bf16"}, None),
        ("float64", (9, 0), {"amx_bf16"}, None),
    ],
)
def test_16_bits_are_used_where_the_machine_is_fast_in_them(precision, capability, flags, wanted, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(training, "cpu_flags", lambda: flags)
    assert training.half(precision) is wanted


def test_predictions_are_the_mean_over_views_in_the_order_of_the_rows(monkeypatch):
    batches, model = Points(0, n=50), network()
    batches.lengths = np.random.default_rng(0).integers(1, 9, 50)
    monkeypatch.setattr(batches, "views", lambda inputs, progress, final: [inputs, (-inputs[0],)])
    probs, x = training.predict(model, batches, size=8), torch.as_tensor(batches.x).float()
    np.testing.assert_allclose(probs, (model(x).softmax(1) + model(-x).softmax(1)).detach() / 2, atol=1e-6)


def test_an_unknown_precision_or_optimizer_is_refused():
    with pytest.raises(ValueError, match="'fp16'; choose from float64"):
        training.half("fp16")
    with pytest.raises(ValueError, match="sgd, adamw"):
        training.make_optimizer(network(), dataclasses.replace(CONFIG, optimizer="adam"))


def test_decay_spares_gains_and_biases_and_the_rate_rises_and_falls():
    groups = training.make_optimizer(network(), CONFIG).param_groups
    assert [(g["weight_decay"], {p.ndim for p in g["params"]}) for g in groups] == [(CONFIG.weight_decay, {2}), (0, {1})]
    assert [training.rate(CONFIG, p) for p in (0.0, 0.1, 0.2, 0.6, 1.0)] == pytest.approx([0, 0.005, 0.01, 0.005, 0])


def test_order_visits_every_row_once_and_buckets_by_length():
    batches = Points(0, n=96)
    batches.lengths = np.random.default_rng(0).integers(1, 30, 96)
    parts = training.order(batches, 8, np.random.default_rng(1))
    assert sorted(np.concatenate(parts)) == list(range(96))
    assert np.mean([np.ptp(batches.lengths[part]) for part in parts]) < 5
    batches.lengths = None
    assert [len(part) for part in training.order(batches, 40, np.random.default_rng(1))] == [40, 40]  # the short one is left
