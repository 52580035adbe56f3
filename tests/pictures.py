"""Made-up pictures with some 48 free numbers each: smooth enough to survive JPEG and a crop."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def smooth_images(
    count: int, *, seed: int = 0, size: int = 16, channels: int = 3
) -> NDArray[np.uint8]:
    """``(count, size, size, channels)`` uint8, no two of them alike."""
    grids = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    images = [
        np.asarray(Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC))
        for grid in grids
    ]
    return np.stack(images)[..., :channels]
