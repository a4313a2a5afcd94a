import dataclasses

import numpy as np
import pytest

from emolib.data.labels import FACE_CLASSES, SPLITS, TEXT_CLASSES
from emolib.results import metrics, published, report, tables
from emolib.results.predictions import Facts
from emolib.results.records import MissingRecord


def test_scores_carry_number_interval_n_and_seeds(make):
    found, score = make(), metrics.score(make())
    frame = tables.scores({"GRU": found, "averaged": dataclasses.replace(found, probs=found.probs[:1], notes={"runs": [{}, {}]})})
    wanted = ["GRU", report.spread(score), report.spread(score, "macro_f1"), report.percent(score["ece"]), 300, 2]
    assert frame.iloc[0].tolist() == wanted and frame["seeds"].tolist() == [2, "2, averaged"]
    audit = Facts("f", "made", {}, {"ids": found.ids, "group": found.ids // 10})
    assert tables.scores({"GRU": found}, audit).iloc[0, 1] == report.spread(metrics.score(found, audit)) != wanted[1]


def test_paired_tests_are_corrected_and_name_ties(make):
    good, bad = make(seeds=1, sharp=4), make(seeds=1, sharp=0)
    frame = tables.paired_tests({"good": good, "bad": bad, "same": good}, [("good", "bad"), ("bad", "good"), ("good", "same")])
    test = metrics.mcnemar(good, bad)
    assert frame["verdict"].tolist() == ["better", "worse", "tie"]
    assert frame.iloc[0, 0] == "good against bad" and frame.iloc[0, 2:4].tolist() == [test["n10"], test["n01"]]
    assert frame.iloc[0, 1].startswith(f"{100 * test['difference']:+.1f} (") and frame["p (Holm)"][2] == "1.000"
    close = {"a": make(seeds=1), "b": make(seeds=1, sharp=2.2)}
    p = [float(tables.paired_tests(close, [("a", "b")] * n)["p (Holm)"][0].removeprefix("< ")) for n in (1, 5)]
    assert p[1] > p[0], "five comparisons, a larger p"


def test_published_figures_stand_in_order_of_accuracy_with_ours_in_bold(make):
    gru = make(classes=TEXT_CLASSES, n=2000, sharp=3.2)
    frame = tables.beside_published({"GRU": gru}, published.TEXTS)
    accuracy = frame["accuracy %"].str.strip("*").str.split(" ").str[0].astype(float)
    assert accuracy.is_monotonic_decreasing and len(frame) == len(published.TEXTS) + 1
    ours = frame.set_index("system").loc["**GRU**"]
    assert ours["accuracy %"] == f"**{report.spread(metrics.score(gru))}**" and ours["n"] == 2000
    assert ours["test items, protocol"] == "official test, chosen on validation; seeds: 2"
    drawn = dataclasses.replace(gru, source="built sentences")
    assert "**GRU**" not in tables.beside_published({"GRU": drawn}, published.TEXTS)["system"].tolist()
    faces = make(classes=FACE_CLASSES)
    assert tables.protocol(faces) == "PrivateTest, chosen on PublicTest"
    assert "Public + Private" in tables.protocol(dataclasses.replace(faces, source="... cannot be told apart here ..."))


def test_prompts_shows_each_set_and_marks_the_chosen(make):
    each = {"single": make(0, seeds=1), "many": make(0, seeds=1, sharp=3)}
    asked = make(validation=100, notes={"prompts": "many"}, arrays={f"probs.{k}": p.probs[0] for k, p in each.items()})
    frame = tables.prompts(asked, {"single": [["a"]] * 4, "many": [["a", "b"]] * 3 + [["c"]]})
    valid = metrics.by_prompts(asked)["single"].validation
    assert frame.iloc[0, :3].tolist() == ["single", "1", f"{100 * (valid.predicted == valid.labels).mean():.1f}"]
    assert frame.iloc[1, :2].tolist() == ["**many**", "**1–2**"] and frame.iloc[1, 5] == "**200**"


def test_costs_come_from_the_record(make):
    runs = [{"parameters": 1234, "seconds": s, "best_epoch": e} for s, e in ((60.0, 2), (120.0, 3))]
    frame = tables.costs({"LoRA": make(notes={"runs": runs})})
    assert frame.iloc[0].tolist() == ["LoRA", 1234, "1.5", "2, 3", 2]


def test_the_chosen_rate_is_bold():
    tried = [{"rate": r, "validation_accuracy": a} for r, a in ((1e-4, 0.5), (3e-4, 0.75), (9e-4, 0.6))]
    notes = {"tried": tried, "rate": 3e-4, "n": 60, "rows": 100, "epochs": 2}
    row = tables.rates({"text encoder": Facts("f", "made", notes)}).iloc[0].tolist()
    assert row == ["text encoder", "0.0001: 50.0, **0.0003: 75.0**, 0.0009: 60.0", 60, 100, 2]


def test_rates_at_an_edge_are_named():
    tried = [{"rate": 1e-5}, {"rate": 1e-4}, {"rate": 1e-3}]
    found = {name: Facts("f", "made", {"tried": tried, "rate": rate}, {}) for name, rate in (("image", 1e-5), ("text", 1e-4))}
    assert tables.at_edge(found) == " (learning rates at the edge of those tried: image)"
    assert tables.at_edge({"text": found["text"]}) == ""


def test_generality_and_other_texts_carry_the_changes(mixtures):
    mixtures.arrays["ranks"][..., ::2] = 0  # the items on which a trade-off is chosen do not count here
    frame = tables.generality({"full": [mixtures]}, ("full", 0.5))
    assert frame.columns[1] == "retrieval (n = 50)" and frame.iloc[0, 1] == "100.0"
    assert frame["generality (mean)"].str.startswith("-50.0 (").tolist()[1:] == [True, False]
    assert frame.iloc[1:, 0].tolist() == [
        f"{name}, change (first seed)" for name in ("full fine-tuning", "chosen: full fine-tuning at α = 0.5")
    ]
    ranks = np.where(np.arange(100) % 4 == 1, 99, 0)
    whole = Facts("f", "made", {"size": 224}, {"ranks": np.tile(ranks, (1, 2, 1))})
    row = tables.generality({"full": [mixtures]}, ("full", 0.5), whole).iloc[1].tolist()
    assert row[0] == "pretrained, at 224 pixels, change" and row[1].startswith("-50.0 (")
    better = dataclasses.replace(mixtures, arrays=mixtures.arrays | {"ranks": np.zeros((3, 2, 100), int)})
    row, chosen = tables.generality({"full": [mixtures, better]}, ("full", 0.5)).iloc[1:].to_numpy().tolist()
    assert row[0].endswith("(2 seeds)") and row[-1].startswith("-25.0 ± 35.4 (") and row[1].startswith("-25.0 (")
    assert chosen[0].endswith("(2 seeds)") and chosen[1].startswith("-10.0 ("), "the mean of -20 and 0"
    answers = {"labels": np.array([0, 1, 1, 1]), "zero-shot": np.array([0, 1, 1, 0]), "tuned": np.array([0, 0, 0, 1])}
    frame = tables.other_texts(Facts("f", "made", {}, answers))
    assert frame["system"].tolist() == ["largest class", "zero-shot", "tuned"]
    assert [cell.split(" ")[0] for cell in frame[tables.ACCURACY]] == ["75.0", "75.0", "50.0"] and frame["n"].tolist() == [4] * 3
    assert frame[tables.MACRO_F1][1].startswith("73.3 ("), "the mean of 2/3 and 4/5"


def test_duplicates_and_pairs_show_an_audits_notes():
    inside = {s: {"surplus": i, "conflicting_groups": 10 + i} for i, s in enumerate(SPLITS)}
    across = {f"{a}-{b}": {"rows": 20, "conflicting_rows": 21} for a, b in (SPLITS[:2], SPLITS[::2], SPLITS[1:])}
    near = {"train-validation": 30, "train-test": 31, "validation-test": 32}
    frame = tables.duplicates({"duplicates": inside | across, "near_duplicates": near})
    assert frame["exact duplicates"].tolist() == [0, 1, 2, 20, 20, 20] and frame["near duplicates"].tolist()[3:] == [30, 31, 32]
    assert report.cell(frame["near duplicates"][0]) == "–"
    faces, texts = {"counts": [[1, 2, 3, 4, 5, 6, 7]] * 3}, {"counts": [[9, 9, 9, 9, 2, 9]] * 3}
    assert tables.pairs(faces, texts)["test"].tolist() == [1, 2, 4, 5, 6, 18]


@pytest.fixture
def load(make):
    """Records of every system but the GRU."""
    known = {f"{kind}/{name}": make(i, classes=TEXT_CLASSES if kind == "texts" else FACE_CLASSES, validation=100, sharp=1 + i / 8)
             for kind, names in tables.SYSTEMS.items() for i, name in enumerate(names) if name != "gru"}  # fmt: skip
    known = {n: dataclasses.replace(p, notes={"encoder": {"name": "clip-x"}} if "clip" in n else {}) for n, p in known.items()}
    known |= {
        f"{kind}/audit": Facts("f", "made", {}, {"ids": np.arange(300), "group": np.arange(300)}) for kind in tables.SYSTEMS
    }

    def read(name):
        if name not in known:
            raise MissingRecord(f"{name} (profile x) is made by 02; run: python -m emolib run --profile x 02")
        return known[name]

    return read


def test_results_are_few_and_name_the_command_of_a_gap(load):
    frame = tables.results(load)
    assert len(frame) == 6 and frame["system"].tolist().count("clip-x, zero-shot") == 1
    assert f"clip-x, {tables.SYSTEMS['faces']['clip-tuned']}" in frame["system"].tolist()
    (gap,) = frame[frame["n"].isna()].itertuples()
    assert gap.system == "bidirectional GRU" and "python -m emolib run --profile x 02" in gap[3]


def test_the_long_results_hold_every_system_every_published_figure_and_the_distrusted(load):
    text = tables.results_long(load)
    for known in (*published.TEXTS, *published.FACES, *published.ZERO_SHOT, *published.TUNED):
        assert f"| {known.system} | {known.accuracy:.2f} |" in text
    assert "**clip-x, LoRA**" in text and "- texts/gru (profile x) is made by 02" in text
    assert all(claim in text for claim, *_ in published.DISTRUSTED)
