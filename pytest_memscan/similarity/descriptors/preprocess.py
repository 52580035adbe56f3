"""From 8-bit images to what a descriptor network takes, exactly as its authors did it.

The published pipelines run on PIL images: ``Resize`` (bilinear, which PIL always antialiases),
``CenterCrop``, ``ToTensor``, ``Normalize``. Similarities belong to one pipeline: the same two
images under another one give other numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Resize, perhaps crop, and normalise.

    Attributes:
        size: Pixels of both sides (`square`), or of the shorter one, keeping the proportions.
        square: Resize both sides to `size`, which skews the image and loses nothing of it.
        crop: Side of the centre square that is kept; None keeps all.
        mean: Of each channel, on the scale of 0 to 1.
        std: Of each channel, likewise.
    """

    size: int
    square: bool
    crop: int | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if self.square == (self.crop is not None) or (self.crop or 1) > self.size:
            raise ValueError("crop to at most the shorter side, or resize to a square")

    def __call__(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """``(batch, height, width, channels)`` -> ``(batch, 3, side, side)`` float32.

        A single channel is taken three times.

        Raises:
            ValueError: Not 8-bit images of one or three channels.
        """
        pixels = np.stack([self._framed(image) for image in as_rgb(images)])
        scaled = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(torch.float32).div_(255)
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return scaled.sub_(mean).div_(std).contiguous()

    @property
    def text(self) -> str:
        """Every step and number, for the record of a result."""
        resized = f"{self.size}x{self.size}" if self.square else f"short side {self.size}"
        cropped = "" if self.crop is None else f", centre crop {self.crop}"
        return (
            f"PIL bilinear resize to {resized}{cropped}, /255, "
            f"mean {' '.join(map(str, self.mean))}, std {' '.join(map(str, self.std))}"
        )

    def _framed(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resized and cropped, ``(side, side, 3)``."""
        height, width = image.shape[:2]
        target = (self.size, self.size) if self.square else resized_sides(width, height, self.size)
        resized = Image.fromarray(image).resize(target, Image.Resampling.BILINEAR)
        if self.crop is not None:
            # round() takes halves to the even side, as in torchvision's center_crop.
            left, top = (round((side - self.crop) / 2) for side in target)
            resized = resized.crop((left, top, left + self.crop, top + self.crop))
        return np.asarray(resized)


def as_rgb(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The images with three channels, a single one repeated.

    Raises:
        ValueError: Not ``(batch, height, width, 1 or 3)`` uint8, or sides of no pixels.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise ValueError(
            "need 8-bit images (batch, height, width, 1 or 3), got "
            f"{images.dtype} {tuple(images.shape)}"
        )
    if 0 in images.shape[1:3]:
        raise ValueError(f"images of {images.shape[1]} by {images.shape[2]} pixels have no content")
    return np.repeat(images, 3, axis=3) if images.shape[3] == 1 else images


def resized_sides(width: int, height: int, shorter: int) -> tuple[int, int]:
    """Width and height with the shorter side as given; the longer one is cut to whole pixels.

    References:
        torchvision ``transforms.functional.resize``: ``int(size * long / short)``.

    Example:
        >>> resized_sides(500, 333, 256)  # 384.38...
        (384, 256)
    """
    longer = int(shorter * max(width, height) / min(width, height))
    return (shorter, longer) if width <= height else (longer, shorter)


# SSCD's README recommends it for copy detection: nothing is cropped away.
SKEW_320 = Preprocessing(size=320, square=True, crop=None, mean=IMAGENET_MEAN, std=IMAGENET_STD)
# The pipeline of FineXtract, DCR and Wen et al.; their thresholds belong to it.
CROP_224 = Preprocessing(size=256, square=False, crop=224, mean=HALF, std=HALF)
