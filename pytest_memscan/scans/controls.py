"""Planted cases with a known answer: the proof that a scan can see, and does not see ghosts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.results import Control
from pytest_memscan.similarity.planted import NUM_PLANTED
from pytest_memscan.similarity.reference import Planted, Reference

MIN_RECOGNISED = 0.95  # share of planted copies matched with their original, at any level
MIN_CONFIRMED = 0.5  # share that must be confirmed too, or the cut is too strict to see anything


def run_controls(
    reference: Reference,
    *,
    confirmed_cut: float,
    holdout: NDArray[np.uint8] | None = None,
    more: Sequence[Planted] = (),
) -> tuple[Control, ...]:
    """Plant altered training images and strangers, and count which are confirmed as copies.

    Args:
        reference: What generated images are compared with.
        confirmed_cut: Dissimilarity at or below which a match is a confirmed copy.
        holdout: ``(num_holdout, height, width, channels)`` uint8 images not trained on.
        more: Other altered training images.
    """
    controls = [
        control
        for planted in (*reference.planted(), *more)
        for control in _planted(
            planted, level_cut=reference.levels[0].cut, confirmed_cut=confirmed_cut
        )
    ]
    num_noise = min(NUM_PLANTED, len(reference.groups.group_of))
    shape = (num_noise, *reference.image_shape)
    noise = np.random.default_rng(0).integers(0, 256, size=shape, dtype=np.uint8)
    strangers = [("noise", "images of noise must not be found", noise)]
    if holdout is not None:
        sentence = "held-out images must not be found; one that is was trained on"
        strangers.append(("holdout", sentence, holdout))
    for name, sentence, images in strangers:
        closest = reference.nearest(images).dissimilarities[:, 0]
        controls.append(
            Control(
                name=name,
                sentence=sentence,
                num_images=len(images),
                num_found=int((closest <= confirmed_cut).sum()),
                minimum_found=0,
                maximum_found=0,
            )
        )
    return tuple(controls)


def least_cut(reference: Reference, *, more: Sequence[Planted] = ()) -> float:
    """The tightest cut at which no control of `run_controls` misses planted copies.

    Infinity where too few of them are nearest to their original.
    """
    cuts = []
    for planted in (*reference.planted(), *more):
        right = planted.nearest.train_ids[:, 0] == planted.originals
        closest = np.sort(planted.nearest.dissimilarities[right, 0])
        needed = math.ceil(MIN_CONFIRMED * len(right))
        cuts.append(float(closest[needed - 1]) if len(closest) >= needed else math.inf)
    return max(cuts)


def _planted(planted: Planted, *, level_cut: float, confirmed_cut: float) -> Iterator[Control]:
    """Two controls for each kind: matched with the original, and confirmed as a copy of it."""
    closest = planted.nearest.dissimilarities[:, 0]
    right = planted.nearest.train_ids[:, 0] == planted.originals
    for suffix, must, cut, share in (
        ("", "must be matched with their originals", level_cut, MIN_RECOGNISED),
        ("_confirmed", "must be confirmed as copies", confirmed_cut, MIN_CONFIRMED),
    ):
        yield Control(
            name=planted.name + suffix,
            sentence=f"{planted.sentence} {must}",
            num_images=len(right),
            num_found=int((right & (closest <= cut)).sum()),
            minimum_found=math.ceil(share * len(right)),
            maximum_found=len(right),
        )
