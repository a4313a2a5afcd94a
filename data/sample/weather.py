"""The example of notebook 6: drawn skies in colour, each with a remark, in four classes that have nothing to do with faces."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

WIDTH, HEIGHT = 80, 60
SKIES = {"sunny": (120, 180, 240), "rainy": (130, 140, 155), "snowy": (190, 200, 215), "starry": (25, 30, 70)}
# What people say of it; a remark of the last line goes with any weather.
REMARKS = {
    "sunny": "we had lunch in the garden|my nose is burnt|ice cream for everybody|where are my dark glasses|the pool was full",
    "rainy": "my shoes are wet|i forgot the umbrella again|puddles everywhere|the laundry came in wet|a good day for ducks",
    "snowy": "the children built a man with a carrot|my fingers are frozen|we went out with the sledge|the roads are white",
    "starry": "we could see the milky way|nobody else was awake|the owl called twice|the lamps were off in the village",
}
TAILS = "says my sister|on monday|at noon|near the bridge|by the lake|after work|with the dog|as always|once more|on the way back"
TAILS += "|in may|up here|down by the mill|before school|just now|all of us|this week|at grandma's|behind the house|for an hour"
ANYWHERE = "what a view|seen from my window|another day, another picture|i had to show you this|the walk home"


def draw(rng: np.random.Generator, label: str) -> np.ndarray:
    """One picture, (HEIGHT, WIDTH, 3) uint8. A third shows a drawn curtain, which says nothing of the weather."""
    sky = np.clip(np.array(SKIES[label]) + rng.integers(-40, 41, 3), 0, 255)
    picture = Image.new("RGB", (WIDTH, HEIGHT), tuple(sky.tolist()))
    pen = ImageDraw.Draw(picture)

    def disc(x: float, y: float, r: float, colour: tuple[int, int, int]) -> None:
        pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def scattered(count: int, mark: Callable[[float, float], None]) -> None:
        for x, y in zip(rng.uniform(2, WIDTH - 2, count), rng.uniform(2, HEIGHT - 14, count), strict=True):
            mark(x, y)

    if rng.random() < 1 / 3:
        cloth = rng.integers(60, 200, 3)
        for x in range(0, WIDTH, 8):
            pen.rectangle((x, 0, x + 7, HEIGHT), fill=tuple((cloth + rng.integers(-30, 31)).tolist()))
        return np.asarray(picture)
    x, y, size = rng.uniform(15, WIDTH - 15), rng.uniform(12, 26), rng.uniform(6, 11)
    if label == "sunny":
        for angle in np.arange(0, 2 * np.pi, np.pi / 5):
            tip = (x + 1.7 * size * np.cos(angle), y + 1.7 * size * np.sin(angle))
            pen.line(((x, y), tip), fill=(250, 210, 60), width=2)
        disc(x, y, size, (255, 220, 40))
    if label == "starry":
        disc(x, y, size, (240, 240, 210))
        disc(x + size / 2, y - size / 3, size, tuple(sky.tolist()))
        scattered(24, lambda a, b: disc(a, b, 0.8, (255, 255, 230)))
    if label in ("rainy", "snowy"):
        grey = int(rng.integers(80, 120)) if label == "rainy" else 150
        for shift in (-1.2, -0.4, 0.4, 1.2):
            disc(x + shift * size, y + rng.uniform(-3, 3), size, (grey,) * 3)
    if label == "rainy":
        scattered(36, lambda a, b: pen.line(((a, b), (a - 2, b + 5)), fill=(60, 90, 160), width=1))
    if label == "snowy":
        scattered(36, lambda a, b: disc(a, b, 1.3, (255, 255, 255)))
    ground = {"sunny": (90, 160, 70), "rainy": (70, 110, 70), "snowy": (245, 245, 250), "starry": (20, 35, 30)}[label]
    pen.rectangle((0, HEIGHT - int(rng.integers(6, 14)), WIDTH, HEIGHT), fill=ground)
    return np.asarray(picture)


def make(seed: int = 5, count: int = 320) -> pd.DataFrame:
    """Columns image (PNG), text and label; ten rows repeat another one, as in every collection."""
    rng, rows = np.random.default_rng(seed), []
    for label in rng.permutation(np.repeat(list(SKIES), [100, 90, 70, 60])).tolist()[:count]:
        remarks = (ANYWHERE if rng.random() < 0.3 else REMARKS[label]).split("|")
        words = f"{remarks[rng.integers(len(remarks))]} {rng.choice(TAILS.split('|'))}{rng.choice(['', '!', ' ...', ' :)'])}"
        stream = io.BytesIO()
        Image.fromarray(draw(rng, label)).save(stream, "PNG")
        rows.append({"image": stream.getvalue(), "text": words, "label": label})
    for row, again in rng.choice(count, (10, 2), replace=False):
        rows[row] = rows[again]
    return pd.DataFrame(rows)
