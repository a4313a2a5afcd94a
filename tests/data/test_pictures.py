import io

import numpy as np
import pytest
import torch
from PIL import Image

from emolib.data.dataset import DataError
from emolib.data.pictures import grey_pixels, open_picture, scaled


def encoded(picture, kind="PNG"):
    stream = io.BytesIO()
    picture.save(stream, kind)
    return stream.getvalue()


def test_every_kind_of_picture_opens_alike(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    picture = Image.fromarray(array)
    picture.save(tmp_path / "a.png")
    same = [array, picture, encoded(picture), io.BytesIO(encoded(picture)), tmp_path / "a.png", str(tmp_path / "a.png")]
    same += [
        torch.tensor(array),
        torch.tensor(array).movedim(2, 0),
        array.transpose(2, 0, 1),
        array / 255,
        array / np.float32(255),
    ]
    same += [array.astype(kind) for kind in ("int64", "int32", "float32", "float64")] + [array.astype(np.uint16) * 257]
    for found in same:
        assert np.array_equal(np.asarray(open_picture(found, "p")), array), type(found)
    grey = array[..., 0]
    for found in (grey, grey[..., None], grey[None], grey / 255, encoded(Image.fromarray(grey))):
        assert np.array_equal(np.asarray(open_picture(found, "p"))[..., 1], grey)
    assert np.array_equal(np.asarray(open_picture(grey > 99, "p"))[..., 2], 255 * (grey > 99))
    assert (
        not np.asarray(open_picture(np.zeros((2, 2), int), "p")).any()
        and (np.asarray(open_picture(np.ones((2, 2)), "p")) == 255).all()
    )
    deep = open_picture(Image.fromarray(np.full((2, 2), 25800, np.uint16)), "p")
    assert np.asarray(deep).tolist() == [[[100] * 3] * 2] * 2
    for depth, size in ((200, ">u2"), (25800, ">u2")):  # a dark one is dark
        wide = b"P5 2 2 65535\n" + np.full(4, depth, size).tobytes()
        assert np.asarray(open_picture(wide, "p")).tolist() == [[[depth // 257] * 3] * 2] * 2
        assert scaled(np.full((2, 2), depth, size)).tolist() == [[depth // 257] * 2] * 2


def test_a_large_photograph_is_decoded_small_and_looks_the_same(tmp_path):
    rng = np.random.default_rng(0)
    scene = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((1600, 1200))
    scene.save(tmp_path / "a.jpg", quality=95)
    whole, small = open_picture(tmp_path / "a.jpg", "p"), open_picture(tmp_path / "a.jpg", "p", side=64)
    assert whole.size == (1600, 1200) and min(small.size) >= 256 and max(small.size) <= 800
    near = [np.asarray(picture.resize((64, 48)), float) for picture in (whole, small)]
    assert np.abs(near[0] - near[1]).mean() < 1
    assert open_picture(tmp_path / "a.jpg", "p", side=160).size == (1600, 1200)


def test_transparent_parts_become_white():
    clear = Image.new("RGBA", (2, 1), (10, 20, 30, 0))
    clear.putpixel((1, 0), (10, 20, 30, 255))
    assert np.asarray(open_picture(encoded(clear), "p")).tolist() == [[[255, 255, 255], [10, 20, 30]]]


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.array([[0.0, 254.5]]), "float64 pixels from 0 to 254.5, wanted whole numbers of 0 to 255 or floats of 0 to 1"),
        (np.array([[-1.0, 1.0]]), "from -1 to 1"),
        (np.array([[0, 256]]), "int64 pixels from 0 to 256"),
        (np.array([[0, 1]]), "from 0 to 1"),
        (np.array([[0.5, np.nan]]), "from nan to nan"),
        (np.zeros((2, 5, 5), np.uint8), r"ndarray of uint8 \(2, 5, 5\), wanted pixels"),
        (np.zeros((0, 5), np.uint8), r"\(0, 5\)"),
        (np.zeros((4, 4, 3), complex), "complex128"),
        (np.array(["a text"]), "ndarray of <U6"),
        ({"a": 1}, "dict of object"),
        (None, "NoneType of object"),
        (7, "int of int64"),
    ],
)
def test_what_is_no_picture_is_refused_with_what_was_found(pixels, message):
    with pytest.raises(DataError, match=f"picture 3 cannot be read: .*{message}"):
        open_picture(pixels, "picture 3")


def test_photographs_come_upright_and_whatever_a_decoder_raises_is_their_own_problem(tmp_path, monkeypatch):
    array = np.zeros((20, 30, 3), np.uint8)
    array[:, :10] = 255
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera lay on its side
    Image.fromarray(array).save(tmp_path / "turned.jpg", exif=turned, quality=100)
    upright = np.asarray(open_picture(tmp_path / "turned.jpg", "p"))
    assert upright.shape == (30, 20, 3) and upright[:9].min() > 200 and upright[11:].max() < 50
    (tmp_path / "script.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    with pytest.raises(DataError, match=r"script\.jpg\) cannot be read: UnidentifiedImageError"):
        open_picture(tmp_path / "script.jpg", "picture 0")
    small = encoded(Image.new("RGB", (5, 5)))
    for error in (NotImplementedError, RuntimeError, KeyError, OverflowError):
        monkeypatch.setattr(Image.Image, "load", lambda *_, error=error: (_ for _ in ()).throw(error("odd")))
        with pytest.raises(DataError, match=f"{error.__name__}"):
            open_picture(small, "picture 0")


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
