"""Where an image encoder looks: which patches raise the cosine of a picture with a sentence."""

from __future__ import annotations

import math

import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from emolib.models.encoder import Encoder, device, unit


def relevance(encoder: Encoder, image, prompt: str) -> np.ndarray:
    """Relevance of each patch of one picture, of any kind, for its cosine with a sentence: (side, side) float64, >= 0.

    Each layer's attention, weighted by the gradient of the cosine, its positive part averaged over heads, and multiplied up
    from layer to layer. Says where the encoder looked, not whether for the right reason.
    Source: Chefer, Gur and Wolf 2021, arXiv:2103.15679, equations 5 and 6.
    """
    pixels = encoder.pixels(image[None] if isinstance(image, np.ndarray) else [image]).requires_grad_()
    tokens = (x.to(device()) for x in encoder.pad(encoder.tokenize([prompt])))
    with torch.no_grad():
        sentence = encoder.text_vectors(*tokens)[0]  # as exact as the model: float32's last bit moves with the machine
    attentions, cosine = attend(encoder, pixels, sentence)
    gradients = torch.autograd.grad(cosine, attentions)
    found = torch.eye(attentions[0].shape[-1], dtype=torch.float64, device=device())
    for attention, gradient in zip(attentions, gradients, strict=True):
        found = found + (attention * gradient)[0].detach().double().clamp(min=0).mean(0) @ found
    side = math.isqrt(len(found))
    patches = len(found) - side * side  # a class token comes before the patches: its row is what the picture's vector sees
    row = found[0] if patches else found.mean(0)
    return row[patches:].view(side, side).cpu().numpy()


def exact(module, query, key, value, attention_mask, scaling: float, **_) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention that returns its weights, at the model's precision: CLIP's `eager` rounds them to float32. No dropout."""
    weights = query @ key.transpose(2, 3) * scaling
    weights = (weights if attention_mask is None else weights + attention_mask).softmax(-1)
    return (weights @ value).transpose(1, 2).contiguous(), weights


AttentionInterface.register("exact", exact)
AttentionMaskInterface.register("exact", eager_mask)  # masks to be added; without it there would be none


def attend(encoder: Encoder, pixels: torch.Tensor, sentence: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    """Every layer's attention (1, H, T, T) for one picture, and the picture's cosine with the unit vector of a sentence (D,)."""
    usual = encoder.model.config._attn_implementation
    encoder.model.set_attn_implementation("exact")
    try:
        with torch.enable_grad():
            output = encoder.model.get_image_features(pixel_values=pixels, output_attentions=True, **encoder.interpolated(pixels))
            return output.attentions, unit(output)[0] @ sentence
    finally:
        encoder.model.set_attn_implementation(usual)
