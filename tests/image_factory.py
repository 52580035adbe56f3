"""Small folders of training images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def save_images(
    folder: Path, count: int = 24, *, size: int = 8, colour: bool = True, seed: int = 0
) -> Path:
    """Write `count` PNG images, all different and smooth, into `folder` and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    shape = (count, 3, 3, 3) if colour else (count, 3, 3)
    for index, pixels in enumerate(rng.integers(0, 256, size=shape, dtype=np.uint8)):
        # A finer picture would not survive the JPEG control of a scan at this size.
        picture = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
        picture.save(folder / f"{index:03d}.png")
    return folder
