"""Encoders: equal to transformers' own features, cached by everything that matters, never silent about bad input."""

import io
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from emolib import profiles, store
from emolib.data.dataset import DataError, column
from emolib.models import encoder as module
from emolib.models.encoder import MissingModel, load
from emolib.profiles import ROOT, Clip, get

WORDS = ["a happy person", "someone with glasses and a beard and long dark hair", "sad"]


def clip(folder, **options):
    return Clip(str(folder), elsewhere=False, **options)


@pytest.fixture
def encoder(checkpoints, cache):
    return load(clip(checkpoints / "clip"), "float32")


@pytest.fixture
def cached(cache):
    return lambda: sorted((cache / "features").glob("*.safetensors"))


def keep(path, vectors):
    """As the cache keeps them."""
    store.write_arrays(path, {"vectors": vectors}, {"sha256": store.digest({"vectors": vectors})})


@pytest.mark.parametrize("kind", ["clip", "siglip", "dual"])
def test_vectors_equal_those_of_transformers(kind, checkpoints, sample_faces):
    """The library's own processor, tokenizer and features, one item after the other, against ours in batches."""
    folder, faces = checkpoints / kind, sample_faces.images[:7]
    model, processor, tokenizer = (getattr(transformers, f"Auto{part}").from_pretrained(folder)
                                   for part in ("Model", "ImageProcessor", "Tokenizer"))  # fmt: skip
    model.eval()
    encoder = load(clip(folder, batch_size=3), "float32")
    full = {"padding": "max_length", "max_length": 64} if kind == "siglip" else {}
    with torch.inference_mode():
        theirs = [model.get_image_features(**processor(Image.fromarray(f).convert("RGB"), return_tensors="pt")) for f in faces]
        words = []
        for text in WORDS:
            tokens = tokenizer(text, return_tensors="pt", **full)
            kept = ("input_ids",) if kind == "siglip" else ("input_ids", "attention_mask")
            words.append(model.get_text_features(**{k: tokens[k] for k in kept}))
    coloured = np.repeat(faces[..., None], 3, axis=3)
    for ours, reference in (
        (encoder.encode_images(faces, cache=False), theirs), (encoder.encode_images(coloured, cache=False), theirs),
        (encoder.encode_images(column([Image.fromarray(face) for face in faces]), cache=False), theirs),
        (encoder.encode_texts(WORDS, cache=False), words),
    ):  # fmt: skip
        wanted = torch.nn.functional.normalize(torch.cat([r.pooler_output for r in reference]), dim=1).numpy()
        assert ours.dtype == np.float32 and np.abs(ours - wanted).max() < 1e-5
        assert np.allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6)


TINY = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
VISION = TINY | {"image_size": 48, "patch_size": 16}


@pytest.mark.parametrize("kind", ["MetaClip2", "ChineseCLIP", "AltCLIP", "Blip"])
def test_other_dual_encoders_of_transformers_serve_as_well(kind, checkpoints, sample_faces, tmp_path):
    parts = {
        "text_config": TINY | {"vocab_size": 600, "max_position_embeddings": 64},
        "vision_config": VISION,
        "projection_dim": 16,
    }
    parts["text_config"] |= {"project_dim": 16} if kind == "AltCLIP" else {}
    config = getattr(transformers, f"{kind}Config")(**parts)
    shutil.copytree(checkpoints / "clip", tmp_path / kind)
    getattr(transformers, f"{kind}Model")(config).save_pretrained(tmp_path / kind)
    encoder = load(clip(tmp_path / kind, image_size=64), "float32")
    vectors = encoder.encode_images(sample_faces.images[:3], cache=False), encoder.encode_texts(["a", "i feel"], cache=False)
    assert [v.shape for v in vectors] == [(3, 16), (2, 16)] and encoder.facts["class"] == f"{kind}Model"
    # What is fine-tuned of an encoder is found by these names.
    assert all(any(name.startswith(part) for name in encoder.weights) for some in module.PARTS.values() for part in some[:1])


@pytest.mark.parametrize("kind", ["Siglip2", "Flava"])
def test_what_takes_no_pictures_of_one_size_is_refused(kind, checkpoints, tmp_path):
    text = TINY | {"vocab_size": 600, "max_position_embeddings": 64}
    vision = TINY | {"patch_size": 16} | ({"num_patches": 9} if kind == "Siglip2" else {"image_size": 48})
    parts = {"text_config": text} | ({"vision_config": vision} if kind == "Siglip2" else {"image_config": vision})
    shutil.copytree(checkpoints / "clip", tmp_path / kind)
    if kind == "Flava":
        parts |= {"multimodal_config": TINY, "image_codebook_config": {"num_groups": 1, "hidden_size": 8, "vocab_size": 8}}
    getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**parts)).save_pretrained(tmp_path / kind)
    with pytest.raises(MissingModel, match=f"is a {kind}Model, wanted a dual encoder of texts and of images of one size"):
        load(clip(tmp_path / kind), "float32")


def test_other_sizes_interpolate_the_position_embeddings(checkpoints, sample_faces):
    faces = sample_faces.images[:4]
    native, larger = (load(clip(checkpoints / "clip", image_size=s), "float32") for s in (None, 64))
    assert native.size == 48 and larger.size == 64
    with torch.inference_mode():
        wanted = larger.model.get_image_features(larger.pixels(faces), interpolate_pos_encoding=True)
    assert np.allclose(larger.encode_images(faces, cache=False), module.unit(wanted).numpy(), atol=1e-6)
    alike = (larger.encode_images(faces, cache=False) * native.encode_images(faces, cache=False)).sum(1)
    assert 0.5 < alike.mean() < 0.999
    with pytest.raises(ValueError, match="takes pictures of 48 pixels only, wanted 64"):
        load(clip(checkpoints / "dual", image_size=64))


def test_the_fingerprint_covers_all_that_an_answer_depends_on(encoder, checkpoints, tmp_path):
    first, used = encoder.fingerprint, load(clip(checkpoints / "clip"), "float32")
    used.tokenizer("a sad person", truncation=True, max_length=9, padding="max_length")
    assert used.fingerprint == first
    for part in (encoder.model, encoder.tokenizer, encoder.processor):
        part.save_pretrained(tmp_path / "again")
    assert load(clip(tmp_path / "again"), "float32").fingerprint == first
    weights = {k: v + 1e-3 if k == "visual_projection.weight" else v for k, v in encoder.weights.items()}
    nudged, worded, brighter = encoder.with_weights(weights), *(load(clip(checkpoints / "clip"), "float32") for _ in range(2))
    worded.tokenizer.add_tokens(["happy"])
    brighter.processor.image_mean = [0.4] * 3
    assert len({e.fingerprint for e in (encoder, nudged, worded, brighter)}) == 4
    assert {e.facts["weights"] for e in (encoder, worded, brighter)} == {encoder.facts["weights"]} != {nudged.facts["weights"]}


def test_the_cache_key_changes_with_whatever_matters(encoder, checkpoints, cached, sample_faces):
    faces = sample_faces.images[:4]
    first = encoder.encode_images(faces)
    assert len(cached()) == 1
    assert np.array_equal(encoder.encode_images(faces), first) and len(cached()) == 1
    keep(cached()[0], first * 0)
    assert not encoder.encode_images(faces).any(), "the cache is not read"
    changed = faces.copy()
    changed[0, 0, 0] ^= 1
    weights = {k: v + 1e-3 if k == "visual_projection.weight" else v for k, v in encoder.weights.items()}
    other, half, double = (load(clip(checkpoints / "clip", image_size=s), p) for s, p in
                           ((64, "float32"), (None, "bfloat16"), (None, "float64")))  # fmt: skip
    mended = load(clip(checkpoints / "clip"), "float32")
    mended.model.config.vision_config.hidden_act = "relu"
    for count, (who, what) in enumerate(
        [(encoder, changed), (encoder, faces[:3]), (encoder.with_weights(weights), faces), (other, faces), (half, faces),
         (double, faces), (mended, faces)], 2,
    ):  # fmt: skip
        assert who.encode_images(what).any()
        assert len(cached()) == count
    before = len(cached())
    for texts in (["a", "b"], ["ab", "c"], ["a", "b"], ["b", "a"]):
        encoder.encode_texts(texts)
    assert len(cached()) == before + 3


def test_order_and_batches_do_not_matter(encoder, checkpoints, monkeypatch):
    texts = [" ".join(["happy"] * n) for n in (30, 1, 12, 3, 25, 7)]
    together = encoder.encode_texts(texts, cache=False)
    assert np.allclose(together, np.concatenate([encoder.encode_texts([t], cache=False) for t in texts]), atol=1e-6)
    monkeypatch.setattr(module, "SHARD", 2)
    assert np.allclose(load(clip(checkpoints / "clip", batch_size=4), "float32").encode_texts(texts), together, atol=1e-6)
    assert encoder.encode_texts([]).shape == (0, encoder.dimension)


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


def test_pictures_of_any_kind_are_read_and_opened_ones_encoded_alike(encoder, tmp_path):
    colour = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8))
    (tmp_path / "face.png").write_bytes(png(colour))
    kinds = column([colour, png(colour), tmp_path / "face.png", str(tmp_path / "face.png"), np.asarray(colour),
                    colour.convert("L"), np.asarray(colour.convert("L"))])  # fmt: skip
    vectors = encoder.encode_images(kinds)
    assert np.allclose(vectors[1:5], vectors[0], atol=1e-6) and np.allclose(vectors[5], vectors[6], atol=1e-6)
    assert not np.allclose(vectors[0], vectors[5], atol=1e-2)
    wide = np.asarray(colour.convert("L"))[None]  # not square: cut as the processor does, not squeezed
    assert np.allclose(encoder.encode_images(wide), vectors[5], atol=1e-6)
    assert np.array_equal(encoder.encode_images(encoder.open(kinds)), vectors)


def test_a_picture_that_cannot_be_read_is_named_and_nothing_is_lost(encoder, tmp_path, monkeypatch, cached):
    monkeypatch.setattr(module, "SHARD", 4)
    good = png(Image.new("L", (48, 48), 90))
    for bad, name in ((b"<html>not found</html>", "picture 6"), (tmp_path / "gone.png", r"picture 6 \(.*gone\.png\)")):
        with pytest.raises(DataError, match=f"{name} cannot be read"):
            encoder.encode_images(column([good] * 6 + [bad]))
        assert len(cached()) == 1
    keep(cached()[0], np.full((4, encoder.dimension), 7.0, np.float32))
    again = encoder.encode_images(column([good] * 6))
    assert (again[:4] == 7).all() and np.allclose(again[4:], encoder.encode_images(column([good]), cache=False), atol=1e-6)


def test_emolib_clip_names_a_folder_or_an_id_and_a_missing_one_says_how_to_get_it(checkpoints, monkeypatch, tmp_path):
    monkeypatch.delenv("EMOLIB_CLIP", raising=False)
    monkeypatch.setenv("EMOLIB_DATA", str(tmp_path))
    with pytest.raises(MissingModel, match=r"clip-mini is not at hand: looked for .* EMOLIB_CLIP=FOLDER"):
        load(get("mini").clip)
    (tmp_path / "empty").mkdir()
    for named, says in (
        ("empty", r"cannot be loaded.*model\.safetensors.*EMOLIB_CLIP=FOLDER"),
        ("gone", r"EMOLIB_CLIP names .*gone, and there is no such folder"),
    ):
        monkeypatch.setenv("EMOLIB_CLIP", str(tmp_path / named))
        with pytest.raises(MissingModel, match=says):
            load(get("mini").clip)
    assert load(get("sample").clip).name == "clip-tiny", "the sample heeds EMOLIB_CLIP"
    monkeypatch.setenv("EMOLIB_CLIP", str(checkpoints / "siglip"))
    assert load(get("full").clip).name == "siglip"
    monkeypatch.setenv("EMOLIB_CLIP", "some/encoder@abc")
    assert module.locate(get("full").clip) == ("some/encoder", "abc")


def test_pickles_code_and_what_is_no_dual_encoder_are_refused(checkpoints, tmp_path):
    shutil.copytree(checkpoints / "clip", tmp_path / "pickled")
    torch.save({}, tmp_path / "pickled" / "pytorch_model.bin")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "config.json").write_text('{"model_type": "mine", "auto_map": {"AutoConfig": "mine.C"}}')
    (tmp_path / "code" / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass C: pass\n")
    (tmp_path / "damaged").mkdir()
    shutil.copytree(checkpoints / "clip", tmp_path / "damaged", dirs_exist_ok=True)
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"x" * 99)
    for name in ("pickled", "code", "damaged"):
        with pytest.raises(MissingModel, match="cannot be loaded"):
            load(clip(tmp_path / name))
    assert not (tmp_path / "ran").exists(), "a checkpoint's code was run"
    shutil.copytree(checkpoints / "dual", tmp_path / "bert", ignore=shutil.ignore_patterns("config.json", "model.safetensors"))
    small = transformers.BertConfig(hidden_size=8, num_attention_heads=1, num_hidden_layers=1, intermediate_size=8)
    transformers.BertModel(small).save_pretrained(tmp_path / "bert")
    with pytest.raises(MissingModel, match="is a BertModel, wanted a dual encoder"):
        load(clip(tmp_path / "bert"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("visual_projection.weight"), r"the tensor visual_projection.weight is missing \(1 in all\)"),
        (lambda t: t.update(extra=t["logit_scale"].clone()), "the tensor extra belongs to no part of the model"),
        (
            lambda t: t["text_projection.weight"].mul_(torch.nan),
            "the tensor text_projection.weight holds values that are not finite",
        ),
        (lambda t: t["logit_scale"].fill_(torch.inf), "the tensor logit_scale holds values that are not finite"),
        (lambda t: t.update({"text_projection.weight": t["text_projection.weight"][:, 1:].clone()}), "cannot be loaded"),
    ],
)
def test_gaps_are_refused_and_not_filled_with_random_weights(checkpoints, tmp_path, change, message):
    shutil.copytree(checkpoints / "clip", tmp_path / "x")
    tensors = load_file(tmp_path / "x" / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "x" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MissingModel, match=message):
        load(clip(tmp_path / "x"))


def test_a_lost_tokenizer_is_named(checkpoints, tmp_path):
    names = ("tokenizer.json", "vocab.json", "merges.txt")
    shutil.copytree(checkpoints / "clip", tmp_path / "x", ignore=shutil.ignore_patterns(*names))
    with pytest.raises(MissingModel, match="tokenizer"):
        load(clip(tmp_path / "x"))


def test_a_tokenizer_without_a_length_is_cut_and_padded_at_the_models(checkpoints):
    """SigLIP 2's says 1e30."""
    siglip = load(clip(checkpoints / "siglip"), "float32")
    wanted = siglip.encode_texts(WORDS, cache=False)
    siglip.tokenizer.model_max_length = int(1e30)
    assert siglip.longest == 64 and np.array_equal(siglip.encode_texts(WORDS, cache=False), wanted)


def test_a_book_in_one_cell_takes_no_time(encoder, capsys):
    started = time.monotonic()
    encoder.encode_texts(["happy " * 400_000], cache=False)
    assert time.monotonic() - started < 2 and "1 of 1 texts are longer" in capsys.readouterr().err


@pytest.mark.parametrize("damage", [lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b[: len(b) // 2], lambda b: b""])
def test_a_damaged_cache_is_made_again(encoder, cached, damage):
    first = encoder.encode_texts(WORDS)
    cached()[0].write_bytes(damage(cached()[0].read_bytes()))
    assert np.array_equal(encoder.encode_texts(WORDS), first) and len(cached()) == 1
    assert store.read_note(cached()[0])["sha256"] == store.digest({"vectors": first})


def test_a_cache_that_cannot_be_written_is_said_once_and_done_without(encoder, monkeypatch, tmp_path, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setattr(module, "CACHE", tmp_path / "file" / "features")
    for _ in range(2):
        assert encoder.encode_texts(WORDS).shape == (3, encoder.dimension)
    assert capsys.readouterr().err.count("cannot be written") == 1


def test_the_hubs_cache_is_used_offline(checkpoints, tmp_path):
    """`full` with OpenAI's id, its pinned revision laid out as the Hub's client leaves it, and no network."""
    full = profiles.get("full")
    repository = tmp_path / "hub" / f"models--{full.clip.source.replace('/', '--')}"
    shutil.copytree(checkpoints / "clip", repository / "snapshots" / full.clip.revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(full.clip.revision)
    code = (
        "from emolib import profiles; from emolib.models import encoder\n"
        "e = encoder.load(profiles.get('full').clip); print(e.name, e.encode_texts(['sad'], cache=False).shape)"
    )
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environment = {k: v for k, v in os.environ.items() if k != "EMOLIB_CLIP"} | offline
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "openai/clip-vit-base-patch32 (1, 48)", done.stderr[-2000:]


def test_vectors_of_a_data_set_follow_its_columns(encoder, sample_faces, sample_texts):
    faces, texts = sample_faces.select(slice(5)), sample_texts.select(slice(5))
    both = encoder.vectors(replace(faces, texts=texts.texts))
    mean = encoder.vectors(faces) + encoder.vectors(texts)
    assert np.allclose(both, mean / np.linalg.norm(mean, axis=1, keepdims=True))
    assert np.array_equal(encoder.vectors(faces), encoder.encode_images(faces.images))


def test_tokens_keep_short_texts_and_average_long_ones_and_patches(encoder, sample_faces):
    long = "a happy person with glasses and a beard " * 6
    texts = encoder.encode_texts(["sad", long], tokens=True)
    (image,) = encoder.encode_images(sample_faces.images[:1], tokens=True)
    with torch.inference_mode():
        short, whole = (encoder.model.text_model(*encoder.pad(encoder.tokenize([t]))).last_hidden_state[0] for t in ("sad", long))
        patches = encoder.model.vision_model(encoder.pixels(sample_faces.images[:1])).last_hidden_state[0, 1:]
    assert texts.shape == (2, 24, 64) and texts.dtype == np.float16 and not texts[0, len(short) :].any()
    assert np.allclose(texts[0, : len(short)], short, atol=1e-2) and len(whole) > 24
    assert np.allclose(texts[1, 0], whole[: -(-len(whole) // 24)].mean(0), atol=1e-2)
    assert np.allclose(image[0], patches.view(6, 6, 64)[:2, :2].mean((0, 1)), atol=1e-2) and image.shape == (16, 64)
