"""The check against published figures: whose items, which prompts, five captions a picture."""

import numpy as np
import pytest

from emolib.data import official, prompts
from emolib.data.dataset import Dataset, column
from emolib.models import checks
from emolib.results import published, tables
from emolib.results.predictions import Facts


class Placed:
    """An encoder that puts pictures and texts where they say."""

    def encode_images(self, images):
        return np.stack(list(images)).astype(float)

    def encode_texts(self, texts):
        return np.array([[float(cell) for cell in text.split()] for text in texts])


class Always:
    """A head that answers class 3."""

    def posterior(self, vectors):
        return np.tile(np.eye(7)[3], (len(vectors), 1))


def test_recall_asks_for_any_own_caption_and_for_the_own_picture():
    images = column([np.eye(3)[i] for i in range(3)])
    # The second caption of picture 0 and both of picture 2 lie at home, the others with a neighbour.
    captions = np.array([["0 1 0", "1 0 0"], ["0 -1 1", "0 -1 1"], ["0 0 0.9", "0 0.1 0.9"]], object)
    data = Dataset(np.arange(3), np.zeros(3, int), np.full(3, "test"), ("pair",), "made", images, extras={"captions": captions})
    found = checks.recall(Placed(), data, k=1).notes["measured"]
    assert found["Flickr8k, a text to a picture"] == (pytest.approx(1 / 3), 3)
    assert found["Flickr8k, a picture to a text"] == (pytest.approx(3 / 6), 6)
    found = checks.recall(Placed(), data, k=3).notes["measured"]
    assert found["Flickr8k, a text to a picture"] == (pytest.approx(2 / 3), 3)


def test_all_held_out_faces_are_asked_unless_validation_is_of_training(sample_faces, monkeypatch):
    asked = []
    monkeypatch.setattr(checks.heads, "zero_shot", lambda encoder, sentences: asked.append(sentences) or Always())
    encoder = type("Any", (), {"encode_images": lambda self, images: np.zeros((len(images), 2))})()
    wanted = sample_faces.select(sample_faces.held_out).labels
    found = checks.accuracy(encoder, sample_faces, "FER-2013").notes["measured"]["FER-2013"]
    assert found == ((wanted == 3).mean(), len(wanted))
    merged = Dataset(**{**vars(sample_faces), "source": f"{official.MERGED} (some copy)"})
    assert checks.accuracy(encoder, merged, "FER-2013").notes["measured"]["FER-2013"][1] == len(merged.part("test"))
    assert [len(some) for some in asked[0]] == [6] * 7 and asked[0][1][0] == "a photo of a disgusted looking face."
    assert [len(set(some)) for some in prompts.LAION["CIFAR-10"]] == [18] * 10


def test_the_table_says_whether_it_agrees():
    found = [Facts("f", "made", {"measured": {name: [share, n]}}, {})
             for name, share, n in (("FER-2013", 0.4111, 7178), ("CIFAR-10", 0.7, 10000))]  # fmt: skip
    frame = tables.checks(found)
    assert frame["points"].tolist() == ["+0.2", "-19.8"] and frame["published %"].tolist() == ["40.9", "89.8"]
    assert frame.iloc[0, -1] == "agrees" and "distrust" in frame.iloc[1, -1] and set(published.CHECKS) > set(frame["zero-shot"])
