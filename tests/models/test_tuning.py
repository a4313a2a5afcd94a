"""Tuning: what is frozen stays, LoRA merges, mixtures end where they should, two processes learn what one does."""

import copy
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from emolib import store
from emolib.data import pairing, prompts
from emolib.data.dataset import column
from emolib.models import heads, training, tuning
from emolib.models.encoder import PARTS, device, load
from emolib.models.tuning import Batches, Classifier, Prompted, Tuned
from emolib.profiles import ROOT, Search, Work, get

SAMPLE = get("sample")
ASKED = prompts.FACES["templates"]
TRAINED = {
    "full": ("vision_model", "visual_projection"), "lpft": ("vision_model", "visual_projection"),
    "flyp": ("vision_model", "visual_projection", "text_model", "text_projection"), "lora": ("vision_model",),
}  # fmt: skip


def some(data, *counts):
    """The first so many items of each split."""
    return data.select(np.concatenate([np.flatnonzero(data.split == s)[:n] for s, n in
                                       zip(("train", "validation", "test"), counts, strict=True)]))  # fmt: skip


@pytest.fixture(scope="module")
def encoder():
    return load(SAMPLE.clip, "float64")


@pytest.fixture(scope="module")
def head(encoder):
    return heads.zero_shot(encoder, ASKED)


@pytest.fixture(scope="module")
def few(sample_faces):
    return some(sample_faces, 120, 60, 60)


@pytest.fixture
def work(tmp_path):
    return Work("float64", 1, tmp_path, "step")


def short(method="full", augment=0.2, patches=1.0, **changes):
    config = getattr(SAMPLE, method)
    fit = replace(config.fit, **({"epochs": 1, "batch_size": 30} | changes))
    return replace(config, fit=fit, augment=augment, patches=patches)


def train(method, encoder, data, head, work):
    return tuning.fit(encoder, data, method, short(method), ASKED, head, seed=0, work=work).model


@pytest.mark.parametrize("method", TRAINED)
def test_what_is_frozen_stays_bit_equal_and_the_rest_moves(method, encoder, few, head):
    before = encoder.weights
    model = train(method, encoder, few, head, Work("float64"))
    tuned, inside = model.tuned(), model.model.state_dict()
    rest = [name for name in before if name not in tuned.weights]
    assert all(torch.equal(inside[name], before[name]) for name in rest) and "logit_scale" in rest
    moved = {name for name in tuned.weights if not torch.equal(tuned.weights[name], before[name])}
    assert moved and all(name.startswith(TRAINED[method]) for name in moved)
    for part in TRAINED[method]:
        assert any(name.startswith(part) for name in moved), part
    if method == "lora":
        assert all("q_proj" in n or "k_proj" in n or "v_proj" in n for n in moved) and len(moved) == 9
    assert np.array_equal(tuned.head.weight, head.weight) == (method in ("full", "lora"))
    assert all(torch.equal(encoder.weights[name], before[name]) for name in before), "the encoder itself was changed"


@pytest.mark.skipif(device().type != "cpu", reason="of CPUs")
def test_attention_is_plain_on_a_cpu_but_for_float64(encoder, head):
    usual = encoder.model.config._attn_implementation
    for precision, kind in (("float32", "eager"), ("float64", usual)):
        given = load(SAMPLE.clip, precision)
        assert Classifier(given, ("image",), head, short()).model.config._attn_implementation == kind
        assert given.model.config._attn_implementation == usual != "eager", "the encoder that was given stays as it is"


def test_lora_merged_equals_unmerged(encoder, few, head):
    model = train("lora", encoder, few, head, Work("float64"))
    with torch.inference_mode():
        unmerged = model.vectors(encoder.pixels(few.images[:20]))
    merged = encoder.with_weights(model.tuned().weights).encode_images(few.images[:20], cache=False)
    start = encoder.encode_images(few.images[:20], cache=False)
    assert np.allclose(merged, unmerged.numpy(), atol=1e-6) and not np.allclose(merged, start, atol=1e-3)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == 3 * 3 * 8 * (64 + 64)  # layers x matrices x rank x (in + out)
    assert {m.scaling["default"] for m in model.modules() if hasattr(m, "scaling")} == {2.0}  # alpha is twice the rank
    with pytest.raises(ValueError, match="method 'full' with rank 8; choose from full, lora, lpft, flyp; lora alone has a rank"):
        tuning.tune(encoder, few, "full", short("lora"), ASKED)


def test_mixtures_end_exactly_where_they_should_and_files_too(encoder, few, head, work):
    start, end = Tuned(encoder.weights, head), train("lpft", encoder, few, head, Work("float64")).tuned()
    with pytest.raises(FileNotFoundError, match="--fresh 04"):
        Tuned.load(work.model())
    end.save(work.model())
    for got, wanted in ((end.mixed(start, 0.0), start), (end.mixed(start, 1.0), end), (Tuned.load(work.model()), end)):
        assert all(torch.equal(tensor, wanted.weights[k]) for k, tensor in got.weights.items()) and len(got.weights) > 40
        assert np.array_equal(got.head.weight, wanted.head.weight) and np.array_equal(got.head.bias, wanted.head.bias)
    half, name = end.mixed(start, 0.5), "visual_projection.weight"
    assert torch.allclose(half.weights[name], (start.weights[name] + end.weights[name]) / 2)
    with pytest.raises(ValueError, match=r"alpha is 1\.2, wanted 0 to 1"):
        end.mixed(start, 1.2)


def test_tuning_learns_and_predicts_as_its_saved_weights(encoder, few, work):
    config = replace(short(epochs=5, learning_rate=1e-3, patience=99, augment=0.0), seeds=(0, 1, 2), kept=(0, 2))
    found = tuning.tune(encoder, few, "full", config, ASKED, work=work)
    assert found.probs.shape == (3, 120, 7) and found.notes["encoder"] == encoder.facts
    assert len(list(work.model().parent.iterdir())) == 2
    for seed in config.kept:
        kept = Tuned.load(work.model(seed=seed))  # what was trained and no more
        assert {name.split(".")[0] for name in kept.weights} == set(PARTS["image"])
        posteriors = kept.head.posterior(encoder.with_weights(kept.weights).encode_images(few.part("test").images))
        assert np.allclose(found.test.probs[seed], posteriors, atol=1e-6)
    losses = [epoch["train_loss"] for epoch in found.notes["history"][0]]
    assert losses[-1] < 0.8 * losses[0], losses
    assert {"seconds", "parameters", "best_epoch"} <= set(found.notes["runs"][1]) and found.notes["runs"][1][
        "arithmetic"
    ] == "float64"


def test_the_linear_probe_starts_lp_ft_and_nothing_is_kept_without_a_folder(encoder, few, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = tuning.tune(encoder, few, "lpft", short("lpft", learning_rate=0.0), None, work=Work("float64", 1))
    probe = heads.fit_probe(few, encoder.vectors(few))[0]
    assert np.allclose(found.probs, probe.probs, atol=1e-6) and not list(tmp_path.iterdir())


def test_a_search_chooses_on_validation_among_short_trainings(encoder, few, work):
    """A rate that changes nothing, one that fits, one that destroys; nothing is kept."""
    grid = Search(factors=(1e-6, 1.0, 1e3), beyond=0, epochs=3, rows=120)
    config = short("lpft", learning_rate=1e-3, augment=0.0, patience=99)
    found = tuning.search(encoder, few, "lpft", config, None, grid, work=work).notes
    assert [t["rate"] for t in found["tried"]] == pytest.approx([1e-9, 1e-3, 1.0])
    assert (found["rows"], found["n"], found["epochs"]) == (120, 60, 3) and not any(work.folder.rglob("*.safetensors"))
    best = max(found["tried"], key=lambda t: (t["validation_accuracy"], -t["validation_loss"]))
    assert found["rate"] == best["rate"] < 1 and found["tried"][2]["validation_accuracy"] < 0.4
    still = heads.fit_probe(few, encoder.vectors(few))[0].validation
    assert found["tried"][0]["validation_accuracy"] == (still.predicted == still.labels).mean()
    assert config.at(found["rate"]).fit.learning_rate == found["rate"]


def test_other_ranks_are_tried_at_the_best_rate(encoder, few, monkeypatch):
    def peak(*arguments, **_):
        config = arguments[3]
        off = abs(np.log(config.fit.learning_rate / 3e-3)) + abs(np.log(config.rank / 16))
        return training.Fitted(None, [{"validation_accuracy": -off, "validation_loss": 0.0}], {})

    monkeypatch.setattr(tuning, "fit", peak)
    config, asked = short("lora", learning_rate=1e-3), prompts.FACES["single"]
    found = tuning.search(encoder, few, "lora", config, asked, Search(beyond=1), (2, 8, 16), work=Work("float64", 1)).notes
    tried = [(round(1e3 * t["rate"], 2), t["rank"]) for t in found["tried"]]
    assert tried == [(0.33, 8), (1.0, 8), (3.0, 8), (9.0, 8), (3.0, 2), (3.0, 16)]
    assert config.at(found["rate"], found["rank"]) == replace(config.at(3e-3), rank=16)


@pytest.mark.parametrize(("best", "tried"), [(1e-3, 3), (3e-3, 4), (1e-4, 5), (1e-6, 5), (1e-2, 5), (9.0, 3)])
def test_a_search_goes_on_beyond_an_edge(encoder, few, monkeypatch, best, tried):
    """Rates 1/3, 1 and 3 times 1e-3 first; two more at most, on the side where it gets better; one that diverges is left out."""

    asked = []

    def peak(*arguments, **_):
        rate = arguments[3].fit.learning_rate
        asked.append(rate)
        if best > 1 and rate > 4e-3:
            raise FloatingPointError("the loss is nan")
        history = [{"validation_accuracy": -abs(np.log(rate / best)), "validation_loss": 0.0}]
        return training.Fitted(None, history, {})

    monkeypatch.setattr(tuning, "fit", peak)
    config = short("lpft", learning_rate=1e-3)
    found = tuning.search(encoder, few, "lpft", config, None, Search(beyond=2), work=Work("float64", 1)).notes
    rates = np.array([t["rate"] for t in found["tried"]])
    assert len(rates) == tried and np.allclose(rates[1:] / rates[:-1], 3) and len(set(asked)) == len(asked)
    assert found["rate"] == rates[np.abs(np.log(rates / best)).argmin()]


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
    pairs = logits[:, labels]  # smoothing moves a share of each truth to all, in both directions alike
    smooth = whole + 0.2 * float(pairs.diag().mean() - pairs.mean())
    assert np.isclose(float(tuning.contrastive(logits, labels, 0.2)), smooth) and not np.isclose(smooth, whole)
    shared = (labels[:, None] == labels).double()
    shared /= shared.sum(1, keepdim=True)
    both = [float(F.cross_entropy(side, shared, label_smoothing=s)) / 2 for s in (0.0, 0.2) for side in (pairs, pairs.T)]
    assert np.allclose([sum(both[:2]), sum(both[2:])], [whole, smooth]), "targets shared by the items of a class"


def test_texts_lose_a_share_of_their_tokens_in_training_only(encoder, sample_texts):
    texts = some(sample_texts, 40, 0, 0)
    batches, rows = Batches(texts, encoder, replace(short("lpft"), drop=0.3)), np.arange(40)
    whole, left = (batches.batch(rows, rng, 0.0)[1].sum(1) for rng in (None, np.random.default_rng(0)))
    assert whole.tolist() == batches.lengths.tolist() and (left <= whole).all() and (left >= 2).all()
    assert 0.6 < float((left - 2).sum() / (whole - 2).sum()) < 0.8
    tokens = batches.tokens[0]
    thin = tuning.thinned(tokens, np.random.default_rng(1), 0.5)
    rest = iter(tokens)
    assert (thin[0], thin[-1]) == (tokens[0], tokens[-1]) and all(token in rest for token in thin), "in their order"


def test_pictures_that_are_no_array_are_opened_once_where_they_fit(encoder, few, monkeypatch):
    """And give what those give that are opened batch by batch."""
    listed = replace(few, images=column([picture[:40] for picture in few.images]))
    asked, opened = [], []
    monkeypatch.setattr(encoder, "open", lambda images, ids: opened.extend(ids) or type(encoder).open(encoder, images, ids))
    for limit in (tuning.HELD, 0):
        monkeypatch.setattr(tuning, "HELD", limit)
        batches, rows = Batches(listed, encoder, short("full")), np.arange(6)
        asked.append([batches.batch(rows, rng, 0.0)[0] for rng in (None, np.random.default_rng(0), None)])
        assert len(opened) == (len(listed) if limit else len(listed) + 3 * len(rows))
    assert all(torch.equal(held, anew) for held, anew in zip(*asked, strict=True))


def test_patches_are_dropped_in_training_only_and_by_each_copy_for_itself(encoder, few, head):
    """An average is a copy that is judged while the original is in training mode: it must see all patches."""
    tokens = torch.arange(2 * 11, dtype=torch.float64).view(2, 11, 1).repeat(1, 1, 3)
    kept = tuning.some_patches(tokens, 0.4)
    assert kept.shape == (2, 5, 3) and torch.equal(kept[:, 0], tokens[:, 0])
    for row in range(2):
        values = kept[row, :, 0].tolist()
        assert values == sorted(set(values)) and set(values) <= set(tokens[row, :, 0].tolist())
    model, plain = (Classifier(encoder, ("image",), head, short(patches=share)).train() for share in (0.5, 1.0))
    average, pixels = copy.deepcopy(model).eval(), encoder.pixels(few.images[:4])
    with torch.inference_mode():
        assert torch.allclose(average(pixels), plain(pixels), atol=1e-9)
        assert not torch.allclose(model(pixels), plain(pixels), atol=1e-3)
        assert torch.allclose(model.eval()(pixels), plain(pixels), atol=1e-9)


@pytest.mark.parametrize("method", ["full", "flyp"])
def test_an_average_is_judged_as_its_weights_predict(method, encoder, few, work):
    """With an average of the weights and dropped patches the loop's curve is that of the model that is kept."""
    config = short(method, ema=0.9, epochs=3, patience=99, patches=0.5)
    found = tuning.tune(encoder, few, method, config, ASKED, work=work)
    best = found.notes["history"][0][found.notes["runs"][0]["best_epoch"] - 1]
    shown = -np.log(found.validation.probs[0][np.arange(60), found.validation.labels]).mean()
    assert best["validation_loss"] == pytest.approx(shown, abs=1e-5)


@pytest.mark.parametrize("modality", ["text", "both"])
def test_the_encoders_of_the_columns_that_are_there_learn(modality, encoder, sample_faces, sample_texts, work):
    data, sets = {"text": (sample_texts, prompts.TEXTS["single"]),
                  "both": (pairing.match(sample_faces, sample_texts), prompts.PAIRS["both"])}[modality]  # fmt: skip
    found = tuning.tune(encoder, some(data, 90, 40, 40), "full", short(), sets, work=work)
    weights = Tuned.load(work.model()).weights
    moved = {n.split(".")[0] for n, v in weights.items() if not torch.equal(v, encoder.weights[n])}
    assert moved == {"text_model", "text_projection"} | ({"vision_model", "visual_projection"} if modality == "both" else set())
    assert found.probs.shape == (1, 80, len(data.classes))


def test_pictures_of_every_kind_make_the_same_batches(encoder, few):
    """Grey squares on the device, colour arrays and opened pictures: alike for judging, and in training as well."""
    rows, config = np.array([5, 3, 8]), short(augment=0.5)
    kinds = [few.images, np.repeat(few.images[..., None], 3, axis=3), column(list(few.images))]
    batches = [Batches(replace(few, images=images), encoder, config) for images in kinds]
    plain = [b.batch(rows, None, 0.0)[0] for b in batches]
    varied = [b.batch(rows, np.random.default_rng(0), 0.0)[0] for b in batches]
    for some in (plain, varied):
        assert some[0].shape == (3, 3, 48, 48)
        assert torch.allclose(some[0], some[1], atol=1e-6) and torch.allclose(some[0], some[2], atol=1e-6)
    assert not torch.allclose(plain[0], varied[0], atol=0.1)
    assert len(batches[0].batch(rows, None, 0.0)) == 1 and batches[0].lengths is None


def test_logits_are_exact_under_autocast(few, head):
    encoder = load(SAMPLE.clip, "float32")
    models = Classifier(encoder, ("image",), head, short()), Prompted(encoder, ("image",), head, short("flyp"), ASKED).eval()
    pixels = encoder.pixels(few.images[:4])
    for model in models:
        with torch.inference_mode(), training.autocast("bfloat16"):
            vectors, logits = model.vectors(pixels), model(pixels)
            weight = model.weight if model is models[0] else encoder.scale * model.directions()
        assert logits.dtype == torch.float32 and torch.allclose(logits, vectors @ weight.T, atol=1e-4)


def test_two_processes_learn_what_one_learns(tmp_path):
    """torchrun on two CPU processes against one: the same curve and weights, within rounding.

    (`accelerate launch` starts several processes on GPUs; on CPUs it wants MPI, and torchrun does the same without.)
    """
    code = """if True:
        import sys, pathlib
        from emolib.data import prompts, sets
        from emolib.models import encoder, tuning
        from emolib.profiles import Work, get
        sample, work = get("sample"), Work("float64", 1, pathlib.Path(sys.argv[1]))
        data = sets.faces(sample).select(slice(None, None, 6))
        tuning.tune(encoder.load(sample.clip, "float64"), data, "full", sample.full, prompts.FACES["single"], work=work)
    """
    (tmp_path / "tune.py").write_text(code)
    kept = {}
    for count in (1, 2):
        out = tmp_path / str(count)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
        where = {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        done = subprocess.run([*command, str(tmp_path / "tune.py"), str(out)], env={**os.environ, **where},
                              capture_output=True, text=True, check=False)  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        path = Work(folder=out).checkpoint(0)
        kept[count] = (store.read_note(path), store.read_arrays(path))
    (one, weights), (two, others) = kept[1], kept[2]
    assert one["key"] == two["key"] and weights.keys() == others.keys()
    for a, b in zip(one["history"], two["history"], strict=True):
        assert a == pytest.approx(b, rel=1e-9)
    for name, value in weights.items():
        if name.startswith(("model.", "best.")):
            assert np.allclose(value, others[name], atol=1e-7), name


def test_another_encoder_or_data_does_not_take_over_a_checkpoint(encoder, few, head, work):
    nudged = {k: v + 1e-3 if k == "visual_projection.weight" else v for k, v in encoder.weights.items()}
    seen = set()
    for who, what in ((encoder, few), (encoder.with_weights(nudged), few), (encoder, few.select(slice(1, None)))):
        train("full", who, what, head, work)
        seen.add(store.read_note(work.checkpoint(0))["key"])
    assert len(seen) == 3
