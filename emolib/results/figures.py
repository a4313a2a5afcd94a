"""One function a figure, from numbers that were computed elsewhere: the message is the title, curves are labelled directly."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from emolib.data.labels import COLOURS, FACE_CLASSES, FERPLUS_COLUMNS, FERPLUS_TO_FACE, SPLITS, WAYS
from emolib.results import metrics
from emolib.results.predictions import Facts

plt.rcParams |= {
    "figure.dpi": 150, "font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left", "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25, "legend.frameon": False,
    "figure.constrained_layout.use": True, "figure.titlesize": 10,
}  # fmt: skip
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")  # Okabe-Ito, as the classes' colours


def numbers(fig: Figure) -> str:
    """What a figure shows, as one line: how many curves, bars, pictures, heat maps and other marks; a checksum of all.

    It is a figure's text in a notebook, so that whatever compares the text of outputs (nbval) also guards pictures, whose
    pixels differ with a machine's fonts. Places of words, which follow the fonts, do not count.
    """
    values, words, count = [], [text.get_text() for text in fig.texts], Counter()
    for ax in fig.findobj(Axes):
        count.update(curves=len(ax.lines), bars=len(ax.patches), pictures=len(ax.images))
        count.update("heat maps" if isinstance(some, QuadMesh) else "sets of marks" for some in ax.collections)
        values += [np.asarray(line.get_xydata(), float) for line in ax.lines]
        values += [[p.get_x(), p.get_y(), p.get_width(), p.get_height()] for p in ax.patches if isinstance(p, Rectangle)]
        values += [
            np.ma.filled(a.get_array().astype(float), np.nan) for a in (*ax.images, *ax.collections) if a.get_array() is not None
        ]
        values += [np.ma.filled(np.ma.asarray(c.get_offsets(), float), np.nan) for c in ax.collections]
        said = [ax._left_title, ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts, *ax.get_xticklabels(), *ax.get_yticklabels()]
        words += [text.get_text() for text in (*said, *(ax.get_legend().get_texts() if ax.get_legend() else ()))]
    flat = np.concatenate([np.ravel(v) for v in values] or [np.zeros(0)])
    # Six digits, and a hair away from ties: another CPU's last bit must not matter.
    rounded = " ".join(f"{v * (1 + 1e-9):.6g}" for v in flat)
    checksum = hashlib.sha256("\n".join([rounded, *words]).encode()).hexdigest()[:12]
    parts = ", ".join(f"{n} {kind}" for kind, n in count.items() if n)
    return f"Figure: {parts}; {len(flat):,} numbers, checksum {checksum}"


# A notebook's text for a figure; the inline backend throws away what is registered with the formatters.
Figure._repr_pretty_ = lambda fig, printer, cycle: printer.text(numbers(fig))


def headed(fig: Figure, title: str | None) -> Figure:
    """The figure under its message, flush left."""
    if title:
        fig.suptitle(title, x=0.01, ha="left")
    return fig


def label(ax: Axes, words: str, place: tuple[float, float], offset: tuple[float, float], **style) -> None:
    """Words beside a point, legible over lines; offset: in points."""
    outline = [withStroke(linewidth=3, foreground="white")]
    ax.annotate(words, place, offset, textcoords="offset points", fontsize=8, path_effects=outline, **style)


def half_width(share, n: int) -> np.ndarray:
    """Half a 95 % interval of a share of n items (normal approximation)."""
    share = np.asarray(share, float)
    return 1.96 * np.sqrt(share * (1 - share) / n)


def class_balance(counts: np.ndarray, classes: tuple[str, ...], title: str | None = None) -> Figure:
    """Share of each class in the three splits, the test's in figures. counts: (3, K)."""
    fig, ax = plt.subplots(figsize=(7, 2.6))
    shares = 100 * np.asarray(counts) / np.sum(counts, 1, keepdims=True)
    for i, (split, row, alpha) in enumerate(zip(SPLITS, shares, (1.0, 0.7, 0.45), strict=True)):
        places = np.arange(len(classes)) + 0.27 * (i - 1)
        ax.bar(places, row, 0.25, color=[COLOURS.get(c, LINES[0]) for c in classes], alpha=alpha)
        tallest = int(shares[0].argmax())
        ax.text(places[tallest], 0.8, split, rotation=90, ha="center", va="bottom", fontsize=8)
    for k, share in enumerate(shares[2]):  # as wide as two bars
        ax.text(k + 0.27, shares[1:, k].max() + 0.4, f"{share:.1f} %", ha="center", va="bottom", fontsize=8)
    ax.set(xticks=range(len(classes)), xticklabels=classes, ylabel="share of the split (%)", title=title)
    ax.margins(y=0.12)
    ax.grid(axis="x", visible=False)
    return fig


def strip(pictures: Sequence[np.ndarray], names: Sequence[str], title: str | None = None) -> Figure:
    """Grey pictures in a row, each under its name in the colour of its class."""
    fig, axes = plt.subplots(1, len(pictures), figsize=(7, 7 / len(pictures) + 0.55), squeeze=False)
    for ax, picture, name in zip(axes[0], pictures, names, strict=True):
        ax.imshow(picture, cmap="gray", vmin=np.min(pictures), vmax=np.max(pictures))
        ax.set_title(name, color=COLOURS.get(name, "black"), loc="center", fontsize=9)
        ax.axis("off")
    return headed(fig, title)


def agreement(matrix: np.ndarray, title: str | None = None) -> Figure:
    """FER-2013 labels (rows) against the answer with the most votes in FER+ (columns), % of the row. matrix: (7, 10) counts."""
    # FER+ columns in the order of the FER classes, so that agreement is the diagonal.
    order = [next(i for i, c in enumerate(FERPLUS_COLUMNS) if FERPLUS_TO_FACE.get(c) == face) for face in FACE_CLASSES]
    order += [i for i in range(len(FERPLUS_COLUMNS)) if i not in order]
    fig, ax = plt.subplots(figsize=(7, 3.4))
    heat(ax, np.asarray(matrix)[:, order], FACE_CLASSES, [FERPLUS_COLUMNS[i].replace("NF", "not a face") for i in order])
    ax.set(xlabel="FER+: the answer with the most votes of ten (% of the row)", ylabel="FER-2013 label (n)", title=title)
    return fig


def heat(ax: Axes, counts: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Counts as a heat map in % of the row, with the row's n."""
    n = counts.sum(1)
    names = {"xticklabels": columns, "yticklabels": [f"{row} ({round(k):,})" for row, k in zip(rows, n, strict=True)]}
    share = 100 * counts / np.maximum(n, 1e-9)[:, None]
    sns.heatmap(share, annot=True, fmt=".0f", cmap="Blues", vmin=0, vmax=100, cbar=False, annot_kws={"size": 8}, ax=ax, **names)
    ax.set_xticks(ax.get_xticks(), columns, rotation=35, ha="right")
    ax.tick_params(axis="y", rotation=0)
    ax.grid(visible=False)


def confusion(scores: dict[str, dict], classes: tuple[str, ...]) -> Figure:
    """Row-normalised confusion matrices side by side (means over seeds); scores: {title: of `metrics.score`}."""
    fig, axes = plt.subplots(1, len(scores), figsize=(4.2 * len(scores), 3.3), squeeze=False)
    for ax, (title, found) in zip(axes[0], scores.items(), strict=True):
        heat(ax, found["confusion"], classes, classes)
        ax.set(title=title, xlabel="predicted (% of the row)", ylabel="true (n)")
    return fig


def learning_curves(histories: dict[str, list[list[dict]]], title: str | None = None) -> Figure:
    """Loss (dotted: training) and validation accuracy, one line a seed; the dot is the epoch that was kept.

    histories: {system: [epochs of a seed]}; wants more than one epoch.
    """
    fig, axes = plt.subplots(1, 2, figsize=(7, 2.7))
    final: dict[str, tuple] = {}
    for (name, seeds), colour in zip(histories.items(), LINES[: len(histories)], strict=True):
        for history in seeds:
            epochs = np.arange(1, len(history) + 1)
            axes[0].plot(epochs, [h["train_loss"] for h in history], ":", color=colour, alpha=0.8)
            axes[0].plot(epochs, [h["validation_loss"] for h in history], "-", color=colour, alpha=0.8)
            values = [100 * h["validation_accuracy"] for h in history]
            axes[1].plot(epochs, values, color=colour, alpha=0.8)
            best = max(range(len(history)), key=lambda k: (values[k], -history[k]["validation_loss"]))  # as the loop chooses
            axes[1].plot(epochs[best], values[best], "o", color=colour, ms=4)
        height = 100 * np.mean([history[-1]["validation_accuracy"] for history in seeds])
        final[name] = max(map(len, seeds)), height, colour
    for rank, (name, (last, height, colour)) in enumerate(sorted(final.items(), key=lambda item: item[1][1])):
        where = {"xytext": (5, 6 * (2 * rank - len(final) + 1)), "textcoords": "offset points", "va": "center"}
        axes[1].annotate(name, (last, height), color=colour, **where)
    kinds = {"train": ":", "validation": "-"}
    axes[0].legend([Line2D([], [], color="0.3", linestyle=style) for style in kinds.values()], kinds, frameon=False)
    axes[0].set(xlabel="epoch", ylabel="cross-entropy (nats)", title="lower is better")
    # From the second epoch's height on: the climb of the first would flatten all that follows.
    shown = [100 * h["validation_accuracy"] for seeds in histories.values() for history in seeds for h in history[1:] or history]
    room = 0.08 * (max(shown) - min(shown)) + 0.1
    axes[1].set(xlabel="epoch", ylabel="validation accuracy (%)", ylim=(min(shown) - room, max(shown) + room))
    axes[1].set_title("higher is better")
    for ax, width in zip(axes, (1.02, 1.28), strict=True):
        last = max(end for end, *_ in final.values())
        ticks = MaxNLocator(integer=True).tick_values(1, last)
        ax.set(xticks=[t for t in ticks if 1 <= t <= last], xlim=(0.8, width * last))
    return headed(fig, title)


def calibration(systems: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]], title: str | None = None) -> Figure:
    """Calibration error before and after a temperature: {system: (probs before (N, K), probs after, labels (N,))}."""
    fig, ax = plt.subplots(figsize=(7, 1.1 + 0.42 * len(systems)))
    for row, (before, after, labels) in enumerate(systems.values()):
        first, last = (100 * metrics.expected_calibration_error(p, labels) for p in (before, after))
        ax.annotate("", (last, row), (first, row), arrowprops={"arrowstyle": "->", "color": "0.6"})
        ax.plot(first, row, "o", color=LINES[1], mfc="white")
        ax.plot(last, row, "o", color=LINES[0])
        for value, colour, side in ((first, LINES[1], first > last), (last, LINES[0], last >= first)):
            where = {"xytext": (7 if side else -7, 0), "ha": "left" if side else "right"}
            ax.annotate(f"{value:.1f}", (value, row), textcoords="offset points", va="center", color=colour, fontsize=8, **where)
    ax.set(yticks=range(len(systems)), yticklabels=systems, ylim=(len(systems) - 0.4, -0.6), title=title)
    ax.set(xlabel="expected calibration error on test items (%; hollow: before, filled: after; 0 is best)")
    ax.set_xlim(left=min(0, ax.get_xlim()[0]))
    ax.margins(x=0.15)
    return fig


def k_shot(kinds: dict[str, tuple[Facts, float, float]], title: str | None = None) -> Figure:
    """Test accuracy of probes on k items per class; {name: (record of `heads.k_shot`, accuracy of zero-shot, probe on all)}."""
    fig, axes = plt.subplots(1, len(kinds), figsize=(7, 2.9), squeeze=False)
    for ax, (name, (found, zero, whole)) in zip(axes[0], kinds.items(), strict=True):
        rows = found.notes["shots"]
        k, scores = [r["k"] for r in rows], 100 * np.array([r["test"] for r in rows])
        ax.plot(k, scores.mean(1), "o-", color=LINES[0])
        ax.plot(np.repeat(k, scores.shape[1]), scores.ravel(), ".", color=LINES[0], alpha=0.35)
        for value, other, words, colour in ((zero, whole, "zero-shot", LINES[1]), (whole, zero, "probe on all items", "0.35")):
            ax.axhline(100 * value, color=colour, ls="--")
            above = value >= other  # the two may lie close together
            style = {"va": "bottom" if above else "top", "color": colour, "zorder": 5}  # the curve may run below it
            label(ax, f"{words} {100 * value:.1f}", (k[0], 100 * value), (0, 3 if above else -3), **style)
        enough = [r["k"] for r in rows if min(r["test"]) > zero]
        first = f"every draw beats words from {enough[0]}" if enough else f"not all draws of {k[-1]} beat words"
        ax.set(xscale="log", xlabel="labelled items per class, k", ylabel="test accuracy (%)", title=f"{name}: {first}")
        ax.set_xticks(k, k)
        ax.minorticks_off()
        ax.margins(y=0.12)
    return headed(fig, title)


def picture_sizes(found: Facts, *, used: int) -> Figure:
    """Validation accuracy of a probe against the size at which pictures reach the encoder; found: of `heads.picture_sizes`."""
    fig, ax = plt.subplots(figsize=(7, 2.7))
    rows, n = sorted(found.notes["sizes"], key=lambda r: r["size"]), found.notes["n"]
    sizes, shares = [r["size"] for r in rows], np.array([r["accuracy"] for r in rows])
    ax.errorbar(sizes, 100 * shares, 100 * half_width(shares, n), fmt="o-", color=LINES[0], capsize=3)
    for row, share in zip(rows, shares, strict=True):
        half, speed = half_width(share, n), row["images_per_second"] / rows[-1]["images_per_second"]
        for end, words in ((share + half, f"{100 * share:.1f} %"), (share - half, f"{speed:.1f}× as fast")):
            where = {"xytext": (0, 4 if end > share else -4), "va": "bottom" if end > share else "top"}
            ax.annotate(words, (row["size"], 100 * end), textcoords="offset points", ha="center", fontsize=8, **where)
    gap = 100 * (dict(zip(sizes, shares, strict=True)).get(used, shares[-1]) - shares[-1])
    ax.set(title=f"{used} pixels are used: {gap:+.1f} points against {sizes[-1]} pixels", xticks=sizes)
    ax.set(xlabel="picture size (pixels)", ylabel=f"validation accuracy (%)\n95 % interval, n = {n:,}")
    ax.margins(x=0.12, y=0.3)
    return fig


def trade_off(mixtures: dict[str, list[Facts]], chosen: tuple[str, float], probe: float) -> Figure:
    """Emotion accuracy on validation items against what is kept of generality: one curve a method, one dot an alpha of WiSE-FT.

    mixtures: {method: records of `generality.mixtures`, one a seed}, whose mean is drawn. chosen: method and alpha. probe:
    accuracy of the linear probe on the same items; it changes no weight, so it stands at zero. Bars at alpha = 1: 95 % intervals.
    """
    fig, ax = plt.subplots(figsize=(7, 4))
    styles = zip(LINES[: len(mixtures)], "osD^v"[: len(mixtures)], strict=True)
    paths = {m: path(ax, found, WAYS[m], *style) for (m, found), style in zip(mixtures.items(), styles, strict=True)}
    label(ax, "α = 0: pretrained", paths[chosen[0]][0], (0, -14), ha="center")
    ax.plot(0, 100 * probe, "*", ms=11, color="black")
    label(ax, "linear probe", (0, 100 * probe), (7, -3))
    place = paths[chosen[0]][mixtures[chosen[0]][0].notes["alphas"].index(chosen[1])]
    ax.plot(*place, "o", ms=13, mfc="none", mec="black")
    label(ax, f"chosen: α = {chosen[1]:g}", place, (10, -3))
    ax.axvspan(-1, 0, color="0.92", zorder=0)
    ends = [points[-1][0] for points in paths.values()]
    ax.set(title=f"Fine-tuning changes generality by {min(ends):+.1f} to {max(ends):+.1f} points, a linear probe not at all")
    ax.set(xlabel="change of generality (points; right is better; grey: at most one point lost)")
    ax.set(ylabel=f"emotion accuracy, {mixtures[chosen[0]][0].arrays['right.emotion'].shape[1]} validation items (%)")
    ax.legend(loc="lower left", title="from α = 0, right, to 1")
    ax.margins(x=0.24, y=0.08)
    return fig


def path(ax: Axes, found: list[Facts], name: str, colour: str, mark: str) -> np.ndarray:
    """Draw one method's curve with the intervals of its end; returns its points, (A, 2): change of generality, accuracy, in %."""
    right, (_, (low, high)) = metrics.emotion(found), metrics.kept_at(found, -1)
    points = 100 * np.stack([metrics.kept(found, 1), right.mean(1)], 1)
    ax.plot(*points.T, mark + "-", ms=4, color=colour, alpha=0.85, label=name)
    tall, wide = 196 * right[-1].std() / right.shape[1] ** 0.5, 50 * (high - low)
    ax.errorbar(*points[-1], tall, wide, color=colour, alpha=0.4, capsize=2)
    return points


def dual_encoder() -> Figure:
    """The diagram of a dual encoder, and what zero-shot, linear probe, LoRA, full fine-tuning and FLYP change in it."""
    fig, ax = plt.subplots(figsize=(7, 3.1))
    boxes = (  # centre, width, words, colour of the edge
        (0.9, 2.4, 1.2, "picture", "0.3"), (3.0, 2.4, 1.7, "image encoder", LINES[1]),
        (5.3, 2.4, 1.3, "vector $x$\nof length 1", "0.3"),
        (0.9, 0.8, 1.2, "a sentence\nper class", "0.3"), (3.0, 0.8, 1.7, "text encoder", LINES[2]),
        (5.3, 0.8, 1.6, "head: one vector\n$w_k$ per class", LINES[0]),
        (7.6, 1.6, 1.6, "logits $s\\,w_k^\\top x$\n→ softmax", "0.3"),
    )  # fmt: skip
    for x, y, width, words, colour in boxes:
        corner = (x - width / 2, y - 0.4)
        ax.add_patch(FancyBboxPatch(corner, width, 0.8, "round,pad=0.05", fc="white", ec=colour, lw=1.6))
        ax.text(x, y, words, ha="center", va="center")
    for start, end in ((0, 1), (1, 2), (3, 4), (4, 5), (2, 6), (5, 6)):
        (x, y, width, *_), (to_x, to_y, to_width, *_) = boxes[start], boxes[end]
        tip, tail = (to_x - to_width / 2 - 0.07, to_y), (x + width / 2 + 0.07, y)
        ax.annotate("", tip, tail, arrowprops={"arrowstyle": "->", "color": "0.4"})
    for x, y, words, colour in (
        (3.0, 3.15, "full and LP-FT: every weight · LoRA: thin matrices beside them", LINES[1]),
        (3.0, 0.05, "FLYP: this encoder too", LINES[2]),
        (5.9, 0.05, "zero-shot: from the sentences · linear probe, LP-FT: learned", LINES[0]),
    ):
        ax.text(x, y, words, ha="center", va="center", fontsize=8, color=colour)
    ax.set(xlim=(0.1, 8.6), ylim=(-0.2, 3.4), title="Two encoders, one space: where each way of adapting changes something")
    ax.axis("off")
    return fig


def face_and_prompts(image: np.ndarray, names: Sequence[str], probs: np.ndarray, title: str | None = None) -> Figure:
    """A picture beside the probabilities of its prompts: image (S, S), probs (K,)."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(7, 2.6), width_ratios=(1, 1.6))
    left.imshow(image, cmap="gray", vmin=0, vmax=255)
    left.axis("off")
    best = int(np.argmax(probs))
    right.barh(range(len(names)), 100 * probs, color=[LINES[0] if k == best else "0.75" for k in range(len(names))])
    for k, p in enumerate(100 * probs):
        right.annotate(f"{p:.0f}", (p, k), (3, 0), textcoords="offset points", va="center", fontsize=8)
    right.set(yticks=range(len(names)), yticklabels=names, xlabel="probability (%)", xlim=(0, 112))
    right.invert_yaxis()
    right.grid(axis="y", visible=False)
    return headed(fig, title or f"The nearest sentence: “{names[best]}”")


def relevance(image: np.ndarray, maps: np.ndarray, prompts: Sequence[str], title: str | None = None) -> Figure:
    """Attention maps over a picture, each under its prompt and scaled to its own peak: image (S, S), maps (P, side, side)."""
    fig, axes = plt.subplots(1, len(maps) + 1, figsize=(7, 2.3))
    for i, ax in enumerate(axes):
        ax.imshow(image, cmap="gray", vmin=0, vmax=255, extent=(0, 1, 0, 1))
        if i:
            ax.imshow(maps[i - 1], cmap="magma", alpha=0.55, extent=(0, 1, 0, 1), interpolation="bilinear")
        ax.set_title(prompts[i - 1] if i else "the picture", fontsize=8, loc="center", wrap=True)
        ax.axis("off")
    return headed(fig, title or "Bright: patches that raise the score of the sentence above")
