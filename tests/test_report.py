import dataclasses

import numpy as np
import pytest

from emolib import metrics, published, report
from emolib.labels import FACE_CLASSES, SPLITS, TEXT_CLASSES
from emolib.records import Facts, Predictions


def make(seed=0, n=300, k=6, classes=TEXT_CLASSES, seeds=2):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    logits = rng.normal(0, 1, (seeds, n, k)) + 2 * np.eye(k)[labels]
    probs = np.exp(logits) / np.exp(logits).sum(2, keepdims=True)
    return Predictions(np.array(["test"] * n), np.arange(n), labels, probs.astype(np.float32), classes, "f", "made")


def test_markdown_table_aligns_numbers_and_escapes_bars():
    text = report.markdown_table(["name", "value"], [["a|b", 1.5], ["c", None]])
    assert text.splitlines() == ["| name | value |", "| :-- | --: |", "| a\\|b | 1.5 |", "| c | – |"]


def test_percent_interval_and_spread():
    assert report.percent(0.93125) == "93.1" and report.percent(None) == "–"
    assert report.interval((0.92, 0.94)) == "92.0–94.0"
    found = {"accuracy": 0.931, "accuracy_sd": 0.002, "accuracy_interval": (0.92, 0.942)}
    assert report.spread(found) == "93.1 ± 0.2 (92.0–94.2)"
    assert report.spread(found | {"accuracy_sd": None}) == "93.1 (92.0–94.2)"


def test_confusion_figure_carries_the_shares():
    found = metrics.score(make())
    fig = report.confusion({"GRU": found}, TEXT_CLASSES)
    shown = [int(t.get_text()) for t in fig.axes[0].texts]
    counts = found["confusion"]
    assert shown == [round(v) for v in (100 * counts / counts.sum(1, keepdims=True)).ravel().round(10)]
    rows = [t.get_text() for t in fig.axes[0].get_yticklabels()]
    assert rows[0] == f"sadness ({round(counts.sum(1)[0])})"


def test_agreement_figure_puts_the_same_emotion_on_the_diagonal():
    matrix = np.zeros((7, 10), int)
    for row, face in enumerate(FACE_CLASSES):
        column = next(c for c in report.FERPLUS_COLUMNS if report.FERPLUS_TO_FACE.get(c) == face)
        matrix[row, report.FERPLUS_COLUMNS.index(column)] = 50
    fig = report.agreement(matrix)
    shown = np.array([int(t.get_text()) for t in fig.axes[0].texts]).reshape(7, 10)
    assert np.array_equal(shown, 100 * np.eye(7, 10))


def test_class_balance_bars_are_the_shares():
    counts = np.array([[30, 10, 10, 20, 20, 10], [1, 1, 1, 1, 1, 5], [2, 2, 2, 2, 1, 1]])
    fig = report.class_balance(counts, TEXT_CLASSES)
    heights = np.array([bar.get_height() for bar in fig.axes[0].patches]).reshape(3, 6)
    assert np.allclose(heights, 100 * counts / counts.sum(1, keepdims=True))
    assert [t.get_text() for t in fig.axes[0].get_legend().get_texts()] == list(SPLITS)


def test_learning_curves_draw_every_seed_and_mark_the_best_epoch():
    history = [
        {"train_loss": 2.0 - i, "validation_loss": 1.5 - i, "validation_accuracy": a} for i, a in enumerate((0.5, 0.9, 0.7))
    ]
    fig = report.learning_curves({"GRU": [history, history]})
    loss, accuracy = fig.axes
    assert len(loss.lines) == 4 and loss.lines[0].get_ydata().tolist() == [2.0, 1.0, 0.0]
    assert accuracy.lines[1].get_xdata().tolist() == [2] and accuracy.lines[1].get_ydata().tolist() == [90.0]


def test_one_epoch_is_a_row_a_system():
    made = {n: [[{"train_loss": 1.2, "validation_loss": 1 + i, "validation_accuracy": 0.5 + i / 10}]] for i, n in enumerate("ab")}
    loss, accuracy = report.learning_curves(made).axes
    assert [t.get_text() for t in loss.get_yticklabels()] == ["a", "b"]
    assert [line.get_xdata()[0] for line in accuracy.lines] == pytest.approx([50, 60])
    assert [line.get_ydata()[0] for line in accuracy.lines] == [0, 1]


def test_reliability_points_are_the_bins():
    data = make()
    fig = report.reliability({"GRU": (data.posterior, data.labels)})
    line = fig.axes[0].lines[1]
    bins = 100 * metrics.reliability(data.posterior, data.labels)
    assert np.allclose(line.get_xdata(), bins[:, 0]) and np.allclose(line.get_ydata(), bins[:, 1])


def test_mean_faces_and_saliency_show_their_pictures():
    pictures = np.random.default_rng(0).random((7, 48, 48))
    fig = report.mean_faces(pictures)
    assert all(np.array_equal(ax.images[0].get_array(), picture) for ax, picture in zip(fig.axes, pictures, strict=True))
    fig = report.saliency(pictures, 1 - pictures)
    assert np.array_equal(fig.axes[3].images[1].get_array(), pictures[3])


@pytest.mark.parametrize(("p", "word"), [(0.2, "a tie"), (0.01, "better"), (0.0001, "p < 0.001")])
def test_a_comparison_says_tie_unless_confirmed(p, word):
    a, b = make(0), make(0)
    b.probs[:, :100] = 1 / 6
    assert word in report.compare("A", a, "B", b, p)
    assert "worse" in report.compare("B", b, "A", a, 0.01)


def test_beside_published_sorts_by_accuracy_and_marks_ours():
    found = metrics.score(make()) | {"accuracy": 0.9265}
    text = report.beside_published({"GRU": make()}, {"GRU": found}, published.TEXTS, "here")
    names = [line.split("|")[1].strip() for line in text.splitlines()[2:]]
    assert names[0] == "RoBERTa-base fine-tuned" and "**GRU**" in names and len(names) == len(published.TEXTS) + 1
    assert names.index("**GRU**") < names.index("TF-IDF + logistic regression")


def test_generated_data_do_not_stand_beside_published_figures():
    drawn = dataclasses.replace(make(), source="built sentences")
    text = report.beside_published({"GRU": drawn}, {"GRU": metrics.score(drawn)}, published.TEXTS, "here")
    assert text.startswith("The data of this page are generated") and "GRU" not in text


def test_the_protocol_names_the_test_items():
    faces = make(k=7, classes=FACE_CLASSES)
    assert report.protocol(faces) == "PrivateTest, chosen on PublicTest"
    assert "Public + Private" in report.protocol(dataclasses.replace(faces, source="... cannot be told apart here ..."))


def test_mistaken_names_the_worst_class():
    matrix = np.array([[9, 1, 0], [1, 8, 1], [0, 6, 4]])
    found = {"confusion": matrix, "recalls": metrics.recalls(matrix)}
    text = report.mistaken(found, ("a", "b", "c"), "it")
    assert "*c* (recall 40 %, n = 10)" in text and "*b* (60 %)" in text


def test_results_name_the_command_for_a_gap(tmp_path, monkeypatch):
    from emolib import profiles, records

    monkeypatch.setattr(records, "RECORDS", tmp_path)
    text = report.results(profiles.get("published"))
    replayed = profiles.get("published").replays
    assert f"bidirectional GRU: not recorded: `python -m emolib run --profile {replayed} 02`" in text


def both_splits(seed=0):
    found = make(seed)
    return dataclasses.replace(found, split=np.array(["validation"] * 100 + ["test"] * 200))


def test_prompts_table_shows_each_set_and_marks_the_chosen(shown):
    each = {"single": both_splits(0), "many": both_splits(1)}
    report.prompts_table(each, "many", {"single": [["a"]] * 6, "many": [["a", "b"]] * 5 + [["c"]]}, None)
    single, many = shown()[-1].splitlines()[2:]
    valid = each["single"].validation
    assert single.startswith(f"| single | 1 | {100 * (valid.posterior.argmax(1) == valid.labels).mean():.1f} |")
    assert many.startswith("| **many** | **1-2** |")
    assert f"{100 * metrics.score(each['many'].test)['accuracy']:.1f}" in many


def test_a_dual_encoder_is_named_in_every_title():
    found = dataclasses.replace(make(), notes={"encoder": {"name": "clip-mini"}})
    assert report.titled("clip-full", found) == "clip-mini, full fine-tuning"
    assert report.titled("gru", make()) == "bidirectional GRU"


def test_sizes_figure_and_sentence_carry_the_numbers():
    rows = [{"size": 112, "accuracy": 0.42, "images_per_second": 40.0}, {"size": 224, "accuracy": 0.5, "images_per_second": 10.0}]
    found = Facts("f", "made", {"sizes": rows, "rows": 100, "n": 400})
    line = report.sizes(found).axes[0].lines[0]
    assert line.get_xdata().tolist() == [112, 224] and np.allclose(line.get_ydata(), [42, 50])
    said = report.sizes_said(found, 112)
    assert "-8.0 points" in said and "4.0 times as fast" in said and "n = 400" in said


def test_shots_figure_and_sentence_carry_the_numbers():
    found = Facts("f", "made", {"shots": [{"k": 1, "C": 1, "test": [0.1, 0.2]}, {"k": 16, "C": 1, "test": [0.4, 0.6]}]})
    lines = report.shots({"faces": (found, 0.3, 0.7)}).axes[0].lines
    assert np.allclose(lines[0].get_ydata(), [15, 50]) and np.allclose(sorted(lines[1].get_ydata()), [10, 20, 40, 60])
    assert lines[2].get_ydata()[0] == 30 and lines[3].get_ydata()[0] == 70
    assert report.shots_said("Faces", found, 0.3).endswith("every draw beats the prompts from 16 items a class on.")
    # the mean of the two draws lies above, one of them does not
    assert report.shots_said("Faces", found, 0.45).endswith("none beats the prompts in every draw.")


def paths(n=100):
    ranks = np.zeros((3, 2, n), int)
    ranks[1, :, : n // 5], ranks[2, :, : n // 2] = 50, 50
    emotion = np.zeros((3, n), bool)
    emotion[0, :30], emotion[1, :50], emotion[2, :60] = True, True, True
    return Facts("f", "made", {"alphas": [0.0, 0.5, 1.0]}, {"ranks": ranks, "right.emotion": emotion})


def test_trade_off_figure_and_sentence_carry_the_numbers():
    found = {"full": paths()}
    fig = report.trade_off(found, ("full", 0.5), 0.55)
    line, star, mark = fig.axes[0].lines
    assert (star.get_xdata(), star.get_ydata()) == ([0], [pytest.approx(55)])
    assert np.allclose(line.get_xdata(), [0, -20, -50]) and np.allclose(line.get_ydata(), [30, 50, 60])
    assert np.allclose((mark.get_xdata()[0], mark.get_ydata()[0]), (-20, 50))
    said = report.trade_off_said(found, ("full", 0.5), 0.55)
    assert "full at α = 0.5" in said and "67 % of the largest gain" in said and "-20.0 points" in said
    assert "reaches 55.0 % on the same faces: more." in said
    assert report.trade_off_said(found, ("full", 0.5), 0.4).endswith("less.")


def test_the_probe_is_judged_on_the_mixtures_faces():
    probe = dataclasses.replace(make(n=400, seeds=1), split=np.repeat(["validation", "test"], 200))
    found = Facts("f", "made", {}, {"right.emotion": np.zeros((3, 50), bool)})
    validation = probe.validation
    rows = np.random.default_rng(0).permutation(len(validation.labels))[:50]
    assert report.judged_faces(found, probe) == (validation.posterior.argmax(1) == validation.labels)[rows].mean()


def test_generality_tables_carry_the_changes(shown):
    labels, before, after = np.array([0, 2, 3, 3]), np.array([0, 2, 3, 3]), np.array([0, 2, 3, 0])
    left = Facts("f", "made", {"left_out": ["happy"]}, {"labels": labels, "before": before, "after": after})
    report.generality({"full": paths()})
    rows = shown()[-1].splitlines()
    assert "retrieval (n = 50)" in rows[0] and rows[2].startswith("| as it came, % | 100.0 |")
    assert rows[3].startswith("| full, change | -50.0 (") and rows[3].endswith("| -50.0 |")
    report.harmonic({"full": left})
    rows = shown()[-1].splitlines()
    assert "(n = 4)" in rows[0] and rows[2] == "| as it came | 100.0 | 100.0 | – | 100.0 | 50.0 |"
    assert rows[3].startswith("| full | 100.0 | 50.0 | -50.0 (") and rows[3].endswith("| 66.7 | 25.0 |")
    answers = {"labels": np.array([0, 1, 1, 1]), "zero-shot": np.array([0, 1, 1, 0]), "tuned": np.array([0, 0, 0, 1])}
    report.away(Facts("f", "made", {}, answers))
    rows = shown()[-2].splitlines()
    assert rows[2].startswith("| largest class | 75.0 |") and rows[3].startswith("| zero-shot | 75.0 (")
    assert shown()[-1] == "Right less often than always naming the largest class: tuned. Best macro-F1: zero-shot."


def test_published_figures_are_counted_around_the_interval():
    found, score = make(), {"accuracy_interval": (0.5, 0.6)}
    published = [report.Published("x", value, 1, "", "") for value in (40.0, 55.0, 60.0, 61.0, 99.0)]
    assert report.standing("it", found, score, published) == (
        "- Of 5 published figures 2 lie above the interval of it, 2 in it, 1 below it.\n"
    )
    assert report.standing("it", dataclasses.replace(found, source="drawn faces"), score, published) == ""


def test_a_span_is_lowest_and_highest():
    sure = make(n=40, seeds=1)
    right = dataclasses.replace(sure, probs=np.eye(len(sure.classes), dtype=np.float32)[sure.labels][None])
    assert (
        report.span({"a": right, "b": dataclasses.replace(right, labels=(right.labels + 1) % len(sure.classes))}) == "0.0–100.0"
    )


def test_costs_come_from_the_record(shown):
    runs = [{"parameters": 1234, "seconds": 90.0, "peak_memory": 2.5e9, "best_epoch": 2}]
    report.costs({"LoRA": dataclasses.replace(make(), notes={"runs": runs})})
    assert shown()[-1].splitlines()[2] == "| LoRA | 1,234 | 1.5 | 2.5 | 2 | 1 |"


def test_the_card_holds_numbers_limits_and_the_law():
    found = dataclasses.replace(make(classes=FACE_CLASSES, k=7), notes={"encoder": {"name": "clip-tiny"}})
    score = metrics.score(found)
    text = report.card("emotion-clip", found, score, {"raw": score, "de-duplicated": score}, "It keeps all.")
    assert text.startswith("# emotion-clip") and report.spread(score) in text and "de-duplicated" in text
    for word in ("clip-tiny", "Limits", "Intended use", "2024/1689", "disgust", "It keeps all."):
        assert word in text


@pytest.fixture
def shown(monkeypatch):
    texts = []
    monkeypatch.setattr(report, "display", lambda markdown: texts.append(markdown.data))
    return lambda: texts
