"""Every fusion against its null model, as DataFrames and plain values. Needs no torch.

A comparison is a DataFrame, one row a system: "system", "null" (what it is held against), "n", "accuracy" and "points" (the
difference in accuracy), each with "_low" and "_high" of its 95 % interval, and "p" of the difference. All fractions of 1.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.special import ndtr

from emolib.data.labels import MSED_TO_SHARED, SHARED_CLASSES
from emolib.models import fusion
from emolib.models.fusion import BOTH, MODALITIES, Experts
from emolib.results import metrics, tables
from emolib.results.predictions import Facts, Predictions, Result
from emolib.results.records import MissingRecord
from emolib.results.report import interval, p_value, percent, signed
from emolib.results.tables import ACCURACY

NULL = "product"
# The null models, {name: what the kinds of their two experts end in}: on the encoder's vectors, on its tokens, after fine-tuning,
# on the vectors that the fine-tuned encoders give.
NULLS = {NULL: "", "product on tokens": "-tokens", "product of fine-tuned": "-tuned", "product on tuned vectors": "-on-tuned"}
NAMES = {
    "concat": "perceptron on both", "gate": "gate", "joint": "joint embedding", "attention": "cross-attention",
    "tuned": "both encoders fine-tuned", "concat-on-tuned": "perceptron on tuned vectors",
    "gate-on-tuned": "gate on tuned vectors", "joint-on-tuned": "joint embedding of tuned vectors",
}  # fmt: skip
ON_TUNED = tuple(f"{kind}-on-tuned" for kind in fusion.ON_VECTORS)
# The null models of systems that see other features.
OWN_NULL = {NAMES["attention"]: "product on tokens", NAMES["tuned"]: "product of fine-tuned"}
OWN_NULL |= {NAMES[kind]: "product on tuned vectors" for kind in ON_TUNED if kind in NAMES}
TUNED = ("image-tuned", "text-tuned", "tuned")
Records = dict[str, Predictions]  # of one set of pairs, by kind: `fusion.KINDS`, `TUNED`, `ON_TUNED`


def nulls(found: Records) -> dict[str, Experts]:
    """The calibrated experts whose products are the null models, as far as they are recorded."""
    return {n: fusion.experts(found[f"image{k}"], found[f"text{k}"]) for n, k in NULLS.items() if f"image{k}" in found}


def systems(found: Records) -> dict[str, Predictions]:
    """Each modality alone, every rule, every network, by name; all calibrated alike, each the mean posterior of its seeds."""
    known = nulls(found)
    named = {f"{m} alone": getattr(known[NULL], m) for m in MODALITIES}
    named |= {rule: known[NULL].fused(rule) for rule in known[NULL].rules} | {n: e.fused() for n, e in known.items()}
    return named | {name: fusion.calibrated(found[kind]) for kind, name in NAMES.items() if kind in found}


def under_repairings(found: Records, pairings: np.ndarray) -> dict[str, np.ndarray]:
    """Right or wrong of systems on test pairs under re-pairings: {name: (R, N) bool}; of networks as far as recorded."""
    known, labels = nulls(found), found["image"].test.labels
    experts = known[NULL]
    right = alone_under(experts, pairings)
    right |= {rule: experts.repaired(rule, pairings) == labels for rule in experts.rules}
    right |= {name: e.repaired(NULL, pairings) == labels for name, e in known.items()}
    learned = {name: found[kind].arrays for kind, name in NAMES.items() if kind in found}
    return right | {name: arrays["repaired"] == labels for name, arrays in learned.items() if "repaired" in arrays}


def alone_under(experts: Experts, pairings: np.ndarray) -> dict[str, np.ndarray]:
    """Right or wrong of each modality alone under re-pairings, (R, N) bool: the text's hits move with the texts."""
    image, text = (getattr(experts, m).test.predicted == experts.image.test.labels for m in MODALITIES)
    return {"image alone": np.tile(image, (len(pairings), 1)), "text alone": text[pairings]}


def over_pairings(values: np.ndarray, pairings: np.ndarray, labels: np.ndarray, *, count: int = 1000) -> tuple:
    """Mean of (R, N) values, one per re-pairing and pair; its 95 % interval over images *and* texts; p of its being zero.

    Each of `count` resamples draws images and texts anew, each with replacement: a pair counts as often as its image times
    its text was drawn, in all pairings at once. Pass a difference of two systems' hits for a difference. p: two-sided, from
    the resamples' standard deviation. Source: the pigeonhole bootstrap, Owen 2007, arXiv:0712.1111.
    """
    n = len(labels)
    cells = (np.arange(n) * n + pairings).ravel()
    table, met = (np.bincount(cells, w, n * n).reshape(n, n).astype(np.float32) for w in (values.ravel(), None))
    of_images, of_texts = (metrics.resamples(np.arange(n), count=count, seed=seed) for seed in (0, 1))
    sums = np.zeros((2, count))
    for rows in (np.flatnonzero(labels == label) for label in np.unique(labels)):  # only pairs inside a class meet
        for i, counts in enumerate((table, met)):
            sums[i] += ((of_images[:, rows] @ counts[np.ix_(rows, rows)]) * of_texts[:, rows]).sum(1)
    drawn = sums[0] / sums[1]
    mean, spread = float(values.mean()), float(drawn.std())
    return mean, metrics.percentiles(drawn), float(2 * ndtr(-abs(mean) / spread)) if spread else float(mean == 0)


def row(system: str, null: str, n: int, accuracy: tuple, points: tuple, p: float) -> dict:
    """One row of a comparison; accuracy, points: (value, (low, high))."""
    columns = {"system": system, "null": null, "n": n, "p": p}
    for name, (value, (low, high)) in (("accuracy", accuracy), ("points", points)):
        columns |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return columns


def paired(system: str, null: str, ours: Predictions, theirs: Predictions) -> dict:
    """One row: intervals over the items, p of McNemar's exact test."""
    right, base = (p.predicted == p.labels for p in (ours, theirs))
    p = metrics.mcnemar(ours, theirs)["p"]
    return row(system, null, len(base), metrics.change(np.zeros(len(base)), right), metrics.change(base, right), p)


def against_product(
    systems: dict[str, Predictions], right: dict[str, np.ndarray] | None = None, pairings: np.ndarray | None = None
) -> pd.DataFrame:
    """Each system of `systems` against its null model on test pairs; p is not corrected yet, see `judge`.

    right: of `under_repairings`, for pairs that were drawn by label: then numbers are over all pairings. A system that is not
    in it, and every system of genuine pairs: intervals over the pairs as they were recorded, p of McNemar's test.
    """
    rows = []
    for name, found in ((name, found.test) for name, found in systems.items() if name not in NULLS):
        null = OWN_NULL.get(name, NULL)
        if name in (right or {}):
            accuracy = over_pairings(right[name], pairings, found.labels)
            points = over_pairings(right[name].astype(int) - right[null], pairings, found.labels)
            rows.append(row(name, null, len(found.labels), accuracy[:2], points[:2], points[2]))
        else:
            rows.append(paired(name, null, found, systems[null].test))
    return pd.DataFrame(rows)


def judge(frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """All comparisons of a page as one family: column "pairs" says which, p is corrected for their number (Holm 1979), raw_p not.

    verdict: "better" or "worse" where the interval leaves out zero and the corrected p is below 0.05, else "tie".
    """
    found = pd.concat([frame.assign(pairs=name) for name, frame in frames.items()], ignore_index=True)
    found["raw_p"], found["p"] = found["p"], metrics.holm(found["p"].tolist())
    shown = (found["p"] < 0.05) & ((found["points_low"] > 0) | (found["points_high"] < 0))
    found["verdict"] = np.where(shown, np.where(found["points"] > 0, "better", "worse"), "tie")
    return found


def emap(found: Records) -> pd.DataFrame:
    """Each network against its own additive part on the same test pairs: what its interaction is worth."""
    rows = []
    for kind in BOTH:
        chosen = fusion.calibrated(found[kind]).test.rows(found[kind].arrays["rows"])
        part = replace(chosen, probs=np.eye(len(chosen.classes), dtype=np.float32)[found[kind].arrays["additive"]][None])
        rows.append(paired(NAMES[kind], "its additive part", chosen, part))
    return pd.DataFrame(rows)


def missing(found: Records, modality: str) -> pd.DataFrame:
    """Each network on test pairs without their image or text, against the expert that sees the rest on the same features."""
    rows, known, other = [], nulls(found), MODALITIES[1 - MODALITIES.index(modality)]
    for kind in BOTH:
        alone = getattr(known[OWN_NULL.get(NAMES[kind], NULL)], other).test
        ours = replace(alone, probs=found[kind].arrays[f"no_{modality}"][None])
        rows.append(paired(NAMES[kind], f"{other} alone", ours, alone))
    return pd.DataFrame(rows)


def every_test(genuine: Records, masked: Records, matched: Records) -> pd.DataFrame:
    """All comparisons of the study's pairs, judged as one family: what was fused how, EMAP, a modality missing.

    genuine and masked may be empty: then they are left out.
    """
    pairings = fusion.repairings(matched["image"].test.labels, len(matched["gate"].arrays["repaired"]))
    real = {"genuine": genuine, "masked": masked} if genuine else {}
    frames = {name: against_product(systems(found)) for name, found in real.items()}
    frames["matched"] = against_product(systems(matched), under_repairings(matched, pairings), pairings)
    frames |= {f"EMAP, {name}": emap(found) for name, found in (("genuine", genuine), ("matched", matched)) if found}
    return judge(frames | {f"{modality} missing": missing(matched, modality) for modality in MODALITIES})


def by_seed(found: Records, system: str) -> tuple[np.ndarray, tuple[float, float]]:
    """Points (of 1) of a system above its null model on the recorded pairs, each seed by itself: (S,), what averaging seeds
    hides; and the 95 % interval of their mean, over seeds *and* pairs (Owen 2007, as in `over_pairings`)."""
    null = OWN_NULL.get(system, NULL)
    needed = {*MODALITIES, *(f"{m}{NULLS[null]}" for m in MODALITIES)} | {kind for kind, n in NAMES.items() if n == system}
    seeds = range(min(len(found[kind].probs) for kind in needed))
    each = [systems({k: replace(found[k], probs=found[k].probs[[i]]) for k in needed}) for i in seeds]
    gaps = np.stack([metrics.hits(some[system].test) - metrics.hits(some[null].test) for some in each])
    of_seeds, of_pairs = (metrics.resamples(np.arange(n), seed=seed) for seed, n in zip((1, 0), gaps.shape, strict=True))
    return gaps.mean(1), metrics.percentiles(((of_seeds @ gaps) * of_pairs).sum(1) / gaps.size)


def best(judged: pd.DataFrame, every: dict[str, Records]) -> str:
    """The way that does best against its product, in words.

    judged: rows of `judge`, with a column "alone", p corrected for the fusions alone; every: what is recorded, by its "pairs". Of
    those above their product the one with the lowest uncorrected p; where none is above, the one least below.
    """
    above = judged[judged["points"] > 0]
    f = judged.loc[above["raw_p"].idxmin() if len(above) else judged["points"].idxmax()]
    points = signed((f["points"], (f["points_low"], f["points_high"])))
    p = f"p {p_value(f['p'])}, corrected for the fusions alone {p_value(f['alone'])}, uncorrected {p_value(f['raw_p'])}"
    each, ends = by_seed(every[f["pairs"]], f["system"])
    seeds = f"{len(each)} single seeds: {signed((each.mean(), ends))}, from {100 * each.min():+.1f} to {100 * each.max():+.1f}"
    return f"{f['system']} on {f['pairs']} pairs, {percent(f['accuracy'])} %, {points} points, {p}; {seeds}"


def readable(judged: pd.DataFrame) -> pd.DataFrame:
    """Rows of `judge` as a table for readers."""
    rows = []
    for f in judged.itertuples():
        accuracy = f"{percent(f.accuracy)} ({interval((f.accuracy_low, f.accuracy_high))})"
        points = signed((f.points, (f.points_low, f.points_high)))
        rows.append([f.system, f.n, accuracy, f.null, points, p_value(f.p), f.verdict])
    return pd.DataFrame(rows, columns=["system", "n", ACCURACY, "held against", "points against it", "p (Holm)", "verdict"])


def apart(experts: Experts, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Test pairs of which a share has two different labels: the row of each image's text (N,), whether labels differ (N,)."""
    labels = experts.image.test.labels
    partner = fusion.conflicts(labels, share)
    return partner, labels != labels[partner]


def conflict_detection(experts: Experts, thresholds=(0.5, 0.8, 0.95), rates=(0.5, 0.1)) -> tuple[tuple, pd.DataFrame]:
    """AUROC of the conflict score with its interval, where half of the test pairs conflict; and a table, one row a threshold:
    the share of conflicts found and of agreeing pairs flagged (%), for each assumed rate of conflicts."""
    partner, differ = apart(experts, 0.5)
    image, text = experts.image.test.posterior, experts.text.test.posterior[partner]
    scores = {rate: fusion.conflict(image, text, experts.prior, rate=rate) for rate in rates}
    table = {"score above": [f"{threshold:g}" for threshold in thresholds]}
    for rate, score in scores.items():
        for name, part in (("conflicts found", differ), ("agreeing flagged", ~differ)):
            table[f"{name} %, rate {rate:g}"] = [percent((score[part] > threshold).mean()) for threshold in thresholds]
    return metrics.auroc(differ, scores[rates[0]]), pd.DataFrame(table)


def coverage(experts: Experts, share: float | None = None, steps: int = 20) -> pd.DataFrame:
    """Accuracy of the product on the test pairs that are kept when the most doubtful are put aside: columns kept, "conflict
    score", "confidence" (what is put aside by). share: of pairs with a text of another class, whose answer counts as wrong."""
    labels = experts.image.test.labels
    partner, differ = apart(experts, share) if share else (np.arange(len(labels)), np.zeros(len(labels), bool))
    image, text = experts.image.test.posterior, experts.text.test.posterior[partner]
    fused = fusion.product(image, text, experts.prior)
    right = (fused.argmax(1) == labels) & ~differ
    counts = np.linspace(0.5, 1, steps + 1) * len(labels)
    doubts = {"conflict score": fusion.conflict(image, text, experts.prior), "confidence": 1 - fused.max(1)}
    curves = {name: np.cumsum(right[np.argsort(doubt, kind="stable")]) for name, doubt in doubts.items()}
    whole = counts.round().astype(int)
    return pd.DataFrame({"kept": whole / len(labels)} | {name: hits[whole - 1] / whole for name, hits in curves.items()})


def follow_shares(found: Records) -> pd.DataFrame:
    """Whose answer every fusion gives where the experts disagree on a conflict pair, and its mean confidence on both kinds."""
    experts = nulls(found)[NULL]
    partner, differ = apart(experts, 0.5)
    image, text = experts.image.test.posterior, experts.text.test.posterior[partner]
    answers = {name: fusion.fuse(rule, image, text, experts.prior) for name, rule in experts.rules.items()}
    rows = []
    for name, probs in (answers | {NAMES[kind]: found[kind].arrays["apart"] for kind in BOTH}).items():
        shares = fusion.follow(*(p[differ].argmax(1) for p in (probs, image, text)))
        rows.append([name, *shares, probs[differ].max(1).mean(), probs[~differ].max(1).mean()])
    return pd.DataFrame(rows, columns=["fusion", "text", "image", "neither", "sure on conflicts", "sure on agreeing"])


def on_pairs(image: Predictions, text: Predictions, matched: Facts) -> Experts:
    """Two systems, made each on its own set, as experts on matched pairs; matched: of `pairing.list_pairs`."""
    return fusion.experts(fusion.pairs_of(image, matched, "image"), fusion.pairs_of(text, matched, "text"))


def families(experts: dict[str, Experts], count: int) -> pd.DataFrame:
    """Each modality alone and the product of both, a row a family of experts, over `count` re-pairings of test pairs."""
    rows = []
    for name, two in experts.items():
        labels = two.image.test.labels
        pairings = fusion.repairings(labels, count)
        right = alone_under(two, pairings) | {"both": two.repaired(NULL, pairings) == labels}
        scores = [over_pairings(values, pairings, labels) for values in right.values()]
        area, ends = conflict_detection(two)[0]
        shown = [f"{percent(value)} ({interval(low_high)})" for value, low_high, _ in scores]
        rows.append([name, *shown, f"{area:.3f} ({ends[0]:.3f}–{ends[1]:.3f})"])
    head = [f"experts (n = {len(labels):,})", "image alone %", "text alone %", "product %", "AUROC of conflicts"]
    return pd.DataFrame(rows, columns=head)


def known_pairs(found: Facts) -> Experts | None:
    """The exported classifier's experts on the genuine pairs whose class it knows, calibrated on their validation part.

    found: of `classify_pairs`; None where the pairs have no class in common with it.
    """
    classes, split = found.notes["classes"], np.array(["validation", "test"])[found.arrays["split"]]
    known = [c for c in SHARED_CLASSES if c in {MSED_TO_SHARED.get(c) for c in classes}]
    if not known:
        return None
    number = np.array([known.index(MSED_TO_SHARED[c]) if c in MSED_TO_SHARED else -1 for c in classes])
    labels = number[found.arrays["labels"]]
    rows, columns = labels >= 0, [SHARED_CLASSES.index(c) for c in known]
    about = split[rows], found.arrays["ids"][rows].astype(int), labels[rows]
    probs = [found.arrays[m][rows][:, columns].astype(float) for m in MODALITIES]
    return fusion.experts(*(
        Predictions(*about, (p / p.sum(1, keepdims=True))[None], tuple(known), found.fingerprint, found.source) for p in probs
    ))  # fmt: skip


def recorded(load: Callable[[str], Result]) -> tuple[Records, Records, Records]:
    """Genuine, masked and matched pairs of notebook 5; the first two are empty where they were not at hand. load: by name."""
    listed, genuine, masked = load("pairs/matched"), {}, {}
    matched = {kind: load(f"pairs/{kind}") for kind in fusion.KINDS}  # what was fine-tuned on them saw other rows than its null
    for modality, name in (("image", "faces/clip-tuned"), ("text", "texts/clip-tuned")):
        matched[f"{modality}-tuned"] = fusion.pairs_of(load(name), listed, modality)
    with suppress(MissingRecord):
        found = {kind: load(f"genuine/{kind}") for kind in (*fusion.KINDS, *TUNED)}
        masked = {k: found[k] if k.startswith("image") else load(f"genuine-masked/{k}") for k in found}
        genuine = found | {kind: load(f"genuine/{kind}") for kind in ON_TUNED}
    return genuine, masked, matched


def headlines(load: Callable[[str], Result]) -> pd.DataFrame:
    """Rows on pairs for `tables.results`: genuine ones, and the fine-tuned product on matched ones, over all pairings."""
    columns = ["test items", "system", ACCURACY, tables.MACRO_F1, "n", "seeds"]
    rows = []
    with suppress(MissingRecord):  # genuine pairs are left out where they were not at hand
        two = fusion.experts(load("genuine/image"), load("genuine/text"))
        chosen = {"text alone": two.text.test, NULL: two.fused().test}
        chosen[NAMES["tuned"]] = fusion.calibrated(load("genuine/tuned")).test
        rows += [["genuine pairs", *row] for row in tables.scores(chosen).drop(columns="ECE %").to_numpy().tolist()]
    try:
        tuned = load("faces/clip-tuned"), load("texts/clip-tuned")
        experts, count = on_pairs(*tuned, load("pairs/matched")), len(load("pairs/gate").arrays["repaired"])
    except MissingRecord as gap:
        return pd.DataFrame([*rows, ["matched pairs", "fusion", str(gap), None, None, None]], columns=columns, dtype=object)
    labels = experts.image.test.labels
    pairings = fusion.repairings(labels, count)
    value, ends, _ = over_pairings(experts.repaired(NULL, pairings) == labels, pairings, labels)
    shown, runs = f"{percent(value)} ({interval(ends)})", tables.seeds(experts.image)
    rows.append(["matched pairs", "product of fine-tuned", shown, None, len(labels), runs])
    return pd.DataFrame(rows, columns=columns, dtype=object)


def long_tables(load: Callable[[str], Result]) -> dict[str, pd.DataFrame]:
    """Every comparison of the fusion page, and the products that they are held against, for `tables.results_long`: {title:
    table}; nothing where it is not recorded."""
    try:
        genuine, masked, matched = recorded(load)
        judged = every_test(genuine, masked, matched)
        others = [load(name) for name in ("faces/cnn", "texts/gru", "pairs/matched")]
    except MissingRecord:
        return {}
    found = {}
    for name, some in (("genuine", genuine), ("masked", masked)):
        if some:
            products = {null: two.fused().test for null, two in nulls(some).items()}
            found[f"Fusion, products on {name} pairs"] = tables.scores(products)
    of = nulls(matched) | {"product of CNN and GRU": on_pairs(*others)}
    found["Fusion, experts and products on matched pairs"] = families(of, len(matched["gate"].arrays["repaired"]))
    return found | {f"Fusion, {name}": readable(frame) for name, frame in judged.groupby("pairs", sort=False)}
