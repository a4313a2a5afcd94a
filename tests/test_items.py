import numpy as np
import pytest

from emolib import items
from emolib.items import Items


def make(labels, splits):
    return Items(np.arange(len(labels)), np.array(labels), np.array(splits), ("a", "b"), "made")


def test_fingerprint_ignores_row_order_and_sees_labels_and_splits():
    data = make([0, 1, 0], ["train", "validation", "test"])
    assert data.select(np.array([2, 0, 1])).fingerprint == data.fingerprint
    assert make([0, 1, 1], ["train", "validation", "test"]).fingerprint != data.fingerprint
    assert make([0, 1, 0], ["train", "test", "test"]).fingerprint != data.fingerprint


def test_part_names_the_choices():
    with pytest.raises(ValueError, match="train, validation, test"):
        make([0], ["train"]).part("dev")


def test_shared_between_counts_by_hand():
    # contents x x y | x z | y y: labels make x conflict across train-validation and y inside test
    data = make([0, 0, 1, 1, 0, 1, 0], ["train"] * 3 + ["validation"] * 2 + ["test"] * 2)
    group = items.twin_groups("xxyxzyy")
    found = items.shared_between(data, group)
    assert found["distinct"] == 3 and found["surplus"] == 4 and found["conflicting_groups"] == 2
    assert found["train"] == {"surplus": 1, "groups": 1, "conflicting_groups": 0}
    assert found["test"] == {"surplus": 1, "groups": 1, "conflicting_groups": 1}
    assert found["train-validation"] == {"rows": 1, "conflicting_rows": 1}
    assert found["train-test"] == {"rows": 2, "conflicting_rows": 1}
    assert found["validation-test"] == {"rows": 0, "conflicting_rows": 0}
    assert items.leaks(data, group).tolist() == [True, True, True, False, False, False, False]


def test_link_joins_groups_through_near_pairs():
    group = np.array([0, 1, 0, 2, 3])
    linked = items.link(group, np.array([[2, 3]]))
    assert linked[0] == linked[2] == linked[3]
    assert len({linked[0], linked[1], linked[4]}) == 3
    assert len(np.unique(items.link(group, np.empty((0, 2), int)))) == 4


def test_pairs_between_counts_rows_of_the_later_split():
    data = make([0, 0, 0, 0], ["test", "train", "train", "test"])
    found = items.pairs_between(data, np.array([[0, 1], [0, 2], [2, 3]]))
    assert found == {"pairs": 3, "train-validation": 0, "train-test": 2, "validation-test": 0}


def test_refuse_names_the_way_out():
    with pytest.raises(items.DataError, match=r'bad row \(and 1 more\).*on_error="skip"'):
        items.refuse(["bad row", "worse row"], "raise")
    items.refuse(["bad row"], "skip")
    with pytest.raises(ValueError, match="choose"):
        items.refuse([], "ignore")
