"""Tuning: what is frozen stays, LoRA merges, mixtures end where they should, two processes learn what one does."""

import dataclasses
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from emolib import clip, heads, items, pairs, profiles, prompts, records, store, tuning
from emolib.profiles import ROOT, Tuning
from emolib.tuning import Job, Tuned

SAMPLE = profiles.get("sample")
ASKED = prompts.FACES["templates"]


@pytest.fixture(scope="module")
def encoder():
    return clip.load(SAMPLE)


@pytest.fixture(scope="module")
def head(encoder):
    return heads.zero_shot(encoder, ASKED)


@pytest.fixture(scope="module")
def few(sample_faces):
    """120 Training faces, 60 of each held-out split."""
    return sample_faces.select(np.concatenate([np.flatnonzero(sample_faces.split == s)[:n] for s, n in
                                               (("train", 120), ("validation", 60), ("test", 60))]))  # fmt: skip


def short(way="full", **changes):
    config = getattr(SAMPLE, way)
    return dataclasses.replace(config, fit=dataclasses.replace(config.fit, epochs=1, batch_size=30, **changes))


@pytest.fixture
def out(tmp_path, monkeypatch):
    monkeypatch.setenv("EMOLIB_OUT", str(tmp_path))
    return tmp_path


def job(way, encoder, data, head):
    prompted = ASKED if way == "flyp" else None
    return Job(f"faces/clip-{way}", encoder, "image", data, head, short(way), train_head=way == "lpft", prompts=prompted)


def train(way, encoder, data, head):
    return tuning.fit(job(way, encoder, data, head), SAMPLE, 0).model


TRAINED = {
    "full": ("vision_model", "visual_projection"), "lpft": ("vision_model", "visual_projection"),
    "flyp": ("vision_model", "visual_projection", "text_model", "text_projection"),
    "lora": ("vision_model",),
}  # fmt: skip


@pytest.mark.parametrize("way", TRAINED)
def test_what_is_frozen_stays_bit_equal_and_the_rest_moves(way, encoder, few, head, out):
    before = encoder.weights
    tuned = train(way, encoder, few, head).tuned()
    assert tuned.weights.keys() == before.keys()
    moved = {name for name in before if not torch.equal(tuned.weights[name], before[name])}
    assert moved and all(name.startswith(TRAINED[way]) for name in moved)
    for part in TRAINED[way]:
        assert any(name.startswith(part) for name in moved), part
    if way == "lora":
        assert all("q_proj" in n or "k_proj" in n or "v_proj" in n for n in moved) and len(moved) == 9
    assert np.array_equal(tuned.head.weight, head.weight) == (way in ("full", "lora"))
    assert all(torch.equal(encoder.weights[name], before[name]) for name in before), "the encoder itself was changed"


def test_lora_merged_equals_unmerged(encoder, few, head, out):
    model = train("lora", encoder, few, head)
    pixels = encoder.grey(torch.from_numpy(few.pixels[:20]))
    with torch.inference_mode():
        unmerged = model.vectors(pixels)
    tuned = model.tuned()
    merged = encoder.with_weights(tuned.weights).encode_images(few.pixels[:20], cache=False)
    start = encoder.encode_images(few.pixels[:20], cache=False)
    assert np.allclose(merged, unmerged.numpy(), atol=1e-6) and not np.allclose(merged, start, atol=1e-3)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == 3 * 3 * 8 * (64 + 64)  # layers x matrices x rank x (in + out)


def test_mixtures_end_exactly_where_they_should(encoder, few, head, out):
    start, end = Tuned(encoder.weights, head), train("lpft", encoder, few, head).tuned()
    for alpha, wanted in ((0.0, start), (1.0, end)):
        mixed = end.mixed(start, alpha)
        assert all(torch.equal(mixed.weights[k], wanted.weights[k]) for k in wanted.weights)
        assert np.array_equal(mixed.head.weight, wanted.head.weight) and np.array_equal(mixed.head.bias, wanted.head.bias)
    half = end.mixed(start, 0.5)
    name = "visual_projection.weight"
    assert torch.allclose(half.weights[name], (start.weights[name] + end.weights[name]) / 2)
    with pytest.raises(ValueError, match=r"alpha is 1\.2, wanted 0 to 1"):
        end.mixed(start, 1.2)


def test_what_is_saved_is_what_is_loaded(encoder, head, out):
    path = tuning.path_of(SAMPLE, "faces/clip-full", 0)
    with pytest.raises(FileNotFoundError, match="--fresh 04"):
        Tuned.load(path)
    Tuned(encoder.weights, head).save(path)
    read = Tuned.load(path)
    assert all(torch.equal(read.weights[k], v) for k, v in encoder.weights.items())
    assert np.array_equal(read.head.weight, head.weight)


def test_tuning_learns_and_predicts_as_its_saved_weights(encoder, few, out):
    job = tuning.way("full", encoder, few, ASKED, SAMPLE)
    longer = dataclasses.replace(
        job.config, fit=dataclasses.replace(job.config.fit, epochs=12, batch_size=30, patience=99), augment=0.0
    )
    found = tuning.tune(dataclasses.replace(job, config=longer), SAMPLE)
    kept = Tuned.load(tuning.path_of(SAMPLE, "faces/clip-full", 0))
    posteriors = kept.head.posterior(encoder.with_weights(kept.weights).encode_images(few.part("test").pixels))
    assert np.allclose(found.test.probs[0], posteriors, atol=1e-6)
    losses = [epoch["train_loss"] for epoch in found.notes["history"][0]]
    assert losses[-1] < 0.8 * losses[0], losses
    assert {"seconds", "parameters", "peak_memory", "best_epoch"} <= set(found.notes["runs"][0])


def test_the_contrastive_loss_is_clips():
    """By its definition, picture by picture: softmax over the batch's prompts, then over the batch's pictures."""
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 3, dtype=torch.float64), torch.tensor([0, 1, 1, 2, 0, 1])
    whole = 0.0
    for i in range(6):
        rows = torch.stack([logits[i, labels[j]] for j in range(6)])
        columns = torch.stack([logits[j, labels[i]] for j in range(6)])
        whole -= float(F.log_softmax(rows, 0)[i] + F.log_softmax(columns, 0)[i]) / 12
    assert np.isclose(float(tuning.contrastive(logits, labels)), whole)


def test_some_patches_keeps_the_class_token_and_a_share_in_order():
    tokens = torch.arange(2 * 11, dtype=torch.float64).view(2, 11, 1).repeat(1, 1, 3)
    kept = tuning.some_patches(tokens, 0.4)
    assert kept.shape == (2, 5, 3) and torch.equal(kept[:, 0], tokens[:, 0])
    for row in range(2):
        values = kept[row, :, 0].tolist()
        assert values == sorted(set(values)) and set(values) <= set(tokens[row, :, 0].tolist())


def test_patches_are_dropped_in_training_only(encoder, few, head):
    model = tuning.Classifier(encoder, "image", head, Tuning(SAMPLE.full.fit, patches=0.5), train_head=False)
    pixels = encoder.grey(torch.from_numpy(few.pixels[:4]))
    with torch.inference_mode():
        assert torch.equal(model.eval()(pixels), model(pixels))
        assert not torch.equal(model.train()(pixels), model(pixels))
        plain = tuning.Classifier(encoder, "image", head, Tuning(SAMPLE.full.fit), train_head=False)
        assert torch.allclose(model.eval()(pixels), plain.train()(pixels), atol=1e-9)


def test_pairs_train_both_towers(encoder, sample_faces, sample_texts, out):
    data = pairs.match(sample_faces, sample_texts)
    rows = np.concatenate([np.flatnonzero(data.split == s)[::n] for s, n in (("train", 15), ("validation", 8), ("test", 8))])
    data, start = data.select(rows), heads.zero_shot(encoder, prompts.PAIRS["both"])
    found = tuning.tune(Job("pairs/clip-tuned", encoder, "pair", data, start, short("pairs")), SAMPLE)
    moved = Tuned.load(tuning.path_of(SAMPLE, "pairs/clip-tuned", 0)).weights
    for part in ("vision_model", "text_model", "visual_projection", "text_projection"):
        assert any(n.startswith(part) and not torch.equal(v, encoder.weights[n]) for n, v in moved.items()), part
    assert found.probs.shape == (1, int((data.split != "train").sum()), 5)


def test_two_processes_learn_what_one_learns(tmp_path):
    """`torchrun -m emolib tune` on two CPU processes against one: the same curve and weights, within rounding.

    (`accelerate launch` starts several processes on GPUs; on CPUs it wants MPI, and torchrun does the same without.)
    """
    kept = {}
    for count in (1, 2):
        out = tmp_path / str(count)
        shutil.copytree(records.RECORDS / "sample", out / "records")
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count), "-m"]
        where = {"EMOLIB_OUT": str(out), "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, "emolib", "tune", "full", "--profile", "sample"], cwd=ROOT, env={**os.environ, **where},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        path = out / "checkpoints" / "faces" / "clip-full" / "seed-0.safetensors"
        kept[count] = (store.read_note(path), store.read_arrays(path))
        assert ("training in 2 processes" in done.stderr) == (count == 2)
    (one, weights), (two, others) = kept[1], kept[2]
    assert one["key"] == two["key"] and weights.keys() == others.keys()
    for a, b in zip(one["history"], two["history"], strict=True):
        assert a == pytest.approx(b, rel=1e-9)
    for name, value in weights.items():
        if name.startswith(("model.", "best.")):
            assert np.allclose(value, others[name], atol=1e-7), name


def test_another_encoder_does_not_take_over_a_checkpoint(encoder, few, head, out):
    """The key of a run's checkpoint holds the encoder's weights: a run that was killed is not finished by another one."""
    train("full", encoder, few, head)
    path = out / "checkpoints" / "faces" / "clip-full" / "seed-0.safetensors"
    first = path.read_bytes()
    nudged = {k: v + 1e-3 if k == "visual_projection.weight" else v for k, v in encoder.weights.items()}
    train("full", encoder.with_weights(nudged), few, head)
    assert path.read_bytes() != first
    assert items.held_out_rows(few).size == 120
