"""Tables, sentences and figures of the fusion notebook. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from emolib import fusion, metrics, records, report
from emolib.faces import DAMAGES
from emolib.fusion import BOTH_CUES, Experts
from emolib.labels import MSED_TO_SHARED, SHARED_CLASSES
from emolib.profiles import Profile
from emolib.records import Facts, Predictions
from emolib.texts import DROPS

NULL, TOKENS_NULL = "product", "product on tokens"
COMMONEST = "always the commonest class"
NAMES = {
    "concat": "perceptron on both", "gate": "gate", "attention": "cross-attention", "joint": "joint embedding",
}  # fmt: skip
# One colour a system in every figure.
COLOURS = {NULL: "black", TOKENS_NULL: "0.55"} | dict(zip(NAMES.values(), report.LINES, strict=True))


def pairs_table(matched: Facts, classes: tuple[str, ...]) -> None:
    """Matched pairs a split and class."""
    rows = [
        [split, *map(str, n), sum(n)] for split, n in zip(("train", "validation", "test"), matched.notes["counts"], strict=True)
    ]
    report.table(["pairs", *classes, "together"], rows)


def all_ways(
    experts: Experts, learned: dict[str, Predictions], on_tokens: Experts | None = None
) -> dict[str, Predictions]:  # fmt: skip
    """Every system on the pairs by its name: each cue alone, the rules, what was learned on both cues.

    on_tokens: the experts that see what cross-attention sees; their product is its null model. Each is the mean posterior of
    its seeds, as experts are, so that none is an average of more runs than another.
    """
    found = {"face alone": experts.face, "text alone": experts.text}
    if on_tokens:
        found |= {"face tokens alone": on_tokens.face, "text tokens alone": on_tokens.text}
    found |= {name: experts.fused(rule) for name, rule in experts.rules.items()}
    if on_tokens:
        found[TOKENS_NULL] = on_tokens.fused(on_tokens.rules[NULL])
    return found | {NAMES[kind]: averaged(p) for kind, p in learned.items()}


def averaged(found: Predictions) -> Predictions:
    """The seeds' mean posterior as one system."""
    return replace(found, probs=found.posterior[None].astype(np.float32))


def null_of(name: str, systems: dict[str, Predictions]) -> str:
    """The null model of a system: the product of experts that see the same features."""
    return TOKENS_NULL if TOKENS_NULL in systems and ("tokens" in name or name == NAMES["attention"]) else NULL


def hits(
    experts: Experts, learned: dict[str, Predictions], pairings: np.ndarray, on_tokens: Experts | None = None
) -> dict[str, np.ndarray]:  # fmt: skip
    """Right or wrong of every fusion on test pairs under re-pairings: {name: (R, N) bool}."""
    labels = experts.face.test.labels
    found = {name: experts.repaired(rule, pairings) == labels for name, rule in experts.rules.items()}
    if on_tokens:
        found[TOKENS_NULL] = on_tokens.repaired(on_tokens.rules[NULL], pairings) == labels
    return found | {NAMES[kind]: p.arrays["repaired"] == labels for kind, p in learned.items()}


def against_null(systems: dict[str, Predictions], right: dict[str, np.ndarray] | None = None) -> dict[str, dict]:
    """Each system's accuracy, its difference to its null model, both with intervals, and the corrected p of McNemar's test.

    right: hits under re-pairings, (R, N) a fusion, for intervals over pairings and items; without them (genuine pairs), and
    for a cue alone, which no pairing changes, over items. The p values are of the first pairing.
    """
    others = [name for name in systems if name not in (NULL, TOKENS_NULL)]
    raw = [metrics.mcnemar(systems[name].test, systems[null_of(name, systems)].test)["p"] for name in others]
    p_values = dict(zip(others, metrics.holm(raw), strict=True))
    hits = {n: (p.test.posterior.argmax(1) == p.test.labels)[None] for n, p in systems.items()} | (right or {})
    found = {}
    for name in systems:
        gap = np.subtract(*np.broadcast_arrays(hits[name], hits[null_of(name, systems)]), dtype=int)
        found[name] = {"accuracy": fusion.over_pairings(hits[name]), "gap": fusion.over_pairings(gap), "p": p_values.get(name)}
    return found


def fusions(systems: dict[str, Predictions], found: dict[str, dict], *, face: str = "face") -> None:
    """One row a system against its null model. found: of `against_null`; face: what to call the picture's side."""
    judged = systems[NULL]
    guess = np.bincount(judged.validation.labels).argmax()
    hits = metrics.confusion(judged.test.labels, np.full(len(judged.test.labels), guess), len(judged.classes))
    rows = [[COMMONEST, report.percent(metrics.accuracy(hits)), *[None] * 3, report.percent(metrics.macro_f1(hits)), None, None]]
    for name, f in found.items():
        score, (mean, low_high) = metrics.score(systems[name].test, count=1), f["accuracy"]
        cells = [f"{report.percent(mean)} ({report.interval(low_high)})", *[None] * 3]
        if f["p"] is not None:
            cells[1:] = ["on tokens" if null_of(name, systems) == TOKENS_NULL else "product", report.signed(f["gap"]), _p(f["p"])]
        shown = name.replace("face", face)
        rows.append([shown, *cells, report.percent(score["macro_f1"]), report.percent(score["ece"]), f"{score['nll']:.3f}"])
    head = ["fusion", "accuracy % (95 % interval)", "null model", "points against it", "p (McNemar, Holm)", "macro-F1 %", "ECE %"]
    report.table([*head, "NLL"], rows)


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _outcome(f: dict) -> str:
    """Better or worse only where the corrected p is below 0.05 and the interval of the difference leaves out zero."""
    gap, (low, high) = f["gap"]
    return "tied with" if f["p"] >= 0.05 or low <= 0 <= high else "better than" if gap > 0 else "worse than"


def verdict(found: dict[str, dict]) -> str:
    """Which fusions beat their null model, which tie, which lose: a sentence."""
    kinds: dict[str, list[str]] = {"better than": [], "tied with": [], "worse than": []}
    for name, f in found.items():
        if f["p"] is not None and not name.endswith("alone"):
            kinds[_outcome(f)].append(name)
    parts = [
        f"{len(names)} {'is' if len(names) == 1 else 'are'} {kind} {'its' if len(names) == 1 else 'their'} null model "
        f"({', '.join(names)})"
        for kind, names in kinds.items() if names
    ]  # fmt: skip
    return f"of {sum(map(len, kinds.values()))} other fusions " + "; ".join(parts) + "."


def answer(settings: dict[str, dict[str, dict]]) -> str:
    """Whether any fusion found more than the null model. settings: {which pairs: of `against_null`}."""
    won = {
        where: [n for n, f in found.items() if f["p"] is not None and not n.endswith("alone") and _outcome(f) == "better than"]
        for where, found in settings.items()
    }
    parts = [f"{', '.join(names)} on {where}" for where, names in won.items() if names]
    if parts:
        return f"More than multiplying the two posteriors gives was found by {'; '.join(parts)}: an interaction of the two cues."
    return f"No fusion beats multiplying the two posteriors, on {', '.join(settings)}: no interaction of the cues was found."


def one_cue(found: dict[str, dict], cue: str = "text") -> str:
    """What the other cue adds: one cue alone against the product of both."""
    f = found[f"{cue} alone"]
    return f"The {cue} alone against the product of both: {report.signed(f['gap'])} points, p {_p(f['p'])}: {_outcome(f)} it."


def emap(learned: dict[str, Predictions]) -> None:
    """What is lost when each fusion keeps only its additive part (EMAP), on the same pairs; a sentence on the intervals."""
    rows, worth = [], []
    for kind in (k for k in BOTH_CUES if k in learned):
        test, chosen = learned[kind].test, learned[kind].arrays["rows"].astype(int)
        whole = (test.posterior.argmax(1) == test.labels)[chosen]
        part = learned[kind].arrays["additive"] == test.labels[chosen]
        change = metrics.change(part, whole)
        worth.append((NAMES[kind], *change))
        rows.append([NAMES[kind], report.percent(whole.mean()), report.percent(part.mean()), report.signed(change), len(chosen)])
    report.table(["fusion", "accuracy %", "additive part, accuracy %", "what the interaction is worth, points", "n"], rows)
    parts = {"helps": [], "harms": [], "is neither shown to help nor to harm": []}
    for name, *_, (low, high) in worth:
        parts["helps" if low > 0 else "harms" if high < 0 else "is neither shown to help nor to harm"].append(name)
    said = "; ".join(f"it {what} in {', '.join(names)}" for what, names in parts.items() if names)
    report.say(f"What is not additive, judged by these intervals: {said}.")


def apart(experts: Experts, *, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Test pairs of which half have two different labels: text partners (N,), whether the labels differ (N,), the
    conflict score (N,), and the null model's posterior (N, K)."""
    face, text, labels = experts.face.test.posterior, experts.text.test.posterior, experts.face.test.labels
    partner = fusion.conflicts(labels, 0.5, seed=seed)
    score = fusion.conflict(face, text[partner], experts.prior)
    return partner, labels != labels[partner], score, fusion.product(face, text[partner], experts.prior)


def detectors(families: dict[str, Experts]) -> tuple[Figure, str]:
    """ROC curves of the conflict score, one a family of experts, and a sentence with AUROC and interval."""
    fig, ax = plt.subplots(figsize=(4.6, 3.8))
    said = []
    for (name, experts), colour in zip(families.items(), report.LINES, strict=False):
        _, differ, score, _ = apart(experts)
        area, (low, high) = metrics.auroc(differ, score)
        false, true, _ = roc_curve(differ, score)
        ax.plot(100 * false, 100 * true, color=colour, label=f"{name}, AUROC {area:.3f}")
        said.append(f"{name} {area:.3f} ({low:.3f}–{high:.3f})")
    ax.plot([0, 100], [0, 100], "--", color="0.6", lw=1)
    ax.set(xlabel="agreeing pairs called a conflict (%)", ylabel="conflicts found (%)")
    ax.legend(fontsize=8)
    return fig, f"AUROC of the conflict score (95 % interval over pairs, n = {len(differ):,}): " + "; ".join(said) + "."


def follows(name: str, experts: Experts, *, bins: int = 5) -> tuple[Figure, str]:
    """Whose answer the null model gives where face and text speak of different emotions, against how sure the face is; a
    sentence on all such pairs."""
    partner, differ, _, fused = apart(experts)
    face, text = experts.face.test.posterior[differ], experts.text.test.posterior[partner[differ]]
    answers = (fused[differ].argmax(1), face.argmax(1), text.argmax(1))
    order = np.array_split(np.argsort(face.max(1) - text.max(1), kind="stable"), bins)
    shares = 100 * np.array([fusion.follow(*(a[rows] for a in answers)) for rows in order])
    middle = [100 * float(np.mean((face.max(1) - text.max(1))[rows])) for rows in order]
    fig, ax = plt.subplots(figsize=(6.2, 2.9))
    for values, whose, colour, mark in zip(shares.T, ("the text", "the face", "neither"), report.LINES, "so^", strict=False):
        ax.plot(middle, values, mark + "-", color=colour, label=whose)
    ax.set(xlabel="confidence of the face minus confidence of the text (points)", ylabel="answer follows (%)", ylim=(-3, 103))
    ax.set_title(f"{name}: product on conflict pairs, fifths of equal size")
    ax.legend(fontsize=8)
    whole = fusion.follow(*answers)
    agreeing = experts.fused(lambda f, t: fusion.product(f, t, experts.prior)).test.posterior[~differ].max(1).mean()
    said = (
        f"{name}: where the two experts disagree on a conflict pair, the answer is the text's in "
        f"{report.percent(whole[0])} %, the face's in {report.percent(whole[1])} %, neither's in {report.percent(whole[2])} % "
        f"(n = {int((answers[1] != answers[2]).sum()):,}). The fused confidence is "
        f"{report.percent(fused[differ].max(1).mean())} % on conflicts and {report.percent(agreeing)} % on agreeing pairs."
    )
    return fig, said


def followers(experts: Experts, learned: dict[str, Predictions]) -> None:
    """Every fusion on those pairs: whose answer it gives where the experts disagree on a conflict, and how sure it is."""
    partner, differ, _, _ = apart(experts)
    face, text = experts.face.test.posterior, experts.text.test.posterior[partner]
    found = {name: fusion.fuse(rule, face, text, experts.prior) for name, rule in experts.rules.items()}
    rows = []
    for name, probs in (found | {NAMES[kind]: p.arrays["apart"] for kind, p in learned.items()}).items():
        shares = fusion.follow(*(p[differ].argmax(1) for p in (probs, face, text)))
        sure = [report.percent(probs[part].max(1).mean()) for part in (differ, ~differ)]
        rows.append([name, *map(report.percent, shares), *sure])
    head = ["fusion", "follows the text %", "the face %", "neither %"]
    report.table([*head, "mean confidence on conflicts %", "on agreeing pairs %"], rows)


def missing(experts: Experts, learned: dict[str, Predictions], on_tokens: Experts) -> tuple[Figure, str]:
    """Accuracy while a cue is missing from more and more items: a null model falls back to the other expert; the others are
    compared with the null model on the same features."""
    fig, axes = plt.subplots(1, 2, figsize=(8.4, 3.1), sharey=True)
    rates, labels, said = np.linspace(0, 1, 11), experts.face.test.labels, []
    nulls = {NULL: experts, TOKENS_NULL: on_tokens}
    both = {name: e.fused(e.rules[NULL]).test.posterior for name, e in nulls.items()}
    both |= {NAMES[k]: p.test.posterior for k, p in learned.items()}
    for ax, cue, array, other in ((axes[0], "face", "no_face", "text"), (axes[1], "text", "no_text", "face")):
        alone = {name: getattr(e, other).test.posterior for name, e in nulls.items()}
        alone |= {NAMES[k]: p.arrays[array] for k, p in learned.items()}
        ends = {}
        for name, probs in both.items():
            right = [p.argmax(1) == labels for p in (probs, alone[name])]
            width = 2 if name in nulls else 1.2
            ax.plot(100 * rates, 100 * fusion.dropped(*right, rates), color=COLOURS[name], label=name, lw=width)
            ends[name] = right[1]
        ax.set(xlabel=f"{cue} missing (% of the pairs)", ylabel="accuracy (%)" if cue == "face" else None)
        gaps = [f"{n} {report.signed(metrics.change(ends[null_of(n, both)], hit))}" for n, hit in ends.items() if n not in nulls]
        said.append(f"Without any {cue}, points against the {other} expert on the same features: {'; '.join(gaps)}.")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    return fig, "\n\n".join(said)


def degraded(experts: Experts, alone: dict[str, Predictions], learned: dict[str, Predictions]) -> Figure:
    """Accuracy while faces or texts get worse: the null model of the two experts `alone`, and what was learned on both cues."""
    levels = DAMAGES | {"dropped words": DROPS}
    units = {
        "blur": "standard deviation (pixels)", "noise": "standard deviation (grey levels)",
        "occlusion": "grey square's side / picture's", "dropped words": "share of the words",
    }  # fmt: skip
    fig, axes = plt.subplots(1, 4, figsize=(10.4, 3.2), sharey=True)
    labels = experts.face.test.labels
    for ax, (how, steps) in zip(axes, levels.items(), strict=True):
        poor = "face" if how in DAMAGES else "text"
        found = {side: getattr(experts, side).test.posterior for side in fusion.ONE_CUE}
        calibrated = experts.calibrations[fusion.ONE_CUE.index(poor)]
        found[poor] = calibrated(alone[poor].arrays[f"degraded.{how}"].astype(float))
        null = fusion.product(found["face"], found["text"], experts.prior)
        curves = {NULL: null.argmax(2)}
        curves |= {NAMES[k]: p.arrays[f"degraded.{how}"] for k, p in learned.items() if f"degraded.{how}" in p.arrays}
        other = "text" if poor == "face" else "face"
        left = 100 * (getattr(experts, other).test.posterior.argmax(1) == labels).mean()
        ax.axhline(left, color="0.5", ls="--", label="the other cue alone")
        for name, answered in curves.items():
            ax.plot(steps, 100 * (answered == labels).mean(1), "o-", ms=3, color=COLOURS[name], label=name)
        ax.set(title=how, xlabel=units[how], xticks=steps)
    axes[0].set(ylabel="accuracy (%)")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    return fig


def abroad(found: Facts, prior: np.ndarray) -> None:
    """How the classifier does on genuine pairs that it was not made for (see `classifier.abroad`): each cue and every rule on
    pairs whose class it knows, calibrated on validation pairs; of ironic pairs, whether the conflict score finds them."""
    classes, labels = found.notes["classes"], found.arrays["labels"].astype(int)
    split = np.array(["validation", "test"])[found.arrays["split"]]
    if not set(classes) & set(MSED_TO_SHARED):
        test, score = split == "test", fusion.conflict(found.arrays["face"], found.arrays["text"], prior)
        area, (low, high) = metrics.auroc(labels[test] == 1, score[test])
        which = f"{classes[1]} from {classes[0]} pairs"
        report.say(f"The conflict score tells {which}: AUROC {area:.3f} ({low:.3f}–{high:.3f}), n = {test.sum():,}.")
        return
    known = [c for c in SHARED_CLASSES if c in MSED_TO_SHARED.values()]
    number = np.array([known.index(MSED_TO_SHARED[c]) if c in MSED_TO_SHARED else -1 for c in classes])
    columns, rows = [SHARED_CLASSES.index(c) for c in known], number[labels] >= 0
    sides = []
    for side in fusion.ONE_CUE:
        probs = found.arrays[side][rows][:, columns].astype(float)
        probs = (probs / probs.sum(1, keepdims=True))[None].astype(np.float32)
        about = (tuple(known), found.fingerprint, found.source)
        sides.append(Predictions(split[rows], found.arrays["ids"][rows], number[labels][rows], probs, *about))
    systems = all_ways(fusion.experts(*sides), {})
    against = against_null(systems)
    fusions(systems, against, face="picture")
    report.say(f"On {(split[rows] == 'test').sum():,} test pairs of {', '.join(known)}: {verdict(against)}")


def best_way(load: Callable[[str], Predictions]) -> str:
    """The record of the image tower's fine-tuning that is best on validation; load: a record by its name."""
    ways = {f"faces/clip-{way}": load(f"faces/clip-{way}").validation for way in report.WAYS}
    return metrics.choose(ways, lambda found: (found.posterior.argmax(1) == found.labels).mean())


def witnesses(load: Callable[[str], Predictions]) -> dict[str, dict[str, Predictions]]:
    """The records of the two experts of each family, {family: {"face": ..., "text": ...}}."""
    names = {
        "frozen features": ("pairs/face", "pairs/text"), "tokens": ("pairs/face-tokens", "pairs/text-tokens"),
        "CNN and GRU": ("faces/cnn", "texts/gru"), "fine-tuned encoder": (best_way(load), "texts/clip-tuned"),
    }  # fmt: skip
    return {family: dict(zip(fusion.ONE_CUE, map(load, two), strict=True)) for family, two in names.items()}


def on_pairs(made: dict[str, dict[str, Predictions]], matched: Facts) -> dict[str, Experts]:
    """Each family's experts, calibrated on the matched pairs."""
    return {
        family: fusion.experts(*(p if p.classes == SHARED_CLASSES else fusion.pairs_of(p, matched, s) for s, p in sides.items()))
        for family, sides in made.items()
    }


def every_system(load: Callable[[str], Predictions | Facts]) -> dict[str, tuple[Predictions, list[Predictions]]]:
    """{name: (its answers on matched pairs, the records of the networks that had to be trained)}."""
    made = witnesses(load)
    rows = {}
    for family, experts in on_pairs(made, load("pairs/matched")).items():
        rows |= {f"{family}: {side} alone": (getattr(experts, side), [made[family][side]]) for side in fusion.ONE_CUE}
        rows[f"{family}: {NULL}"] = (experts.fused(experts.rules[NULL]), list(made[family].values()))
    for kind in BOTH_CUES:
        found = load(f"pairs/{kind}")
        rows[f"{'tokens' if kind == 'attention' else 'frozen features'}: {NAMES[kind]}"] = (averaged(found), [found])
    tuned = load("pairs/clip-tuned")
    return rows | {"both towers fine-tuned on pairs": (tuned, [tuned]), "zero-shot on pairs": (load("pairs/clip-zero-shot"), [])}


def families(systems: dict[str, Predictions], names: list[str], load: Callable[[str], Predictions]) -> None:
    """Each cue alone and both together, a row a family of experts (see `on_pairs`), with the zero-shot encoder and the network
    that was trained on both; posteriors of several seeds are averaged."""
    rows = {name: [systems[f"{name}: {cue}"] for cue in ("face alone", "text alone", NULL)] for name in names}
    rows["encoder without training"] = [load(f"pairs/clip-{what}") for what in ("face-only", "text-only", "zero-shot")]
    rows["one network, both towers fine-tuned on pairs"] = [None, None, systems["both towers fine-tuned on pairs"]]
    cells = []
    for name, found in rows.items():
        scores = [p and metrics.score(p.test) for p in found]
        cells.append([name, *(s and report.spread(s) for s in scores), report.percent(scores[-1]["ece"])])
    n = scores[-1]["n"]
    head = ["experts", "face alone, accuracy %", "text alone, accuracy %", "both, accuracy %", "ECE of both %"]
    report.table([f"{head[0]} (n = {n:,})", *head[1:]], cells)


def seeds(found: Predictions, trained: list[Predictions]) -> str:
    """How many runs stand behind a row, and whether their posteriors were averaged into one answer."""
    counts = sorted({len(p.probs) for p in trained} or {len(found.probs)})
    shown = " and ".join(map(str, counts))
    return f"{shown}, averaged" if counts[-1] > len(found.probs) else shown


def results(profile: Profile) -> str:
    """Every system on matched pairs, best first, as Markdown for the README; a gap names the command."""
    head = "**Matched pairs of the two (five shared emotions; a face and a text of one class, drawn at random)**"
    try:
        encoder = records.read("pairs/clip-zero-shot", profile).notes["encoder"]["name"]
        head += f"\n\nAll rows but those of CNN and GRU are of the encoder {encoder}. Posteriors of several seeds are averaged."
        systems = every_system(lambda name: records.read(name, profile))
    except records.MissingRecord as gap:
        return f"{head}\n\n- not recorded: {gap}"
    scores = {name: metrics.score(found.test) for name, (found, _) in systems.items()}
    order = sorted(scores, key=lambda name: -scores[name]["accuracy"])
    spreads = {n: [report.spread(scores[n], what) for what in ("accuracy", "macro_f1")] for n in order}
    rows = [[n, *spreads[n], scores[n]["n"], seeds(*systems[n])] for n in order]
    return f"{head}\n\n{report.markdown_table(['system', 'accuracy %', 'macro-F1 %', 'n', 'seeds'], rows)}"


def final(systems: dict[str, tuple[Predictions, list[Predictions]]]) -> None:
    """Every system (see `every_system`) on the same test pairs, best first; what was trained for it: parameters and minutes,
    a seed."""
    rows = []
    for name, (found, trained) in systems.items():
        score, runs = metrics.score(found.test), [t.notes["runs"][0] for t in trained]
        sums = [sum(run[key] for run in runs) for key in ("parameters", "seconds")]
        cost = [f"{sums[0]:,}", f"{sums[1] / 60:.1f}"] if runs else [None, None]
        cells = [
            report.spread(score),
            report.spread(score, "macro_f1"),
            report.percent(score["ece"]),
            *cost,
            seeds(found, trained),
        ]
        rows.append((score["accuracy"], [name, *cells]))
    head = ["system", "accuracy % (95 % interval)", "macro-F1 % (95 % interval)", "ECE %", "trained parameters", "minutes"]
    report.table([*head, "seeds"], [cells for _, cells in sorted(rows, key=lambda row: -row[0])])


def card(experts: Experts, score: dict, conflict: str) -> str:
    """The model card of the fused classifier."""
    face, text = (metrics.score(p.test) for p in (experts.face, experts.text))
    names = (("both cues", score), ("face alone", face), ("text alone", text))
    rows = [[n, report.spread(s), report.spread(s, "macro_f1"), report.percent(s["ece"]), s["n"]] for n, s in names]
    numbers = report.markdown_table(["test pairs", "accuracy % (95 % interval)", "macro-F1 %", "ECE %", "n"], rows)
    return (
        "# emotion-fusion\n\nA dual encoder with an image tower fine-tuned on faces and a text tower fine-tuned on sentences; a "
        f"head and a calibration each; fused by the product of experts into {', '.join(experts.face.classes)}. Load it with "
        f"`emolib.EmotionClassifier.from_pretrained`.\n\n**Data.** {experts.face.source}. A face and a text of such a pair were "
        f"drawn by label; nobody wrote the text about the face.\n\n{numbers}\n\n{conflict}\n\n{report.LIMITS}"
    )
