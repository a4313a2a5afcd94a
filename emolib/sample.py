"""The generated world: drawn faces and built sentences with the schema, the splits and the *defects* of the real sets.

No network, no licence, no person. `python -m emolib sample` writes data/sample; the arrays are the same bit for bit
whenever they are made. Faces are drawn from facial action units (Ekman and Friesen 1978), sentences from a grammar.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from emolib import faces, store, texts
from emolib.labels import FACE_CLASSES, FERPLUS_COLUMNS, FERPLUS_TO_FACE, SHARED_CLASSES, SPLITS, TEXT_CLASSES
from emolib.profiles import ROOT

FOLDER = ROOT / "data" / "sample"
SIDE = faces.SIDE
SIZES = (1500, 400, 400)

# Action units of each emotion at full strength: 1 inner brow up, 2 outer brow up, 4 brows down and together, 5 lid up,
# 6 cheeks up, 7 lids tight, 9 nose wrinkled, 10 upper lip up, 12 lip corners up, 15 corners down, 17 chin up,
# 20 lips stretched, 24 lips pressed, 26 jaw dropped. Fear shares units with surprise, disgust with anger, sad with neutral.
ACTION_UNITS = {
    "angry": {4: 1.0, 5: 0.4, 7: 0.8, 17: 0.4, 24: 0.9},
    "disgust": {4: 0.7, 6: 0.3, 7: 0.6, 9: 1.0, 10: 0.9, 15: 0.4, 17: 0.4},
    "fear": {1: 1.0, 2: 0.5, 4: 0.5, 5: 0.9, 20: 0.9, 26: 0.4},
    "happy": {6: 0.8, 12: 1.0, 26: 0.25},
    "sad": {1: 0.8, 4: 0.4, 7: 0.2, 15: 0.9, 17: 0.5},
    "surprise": {1: 0.9, 2: 0.9, 5: 0.8, 26: 1.0},
    "neutral": {},
}
UNITS = (1, 2, 4, 5, 6, 7, 9, 10, 12, 15, 17, 20, 24, 26)
_SHARES = (0.14, 0.05, 0.14, 0.25, 0.17, 0.11, 0.14)  # of the face classes, after FER-2013 (disgust less rare)
# Who is mistaken for whom, by annotators and by the label.
_CONFUSED = {
    "angry": ("disgust", "neutral", "sad"), "disgust": ("angry", "sad"), "fear": ("surprise", "sad"),
    "happy": ("neutral", "surprise"), "sad": ("neutral", "fear"), "surprise": ("fear", "happy"), "neutral": ("sad", "angry"),
}  # fmt: skip

# Cue words, the frequent ones first; a word in two lists is ambiguous, as words are.
_CUES = {
    "sadness": """
        sad lonely miserable hopeless empty down hurt heartbroken gloomy unhappy discouraged defeated numb ashamed
        rejected worthless drained melancholy homesick lost ignored overwhelmed shaken bitter restless blue
    """,
    "joy": """
        happy glad cheerful excited content proud relaxed delighted joyful thankful hopeful energetic lucky carefree
        satisfied calm playful confident blessed thrilled peaceful moved amazed alive bright eager
    """,
    "love": """
        loving tender affectionate fond caring devoted romantic adored cherished sympathetic passionate attached warm
        moved close gentle longing blessed faithful sweet
    """,
    "anger": """
        angry annoyed irritated furious bitter mad resentful frustrated offended outraged jealous hostile grumpy
        disgusted hateful impatient provoked insulted cold restless violated stubborn
    """,
    "fear": """
        afraid scared anxious nervous worried terrified insecure uncertain panicky threatened timid shaky vulnerable
        uneasy hesitant paranoid intimidated overwhelmed shaken helpless restless frantic
    """,
    "surprise": """
        surprised amazed shocked stunned astonished curious startled dazed impressed speechless bewildered funny strange
        overwhelmed shaken puzzled
    """,
}
CUES = {emotion: words.split() for emotion, words in _CUES.items()}
_TOPICS = """
    my job, the exam, my sister, this house, the winter, our wedding, the doctor, my old friends, the news, my garden,
    the neighbours, my body, the future, this book, the long drive, my first class, the party, my father, the team, his
    letter, her voice, the empty street, my savings, the new boss, our trip, the storm, my writing, the baby, that song,
    the meeting, my cooking, the train, this city, my brother, the contest, our last talk, the gift, my dog, school, the
    move
"""
_TOPICS = [" ".join(words.split()) for words in _TOPICS.split(",")]
_CONTEXTS = """
    after the phone call, when i wake up, every time we talk, since the weekend, at the end of the day, before i go to
    sleep, while i walk home, because nobody told me, even though it is late, now that it is over, whenever it rains,
    after reading the message, as the days go by, when i look at old pictures, in front of all these people, on the way
    to work, since she moved away, and i can not explain why, more than i expected, and i wanted to write it down, for
    no reason at all, as soon as i arrive, with so much left to do, while everybody else is busy, after such a long time
"""
_CONTEXTS = [" ".join(words.split()) for words in _CONTEXTS.split(",")]
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


@dataclass(frozen=True)
class People:
    """N drawn people: every field (N,) float; the last three are 0 or 1 (and are what captions name)."""

    width: np.ndarray
    height: np.ndarray
    eye_gap: np.ndarray
    eye_size: np.ndarray
    nose: np.ndarray
    mouth: np.ndarray
    brow: np.ndarray
    skin: np.ndarray
    tone: np.ndarray  # of the hair
    hairline: np.ndarray
    long_hair: np.ndarray
    glasses: np.ndarray
    beard: np.ndarray


def people(rng: np.random.Generator, n: int) -> People:
    """Random proportions, skin, hair, glasses and beard."""
    tone = rng.choice([0.08, 0.2, 0.4, 0.85], n, p=[0.4, 0.3, 0.2, 0.1]) + rng.uniform(-0.04, 0.04, n)
    long_hair = (rng.random(n) < 0.45).astype(float)
    return People(
        rng.uniform(12.0, 15.5, n), rng.uniform(15.5, 19.0, n), rng.uniform(5.2, 7.0, n), rng.uniform(0.85, 1.2, n),
        rng.uniform(3.5, 6.0, n), rng.uniform(4.2, 6.2, n), rng.uniform(0.7, 1.4, n), rng.uniform(0.42, 0.88, n), tone,
        rng.uniform(0.5, 0.85, n), long_hair, (rng.random(n) < 0.25).astype(float),
        ((rng.random(n) < 0.3) & (long_hair == 0)).astype(float),
    )  # fmt: skip


def units(rng: np.random.Generator, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Action-unit intensities (N, 14) in [0, 1] for face classes, and each face's strength (N,)."""
    full = np.array([[ACTION_UNITS[c].get(u, 0.0) for u in UNITS] for c in FACE_CLASSES])
    strength = rng.beta(4.0, 1.2, len(labels))
    drawn = full[labels] * strength[:, None] * rng.uniform(0.55, 1.25, (len(labels), len(UNITS)))
    return np.clip(drawn + rng.exponential(0.06, drawn.shape), 0, 1), strength


def draw(rng: np.random.Generator, who: People, action: np.ndarray) -> np.ndarray:
    """Draw faces: action (N, 14) intensities in the order of `UNITS` -> (N, 48, 48) uint8 in steps of 4."""
    return np.concatenate([
        _draw(rng, People(*(v[i : i + 200] for v in vars(who).values())), action[i : i + 200])
        for i in range(0, len(action), 200)
    ])  # fmt: skip


def _draw(rng: np.random.Generator, p: People, action: np.ndarray) -> np.ndarray:
    n = len(action)
    au = {u: action[:, i, None, None] for i, u in enumerate(UNITS)}
    p = People(*(v[:, None, None] for v in vars(p).values()))

    def uniform(low, high):
        return rng.uniform(low, high, (n, 1, 1))

    # The camera: turn, size, shift; `yaw` moves the features across the head.
    turn, size, yaw = uniform(-0.12, 0.12), uniform(0.96, 1.14), uniform(-1.5, 1.5)
    rows, columns = np.mgrid[0:48, 0:48] + 0.5
    across, down = columns - 24 - uniform(-1.5, 1.5), rows - 25 - uniform(-1.5, 1.5)
    x = (across * np.cos(turn) + down * np.sin(turn)) / size
    y = (down * np.cos(turn) - across * np.sin(turn)) / size
    picture = np.clip(uniform(0.1, 0.9) + uniform(-0.3, 0.3) * columns / 48 + uniform(-0.3, 0.3) * rows / 48, 0, 1)

    def paint(distance, tone, strength=1.0):
        nonlocal picture  # half a pixel of softness on either side of an edge
        cover = np.clip(0.5 - distance, 0, 1) * strength
        picture = picture * (1 - cover) + tone * cover

    def ellipse(cx, cy, rx, ry):
        return (np.sqrt(((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2) - 1) * np.minimum(rx, ry)

    def curve(points, thickness):
        """Distance to a quadratic Bezier curve, by four straight pieces."""
        (ax, ay), (bx, by), (cx, cy) = points
        t = np.linspace(0, 1, 5)
        px = [(1 - s) ** 2 * ax + 2 * s * (1 - s) * bx + s**2 * cx for s in t]
        py = [(1 - s) ** 2 * ay + 2 * s * (1 - s) * by + s**2 * cy for s in t]
        best = np.full(x.shape, 99.0)
        for i in range(4):
            ux, uy = px[i + 1] - px[i], py[i + 1] - py[i]
            along = np.clip(((x - px[i]) * ux + (y - py[i]) * uy) / (ux * ux + uy * uy + 1e-9), 0, 1)
            best = np.minimum(best, (x - px[i] - along * ux) ** 2 + (y - py[i] - along * uy) ** 2)
        return np.sqrt(best) - thickness

    shade = 1 + uniform(-0.014, 0.014) * x + uniform(-0.01, 0.006) * y  # light from one side
    skin, dark = p.skin * shade, p.skin * shade * 0.55
    paint(ellipse(0, 2, p.width + 3.5, p.height + 4), p.tone, p.long_hair)
    paint(np.maximum(np.abs(x) - 6, -(y - p.height * 0.5)), skin * 0.8)
    paint(ellipse(0, 27, 22, 8), uniform(0.05, 0.95))
    paint(ellipse(0, 0, p.width, p.height), skin)
    for side in (-1, 1):
        paint(ellipse(side * p.width, 0.5, 2, 3.4), skin * 0.9)
    paint(np.maximum(ellipse(0, -1.5, p.width + 1, p.height + 1), y + p.height * p.hairline + 0.03 * x * x * p.long_hair), p.tone)

    jaw = 3.2 * au[26]
    beard = np.maximum(ellipse(0, 0, p.width, p.height + jaw * 0.5), -(y - 4.5 + 0.02 * x * x))
    paint(beard, p.tone * 0.7 + 0.3 * dark, p.beard * 0.75)
    eye_y = -3.0
    for side in (-1, 1):
        cx = side * p.eye_gap + yaw
        opening = np.clip(1.9 + 1.5 * au[5] - 1.0 * au[7] - 0.9 * au[6] - 0.5 * au[9], 0.45, 3.4) * p.eye_size
        paint(ellipse(cx, eye_y, 3.3 * p.eye_size, opening), 0.93)
        iris = np.maximum(ellipse(cx + 0.25 * yaw, eye_y, 1.6 * p.eye_size, 1.6 * p.eye_size), ellipse(cx, eye_y, 3.3, opening))
        paint(iris, 0.08)
        paint(curve([(cx - 3.4, eye_y), (cx, eye_y - 1.9 * opening), (cx + 3.4, eye_y)], 0.35), 0.12)
        paint(curve([(cx - 3.0, eye_y + 0.3), (cx, eye_y + 1.8 * opening), (cx + 3.0, eye_y + 0.3)], 0.1), dark, 0.7)
        paint(curve([(cx - 3, eye_y + 3.2), (cx, eye_y + 4.4), (cx + 3, eye_y + 3.0)], 0.2), dark, 0.75 * au[6])
        inner, outer = cx - side * (3.2 + 0.9 * au[4]), cx + side * 4.0
        inner_y = eye_y - 4.3 - 2.4 * au[1] + 2.3 * au[4] + 0.6 * au[9]
        outer_y = eye_y - 4.2 - 2.3 * au[2] + 0.5 * au[4]
        paint(curve([(inner, inner_y), (cx, (inner_y + outer_y) / 2 - 1.5), (outer, outer_y)], 0.65 * p.brow), p.tone * 0.6)
        paint(curve([(side * 0.9 + yaw, -6.2), (side * 1.0 + yaw, -5.0), (side * 0.8 + yaw, -4.0)], 0.15), dark, 0.9 * au[4])
        paint(curve([(side * 1.2 + yaw, -1.5), (side * 2.4 + yaw, 0.0), (side * 3.6 + yaw, 0.2)], 0.3), dark, 0.95 * au[9])
        fold = np.maximum(au[9], np.maximum(au[10], 0.8 * au[12]))
        paint(curve([(side * 2.6 + yaw, 3.0), (side * 5.4 + yaw, 4.5), (side * 6.4 + yaw, 8.0)], 0.25), dark, 0.8 * fold)
    tip = p.nose - 0.9 * au[9]
    paint(curve([(yaw + 0.6, -1.0), (1.6 * yaw + 1.2, tip - 1.5), (1.4 * yaw + 1.8, tip)], 0.25), dark, 0.7)
    paint(curve([(1.3 * yaw - 2, tip), (1.4 * yaw, tip + 1.1), (1.3 * yaw + 2, tip)], 0.4), dark, 0.9)

    # The mouth: a region between two arcs; its corners and its gap carry the expression.
    half = p.mouth * (1 + 0.3 * au[12] + 0.35 * au[20] - 0.25 * au[26] - 0.1 * au[24])
    middle = 9.3 - 0.8 * au[17] - 0.5 * au[10]
    corner = middle - 2.8 * au[12] + 2.4 * au[15] + 0.5 * au[20]
    gap = np.clip(3.6 * au[26] + 0.9 * au[20] + 0.8 * au[10] + 1.0 * au[12] - 1.2 * au[24], 0, 4.6)
    upper, lower = middle - 0.3 * gap - 1.0 * au[10] + 0.7 * au[12], middle + gap + 0.9 * au[12]
    mx = x - 1.2 * yaw
    bend = np.clip(1 - (mx / half) ** 2, 0, None)
    top, bottom = corner + (upper - corner) * bend, corner + (lower - corner) * bend
    lips = 0.85 - 0.55 * au[24]
    paint(np.maximum(np.maximum(top - lips - y, y - bottom - lips), np.abs(mx) - half), skin * 0.5)
    paint(np.maximum(np.maximum(top - y, y - bottom), np.abs(mx) - half + 0.6), 0.08, np.clip(gap, 0.25, 1))
    teeth = np.maximum(np.maximum(top + 0.1 - y, y - np.minimum(bottom, top + 1.6)), np.abs(mx) - half + 1.2)
    paint(teeth, 0.95, np.clip(gap - 0.7, 0, 1) * np.clip(au[12] + au[20] + au[10], 0, 1))
    line = [(1.2 * yaw - half, corner), (1.2 * yaw, 2 * (upper + lower) / 2 - corner), (1.2 * yaw + half, corner)]
    paint(curve(line, 0.3), 0.12, np.clip(1 - gap, 0, 1))
    paint(curve([(yaw - 2.5, 13.2), (yaw, 12.0), (yaw + 2.5, 13.2)], 0.25), dark, 0.8 * au[17])
    for side in (-1, 1):
        rim = np.abs(ellipse(side * p.eye_gap + yaw, eye_y, 4.6, 3.9)) - 0.4
        paint(rim, 0.05, p.glasses)
        paint(np.maximum(np.abs(y - eye_y) - 0.4, -(side * x - 4.6 - p.eye_gap)) + 99 * (np.abs(x) > p.width), 0.05, p.glasses)
    paint(np.maximum(np.abs(y - eye_y + 0.6) - 0.4, np.abs(x - yaw) - p.eye_gap + 4.5), 0.05, p.glasses)

    # Nuisances: something before the face, contrast, blur, noise.
    hidden = np.maximum(np.abs(columns - uniform(4, 44)) - uniform(3, 7), np.abs(rows - uniform(20, 46)) - uniform(3, 7))
    paint(hidden, uniform(0.1, 0.9), (uniform(0, 1) < 0.12).astype(float))
    picture = 0.5 + (picture - 0.5) * uniform(0.7, 1.0) + uniform(-0.1, 0.1)
    blur = rng.choice([0.0, 0.6, 1.0], n, p=[0.6, 0.33, 0.07])
    picture = np.stack([gaussian_filter(face, s) if s else face for face, s in zip(picture, blur, strict=True)])
    picture = picture + rng.normal(0, 1, picture.shape) * rng.choice([0.0, 0.015, 0.035], (n, 1, 1), p=[0.55, 0.35, 0.1])
    # Steps of 4 grey values halve the file; the eye does not see them.
    return (np.clip(np.round(picture * 63), 0, 63) * 4).astype(np.uint8)


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

    For contrastive pre-training: other people than the emotion set's, made on the fly, never stored. Six in ten faces
    show an emotion, the others a random mixture of action units, so that the words for parts do not hang on emotions.
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


def ironic(seed: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pairs whose label no single cue tells: a happy or sad face with a glad or sad sentence, sincere (0) if both say the
    same, ironic (1) if not. What a fusion gains here is an interaction; the null model can gain nothing.

    Returns faces (N, 48, 48) uint8, sentences (N,), labels (N,) and splits (N,).
    """
    rng = np.random.default_rng(seed)
    n = sum(sizes := (600, 100, 300))
    happy, glad = rng.integers(0, 2, (2, n)).astype(bool)
    action, _ = units(rng, np.where(happy, FACE_CLASSES.index("happy"), FACE_CLASSES.index("sad")))
    pixels = draw(rng, people(rng, n), action)
    said = [sentence(rng, TEXT_CLASSES.index("joy" if g else "sadness")) for g in glad]
    return pixels, np.array(said, object), (happy != glad).astype(int), np.repeat(SPLITS, sizes)


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


def make_texts(seed: int = 1) -> tuple[texts.Texts, dict]:
    """The sentences with 4 % wrong labels, and the list of planted defects.

    Planted: texts that occur twice with two labels, inside Training and across each two splits. No other two sentences
    are equal or nearly so.
    """
    rng = np.random.default_rng(seed)
    labels = np.concatenate(_labels(rng, _TEXT_SHARES))
    split = np.repeat(SPLITS, SIZES)
    column = np.empty(len(labels), dtype=object)
    column[:] = [sentence(rng, label) for label in labels]
    noisy = rng.random(len(labels)) < 0.04
    shown = np.where(noisy, rng.integers(0, len(TEXT_CLASSES), len(labels)), labels)
    data = texts.Texts(np.arange(len(labels)), shown, split, TEXT_CLASSES, "", column)
    while True:  # draw anew whatever happens to repeat an earlier sentence
        group = texts.twins(data)
        repeated = np.setdiff1d(np.arange(len(group)), np.unique(group, return_index=True)[1])
        again = np.union1d(repeated, texts.near_twins(data)[:, 1])
        if not len(again):
            break
        for row in again:
            data.texts[row] = sentence(rng, labels[row])
    planted: dict = {"twice": []}
    for early, late, count in (
        ("train", "train", 6),
        ("train", "validation", 3),
        ("train", "test", 4),
        ("validation", "test", 2),
    ):
        used = [row for pair in planted["twice"] for row in pair]
        for _ in range(count):
            first = rng.choice(np.setdiff1d(np.flatnonzero(split == early), used))
            second = rng.choice(np.setdiff1d(np.flatnonzero((split == late) & (shown != shown[first])), [*used, first]))
            data.texts[second] = data.texts[first]
            used += [first, second]
            planted["twice"].append(sorted((int(first), int(second))))
    return data, planted


def _votes(rng: np.random.Generator, labels: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Ten annotators a face: the clearer the expression, the more of them see it; the others confuse as people do."""
    column = {face: FERPLUS_COLUMNS.index(plus) for plus, face in FERPLUS_TO_FACE.items()}
    odds = np.full((len(labels), len(FERPLUS_COLUMNS)), 0.01)
    for row, (label, clear) in enumerate(zip(labels, strength, strict=True)):
        odds[row, column[FACE_CLASSES[label]]] += 0.25 + clear
        odds[row, column["neutral"]] += 0.5 * (1 - clear)
        for other in _CONFUSED[FACE_CLASSES[label]]:
            odds[row, column[other]] += 0.12
    odds[:, FERPLUS_COLUMNS.index("NF")] = 0
    return np.stack([rng.multinomial(10, o) for o in odds / odds.sum(1, keepdims=True)])


def make_faces(seed: int = 2) -> tuple[faces.Faces, dict]:
    """The faces with 8 % wrong labels, and the list of planted defects.

    Planted: exact twins inside Training and across each two splits (some with another label), near twins (other light),
    constant pictures and pictures without a face. No other two faces are equal or nearly so.
    """
    rng = np.random.default_rng(seed)
    true = np.concatenate(_labels(rng, _SHARES))
    split = np.repeat(SPLITS, SIZES)
    action, strength = units(rng, true)
    pixels, votes = draw(rng, people(rng, len(true)), action), _votes(rng, true, strength)
    confused = [FACE_CLASSES.index(rng.choice(_CONFUSED[FACE_CLASSES[label]])) for label in true]
    labels = np.where(rng.random(len(true)) < 0.08, confused, true)
    data = faces.Faces(np.arange(len(true)), labels, split, FACE_CLASSES, "", pixels, votes)
    while len(again := np.unique(faces.near_twins(data)[:, 1])):
        pixels[again] = draw(rng, people(rng, len(again)), action[again])

    planted: dict = {"twins": [], "near_twins": [], "constant": [], "not_a_face": []}
    free = {s: rng.permutation(np.flatnonzero(split == s)).tolist() for s in SPLITS}
    spans = [("train", "train", 8), ("train", "validation", 6), ("train", "test", 8), ("validation", "test", 3)]
    for kind, plan in (("twins", spans), ("near_twins", [("train", "train", 4), ("train", "test", 5)])):
        for early, late, count in plan:
            for number in range(count):
                first, second = free[early].pop(), free[late].pop()
                copy = pixels[first].astype(float)
                pixels[second] = pixels[first] if kind == "twins" else np.clip(copy * 0.7 + 40, 0, 255)
                votes[second] = votes[first]
                labels[second] = (labels[first] + (number == 0)) % len(FACE_CLASSES)  # one of each kind contradicts
                planted[kind].append(sorted((int(first), int(second))))
    for early, count in (("train", 4), ("validation", 1)):
        for row in [free[early].pop() for _ in range(count)]:
            pixels[row] = 0
            planted["constant"].append(int(row))
    for row in [free[s].pop() for s in ("train", "train", "train", "validation", "test")]:
        pixels[row] = np.clip(gaussian_filter(rng.normal(0, 1, (48, 48)), rng.uniform(1, 4)) * 400 + 128, 0, 252)
        votes[row] = np.eye(len(FERPLUS_COLUMNS), dtype=int)[-1] * 10
        planted["not_a_face"].append(int(row))
    # Constant pictures are twins of each other too; the audit counts them once, as constant.
    return data, planted


def make(folder: Path = FOLDER) -> None:
    """Write the generated world: emotion/ and other/{train,val,test}.txt, fer2013/faces.npz and planted.json."""
    sentences, twice = make_texts()
    for split, name in zip(SPLITS, ("train", "val", "test"), strict=True):
        part = sentences.part(split)
        lines = [f"{text};{TEXT_CLASSES[label]}" for text, label in zip(part.texts, part.labels, strict=True)]
        store.write_text(folder / "emotion" / f"{name}.txt", "\n".join(lines) + "\n")
    rng = np.random.default_rng(3)
    for name, count in (("train", 20), ("val", 20), ("test", 400)):
        lines = []
        for label in rng.choice([TEXT_CLASSES.index(c) for c in SHARED_CLASSES], count):
            lines.append(f"{sentence(rng, label, _OTHER_FRAMES)};{TEXT_CLASSES[label]}")
        store.write_text(folder / "other" / f"{name}.txt", "\n".join(lines) + "\n")
    drawn, defects = make_faces()
    with store.atomic(folder / "fer2013" / "faces.npz") as temporary, open(temporary, "wb") as file:
        np.savez_compressed(
            file, pixels=drawn.pixels, labels=drawn.labels.astype(np.int8), votes=drawn.votes.astype(np.int8),
            split=np.array([SPLITS.index(s) for s in drawn.split], dtype=np.int8),
        )  # fmt: skip
    store.write_text(folder / "planted.json", json.dumps({"texts": twice, "faces": defects}, indent=1) + "\n")
