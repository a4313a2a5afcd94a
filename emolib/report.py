"""What readers see: Markdown tables, sentences with numbers, one function a figure. Needs no torch."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from IPython.display import Markdown, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from emolib import metrics, records
from emolib.labels import (
    COLOURS,
    FACE_CLASSES,
    FACE_TO_SHARED,
    FERPLUS_COLUMNS,
    FERPLUS_TO_FACE,
    SHARED_CLASSES,
    SPLITS,
    TEXT_CLASSES,
)
from emolib.profiles import Profile
from emolib.published import FACES, TEXTS, ZERO_SHOT, Published
from emolib.records import Facts, Predictions

plt.rcParams |= {
    "figure.dpi": 100, "font.size": 9, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.alpha": 0.25, "legend.frameon": False, "figure.constrained_layout.use": True,
}  # fmt: skip


LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # Okabe-Ito, as the classes' colours


def numbers(fig: Figure) -> str:
    """What a figure shows, as one line: how many curves, bars, pictures and words, and a checksum of their numbers.

    It is a figure's text in a notebook, so that whatever compares the text of outputs (nbval) also guards pictures, whose
    pixels differ with a machine's fonts. Places of words, which follow the fonts, do not count.
    """
    values, words, count = [], [], Counter()
    for ax in fig.findobj(Axes):
        for kind, artists in (("curves", ax.lines), ("bars", ax.patches), ("pictures", ax.images), ("clouds", ax.collections)):
            count[kind] += len(artists)
        values += [np.asarray(line.get_xydata(), float) for line in ax.lines]
        values += [[p.get_x(), p.get_y(), p.get_width(), p.get_height()] for p in ax.patches if isinstance(p, Rectangle)]
        values += [
            np.ma.filled(a.get_array().astype(float), np.nan) for a in (*ax.images, *ax.collections) if a.get_array() is not None
        ]
        values += [np.ma.filled(np.ma.asarray(c.get_offsets(), float), np.nan) for c in ax.collections]
        named = [ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts, *ax.get_xticklabels(), *ax.get_yticklabels()]
        words += [text.get_text() for text in (*named, *(ax.get_legend().get_texts() if ax.get_legend() else ()))]
    flat = np.concatenate([np.ravel(v) for v in values] or [np.zeros(0)])
    # Six digits, and a hair away from ties: another CPU's last bit must not matter.
    rounded = " ".join(f"{v * (1 + 1e-9):.6g}" for v in flat)
    checksum = hashlib.sha256("\n".join([rounded, *words]).encode()).hexdigest()[:12]
    parts = ", ".join(f"{n} {kind}" for kind, n in count.items() if n)
    return f"Figure: {parts}; {len(flat):,} numbers, checksum {checksum}"


# A notebook's text for a figure; the inline backend throws away what is registered with the formatters.
Figure._repr_pretty_ = lambda fig, printer, cycle: printer.text(numbers(fig))


def say(text: str) -> None:
    """Show a sentence as Markdown: a number in prose is an output, so that nbval guards it."""
    display(Markdown(text))


def table(head: list[str], rows: list[list]) -> None:
    """Show a Markdown table; the first column is text, the others are aligned right where they hold numbers."""
    display(Markdown(markdown_table(head, rows)))


def markdown_table(head: list[str], rows: list[list]) -> str:
    """The table as text. A bar in a cell is escaped, None is an en dash."""
    cells = [["–" if v is None else str(v).replace("|", "\\|") for v in row] for row in rows]
    numeric = [all(row[i][:1] in "–-+0123456789*" for row in cells) and i > 0 for i in range(len(head))]
    lines = [head, ["--:" if right else ":--" for right in numeric], *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def percent(value: float | None, digits: int = 1) -> str:
    """0.9312 -> "93.1"; None -> an en dash."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


def interval(low_high: tuple[float, float], digits: int = 1) -> str:
    """(0.92, 0.94) -> "92.0–94.0", in %."""
    return f"{percent(low_high[0], digits)}–{percent(low_high[1], digits)}"


def spread(found: dict, name: str = "accuracy") -> str:
    """ "93.1 (92.0–94.2)", with "± 0.2" between seeds where there are several."""
    sd = found[f"{name}_sd"]
    between = f" ± {percent(sd)}" if sd is not None else ""
    return f"{percent(found[name])}{between} ({interval(found[f'{name}_interval'])})"


def systems(scores: dict[str, dict]) -> None:
    """One row a system: accuracy and macro-F1 with interval, calibration, n and seeds."""
    head = ["system", "accuracy % (95 % interval)", "macro-F1 % (95 % interval)", "ECE %", "NLL", "Brier", "n", "seeds"]
    table(head, [
        [name, spread(s), spread(s, "macro_f1"), percent(s["ece"]), f"{s['nll']:.3f}", f"{s['brier']:.3f}", s["n"], s["seeds"]]
        for name, s in scores.items()
    ])  # fmt: skip


def beside_published(ours: dict[str, Predictions], scores: dict[str, dict], published: tuple[Published, ...], where: str) -> str:
    """Our systems and their scores beside published figures, best accuracy first, as Markdown text.

    Generated data has nothing that could stand beside them: then the published rows are alone, and a sentence says so.
    """
    rows = [
        (p.accuracy, [p.system, f"{p.accuracy:.2f}", p.macro_f1 and f"{p.macro_f1:.1f}", p.n, p.protocol, p.source])
        for p in published
    ]
    generated = any(source in found.source for found in ours.values() for source in GENERATED)
    for name, found in ({} if generated else ours).items():
        s = scores[name]
        cells = [f"**{name}**", f"**{spread(s)}**", f"**{spread(s, 'macro_f1')}**", s["n"], protocol(found), where]
        rows.append((100 * s["accuracy"], cells))
    rows = [cells for _, cells in sorted(rows, key=lambda row: -row[0])]
    text = markdown_table(["system", "accuracy %", "macro-F1 %", "n", "test items, protocol", "source"], rows)
    note = "The data of this page are generated, so its numbers cannot stand beside these.\n\n"
    return note + text if generated else text


def standing(name: str, found: Predictions, score: dict, published: tuple[Published, ...]) -> str:
    """Where published figures lie against a system's interval: a line of a list; "" for generated data."""
    if any(source in found.source for source in GENERATED):
        return ""
    low, high = (100 * bound for bound in score["accuracy_interval"])
    above, below = sum(p.accuracy > high for p in published), sum(p.accuracy < low for p in published)
    inside = len(published) - above - below
    return (
        f"- Of {len(published)} published figures {above} lie above the interval of {name}, {inside} in it, {below} below it.\n"
    )


def protocol(found: Predictions) -> str:
    """Which test items these are and on what was chosen."""
    if "cannot be told apart" in found.source:
        return "Public + Private, chosen on a tenth of Training"
    return "PrivateTest, chosen on PublicTest" if found.classes == FACE_CLASSES else "official test, chosen on validation"


def compare(name: str, first: Predictions, other: str, second: Predictions, p: float | None = None) -> str:
    """A sentence on two systems judged on the same items; p: the corrected value, if several pairs are compared."""
    found = metrics.mcnemar(first, second)
    p = found["p"] if p is None else p
    gap = f"{100 * found['difference']:+.1f} points"
    verdict = "a tie" if p >= 0.05 else "better" if found["difference"] > 0 else "worse"
    shown = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    return f"{name} against {other}: {gap}, {found['n10']} to {found['n01']} items, {shown}: **{verdict}**."


def class_balance(counts: np.ndarray, classes: tuple[str, ...]) -> Figure:
    """Share of each class in the three splits. counts: (3, K)."""
    fig, ax = plt.subplots(figsize=(7, 2.6))
    shares = 100 * np.asarray(counts) / np.sum(counts, 1, keepdims=True)
    for i, (split, row, alpha) in enumerate(zip(SPLITS, shares, (1.0, 0.7, 0.45), strict=True)):
        bars = ax.bar(np.arange(len(classes)) + 0.27 * (i - 1), row, 0.25, color=[COLOURS[c] for c in classes], alpha=alpha)
        bars.set_label(split)
    ax.set(xticks=range(len(classes)), xticklabels=classes, ylabel="share of the split (%)")
    ax.grid(axis="x", visible=False)
    legend = ax.legend()
    for handle, alpha in zip(legend.legend_handles, (1.0, 0.7, 0.45), strict=True):
        handle.set(facecolor="black", alpha=alpha)
    return fig


def lengths(counts: np.ndarray) -> Figure:
    """How many texts have how many words. counts: (L,), position is the length."""
    fig, ax = plt.subplots(figsize=(7, 2.2))
    ax.bar(np.arange(len(counts)), counts, 0.9, color="#0072B2")
    ax.set(xlabel="words in a text", ylabel="texts")
    return fig


def mean_faces(means: np.ndarray, classes: tuple[str, ...] = FACE_CLASSES) -> Figure:
    """The average Training face of each class. means: (K, 48, 48) in [0, 255]."""
    return _strip(means, classes, cmap="gray")


def saliency(maps: np.ndarray, means: np.ndarray, classes: tuple[str, ...] = FACE_CLASSES) -> Figure:
    """Where a class's logit reacts to the pixels: mean |gradient| (K, 48, 48) over the mean face."""
    return _strip(means, classes, cmap="gray", over=maps)


def _strip(pictures: np.ndarray, classes: tuple[str, ...], cmap: str, over: np.ndarray | None = None) -> Figure:
    fig, axes = plt.subplots(1, len(classes), figsize=(1.35 * len(classes), 1.65))
    for i, (ax, name) in enumerate(zip(axes, classes, strict=True)):
        ax.imshow(pictures[i], cmap=cmap)
        if over is not None:
            ax.imshow(over[i], cmap="magma", alpha=0.45)
        ax.set_title(name, color=COLOURS[name])
        ax.axis("off")
    return fig


def agreement(matrix: np.ndarray) -> Figure:
    """FER-2013 labels (rows) against the FER+ plurality (columns), % of the row. matrix: (7, 10) counts."""
    matrix = np.asarray(matrix)
    # FER+ columns in the order of the FER classes, so that agreement is the diagonal.
    order = [next(i for i, c in enumerate(FERPLUS_COLUMNS) if FERPLUS_TO_FACE.get(c) == face) for face in FACE_CLASSES]
    order += [i for i in range(len(FERPLUS_COLUMNS)) if i not in order]
    names = [FERPLUS_COLUMNS[i].replace("NF", "not a face") for i in order]
    fig, ax = plt.subplots(figsize=(7, 3.3))
    _heat(ax, matrix[:, order], FACE_CLASSES, names)
    ax.set(xlabel="FER+: the answer with the most votes of ten (% of the row)", ylabel="FER-2013 label")
    return fig


def _heat(ax, counts: np.ndarray, rows, columns) -> None:
    """Counts as a heat map, % of the row, with the row's n."""
    n = counts.sum(1)
    share = 100 * counts / np.maximum(n, 1e-9)[:, None]
    sns.heatmap(
        share, ax=ax, annot=True, fmt=".0f", cmap="Blues", vmin=0, vmax=100, cbar=False, square=False, annot_kws={"size": 8}
    )
    ax.set_xticklabels(columns, rotation=35, ha="right")
    ax.set_yticklabels([f"{row} ({round(k)})" for row, k in zip(rows, n, strict=True)], rotation=0)
    ax.grid(visible=False)


def confusion(scores: dict[str, dict], classes: tuple[str, ...]) -> Figure:
    """Row-normalised confusion matrices side by side (means over seeds), class sizes in brackets."""
    fig, axes = plt.subplots(1, len(scores), figsize=(4.2 * len(scores), 3.3), squeeze=False)
    for ax, (name, found) in zip(axes[0], scores.items(), strict=True):
        _heat(ax, found["confusion"], classes, classes)
        ax.set(title=name, xlabel="predicted", ylabel="true (n)")
    return fig


def learning_curves(histories: dict[str, list[list[dict]]]) -> Figure:
    """Loss (training, with label smoothing and augmentation; validation, without) and validation accuracy a seed.

    Where nothing was trained for more than one epoch there is no curve: one row a system instead.
    """
    if max(len(history) for seeds in histories.values() for history in seeds) == 1:
        return _one_epoch(histories)
    fig, axes = plt.subplots(1, 2, figsize=(8.4, 2.9))
    for (name, seeds), colour in zip(histories.items(), LINES[: len(histories)], strict=True):
        for i, history in enumerate(seeds):
            epochs = np.arange(1, len(history) + 1)
            for key, style in (("train_loss", ":"), ("validation_loss", "-")):
                label = f"{name}, {key.split('_')[0]}" if i == 0 else None
                axes[0].plot(epochs, [h[key] for h in history], style, color=colour, label=label, alpha=0.8)
            values = [100 * h["validation_accuracy"] for h in history]
            axes[1].plot(epochs, values, color=colour, label=name if i == 0 else None, alpha=0.8)
            best = max(range(len(history)), key=lambda k: (values[k], -history[k]["validation_loss"]))  # as the loop chooses
            axes[1].plot(epochs[best], values[best], "o", color=colour, ms=4)
    axes[0].set(xlabel="epoch", ylabel="cross-entropy (nats)")
    # From the second epoch's height on: the climb of the first would flatten all that follows.
    shown = [100 * h["validation_accuracy"] for seeds in histories.values() for history in seeds for h in history[1:]]
    room = 0.08 * (max(shown) - min(shown)) + 0.1
    axes[1].set(xlabel="epoch", ylabel="validation accuracy (%)", ylim=(min(shown) - room, max(shown) + room))
    for ax in axes:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.legend()
    return fig


def _one_epoch(histories: dict[str, list[list[dict]]]) -> Figure:
    """What one epoch gave: a row a system, first on top."""
    fig, axes = plt.subplots(1, 2, figsize=(8.4, 0.9 + 0.28 * len(histories)), sharey=True)
    for row, seeds in enumerate(histories.values()):
        for (history,) in seeds:
            axes[0].plot(history["train_loss"], row, "o", mfc="none", color=LINES[0])
            axes[0].plot(history["validation_loss"], row, "o", color=LINES[0])
            axes[1].plot(100 * history["validation_accuracy"], row, "o", color=LINES[0])
    axes[0].set(xlabel="cross-entropy (nats)", yticks=range(len(histories)), ylim=(len(histories) - 0.5, -0.5))
    axes[0].set_yticklabels(histories)
    axes[0].legend(axes[0].lines[:2], ["training", "validation"])
    axes[1].set(xlabel="validation accuracy after the only epoch (%)")
    return fig


def reliability(systems: dict[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Accuracy against confidence in 15 equal-mass bins. systems: name -> (probs (N, K), labels (N,))."""
    fig, ax = plt.subplots(figsize=(4.6, 3.4))
    least = 100.0
    ax.plot([0, 100], [0, 100], "--", color="0.6", lw=1, label="calibrated")
    for (name, (probs, labels)), mark, colour in zip(systems.items(), "osD^v", (*LINES, "0.4"), strict=False):
        bins = 100 * metrics.reliability(probs, labels)[:, :2]
        error, least = metrics.expected_calibration_error(probs, labels), min(least, bins.min())
        ax.plot(bins[:, 0], bins[:, 1], mark + "-", ms=4, color=colour, label=f"{name}, ECE {percent(error)} %")
    least = 10 * np.floor(least / 10)
    ax.set(xlabel="confidence (%)", ylabel="accuracy (%)", xlim=(least, 101), ylim=(least, 101))
    ax.legend(loc="best")
    return fig


def twins_table(notes: dict) -> None:
    """Exact and near duplicates, from an audit's notes: inside a split copies beyond the first, across splits held-out items."""
    exact, near = notes["twins"], notes["near_twins"]
    inside = "inside {} (copies beyond the first; groups)"
    rows = [[inside.format(s), exact[s]["surplus"], exact[s]["conflicting_groups"], None] for s in SPLITS]
    for early, late in (("train", "validation"), ("train", "test"), ("validation", "test")):
        found = exact[f"{early}-{late}"]
        rows.append([f"{late} items with a twin in {early}", found["rows"], found["conflicting_rows"], near[f"{early}-{late}"]])
    table(["where", "exact twins", "with another label", "near twins"], rows)


def pairs_table(texts: dict, faces: dict) -> None:
    """Items of the shared classes in each split, and how many pairs they can form, each item at most once."""
    rows = []
    for i, split in enumerate(SPLITS):
        pairs = {}
        for face, shared in FACE_TO_SHARED.items():
            pairs[shared] = min(faces["counts"][i][FACE_CLASSES.index(face)], texts["counts"][i][TEXT_CLASSES.index(shared)])
        rows.append([split, *(pairs[c] for c in SHARED_CLASSES), sum(pairs.values())])
    table(["pairs at most, before cleaning", *SHARED_CLASSES, "together"], rows)


def terms_table(terms: dict[str, dict[str, list[str]]]) -> None:
    """Words by class, one column a source. terms: {source: {class: [word, ...]}}."""
    classes = next(iter(terms.values()))
    table(["class", *terms], [[c, *(", ".join(words.get(c, [])) for words in terms.values())] for c in classes])


# Which notebook makes which system's record; the order of the results tables.
SYSTEMS = {
    "texts": {
        "majority": "02", "tfidf-lr": "02", "lstm": "02", "gru": "02", "clip-zero-shot": "03", "clip-linear": "04",
        "clip-tuned": "04",
    },
    "faces": {
        "majority": "02", "nearest": "02", "cnn": "02", "clip-zero-shot": "03", "clip-linear": "04", "clip-lora": "04",
        "clip-full": "04", "clip-lpft": "04", "clip-flyp": "04", "clip-wise": "04",
    },
}  # fmt: skip
TITLES = {
    "majority": "majority class", "tfidf-lr": "TF-IDF + logistic regression", "lstm": "bidirectional LSTM",
    "gru": "bidirectional GRU", "nearest": "nearest Training face", "cnn": "residual CNN",
    "clip-zero-shot": "zero-shot", "clip-linear": "linear probe", "clip-tuned": "text tower fine-tuned", "clip-lora": "LoRA",
    "clip-full": "full fine-tuning", "clip-lpft": "LP-FT", "clip-flyp": "FLYP", "clip-wise": "best trade-off",
}  # fmt: skip
WAYS = {"full": "full", "flyp": "FLYP", "lora": "LoRA", "lpft": "LP-FT"}
LIMITS = (
    "**Limits.** The labels are what annotators saw in posed or found pictures of 48x48 grey pixels, not what a person "
    "felt; the set has no demographic data, so no error can be given for a group of people. Not tested on other "
    "pictures.\n\n"
    "**Intended use.** Research on methods. Not for judging real people. In the European Union inferring emotions at "
    "work and in education is prohibited (Regulation 2024/1689, Article 5(1)(f)); other emotion recognition from "
    "biometric data is high-risk. The terms of the data and of the encoder apply to these weights.\n"
)
GENERATED = ("drawn faces", "built sentences")  # the sources of profile sample


def groups(predictions: Predictions, audit: Facts) -> np.ndarray:
    """(N,) int: the audit's duplicate group of each item, so that the bootstrap draws duplicates together."""
    position = {number: i for i, number in enumerate(audit.arrays["ids"].tolist())}
    return audit.arrays["group"][[position[number] for number in predictions.ids.tolist()]]


def results(profile: Profile) -> str:
    """Every system of the study on its test items beside published figures, as Markdown; gaps name the command."""
    shown = profile.replays or profile.name
    parts = []
    for kind, published in (("texts", TEXTS), ("faces", FACES + ZERO_SHOT)):
        ours, gaps = {}, []
        for system, notebook in SYSTEMS[kind].items():
            try:
                found = records.read(f"{kind}/{system}", profile)
                ours[titled(system, found)] = found.test
            except records.MissingRecord:
                gaps.append(f"- {TITLES[system]}: not recorded: `python -m emolib run --profile {shown} {notebook}`")
        name = {"texts": "DAIR-AI Emotion (six emotions)", "faces": "FER-2013 (seven emotions)"}[kind]
        text = ""
        if ours:
            audit = records.read(f"{kind}/audit", profile)
            scores = {title: metrics.score(test, groups=groups(test, audit)) for title, test in ours.items()}
            text = beside_published(ours, scores, published, f"this study, `{shown}`")
        parts.append("\n\n".join(filter(None, [f"**{name}**", text, "\n".join(gaps)])))
    return "\n\n".join(parts)


def titled(system: str, found: Predictions) -> str:
    """A system's name in a table; a dual encoder's says which one it is, for none but OpenAI's is CLIP."""
    encoder = found.notes.get("encoder")
    return f"{encoder['name']}, {TITLES[system]}" if encoder else TITLES[system]


def comparisons(systems: dict[str, Predictions], pairs: list[tuple[str, str]]) -> None:
    """A sentence for each pair of systems, p values corrected for the number of pairs (Holm)."""
    corrected = metrics.holm([metrics.mcnemar(systems[a], systems[b])["p"] for a, b in pairs])
    say("\n".join("- " + compare(a, systems[a], b, systems[b], p) for (a, b), p in zip(pairs, corrected, strict=True)))


def mistaken(found: dict, classes: tuple[str, ...], name: str) -> str:
    """A sentence on the class that a system finds least often, and what it takes it for."""
    worst = int(np.nanargmin(found["recalls"]))
    row = found["confusion"][worst].copy()
    row[worst] = -1
    other = int(row.argmax())
    share = percent(row[other] / found["confusion"][worst].sum(), 0)
    return (
        f"Hardest for {name} is *{classes[worst]}* (recall {percent(found['recalls'][worst], 0)} %, "
        f"n = {round(found['confusion'][worst].sum())}), most often taken for *{classes[other]}* ({share} %)."
    )


def cost(systems: dict[str, Predictions]) -> str:
    """A sentence on what each trained system cost, from its record, and what its maker remarked on the run."""
    parts, remarks = [], [found.notes["remark"] for found in systems.values() if "remark" in found.notes]
    for name, found in systems.items():
        runs = found.notes["runs"]
        seconds = [run["seconds"] for run in runs]
        parts.append(
            f"{name}: {runs[0]['parameters'] / 1e6:.2f} M parameters, {np.mean(seconds) / 60:.1f} minutes a seed, "
            f"best epoch {', '.join(str(run['best_epoch']) for run in runs)}"
        )
    return " ".join(["Cost as recorded. " + "; ".join(parts) + ".", *remarks])


def calibrated(name: str, test: Predictions, temperature: float) -> str:
    """A sentence on calibration before and after a temperature that was fitted on validation."""
    before, after = test.posterior, metrics.sharpen(test.posterior, temperature)
    errors = [percent(metrics.expected_calibration_error(p, test.labels)) for p in (before, after)]
    loss = [f"{metrics.negative_log_likelihood(p, test.labels):.3f}" for p in (before, after)]
    habit = "too sure of itself" if temperature > 1 else "too modest"
    averaged = ", its seeds averaged" if len(test.probs) > 1 else ""
    return (
        f"{name}{averaged}: T = {temperature:.2f}, so it was {habit}. ECE {errors[0]} % before, {errors[1]} % after; "
        f"NLL {loss[0]} before, {loss[1]} after (test)."
    )


def by_prompts(asked: Predictions) -> dict[str, Predictions]:
    """The predictions of each set of prompts, from the record that `heads.ask` made."""
    return {
        name.removeprefix("probs."): replace(asked, probs=probs[None], arrays={})
        for name, probs in asked.arrays.items() if name.startswith("probs.")
    }  # fmt: skip


def span(each: dict[str, Predictions]) -> str:
    """Lowest and highest test accuracy of some systems: "27.2–30.0", in %."""
    found = [float((p.test.posterior.argmax(1) == p.test.labels).mean()) for p in each.values()]
    return interval((min(found), max(found)))


def prompts_table(each: dict[str, Predictions], chosen: str, sets: dict[str, list[list[str]]], group: np.ndarray | None) -> None:
    """One row a set of prompts: how many sentences a class, validation accuracy, test scores; the chosen one in bold.

    group: (N,) of all items, for intervals that draw duplicates together.
    """
    rows = []
    for name, found in each.items():
        test = found.split == "test"
        s = metrics.score(found.test, groups=None if group is None else group[test])
        valid = metrics.accuracy(
            metrics.confusion(found.validation.labels, found.validation.posterior.argmax(1), len(found.classes))
        )
        counts = sorted({len(some) for some in sets[name]})
        cells = [
            name,
            "-".join(map(str, dict.fromkeys([counts[0], counts[-1]]))),
            percent(valid),
            spread(s),
            spread(s, "macro_f1"),
        ]
        rows.append([f"**{cell}**" if name == chosen else cell for cell in cells])
    table(["prompts", "sentences a class", "validation accuracy %", "test accuracy % (95 % interval)", "macro-F1 %"], rows)


def sizes(found: Facts) -> Figure:
    """Validation accuracy of a probe on frozen features against the size at which pictures reach the encoder."""
    fig, ax = plt.subplots(figsize=(5.2, 2.7))
    rows = found.notes["sizes"]
    ax.plot([r["size"] for r in rows], [100 * r["accuracy"] for r in rows], "o-", color="#0072B2")
    for r in rows:
        ax.annotate(
            f"{100 * r['accuracy']:.1f}", (r["size"], 100 * r["accuracy"]), (0, 9), textcoords="offset points", ha="center"
        )
    ax.margins(y=0.35)
    ax.set(xlabel="picture size (pixels)", ylabel="validation accuracy (%)", xticks=[r["size"] for r in rows])
    return fig


def sizes_said(found: Facts, used: int) -> str:
    """A sentence on what the chosen picture size costs against the largest one."""
    rows = {r["size"]: r for r in found.notes["sizes"]}
    top, own = rows[max(rows)], rows[used]
    error = 100 * (2 * own["accuracy"] * (1 - own["accuracy"]) / found.notes["n"]) ** 0.5
    return (
        f"Used on this page and the next: {used} pixels. Against {top['size']} pixels the probe's accuracy changes by "
        f"{100 * (own['accuracy'] - top['accuracy']):+.1f} points (standard error of a difference about {error:.1f}, "
        f"n = {found.notes['n']}), and encoding is {own['images_per_second'] / top['images_per_second']:.1f} times as fast, as "
        "measured in that run."
    )


def shots(kinds: dict[str, tuple[Facts, float, float]]) -> Figure:
    """Test accuracy of probes on k items a class. kinds: {name: (record, accuracy of zero-shot, of the probe on all)}."""
    fig, axes = plt.subplots(1, len(kinds), figsize=(4.2 * len(kinds), 2.9), squeeze=False)
    for ax, (name, (found, zero, whole)) in zip(axes[0], kinds.items(), strict=True):
        rows = found.notes["shots"]
        k, scores = [r["k"] for r in rows], 100 * np.array([r["test"] for r in rows])
        ax.plot(k, scores.mean(1), "o-", color="#0072B2", label="probe, mean of the draws")
        ax.plot(np.repeat(k, scores.shape[1]), scores.ravel(), ".", color="#0072B2", alpha=0.35, label="each draw")
        ax.axhline(100 * zero, color="#D55E00", ls="--", label="zero-shot")
        ax.axhline(100 * whole, color="0.4", ls=":", label="probe on all")
        ax.set(xscale="log", xlabel="Training items a class", ylabel="test accuracy (%)", title=name)
        ax.set_xticks(k, k)
        ax.minorticks_off()
    axes[0][0].legend(fontsize=8)
    return fig


def shots_said(name: str, found: Facts, zero: float) -> str:
    """From how many items a class on labels beat prompts."""
    means = {r["k"]: np.mean(r["test"]) for r in found.notes["shots"]}
    enough = [r["k"] for r in found.notes["shots"] if min(r["test"]) > zero]  # in every draw
    shown = ", ".join(f"{percent(mean)} % with {k}" for k, mean in means.items())
    beats = (
        f"every draw beats the prompts from {enough[0]} items a class on" if enough else "none beats the prompts in every draw"
    )
    return f"{name}: zero-shot {percent(zero)} %; probes reach {shown}: {beats}."


def costs(systems: dict[str, Predictions]) -> None:
    """What each way of training cost: parameters, minutes and peak memory a seed, as recorded."""
    rows = []
    for name, found in systems.items():
        runs = found.notes["runs"]
        rows.append([
            name, f"{runs[0]['parameters']:,}", f"{np.mean([r['seconds'] for r in runs]) / 60:.1f}",
            f"{max(r['peak_memory'] for r in runs) / 1e9:.1f}", ", ".join(str(r["best_epoch"]) for r in runs), len(runs),
        ])  # fmt: skip
    table(["way", "trained parameters", "minutes a seed", "peak memory, GB", "best epoch", "seeds"], rows)


def signed(found: tuple[float, tuple[float, float]]) -> str:
    """A change in points with its interval: "-1.3 (-2.0 to -0.6)"."""
    value, (low, high) = found
    return f"{100 * value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def generality(paths: dict[str, Facts]) -> None:
    """Every way after training against the encoder as it came, on the items kept for reporting."""
    first = metrics.known(next(iter(paths.values())))
    counts = [f"{values[0][1::2].shape[0]:,}" for values in first.values()]
    rows = [["as it came, %", *(percent(values[0][1::2].mean()) for values in first.values()), "–"]]
    for way, found in paths.items():
        cells = [signed(metrics.change(v[0][1::2], v[-1][1::2])) for v in metrics.known(found).values()]
        rows.append([f"{WAYS[way]}, change", *cells, f"{100 * metrics.kept(found, 1)[-1]:+.1f}"])
    names = [f"{name} (n = {n})" for name, n in zip(first, counts, strict=True)]
    table(["points (95 % interval)", *names, "generality: mean change"], rows)


def harmonic(found: dict[str, Facts]) -> None:
    """Seen and left-out emotions before and after training on the others, all seven allowed as answers."""
    rows = []
    for way, record in found.items():
        labels = record.arrays["labels"].astype(int)
        new = [FACE_CLASSES.index(c) for c in record.notes["left_out"]]
        change = metrics.change(*((record.arrays[k] == labels)[np.isin(labels, new)] for k in ("before", "after")))
        for when in ("after",) if rows else ("before", "after"):
            scores = metrics.harmonic(labels, record.arrays[when], new)
            named = np.isin(record.arrays[when], new).mean()
            cells = [*map(percent, scores[:2]), signed(change) if when == "after" else None, percent(scores[2]), percent(named)]
            rows.append([WAYS[way] if when == "after" else "as it came", *cells])
    n = f"encoder (n = {len(labels):,})"
    head = [n, "seen emotions %", "left-out emotions %", "change, points", "harmonic mean %", "answers that are left-out ones %"]
    table(head, rows)


def judged_faces(found: Facts, probe: Predictions) -> float:
    """Accuracy of the linear probe on the validation faces that the mixtures of `generality.along` were judged on."""
    validation = probe.validation
    rows = np.random.default_rng(0).permutation(len(validation.labels))[: found.arrays["right.emotion"].shape[1]]
    return float((validation.posterior.argmax(1) == validation.labels)[rows].mean())


def trade_off(paths: dict[str, Facts], chosen: tuple[str, float], probe: float) -> Figure:
    """Emotion accuracy on validation faces against what is kept of generality: one curve a way, one dot an alpha.

    probe: accuracy of the linear probe on the same faces; it changes no weight, so it stands at zero.
    """
    fig, ax = plt.subplots(figsize=(6.4, 3.8))
    for (way, found), colour, mark in zip(paths.items(), LINES[: len(paths)], "osD^"[: len(paths)], strict=True):
        x, y = 100 * metrics.kept(found, 1), 100 * found.arrays["right.emotion"].mean(1)
        ax.plot(x, y, mark + "-", ms=4, color=colour, label=WAYS[way], alpha=0.85)
        ax.annotate(r"$\alpha=1$", (x[-1], y[-1]), (4, 4), textcoords="offset points", fontsize=8, color=colour)
    ax.annotate(r"$\alpha=0$", (x[0], y[0]), (5, -3), textcoords="offset points", fontsize=8)
    ax.plot(0, 100 * probe, "*", ms=11, color="black", ls="", label="linear probe (no weight changed)")
    found, i = paths[chosen[0]], paths[chosen[0]].notes["alphas"].index(chosen[1])
    place = (100 * metrics.kept(found, 1)[i], 100 * found.arrays["right.emotion"].mean(1)[i])
    ax.plot(*place, "o", ms=13, mfc="none", mec="black", label=f"best trade-off: {WAYS[chosen[0]]}, α = {chosen[1]:g}", ls="")
    ax.axvspan(-1, 0, color="0.9", zorder=0, label="at most one point lost")
    n = found.arrays["right.emotion"].shape[1]
    ax.set(xlabel="change of generality (points)", ylabel=f"emotion accuracy,\n{n} validation faces (%)")
    ax.margins(x=0.07)
    ax.legend(fontsize=8)
    return fig


def trade_off_said(paths: dict[str, Facts], chosen: tuple[str, float], probe: float) -> str:
    """What the chosen mixture keeps of the gain and of generality, and what the linear probe reaches on the same faces."""
    way, alpha = chosen
    found = paths[way]
    i = found.notes["alphas"].index(alpha)
    right = found.arrays["right.emotion"].mean(1)
    best = max(record.arrays["right.emotion"].mean(1).max() for record in paths.values())
    share = (right[i] - right[0]) / (best - right[0])
    beside = "more" if probe > right[i] else "less" if probe < right[i] else "the same"
    rows, moved = found.arrays["right.emotion"].shape[1], 100 * metrics.kept(found, 1)[i]
    return (
        f"Best trade-off of one encoder with prompts: **{WAYS[way]} at α = {alpha:g}**. On {rows} validation faces it keeps "
        f"{percent(share, 0)} % of the largest gain ({percent(right[0])} % as it came, {percent(right[i])} % here, "
        f"{percent(best)} % at most); generality changes by {moved:+.1f} points on items that had no part in the choice. "
        f"The linear probe, a separate head that forgets nothing, reaches {percent(probe)} % on the same faces: {beside}."
    )


def away(found: Facts) -> None:
    """Text classifiers on another set's sentences: accuracy in the shared classes, with interval."""
    labels = found.arrays["labels"].astype(int)
    share = np.bincount(labels, minlength=len(SHARED_CLASSES)).max() / len(labels)
    rows = [["largest class", percent(share), None, len(labels)]]
    below, scores = [], {}
    for name in (n for n in found.arrays if n != "labels"):
        right = found.arrays[name] == labels
        low_high = metrics.change(np.zeros(len(right)), right)[1]
        scores[name] = metrics.macro_f1(metrics.confusion(labels, found.arrays[name].astype(int), len(SHARED_CLASSES)))
        rows.append([name, f"{percent(right.mean())} ({interval(low_high)})", percent(scores[name]), len(labels)])
        below += [name] * bool(right.mean() < share)
    table(["system", "accuracy % (95 % interval)", "macro-F1 %", "n"], rows)
    say(
        f"Right less often than always naming the largest class: {', '.join(below) or 'none'}. Best macro-F1: "
        f"{max(scores, key=scores.get)}."
    )


def card(name: str, found: Predictions, score: dict, variants: dict[str, dict], said: str) -> str:
    """The model card that goes with exported weights: data, metrics with intervals, limits, intended use, law."""
    rows = [["raw test set", spread(score), spread(score, "macro_f1"), percent(score["ece"]), score["n"]]]
    rows += [[key, spread(s), spread(s, "macro_f1"), percent(s["ece"]), s["n"]] for key, s in variants.items() if key != "raw"]
    numbers = markdown_table(["test items", "accuracy % (95 % interval)", "macro-F1 %", "ECE %", "n"], rows)
    recalls = ", ".join(f"{c} {percent(r, 0)} %" for c, r in zip(found.classes, score["recalls"], strict=True))
    return (
        f"# {name}\n\nA dual encoder ({found.notes['encoder']['name']}) whose image tower was fine-tuned to tell "
        f"{len(found.classes)} facial expressions apart: {', '.join(found.classes)}. `head.safetensors` holds the "
        "classifier (weight, bias); logits are unit image vectors times the weight.\n\n"
        f"**Data.** {found.source}. Trained on Training without twins of held-out items; epoch, prompts and mixture were "
        f"chosen on validation.\n\n{numbers}\n\nRecall a class: {recalls}. {said}\n\n"
        f"{LIMITS}"
    )
