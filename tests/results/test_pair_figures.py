"""The fusion page's figures carry the numbers given: their artists are read back."""

import numpy as np
import pandas as pd
from matplotlib.colors import to_hex

from emolib.results import pair_figures
from emolib.results.figures import LINES

CLASSES = ("anger", "joy")


def test_a_dot_and_an_interval_per_system_hollow_where_it_ties():
    rows = [("genuine", "gate", 0.02, 0.01, 0.03, "better"), ("matched", "gate", 0.0, -0.01, 0.01, "tie"),
            ("matched", "mean", -0.03, -0.04, -0.02, "worse")]  # fmt: skip
    judged = pd.DataFrame(rows, columns=["pairs", "system", "points", "points_low", "points_high", "verdict"])
    (ax,) = pair_figures.points(judged, "title").axes
    lines = [line for line in ax.lines if len(line.get_xdata()) == 1]
    assert np.allclose([line.get_xdata()[0] for line in lines], [2, 0, -3])
    assert [to_hex(line.get_markerfacecolor()) == "#ffffff" for line in lines] == [False, True, False]
    assert [line.get_color() for line in lines] == [LINES[0], LINES[1], LINES[1]]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["gate", "mean"]
    assert [1.0, 3.0] in [np.round(line.get_xdata(), 9).tolist() for line in ax.lines]


def test_shares_of_whose_answer_is_given_add_up():
    shares = pd.DataFrame([["product", 0.6, 0.3, 0.1], ["mean", 0.5, 0.48, 0.02]], columns=["fusion", "text", "image", "neither"])
    (ax,) = pair_figures.follow(shares, "title").axes
    widths = np.array([bar.get_width() for bar in ax.patches]).reshape(3, 2)
    assert np.allclose(widths.sum(0), 100) and np.allclose(widths[0], [60, 50])
    assert [t.get_text() for t in ax.texts] == ["60", "50", "30", "48", "10"], "a share too narrow has no number"


def test_curves_of_coverage():
    frame = pd.DataFrame({"kept": [0.5, 1.0], "conflict score": [0.9, 0.7], "confidence": [0.95, 0.7]})
    fig = pair_figures.coverage({"a": frame, "b": frame}, "title")
    assert [ax.get_title() or ax.get_title(loc="left") for ax in fig.axes] == ["a", "b"]
    assert np.allclose(fig.axes[1].lines[1].get_ydata(), [95, 70])


def test_scenes_show_what_is_there():
    probs, none, face = np.array([0.2, 0.8]), np.full(2, np.nan), np.zeros((4, 4))
    shown = [
        {"picture": face, "sentence": "i am glad", "image": probs, "text": probs, "both": probs, "conflict": 0.25},
        {"picture": None, "sentence": "i am glad", "image": none, "text": probs, "both": probs, "conflict": np.nan},
    ]
    fig = pair_figures.scenes(shown, CLASSES)
    titles = [ax.get_title(loc="left") for ax in fig.axes[2::3]]
    assert titles == ["joy 80 %; conflict: 25 %", "joy 80 %"] and fig.axes[3].texts[0].get_text() == "no image"
    assert [bar.get_height() for bar in fig.axes[5].patches] == [0, 0, 20, 80, 20, 80]
    (ax,) = pair_figures.posteriors({"image": probs, "text": probs[::-1], "both": probs}, CLASSES).axes
    assert [bar.get_height() for bar in ax.patches] == [20, 80, 80, 20, 20, 80]
    fig = pair_figures.pairs([face, face], ["one", "two"], ["matched", "genuine"])
    assert [ax.get_xlabel() for ax in fig.axes] == ["“one”", "“two”"] and fig.axes[1].get_title() == "genuine"
