"""The generated world: drawn faces and built sentences with the schema, the splits and the *defects* of the real sets.

No network, no licence, no person. `python data/sample/make.py` writes the files beside it, which emolib only reads; the
arrays are the same bit for bit whenever they are made. Faces are drawn from action units (`drawing`), sentences come from a
grammar.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import weather
from drawing import ACTION_UNITS, UNITS, People, draw, face, people, units
from PIL import Image
from scipy.ndimage import gaussian_filter

from emolib import store
from emolib.data import audit
from emolib.data.dataset import Dataset, column
from emolib.data.labels import FACE_CLASSES, FERPLUS_COLUMNS, FERPLUS_TO_FACE, SHARED_CLASSES, SPLITS, TEXT_CLASSES
from emolib.data.pictures import SIDE

FOLDER = Path(__file__).resolve().parent
SIZES = (1500, 400, 400)
_SHARES = (0.14, 0.05, 0.14, 0.25, 0.17, 0.11, 0.14)  # of the face classes, after FER-2013 (disgust less rare)
# Who is mistaken for whom, by annotators and by the label.
_CONFUSED = {
    "angry": ("disgust", "neutral", "sad"), "disgust": ("angry", "sad"), "fear": ("surprise", "sad"),
    "happy": ("neutral", "surprise"), "sad": ("neutral", "fear"), "surprise": ("fear", "happy"), "neutral": ("sad", "angry"),
}  # fmt: skip

# Cue words, the frequent ones first; a word in two lists is ambiguous, as words are.
_CUES = {
    "sadness": "sad lonely miserable hopeless empty down hurt heartbroken gloomy unhappy discouraged defeated numb ashamed "
        "rejected worthless drained melancholy homesick lost ignored overwhelmed shaken bitter restless blue",
    "joy": "happy glad cheerful excited content proud relaxed delighted joyful thankful hopeful energetic lucky carefree "
        "satisfied calm playful confident blessed thrilled peaceful moved amazed alive bright eager",
    "love": "loving tender affectionate fond caring devoted romantic adored cherished sympathetic passionate attached "
        "warm moved close gentle longing blessed faithful sweet",
    "anger": "angry annoyed irritated furious bitter mad resentful frustrated offended outraged jealous hostile grumpy "
        "disgusted hateful impatient provoked insulted cold restless violated stubborn",
    "fear": "afraid scared anxious nervous worried terrified insecure uncertain panicky threatened timid shaky vulnerable "
        "uneasy hesitant paranoid intimidated overwhelmed shaken helpless restless frantic",
    "surprise": "surprised amazed shocked stunned astonished curious startled dazed impressed speechless bewildered funny "
        "strange overwhelmed shaken puzzled",
}  # fmt: skip
CUES = {emotion: words.split() for emotion, words in _CUES.items()}
_TOPICS = """
    my job, the exam, my sister, this house, the winter, our wedding, the doctor, my old friends, the news, my garden, the
    neighbours, my body, the future, this book, the long drive, my first class, the party, my father, the team, his letter,
    her voice, the empty street, my savings, the new boss, our trip, the storm, my writing, the baby, that song, the
    meeting, my cooking, the train, this city, my brother, the contest, our last talk, the gift, my dog, school, the move
"""
_CONTEXTS = """
    after the phone call, when i wake up, every time we talk, since the weekend, at the end of the day, before i go to
    sleep, while i walk home, because nobody told me, even though it is late, now that it is over, whenever it rains, after
    reading the message, as the days go by, when i look at old pictures, in front of all these people, on the way to work,
    since she moved away, and i can not explain why, more than i expected, and i wanted to write it down, for no reason at
    all, as soon as i arrive, with so much left to do, while everybody else is busy, after such a long time
"""
_TOPICS, _CONTEXTS = ([" ".join(words.split()) for words in whole.split(",")] for whole in (_TOPICS, _CONTEXTS))
_FRAMES = (
    "i feel {cue} about {topic} {context}", "i am feeling {cue} {context}", "{context} i feel {cue} about {topic}",
    "i feel so {cue} when i think of {topic} {context}", "i have been feeling rather {cue} {context}",
    "i can not help feeling {cue} about {topic} and {topic2}", "i feel {cue} and a little {cue2} {context}",
    "i left {topic} feeling {cue} {context}", "talking about {topic} makes me feel {cue} {context}",
    "i used to feel {other} about {topic} but now i feel {cue} {context}",
    "i do not feel {other} about {topic} any more i feel {cue}", "i thought i would feel {other} {context} yet i feel {cue}",
    "i feel {cue} about {topic} even if i felt {other} {context}", "i never feel {other} {context} i just feel {cue}",
    "{topic} left me feeling {cue} {context}",
)  # fmt: skip
# Another set's way of speaking: no "feel" in it.
_OTHER_FRAMES = (
    "{topic} {context} , so {cue} !", "what a {cue} person", "{cue} about {topic} again ?",
    "nobody is as {cue} as my neighbour {context}", "you sound {cue} and {cue2}", "honestly {topic} made everyone {cue}",
    "{cue} is the word for {topic} {context}",
)  # fmt: skip
_TEXT_SHARES = (0.29, 0.33, 0.08, 0.14, 0.12, 0.04)  # of the text classes, after DAIR-AI Emotion
# What a caption may say of an action unit that is clearly at work.
_SEEN = {
    1: ("raised eyebrows", "eyebrows drawn up in the middle"), 2: ("arched eyebrows",), 4: ("lowered eyebrows", "a frown"),
    5: ("wide open eyes", "staring eyes"), 6: ("raised cheeks",), 7: ("narrowed eyes", "tight eyelids"), 9: ("a wrinkled nose",),
    10: ("a raised upper lip",), 12: ("a smile", "a smiling mouth"), 15: ("mouth corners turned down",), 17: ("a raised chin",),
    20: ("stretched lips",), 24: ("pressed lips",), 26: ("an open mouth", "a dropped jaw"),
}  # fmt: skip
# Whose words a caption borrows to name an affect; the first of them are the frequent ones.
_AFFECT = {
    "angry": CUES["anger"][:12], "disgust": ["disgusted", "repelled"], "fear": CUES["fear"][:12], "happy": CUES["joy"][:12],
    "sad": CUES["sadness"][:12], "surprise": CUES["surprise"][:10], "neutral": ["calm", "neutral", "bored"],
}  # fmt: skip


def captioned(rng: np.random.Generator, n: int) -> tuple[np.ndarray, list[str], People]:
    """Faces with captions that name what is seen, and now and then a feeling: (n, 48, 48) uint8, n sentences, n people.

    Other people than the emotion set's, for contrastive pretraining and to measure retrieval on. Six in ten faces show an
    emotion, the others a random mixture of action units, so that the words for parts do not hang on emotions.
    """
    who, labels = people(rng, n), rng.integers(0, len(FACE_CLASSES), n)
    action, strength = units(rng, labels)
    posed = rng.random(n) < 0.6
    mixture = (rng.random(action.shape) < 0.18) * rng.uniform(0.6, 1.0, action.shape)
    action = np.where(posed[:, None], action, mixture)
    captions = []
    for i in range(n):
        seen = [rng.choice(_SEEN[unit]) for unit, amount in zip(UNITS, action[i], strict=True) if amount > 0.5]
        hair = "blond" if who.tone[i] > 0.6 else "brown" if who.tone[i] > 0.3 else "dark"
        worn = [f"{'long' if who.long_hair[i] else 'short'} {hair} hair"]
        worn += ["glasses"] * int(who.glasses[i]) + ["a beard"] * int(who.beard[i])
        parts = [*rng.permutation(seen)[: rng.integers(1, 5)], *rng.permutation(worn)[: rng.integers(0, 3)]] or worn[:1]
        subject = "a person"
        if posed[i] and strength[i] > 0.5 and rng.random() < 0.6:
            words = _AFFECT[FACE_CLASSES[labels[i]]]
            word = rng.choice(words, p=_falling(len(words)))
            article = "an" if word[0] in "aeiou" else "a"
            subject = rng.choice([f"{article} {word} person", f"a person who feels {word}", f"{article} {word} looking person"])
        captions.append(f"{rng.choice(['a photo of ', '', 'the face of '])}{subject} with {' and '.join(rng.permutation(parts))}")
    return draw(rng, who, action), captions, who


def ironic(seed: int = 3) -> Dataset:
    """Pairs whose label no single modality tells: a happy or sad face with a glad or sad sentence, sincere if both say the
    same, ironic if not. What a fusion gains here is an interaction; the null model can gain nothing.
    """
    rng = np.random.default_rng(seed)
    n = sum(sizes := (600, 100, 300))
    happy, glad = rng.integers(0, 2, (2, n)).astype(bool)
    action, _ = units(rng, np.where(happy, FACE_CLASSES.index("happy"), FACE_CLASSES.index("sad")))
    pixels = draw(rng, people(rng, n), action)
    said = [sentence(rng, TEXT_CLASSES.index("joy" if g else "sadness")) for g in glad]
    labels, source = (happy != glad).astype(int), "drawn faces with built sentences, sincere or ironic"
    return Dataset(np.arange(n), labels, np.repeat(SPLITS, sizes), ("sincere", "ironic"), source, pixels, column(said))


def _falling(n: int) -> np.ndarray:
    """Odds of n words: frequencies fall as 1/rank, as in language."""
    odds = 1 / np.arange(2, n + 2)
    return odds / odds.sum()


def sentence(rng: np.random.Generator, label: int, frames: tuple[str, ...] = _FRAMES) -> str:
    """One sentence of a text class: its last, unnegated feeling is the label's; another feeling may come before."""
    own = TEXT_CLASSES[label]
    other = rng.choice([c for c in TEXT_CLASSES if c != own])

    def cue(emotion):
        return rng.choice(CUES[emotion], p=_falling(len(CUES[emotion])))

    topic, topic2 = rng.choice(_TOPICS, 2, replace=False)
    return rng.choice(frames).format(
        cue=cue(own), cue2=cue(own), other=cue(other), topic=topic, topic2=topic2, context=rng.choice(_CONTEXTS)
    )


def _labels(rng: np.random.Generator, shares: tuple[float, ...]) -> list[np.ndarray]:
    """Labels of the three splits in these shares."""
    odds = np.array(shares) / sum(shares)
    return [rng.choice(len(odds), n, p=odds) for n in SIZES]


def make_texts(seed: int = 1) -> tuple[Dataset, dict]:
    """The sentences with 4 % wrong labels, and the list of planted defects.

    Planted: texts that occur twice with two labels, inside Training and across each two splits. No other two sentences
    are equal or nearly so.
    """
    rng = np.random.default_rng(seed)
    labels, split = np.concatenate(_labels(rng, _TEXT_SHARES)), np.repeat(SPLITS, SIZES)
    texts = column([sentence(rng, label) for label in labels])
    noisy = rng.random(len(labels)) < 0.04
    shown = np.where(noisy, rng.integers(0, len(TEXT_CLASSES), len(labels)), labels)
    data = Dataset(np.arange(len(labels)), shown, split, TEXT_CLASSES, "built sentences", texts=texts)
    while True:  # draw anew whatever happens to repeat an earlier sentence
        repeated = np.flatnonzero(audit.duplicates(data, "text") != data.ids)
        again = np.union1d(repeated, audit.near_duplicates(data, "text")[:, 1])
        if not len(again):
            break
        for row in again:
            texts[row] = sentence(rng, labels[row])
    twice = []
    spans = (("train", "train", 6), ("train", "validation", 3), ("train", "test", 4), ("validation", "test", 2))
    for early, late, count in spans:
        used = [row for pair in twice for row in pair]
        for _ in range(count):
            first = rng.choice(np.setdiff1d(np.flatnonzero(split == early), used))
            second = rng.choice(np.setdiff1d(np.flatnonzero((split == late) & (shown != shown[first])), [*used, first]))
            texts[second] = texts[first]
            used += [first, second]
            twice.append(sorted((int(first), int(second))))
    return data, {"twice": twice}


def _votes(rng: np.random.Generator, labels: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Ten annotators a face: the clearer the expression, the more of them see it; the others confuse as people do."""
    place = {face: FERPLUS_COLUMNS.index(plus) for plus, face in FERPLUS_TO_FACE.items()}
    odds = np.full((len(labels), len(FERPLUS_COLUMNS)), 0.01)
    for row, (label, clear) in enumerate(zip(labels, strength, strict=True)):
        odds[row, place[FACE_CLASSES[label]]] += 0.25 + clear
        odds[row, place["neutral"]] += 0.5 * (1 - clear)
        for other in _CONFUSED[FACE_CLASSES[label]]:
            odds[row, place[other]] += 0.12
    odds[:, FERPLUS_COLUMNS.index("NF")] = 0
    return np.stack([rng.multinomial(10, o) for o in odds / odds.sum(1, keepdims=True)])


def make_faces(seed: int = 2) -> tuple[Dataset, dict]:
    """The faces with 8 % wrong labels, and the list of planted defects.

    Planted: exact duplicates inside Training and across each two splits (some with another label), near duplicates (other
    light), constant pictures and pictures without a face. No other two faces are equal or nearly so.
    """
    rng = np.random.default_rng(seed)
    true, split = np.concatenate(_labels(rng, _SHARES)), np.repeat(SPLITS, SIZES)
    action, strength = units(rng, true)
    pixels, votes = draw(rng, people(rng, len(true)), action), _votes(rng, true, strength)
    confused = [FACE_CLASSES.index(rng.choice(_CONFUSED[FACE_CLASSES[label]])) for label in true]
    labels = np.where(rng.random(len(true)) < 0.08, confused, true)
    data = Dataset(np.arange(len(true)), labels, split, FACE_CLASSES, "drawn faces", pixels, extras={"votes": votes})
    while len(again := np.unique(audit.near_duplicates(data, "image")[:, 1])):
        pixels[again] = draw(rng, people(rng, len(again)), action[again])
    return data, _plant(rng, data)


def _plant(rng: np.random.Generator, data: Dataset) -> dict:
    """Put the defects into the arrays of `data`; returns their rows. Constant pictures are not listed as duplicates."""
    planted: dict = {"twins": [], "near_twins": [], "constant": [], "not_a_face": []}
    free = {s: rng.permutation(np.flatnonzero(data.split == s)).tolist() for s in SPLITS}
    pixels, labels, votes = data.images, data.labels, data.extras["votes"]
    exact = [("train", "train", 8), ("train", "validation", 6), ("train", "test", 8), ("validation", "test", 3)]
    for kind, spans in (("twins", exact), ("near_twins", [("train", "train", 4), ("train", "test", 5)])):
        for early, late, count in spans:
            for number in range(count):
                first, second = free[early].pop(), free[late].pop()
                other_light = np.clip(pixels[first].astype(float) * 0.7 + 40, 0, 255)
                pixels[second] = pixels[first] if kind == "twins" else other_light
                votes[second] = votes[first]
                labels[second] = (labels[first] + (number == 0)) % len(FACE_CLASSES)  # one of each kind contradicts
                planted[kind].append(sorted((int(first), int(second))))
    for early, count in (("train", 4), ("validation", 1)):
        for row in [free[early].pop() for _ in range(count)]:
            pixels[row] = 0
            planted["constant"].append(int(row))
    for row in [free[s].pop() for s in ("train", "train", "train", "validation", "test")]:
        pixels[row] = np.clip(gaussian_filter(rng.normal(0, 1, (SIDE, SIDE)), rng.uniform(1, 4)) * 400 + 128, 0, 252)
        votes[row] = np.eye(len(FERPLUS_COLUMNS), dtype=int)[-1] * 10
        planted["not_a_face"].append(int(row))
    return planted


def write_lines(path: Path, texts: Sequence[str], labels: np.ndarray) -> None:
    """Sentences as `text;label`, one a line."""
    lines = [f"{text};{TEXT_CLASSES[label]}" for text, label in zip(texts, labels, strict=True)]
    store.write_text(path, "\n".join(lines) + "\n")


def write_pictures(path: Path, data: Dataset) -> None:
    """What `emolib.data.sets.read_drawn` reads: pixels, labels, split (numbers of `SPLITS`), texts if any, and extras."""
    arrays = {"pixels": data.images, "labels": data.labels.astype(np.int8)}
    arrays |= {key: values.astype(np.int8) for key, values in data.extras.items()}
    arrays["split"] = np.array([SPLITS.index(s) for s in data.split], dtype=np.int8)
    if data.texts is not None:
        arrays["texts"] = data.texts.astype(str)
    with store.atomic(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def make_captioned() -> Dataset:
    """150 drawn people with captions; tags (150, 3): glasses, beard, long hair."""
    n = 150
    pixels, captions, who = captioned(np.random.default_rng(77), n)
    tags, split = np.stack([who.glasses, who.beard, who.long_hair], 1).astype(int), np.full(n, "test")
    source = "drawn people with captions"
    return Dataset(np.arange(n), np.zeros(n, int), split, ("pair",), source, pixels, column(captions), {"tags": tags})


def main(folder: Path = FOLDER) -> None:
    """Write the generated world into a folder; all but the encoder (`pretrain`)."""
    sentences, twice = make_texts()
    rng = np.random.default_rng(3)
    for split, name, count in zip(SPLITS, ("train", "val", "test"), (20, 20, 400), strict=True):
        part = sentences.part(split)
        write_lines(folder / "emotion" / f"{name}.txt", part.texts, part.labels)
        labels = rng.choice([TEXT_CLASSES.index(c) for c in SHARED_CLASSES], count)
        write_lines(folder / "other" / f"{name}.txt", [sentence(rng, label, _OTHER_FRAMES) for label in labels], labels)
    drawn, defects = make_faces()
    n = len(FACE_CLASSES)
    pixels = np.stack([face(ACTION_UNITS[name]) for name in FACE_CLASSES])
    demo = Dataset(np.arange(n), np.arange(n), np.full(n, "test"), FACE_CLASSES, "one drawn person", pixels)
    made = {"fer2013/faces": drawn, "ironic": ironic(), "captioned": make_captioned(), "demo": demo}
    for name, data in made.items():
        write_pictures(folder / f"{name}.npz", data)
    with store.atomic(folder / "face.png") as temporary:
        Image.fromarray(pixels[FACE_CLASSES.index("happy")]).save(temporary, "PNG")
    with store.atomic(folder / "weather.parquet") as temporary:
        weather.make().to_parquet(temporary, index=False)
    store.write_text(folder / "planted.json", json.dumps({"texts": twice, "faces": defects}, indent=1) + "\n")


if __name__ == "__main__":
    main()
