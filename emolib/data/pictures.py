"""Pictures of any kind: paths, encoded bytes, arrays or PIL pictures, opened as RGB or as small grey squares."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from emolib.data.dataset import DataError

SIDE = 48  # pixels of FER-2013's faces


def open_picture(picture, name: str) -> Image.Image:
    """A path, encoded bytes, an array or a PIL picture as an RGB picture; transparent parts become white.

    Raises DataError with the picture's name where it is missing, truncated or no picture at all.
    """
    if isinstance(picture, str | Path):
        name = f"{name} ({picture})"
    try:
        if isinstance(picture, bytes | str | Path):
            picture = Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture)
        elif isinstance(picture, np.ndarray):
            picture = Image.fromarray(picture)
        picture.load()
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError, TypeError, AttributeError) as error:
        raise DataError(f"{name} cannot be read: {type(error).__name__}: {str(error)[:300]}") from error
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture) / 257).astype(np.uint8))
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


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
