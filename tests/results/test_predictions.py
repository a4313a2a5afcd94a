import dataclasses

import numpy as np
import pytest

from emolib.data.dataset import Dataset
from emolib.results.predictions import facts, predictions


def test_nonsense_is_refused(make):
    made = make(n=6, validation=3)
    for change, message in (
        ({"probs": made.probs * 1.1}, r"misses a sum of 1 by 0\.1"),
        ({"probs": made.probs[0]}, r"shape \(6, 4\), wanted \(seeds, 6, 4\)"),
        ({"probs": made.probs[:, :, :3]}, "wanted"),
        ({"probs": np.full_like(made.probs, np.nan)}, "48 of 48 probabilities are not finite"),
        ({"split": np.array(["train"] * 6)}, "Training items"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(made, **change)


def test_parts_and_means_over_seeds(make):
    made = make(n=6, validation=3, notes={"a": 1})
    assert made.validation.ids.tolist() == [0, 1, 2] and made.test.ids.tolist() == [3, 4, 5]
    assert np.array_equal(made.test.probs, made.probs[:, 3:]) and np.array_equal(made.test.labels, made.labels[3:])
    assert np.allclose(made.posterior, made.probs.mean(0)) and made.posterior.dtype == np.float64
    assert np.array_equal(made.predicted, made.posterior.argmax(1))


def test_a_data_sets_predictions_stand_in_the_order_of_its_held_out_rows():
    split = np.array(["test", "train", "validation", "test", "validation"])
    data = Dataset(np.arange(5) + 10, np.array([0, 1, 0, 1, 1]), split, ("a", "b"), "made", texts=np.array(list("vwxyz"), object))
    found = predictions(data, np.full((1, 4, 2), 0.5), {"n": 1})
    assert found.ids.tolist() == [12, 14, 10, 13] and found.labels.tolist() == [0, 1, 0, 1]
    assert found.split.tolist() == ["validation", "validation", "test", "test"]
    assert (found.fingerprint, found.source, found.classes, found.notes) == (data.fingerprint, "made", ("a", "b"), {"n": 1})
    about = facts(data, {"n": 2})
    assert (about.fingerprint, about.notes, about.arrays) == (data.fingerprint, {"n": 2}, {})
