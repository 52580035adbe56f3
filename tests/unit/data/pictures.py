"""Hand-made images, as bytes of a file."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def noise(height: int = 8, width: int = 8, channels: int = 3, *, seed: int = 0) -> NDArray:
    """``(height, width, channels)`` uint8, no two images alike."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


def encode(image: Image.Image | NDArray, kind: str = "PNG", **options: object) -> bytes:
    """The image as a file of that kind."""
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def with_orientation(orientation: int) -> Image.Exif:
    """EXIF data that says how the image is to be turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif
