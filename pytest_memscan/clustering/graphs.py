"""The similarity graphs of a set of images, their cliques, and the pictures those show.

Thresholds are whole hundredths. Everything is deterministic, whatever the machine: similarities
are rounded before they are compared, ties go to the lower index, and searches end by nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from pytest_memscan.cliques import largest_clique, mean_distance

Floats = NDArray[np.float64]

SHARES = 20  # searches that may use up their part of the budget
_LEAST_NODES = 100  # for each search after those


@dataclass(frozen=True, kw_only=True)
class Group:
    """A clique."""

    members: tuple[int, ...]  # ascending
    representative: int  # the member nearest to the mean descriptor
    mean: float | None  # similarity over its pairs; None for a single image

    @property
    def rank(self) -> tuple[float, float, int]:
        """Best supported first: size, mean similarity, lowest index."""
        return -len(self.members), -(self.mean or 0.0), self.members[0]


@dataclass
class Graphs:
    """The similarity graphs of one set of images, and what is left for searching them."""

    similarities: Floats  # (num_images, num_images)
    descriptors: Floats  # (num_images, dimension), unit vectors
    node_budget: int  # search nodes in all
    proven: bool = True  # every search came to its end
    left: int = field(init=False)  # search nodes

    def __post_init__(self) -> None:
        self.left = self.node_budget

    def cliques(self, threshold: int, smallest: int) -> list[Group]:
        """The greedy partition from so many hundredths on, down to cliques of a size; ranked.

        Cliques never cross from one connected part to another, so that each part is searched on
        its own: much faster, and the partition is the same.
        """
        joined = self.similarities >= threshold / 100
        np.fill_diagonal(joined, False)
        groups = [
            self._group(members)
            for part in _parts(joined, smallest)
            for members in self._greedy(joined[np.ix_(part, part)], part, smallest)
        ]
        return sorted(groups, key=lambda group: group.rank)

    def _greedy(
        self, joined: NDArray[np.bool_], part: NDArray[np.int64], smallest: int
    ) -> Iterator[tuple[int, ...]]:
        while len(part) >= smallest:
            nodes = max(min(self.left, self.node_budget // SHARES), _LEAST_NODES)
            found = largest_clique(joined, node_budget=nodes)
            if not found.proven:
                self.proven, self.left = False, max(self.left - nodes, 0)
            if len(found) < smallest:
                return
            yield tuple(part[list(found.members)].tolist())
            rest = np.delete(np.arange(len(part)), found.members)
            part, joined = part[rest], joined[np.ix_(rest, rest)]

    def _group(self, members: tuple[int, ...]) -> Group:
        vectors = self.descriptors[list(members)]
        nearness = np.round(vectors @ vectors.mean(axis=0), 6)  # of a pair both are equally near
        mean = round(mean_distance(self.similarities, members), 6) if len(members) > 1 else None
        return Group(members=members, representative=members[int(nearness.argmax())], mean=mean)


def pictures(groups: list[Group], graphs: Graphs, threshold: int) -> list[Group]:
    """Without those whose representative is joined to that of a better supported one."""
    kept: list[Group] = []
    for group in groups:
        others = [each.representative for each in kept]
        if not (graphs.similarities[group.representative, others] >= threshold / 100).any():
            kept.append(group)
    return kept


def similarities_of(descriptors: NDArray[np.floating[Any]]) -> Floats:
    """Cosines, rounded so that no order of summation changes which images are joined."""
    vectors = np.asarray(descriptors, dtype=np.float64)
    if vectors.ndim != 2 or not len(vectors):
        raise ValueError(f"need (num_images, dimension) descriptors, got {vectors.shape}")
    if not (np.abs(np.linalg.norm(vectors, axis=1) - 1) < 1e-3).all():
        raise ValueError("descriptors must be unit vectors")
    products = np.round(vectors @ vectors.T, 6)
    return np.minimum(products, products.T)


def _parts(joined: NDArray[np.bool_], smallest: int) -> list[NDArray[np.int64]]:
    """Connected parts of at least so many images, each ascending."""
    count, labels = connected_components(joined, directed=False)
    sizes = np.bincount(labels, minlength=count)
    return [np.flatnonzero(labels == part) for part in np.flatnonzero(sizes >= smallest)]
