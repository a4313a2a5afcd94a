import io

import numpy as np
import pytest
from PIL import Image

from emolib.data.dataset import DataError
from emolib.data.pictures import grey_pixels, open_picture


def encoded(picture, kind="PNG"):
    stream = io.BytesIO()
    picture.save(stream, kind)
    return stream.getvalue()


def test_every_kind_of_picture_opens_alike(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    picture = Image.fromarray(array)
    picture.save(tmp_path / "a.png")
    for same in (array, picture, encoded(picture), tmp_path / "a.png", str(tmp_path / "a.png")):
        assert np.array_equal(np.asarray(open_picture(same, "p")), array)
    deep = open_picture(Image.fromarray(np.full((2, 2), 25800, np.uint16)), "p")
    assert np.asarray(deep).tolist() == [[[100] * 3] * 2] * 2


def test_transparent_parts_become_white():
    clear = Image.new("RGBA", (2, 1), (10, 20, 30, 0))
    clear.putpixel((1, 0), (10, 20, 30, 255))
    assert np.asarray(open_picture(encoded(clear), "p")).tolist() == [[[255, 255, 255], [10, 20, 30]]]


@pytest.mark.parametrize("cut", [0, 10, 60])
def test_a_broken_picture_is_named(cut, tmp_path):
    (tmp_path / "x.png").write_bytes(encoded(Image.new("RGB", (50, 50)))[:cut])
    with pytest.raises(DataError, match=r"picture 3 \(.*x\.png\) cannot be read"):
        open_picture(tmp_path / "x.png", "picture 3")
    with pytest.raises(DataError, match="picture 1 cannot be read"):
        grey_pixels([Image.new("L", (2, 2)), None])


def test_grey_squares_of_any_pictures():
    grey = np.random.default_rng(0).integers(0, 256, (2, 20, 20), dtype=np.uint8)
    assert grey_pixels(grey) is grey and grey_pixels(grey, 20) is grey
    assert grey_pixels(grey, 24).shape == (2, 24, 24) and grey_pixels(grey[:, :10]).shape == (2, 48, 48)
    assert np.array_equal(grey_pixels([encoded(Image.fromarray(g)) for g in grey], 20), grey)
    red = np.zeros((1, 30, 40, 3), np.uint8)
    red[..., 0] = 200
    assert (grey_pixels(red) == 60).all() and grey_pixels(red).shape == (1, 48, 48)
