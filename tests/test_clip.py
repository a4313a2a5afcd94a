"""Encoders: equal to transformers' own features, cached by everything that matters, resumed, never silent about bad input."""

import dataclasses
import io
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch
from PIL import Image

from emolib import clip, profiles, store, tiny
from emolib.clip import MissingModel
from emolib.items import DataError
from emolib.profiles import ROOT, Clip

SAMPLE = profiles.get("sample")
FLOAT32 = dataclasses.replace(SAMPLE, precision="float32", threads=None)


def profile_for(folder, **options):
    return dataclasses.replace(FLOAT32, clip=Clip(str(folder), "made by a test", **options))


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """Three kinds of dual encoder in transformers' format, with random weights: CLIP, SigLIP, ViT + BERT."""
    from transformers import (
        BertConfig,
        SiglipConfig,
        SiglipImageProcessor,
        SiglipModel,
        VisionTextDualEncoderConfig,
        VisionTextDualEncoderModel,
        ViTConfig,
    )  # fmt: skip

    folder = tmp_path_factory.mktemp("checkpoints")
    _, tokenizer, processor = tiny.blank(["a photo of a happy person with glasses"] * 3)
    shutil.copytree(tiny.FOLDER, folder / "clip")
    torch.manual_seed(1)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
    text = size | {"vocab_size": len(tokenizer), "max_position_embeddings": 64}
    vision = size | {"image_size": 48, "patch_size": 16}
    SiglipModel(SiglipConfig(text_config=text | {"projection_size": 32}, vision_config=vision)).save_pretrained(folder / "siglip")
    pair = VisionTextDualEncoderConfig.from_vision_text_configs(ViTConfig(**vision), BertConfig(**text), projection_dim=16)
    VisionTextDualEncoderModel(pair).save_pretrained(folder / "dual")
    tokenizer.model_max_length = 64
    for name in ("siglip", "dual"):
        tokenizer.save_pretrained(folder / name)
    SiglipImageProcessor(size={"height": 48, "width": 48}).save_pretrained(folder / "siglip")
    processor.save_pretrained(folder / "dual")
    return folder


@pytest.fixture
def encoder(checkpoints, monkeypatch, tmp_path):
    monkeypatch.setattr(clip, "ROOT", tmp_path)
    return clip.load(profile_for(checkpoints / "clip"))


@pytest.fixture
def cached(tmp_path):
    return lambda: sorted((tmp_path / "data" / "cache" / "clip").glob("*.safetensors"))


WORDS = ["a happy person", "someone with glasses and a beard and long dark hair", "sad"]


@pytest.mark.parametrize("kind", ["clip", "siglip", "dual"])
def test_vectors_equal_those_of_transformers(kind, checkpoints, sample_faces):
    """The library's own processor, tokenizer and features, one item after the other, against ours in batches."""
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    folder, faces = checkpoints / kind, sample_faces.pixels[:7]
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoImageProcessor.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoder = clip.load(profile_for(folder, batch_size=3))
    full = {"padding": "max_length", "max_length": 64} if kind == "siglip" else {}
    with torch.inference_mode():
        theirs = [model.get_image_features(**processor(Image.fromarray(f).convert("RGB"), return_tensors="pt")) for f in faces]
        words = []
        for text in WORDS:
            tokens = tokenizer(text, return_tensors="pt", **full)
            kept = ("input_ids",) if kind == "siglip" else ("input_ids", "attention_mask")
            words.append(model.get_text_features(**{k: tokens[k] for k in kept}))
    for ours, reference in (
        (encoder.encode_images(faces, cache=False), theirs),
        (encoder.encode_images([Image.fromarray(face) for face in faces], cache=False), theirs),
        (encoder.encode_texts(WORDS, cache=False), words),
    ):
        wanted = torch.nn.functional.normalize(torch.cat([r.pooler_output for r in reference]), dim=1).numpy()
        assert ours.dtype == np.float32 and np.abs(ours - wanted).max() < 1e-5
        assert np.allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6)


def test_other_sizes_interpolate_the_position_embeddings(checkpoints, sample_faces):
    faces = sample_faces.pixels[:4]
    native, larger = (clip.load(profile_for(checkpoints / "clip", image_size=s)) for s in (None, 64))
    assert native.size == 48 and larger.size == 64
    with torch.inference_mode():
        wanted = larger.model.get_image_features(larger.grey(torch.from_numpy(faces)), interpolate_pos_encoding=True)
    assert np.allclose(larger.encode_images(faces, cache=False), clip.unit(wanted).numpy(), atol=1e-6)
    alike = (larger.encode_images(faces, cache=False) * native.encode_images(faces, cache=False)).sum(1)
    assert 0.5 < alike.mean() < 0.999
    with pytest.raises(ValueError, match="takes pictures of 48 pixels only, wanted 64"):
        clip.load(profile_for(checkpoints / "dual", image_size=64))


def test_the_cache_key_changes_with_whatever_matters(encoder, checkpoints, cached, sample_faces):
    faces = sample_faces.pixels[:4]
    first = encoder.encode_images(faces)
    assert len(cached()) == 1
    assert np.array_equal(encoder.encode_images(faces), first) and len(cached()) == 1
    store.write_arrays(cached()[0], {"vectors": first * 0})
    assert not encoder.encode_images(faces).any(), "the cache is not read"
    changed = faces.copy()
    changed[0, 0, 0] ^= 1
    weights = {k: v + 1e-3 if k == "visual_projection.weight" else v for k, v in encoder.weights.items()}
    other = clip.load(profile_for(checkpoints / "clip", image_size=64))
    brighter = clip.load(profile_for(checkpoints / "clip"))
    brighter.processor.image_mean = [0.4] * 3
    double = clip.load(dataclasses.replace(profile_for(checkpoints / "clip"), precision="float64"))
    for count, (who, what) in enumerate(
        [(encoder, changed), (encoder, faces[:3]), (encoder.with_weights(weights), faces), (other, faces), (brighter, faces),
         (double, faces)], 2,
    ):  # fmt: skip
        assert who.encode_images(what).any()
        assert len(cached()) == count
    before = len(cached())
    for texts in (["a", "b"], ["ab", ""[:0] or "c"], ["a", "b"], ["b", "a"]):
        encoder.encode_texts(texts)
    assert len(cached()) == before + 3


def test_order_and_batches_do_not_matter(encoder, checkpoints, monkeypatch):
    texts = [" ".join(["happy"] * n) for n in (30, 1, 12, 3, 25, 7)]
    together = encoder.encode_texts(texts, cache=False)
    assert np.allclose(together, np.concatenate([encoder.encode_texts([t], cache=False) for t in texts]), atol=1e-6)
    monkeypatch.setattr(clip, "SHARD", 2)
    assert np.allclose(clip.load(profile_for(checkpoints / "clip", batch_size=4)).encode_texts(texts), together, atol=1e-6)
    assert encoder.encode_texts([]).shape == (0, encoder.dimension)


def test_a_killed_run_goes_on_where_it_was(tmp_path, checkpoints):
    """SIGKILL after the first shards; what they held is not computed again, and the result is the same."""
    code = f"""
        import sys, numpy as np
        from pathlib import Path
        from emolib import clip
        sys.path.insert(0, {str(ROOT / "tests")!r})
        from test_clip import profile_for
        clip.ROOT, clip.SHARD = Path({str(tmp_path)!r}), 64
        faces = np.random.default_rng(0).integers(0, 255, (3200, 48, 48), dtype=np.uint8)
        np.save({str(tmp_path / "out.npy")!r}, clip.load(profile_for({str(checkpoints / "clip")!r})).encode_images(faces))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    folder = tmp_path / "data" / "cache" / "clip"
    deadline = time.monotonic() + 120
    while len(list(folder.glob("*.safetensors"))) < 4:
        assert time.monotonic() < deadline and process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    early = {path: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
    assert 4 <= len(early) < 50 and not (tmp_path / "out.npy").exists()
    subprocess.run(command, env=environment, check=True, stderr=subprocess.DEVNULL)
    assert len(list(folder.glob("*.safetensors"))) == 50
    assert all(path.stat().st_mtime_ns == when for path, when in early.items())
    faces = np.random.default_rng(0).integers(0, 255, (3200, 48, 48), dtype=np.uint8)
    whole = clip.load(profile_for(checkpoints / "clip")).encode_images(faces, cache=False)
    assert np.allclose(np.load(tmp_path / "out.npy"), whole, atol=1e-6)


def test_long_texts_are_cut_and_counted_and_empty_ones_refused(encoder, capsys):
    long, cut = " ".join(["happy"] * 200), " ".join(["happy"] * 75)
    vectors = encoder.encode_texts([long, cut, "sad"], cache=False)
    assert "1 of 3 texts are longer than 77 tokens and were cut there" in capsys.readouterr().err
    assert np.allclose(vectors[0], vectors[1], atol=1e-6)
    for bad in ("", "  ", None):
        with pytest.raises(DataError, match=r"text 1 is .*, wanted at least one word"):
            encoder.encode_texts(["fine", bad])


def png(picture):
    stream = io.BytesIO()
    picture.save(stream, "png")
    return stream.getvalue()


def test_pictures_of_any_kind_are_read(encoder, tmp_path):
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8))
    clear = Image.new("RGBA", (50, 50), (200, 0, 0, 0))  # wholly transparent: white, whatever colour lies beneath
    deep = Image.fromarray((np.asarray(colour.convert("L")).astype(np.uint16)) * 257)
    (tmp_path / "face.png").write_bytes(png(colour))
    kinds = [
        colour, colour.convert("L"), colour.convert("P"), colour.convert("RGBA"), colour.resize((1, 1)),
        colour.resize((5000, 4000)), png(colour), tmp_path / "face.png", str(tmp_path / "face.png"), np.asarray(colour),
        clear, Image.new("RGB", (50, 50), "white"), deep, colour.convert("L").convert("RGB"),
    ]  # fmt: skip
    vectors = encoder.encode_images(kinds)
    assert np.isfinite(vectors).all() and len(vectors) == len(kinds)
    for same in (3, 6, 7, 8, 9):
        assert np.allclose(vectors[0], vectors[same], atol=1e-5), same
    assert np.allclose(vectors[10], vectors[11], atol=1e-6)
    assert np.allclose(vectors[1], vectors[13], atol=1e-5) and np.allclose(vectors[12], vectors[1], atol=1e-3)


def test_pictures_that_were_opened_before_are_encoded_alike(encoder, sample_faces):
    faces = list(sample_faces.pixels[:5])
    assert np.array_equal(encoder.encode_images(encoder.pictures(faces)), encoder.encode_images(faces))


def test_a_picture_that_cannot_be_read_is_named_and_nothing_is_lost(encoder, tmp_path, monkeypatch, cached):
    monkeypatch.setattr(clip, "SHARD", 4)
    good = png(Image.new("L", (48, 48), 90))
    bad = {
        "truncated": png(Image.fromarray(np.random.default_rng(0).integers(0, 255, (99, 99), dtype=np.uint8)))[:3000],
        "no picture": b"<html>not found</html>", "missing": tmp_path / "gone.png", "empty": b"",
    }  # fmt: skip
    for name, picture in bad.items():
        for path in cached():
            path.unlink()
        with pytest.raises(DataError, match=r"picture 6( \(.*gone\.png\))? cannot be read"):
            encoder.encode_images([good] * 6 + [picture])
        assert len(cached()) == 1, name


def test_a_missing_checkpoint_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.delenv("EMOLIB_CLIP", raising=False)
    monkeypatch.setenv("EMOLIB_DATA", str(tmp_path))
    with pytest.raises(MissingModel, match=r"clip-mini is not at hand: looked for .* EMOLIB_CLIP=FOLDER .* --profile mini"):
        clip.load(profiles.get("mini"))
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("EMOLIB_CLIP", str(tmp_path / "empty"))
    with pytest.raises(MissingModel, match=r"cannot be loaded.*model\.safetensors.*EMOLIB_CLIP=FOLDER"):
        clip.load(profiles.get("mini"))


def test_a_pickle_is_not_loaded(checkpoints, tmp_path, monkeypatch):
    shutil.copytree(checkpoints / "clip", tmp_path / "pickled")
    weights = tmp_path / "pickled" / "model.safetensors"
    torch.save({}, tmp_path / "pickled" / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(MissingModel, match="cannot be loaded"):
        clip.load(profile_for(tmp_path / "pickled"))


def test_what_is_no_dual_encoder_is_refused(checkpoints, tmp_path):
    from transformers import BertConfig, BertModel

    shutil.copytree(checkpoints / "dual", tmp_path / "bert", ignore=shutil.ignore_patterns("config.json", "model.safetensors"))
    BertModel(BertConfig(hidden_size=8, num_attention_heads=1, num_hidden_layers=1, intermediate_size=8)).save_pretrained(
        tmp_path / "bert"
    )
    with pytest.raises(MissingModel, match="is a BertModel, wanted a dual encoder"):
        clip.load(profile_for(tmp_path / "bert"))


def test_the_hubs_cache_is_used_offline(checkpoints, tmp_path):
    """`full` with OpenAI's id, its pinned revision laid out as the Hub's client leaves it, and no network."""
    full = profiles.get("full")
    repository = tmp_path / "hub" / f"models--{full.clip.source.replace('/', '--')}"
    shutil.copytree(checkpoints / "clip", repository / "snapshots" / full.clip.revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(full.clip.revision)
    code = "from emolib import clip, profiles; e = clip.load(profiles.get('full')); print(e.name, e.encode_texts(['sad']).shape)"
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environment = {k: v for k, v in os.environ.items() if k != "EMOLIB_CLIP"} | offline
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "openai/clip-vit-base-patch32 (1, 48)", done.stderr[-2000:]
    empty = environment | {"HF_HUB_CACHE": str(tmp_path / "none")}
    done = subprocess.run([sys.executable, "-c", code], env=empty, capture_output=True, text=True, check=False)
    assert "EMOLIB_CLIP=FOLDER python -m emolib run --profile full" in done.stderr
