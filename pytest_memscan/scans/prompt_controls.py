"""Planted cases for scans by prompt: near-identical images must be seen, unlike ones must not."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pytest_memscan.cliques import find_clique
from pytest_memscan.results import Control
from pytest_memscan.similarity.tiles import tiled_l2

QUALITIES = range(90, 100)  # of JPEG: ten slightly different copies of one image
MIN_SEEN = 0.95  # share of planted cliques that must be found
MAX_GHOSTS = 0.1  # share of random strings that may repeat


def prompt_controls(
    *,
    copied: Sequence[NDArray[np.uint8]],
    unrelated: Sequence[NDArray[np.uint8]],
    edge: float,
    clique_size: int,
) -> tuple[Control, ...]:
    """Plant near-identical images, and look for cliques among images of random strings.

    Args:
        copied: ``(num_images, height, width, channels)`` uint8 of each negative, of which the
            first image is copied.
        unrelated: The same of negatives that have nothing in common with any prompt.
        edge: Tiled L2 below which two images are near-identical.
        clique_size: So many near-identical images flag a prompt.
    """
    planted = [_has_clique(_copies(images[0]), edge, len(QUALITIES)) for images in copied]
    ghosts = [_has_clique(images, edge, clique_size) for images in unrelated]
    return (
        Control(
            name="copies",
            sentence=f"{len(QUALITIES)} JPEG copies of one generated image must be seen as a "
            "clique, or the checkpoint's images hardly differ from each other",
            num_images=len(planted),
            num_found=sum(planted),
            minimum_found=math.ceil(MIN_SEEN * len(planted)),
            maximum_found=len(planted),
        ),
        Control(
            name="strings",
            sentence="random strings, which nobody trained on, must not be found memorised",
            num_images=len(ghosts),
            num_found=sum(ghosts),
            minimum_found=0,
            maximum_found=math.floor(MAX_GHOSTS * len(ghosts)),
        ),
    )


def _has_clique(images: NDArray[np.uint8], edge: float, size: int) -> bool:
    return bool(find_clique(tiled_l2(images) <= edge, size).members)


def _copies(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    copies = []
    for quality in QUALITIES:
        buffer = io.BytesIO()
        picture.save(buffer, format="JPEG", quality=quality, subsampling=0)
        copies.append(np.asarray(Image.open(buffer, formats=("JPEG",))))
    return np.stack(copies).reshape(-1, *image.shape)
