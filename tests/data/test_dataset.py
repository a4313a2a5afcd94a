from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emolib.data.dataset import DataError, Dataset, column, refuse


def make(labels=(0, 1, 0), splits=("train", "validation", "test"), **columns):
    n = len(labels)
    return Dataset(np.arange(n), np.array(labels), np.array(splits), ("a", "b"), "made", **columns)


def test_fingerprint_ignores_row_order_and_sees_everything_else():
    data = make(texts=column(["x", "y", "z"]), images=np.arange(12, dtype=np.uint8).reshape(3, 2, 2))
    assert data.select(np.array([2, 0, 1])).fingerprint == data.fingerprint
    changed = data.images.copy()
    changed[1, 0, 0] += 1
    others = [
        replace(data, labels=np.array([0, 1, 1])), replace(data, split=np.array(["train", "test", "test"])),
        replace(data, classes=("a", "c")), replace(data, texts=column(["x", "y", "zz"])), replace(data, images=changed),
        replace(data, ids=np.array([0, 1, 7])), replace(data, images=None), replace(data, texts=None),
    ]  # fmt: skip
    assert len({other.fingerprint for other in [data, *others]}) == 9


def test_select_and_part_take_every_column_along():
    data = make(texts=column(["x", "y", "z"]), images=np.zeros((3, 2, 2)), extras={"votes": np.array([5, 6, 7])})
    part = data.part("validation")
    assert (part.texts.tolist(), part.extras["votes"].tolist(), part.images.shape) == (["y"], [6], (1, 2, 2))
    assert data.held_out.tolist() == [1, 2] and data.counts().tolist() == [[1, 0], [0, 1], [1, 0]]
    assert data.modalities == ("image", "text") and make().modalities == ()
    with pytest.raises(ValueError, match="train, validation, test"):
        data.part("dev")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"texts": column(["x"])}, r"different length.*'texts': 1"),
        ({"extras": {"tags": np.zeros(4)}}, r"different length.*'extras.tags': 4"),
        ({"labels": np.array([0, 1, 2])}, "labels from 0 to 2, wanted 0 to 1 for a, b"),
        ({"split": np.array(["train", "dev", "test"])}, "split 'dev', wanted one of train"),
        ({"ids": np.array([0, 0, 1])}, "1 ids occur twice"),
    ],
)
def test_columns_that_do_not_fit_are_refused(change, message):
    with pytest.raises(DataError, match=message):
        replace(make(), **change)


def test_pictures_as_paths_are_known_by_name_and_size(tmp_path):
    paths = [tmp_path / name for name in "abc"]
    data = make(images=column(paths))
    before = data.fingerprint
    Path(paths[1]).write_bytes(b"1234")
    assert data.fingerprint != before


def test_refuse_names_the_way_out():
    with pytest.raises(DataError, match=r'bad row \(and 1 more\).*on_error="skip"'):
        refuse(["bad row", "worse row"], "raise")
    refuse(["bad row"], "skip")
    with pytest.raises(ValueError, match="choose"):
        refuse([], "ignore")
