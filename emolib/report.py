"""What readers see: Markdown tables, sentences with numbers, one function a figure. Needs no torch."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from IPython.display import Markdown, display
from matplotlib.figure import Figure
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
from emolib.published import FACES, TEXTS, Published
from emolib.records import Facts, Predictions

plt.rcParams |= {
    "figure.dpi": 100, "font.size": 9, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.alpha": 0.25, "legend.frameon": False, "figure.constrained_layout.use": True,
}  # fmt: skip


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
            ax.imshow(over[i], cmap="magma", alpha=0.6)
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
    ax.set(xlabel="FER+: what most of ten annotators chose", ylabel="FER-2013 label")
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
    """Loss (training, with label smoothing and augmentation; validation, without) and validation accuracy a seed."""
    fig, axes = plt.subplots(1, 2, figsize=(8.4, 2.9))
    for (name, seeds), colour in zip(histories.items(), ("#0072B2", "#D55E00", "#009E73"), strict=False):
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
    axes[1].set(xlabel="epoch", ylabel="validation accuracy (%)")
    for ax in axes:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.legend()
    return fig


def reliability(systems: dict[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Accuracy against confidence in 15 equal-mass bins. systems: name -> (probs (N, K), labels (N,))."""
    fig, ax = plt.subplots(figsize=(4.6, 3.4))
    ax.plot([0, 100], [0, 100], "--", color="0.6", lw=1)
    for (name, (probs, labels)), mark in zip(systems.items(), "osD^v", strict=False):
        bins = 100 * metrics.reliability(probs, labels)[:, :2]
        error = metrics.expected_calibration_error(probs, labels)
        ax.plot(bins[:, 0], bins[:, 1], mark + "-", ms=4, label=f"{name}, ECE {percent(error)} %")
    ax.set(xlabel="confidence (%)", ylabel="accuracy (%)", xlim=(0, 101), ylim=(0, 101))
    ax.legend(loc="best")
    return fig


def twins_table(notes: dict) -> None:
    """Exact and near duplicates inside and across splits, from an audit's notes."""
    exact, near = notes["twins"], notes["near_twins"]
    rows = [[f"inside {s}", exact[s]["surplus"], exact[s]["conflicting_groups"], None] for s in SPLITS]
    for early, late in (("train", "validation"), ("train", "test"), ("validation", "test")):
        found = exact[f"{early}-{late}"]
        rows.append([f"{late} items with a twin in {early}", found["rows"], found["conflicting_rows"], near[f"{early}-{late}"]])
    table(["where", "exact twins", "of these with another label", "near twins"], rows)


def pairs_table(texts: dict, faces: dict) -> None:
    """Items of the shared classes in each split, and how many pairs they can form, each item at most once."""
    rows = []
    for i, split in enumerate(SPLITS):
        pairs = {}
        for face, shared in FACE_TO_SHARED.items():
            pairs[shared] = min(faces["counts"][i][FACE_CLASSES.index(face)], texts["counts"][i][TEXT_CLASSES.index(shared)])
        rows.append([split, *(pairs[c] for c in SHARED_CLASSES), sum(pairs.values())])
    table(["pairs at most", *SHARED_CLASSES, "together"], rows)


def terms_table(terms: dict[str, dict[str, list[str]]]) -> None:
    """Words by class, one column a source. terms: {source: {class: [word, ...]}}."""
    classes = next(iter(terms.values()))
    table(["class", *terms], [[c, *(", ".join(words.get(c, [])) for words in terms.values())] for c in classes])


# Which notebook makes which system's record; the order of the results tables.
SYSTEMS = {
    "texts": {"majority": "02", "tfidf-lr": "02", "lstm": "02", "gru": "02"},
    "faces": {"majority": "02", "nearest": "02", "cnn": "02"},
}
TITLES = {
    "majority": "majority class", "tfidf-lr": "TF-IDF + logistic regression", "lstm": "bidirectional LSTM",
    "gru": "bidirectional GRU", "nearest": "nearest Training face", "cnn": "residual CNN",
}  # fmt: skip
GENERATED = ("drawn faces", "built sentences")  # the sources of profile sample


def groups(predictions: Predictions, audit: Facts) -> np.ndarray:
    """(N,) int: the audit's duplicate group of each item, so that the bootstrap draws duplicates together."""
    position = {number: i for i, number in enumerate(audit.arrays["ids"].tolist())}
    return audit.arrays["group"][[position[number] for number in predictions.ids.tolist()]]


def results(profile: Profile) -> str:
    """Every system of the study on its test items beside published figures, as Markdown; gaps name the command."""
    shown = profile.replays or profile.name
    parts = []
    for kind, published in (("texts", TEXTS), ("faces", FACES)):
        ours, gaps = {}, []
        for system, notebook in SYSTEMS[kind].items():
            try:
                ours[TITLES[system]] = records.read(f"{kind}/{system}", profile).test
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
    return (
        f"{name}, mean of its seeds: T = {temperature:.2f}, so it was {habit}. ECE {errors[0]} % before, {errors[1]} % "
        f"after; NLL {loss[0]} before, {loss[1]} after (test)."
    )
