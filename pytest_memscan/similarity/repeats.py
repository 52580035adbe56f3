"""Groups of images that are far closer to each other than to everything else.

There is no scale to compare with: nothing is known of the images but the images. So a group is told
by its *isolation* alone: the longest distance within it is at most a share ``ISOLATION`` of the
distance from any member to the nearest *outsider*, which is any other image, or whatever lies at
the member's ``reach`` (a blank picture, for example: without it a set in which everything is the
same would have no outsider, and images that show hardly anything would pass for alike).

How many such groups does chance make? Where images are spread like a Poisson process of local
dimension ``m``, the distances from one of them to its nearest neighbours obey
``P(d_j <= c * d_{j+1}) = c ** (j * m)`` whatever the density is: the volumes within them are a
unit-rate Poisson process, of which ``V_j / V_{j+1}`` is Beta(j, 1). An image of an isolated group
of ``s`` has ``d_{s-1} <= c * d_s``, and a group has ``s`` of them, so ``n`` images make at most
``n * sum over s of c ** ((s - 1) * m) / s`` groups on average. The dimension is measured on the
images themselves (Levina & Bickel, NIPS 2004), around each: so a group is asked to be larger where
the images around it have few free numbers, and nowhere else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma

from pytest_memscan.similarity.duplicates import DuplicateGroups, Search, nearest_groups

ISOLATION = 0.5  # chosen on one seed of the built-in checkpoints (docs/repeats.md)
NUM_NEIGHBOURS = 50  # listed at first; as many measure the dimension
MIN_FOR_DIMENSION = 10  # neighbours, with fewer no dimension is measured
MAX_DIMENSION = 1e6
_MAX_CELLS = 2**23  # distances listed at a time
_NEGLIGIBLE = 1e-9  # share of a sum


@dataclass(frozen=True, kw_only=True)
class IsolatedGroup:
    """Images that are each other's nearest, far from the rest.

    Attributes:
        members: Ids, ascending.
        diameter: Longest distance between two of them.
        gap: Shortest distance from one of them to an outsider.
    """

    members: tuple[int, ...]
    diameter: float
    gap: float


def isolated_groups(
    search: Search, reach: NDArray[np.float64], *, isolation: float = ISOLATION
) -> list[IsolatedGroup]:
    """All isolated groups of two and more that lie within no larger one.

    Such a group is, seen from each of its members, the member and its nearest neighbours up to a
    jump in distance. So every image names the sets that end at such a jump, and a set that all its
    members name is a group. Lists are lengthened only for images whose last listed neighbour is
    still near enough to belong to a group.

    Args:
        search: Ids and k -> distances and ids of the k nearest *other* images, ascending.
        reach: ``(num_images,)`` distance from each image to what counts as an outsider besides the
            other images; positive, may be infinite.
        isolation: Largest diameter, as a share of the gap; less than 1, so that two groups are
            either nested or have no image in common.

    Returns:
        Largest first; equal sizes by their lowest id.

    Memory: ``2**23`` distances and ids at a time (200 MB), and the members of the groups.
    """
    named: dict[bytes, _Named] = {}
    for rows, distances, ids in _lists(search, reach, isolation=isolation):
        beyond = np.tile(reach[rows][:, None], distances.shape[1])
        np.minimum(beyond[:, :-1], distances[:, 1:], out=beyond[:, :-1])
        jumps = (distances <= isolation * beyond) & (distances < beyond)
        for row, last in zip(*np.nonzero(jumps), strict=True):
            members = np.sort(np.append(ids[row, : last + 1], rows[row]))
            key = hashlib.blake2b(members.tobytes(), digest_size=16).digest()
            named.setdefault(key, _Named(members)).add(distances[row, last], beyond[row, last])
    groups = [
        IsolatedGroup(members=tuple(each.members.tolist()), diameter=each.diameter, gap=each.gap)
        for each in named.values()
        if each.count == len(each.members) and each.diameter <= isolation * each.gap
    ]
    return _outermost(groups)


class _Named:
    """A set of images that some of them named, and what they said of it."""

    def __init__(self, members: NDArray[np.int64]) -> None:
        self.members, self.count = members, 0
        self.diameter, self.gap = 0.0, np.inf

    def add(self, farthest: float, beyond: float) -> None:
        self.count += 1
        self.diameter = max(self.diameter, float(farthest))
        self.gap = min(self.gap, float(beyond))


def _lists(
    search: Search, reach: NDArray[np.float64], *, isolation: float
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]]:
    """Images with their nearest others, as far as a group around them can go."""
    most = len(reach) - 1
    width = min(most, NUM_NEIGHBOURS + 1)
    pending = np.arange(len(reach))
    while len(pending) and most:
        unfinished = []
        at_once = max(1, _MAX_CELLS // width)
        for start in range(0, len(pending), at_once):
            rows = pending[start : start + at_once]
            distances, ids = search(rows, width)
            done = (distances[:, -1] > isolation * reach[rows]) | (width == most)
            yield rows[done], distances[done], ids[done]
            unfinished.append(rows[~done])
        pending = np.concatenate(unfinished)
        width = min(most, 4 * width)


def _outermost(groups: list[IsolatedGroup]) -> list[IsolatedGroup]:
    kept, taken = [], set[int]()
    for group in sorted(groups, key=lambda each: (-len(each.members), each.members)):
        if taken.isdisjoint(group.members):
            kept.append(group)
            taken.update(group.members)
    return kept


def local_dimensions(
    search: Search, num_images: int, groups: list[IsolatedGroup]
) -> NDArray[np.float64]:
    """Dimension of the surroundings of each image; those of a group are what is around it.

    Levina & Bickel's estimate ``(k - 2) / sum log(d_k / d_j)`` from the ``k = NUM_NEIGHBOURS``
    nearest, a group counting as one of them; unbiased in a homogeneous Poisson process. There a
    group of ``s`` stands for the ``s - 1`` nearest neighbours of its members, so around it the
    sum has only the terms from ``d_s`` on, and ``k - 1`` becomes their mean (`_mean_of_logs`).

    Args:
        search: As for `isolated_groups`.
        num_images: Images in all.
        groups: Without an image in common.

    Returns:
        ``(num_images,)``; empty where there are too few to tell. At most ``MAX_DIMENSION``, the
        value where all neighbours are equally far.
    """
    lowest = np.arange(num_images)
    for group in groups:
        lowest[list(group.members)] = group.members[0]
    apart, group_of, sizes = np.unique(lowest, return_inverse=True, return_counts=True)
    if len(apart) <= MIN_FOR_DIMENSION:
        return np.empty(0)
    distances, _ = nearest_groups(
        lambda rows, k: search(apart[rows], k),
        len(apart),
        DuplicateGroups(representatives=apart, group_of=group_of),
        k=NUM_NEIGHBOURS,
        own=np.arange(len(apart)),
    )
    logs = np.log(distances[:, -1:] / distances[:, :-1]).sum(axis=1)
    expected = _mean_of_logs(sizes, distances.shape[1]) - 1
    dimensions: NDArray[np.float64] = expected / np.maximum(logs, expected / MAX_DIMENSION)
    return dimensions[group_of]


def _mean_of_logs(group_sizes: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Mean of ``sum log(V_last / V_j)`` over ``j = s ... last - 1``, ``last = s + k - 1``.

    ``V_1 < V_2 < ...`` is a unit-rate Poisson process, in which the mean of
    ``log(V_last / V_j)`` is ``digamma(last) - digamma(j)``. For ``s = 1`` the sum is ``k - 1``.
    """
    ranks = group_sizes[:, None] + np.arange(k - 1)
    means = digamma(group_sizes + k - 1)[:, None] - digamma(ranks)
    total: NDArray[np.float64] = means.sum(axis=1)
    return total


def expected_by_chance(
    dimensions: NDArray[np.float64],
    group_sizes: NDArray[np.int64],
    *,
    num_images: int,
    isolation: float = ISOLATION,
) -> NDArray[np.float64]:
    """Most isolated groups of a size and more that chance makes on average.

    Args:
        dimensions: ``(num,)`` positive; each is taken as that of all images.
        group_sizes: ``(num,)`` at least 2.
        num_images: Images in all.
        isolation: As for `isolated_groups`.

    Returns:
        ``(num,)`` groups among all the images.

    Example:
        >>> expected_by_chance(np.array([10.0]), np.array([2]), num_images=1000).round(4)
        array([0.4886])
    """
    share = isolation**dimensions
    total = np.zeros(len(dimensions))
    for more in range(num_images):
        sizes = group_sizes + more
        added = share ** (sizes - 1) / sizes
        total += added
        if (added <= _NEGLIGIBLE * total).all():
            break
    return num_images * total


def counting_sizes(
    dimensions: NDArray[np.float64], *, num_images: int, smallest: int, expected: float
) -> NDArray[np.int64]:
    """For each dimension the smallest size of which chance makes at most ``expected`` groups.

    Args:
        dimensions: ``(num,)`` positive.
        num_images: Images in all.
        smallest: Size that is never undercut, at least 2.
        expected: Positive.
    """
    sizes = np.full(len(dimensions), smallest)
    pending = np.arange(len(dimensions))
    while len(pending):
        by_chance = expected_by_chance(dimensions[pending], sizes[pending], num_images=num_images)
        pending = pending[by_chance > expected]
        sizes[pending] += 1
    return sizes
