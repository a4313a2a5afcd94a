"""Prompts: the sentences that stand for a class, from one word to a description of what the face does."""

from emolib.data.labels import CIFAR_CLASSES, FACE_CLASSES, SHARED_CLASSES, TEXT_CLASSES, TO_SHARED

# Class words and templates of CLIP's own FER-2013 prompts (openai/CLIP, data/prompts.md).
_FACE_WORDS = {
    "angry": ("angry",), "disgust": ("disgusted",), "fear": ("fearful",), "happy": ("happy", "smiling"),
    "sad": ("sad", "depressed"), "surprise": ("surprised", "shocked", "spooked"), "neutral": ("neutral", "bored"),
}  # fmt: skip
_FACE_TEMPLATES = (
    "a photo of a {} looking face.", "a photo of a face showing the emotion: {}.", "a photo of a face looking {}.",
    "a face that looks {}.", "they look {}.", "look at how {} they are.",
)  # fmt: skip
# What the face does, after the action units of Ekman and Friesen 1978.
_FACE_DESCRIPTIONS = {
    "angry": ("a face with lowered eyebrows, narrowed eyes and pressed lips", "a furious person with a frown and tight eyelids"),
    "disgust": ("a face with a wrinkled nose and a raised upper lip", "a disgusted person with a wrinkled nose"),
    "fear": ("a face with raised eyebrows, wide open eyes and stretched lips", "a scared person with staring eyes"),
    "happy": ("a face with a smile and raised cheeks", "a cheerful person with a smiling mouth"),
    "sad": ("a face with mouth corners turned down and eyebrows drawn up in the middle", "an unhappy person with a raised chin"),
    "surprise": ("a face with raised eyebrows and a dropped jaw", "an astonished person with wide open eyes and an open mouth"),
    "neutral": ("a calm face at rest", "a calm person with a closed mouth"),
}
_TEXT_WORDS = {
    "sadness": ("sad", "unhappy", "miserable"), "joy": ("happy", "joyful", "glad"), "love": ("loving", "affectionate", "caring"),
    "anger": ("angry", "annoyed", "furious"), "fear": ("afraid", "scared", "anxious"),
    "surprise": ("surprised", "amazed", "astonished"),
}  # fmt: skip
_TEXT_TEMPLATES = (
    "i feel {}", "i am feeling {}", "this makes me feel {}", "a person who feels {}", "a message from someone who is {}",
    "i am so {} about this",
)  # fmt: skip
_TEXT_DESCRIPTIONS = {
    "sadness": ("i feel lonely and hopeless", "i cried because i lost something"),
    "joy": ("i feel cheerful and excited", "i am smiling because something good happened"),
    "love": ("i feel tender and devoted to someone", "i care so much about you"),
    "anger": ("i feel irritated and resentful", "i am mad because this is not fair"),
    "fear": ("i feel nervous and worried", "i am terrified of what might happen"),
    "surprise": ("i feel shocked and curious", "i did not expect this at all"),
}


def _sets(words: dict, templates: tuple, descriptions: dict, classes: tuple) -> dict[str, list[list[str]]]:
    first, every = templates[0], [[t.format(w) for w in words[c] for t in templates] for c in classes]
    return {
        "single": [[first.format(words[c][0])] for c in classes],
        "synonyms": [[first.format(w) for w in words[c]] for c in classes],
        "templates": every,
        "descriptive": [list(descriptions[c]) for c in classes],
        "ensemble": [some + list(descriptions[c]) for some, c in zip(every, classes, strict=True)],
    }


# {set name: [prompts of the first class, prompts of the second, ...]}
FACES = _sets(_FACE_WORDS, _FACE_TEMPLATES, _FACE_DESCRIPTIONS, FACE_CLASSES)
TEXTS = _sets(_TEXT_WORDS, _TEXT_TEMPLATES, _TEXT_DESCRIPTIONS, TEXT_CLASSES)
# The prompts of LAION's CLIP_benchmark, whose figures a run with OpenAI's CLIP is held against.
_PHOTOS = ("", "blurry ", "black and white ", "low contrast ", "high contrast ", "bad ", "good ")
_PHOTOS = [f"a {kind}photo of {{}} {{}}." for kind in _PHOTOS]
LAION = {
    "FER-2013": [[t.format(_FACE_WORDS[c][0]) for t in _FACE_TEMPLATES] for c in FACE_CLASSES],
    "CIFAR-10": [
        [t.format(the, c) for the in ("a", "the") for t in _PHOTOS]
        + [f"a photo of {the} {size} {c}." for the in ("a", "the") for size in ("small", "big")]
        for c in CIFAR_CLASSES
    ],
}
# Pairs are asked in the shared label space: what is said of the face, of the text, of both.
_faces = [FACES["ensemble"][i] for c in SHARED_CLASSES for i, face in enumerate(FACE_CLASSES) if TO_SHARED.get(face) == c]
_texts = [TEXTS["ensemble"][TEXT_CLASSES.index(c)] for c in SHARED_CLASSES]
PAIRS = {"faces": _faces, "texts": _texts, "both": [f + t for f, t in zip(_faces, _texts, strict=True)]}
