import pytest

from emolib.data import cells
from emolib.data.dataset import DataError
from emolib.data.labels import FACE_CLASSES


def test_class_names_are_sorted_names_first_and_of_one_spelling():
    assert cells.class_names([2, "10", 3.0, None, "x", ""]) == ["x", "2", "3", "10"]
    assert cells.class_names(["1.0", "10.0", "2", "1.5", "-1"]) == ["-1", "1", "1.5", "2", "10"]


def test_numbers_that_are_names_stand_for_nothing_else():
    assert cells.read_label("3", ("1", "3", "5")) == 1
    for other in ("2", "0"):
        with pytest.raises(DataError, match=f"label is '{other}'"):
            cells.read_label(other, ("1", "3", "5"))
    assert cells.class_names(["Joy", "joy", " joy", "sad"]) == ["Joy", "sad"]


@pytest.mark.parametrize(
    ("found", "wanted"),
    [("Angry", 0), ("anger", 0), (" happiness ", 3), ("3", 3), ("3_fear", 2), ("6 - Neutral", 6), ("SURPRISED", 5), ("sad", 4)],
)
def test_labels_in_common_spellings(found, wanted):
    assert cells.read_label(found, FACE_CLASSES) == wanted


@pytest.mark.parametrize("found", ["7", "9" * 5000, "-1", "calm", "1e0", "angrysad"])
def test_labels_that_stand_for_no_class_are_refused(found):
    with pytest.raises(DataError, match="wanted one of angry") as error:
        cells.read_label(found, FACE_CLASSES)
    assert len(str(error.value)) < 300


def test_one_text_stays_as_it_is_and_several_become_sentences():
    assert cells.read_text([" I am sad. "], ["text"]) == "I am sad."
    assert cells.read_text(["A dog.", None, "it runs"], ["title", "more", "caption"]) == "A dog. it runs"


def test_a_label_that_two_classes_could_mean_is_refused_and_names_come_before_numbers():
    assert cells.read_label("happiness", ["joy", "fear"]) == 0
    with pytest.raises(DataError, match="label is 'happiness', wanted one of joy, happy"):
        cells.read_label("happiness", ["joy", "happy"])
    assert cells.class_names(["10", "0", "unsure", "2"]) == ["unsure", "0", "2", "10"]


def test_a_label_that_is_not_utf8_is_refused():
    assert cells.class_names(["fr\udcf6hlich", "calm"]) == ["calm"]
    with pytest.raises(DataError, match="byte 0xf6 at column 2 is not UTF-8; save the file as UTF-8"):
        cells.read_label("fr\udcf6hlich", ["calm"])
