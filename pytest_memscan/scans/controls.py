"""Planted cases with a known answer: the proof that a scan can see, and does not see ghosts."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pytest_memscan.results import Control
from pytest_memscan.similarity.pixels import Neighbours
from pytest_memscan.similarity.reference import TrainReference

NUM_PLANTED = 59  # all found means a sensitivity above 95 % at 95 % confidence
MIN_RECOGNISED = 0.95  # share of planted copies that must be matched with their original
MIN_CONFIRMED = 0.5  # share that must be confirmed too, or the cut is too strict to see anything
JPEG_QUALITY = 70
CROP = 0.02  # of each side


def run_controls(
    reference: TrainReference,
    *,
    level_cut: float,
    confirmed_cut: float,
    holdout: NDArray[np.uint8] | None = None,
    device: str = "cpu",
) -> tuple[Control, ...]:
    """Plant altered training images and strangers, and count which are confirmed as copies.

    Args:
        reference: What generated images are compared with.
        level_cut: Published cut of the closest level.
        confirmed_cut: Ratio at or below which a match is a confirmed copy.
        holdout: ``(num_holdout, height, width, channels)`` uint8 images not trained on.
        device: Where distances are computed.
    """
    rng = np.random.default_rng(0)
    num_planted = min(NUM_PLANTED, len(reference.pixels))
    rows = np.sort(rng.choice(len(reference.pixels), num_planted, replace=False))
    originals = reference.pixels[rows]
    noise = rng.integers(0, 256, size=originals.shape, dtype=np.uint8)

    controls = [
        control
        for name, sentence, change in PLANTED
        for control in _planted(
            reference.neighbours(_each(change, originals), device=device),
            reference.train_ids[rows],
            name=name,
            sentence=sentence,
            level_cut=level_cut,
            confirmed_cut=confirmed_cut,
        )
    ]
    strangers = [("noise", "images of noise must not be found", noise)]
    if holdout is not None:
        sentence = "held-out images must not be found; one that is was trained on"
        strangers.append(("holdout", sentence, holdout))
    for name, sentence, images in strangers:
        near = reference.neighbours(images, device=device)
        controls.append(
            Control(
                name=name,
                sentence=sentence,
                num_images=len(images),
                num_found=int((near.ratios[:, 0] <= confirmed_cut).sum()),
                minimum_found=0,
                maximum_found=0,
            )
        )
    return tuple(controls)


def _planted(
    near: Neighbours,
    originals: NDArray[np.int64],
    *,
    name: str,
    sentence: str,
    level_cut: float,
    confirmed_cut: float,
) -> Iterator[Control]:
    """Two controls for each kind: matched with the original, and confirmed as a copy of it."""
    right = near.train_ids[:, 0] == originals
    for suffix, must, cut, share in (
        ("", "must be matched with their originals", level_cut, MIN_RECOGNISED),
        ("_confirmed", "must be confirmed as copies", confirmed_cut, MIN_CONFIRMED),
    ):
        yield Control(
            name=name + suffix,
            sentence=f"{sentence} {must}",
            num_images=len(originals),
            num_found=int((right & (near.ratios[:, 0] <= cut)).sum()),
            minimum_found=math.ceil(share * len(originals)),
            maximum_found=len(originals),
        )


def _each(
    change: Callable[[Image.Image], Image.Image], images: NDArray[np.uint8]
) -> NDArray[np.uint8]:
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


PLANTED = (
    ("jpeg", f"training images saved as JPEG, quality {JPEG_QUALITY},", _as_jpeg),
    ("crop", f"training images cropped by {CROP:.0%} on each side", _cropped),
)
