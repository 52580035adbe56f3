"""Training images made ready to be compared with: duplicates merged, null measured.

Cost: every training image against every other up to ``ALL_PAIRS`` images; above that,
``SAMPLED_ROWS`` of them against all, so that cost grows linearly. Near-duplicates outside the
sampled rows then stay apart, and the record says how many rows were compared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.similarity.duplicates import near_duplicate_groups
from pytest_memscan.similarity.pixels import Neighbours, nearest_neighbours

ALL_PAIRS = 20_000
SAMPLED_ROWS = 4_096
_DUPLICATES_LOOKED_AT = 20  # nearest merged images that may be closer than their representative


@dataclass(frozen=True, kw_only=True)
class TrainReference:
    """What generated images are compared with.

    Attributes:
        pixels: ``(num_groups, ...)`` uint8, one representative for each group of duplicates.
        train_ids: ``(num_groups,)`` training id of each representative.
        duplicates: ``(num_duplicates, ...)`` uint8, the images merged into a group.
        duplicate_groups: ``(num_duplicates,)`` row of ``pixels`` each was merged into.
        null: ``(num_null,)`` neighbour-normalised L2 from a representative to the nearest other.
        num_compared: Training images whose neighbours were searched for duplicates.
    """

    pixels: NDArray[np.uint8]
    train_ids: NDArray[np.int64]
    duplicates: NDArray[np.uint8]
    duplicate_groups: NDArray[np.int64]
    null: NDArray[np.float64]
    num_compared: int

    def neighbours(self, images: NDArray[np.uint8], *, device: str = "cpu") -> Neighbours:
        """The nearest groups of each image, ``train_ids`` being those of representatives.

        A group is as close as its closest member.
        """
        near = nearest_neighbours(images, self.pixels, device=device)
        if len(self.duplicates):
            k = _DUPLICATES_LOOKED_AT
            merged = nearest_neighbours(images, self.duplicates, k=k, device=device)
            near = _closest_member(near, merged, self.duplicate_groups)
        return Neighbours(
            squared=near.squared,
            train_ids=self.train_ids[near.train_ids],
            num_pixels=near.num_pixels,
        )


def prepare(train: NDArray[np.uint8], *, device: str = "cpu") -> TrainReference:
    """Merge near-duplicates and measure the leave-one-out null.

    Args:
        train: ``(num_train, ...)`` uint8, at least two images; may be a memory map.
        device: Where distances are computed.

    Raises:
        ValueError: Fewer than two training images.
    """
    rows = np.arange(len(train))
    if len(train) > ALL_PAIRS:
        rows = np.sort(np.random.default_rng(0).choice(len(train), SAMPLED_ROWS, replace=False))
    near = nearest_neighbours(train[rows], train, exclude=rows, device=device)
    groups = near_duplicate_groups(near, rows=rows, train=train)
    keep = groups.representatives
    merged = np.setdiff1d(np.arange(len(train)), keep)
    null = near.ratios[:, 0]
    pixels = train
    if len(merged):
        pixels = train[keep]
        own = np.flatnonzero(np.isin(keep, rows))
        null = np.empty(0)
        if len(keep) > 1:
            null = nearest_neighbours(pixels[own], pixels, exclude=own, device=device).ratios[:, 0]
    return TrainReference(
        pixels=pixels,
        train_ids=keep,
        duplicates=train[merged],
        duplicate_groups=groups.group_of[merged],
        null=null,
        num_compared=len(rows),
    )


def _closest_member(
    near: Neighbours, merged: Neighbours, group_of: NDArray[np.int64]
) -> Neighbours:
    """Neighbours by group, when some members stand apart from their representative."""
    squared = np.concatenate([near.squared, merged.squared], axis=1)
    groups = np.concatenate([near.train_ids, group_of[merged.train_ids]], axis=1)
    order = np.lexsort((groups, squared), axis=1)
    squared = np.take_along_axis(squared, order, axis=1)
    groups = np.take_along_axis(groups, order, axis=1)
    kept_squared = np.empty_like(near.squared)
    kept_groups = np.empty_like(near.train_ids)
    for row in range(len(groups)):
        _, first = np.unique(groups[row], return_index=True)
        first = np.sort(first)[: near.squared.shape[1]]
        kept_squared[row], kept_groups[row] = squared[row, first], groups[row, first]
    return Neighbours(squared=kept_squared, train_ids=kept_groups, num_pixels=near.num_pixels)
