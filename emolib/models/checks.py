"""Does OpenAI's CLIP reach here what others measured of it? Zero-shot answers to the prompts of LAION's CLIP_benchmark."""

from __future__ import annotations

import numpy as np

from emolib.data import official, prompts
from emolib.data.dataset import Dataset
from emolib.models import heads
from emolib.models.encoder import Encoder
from emolib.results.predictions import Facts, facts


def accuracy(encoder: Encoder, data: Dataset, name: str) -> Facts:
    """Zero-shot accuracy on all items that the published figure of that name was measured on.

    data: FER-2013 or CIFAR-10, as they come. notes: "measured", {name in `published.CHECKS`: (share right, n)}.
    """
    # Where Public and Private test are merged, validation is a part of Training.
    test = data.part("test") if official.MERGED in data.source else data.select(data.held_out)
    answers = heads.zero_shot(encoder, prompts.LAION[name]).posterior(encoder.encode_images(test.images)).argmax(1)
    return facts(data, {"measured": {name: (float((answers == test.labels).mean()), len(test))}})


def recall(encoder: Encoder, data: Dataset, k: int = 5) -> Facts:
    """Flickr8k's retrieval with all captions: is one of the picture's own among the first k, is the text's own picture?

    notes: as of `accuracy`, of both.
    """
    captions = data.extras["captions"]
    images, texts = encoder.encode_images(data.images), encoder.encode_texts(captions.ravel().tolist())
    own = np.repeat(np.arange(len(data)), captions.shape[1])
    scores = images.astype(np.float64) @ texts.astype(np.float64).T
    by_image = (own[np.argsort(-scores, axis=1)[:, :k]] == np.arange(len(data))[:, None]).any(1)
    by_text = (np.argsort(-scores.T, axis=1)[:, :k] == own[:, None]).any(1)
    found = {"Flickr8k, a text to a picture": by_image, "Flickr8k, a picture to a text": by_text}
    return facts(data, {"measured": {name: (float(right.mean()), len(right)) for name, right in found.items()}})
