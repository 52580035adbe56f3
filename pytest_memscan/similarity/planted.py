"""Copies whose original is known: training images, slightly altered.

They are what a scan is tested with on every run: a comparison that cannot find these cannot find
anything. Pixels in, pixels out.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

NUM_PLANTED = 59  # all found means a sensitivity above 95 % at 95 % confidence
JPEG_QUALITY = 70
CROP = 0.02  # of each side


def planted_rows(num_train: int) -> NDArray[np.int64]:
    """Which training images are altered: a fixed random choice, ascending."""
    num_planted = min(NUM_PLANTED, num_train)
    chosen = np.random.default_rng(0).choice(num_train, num_planted, replace=False)
    return np.sort(chosen).astype(np.int64)


def altered(name: str, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``(num_images, height, width, channels)`` uint8 after the alteration ``name``.

    Raises:
        KeyError: No such alteration; see ``ALTERATIONS``.
    """
    _, change = ALTERATIONS[name]
    grey = images.shape[-1] == 1
    pictures = (Image.fromarray(image[..., 0] if grey else image) for image in images)
    changed = [np.asarray(change(picture), dtype=np.uint8) for picture in pictures]
    return np.stack(changed).reshape(images.shape)


def _as_jpeg(picture: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return Image.open(buffer, formats=("JPEG",))


def _cropped(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    box = (CROP * width, CROP * height, (1 - CROP) * width, (1 - CROP) * height)
    return picture.resize(picture.size, Image.Resampling.BICUBIC, box=box)


# name -> (what was planted, the change)
ALTERATIONS: dict[str, tuple[str, Callable[[Image.Image], Image.Image]]] = {
    "jpeg": (f"training images saved as JPEG, quality {JPEG_QUALITY},", _as_jpeg),
    "crop": (f"training images cropped by {CROP:.0%} on each side", _cropped),
}
