"""Every step that computes, on a device that refuses tensors of the CPU: what a GPU would refuse is found without one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, PartialState

from emolib.app import steps
from emolib.data import prompts, sets
from emolib.models import attention, baselines, encoder, fusion, generality, heads, networks, training, tuning
from emolib.profiles import Search, Work, get
from tests import gpu

SAMPLE = get("sample")


@pytest.fixture
def on_gpu(monkeypatch):
    """Within a test the library finds the pretended device, and so does accelerate."""
    device = gpu.register()
    for module in (encoder, networks, attention, heads):
        monkeypatch.setattr(module, "device", lambda: device)
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", str(device))
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)  # whose tensors allow no wrapper
    for state in (AcceleratorState, PartialState):
        state._reset_state()
    with gpu.Pretend():
        assert PartialState().device == device
        yield device
    for state in (AcceleratorState, PartialState):
        state._reset_state()


def short(config):
    """One epoch of one seed."""
    return replace(config, seeds=(0,), fit=replace(config.fit, epochs=1, batch_size=20))


def few(data, count: int = 40):
    """So many items of each split."""
    return data.select(np.concatenate([np.flatnonzero(data.split == split)[:count] for split in ("train", "validation", "test")]))


@pytest.fixture
def clip(on_gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(encoder, "CACHE", tmp_path / "features")
    loaded = encoder.load(SAMPLE.clip, "float32")
    assert loaded.model.device == on_gpu and isinstance(loaded.model.logit_scale, gpu.OnGpu)
    return loaded


def test_the_device_refuses_what_a_gpu_refuses(on_gpu):
    there, here = torch.ones(2, device=on_gpu), torch.ones(2)
    with pytest.raises(RuntimeError, match="same device"):
        there + here
    with pytest.raises(RuntimeError, match="same device"):
        torch.nn.Linear(2, 2)(there)
    with pytest.raises(RuntimeError, match="numpy"):
        there.numpy()
    with pytest.raises(RuntimeError, match="cannot be indexed"):
        here[torch.zeros(1, dtype=torch.long, device=on_gpu)]
    with pytest.raises(RuntimeError, match="lengths"):
        torch.nn.utils.rnn.pack_padded_sequence(there.view(1, 2, 1), torch.tensor([2], device=on_gpu), batch_first=True)
    assert (there + here.to(on_gpu)).cpu().tolist() == [2, 2] and there.sum().item() == 2


def linear_map(cell, packed, _=None):
    """In place of the recurrent kernels of GPUs, which nothing else can compute."""
    states = torch.cat([packed.data @ cell.weight_ih_l0[: cell.hidden_size].T] * 2, 1)
    return packed._replace(data=states), None


def test_baselines(on_gpu, sample_texts, sample_faces, monkeypatch):
    for cell in (torch.nn.LSTM, torch.nn.GRU):
        monkeypatch.setattr(cell, "forward", linear_map)
    step, seen = training.train_step, set()
    monkeypatch.setattr(training, "train_step", lambda run, x, *rest: seen.add(x[0].device) or step(run, x, *rest))
    for cell in ("lstm", "gru", "none"):
        found = baselines.recurrent(few(sample_texts), cell, short(SAMPLE.gru), work=Work("float32"))
        assert np.isfinite(found.probs).all()
    assert np.isfinite(baselines.cnn(few(sample_faces), short(SAMPLE.cnn), work=Work("float32")).probs).all()
    assert seen == {on_gpu}


def test_the_frozen_encoder(clip, sample_faces, sample_texts):
    faces, texts = few(sample_faces), few(sample_texts)
    for data in (faces, texts):
        assert np.isfinite(heads.fit_probe(data, clip.vectors(data))[0].probs).all()
    vectors = clip.encode_images(faces.images, cache=False, tokens=True), clip.encode_texts(texts.texts, cache=False, tokens=True)
    assert all(np.isfinite(found).all() for found in vectors)
    assert attention.relevance(clip, faces.images[0], "a happy face").shape == (6, 6)


@pytest.mark.parametrize("method", tuning.METHODS)
def test_every_way_of_tuning(clip, sample_faces, tmp_path, method):
    faces, work = few(sample_faces), Work("float32", folder=tmp_path, step=f"faces/clip-{method}")
    config, asked = short(getattr(SAMPLE, method)), prompts.FACES["templates"]
    found = tuning.tune(clip, faces, method, replace(config, patches=0.5, fit=replace(config.fit, ema=0.9)), asked, work=work)
    assert np.isfinite(found.probs).all() and work.model().exists()
    known, shorter = few(sets.captioned(SAMPLE)), replace(SAMPLE.generality, alphas=(0.0, 0.5))
    mixed = generality.mixtures(clip, faces, method, asked, shorter, known, {}, work=work)
    assert mixed.arrays["right.emotion"].shape[0] == 2
    assert np.isfinite(generality.chosen_mixture(clip, faces, method, 0.5, asked, work=replace(work, step="mixed")).probs).all()


@pytest.mark.parametrize("sees", ["text", "both"])
def test_tuning_on_texts_and_pairs_and_its_classifier(clip, sees, tmp_path):
    pairs, work = few(sets.genuine(SAMPLE)), Work("float32", folder=tmp_path, step="some")
    grid = Search(factors=(1.0,), beyond=0, epochs=1, rows=20)
    assert steps.search(clip, pairs, sees, short(SAMPLE.genuine), grid, work=work).notes["rate"]
    found = steps.tune(clip, pairs, sees, short(SAMPLE.genuine), work=work)
    assert np.isfinite(found.probs).all()
    if sees == "text":
        texts = pairs.seen("text")
        tuning.tune(clip, texts, "lpft", short(SAMPLE.genuine), None, work=work)
        classifier = steps.assemble(clip, {"text": "some"}, None, {"text": texts.classes}, work)
        assert np.isfinite(steps.posterior(classifier, texts)).all()


@pytest.mark.parametrize("kind", fusion.KINDS)
def test_every_fusion(clip, kind):
    pairs = few(sets.genuine(SAMPLE))
    found = steps.learn(clip, pairs, kind, replace(short(SAMPLE.fusion), pairings=3, emap=5), False, work=Work("float32"))
    assert np.isfinite(found.probs).all()
