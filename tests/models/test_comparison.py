"""Every fusion against its null model: verdicts follow interval and corrected p, and nothing is asked of the wrong pairs."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_fusion import PRIOR, judged, world

from emolib.data.labels import MSED_CLASSES, MSED_TO_SHARED, SHARED_CLASSES
from emolib.models import comparison, fusion
from emolib.models.comparison import NAMES
from emolib.results.predictions import Facts
from emolib.results.tables import ACCURACY

N, SPLIT = 600, np.repeat(["validation", "test"], 600)


def truth(labels, sure=0.9):
    """(N, 5) posteriors that are always right."""
    return (1 - sure) / 4 + (sure - (1 - sure) / 4) * np.eye(5)[labels]


def system(labels, probs, **arrays):
    return replace(judged(labels, probs, ids=np.arange(2 * N)), split=SPLIT, arrays=arrays)


def records(*, answers=None):
    """What `steps.learn` and `steps.tune` would return: experts of a simulated world, networks that answer `answers`."""
    labels, image, text, both = world(2 * N, spread=0.9)
    test = labels[N:]
    answers = both if answers is None else answers
    known = {"image": system(labels, image), "text": system(labels, text)}
    for kind in ("tokens", "tuned", "on-tuned"):
        known |= {f"image-{kind}": system(labels, image), f"text-{kind}": system(labels, text)}
    partner, pairings = fusion.conflicts(test, 0.5), fusion.repairings(test, 20)
    arrays = {
        "rows": np.arange(100), "additive": np.where(np.arange(100) < 40, test[:100], (test[:100] + 1) % 5),
        "repaired": np.tile(answers[N:].argmax(1), (len(pairings), 1)), "apart": text[N:][partner],
        "no_image": text[N:], "no_text": np.tile(PRIOR, (N, 1)),
    }  # fmt: skip
    known |= {kind: system(labels, answers) for kind in ("tuned", *comparison.ON_TUNED) if kind not in known}
    return known | {kind: system(labels, answers, **arrays) for kind in fusion.BOTH}


@pytest.fixture(scope="module")
def found():
    return records()


def row(frame, name):
    return frame[frame["system"] == name].iloc[0]


def test_each_system_is_held_against_the_experts_that_see_what_it_sees(found):
    better = {f"{m}-tokens": system(found[m].labels, truth(found[m].labels)) for m in fusion.MODALITIES}
    better |= {f"{m}-on-tuned": better[f"{m}-tokens"] for m in fusion.MODALITIES}
    frame = comparison.against_product(comparison.systems(found | better))
    nulls = dict(zip(frame["system"], frame["null"], strict=True))
    assert (
        nulls.pop("cross-attention") == "product on tokens" and nulls.pop("both encoders fine-tuned") == "product of fine-tuned"
    )
    on_tuned = {nulls.pop(f"{name} tuned vectors") for name in ("perceptron on", "gate on", "joint embedding of")}
    assert on_tuned == {"product on tuned vectors"} and row(frame, "gate on tuned vectors").points < -0.05
    assert set(nulls.values()) == {"product"} and not set(nulls) & set(comparison.NULLS) and len(nulls) == 9
    assert row(frame, "cross-attention").points < -0.05 < row(frame, "perceptron on both").points
    bare = comparison.systems({kind: p for kind, p in found.items() if not kind.endswith("tuned")})
    assert not any("fine-tuned" in name for name in bare) and len(bare) == 12, "fine-tuning need not be recorded"


def test_better_and_worse_need_interval_and_corrected_p():
    columns = ["system", "points", "points_low", "points_high", "p"]
    rows = [
        ("a", 0.1, 0.05, 0.15, 1e-6),
        ("b", -0.1, -0.15, -0.05, 1e-6),
        ("c", 0.1, -0.01, 0.2, 1e-6),
        ("d", 0.1, 0.05, 0.15, 0.03),
    ]
    frame = pd.DataFrame(rows, columns=columns)
    judgement = comparison.judge({"one": frame, "other": frame[3:]})
    assert judgement["verdict"].tolist() == ["better", "worse", "tie", "tie", "tie"]
    assert judgement["pairs"].tolist() == ["one"] * 4 + ["other"] and judgement["p"].iloc[3] == pytest.approx(0.06)


def test_the_product_is_beaten_only_by_what_is_better(found):
    labels = found["image"].labels
    best, worst = records(answers=truth(labels)), records(answers=np.tile(PRIOR, (2 * N, 1)))
    judgement = comparison.every_test(best, worst, best)
    for pairs, verdict in (("genuine", "better"), ("masked", "worse"), ("matched", "better")):
        verdicts = judgement[judgement["pairs"] == pairs].set_index("system")["verdict"]
        assert (verdicts[list(NAMES.values())] == verdict).all() and verdicts["image alone"] == "worse", pairs
    without = comparison.every_test({}, {}, found)
    assert set(without["pairs"]) == {"matched", "EMAP, matched", "image missing", "text missing"}
    assert (without["verdict"][without["system"].isin([*NAMES.values()]) & (without["pairs"] == "matched")] == "tie").all()


def test_an_interval_over_pairings_covers_images_and_texts():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 200)
    pairings = fusion.repairings(labels, 50)
    of_image, of_text = rng.random((2, 400)) < 0.7
    for values in (np.tile(of_image, (50, 1)), of_text[pairings]):  # depends on one side: the interval of its 400 items
        mean, (low, high), p = comparison.over_pairings(values, pairings, labels)
        assert mean == pytest.approx(values.mean()) and p < 1e-9
        assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(mean * (1 - mean) / 400), rel=0.15)
    both = (np.tile(of_image, (50, 1)).astype(float) + of_image[pairings]) / 2  # alike on both sides, but drawn apart
    low, high = comparison.over_pairings(both, pairings, labels)[1]
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(of_image.var() / 2 / 400), rel=0.15)
    assert comparison.over_pairings(both * 0, pairings, labels) == (0.0, (0.0, 0.0), 1.0)


def test_emap_and_missing_modalities_are_measured_on_the_same_pairs(found):
    worth = row(comparison.emap(found), "gate")
    hits = (fusion.calibrated(found["gate"]).test.predicted == found["gate"].test.labels)[:100].mean()
    assert worth.n == 100 and worth.accuracy == pytest.approx(hits) and worth.points == pytest.approx(hits - 0.4)
    raw, alone = found["text"].test, comparison.nulls(found)["product"].text.test
    change = ((raw.predicted == raw.labels).mean(), (alone.predicted == raw.labels).mean())
    assert row(comparison.missing(found, "image"), "gate").points == pytest.approx(change[0] - change[1])
    assert row(comparison.missing(found, "text"), "gate").null == "image alone"


def test_conflicts_are_detected_and_put_aside(found):
    experts = comparison.nulls(found)["product"]
    (area, (low, high)), table = comparison.conflict_detection(experts)
    assert 0.6 < low < area < high < 1 and table["score above"].tolist() == ["0.5", "0.8", "0.95"]
    found_half, flagged_half, found_tenth, flagged_tenth = (table[c].astype(float) for c in table.columns[1:])
    assert (found_half > flagged_half).all() and (found_half >= found_tenth).all() and (flagged_half >= flagged_tenth).all()
    curve = comparison.coverage(experts, 0.1)
    assert curve["kept"].iloc[-1] == 1 and (curve.iloc[0, 1:] > curve.iloc[-1, 1:] + 0.05).all()
    partner, differ = comparison.apart(experts, 0.1)
    fused = fusion.product(experts.image.test.posterior, experts.text.test.posterior[partner], experts.prior).argmax(1)
    assert curve["confidence"].iloc[-1] == pytest.approx(((fused == experts.image.test.labels) & ~differ).mean())


def test_every_fusion_follows_somebody_on_the_same_conflicts(found):
    shares = comparison.follow_shares(found).set_index("fusion")
    assert np.allclose(shares[["text", "image", "neither"]].sum(axis=1), 1) and shares.loc["gate", "text"] > 0.9
    assert shares.loc["product", "sure on conflicts"] < shares.loc["product", "sure on agreeing"]


def test_the_exported_classifier_is_judged_on_the_classes_that_it_knows(found):
    ours = {shared: msed for msed, shared in MSED_TO_SHARED.items()}
    names = [SHARED_CLASSES[k] for k in found["image"].labels]
    labels = np.array([MSED_CLASSES.index(ours.get(n, "neutral")) for n in names])
    arrays = {"ids": np.arange(2 * N), "labels": labels, "split": (SPLIT == "test").astype(int)}
    arrays |= {m: found[m].posterior for m in fusion.MODALITIES}
    known = comparison.known_pairs(Facts("f", "made", {"classes": list(MSED_CLASSES)}, arrays))
    assert known.image.classes == ("anger", "fear", "joy", "sadness") and len(known.image.ids) == (labels != 1).sum()
    assert [known.image.classes[k] for k in known.image.labels] == [n for n in names if n != "surprise"]
    ironic = Facts("f", "made", {"classes": ["sincere", "ironic"]}, arrays | {"labels": labels % 2})
    assert comparison.known_pairs(ironic) is None


def test_families_and_readme_rows_carry_means_over_pairings(found, monkeypatch):
    experts = comparison.nulls(found)["product"]
    line = comparison.families({"ours": experts}, 20).iloc[0]
    pairings = fusion.repairings(experts.image.test.labels, 20)
    mean = 100 * (experts.repaired("product", pairings) == experts.image.test.labels).mean()
    assert line["product %"].startswith(f"{mean:.1f} (") and line.iloc[0] == "ours"
    at_hand = {f"genuine/{kind}": p for kind, p in found.items()} | {"pairs/gate": found["gate"], "pairs/matched": None}
    monkeypatch.setattr(comparison, "on_pairs", lambda *records: experts)
    rows = comparison.headlines((at_hand | {"faces/clip-tuned": None, "texts/clip-tuned": None}).__getitem__)
    genuine, matched = rows[rows["test items"] == "genuine pairs"], rows[rows["test items"] == "matched pairs"]
    assert {"product", "both encoders fine-tuned"} <= set(genuine["system"]) and (rows["n"] == N).all()
    pairings = fusion.repairings(experts.image.test.labels, len(found["gate"].arrays["repaired"]))
    mean = 100 * (experts.repaired("product", pairings) == experts.image.test.labels).mean()
    assert len(matched) == 1 and matched.iloc[0][ACCURACY].startswith(f"{mean:.1f} (")
    monkeypatch.setattr(comparison, "recorded", lambda load: (found, found, found))
    monkeypatch.setattr(comparison, "on_pairs", lambda *others: experts)
    tables = comparison.long_tables(lambda name: None)
    assert {"Fusion, matched", "Fusion, products on masked pairs"} <= tables.keys()
    assert tables["Fusion, experts and products on matched pairs"].iloc[0, 3].startswith(f"{mean:.1f} (")


def test_what_does_best_is_said_with_what_single_seeds_say(found):
    rows = {"system": ["mean", "gate"], "pairs": "genuine", "points": [-0.01, 0.018], "points_low": [-0.02, 0.006]}
    frame = pd.DataFrame(rows | {"points_high": [0.0, 0.029], "p": [0.5, 0.069], "raw_p": [0.4, 0.002], "accuracy": [0.8, 0.842]})
    frame["alone"] = [0.45, 0.04]
    labels = found["gate"].labels
    twice = {kind: replace(p, probs=np.repeat(p.probs, 2, axis=0)) for kind, p in found.items()}
    twice["gate"] = replace(found["gate"], probs=np.stack([found["gate"].probs[0], truth(labels)]))
    (one, right), (low, high) = comparison.by_seed(twice, "gate")
    gate = row(comparison.against_product(comparison.systems(found)), "gate")
    assert one == pytest.approx(gate["points"])
    assert right == pytest.approx(1 - (comparison.systems(found)["product"].test.predicted == labels[N:]).mean())
    assert low < one < right < high, "with two seeds a quarter of the resamples has but the first"
    (alone,), ends = comparison.by_seed(found, "gate")
    assert [alone, *ends] == pytest.approx(gate[["points", "points_low", "points_high"]].tolist()), "one seed: pairs alone vary"
    every = {"genuine": twice}
    said = "gate on genuine pairs, 84.2 %, +1.8 (+0.6 to +2.9) points, p 0.069, corrected for the fusions alone 0.040, "
    said += f"uncorrected 0.002; 2 single seeds: {50 * (one + right):+.1f} ({100 * low:+.1f} to {100 * high:+.1f}), "
    said += f"from {100 * one:+.1f} to {100 * right:+.1f}"
    assert comparison.best(frame, every) == said
    frame_of_two = pd.concat([frame, frame.assign(points=0.03, raw_p=0.01)], ignore_index=True)
    assert comparison.best(frame_of_two, every) == said, "not the surest"
    assert comparison.best(frame[:1], every).startswith("mean on genuine pairs, 80.0 %, -1.0 ")
