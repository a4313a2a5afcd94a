"""The loop: early stop, exact resume after a kill, checkpoints that belong to one configuration."""

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch
from torch import nn

from emolib import profiles, store, training
from emolib.profiles import ROOT, Fit


class Points:
    """Two clouds of points, as `training.Batches`."""

    lengths = None

    def __init__(self, seed, n=200):
        rng = np.random.default_rng(seed)
        self.labels = rng.integers(0, 2, n)
        self.x = rng.normal(0, 1, (n, 3)) + self.labels[:, None]

    def batch(self, rows, rng, progress):
        noise = 0 if rng is None else rng.normal(0, 0.1, (len(rows), 3))
        return (torch.as_tensor(self.x[rows] + noise, dtype=torch.get_default_dtype()),)

    def views(self, inputs, progress, *, final):
        return [inputs]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


CONFIG = Fit(epochs=6, batch_size=32, learning_rate=0.01, ema=0.9)


def fit(folder, config=CONFIG, key="k", seed=0):
    with training.arithmetic(profiles.get("sample")):
        return training.fit(
            network(), Points(1), Points(2), config, profiles.get("sample"), seed=seed, checkpoint=folder / "run.safetensors",
            key=key,
        )  # fmt: skip


def test_it_learns_and_reports(tmp_path):
    fitted = fit(tmp_path)
    assert fitted.history[-1]["validation_accuracy"] > 0.7
    assert fitted.notes["parameters"] == sum(p.numel() for p in network().parameters())
    assert fitted.notes["best_epoch"] == training.best_epoch(fitted.history) + 1


def test_the_best_epoch_is_what_is_returned(tmp_path):
    fitted = fit(tmp_path, dataclasses.replace(CONFIG, learning_rate=0.5, warmup=0.5))
    with training.arithmetic(profiles.get("sample")):
        probs = training.predict(fitted.model, Points(2), torch.device("cpu"))
    accuracy = (probs.argmax(1) == Points(2).labels).mean()
    assert accuracy == max(h["validation_accuracy"] for h in fitted.history)


def test_best_epoch_and_early_stop():
    history = [{"validation_accuracy": a, "validation_loss": b} for a, b in ((0.5, 1), (0.7, 0.9), (0.7, 0.8), (0.6, 0.1))]
    assert training.best_epoch(history) == 2
    assert not training.stopped(history, 2) and training.stopped(history, 1)
    assert not training.stopped([], 0)


def test_it_stops_early(tmp_path):
    config = dataclasses.replace(CONFIG, epochs=50, patience=2, learning_rate=1e-9)
    assert len(fit(tmp_path, config).history) < 50


def test_rate_rises_and_falls():
    rates = [training.rate(CONFIG, p) for p in (0.0, 0.1, 0.2, 0.6, 1.0)]
    assert rates == pytest.approx([0, 0.005, 0.01, 0.005, 0])


def test_a_run_stopped_between_epochs_ends_with_the_same_weights(tmp_path):
    whole = fit(tmp_path / "whole")

    class Stop(Exception):
        pass

    class Interrupted(Points):
        calls = 0

        def batch(self, rows, rng, progress):
            if progress > 0.55:
                raise Stop
            return super().batch(rows, rng, progress)

    with training.arithmetic(profiles.get("sample")), pytest.raises(Stop):
        training.fit(
            network(), Interrupted(1), Points(2), CONFIG, profiles.get("sample"), seed=0,
            checkpoint=tmp_path / "cut" / "run.safetensors", key="k",
        )  # fmt: skip
    resumed = fit(tmp_path / "cut")
    assert resumed.history == whole.history
    for a, b in zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_checkpoint_of_another_configuration_or_data_is_not_used(tmp_path):
    fit(tmp_path)
    path = tmp_path / "run.safetensors"
    key = store.read_note(path)["key"]
    assert training.load_checkpoint(path, key) is not None
    assert training.load_checkpoint(path, "other") is None
    for change in ({"seed": 1}, {"key": "other data"}, {"config": dataclasses.replace(CONFIG, learning_rate=0.02)}):
        fit(tmp_path, **change)
        assert store.read_note(path)["key"] != key, change
        key = store.read_note(path)["key"]


KILLED = """
    import sys
    from pathlib import Path
    from emolib import baselines, profiles, texts
    import dataclasses
    profile = profiles.get("sample")
    short = dataclasses.replace(profile.gru, seeds=(0,), fit=dataclasses.replace(profile.gru.fit, epochs=3))
    profile = dataclasses.replace(profile, gru=short)
    found = baselines.recurrent("gru", texts.prepare(profile), profile)
    Path(sys.argv[1]).write_bytes(found.probs.tobytes())
"""


def test_sigkill_in_mid_training_then_resume_equals_the_uninterrupted_run(tmp_path):
    def start(name):
        env = {**os.environ, "EMOLIB_OUT": str(tmp_path / name), "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path / f"{name}.bin")], env=env, stderr=subprocess.DEVNULL
        )

    killed = start("killed")
    checkpoint = tmp_path / "killed" / "checkpoints" / "texts" / "gru" / "seed-0.safetensors"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline and killed.poll() is None:
        time.sleep(0.05)
    time.sleep(0.3)  # into the next epoch
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    done = len(store.read_note(checkpoint)["history"])
    assert 0 < done < 3
    assert start("killed").wait() == 0
    assert start("whole").wait() == 0
    assert (tmp_path / "killed.bin").read_bytes() == (tmp_path / "whole.bin").read_bytes()


def test_order_visits_every_row_once_and_buckets_by_length():
    batches = Points(0, n=96)
    batches.lengths = np.random.default_rng(0).integers(1, 30, 96)
    parts = training.order(batches, 8, np.random.default_rng(1))
    assert sorted(np.concatenate(parts)) == list(range(96))
    spread = np.mean([np.ptp(batches.lengths[part]) for part in parts])
    assert spread < 5
    batches.lengths = None
    assert [len(part) for part in training.order(batches, 40, np.random.default_rng(1))] == [40, 40]  # the short one is left


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match="sgd, adamw"):
        training.make_optimizer(network(), dataclasses.replace(CONFIG, optimizer="adam"))


def test_decay_spares_gains_and_biases():
    groups = training.make_optimizer(network(), CONFIG).param_groups
    assert [g["weight_decay"] for g in groups] == [CONFIG.weight_decay, 0]
    assert all(p.ndim > 1 for p in groups[0]["params"]) and all(p.ndim == 1 for p in groups[1]["params"])


@pytest.mark.parametrize(
    ("there", "capability", "wanted"),
    [
        (False, None, torch.bfloat16),
        (True, (7, 5), torch.float16),
        (True, (8, 0), torch.bfloat16),
        (True, (9, 0), torch.bfloat16),
    ],
)
def test_a_gpu_without_bfloat16_computes_in_float16(there, capability, wanted, monkeypatch):
    """Colab's T4 has compute capability 7.5: it emulates bfloat16, slowly."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert training.half(profiles.get("full")) is wanted
    assert training.half(profiles.get("mini")) is None and training.half(profiles.get("sample")) is None
