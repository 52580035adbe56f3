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
ABSOLUTE_DISTANCE = 0.1  # of the median of that distance over the training set


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
    neighbours: Neighbours, *, rows: NDArray[np.int64], num_train: int
) -> DuplicateGroups:
    """Group training images joined by chains of near-duplicates.

    Two are near-duplicates when their distance is at most ``RELATIVE_DISTANCE`` of the distance
    from one of them to its last listed neighbour, or at most ``ABSOLUTE_DISTANCE`` of the median
    of that distance. The second rule is for families so large that they are each other's whole
    neighbourhood.

    Args:
        neighbours: Of training images among the other training images.
        rows: ``(len(neighbours),)`` training id of each row.
        num_train: Number of training images.

    Returns:
        Groups in the order of their lowest id.
    """
    distances = neighbours.distances
    farthest = distances[:, -1]
    reach = np.maximum(RELATIVE_DISTANCE * farthest, ABSOLUTE_DISTANCE * np.median(farthest))
    near, position = np.nonzero(distances <= reach[:, None])
    edges = (rows[near], neighbours.train_ids[near, position])
    graph = coo_array((np.ones(len(near), dtype=bool), edges), shape=(num_train, num_train))  # type: ignore[no-untyped-call]
    _, labels = connected_components(graph, directed=False)
    representatives, group_of = np.unique(_lowest_member(labels), return_inverse=True)
    return DuplicateGroups(representatives=representatives, group_of=group_of)


def _lowest_member(labels: NDArray[np.int32]) -> NDArray[np.int64]:
    """For each image the lowest id that shares its label."""
    lowest = np.full(labels.max() + 1, len(labels), dtype=np.int64)
    np.minimum.at(lowest, labels, np.arange(len(labels)))
    members: NDArray[np.int64] = lowest[labels]
    return members
