"""Training images compared by the cosine similarity of their descriptors.

The pixels are not needed once they are described: an index is enough. Cost and the sample that is
searched for duplicates as in `similarity.reference`; memory: one tile of products, the index being
a memory map.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.errors import DescriptorError, TrainDataError
from pytest_memscan.metrics import Level
from pytest_memscan.results import Measure
from pytest_memscan.similarity.calibration import levels_of_null
from pytest_memscan.similarity.descriptors.descriptor import Descriptor
from pytest_memscan.similarity.duplicates import (
    DuplicateGroups,
    TooManyError,
    nearest_groups,
    random_pair_distance,
)
from pytest_memscan.similarity.index import DescriptorIndex
from pytest_memscan.similarity.matching.nearest import most_similar
from pytest_memscan.similarity.planted import ALTERATIONS
from pytest_memscan.similarity.reference import NearestTrain, Planted, left_one_out

NUM_NEIGHBOURS = 50  # listed for each image; more where more lie within the low level


@dataclass(frozen=True, kw_only=True)
class DescriptorReference:
    """An index of training images, near-duplicates merged.

    Attributes:
        index: Descriptors of the training images and of altered copies of some.
        descriptor: Describes the generated images; the one the index was made with.
        levels: See `reference.Reference`, as for the other attributes.
    """

    index: DescriptorIndex
    descriptor: Descriptor
    levels: tuple[Level, ...]
    groups: DuplicateGroups = field(repr=False)
    num_compared: int
    null: NDArray[np.float64] = field(repr=False)

    caveat = ""

    @property
    def measure(self) -> Measure:
        """Cosine similarity."""
        return measure_of(self.descriptor)

    @property
    def distance_name(self) -> str:
        """L2, of unit vectors."""
        return f"L2 distance of {self.descriptor.name} descriptors"

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Height, width and channels that the training images had."""
        return self.index.image_shape

    @property
    def record(self) -> Mapping[str, str]:
        """The descriptor, its weights and its levels."""
        levels = ", ".join(
            f"{each.name} {self.measure.score(each.cut):.3f}" for each in self.levels
        )
        source = "from the leave-one-out null"
        if self.descriptor.levels:
            source = self.descriptor.levels_origin
        return {
            "similarity": self.measure.name,
            "levels": f"{levels} ({source})",
            **{f"descriptor {name}": value for name, value in self.descriptor.record.items()},
        }

    def nearest(self, images: NDArray[np.uint8]) -> NearestTrain:
        """The nearest groups of each image, see `reference.Reference`."""
        return self._nearest(describe_generated(self.descriptor, images))

    def planted(self) -> Iterator[Planted]:
        """The altered copies that were described with the index."""
        for name, (train_ids, described) in self.index.planted.items():
            yield Planted(
                name=name,
                sentence=ALTERATIONS[name][0],
                nearest=self._nearest(described),
                originals=self.groups.representative_of(train_ids),
            )

    def _nearest(self, described: NDArray[np.float32]) -> NearestTrain:
        low = self.levels[0].cut
        try:
            distances, train_ids = nearest_groups(
                lambda rows, k: _search(
                    described[rows], self.index.descriptors, k=k, device=self.descriptor.device
                ),
                len(described),
                self.groups,
                k=NUM_NEIGHBOURS,
                within=float(np.sqrt(2 * low)),
            )
        except TooManyError:
            raise TrainDataError(
                f"the descriptor {self.descriptor.name} finds more than a thousand training images "
                f"at level low (similarity {1 - low:.2f}) with a single image: it cannot tell "
                "these images apart; choose another with --memscan-descriptor"
            ) from None
        return NearestTrain(
            dissimilarities=_dissimilarities(distances), train_ids=train_ids, distances=None
        )


def describe_generated(descriptor: Descriptor, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Unit vectors ``(num_images, dimension)`` of generated images.

    Raises:
        DescriptorError: Some have a descriptor that is zero or not finite.
    """
    try:
        return descriptor.describe(images)
    except ValueError as error:
        raise DescriptorError(f"{error}; choose another with --memscan-descriptor") from None


def measure_of(descriptor: Descriptor) -> Measure:
    """What a score by this descriptor says."""
    return Measure(
        name=f"cosine similarity of {descriptor.name} descriptors",
        word="similarity",
        higher_is_closer=True,
    )


def prepare_described(index: DescriptorIndex, descriptor: Descriptor) -> DescriptorReference:
    """Merge near-duplicates, measure the leave-one-out null, and set levels where none are known.

    Args:
        index: At least two training images.
        descriptor: The one the index was made with.

    Raises:
        TrainDataError: Levels must come from the null, and there are too few different images.
    """
    train, device = index.descriptors, descriptor.device
    apart = left_one_out(
        lambda rows, k: _search(train[rows], train, k=k, exclude=rows, device=device),
        len(train),
        typical_distance=random_pair_distance(train),
    )
    null = _dissimilarities(apart.distances)[:, 0] if len(apart.distances) else np.empty(0)
    return DescriptorReference(
        index=index,
        descriptor=descriptor,
        levels=descriptor.levels or _own_levels(descriptor, null),
        groups=apart.groups,
        num_compared=apart.num_compared,
        null=null,
    )


def _own_levels(descriptor: Descriptor, null: NDArray[np.float64]) -> tuple[Level, ...]:
    try:
        return levels_of_null(null)
    except ValueError as error:
        raise TrainDataError(
            f"the descriptor {descriptor.name} has no published levels, and the training images "
            f"cannot be used to set them ({error}); use sscd, or more training images"
        ) from None


def _search(
    described: NDArray[np.float32],
    train: NDArray[np.float32],
    *,
    k: int,
    exclude: NDArray[np.int64] | None = None,
    device: str,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """L2 distances of unit vectors, since duplicates are a matter of distances, and ids."""
    found = most_similar(described, train, k=k, exclude=exclude, device=device)
    distances: NDArray[np.float64] = np.sqrt(np.maximum(0.0, 2 - 2 * found.similarities))
    return distances, found.train_ids


def _dissimilarities(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """One minus the cosine, from the L2 distance of unit vectors."""
    halves: NDArray[np.float64] = np.square(distances) / 2
    return halves
