"""The sample's dual encoder: CLIP's layout in a few hundred thousand parameters, pre-trained on drawn, captioned people.

`python -m emolib sample --clip` makes it anew in some minutes. It has never seen an item of the emotion sets, nor a label.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from emolib import profiles, sample, training
from emolib.clip import Encoder, unit
from emolib.labels import TEXT_CLASSES
from emolib.profiles import Clip, Fit, Profile

FOLDER = sample.FOLDER / "clip-tiny"
PEOPLE, HELD_OUT, WORDS = 24_000, 256, 600
FIT = Fit(epochs=16, batch_size=128, learning_rate=2e-3, weight_decay=0.05, warmup=0.1, label_smoothing=0.0, patience=99)


class Contrast(nn.Module):
    """Logits of each picture of a batch against each caption of it: (N, N)."""

    def __init__(self, model: CLIPModel):
        super().__init__()
        self.model = model

    def forward(self, pixels, tokens, mask):
        images = unit(self.model.get_image_features(pixel_values=pixels))
        texts = unit(self.model.get_text_features(input_ids=tokens, attention_mask=mask))
        return self.model.logit_scale.exp().clamp(max=100) * images @ texts.T


class Captions:
    """Pictures with captions (see `training.Batches`); the labels only number the pairs of one batch."""

    lengths = None

    def __init__(self, pixels: np.ndarray, captions: list[str], encoder: Encoder):
        self.pixels, self.encoder = torch.from_numpy(pixels), encoder
        self.tokens, self.labels = encoder.tokenize(captions), np.arange(len(captions))

    def batch(self, rows, rng, progress):
        return self.encoder.grey(self.pixels[rows]), *self.encoder.pad([self.tokens[row] for row in rows])

    def views(self, inputs, progress, *, final):
        return [inputs]


def both_ways(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    """CLIP's loss: each picture is to find its caption, each caption its picture (Radford et al. 2021, figure 3)."""
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def blank(captions: list[str]) -> tuple[CLIPModel, CLIPTokenizer, CLIPImageProcessor]:
    """The untrained parts; the vocabulary is that of captions and of freshly built sentences."""
    rng = np.random.default_rng(5)
    corpus = captions + [sample.sentence(rng, label) for label in rng.integers(0, len(TEXT_CLASSES), 4000)]
    tokenizer = CLIPTokenizer(model_max_length=77).train_new_from_iterator(corpus, vocab_size=WORDS)
    ends = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    tower = {"hidden_size": 64, "intermediate_size": 192, "num_attention_heads": 4, "projection_dim": 48}
    config = CLIPConfig(
        text_config=tower | ends | {"num_hidden_layers": 2, "vocab_size": len(tokenizer), "max_position_embeddings": 77},
        vision_config=tower | {"num_hidden_layers": 3, "image_size": sample.SIDE, "patch_size": 8},
        projection_dim=48,
    )  # fmt: skip
    torch.manual_seed(0)
    square = {"height": sample.SIDE, "width": sample.SIDE}
    means = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    processor = CLIPImageProcessor(size={"shortest_edge": sample.SIDE}, crop_size=square, **means)
    return CLIPModel(config), tokenizer, processor


def make(folder: Path = FOLDER) -> None:
    """Pre-train and write the encoder to a folder that `CLIPModel.from_pretrained` reads."""
    profile = Profile("tiny", "", clip=Clip("clip-tiny", ""))
    os.environ.setdefault("EMOLIB_OUT", str(profiles.ROOT / "runs" / "tiny"))
    pixels, captions, _ = sample.captioned(np.random.default_rng(6), PEOPLE + HELD_OUT)
    model, tokenizer, processor = blank(captions)
    encoder = Encoder(model, tokenizer, processor, profile, name="clip-tiny")
    train, held_out = (Captions(pixels[rows], captions[rows], encoder) for rows in (slice(PEOPLE), slice(PEOPLE, None)))
    checkpoint = profiles.out_folder(profile) / "checkpoints" / "clip-tiny.safetensors"
    with training.arithmetic(profile):
        fitted = training.fit(
            Contrast(model), train, held_out, FIT, profile, seed=0, checkpoint=checkpoint, key="clip-tiny", loss=both_ways
        )
    fitted.model.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)
    checkpoint.unlink()
