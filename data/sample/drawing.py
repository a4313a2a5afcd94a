"""Drawn faces: people from random proportions, expressions from facial action units (Ekman and Friesen 1978), 48x48 grey."""

from __future__ import annotations

from collections import namedtuple

import numpy as np
from scipy.ndimage import gaussian_filter

from emolib.data.labels import FACE_CLASSES
from emolib.data.pictures import SIDE

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


# N drawn people: every field (N,) float; tone is the hair's, the last three are 0 or 1 (and are what captions name).
People = namedtuple("People", "width height eye_gap eye_size nose mouth brow skin tone hairline long_hair glasses beard")


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


def face(action: dict[int, float], *, person: int = 17) -> np.ndarray:
    """One face from intensities in [0, 1] of action units, (48, 48) uint8; the same person (a seed) with any expression."""
    amounts = np.array([[action.get(unit, 0.0) for unit in UNITS]])
    return draw(np.random.default_rng(5), people(np.random.default_rng(person), 1), amounts)[0]


def draw(rng: np.random.Generator, who: People, action: np.ndarray) -> np.ndarray:
    """Draw faces: action (N, 14) intensities in the order of `UNITS` -> (N, 48, 48) uint8 in steps of 4."""
    parts = [slice(i, i + 200) for i in range(0, len(action), 200)]
    return np.concatenate([_draw(rng, People(*(v[part] for v in who)), action[part]) for part in parts])


def _draw(rng: np.random.Generator, who: People, action: np.ndarray) -> np.ndarray:
    """At most 200 faces at once: the order in which random numbers are drawn is part of the generated world."""
    c = Canvas(rng, len(action))
    au, p = {u: action[:, i, None, None] for i, u in enumerate(UNITS)}, People(*(v[:, None, None] for v in who))
    skin, dark = _head(c, p)
    _beard(c, p, au, dark)
    for side in (-1, 1):
        _eye(c, p, au, side, dark)
        _cheek(c, au, side, dark)
    _nose(c, p, au, dark)
    _mouth(c, p, au, skin, dark)
    _glasses(c, p)
    return _photograph(c)


class Canvas:
    """N pictures under way. x, y: (N, 48, 48) coordinates of the head, its middle at 0, in pixels of its own size and turn."""

    def __init__(self, rng: np.random.Generator, n: int):
        self.rng, self.n = rng, n
        # The camera: turn, size, shift; `yaw` moves the features across the head.
        turn, size, self.yaw = self.uniform(-0.12, 0.12), self.uniform(0.96, 1.14), self.uniform(-1.5, 1.5)
        self.rows, self.columns = np.mgrid[0:SIDE, 0:SIDE] + 0.5
        across = self.columns - 24 - self.uniform(-1.5, 1.5)
        down = self.rows - 25 - self.uniform(-1.5, 1.5)
        self.x = (across * np.cos(turn) + down * np.sin(turn)) / size
        self.y = (down * np.cos(turn) - across * np.sin(turn)) / size
        light = self.uniform(0.1, 0.9) + self.uniform(-0.3, 0.3) * self.columns / SIDE
        self.picture = np.clip(light + self.uniform(-0.3, 0.3) * self.rows / SIDE, 0, 1)

    def uniform(self, low: float, high: float) -> np.ndarray:
        """A random number a picture, (N, 1, 1)."""
        return self.rng.uniform(low, high, (self.n, 1, 1))

    def paint(self, distance: np.ndarray, tone, strength=1.0) -> None:
        """Cover where distance < 0 with a tone in [0, 1]; half a pixel of softness on either side of the edge."""
        cover = np.clip(0.5 - distance, 0, 1) * strength
        self.picture = self.picture * (1 - cover) + tone * cover

    def ellipse(self, cx, cy, rx, ry) -> np.ndarray:
        """Distance to the rim, negative inside."""
        return (np.sqrt(((self.x - cx) / rx) ** 2 + ((self.y - cy) / ry) ** 2) - 1) * np.minimum(rx, ry)

    def curve(self, points, thickness) -> np.ndarray:
        """Distance to a quadratic Bezier curve, by four straight pieces."""
        (ax, ay), (bx, by), (cx, cy) = points
        t = np.linspace(0, 1, 5)
        px = [(1 - s) ** 2 * ax + 2 * s * (1 - s) * bx + s**2 * cx for s in t]
        py = [(1 - s) ** 2 * ay + 2 * s * (1 - s) * by + s**2 * cy for s in t]
        best = np.full(self.x.shape, 99.0)
        for i in range(4):
            ux, uy = px[i + 1] - px[i], py[i + 1] - py[i]
            along = np.clip(((self.x - px[i]) * ux + (self.y - py[i]) * uy) / (ux * ux + uy * uy + 1e-9), 0, 1)
            best = np.minimum(best, (self.x - px[i] - along * ux) ** 2 + (self.y - py[i] - along * uy) ** 2)
        return np.sqrt(best) - thickness


def _head(c: Canvas, p: People) -> tuple[np.ndarray, np.ndarray]:
    """Hair, neck, shoulders, head and ears; returns the skin's tones in light and in folds."""
    shade = 1 + c.uniform(-0.014, 0.014) * c.x + c.uniform(-0.01, 0.006) * c.y  # light from one side
    skin = p.skin * shade
    c.paint(c.ellipse(0, 2, p.width + 3.5, p.height + 4), p.tone, p.long_hair)
    c.paint(np.maximum(np.abs(c.x) - 6, -(c.y - p.height * 0.5)), skin * 0.8)
    c.paint(c.ellipse(0, 27, 22, 8), c.uniform(0.05, 0.95))
    c.paint(c.ellipse(0, 0, p.width, p.height), skin)
    for side in (-1, 1):
        c.paint(c.ellipse(side * p.width, 0.5, 2, 3.4), skin * 0.9)
    fringe = c.y + p.height * p.hairline + 0.03 * c.x * c.x * p.long_hair
    c.paint(np.maximum(c.ellipse(0, -1.5, p.width + 1, p.height + 1), fringe), p.tone)
    return skin, p.skin * shade * 0.55


def _beard(c: Canvas, p: People, au: dict, dark: np.ndarray) -> None:
    jaw = 3.2 * au[26]
    beard = np.maximum(c.ellipse(0, 0, p.width, p.height + jaw * 0.5), -(c.y - 4.5 + 0.02 * c.x * c.x))
    c.paint(beard, p.tone * 0.7 + 0.3 * dark, p.beard * 0.75)


EYE_Y = -3.0


def _eye(c: Canvas, p: People, au: dict, side: int, dark: np.ndarray) -> None:
    """Eye and brow of one side."""
    cx = side * p.eye_gap + c.yaw
    opening = np.clip(1.9 + 1.5 * au[5] - 1.0 * au[7] - 0.9 * au[6] - 0.5 * au[9], 0.45, 3.4) * p.eye_size
    c.paint(c.ellipse(cx, EYE_Y, 3.3 * p.eye_size, opening), 0.93)
    iris = c.ellipse(cx + 0.25 * c.yaw, EYE_Y, 1.6 * p.eye_size, 1.6 * p.eye_size)
    c.paint(np.maximum(iris, c.ellipse(cx, EYE_Y, 3.3, opening)), 0.08)
    c.paint(c.curve([(cx - 3.4, EYE_Y), (cx, EYE_Y - 1.9 * opening), (cx + 3.4, EYE_Y)], 0.35), 0.12)
    c.paint(c.curve([(cx - 3.0, EYE_Y + 0.3), (cx, EYE_Y + 1.8 * opening), (cx + 3.0, EYE_Y + 0.3)], 0.1), dark, 0.7)
    c.paint(c.curve([(cx - 3, EYE_Y + 3.2), (cx, EYE_Y + 4.4), (cx + 3, EYE_Y + 3.0)], 0.2), dark, 0.75 * au[6])
    inner, outer = cx - side * (3.2 + 0.9 * au[4]), cx + side * 4.0
    inner_y = EYE_Y - 4.3 - 2.4 * au[1] + 2.3 * au[4] + 0.6 * au[9]
    outer_y = EYE_Y - 4.2 - 2.3 * au[2] + 0.5 * au[4]
    c.paint(c.curve([(inner, inner_y), (cx, (inner_y + outer_y) / 2 - 1.5), (outer, outer_y)], 0.65 * p.brow), p.tone * 0.6)


def _cheek(c: Canvas, au: dict, side: int, dark: np.ndarray) -> None:
    """Folds of one side: between the brows, beside the nose, from nose to mouth."""

    def fold(points, thickness, amount):
        c.paint(c.curve([(side * x + c.yaw, y) for x, y in points], thickness), dark, amount)

    fold([(0.9, -6.2), (1.0, -5.0), (0.8, -4.0)], 0.15, 0.9 * au[4])
    fold([(1.2, -1.5), (2.4, 0.0), (3.6, 0.2)], 0.3, 0.95 * au[9])
    fold([(2.6, 3.0), (5.4, 4.5), (6.4, 8.0)], 0.25, 0.8 * np.maximum(au[9], np.maximum(au[10], 0.8 * au[12])))


def _nose(c: Canvas, p: People, au: dict, dark: np.ndarray) -> None:
    tip = p.nose - 0.9 * au[9]
    c.paint(c.curve([(c.yaw + 0.6, -1.0), (1.6 * c.yaw + 1.2, tip - 1.5), (1.4 * c.yaw + 1.8, tip)], 0.25), dark, 0.7)
    c.paint(c.curve([(1.3 * c.yaw - 2, tip), (1.4 * c.yaw, tip + 1.1), (1.3 * c.yaw + 2, tip)], 0.4), dark, 0.9)


def _mouth(c: Canvas, p: People, au: dict, skin: np.ndarray, dark: np.ndarray) -> None:
    """A region between two arcs, and the chin's fold; the corners and the gap carry the expression."""
    half = p.mouth * (1 + 0.3 * au[12] + 0.35 * au[20] - 0.25 * au[26] - 0.1 * au[24])
    middle = 9.3 - 0.8 * au[17] - 0.5 * au[10]
    corner = middle - 2.8 * au[12] + 2.4 * au[15] + 0.5 * au[20]
    gap = np.clip(3.6 * au[26] + 0.9 * au[20] + 0.8 * au[10] + 1.0 * au[12] - 1.2 * au[24], 0, 4.6)
    upper, lower = middle - 0.3 * gap - 1.0 * au[10] + 0.7 * au[12], middle + gap + 0.9 * au[12]
    mx = c.x - 1.2 * c.yaw
    bend = np.clip(1 - (mx / half) ** 2, 0, None)
    top, bottom = corner + (upper - corner) * bend, corner + (lower - corner) * bend
    lips = 0.85 - 0.55 * au[24]
    c.paint(np.maximum(np.maximum(top - lips - c.y, c.y - bottom - lips), np.abs(mx) - half), skin * 0.5)
    c.paint(np.maximum(np.maximum(top - c.y, c.y - bottom), np.abs(mx) - half + 0.6), 0.08, np.clip(gap, 0.25, 1))
    teeth = np.maximum(np.maximum(top + 0.1 - c.y, c.y - np.minimum(bottom, top + 1.6)), np.abs(mx) - half + 1.2)
    c.paint(teeth, 0.95, np.clip(gap - 0.7, 0, 1) * np.clip(au[12] + au[20] + au[10], 0, 1))
    line = [(1.2 * c.yaw - half, corner), (1.2 * c.yaw, 2 * (upper + lower) / 2 - corner), (1.2 * c.yaw + half, corner)]
    c.paint(c.curve(line, 0.3), 0.12, np.clip(1 - gap, 0, 1))
    c.paint(c.curve([(c.yaw - 2.5, 13.2), (c.yaw, 12.0), (c.yaw + 2.5, 13.2)], 0.25), dark, 0.8 * au[17])


def _glasses(c: Canvas, p: People) -> None:
    for side in (-1, 1):
        rim = np.abs(c.ellipse(side * p.eye_gap + c.yaw, EYE_Y, 4.6, 3.9)) - 0.4
        c.paint(rim, 0.05, p.glasses)
        temple = np.maximum(np.abs(c.y - EYE_Y) - 0.4, -(side * c.x - 4.6 - p.eye_gap))
        c.paint(temple + 99 * (np.abs(c.x) > p.width), 0.05, p.glasses)
    c.paint(np.maximum(np.abs(c.y - EYE_Y + 0.6) - 0.4, np.abs(c.x - c.yaw) - p.eye_gap + 4.5), 0.05, p.glasses)


def _photograph(c: Canvas) -> np.ndarray:
    """What makes pictures hard: something before the face, contrast, blur, noise. Returns (N, 48, 48) uint8."""
    hidden = np.maximum(
        np.abs(c.columns - c.uniform(4, 44)) - c.uniform(3, 7), np.abs(c.rows - c.uniform(20, 46)) - c.uniform(3, 7)
    )
    c.paint(hidden, c.uniform(0.1, 0.9), (c.uniform(0, 1) < 0.12).astype(float))
    picture = 0.5 + (c.picture - 0.5) * c.uniform(0.7, 1.0) + c.uniform(-0.1, 0.1)
    blur = c.rng.choice([0.0, 0.6, 1.0], c.n, p=[0.6, 0.33, 0.07])
    picture = np.stack([gaussian_filter(face, s) if s else face for face, s in zip(picture, blur, strict=True)])
    picture = picture + c.rng.normal(0, 1, picture.shape) * c.rng.choice([0.0, 0.015, 0.035], (c.n, 1, 1), p=[0.55, 0.35, 0.1])
    # Steps of 4 grey values halve the file; the eye does not see them.
    return (np.clip(np.round(picture * 63), 0, 63) * 4).astype(np.uint8)
