"""Images as data URIs: clear, or blurred so that no reader of the file can undo it.

A report must open on any machine. Blurred images weigh about 2 kB each, so that a thousand of them
fit; clear ones weigh up to some hundred, and an `Album` takes no more once they weigh ``MAX_BYTES``
together. What it did not take is listed as a table instead.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

ImagePolicy = Literal["none", "blurred", "clear"]

BLURRED_CELLS = 8  # colours kept along the longer side, at most
BLURRED_SHARE = 4  # pixels of a small image that become one colour, along each side
BLURRED_SIDE = 32  # pixels of the smooth enlargement that is embedded
CLEAR_SIDE = 256  # longer side, at most
MAX_BYTES = 16_000_000  # of data URIs in one report
PIXELATED_SIDE = 64  # an image up to this size is enlarged pixel by pixel


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image that is ready to be embedded."""

    uri: Markup
    is_pixelated: bool  # enlarged without smoothing


class Album:
    """The pictures of one report, in the order in which they are asked for.

    Attributes:
        images: What may be embedded.
        num_bytes: Of data URIs so far.
        is_full: Whether a picture had to be left out; every later one is, too, so that those that
            are drawn are always the first of their list.
    """

    def __init__(self, images: ImagePolicy, *, max_bytes: int = MAX_BYTES) -> None:
        self.images = images
        self.num_bytes = 0
        self.is_full = False
        self._max_bytes = max_bytes

    def add(self, *images: NDArray[np.uint8]) -> tuple[Picture, ...] | None:
        """All of ``images`` as pictures; None where none may be embedded, or no more.

        Raises:
            ValueError: As for `embed`.
        """
        if self.images == "none" or self.is_full:
            return None
        pictures = tuple(embed(image, images=self.images) for image in images)
        num_bytes = self.num_bytes + sum(len(picture.uri) for picture in pictures)
        if num_bytes > self._max_bytes:
            self.is_full = True
            return None
        self.num_bytes = num_bytes
        return pictures


def shrunk(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``image`` at the size at which reports draw it; as it is where it is no larger.

    Args:
        image: ``(height, width, channels)`` uint8; 1, 3 or 4 channels.
    """
    if max(image.shape[:2]) <= CLEAR_SIDE:
        return image
    picture = _to_picture(image)
    small = np.asarray(picture.resize(_fitted(picture.size, CLEAR_SIDE), Image.Resampling.LANCZOS))
    return small if small.ndim == 3 else small[:, :, None]


def embed(image: NDArray[np.uint8], *, images: Literal["blurred", "clear"]) -> Picture:
    """``image`` as a PNG data URI.

    A Gaussian blur can be undone to a surprising degree, so blurring here means forgetting: the
    image is averaged down to a few colours, and what is embedded is made from those alone.

    Args:
        image: ``(height, width, channels)`` uint8; 1, 3 or 4 channels.
        images: Whether to blur it.

    Raises:
        ValueError: Another shape or another type of number.
    """
    picture = _to_picture(image)
    longer = max(picture.size)
    if images == "blurred":
        cells = max(1, min(BLURRED_CELLS, longer // BLURRED_SHARE))
        few = picture.resize(_fitted(picture.size, cells), Image.Resampling.BOX)
        shown = few.resize(_fitted(picture.size, BLURRED_SIDE), Image.Resampling.BICUBIC)
    elif longer > CLEAR_SIDE:
        shown = picture.resize(_fitted(picture.size, CLEAR_SIDE), Image.Resampling.LANCZOS)
    else:
        shown = picture
    pixelated = images == "clear" and longer <= PIXELATED_SIDE
    return Picture(uri=_data_uri(shown), is_pixelated=pixelated)


def _to_picture(image: NDArray[np.uint8]) -> Image.Image:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3, 4):
        raise ValueError(
            "an image in a report must be (height, width, channels) uint8 with 1, 3 or 4 "
            f"channels, got {image.shape} {image.dtype}"
        )
    if image.shape[2] == 1:
        return Image.fromarray(image[:, :, 0])
    # Alpha goes: an invisible pixel still carries its colour into the file.
    return Image.fromarray(np.ascontiguousarray(image[:, :, :3]))


def _fitted(size: tuple[int, int], longer: int) -> tuple[int, int]:
    scale = longer / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _data_uri(picture: Image.Image) -> Markup:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")  # asked to optimise, it takes 3 to 15 times as long
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Markup(f"data:image/png;base64,{encoded}")  # noqa: S704 - base64 only
