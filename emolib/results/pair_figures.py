"""The figures of the fusion notebook: one function a figure, from numbers that were computed elsewhere."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emolib.results.figures import LINES, headed

MODALITIES = {"image": LINES[1], "text": LINES[0], "both": "black", "neither": "0.75"}


def pairs(images: Sequence[np.ndarray], texts: Sequence[str], names: Sequence[str], title: str | None = None) -> Figure:
    """Pairs side by side: a grey picture under its name, and below it what was said."""
    fig, axes = plt.subplots(1, len(images), figsize=(7, 2.4), squeeze=False)
    for ax, image, text, name in zip(axes[0], images, texts, names, strict=True):
        ax.imshow(image, cmap="gray", vmin=0, vmax=255)
        ax.set_title(name, loc="center", fontsize=9)
        ax.set(xticks=[], yticks=[], xlabel=textwrap.fill(f"“{text}”", 34))
        ax.spines[:].set_visible(False)
    return headed(fig, title)


def points(judged: pd.DataFrame, title: str, label: str = "accuracy against the null model (points)") -> Figure:
    """A dot and its 95 % interval per system and kind of pairs, zero marked; hollow where the verdict is a tie.

    judged: of `comparison.judge`, one row a dot; column "pairs" decides the colour.
    """
    kinds, systems = (list(dict.fromkeys(judged[column])) for column in ("pairs", "system"))
    fig, ax = plt.subplots(figsize=(7, 1.3 + 0.14 * len(judged)))
    for found in judged.itertuples():
        kind = kinds.index(found.pairs)
        place, colour = systems.index(found.system) + 0.22 * (kind - (len(kinds) - 1) / 2), LINES[kind]
        ax.plot([100 * found.points_low, 100 * found.points_high], [place, place], color=colour, lw=1.4)
        ax.plot(100 * found.points, place, "o", ms=5, color=colour, mfc="white" if found.verdict == "tie" else colour)
    ax.axvline(0, color="black", lw=0.8)
    ax.set(yticks=range(len(systems)), yticklabels=systems, ylim=(len(systems) - 0.5, -0.5))
    ax.set(xlabel=f"{label}; hollow: a tie by its corrected p")
    handles = [plt.Line2D([], [], color=colour, marker="o", label=kind) for kind, colour in zip(kinds, LINES, strict=False)]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(kinds))
    return headed(fig, title)


def posteriors(probs: dict[str, np.ndarray], classes: Sequence[str], title: str | None = None) -> Figure:
    """What the image says, what the text says, and both: {"image", "text" or "both": (K,)} as bars."""
    fig, ax = plt.subplots(figsize=(7, 2.3))
    bars(ax, probs, classes)
    ax.legend(fontsize=7, ncols=len(probs), loc="upper center")
    return headed(fig, title)


def bars(ax: Axes, probs: dict[str, np.ndarray], classes: Sequence[str]) -> None:
    """Posteriors side by side, one colour a source; a row of NaN leaves its place empty."""
    for i, (name, values) in enumerate(probs.items()):
        places = np.arange(len(classes)) + 0.27 * (i - (len(probs) - 1) / 2)
        ax.bar(places, 100 * np.nan_to_num(values), 0.25, color=MODALITIES[name], label=name)
    ax.set(xticks=range(len(classes)), xticklabels=classes, ylabel="posterior (%)", ylim=(0, 125), yticks=(0, 50, 100))
    ax.grid(axis="x", visible=False)


def follow(shares: pd.DataFrame, title: str) -> Figure:
    """Whose answer each fusion gives on conflict pairs where the experts disagree; shares: of `comparison.follow_shares`."""
    fig, ax = plt.subplots(figsize=(7, 1.1 + 0.25 * len(shares)))
    left = np.zeros(len(shares))
    for whose in ("text", "image", "neither"):
        widths = 100 * shares[whose].to_numpy(float)
        ax.barh(range(len(shares)), widths, left=left, color=MODALITIES[whose], height=0.75, label=whose)
        for row, (start, width) in enumerate(zip(left, widths, strict=True)):
            if width > 4:
                colour = "black" if whose == "neither" else "white"
                ax.text(start + width / 2, row, f"{width:.0f}", ha="center", va="center", fontsize=8, color=colour)
        left = left + widths
    ax.set(yticks=range(len(shares)), yticklabels=shares["fusion"], ylim=(len(shares) - 0.5, -0.5), xlim=(0, 100))
    ax.set(xlabel="whose answer it gives (% of the conflict pairs on which the experts disagree)")
    ax.grid(visible=False)
    fig.legend(loc="outside lower center", ncols=3)
    return headed(fig, title)


def coverage(curves: dict[str, pd.DataFrame], title: str) -> Figure:
    """Accuracy on the pairs that are kept when the most doubtful are put aside; curves: {pairs: of `comparison.coverage`}."""
    fig, axes = plt.subplots(1, len(curves), figsize=(7, 2.7), sharex=True, squeeze=False)
    for ax, (name, frame) in zip(axes[0], curves.items(), strict=True):
        for doubt, style in zip(frame.columns[1:], ({"color": LINES[0]}, {"color": LINES[1], "ls": "--"}), strict=True):
            ax.plot(100 * frame["kept"], 100 * frame[doubt], label=doubt, **style)
        ax.set(title=name, xlabel="pairs kept (%)", ylabel="accuracy on them (%)")
    fig.legend(*ax.get_legend_handles_labels(), title="put aside by", loc="outside lower center", ncols=2)
    return headed(fig, title)


def scenes(shown: Sequence[dict], classes: Sequence[str], title: str | None = None) -> Figure:
    """One row a scene: the drawn face, the sentence, and what each and both say; shown: of `demo.scenes`."""
    fig, axes = plt.subplots(len(shown), 3, figsize=(7.4, 1.75 * len(shown)), width_ratios=(1, 1.5, 3.4))
    for (left, middle, right), scene in zip(axes, shown, strict=True):
        left.axis("off"), middle.axis("off")
        sentence = f"“{scene['sentence']}”" if scene["sentence"] else "no text"
        middle.text(0.5, 0.5, textwrap.fill(sentence, 22), ha="center", va="center")
        if scene["picture"] is None:
            left.text(0.5, 0.5, "no image", ha="center", va="center")
        else:
            left.imshow(scene["picture"], cmap="gray", vmin=0, vmax=255)
        bars(right, {name: scene[name] for name in ("image", "text", "both")}, classes)
        both, doubt = scene["both"], scene["conflict"]
        conflict = "" if np.isnan(doubt) else f"; conflict: {100 * doubt:.0f} %"
        right.set_title(f"{classes[int(both.argmax())]} {100 * both.max():.0f} %{conflict}")
    axes[0, 2].legend(fontsize=7, ncols=3, loc="upper center")
    return headed(fig, title)
