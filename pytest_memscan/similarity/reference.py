"""Training images made ready to be compared with: duplicates merged, null measured.

Cost: every training image against every other up to ``ALL_PAIRS`` images; above that,
``SAMPLED_ROWS`` of them against all, so that cost grows linearly. Near-duplicates outside the
sampled rows then stay apart, and the record says how many rows were compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.metrics import LEVELS, Level
from pytest_memscan.results import RATIO, Measure
from pytest_memscan.similarity.duplicates import (
    DuplicateGroups,
    Search,
    near_duplicate_groups,
    nearest_groups,
    random_pair_distance,
)
from pytest_memscan.similarity.matching.pixels import (
    ALPHA,
    NUM_NEIGHBOURS,
    nearest_neighbours,
    neighbour_normalised,
)
from pytest_memscan.similarity.planted import ALTERATIONS, altered, planted_rows

ALL_PAIRS = 20_000
SAMPLED_ROWS = 4_096


@dataclass(frozen=True, kw_only=True)
class NearestTrain:
    """For each image its nearest training images, one for each group of near-duplicates.

    ``dissimilarities`` and ``train_ids`` ``(num_images, num_neighbours)``, ascending, complete to
    the largest cut of the levels; infinity and -1 where a row has fewer.
    ``distances`` ``(num_images,)`` normalised L2 to the nearest; None where pixels are not
    compared.
    """

    dissimilarities: NDArray[np.float64]
    train_ids: NDArray[np.int64]
    distances: NDArray[np.float64] | None


@dataclass(frozen=True, kw_only=True)
class Planted:
    """Altered training images, what they were found to be nearest to, and what they are."""

    name: str
    sentence: str
    nearest: NearestTrain
    originals: NDArray[np.int64]  # id of the representative of each one's original


class Reference(Protocol):
    """What generated images are compared with, whatever the measure."""

    @property
    def measure(self) -> Measure:
        """What a score says."""

    @property
    def distance_name(self) -> str:
        """What near-duplicates were found by."""

    @property
    def levels(self) -> tuple[Level, ...]:
        """Low, mid and high, as dissimilarities."""

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Height, width and channels of what can be compared."""

    @property
    def groups(self) -> DuplicateGroups:
        """Training images by group of near-duplicates."""

    @property
    def num_compared(self) -> int:
        """Training images whose surroundings were searched for duplicates."""

    @property
    def null(self) -> NDArray[np.float64]:
        """Dissimilarity from a representative to the nearest other group, ``(num_null,)``."""

    @property
    def record(self) -> Mapping[str, str]:
        """What two results must share before their scores may be compared."""

    @property
    def caveat(self) -> str:
        """A weakness of the measure on these images; empty where there is none."""

    def nearest(self, images: NDArray[np.uint8]) -> NearestTrain:
        """The nearest groups of ``(num_images, height, width, channels)`` images."""

    def planted(self) -> Iterator[Planted]:
        """Altered training images, each with what it is nearest to."""


@dataclass(frozen=True, kw_only=True)
class PixelReference:
    """Training images compared by the neighbour-normalised L2 of their pixels.

    Attributes:
        pixels: ``(num_train, height, width, channels)`` uint8; may be a memory map.
        groups: See `Reference`, as for the other attributes.
        device: Where distances are computed.
    """

    pixels: NDArray[np.uint8] = field(repr=False)
    groups: DuplicateGroups = field(repr=False)
    num_compared: int
    null: NDArray[np.float64] = field(repr=False)
    device: str = "cpu"

    measure = RATIO
    distance_name = "L2 distance of pixels"
    levels = LEVELS

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Height, width and channels."""
        return self.pixels.shape[1:]

    @property
    def record(self) -> Mapping[str, str]:
        """The distance and its constants."""
        return {
            "similarity": f"{RATIO.name}, n={NUM_NEIGHBOURS}, alpha={ALPHA}, 8-bit pixels",
        }

    @property
    def caveat(self) -> str:
        """With few images, their neighbourhood is the whole set."""
        if len(self.groups.representatives) > NUM_NEIGHBOURS:
            return ""
        return (
            f"; with only {len(self.groups.representatives)} training images the neighbourhood is "
            "the whole set and the lower half of the null is its tail, so only very close copies "
            "are confirmed: more real images (--memscan-holdout) sharpen it"
        )

    def nearest(self, images: NDArray[np.uint8]) -> NearestTrain:
        """The 50 nearest groups of each image, see `Reference`."""
        distances, train_ids = nearest_groups(
            lambda rows, k: _pixel_search(images[rows], self.pixels, k=k, device=self.device),
            len(images),
            self.groups,
            k=NUM_NEIGHBOURS,
        )
        return NearestTrain(
            dissimilarities=neighbour_normalised(distances),
            train_ids=train_ids,
            distances=distances[:, 0],
        )

    def planted(self) -> Iterator[Planted]:
        """Some of the training images, altered in every known way."""
        rows = planted_rows(len(self.pixels))
        originals = self.groups.representative_of(rows)
        for name, (sentence, _) in ALTERATIONS.items():
            near = self.nearest(altered(name, self.pixels[rows]))
            yield Planted(name=name, sentence=sentence, nearest=near, originals=originals)


def prepare(train: NDArray[np.uint8], *, device: str = "cpu") -> PixelReference:
    """Merge near-duplicates and measure the leave-one-out null.

    Args:
        train: ``(num_train, height, width, channels)`` uint8, at least two images; may be a
            memory map.
        device: Where distances are computed.

    Raises:
        ValueError: Fewer than two training images.
    """
    apart = left_one_out(
        lambda rows, k: _pixel_search(train[rows], train, k=k, exclude=rows, device=device),
        len(train),
        typical_distance=random_pair_distance(train) / _normaliser(train),
    )
    return PixelReference(
        pixels=train,
        groups=apart.groups,
        num_compared=apart.num_compared,
        null=neighbour_normalised(apart.distances)[:, 0] if len(apart.distances) else np.empty(0),
        device=device,
    )


@dataclass(frozen=True, kw_only=True)
class LeftOneOut:
    """Training images among the other training images.

    ``groups``: near-duplicates; ``num_compared``: images whose surroundings were searched;
    ``distances`` ``(num_representatives_searched, k)``: to the nearest other groups, ascending.
    """

    groups: DuplicateGroups
    num_compared: int
    distances: NDArray[np.float64]


def left_one_out(search: Search, num_train: int, *, typical_distance: float) -> LeftOneOut:
    """Group near-duplicates, and say how far apart the groups are.

    Args:
        search: Training ids and k -> distances and ids of the k nearest *other* training images.
        num_train: At least two.
        typical_distance: Between training images at random.
    """
    rows = np.arange(num_train)
    if num_train > ALL_PAIRS:
        rows = np.random.default_rng(0).choice(num_train, SAMPLED_ROWS, replace=False)
        rows = np.sort(rows).astype(np.int64)
    k = min(NUM_NEIGHBOURS, num_train - 1)
    distances, train_ids = search(rows, k)
    groups = near_duplicate_groups(
        distances, train_ids, rows=rows, num_train=num_train, typical_distance=typical_distance
    )
    apart = np.empty((0, 0))
    if len(groups.representatives) > 1:
        kept = rows[np.isin(rows, groups.representatives)]
        apart, _ = nearest_groups(
            lambda some, k: search(kept[some], k),
            len(kept),
            groups,
            k=k,
            own=groups.group_of[kept],
        )
    return LeftOneOut(groups=groups, num_compared=len(rows), distances=apart)


def _pixel_search(
    images: NDArray[np.uint8],
    train: NDArray[np.uint8],
    *,
    k: int,
    exclude: NDArray[np.int64] | None = None,
    device: str,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    near = nearest_neighbours(images, train, k=k, exclude=exclude, device=device)
    return near.distances, near.train_ids


def _normaliser(images: NDArray[np.uint8]) -> float:
    """What a plain L2 distance of 8-bit pixels is divided by to be normalised."""
    return float(np.sqrt(np.prod(images.shape[1:]))) * 255.0
