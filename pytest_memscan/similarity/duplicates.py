"""Near-duplicate training images, merged before anything is counted.

What a model copies first are the images it saw several times. Left apart, two copies of one
image would count twice and, standing in each other's neighbourhood, distort the
neighbour-normalised distance (Carlini et al. 2023, section 5: deduplicate first, report).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pytest_memscan.similarity.pixels import Neighbours

RELATIVE_DISTANCE = 0.25  # of the distance to the image's farthest listed neighbour
ABSOLUTE_DISTANCE = 0.05  # of the distance between two training images taken at random
_SAMPLED_FOR_SPREAD = 500  # images; a scale needs no more


@dataclass(frozen=True, kw_only=True)
class DuplicateGroups:
    """Training images by group.

    Attributes:
        representatives: ``(num_groups,)`` lowest training id of each group, ascending.
        group_of: ``(num_train,)`` position of each training image's group in it.
    """

    representatives: NDArray[np.int64]
    group_of: NDArray[np.int64]


def near_duplicate_groups(
    neighbours: Neighbours, *, rows: NDArray[np.int64], train: NDArray[np.uint8]
) -> DuplicateGroups:
    """Group training images joined by chains of near-duplicates.

    Two are near-duplicates when their distance is at most ``RELATIVE_DISTANCE`` of the distance
    from one of them to its last listed neighbour, or at most ``ABSOLUTE_DISTANCE`` of the
    distance between training images at random. The second rule is for families so large that
    they are each other's whole neighbourhood.

    Args:
        neighbours: Of training images among the other training images.
        rows: ``(len(neighbours),)`` training id of each row.
        train: ``(num_train, ...)`` uint8.

    Returns:
        Groups in the order of their lowest id.
    """
    distances = neighbours.distances
    reach = np.maximum(
        RELATIVE_DISTANCE * distances[:, -1], ABSOLUTE_DISTANCE * random_pair_distance(train)
    )
    near, position = np.nonzero(distances <= reach[:, None])
    edges = (rows[near], neighbours.train_ids[near, position])
    graph = coo_array((np.ones(len(near), dtype=bool), edges), shape=(len(train), len(train)))  # type: ignore[no-untyped-call]
    _, labels = connected_components(graph, directed=False)
    representatives, group_of = np.unique(_lowest_member(labels), return_inverse=True)
    return DuplicateGroups(representatives=representatives, group_of=group_of)


def random_pair_distance(images: NDArray[np.uint8]) -> float:
    """Root mean square normalised L2 between two of the images, from at most 500 of them."""
    sample = images[:: max(1, len(images) // _SAMPLED_FOR_SPREAD)]
    mean = sample.mean(axis=0, dtype=np.float64)
    variance = np.mean([np.square(image - mean).mean() for image in sample])
    return float(np.sqrt(2 * variance)) / 255.0


def _lowest_member(labels: NDArray[np.int32]) -> NDArray[np.int64]:
    """For each image the lowest id that shares its label."""
    lowest = np.full(labels.max() + 1, len(labels), dtype=np.int64)
    np.minimum.at(lowest, labels, np.arange(len(labels)))
    members: NDArray[np.int64] = lowest[labels]
    return members
