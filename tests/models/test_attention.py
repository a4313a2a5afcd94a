"""Relevance: of every encoder and size, and of the patches that the cosine really hangs on."""

import numpy as np
import pytest
import torch

from emolib.models import attention
from emolib.models.encoder import device, load
from emolib.profiles import Clip, get

ASKED = {"happy": "a face with a smile and raised cheeks", "surprise": "a face with raised eyebrows and a dropped jaw"}


@pytest.fixture(scope="module")
def encoder():
    return load(get("sample").clip, "float64")


def test_erasing_relevant_patches_lowers_the_cosine_more_than_irrelevant_ones(encoder, sample_faces):
    usual, lost = encoder.model.config._attn_implementation, {"most": [], "least": []}
    for name, prompt in ASKED.items():
        text = encoder.encode_texts([prompt], cache=False)[0]
        for face in sample_faces.images[sample_faces.labels == sample_faces.classes.index(name)][:8]:
            found = attention.relevance(encoder, face, prompt)
            assert found.shape == (6, 6) and found.dtype == np.float64 and found.min() >= 0 < found.max()
            order = found.ravel().argsort()
            for which, patches in (("most", order[-6:]), ("least", order[:6])):
                erased = face.copy()
                for top, left in zip(*np.divmod(patches, 6), strict=True):
                    erased[8 * top : 8 * top + 8, 8 * left : 8 * left + 8] = 128
                before, after = encoder.encode_images(np.stack([face, erased]), cache=False) @ text
                lost[which].append(before - after)
    assert np.mean(lost["most"]) > 0.05 + np.mean(lost["least"])
    assert encoder.model.config._attn_implementation == usual != "eager"


def test_the_class_token_stands_for_the_picture(encoder, sample_faces):
    """One layer by hand: the positive part of attention x gradient, its mean over heads, in the class token's row."""
    layers = encoder.model.vision_model.encoder.layers
    kept, encoder.model.vision_model.encoder.layers = layers, layers[:1]
    try:
        found = attention.relevance(encoder, sample_faces.images[0], "a happy person")
        text = encoder.text_vectors(*encoder.pad(encoder.tokenize(["a happy person"])))[0].detach()
        weights, cosine = attention.attend(encoder, encoder.pixels(sample_faces.images[:1]), text)
    finally:
        encoder.model.vision_model.encoder.layers = kept
    (gradient,) = torch.autograd.grad(cosine, weights)
    by_hand = (weights[0] * gradient)[0, :, 0, 1:].clamp(min=0).mean(0)
    assert len(weights) == 1 and np.allclose(found.ravel(), by_hand.detach(), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("kind", ["clip", "siglip", "dual"])
def test_attention_of_every_kind_of_encoder_changes_no_vector(kind, checkpoints, cache, sample_faces):
    encoder = load(Clip(str(checkpoints / kind), elsewhere=False), "float64")
    usual, tokens = encoder.model.config._attn_implementation, encoder.pad(encoder.tokenize(["short", *ASKED.values()]))
    pixels = encoder.pixels(sample_faces.images[:1])
    with torch.inference_mode():
        sentence, picture = encoder.text_vectors(*tokens), encoder.image_vectors(pixels)[0]
    weights, cosine = attention.attend(encoder, pixels, sentence[0].clone())
    assert encoder.model.config._attn_implementation == usual and abs(cosine.item() - picture @ sentence[0]) < 1e-12
    assert len(weights) > 1 and all(abs(layer.sum(-1) - 1).max() < 1e-14 for layer in weights)
    encoder.model.set_attn_implementation("exact")  # the text encoder has masks
    with torch.inference_mode():
        assert (encoder.text_vectors(*tokens) - sentence).abs().max() < 1e-12
    encoder.model.set_attn_implementation(usual)


@pytest.mark.skipif(device().type != "cpu", reason="a GPU has no threads to count")
def test_in_float64_the_map_does_not_hang_on_the_number_of_threads(encoder, sample_faces, monkeypatch):
    """A figure's numbers are compared to six digits on every machine: float32 anywhere on the way would move them."""
    threads, found, face = torch.get_num_threads(), [], sample_faces.images[0]
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(attention.relevance(encoder, face, ASKED["happy"]))
    finally:
        torch.set_num_threads(threads)
    assert np.allclose(*found, rtol=1e-11, atol=0)
    # And no float32 that would be the same for any number of threads: a last bit of the input may move a last bit of the map.
    text, said = encoder.text_vectors, []
    monkeypatch.setattr(encoder, "text_vectors", lambda *tokens: said.append(text(*tokens) * (1 + 1e-12)) or said[0])
    moved = np.abs(attention.relevance(encoder, face, ASKED["happy"]) / found[0] - 1).max()
    assert 0 < moved < 1e-9
