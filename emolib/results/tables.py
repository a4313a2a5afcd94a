"""Numbers as DataFrames: few, general tables, which `report.show` prints. Every score has its n, its seeds and an interval."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd

from emolib.data.labels import FACE_CLASSES, FACE_TO_SHARED, SHARED_CLASSES, SPLITS, TEXT_CLASSES, WAYS
from emolib.results import metrics, published
from emolib.results.predictions import Facts, Predictions, Result
from emolib.results.published import Published
from emolib.results.records import MissingRecord
from emolib.results.report import interval, markdown, p_value, percent, signed, spread

ACCURACY, MACRO_F1 = "accuracy % (95 % interval)", "macro-F1 % (95 % interval)"
GENERATED = ("drawn faces", "built sentences")  # the sources of profile sample
SYSTEMS = {
    "texts": {
        "majority": "majority class", "tfidf-lr": "TF-IDF + logistic regression", "order-free": "order-free network",
        "lstm": "bidirectional LSTM",
        "gru": "bidirectional GRU", "clip-zero-shot": "zero-shot", "clip-linear": "linear probe",
        "clip-tuned": "text encoder fine-tuned",
    },
    "faces": {
        "majority": "majority class", "nearest": "nearest Training face", "cnn": "residual CNN, ten views",
        "clip-zero-shot": "zero-shot", "clip-linear": "linear probe", **{f"clip-{way}": title for way, title in WAYS.items()},
        "clip-wise": "best trade-off (notebook 4.4)",
    },
}  # fmt: skip
SETS = {"faces": "FER-2013 (seven emotions)", "texts": "DAIR-AI Emotion (six emotions)"}
ANCHORS = {"faces": published.FACES + published.ZERO_SHOT + published.TUNED, "texts": published.TEXTS}
HEADLINES = {"faces": ("clip-zero-shot", "clip-linear", "clip-tuned", "cnn"), "texts": ("clip-tuned", "gru")}

READING = (
    "Ours in bold, as mean over seeds ± standard deviation, with 95 % bootstrap intervals over test items. Published figures "
    "stand as their sources print them, nearly always without interval and seeds. Rows on other test items or of another "
    "protocol are not comparable; whether two of our rows differ is said by the paired tests in the notebooks."
)
Load = Callable[[str], Result]


def seeds(found: Predictions) -> int | str:
    """How many runs stand behind a posterior, and whether they were averaged into one answer."""
    runs = found.notes.get("seeds", len(found.notes.get("runs", ())))
    return f"{runs}, averaged" if runs > len(found.probs) else len(found.probs)


def scores(systems: dict[str, Predictions], audit: Facts | None = None) -> pd.DataFrame:
    """One row a system: accuracy and macro-F1 with intervals (duplicates drawn together if there is an audit), ECE, n, seeds."""
    rows = []
    for name, found in systems.items():
        s = metrics.score(found, audit)
        rows.append([name, spread(s), spread(s, "macro_f1"), percent(s["ece"]), s["n"], seeds(found)])
    return pd.DataFrame(rows, columns=["system", ACCURACY, MACRO_F1, "ECE %", "n", "seeds"])


def paired_tests(systems: dict[str, Predictions], pairs: Iterable[tuple[str, str]]) -> pd.DataFrame:
    """One row a pair of systems judged on the same items by the answers of their seeds' mean posterior (exact McNemar).

    points: difference in accuracy with its interval over items. p is corrected for the number of rows (Holm). verdict: a tie
    unless p is below 0.05 and the interval leaves out zero.
    """
    pairs = list(pairs)
    tests = [metrics.mcnemar(systems[first], systems[second]) for first, second in pairs]
    rows = []
    for (first, second), test, p in zip(pairs, tests, metrics.holm([t["p"] for t in tests]), strict=True):
        before, after = (systems[name].predicted == systems[name].labels for name in (second, first))
        points, (low, high) = metrics.change(before, after)
        verdict = "tie" if p >= 0.05 or low <= 0 <= high else "better" if points > 0 else "worse"
        words = signed((points, (low, high)))
        rows.append([f"{first} against {second}", words, test["n10"], test["n01"], p_value(p), verdict])
    head = ["comparison", "points (95 % interval)", "only first right", "only second right", "p (Holm)", "verdict"]
    return pd.DataFrame(rows, columns=head)


def generated(found: Predictions | Facts) -> bool:
    """Whether a result is of the generated world, where no published figure can stand beside it."""
    return any(source in found.source for source in GENERATED)


def beside_published(
    ours: dict[str, Predictions], others: Iterable[Published], audit: Facts | None = None
) -> pd.DataFrame:  # fmt: skip
    """Our systems (bold, with intervals) beside published figures, best accuracy first; generated data stand beside nothing."""
    rows = [(p.accuracy, [p.system, f"{p.accuracy:.2f}", p.macro_f1 and f"{p.macro_f1:.1f}", p.n, p.protocol, p.source])
            for p in others]  # fmt: skip
    for name, found in ours.items():
        if not generated(found):
            s, runs = metrics.score(found, audit), seeds(found)
            cells = [f"**{name}**", f"**{spread(s)}**", f"**{spread(s, 'macro_f1')}**", s["n"]]
            rows.append((100 * s["accuracy"], [*cells, f"{protocol(found)}; seeds: {runs}", "this study"]))
    head = ["system", "accuracy %", "macro-F1 %", "n", "test items, protocol", "source"]
    return pd.DataFrame([cells for _, cells in sorted(rows, key=lambda row: -row[0])], columns=head, dtype=object)


def protocol(found: Predictions) -> str:
    """Which test items these are and on what was chosen."""
    if "cannot be told apart" in found.source:
        return "Public + Private, chosen on a tenth of Training"
    return "PrivateTest, chosen on PublicTest" if found.classes == FACE_CLASSES else "official test, chosen on validation"


def prompts(asked: Predictions, sets: dict[str, list[list[str]]], audit: Facts | None = None) -> pd.DataFrame:
    """One row a set of prompts: sentences per class, accuracy on validation and test; the chosen set in bold."""
    rows = []
    for name, found in metrics.by_prompts(asked).items():
        s, valid = metrics.score(found.test, audit), metrics.hits(found.validation).mean()
        counts = sorted({len(sentences) for sentences in sets[name]})
        shown = "–".join(map(str, dict.fromkeys([counts[0], counts[-1]])))
        cells = [name, shown, percent(valid), spread(s), spread(s, "macro_f1"), f"{s['n']:,}"]
        rows.append([f"**{c}**" for c in cells] if name == asked.notes["prompts"] else cells)
    head = ["prompts", "sentences per class", "validation accuracy %", f"test {ACCURACY}", f"test {MACRO_F1}", "test n"]
    return pd.DataFrame(rows, columns=head, dtype=object)


def costs(systems: dict[str, Predictions]) -> pd.DataFrame:
    """What each training cost, as recorded: parameters, minutes per seed, the epoch that was kept."""
    rows = []
    for name, found in systems.items():
        runs = found.notes["runs"]
        minutes, epochs = np.mean([r["seconds"] for r in runs]) / 60, ", ".join(str(r["best_epoch"]) for r in runs)
        rows.append([name, runs[0]["parameters"], f"{minutes:.1f}", epochs, len(runs)])
    head = ["system", "trained parameters", "minutes per seed", "best epoch", "seeds"]
    return pd.DataFrame(rows, columns=head)


def rates(searched: dict[str, Facts]) -> pd.DataFrame:
    """Validation accuracy at each learning rate and rank that was tried, the chosen one in bold; searched: of `tuning.search`."""
    rows = []
    for name, found in searched.items():
        settings = [(t["rate"], t.get("rank")) for t in found.notes["tried"]]
        named = [f"{rate:.1g}{f' (rank {rank})' if rank else ''}" for rate, rank in settings]
        tried = [f"{words}: {percent(t['validation_accuracy'])}" for words, t in zip(named, found.notes["tried"], strict=True)]
        best = settings.index((found.notes["rate"], found.notes.get("rank")))
        tried[best] = f"**{tried[best]}**"
        rows.append([name, ", ".join(tried), *(found.notes[key] for key in ("n", "rows", "epochs"))])
    return pd.DataFrame(rows, columns=["fine-tuned on", "rate: validation accuracy %", "n", "Training items", "epochs"])


def at_edge(searched: dict[str, Facts]) -> str:
    """Of which searches the chosen rate is the lowest or highest of those tried, in words; searched: of `tuning.search`."""
    tried = {name: [one["rate"] for one in found.notes["tried"]] for name, found in searched.items()}
    edges = [name for name, found in searched.items() if found.notes["rate"] in (min(tried[name]), max(tried[name]))]
    return f" (learning rates at the edge of those tried: {', '.join(edges)})" if edges else ""


def generality(mixtures: dict[str, list[Facts]], chosen: tuple[str, float], whole: Facts | None = None) -> pd.DataFrame:
    """What each method's training changed beside emotion, on the items kept for reporting; mixtures: of `generality.mixtures`.

    chosen: method and alpha of a mixture; whole: of `generality.at_own_size`; each a row of its own. Points with intervals, but
    for the mean at that size; of several seeds their mean, and of generality ± their standard deviation.
    """
    first = metrics.known(next(iter(mixtures.values())))
    rows = [["pretrained, %", *(percent(v[0, 1::2].mean()) for v in first.values()), None]]
    if whole:
        known = metrics.known([whole])
        gaps = [signed(metrics.change(v[0, 1::2], known[name][0, 1::2])) for name, v in first.items()]
        mean = np.mean([(known[name][0] - v[0])[1::2].mean() for name, v in first.items()])
        rows.append([f"pretrained, at {whole.notes['size']} pixels, change", *gaps, f"{100 * mean:+.1f}"])
    ends = {WAYS[method]: (found, len(found[0].notes["alphas"]) - 1) for method, found in mixtures.items()}
    found = mixtures[chosen[0]]
    ends[f"chosen: {WAYS[chosen[0]]} at α = {chosen[1]:g}"] = found, found[0].notes["alphas"].index(chosen[1])
    for name, (found, place) in ends.items():
        cells = [signed(metrics.change(v[0, 1::2], v[place, 1::2])) for v in metrics.known(found).values()]
        each = [metrics.kept_at([one], place)[0] for one in found]
        between = np.std(each, ddof=1) if len(each) > 1 else None
        runs = "first seed" if len(each) == 1 else f"{len(each)} seeds"
        rows.append([f"{name}, change ({runs})", *cells, signed(metrics.kept_at(found, place), between)])
    names = [f"{name} (n = {v[0, 1::2].size:,})" for name, v in first.items()]
    return pd.DataFrame(rows, columns=["encoder; points (95 % interval)", *names, "generality (mean)"], dtype=object)


def checks(found: Iterable[Facts]) -> pd.DataFrame:
    """What OpenAI's CLIP reached here beside what others measured of it; found: of `checks.accuracy` and `checks.recall`."""
    rows = []
    for name, (share, n) in (pair for some in found for pair in some.notes["measured"].items()):
        wanted, gap = published.CHECKS[name], 100 * share - published.CHECKS[name]
        verdict = "agrees" if abs(gap) <= published.AGREES else "**differs: distrust this run**"
        rows.append([name, f"{wanted:.1f}", percent(share), f"{gap:+.1f}", n, verdict])
    return pd.DataFrame(rows, columns=["zero-shot", "published %", "here %", "points", "n", f"within {published.AGREES} points"])


def other_texts(found: Facts) -> pd.DataFrame:
    """Text classifiers on another set's sentences, in the shared classes; found: of `generality.other_texts`."""
    labels = found.arrays["labels"].astype(int)
    largest = np.full(len(labels), np.bincount(labels).argmax())
    rows = []
    for name, answers in {"largest class": largest, **{k: v for k, v in found.arrays.items() if k != "labels"}}.items():
        asked = labels, answers.astype(int), len(SHARED_CLASSES)
        exact, drawn = (metrics.confusion(*asked, weights) for weights in (None, metrics.resamples(np.arange(len(labels)))))
        values = [(f(exact), metrics.percentiles(f(drawn))) for f in (metrics.accuracy, metrics.macro_f1)]
        rows.append([name, *(f"{percent(value)} ({interval(ends)})" for value, ends in values), len(labels), 1])
    return pd.DataFrame(rows, columns=["system", ACCURACY, MACRO_F1, "n", "seeds"])


def duplicates(notes: dict) -> pd.DataFrame:
    """Exact and near duplicates, from an audit's notes: inside a split copies beyond the first, across splits held-out items."""
    exact, near = notes["duplicates"], notes["near_duplicates"]
    inside = "inside {} (copies beyond the first; groups that disagree)"
    rows = [[inside.format(s), exact[s]["surplus"], exact[s]["conflicting_groups"], None] for s in SPLITS]
    for early, late in (("train", "validation"), ("train", "test"), ("validation", "test")):
        found = exact[f"{early}-{late}"]
        rows.append(
            [f"{late} items with a duplicate in {early}", found["rows"], found["conflicting_rows"], near[f"{early}-{late}"]]
        )
    return pd.DataFrame(rows, columns=["where", "exact duplicates", "with another label", "near duplicates"], dtype=object)


def pairs(faces: dict, texts: dict) -> pd.DataFrame:
    """How many pairs the items of the shared classes can form in each split, each item once; from the notes of both audits."""
    rows = []
    for face, shared in FACE_TO_SHARED.items():
        columns = ((faces["counts"], FACE_CLASSES.index(face)), (texts["counts"], TEXT_CLASSES.index(shared)))
        rows.append([shared, *(min(counts[i][k] for counts, k in columns) for i in range(len(SPLITS)))])
    rows.append(["together", *(sum(column) for column in list(zip(*rows, strict=True))[1:])])
    return pd.DataFrame(rows, columns=["pairs at most", *SPLITS])


def titled(kind: str, system: str, found: Predictions) -> str:
    """A system's name in a table; a dual encoder's says which one it is, for none but OpenAI's is CLIP."""
    encoder = found.notes.get("encoder")
    return f"{encoder['name']}, {SYSTEMS[kind][system]}" if encoder else SYSTEMS[kind][system]


def results(load: Load) -> pd.DataFrame:
    """The headline systems of one modality; a missing record is a row that names its command. load: a record by its name."""
    rows = []
    for kind, systems in HEADLINES.items():
        for system in systems:
            try:
                found, audit = load(f"{kind}/{system}"), load(f"{kind}/audit")
                s = metrics.score(found.test, audit)
                cells = [titled(kind, system, found), spread(s), spread(s, "macro_f1"), s["n"], seeds(found)]
            except MissingRecord as gap:
                cells = [SYSTEMS[kind][system], str(gap), None, None, None]
            rows.append([SETS[kind], *cells])
    return pd.DataFrame(rows, columns=["test items", "system", ACCURACY, MACRO_F1, "n", "seeds"], dtype=object)


def results_long(load: Load) -> str:
    """Every system of one modality beside every published figure, as Markdown sections; gaps name their command."""
    parts = [READING]
    for kind, title in SETS.items():
        ours, gaps = {}, []
        for system in SYSTEMS[kind]:
            try:
                found, audit = load(f"{kind}/{system}"), load(f"{kind}/audit")
                ours[titled(kind, system, found)] = found.test
            except MissingRecord as gap:
                gaps.append(f"- {gap}")
        table = beside_published(ours, ANCHORS[kind], audit if ours else None)
        parts += [f"## {title}", markdown(table), *(["\n".join(gaps)] if gaps else [])]
    doubted = pd.DataFrame(published.DISTRUSTED, columns=["claim", "why not", "seen in"])
    return "\n\n".join([*parts, "## Not in these tables", markdown(doubted)])
