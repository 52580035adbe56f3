"""Near-duplicate training images, merged before anything is counted.

What a model copies first are the images it saw several times. Left apart, two copies of one
image would count twice and, standing in each other's neighbourhood, distort the
neighbour-normalised distance (Carlini et al. 2023, section 5: deduplicate first, report).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

RELATIVE_DISTANCE = 0.25  # of the distance to the image's farthest listed neighbour
ABSOLUTE_DISTANCE = 0.05  # of the distance between two training images taken at random
MAX_WITHIN = 1_000  # groups listed for one image
_SAMPLED_FOR_SPREAD = 500  # images; a scale needs no more
_MAX_CELLS = 2**23  # distances listed at a time
Search = Callable[[NDArray[np.int64], int], tuple[NDArray[np.float64], NDArray[np.int64]]]


@dataclass(frozen=True, kw_only=True)
class DuplicateGroups:
    """Training images by group.

    Attributes:
        representatives: ``(num_groups,)`` lowest training id of each group, ascending.
        group_of: ``(num_train,)`` position of each training image's group in it.
    """

    representatives: NDArray[np.int64] = field(repr=False)
    group_of: NDArray[np.int64] = field(repr=False)

    def representative_of(self, train_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Id of the representative of each training image's group."""
        found: NDArray[np.int64] = self.representatives[self.group_of[train_ids]]
        return found

    @property
    def redundant(self) -> NDArray[np.int64]:
        """Training ids that are not their group's representative, ascending."""
        return np.setdiff1d(np.arange(len(self.group_of)), self.representatives)

    def largest(self, most: int) -> tuple[tuple[int, ...], ...]:
        """Training ids of up to ``most`` groups of two and more, largest first."""
        order = np.argsort(self.group_of, kind="stable")
        sizes = np.bincount(self.group_of)
        members = np.split(order, np.cumsum(sizes)[:-1])
        ranked = np.argsort(-sizes, kind="stable")[:most]
        return tuple(tuple(members[group].tolist()) for group in ranked if sizes[group] > 1)


def near_duplicate_groups(
    distances: NDArray[np.float64],
    train_ids: NDArray[np.int64],
    *,
    rows: NDArray[np.int64],
    num_train: int,
    typical_distance: float,
) -> DuplicateGroups:
    """Group training images joined by chains of near-duplicates.

    Two are near-duplicates when their distance is at most ``RELATIVE_DISTANCE`` of the distance
    from one of them to its last listed neighbour, or at most ``ABSOLUTE_DISTANCE`` of
    ``typical_distance``. The second rule is for families so large that they are each other's
    whole neighbourhood.

    Args:
        distances: ``(num_rows, k)`` L2 distances of training images to others, ascending.
        train_ids: ``(num_rows, k)`` ids of those others.
        rows: ``(num_rows,)`` training id of each row.
        num_train: Training images in all.
        typical_distance: Between training images at random.

    Returns:
        Groups in the order of their lowest id.
    """
    reach = np.maximum(RELATIVE_DISTANCE * distances[:, -1], ABSOLUTE_DISTANCE * typical_distance)
    near, position = np.nonzero(distances <= reach[:, None])
    edges = (rows[near], train_ids[near, position])
    graph = coo_array((np.ones(len(near), dtype=bool), edges), shape=(num_train, num_train))  # type: ignore[no-untyped-call]
    _, labels = connected_components(graph, directed=False)
    representatives, group_of = np.unique(_lowest_member(labels), return_inverse=True)
    return DuplicateGroups(representatives=representatives, group_of=group_of)


def nearest_groups(
    search: Search,
    num_rows: int,
    groups: DuplicateGroups,
    *,
    k: int,
    within: float | None = None,
    own: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The nearest groups of every row; a group is as close as its closest member.

    Args:
        search: ``(rows, width)`` -> distances and ids of the ``width`` nearest training images of
            these rows, ascending; of all others of a row's own where it leaves itself out.
        num_rows: Images that are looked for.
        groups: Of the training images.
        k: Groups wanted for each row; all of them where there are fewer.
        within: List every group within this distance too, however many they are.
        own: ``(num_rows,)`` group that each row belongs to, which is left out.

    Returns:
        Distances and ids of the groups' representatives, both ``(num_rows, columns)``, ascending;
        rows that list fewer are filled with infinity and -1.

    Raises:
        TooManyError: More than ``MAX_WITHIN`` groups lie within the distance.
    """
    num_train = len(groups.group_of) - (own is not None)
    k = min(k, len(groups.representatives) - (own is not None))
    width = min(num_train, k if len(groups.representatives) == len(groups.group_of) else k + 10)
    found: list[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]] = []
    pending = np.arange(num_rows)
    while len(pending):
        unfinished = []
        for start in range(0, len(pending), max(1, _MAX_CELLS // width)):
            rows = pending[start : start + max(1, _MAX_CELLS // width)]
            distances, train_ids = search(rows, width)
            of_group = groups.group_of[train_ids]
            first = _first_of_each(of_group)
            if own is not None:
                first &= of_group != own[rows][:, None]
            done = first.sum(axis=1) >= k
            if within is not None:
                if (first & (distances <= within)).sum(axis=1).max() > MAX_WITHIN:
                    raise TooManyError(f"more than {MAX_WITHIN} within {within:g}")
                done &= distances[:, -1] > within
            done |= width == num_train
            found.append((rows[done], *_packed(distances[done], of_group[done], first[done])))
            unfinished.append(rows[~done])
        pending = np.concatenate(unfinished)
        width = min(num_train, 4 * width)
    return _in_order(found, num_rows, groups.representatives, k=k, within=within)


class TooManyError(ValueError):
    """Too many training images lie within the asked distance to tell them apart."""


def _first_of_each(of_group: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where a row names a group for the first time."""
    order = np.argsort(of_group, axis=1, kind="stable")
    ordered = np.take_along_axis(of_group, order, axis=1)
    new = np.ones_like(ordered, dtype=bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.empty_like(new)
    np.put_along_axis(first, order, new, axis=1)
    return first


def _packed(
    distances: NDArray[np.float64], of_group: NDArray[np.int64], first: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """First namings moved to the left, in their order; infinity and -1 after them."""
    columns = int(first.sum(axis=1).max(initial=0))
    order = np.argsort(~first, axis=1, kind="stable")[:, :columns]
    kept = np.take_along_axis(first, order, axis=1)
    return (
        np.where(kept, np.take_along_axis(distances, order, axis=1), np.inf),
        np.where(kept, np.take_along_axis(of_group, order, axis=1), -1),
    )


def _in_order(
    found: list[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]],
    num_rows: int,
    representatives: NDArray[np.int64],
    *,
    k: int,
    within: float | None,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """One array from the parts, as wide as needed and no wider."""
    reach = -np.inf if within is None else within
    columns = max([k, *((part <= reach).sum(axis=1).max(initial=0) for _, part, _ in found)])
    distances = np.full((num_rows, columns), np.inf)
    train_ids = np.full((num_rows, columns), -1, dtype=np.int64)
    for rows, part, of_group in found:
        width = min(columns, part.shape[1])
        distances[rows, :width] = part[:, :width]
        named = of_group[:, :width]
        train_ids[rows, :width] = np.where(named >= 0, representatives[named], -1)
    return distances, train_ids


def random_pair_distance(vectors: NDArray[np.uint8] | NDArray[np.float32]) -> float:
    """Root mean square L2 distance between two of the vectors, from at most 500 of them."""
    sample = vectors[:: max(1, len(vectors) // _SAMPLED_FOR_SPREAD)]
    mean = sample.mean(axis=0, dtype=np.float64)
    variance = np.mean([np.square(vector - mean).sum() for vector in sample])
    return float(np.sqrt(2 * variance))


def _lowest_member(labels: NDArray[np.int32]) -> NDArray[np.int64]:
    """For each image the lowest id that shares its label."""
    lowest = np.full(labels.max() + 1, len(labels), dtype=np.int64)
    np.minimum.at(lowest, labels, np.arange(len(labels)))
    members: NDArray[np.int64] = lowest[labels]
    return members
