import dataclasses

import numpy as np
import pytest

from emolib import metrics, published, report
from emolib.labels import FACE_CLASSES, SPLITS, TEXT_CLASSES
from emolib.records import Predictions


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
