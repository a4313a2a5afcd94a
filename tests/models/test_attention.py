"""Relevance: of every encoder and size, and of the patches that the cosine really hangs on."""

import numpy as np
import pytest

from emolib.models import attention
from emolib.models.encoder import load
from emolib.profiles import get

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
    import torch

    layers = encoder.model.vision_model.encoder.layers
    kept, encoder.model.vision_model.encoder.layers = layers, layers[:1]
    try:
        found = attention.relevance(encoder, sample_faces.images[0], "a happy person")
        text = torch.from_numpy(encoder.encode_texts(["a happy person"], cache=False)[0]).double()
        weights, cosine = attention.attend(encoder, encoder.pixels(sample_faces.images[:1]), text)
    finally:
        encoder.model.vision_model.encoder.layers = kept
    (gradient,) = torch.autograd.grad(cosine, weights)
    by_hand = (weights[0] * gradient)[0, :, 0, 1:].clamp(min=0).mean(0)
    assert len(weights) == 1 and np.allclose(found.ravel(), by_hand.detach().numpy(), atol=1e-12)


def test_in_float64_the_map_does_not_hang_on_the_number_of_threads(encoder, sample_faces):
    """A figure's numbers are compared to six digits on every machine: float32 anywhere on the way would move them."""
    import torch

    threads, found = torch.get_num_threads(), []
    for count in (1, 2):
        torch.set_num_threads(count)
        found.append([attention.relevance(encoder, face, ASKED["happy"]) for face in sample_faces.images[:4]])
    torch.set_num_threads(threads)
    assert np.allclose(*found, rtol=1e-11, atol=0)
    pixels = encoder.pixels(sample_faces.images[:1])
    sentence = torch.ones(encoder.dimension, dtype=torch.float64)
    weights, _ = attention.attend(encoder, pixels, sentence)
    assert all(abs(layer.sum(-1) - 1).max() < 1e-14 for layer in weights)
