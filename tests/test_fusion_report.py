"""What readers see of fusion: tables and figures carry the numbers given; verdicts follow the tests."""

import dataclasses

import numpy as np
import pytest
from test_fusion import PRIOR, judged, world

from emolib import faces, fusion, report, texts
from emolib import fusion_report as shown
from emolib.records import Facts


@pytest.fixture(scope="module")
def experts():
    labels, face, text, _ = world(1200, spread=0.9)
    split = np.repeat(["validation", "test"], 600)
    made = [dataclasses.replace(judged(labels, p), split=split, ids=np.arange(1200)) for p in (face, text)]
    return fusion.experts(*made)


@pytest.fixture
def printed(monkeypatch):
    found = []
    monkeypatch.setattr(report, "display", lambda shown: found.append(shown.data))
    return found


def network(experts, probs, **arrays):
    """A learned fusion's record with these posteriors (N, K) on all pairs."""
    notes = {"runs": [{"parameters": 1500, "seconds": 90.0}]}
    return dataclasses.replace(experts.face, probs=probs[None].astype(np.float32), notes=notes, arrays=arrays)


def truth(experts, sure=0.9):
    labels = experts.face.labels
    return np.full((len(labels), 5), (1 - sure) / 4) * (1 - np.eye(5)[labels]) + sure * np.eye(5)[labels]


def test_the_null_model_is_beaten_only_by_what_is_better(experts, printed):
    best, worst = network(experts, truth(experts)), network(experts, np.tile(PRIOR, (1200, 1)))
    systems = shown.all_ways(experts, {"concat": best, "gate": worst})
    pairings = fusion.repairings(experts.face.test.labels, 20)
    right = shown.hits(experts, {}, pairings)
    right |= {
        "perceptron on both": np.ones((20, 600), bool),
        "gate": (np.tile(PRIOR.argmax(), (20, 600)) == experts.face.test.labels),
    }
    found = shown.against_null(systems, right)
    said = shown.verdict(found)
    assert "of 6 other fusions" in said and "1 is better than its null model (perceptron on both)" in said
    assert "gate" in said.split("worse than")[1] and found[shown.NULL]["gap"] == (0.0, (0.0, 0.0))
    assert found["perceptron on both"]["accuracy"][0] == 1 and found["perceptron on both"]["p"] < 0.001
    where = {"some pairs": found, "others": {k: f for k, f in found.items() if k != "perceptron on both"}}
    assert "found by perceptron on both on some pairs: an interaction" in shown.answer(where)
    assert "No fusion beats multiplying the two posteriors, on others:" in shown.answer({"others": where["others"]})
    shown.fusions(systems, found)
    rows = {line.split(" | ")[0].strip("| "): line for line in printed[0].splitlines()[2:]}
    assert (
        list(rows) == [shown.COMMONEST, *systems]
        and "100.0 (100.0–100.0)" in rows["perceptron on both"]
        and "< 0.001" in rows["gate"]
    )


def test_a_cue_alone_is_no_fusion_and_items_alone_give_intervals(experts):
    systems = shown.all_ways(experts, {})
    found = shown.against_null(systems)
    accuracy, (low, high) = found["text alone"]["accuracy"]
    assert accuracy == (experts.text.test.posterior.argmax(1) == experts.text.test.labels).mean() and low < accuracy < high
    assert "alone" not in shown.verdict(found)
    assert shown.one_cue(found).startswith("The text alone against the product of both: -") and "worse than it" in shown.one_cue(
        found
    )


def test_emap_table_shows_what_the_interaction_is_worth(experts, printed):
    rows = np.arange(100)
    labels = experts.face.test.labels
    found = network(experts, truth(experts), rows=rows, additive=np.where(rows < 40, labels[rows], -1))
    shown.emap({"concat": found})
    assert "| perceptron on both | 100.0 | 40.0 | +60.0" in printed[0] and printed[0].endswith("| 100 |")
    assert printed[1].endswith("it helps in perceptron on both.")


def test_half_of_the_pairs_conflict_and_scores_tell_them(experts):
    partner, differ, score, fused = shown.apart(experts)
    assert differ.mean() == 0.5 and sorted(partner) == list(range(600)) and fused.shape == (600, 5)
    assert score[differ].mean() > score[~differ].mean() + 0.1
    fig, said = shown.detectors({"ours": experts})
    assert "ours 0." in said and "n = 600" in said
    assert fig.axes[0].get_legend().get_texts()[0].get_text().split()[-1] in said
    fig, said = shown.follows("ours", experts)
    assert said.startswith("ours: ") and fig.axes[0].get_title().startswith("ours: ")
    shares = np.array([line.get_ydata() for line in fig.axes[0].lines])
    assert np.allclose(shares.sum(0), 100) and shares[1, -1] > shares[1, 0], "a surer face is followed more often"


def test_every_fusion_follows_somebody_on_the_same_conflicts(experts, printed):
    partner, *_ = shown.apart(experts)
    text = experts.text.test.posterior[partner]
    shown.followers(experts, {"gate": network(experts, truth(experts), apart=text)})
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ")[1:] for line in printed[0].splitlines()[2:]}
    assert rows["gate"][:3] == ["100.0", "0.0", "0.0"] and len(rows) == 6
    assert all(abs(sum(map(float, row[:3])) - 100) < 0.11 for row in rows.values())
    assert float(rows["product"][3]) < float(rows["product"][4].strip(" |")), "less sure on conflicts"


def test_abroad_keeps_the_classes_that_the_experts_know(experts, printed):
    ours = {"joy": "happiness", "sadness": "sad", "anger": "anger", "fear": "fear"}
    classes = ["happiness", "neutral", "sad", "anger", "fear", "disgust"]
    names = [fusion.SHARED_CLASSES[label] for label in experts.face.labels]
    labels = np.array([classes.index(ours[n]) if n in ours else 1 for n in names])
    arrays = {
        "ids": np.arange(1200), "labels": labels, "split": (experts.face.split == "test").astype(int),
        "face": experts.face.posterior, "text": experts.text.posterior,
    }  # fmt: skip
    shown.abroad(Facts("f", "made", {"classes": classes}, arrays), PRIOR)
    rows = {line.split(" | ")[0].strip("| "): line for line in printed[0].splitlines()[2:]}
    known = (labels != 1) & (experts.face.split == "test")
    probs = experts.text.posterior[known][:, [0, 1, 2, 3]]
    by_hand = 100 * (probs.argmax(1) == np.searchsorted(("anger", "fear", "joy", "sadness"), np.array(names)[known])).mean()
    assert abs(float(rows["text alone"].split(" | ")[1].split()[0]) - by_hand) < 2, "but for calibration"
    assert f"On {known.sum():,} test pairs of anger, fear, joy, sadness: of 4 other fusions" in printed[1]
    ironic = {**arrays, "labels": (np.arange(1200) % 2)}
    shown.abroad(Facts("f", "made", {"classes": ["sincere", "ironic"]}, ironic), PRIOR)
    assert "tells ironic from sincere pairs: AUROC 0.5" in printed[2] or "AUROC 0.4" in printed[2]


def test_missing_curves_end_at_the_other_expert(experts):
    test = experts.face.test
    found = network(experts, truth(experts), no_face=np.tile(PRIOR, (600, 1)), no_text=truth(experts)[600:])
    better = dataclasses.replace(experts, text=network(experts, truth(experts)))
    fig, said = shown.missing(experts, {"gate": found, "attention": found}, better)
    null, tokens, gate, _ = (line.get_ydata() for line in fig.axes[0].lines)
    assert tokens[-1] == 100 > null[-1]
    # each is held against the expert that sees the same: cross-attention against the better one
    gaps = [float(part.split("cross-attention ")[1].split(" ")[0]) for part in said.split("\n\n")]
    own = [float(part.split("gate ")[1].split(" ")[0]) for part in said.split("\n\n")]
    assert gaps[0] == pytest.approx(gate[-1] - 100, abs=0.06) and own[0] == pytest.approx(gate[-1] - null[-1], abs=0.06)
    assert null[-1] == pytest.approx(100 * (experts.text.test.posterior.argmax(1) == test.labels).mean())
    assert gate[0] == 100 and gate[-1] == pytest.approx(100 * (test.labels == PRIOR.argmax()).mean())
    assert "Without any face" in said and "gate" in said


def test_degraded_curves_start_at_the_whole_cue(experts):
    levels = faces.DAMAGES | {"dropped words": texts.DROPS}
    raw = {"face": experts.face, "text": experts.text}
    both = fusion.experts(raw["face"], raw["text"])
    alone = {side: dataclasses.replace(p, arrays={
        f"degraded.{how}": np.stack([p.test.posterior] * len(s)) for how, s in levels.items()
        if (how in faces.DAMAGES) == (side == "face")
    }) for side, p in raw.items()}  # fmt: skip
    found = network(experts, truth(experts), **{f"degraded.{how}": np.zeros((len(s), 600)) for how, s in levels.items()})
    fig = shown.degraded(both, alone, {"gate": found})
    assert [ax.get_title() for ax in fig.axes] == list(levels)
    null = fig.axes[0].lines[1].get_ydata()
    whole = 100 * (both.fused(both.rules["product"]).test.posterior.argmax(1) == both.face.test.labels).mean()
    assert np.allclose(null, whole, atol=0.2)


def test_the_final_table_is_sorted_and_adds_up_what_was_trained(experts, printed):
    good = network(experts, truth(experts))
    shown.final({"nothing": (experts.face, []), "both": (good, [good, good])})
    lines = printed[0].splitlines()
    assert lines[2].startswith("| both | 100.0") and "| 3,000 | 3.0 |" in lines[2] and "| – | – |" in lines[3]


def test_the_card_states_numbers_limits_and_law(experts):
    from emolib import metrics

    text = shown.card(experts, metrics.score(experts.face.test, count=10), "AUROC 0.9")
    assert "emotion-fusion" in text and "both cues" in text and "AUROC 0.9" in text and "2024/1689" in text


def test_cross_attention_is_held_against_experts_that_see_its_tokens(experts):
    better = network(experts, truth(experts))
    on_tokens = fusion.experts(better, better)
    systems = shown.all_ways(experts, {"attention": better, "gate": better}, on_tokens)
    found = shown.against_null(systems)
    assert found["cross-attention"]["gap"] == (0.0, (0.0, 0.0)) and found["gate"]["gap"][0] > 0.05
    assert found[shown.NULL]["p"] is None and found[shown.TOKENS_NULL]["p"] is None
    said = shown.verdict(found)
    assert "of 6 other fusions" in said and "cross-attention" in said.split("tied with")[1].split(";")[0]
    pairings = fusion.repairings(experts.face.test.labels, 3)
    assert shown.hits(experts, {}, pairings, on_tokens)[shown.TOKENS_NULL].mean() == 1


def test_averaged_seeds_are_called_so(experts):
    three = dataclasses.replace(experts.face, probs=np.repeat(experts.face.probs, 3, 0))
    assert shown.seeds(experts.face, [three, experts.text]) == "1 and 3, averaged"
    assert (
        shown.seeds(experts.face, [three, three]) == "3, averaged"
        and shown.seeds(three, [three]) == "3"
        and shown.seeds(experts.face, []) == "1"
    )


def test_families_stand_in_one_row_each(experts, printed):
    best = network(experts, truth(experts))
    systems = {f"a: {key}": found for key, found in shown.all_ways(experts, {}).items()}
    kept = {"pairs/clip-face-only": experts.face, "pairs/clip-text-only": experts.text, "pairs/clip-zero-shot": best}
    shown.families(systems | {"both towers fine-tuned on pairs": best}, ["a"], kept.get)
    lines = printed[-1].splitlines()
    assert "(n = 600)" in lines[0] and len(lines) == 5
    product = (systems[f"a: {shown.NULL}"].test.posterior.argmax(1) == experts.face.test.labels).mean()
    assert lines[2].startswith("| a | ") and f"| {100 * product:.1f} (" in lines[2]
    assert "| 100.0 (100.0–100.0) |" in lines[3] and "| – | – | 100.0" in lines[4]
