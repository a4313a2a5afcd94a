"""The classifier asked once about sentences and drawn faces: what agrees, what disagrees, and each alone. No torch, no photo."""

from __future__ import annotations

import hashlib

import numpy as np

from emolib.app.steps import OWN, assemble
from emolib.data import sets
from emolib.data.labels import FACE_CLASSES
from emolib.models import fusion
from emolib.models.fusion import Experts
from emolib.profiles import Work
from emolib.results.predictions import Facts

# One of each shared emotion, with words that the sample's language has, too; the last names two feelings.
SENTENCES = (
    "i feel so lonely since she moved away", "i am feeling happy now that it is over", "i feel angry about the new boss",
    "i feel scared before i go to sleep", "i feel surprised after reading the message",
    "i used to feel happy about my job but now i feel sad",
)  # fmt: skip
SCENES = (("happy", 1), ("happy", 0), (None, 5), ("surprise", None))  # a face and the number of a sentence


def ask(encoder, models: dict[str, str], experts: Experts, own: dict = OWN, *, work: Work = Work()) -> Facts:
    """What the classifier of `steps.assemble` says about a drawn face of each class and about `SENTENCES`.

    arrays: "image" (7, K) and "text" (6, K), each modality's calibrated posterior in the fused classes.
    """
    faces = list(sets.demo_faces().values())
    texts, images = [None] * len(faces) + list(SENTENCES), faces + [None] * len(SENTENCES)
    answers = assemble(encoder, models, experts, own, work).posteriors(texts, images).experts
    arrays = {"image": answers["image"][: len(faces)], "text": answers["text"][len(faces) :]}
    digest = hashlib.sha256(b"".join(f.tobytes() for f in faces) + "\n".join(SENTENCES).encode())
    return Facts(digest.hexdigest(), f"{len(faces)} drawn faces and {len(SENTENCES)} sentences of our own", {}, arrays)


def scenes(found: Facts, prior: np.ndarray) -> list[dict]:
    """`SCENES` for the figure: "picture", "sentence" (or None), posteriors "image", "text", "both" (K,), and "conflict".

    found: of `ask`. prior: (K,), the experts'. conflict: probability that the two disagree, NaN where one is missing.
    """
    shown = []
    for name, number in SCENES:
        none = np.full(len(prior), np.nan)
        image = none if name is None else found.arrays["image"][FACE_CLASSES.index(name)]
        text = none if number is None else found.arrays["text"][number]
        both = fusion.fuse(lambda i, t: fusion.product(i, t, prior), image, text, prior)
        answers = {"image": image, "text": text, "both": both, "conflict": float(fusion.conflict(image, text, prior))}
        picture, sentence = name and sets.demo_faces()[name], None if number is None else SENTENCES[number]
        shown.append({"picture": picture, "sentence": sentence, **answers})
    return shown
