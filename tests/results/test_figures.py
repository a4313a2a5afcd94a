import numpy as np
import pytest

from emolib.data.labels import FACE_CLASSES, FERPLUS_COLUMNS, FERPLUS_TO_FACE, SPLITS, TEXT_CLASSES
from emolib.results import figures, metrics
from emolib.results.predictions import Facts


def words(ax):
    return [t.get_text() for t in ax.texts]


def test_the_checksum_changes_with_numbers_and_words_and_not_with_the_last_bit():
    def made(height=1.0, title="t", headline="h"):
        fig = figures.class_balance(np.array([[height, 1], [1, 1], [1, 1]]), ("joy", "fear"), title)
        return figures.numbers(figures.headed(fig, headline))

    assert made() == made() == made(1 + 1e-12) and made().startswith("Figure: 6 bars; 24 numbers, checksum ")
    assert len({made(), made(1.001), made(title="u"), made(headline="i")}) == 4


def test_class_balance_bars_are_the_shares():
    counts = np.array([[30, 10, 10, 20, 20, 10], [1, 1, 1, 1, 1, 5], [2, 2, 2, 2, 1, 1]])
    ax = figures.class_balance(counts, TEXT_CLASSES).axes[0]
    heights = np.array([bar.get_height() for bar in ax.patches]).reshape(3, 6)
    assert np.allclose(heights, 100 * counts / counts.sum(1, keepdims=True))
    assert set(SPLITS) < set(words(ax)) and "20.0 %" in words(ax)


def test_confusion_and_agreement_carry_the_shares(make):
    score = metrics.score(make(classes=TEXT_CLASSES), count=0)
    ax = figures.confusion({"GRU": score}, TEXT_CLASSES).axes[0]
    counts = score["confusion"]
    shares = 100 * counts / counts.sum(1, keepdims=True)
    assert words(ax) == [f"{v:.0f}" for v in shares.ravel()] and np.allclose(ax.collections[0].get_array(), shares)
    assert ax.get_yticklabels()[0].get_text() == f"sadness ({round(counts.sum(1)[0])})"
    matrix = np.zeros((7, 10), int)
    for row, face in enumerate(FACE_CLASSES):
        matrix[row, next(i for i, c in enumerate(FERPLUS_COLUMNS) if FERPLUS_TO_FACE.get(c) == face)] = 50
    shown = figures.agreement(matrix).axes[0].collections[0].get_array()
    assert np.array_equal(shown, 100 * np.eye(7, 10)), "the same emotion on the diagonal"


def test_learning_curves_draw_every_seed_and_mark_the_kept_epoch():
    history = [
        {"train_loss": 2.0 - i, "validation_loss": 1.5 - i, "validation_accuracy": a} for i, a in enumerate((0.5, 0.9, 0.7))
    ]
    loss, accuracy = figures.learning_curves({"GRU": [history, history]}).axes
    assert len(loss.lines) == 4 and loss.lines[0].get_ydata().tolist() == [2.0, 1.0, 0.0]
    assert accuracy.lines[1].get_xdata().tolist() == [2] and accuracy.lines[1].get_ydata().tolist() == [90.0]
    legend = loss.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["train", "validation"] and words(accuracy) == ["GRU"]
    assert [line.get_linestyle() for line in legend.get_lines()] == [line.get_linestyle() for line in loss.lines[:2]]


def test_calibration_dots_are_the_errors_before_and_after(make):
    found = make()
    after = metrics.sharpen(found.posterior, 0.5)
    ax = figures.calibration({"GRU": (found.posterior, after, found.labels)}, "t").axes[0]
    wanted = [100 * metrics.expected_calibration_error(p, found.labels) for p in (found.posterior, after)]
    assert [line.get_xdata()[0] for line in ax.lines] == pytest.approx(wanted)
    assert words(ax)[1:] == [f"{value:.1f}" for value in wanted]


def test_pictures_are_shown_under_their_names():
    pictures = np.random.default_rng(0).integers(0, 256, (7, 48, 48))
    axes = figures.strip(pictures, FACE_CLASSES, "t").axes
    assert all(np.array_equal(ax.images[0].get_array(), picture) for ax, picture in zip(axes, pictures, strict=True))
    assert [ax.get_title() for ax in axes] == list(FACE_CLASSES)
    fig = figures.relevance(pictures[0], pictures[1:3, :6, :6] / 255, ("one", "two"))
    assert [ax.get_title() for ax in fig.axes] == ["the picture", "one", "two"]
    assert np.array_equal(fig.axes[2].images[1].get_array(), pictures[2, :6, :6] / 255)


def test_prompts_beside_a_face_carry_the_probabilities():
    fig = figures.face_and_prompts(np.zeros((48, 48)), ("sad", "glad"), np.array([0.2, 0.8]))
    assert [bar.get_width() for bar in fig.axes[1].patches] == pytest.approx([20, 80]) and words(fig.axes[1]) == ["20", "80"]
    assert "“glad”" in fig.texts[0].get_text()


def test_k_shot_shows_every_draw_and_says_from_where_words_are_beaten():
    found = Facts("f", "made", {"shots": [{"k": 1, "C": 1, "test": [0.1, 0.2]}, {"k": 16, "C": 1, "test": [0.4, 0.6]}]})
    ax = figures.k_shot({"faces": (found, 0.3, 0.7)}).axes[0]
    assert np.allclose(ax.lines[0].get_ydata(), [15, 50]) and np.allclose(sorted(ax.lines[1].get_ydata()), [10, 20, 40, 60])
    assert ax.lines[2].get_ydata()[0] == 30 and ax.lines[3].get_ydata()[0] == 70
    assert ax.get_title("left") == "faces: every draw beats words from 16"
    # the mean of the two draws lies above, one of them does not
    assert "not all draws of 16 beat words" in figures.k_shot({"faces": (found, 0.45, 0.7)}).axes[0].get_title("left")


def test_picture_sizes_carry_accuracy_interval_and_speed():
    rows = [{"size": 112, "accuracy": 0.42, "images_per_second": 40.0}, {"size": 224, "accuracy": 0.5, "images_per_second": 10.0}]
    ax = figures.picture_sizes(Facts("f", "made", {"sizes": rows, "n": 400}), used=112).axes[0]
    assert np.allclose(ax.lines[0].get_xydata(), [[112, 42], [224, 50]]) and "4.0× as fast" in words(ax)
    assert np.allclose(ax.lines[1].get_ydata(), [42 - 4.84, 50 - 4.9], atol=0.01), "lower ends of the intervals"
    assert ax.get_title("left") == "112 pixels are used: -8.0 points against 224 pixels"


def test_trade_off_carries_curve_star_and_choice(mixtures):
    ax = figures.trade_off({"full": [mixtures]}, ("full", 0.5), 0.55).axes[0]
    curve, *_, star, ring = ax.lines
    assert np.allclose(curve.get_xydata(), [[0, 30], [-20, 50], [-50, 60]])
    assert np.allclose(star.get_xydata(), [[0, 55]]) and np.allclose(ring.get_xydata(), [[-20, 50]])
    assert words(ax) == ["α = 0: pretrained", "linear probe", "chosen: α = 0.5"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["full fine-tuning"]
    assert "-50.0" in ax.get_title("left") and "100 validation items" in ax.get_ylabel()


def test_the_diagram_names_every_way():
    shown = " ".join(words(figures.dual_encoder().axes[0]))
    assert all(
        word in shown for word in ("zero-shot", "linear probe", "LoRA", "full", "FLYP", "LP-FT", "image encoder", "text encoder")
    )
