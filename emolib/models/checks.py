"""Does OpenAI's CLIP reach here what others measured of it? Zero-shot answers to the prompts of LAION's CLIP_benchmark."""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from emolib.data import official, prompts, sets
from emolib.data.dataset import Dataset, MissingData
from emolib.models import heads
from emolib.models.encoder import Encoder
from emolib.profiles import Profile
from emolib.results.predictions import Facts, facts


def at_hand(profile: Profile) -> dict[str, Dataset]:
    """Those of the sets with published figures that are at hand: FER-2013, CIFAR-10, Flickr8k."""
    found = {}
    for name, load in {"FER-2013": sets.raw_faces, "CIFAR-10": sets.cifar10, "Flickr8k": sets.captioned}.items():
        with suppress(MissingData):
            found[name] = load(profile)
    if "captions" not in found.get("Flickr8k", found["FER-2013"]).extras:  # another set's pictures with captions
        found.pop("Flickr8k", None)
    return found


def measure(encoder: Encoder, known: dict[str, Dataset]) -> Facts:
    """What has published figures, on all items that these were measured on; known: of `at_hand`.

    notes: "measured", {name in `published.CHECKS`: (share right, n)}.
    """
    found = {}
    for name, data in known.items():
        if name == "Flickr8k":
            found |= recall(encoder, data)
            continue
        # Where Public and Private test are merged, validation is a part of Training.
        test = data.part("test") if official.MERGED in data.source else data.select(data.held_out)
        head = heads.zero_shot(encoder, prompts.LAION[name])
        right = head.posterior(encoder.encode_images(test.images)).argmax(1) == test.labels
        found[name] = float(right.mean()), len(test)
    return facts(next(iter(known.values())), {"measured": found})


def recall(encoder: Encoder, data: Dataset, k: int = 5) -> dict[str, tuple[float, int]]:
    """Flickr8k's retrieval with all captions: is one of the picture's own among the first k, is the text's own picture?"""
    captions = data.extras["captions"]
    images, texts = encoder.encode_images(data.images), encoder.encode_texts(captions.ravel().tolist())
    own = np.repeat(np.arange(len(data)), captions.shape[1])
    scores = images.astype(np.float64) @ texts.astype(np.float64).T
    by_image = (own[np.argsort(-scores, axis=1)[:, :k]] == np.arange(len(data))[:, None]).any(1)
    by_text = (np.argsort(-scores.T, axis=1)[:, :k] == own[:, None]).any(1)
    return {"Flickr8k, a text to a picture": (float(by_image.mean()), len(by_image)),
            "Flickr8k, a picture to a text": (float(by_text.mean()), len(by_text))}  # fmt: skip
