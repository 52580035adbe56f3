"""Worlds in which the truth about every text is known, in images of a few pixels.

An image of a memorised text is, with the text's rate, its own picture with a little noise; else,
and for every other text, it is a new random picture. In a template the top row of tiles is fixed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.generation import NON_FINITE
from pytest_memscan.scans.prompt_images import PromptImages
from pytest_memscan.store import StoredImage

SIDE = 8  # pixels, so that a tile is 2 x 2
NOISE = 2  # of 255 levels, at most, by which two copies differ from the picture
Pixels = NDArray[np.uint8]
Paint = Callable[[int, int, np.random.Generator], Pixels | None]


def random_picture(rng: np.random.Generator) -> Pixels:
    return rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def own_picture(text_id: int) -> Pixels:
    """What a memorised text was trained on; noise keeps it within 0 ... 255."""
    rng = np.random.default_rng([7, text_id])
    return rng.integers(NOISE, 256 - NOISE, (SIDE, SIDE, 3), dtype=np.uint8)


def copy_of(picture: Pixels, rng: np.random.Generator) -> Pixels:
    noise = rng.integers(-NOISE, NOISE + 1, picture.shape)
    return (picture.astype(int) + noise).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class World:
    """What images of each text are like; a text that is not named is clean.

    Attributes:
        rates: Text id -> how often its own picture comes up.
        templates: Text ids of which a part is fixed.
        invalid: ``(text_id, number)`` -> whether that image is invalid.
    """

    rates: Mapping[int, float] = field(default_factory=dict)
    templates: Sequence[int] = ()
    invalid: Callable[[int, int], bool] = lambda *_: False

    def __call__(self, text_id: int, number: int, rng: np.random.Generator) -> Pixels | None:
        if self.invalid(text_id, number):
            return None
        image, own = random_picture(rng), own_picture(text_id)
        if text_id in self.templates:
            image[: SIDE // 4] = copy_of(own[: SIDE // 4], rng)
        elif rng.random() < self.rates.get(text_id, 0.0):
            return copy_of(own, rng)
        return image


@dataclass(kw_only=True)
class Painter:
    """Speaks a sampler's language; an image follows from the seed and its sample id.

    Attributes:
        paint: Text id, number of the image, random numbers -> pixels; None for an invalid one.
        rows_per_text: Rows of the plan for each text.
        seed: Of all images.
        made: Sample ids in the order they were asked for.
    """

    paint: Paint
    rows_per_text: int
    seed: int = 0
    made: list[int] = field(default_factory=list)
    store: Any = field(default_factory=lambda: SimpleNamespace(damaged=0))

    def images(self, sample_ids: Sequence[int]) -> list[StoredImage]:
        self.made += sample_ids
        return [self._image(sample_id) for sample_id in sample_ids]

    def pixels_of(self, sample_id: int) -> Pixels:
        return self._image(sample_id).pixels

    def _image(self, sample_id: int) -> StoredImage:
        rng = np.random.default_rng([self.seed, sample_id])
        text_id, number = divmod(sample_id, self.rows_per_text)
        pixels = self.paint(text_id, number, rng)
        return StoredImage(
            sample_id=sample_id,
            seed=sample_id,
            invalid=NON_FINITE if pixels is None else "",
            pixels=np.zeros((SIDE, SIDE, 3), np.uint8) if pixels is None else pixels,
        )


def images_of(
    paint: Paint, *, rows_per_text: int = 600, most: int | None = None, seed: int = 0
) -> PromptImages:
    painter: Any = Painter(paint=paint, rows_per_text=rows_per_text, seed=seed)
    return PromptImages(sampler=painter, rows_per_text=rows_per_text, most=most)


def tiles_of(image: NDArray[np.generic]) -> list[NDArray[np.float64]]:
    """Sixteen parts, cut with plain slices, of an ``(height, width, channels)`` array."""
    rows = np.split(image.astype(float), 4, axis=0)
    return [tile for row in rows for tile in np.split(row, 4, axis=1)]


def distance(one: Pixels, other: Pixels) -> float:
    """Tiled L2 from its definition."""
    pairs = zip(tiles_of(one), tiles_of(other), strict=True)
    return max(math.sqrt(np.mean((a / 255 - b / 255) ** 2)) for a, b in pairs)
