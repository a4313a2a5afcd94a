"""How the sample's dual encoder was made: CLIP's layout in a quarter of a million parameters, on drawn people with captions.

`python data/sample/pretrain.py` makes it anew in some minutes. It has never seen an item of the emotion sets, nor a label.
"""

from __future__ import annotations

from pathlib import Path

import make
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from emolib.data.labels import TEXT_CLASSES
from emolib.data.pictures import SIDE
from emolib.models import training
from emolib.models.encoder import Encoder, stacked, unit
from emolib.profiles import ROOT, Fit, Work

FOLDER = make.FOLDER / "clip-tiny"
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


class Captions(training.Batches):
    """Pictures with captions; the labels only number the pairs of one batch."""

    def __init__(self, images: np.ndarray, captions: list[str], encoder: Encoder):
        self.images, self.encoder = stacked(images), encoder
        self.tokens, self.labels = encoder.tokenize(captions), np.arange(len(captions))

    def batch(self, rows, rng, progress):
        return self.encoder.pixels(self.images[rows]), *self.encoder.pad([self.tokens[row] for row in rows])


def both_ways(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    """CLIP's loss: each picture is to find its caption, each caption its picture (Radford et al. 2021, figure 3)."""
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def untrained(captions: list[str]) -> tuple[CLIPModel, CLIPTokenizer, CLIPImageProcessor]:
    """The parts before training; the vocabulary is that of captions and of freshly built sentences."""
    rng = np.random.default_rng(5)
    corpus = captions + [make.sentence(rng, label) for label in rng.integers(0, len(TEXT_CLASSES), 4000)]
    tokenizer = CLIPTokenizer(model_max_length=77).train_new_from_iterator(corpus, vocab_size=WORDS)
    ends = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    size = {"hidden_size": 64, "intermediate_size": 192, "num_attention_heads": 4, "projection_dim": 48}
    config = CLIPConfig(
        text_config=size | ends | {"num_hidden_layers": 2, "vocab_size": len(tokenizer), "max_position_embeddings": 77},
        vision_config=size | {"num_hidden_layers": 3, "image_size": SIDE, "patch_size": 8},
        projection_dim=48,
    )  # fmt: skip
    torch.manual_seed(0)
    square, means = {"height": SIDE, "width": SIDE}, {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    return CLIPModel(config), tokenizer, CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=square, **means)


def main(folder: Path = FOLDER) -> None:
    """Pretrain and write the encoder to a folder that `CLIPModel.from_pretrained` reads."""
    images, captions, _ = make.captioned(np.random.default_rng(6), PEOPLE + HELD_OUT)
    encoder = Encoder(*untrained(captions), name="clip-tiny")
    train, held_out = (Captions(images[rows], captions[rows], encoder) for rows in (slice(PEOPLE), slice(PEOPLE, None)))
    work = Work("float32", folder=ROOT / "runs" / "clip-tiny", step="clip-tiny")
    with training.arithmetic(work):
        fitted = training.fit(Contrast(encoder.model), train, held_out, FIT, seed=0, key="clip-tiny", work=work, loss=both_ways)
    for part in (fitted.model.model, encoder.tokenizer, encoder.processor):
        part.save_pretrained(folder)
    work.checkpoint(0).unlink()


if __name__ == "__main__":
    main()
