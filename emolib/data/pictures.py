"""Pictures of any kind: paths, encoded bytes, files, arrays, tensors or PIL pictures, opened as RGB or as small grey squares."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from emolib.data.dataset import DataError

SIDE = 48  # pixels of FER-2013's faces
# What is opened: Pillow would also start Ghostscript for a file that only its name calls a picture.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")


def open_picture(picture, name: str, *, side: int | None = None) -> Image.Image:
    """Anything as an upright RGB picture of 0 to 255; transparent parts become white.

    side: the size in pixels that is wanted in the end; a JPEG of eight times as much or more is decoded at a fraction of its
    size, but four times the wanted one, which is several times as fast.
    picture: a path, encoded bytes or an open file of `FORMATS`, a PIL picture, or an array or tensor as `scaled` takes it.
    Raises DataError with the picture's name where it is missing, damaged or no picture at all.
    """
    if isinstance(picture, str | Path):
        name = f"{name} ({picture})"
    try:
        if isinstance(picture, bytes | bytearray):
            picture = io.BytesIO(picture)
        if isinstance(picture, str | Path) or hasattr(picture, "read"):
            picture = Image.open(picture, formats=FORMATS)
            if side:
                picture.draft(None, (4 * side, 4 * side))
        elif not isinstance(picture, Image.Image):
            picture = Image.fromarray(scaled(picture))
        wide = picture.mode == "I" and getattr(picture, "format", None) == "PPM"  # 16 bits, held in 32
        picture = ImageOps.exif_transpose(picture)
        if picture.mode == "F" or picture.mode.startswith("I"):  # more than 8 bits
            picture = Image.fromarray(scaled(np.asarray(picture, np.uint16 if wide else None)))
    except DataError as error:
        raise DataError(f"{name} cannot be read: {error}") from error
    except MemoryError:
        raise
    except Exception as error:  # whatever a decoder raises is this picture's problem, not that of the others
        said = str(error).split(" <_io.")[0]  # not the address of a buffer
        raise DataError(f"{name} cannot be read: {type(error).__name__}: {said:.300}") from error
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def scaled(pixels) -> np.ndarray:
    """An array or tensor of one picture as uint8, (H, W) or (H, W, 3 or 4), its range told by its values.

    pixels: (H, W), (H, W, 1, 3 or 4) or (1, 3 or 4, H, W), channels in the order RGB: whole numbers of 0 to 255 (of any type),
    16-bit numbers of 0 to 65,535, truth values, or floats of 0 to 1. Raises DataError for anything else.
    """
    array = np.asarray(pixels)
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = np.moveaxis(array, 0, 2)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.dtype.kind not in "buif" or array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,), (4,)) or not array.size:
        raise DataError(f"{type(pixels).__name__} of {array.dtype} {array.shape}, wanted pixels (H, W), (H, W, 3) or (3, H, W)")
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        return (array / 257).astype(np.uint8)
    low, high = float(array.min()), float(array.max())
    whole = array.dtype.kind in "ui" or bool((array == np.round(array)).all())
    if array.dtype == bool or (array.dtype.kind == "f" and 0 <= low <= high <= 1):
        return np.round(255 * array.astype(float)).astype(np.uint8)
    if whole and 0 <= low <= high <= 255 and high != 1:  # whole numbers of 0 and 1 alone might mean either
        return array.astype(np.uint8)
    raise DataError(f"{array.dtype} pixels from {low:g} to {high:g}, wanted whole numbers of 0 to 255 or floats of 0 to 1")


def grey_pixels(images: np.ndarray | Sequence, side: int | None = None) -> np.ndarray:
    """(N, S, S) uint8 grey squares of pictures of any kind and size.

    side: S in pixels; None leaves a grey square array (N, S, S) uint8 as it is, and makes `SIDE` of anything else. Pictures
    that are not square are squeezed. Raises DataError that names the first picture that cannot be read.
    """
    grey = isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.ndim == 3
    if grey and images.shape[1] == images.shape[2] == (side or images.shape[2]):
        return images
    size = (side or SIDE,) * 2
    squares = np.empty((len(images), *size), np.uint8)
    for row, picture in enumerate(images):
        squares[row] = open_picture(picture, f"picture {row}").convert("L").resize(size, Image.Resampling.BICUBIC)
    return squares
