"""Scores by their definition, and the search that needs nothing else.

The *score* is what is maximised: the dot product of two float32 vectors, or minus their squared
L2 distance. Its terms are computed in float64, where products of float32 values are exact, and
added pairwise by numpy in an order that depends on the dimension alone. So equal vectors have equal
scores to the last bit, wherever they stand and whatever is compared beside them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.similarity.matching.bounds import Bounds
from pytest_memscan.similarity.matching.quantised import Grid, Metric

_PAIR_VALUES = 2**18  # of one chunk of pairs, so that it stays in the processor's cache
_ROWS_AT_ONCE = 1024
_TILE_VALUES = 2**21  # of a training tile
_NOT_FOUND = 2**62


def pair_scores(
    generated: NDArray[np.float32],
    train: NDArray[np.float32],
    rows: NDArray[np.int64],
    train_ids: NDArray[np.int64],
    *,
    metric: Metric,
) -> NDArray[np.float64]:
    """``(num_pairs,)`` scores of ``generated[rows]`` with ``train[train_ids]``, pair by pair."""
    scores = np.empty(len(rows))
    at_once = max(1, _PAIR_VALUES // generated.shape[1])
    for start in range(0, len(rows), at_once):
        pairs = slice(start, start + at_once)
        terms = generated[rows[pairs]].astype(np.float64)
        if metric == "cosine":
            terms *= train[train_ids[pairs]]
            scores[pairs] = terms.sum(axis=1)
        else:
            terms -= train[train_ids[pairs]]
            terms *= terms
            scores[pairs] = -terms.sum(axis=1)
    return scores


def best_first(
    scores: NDArray[np.float64], train_ids: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The k best of every row; equal scores go to the lower id."""
    order = np.lexsort((train_ids, -scores), axis=1)[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(train_ids, order, axis=1)


def exhaustive(
    generated: NDArray[np.float32],
    train: NDArray[np.float32],
    *,
    k: int,
    reached: NDArray[np.float64],
    exclude: NDArray[np.int64] | None,
    grid: Grid,
    device: str,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The k best of every row from float32 products of all pairs.

    A float32 matrix product differs from the definition in the last bits, so it only chooses
    which pairs can be in the answer. Training vectors equal to an earlier one are left out and
    put back at the end: a thousand copies of one image cost as much as one.

    Args:
        generated: ``(rows, dim)``.
        train: ``(num_train, dim)``; may be a memory map.
        k: At most the training vectors that a row may be compared with.
        reached: ``(rows,)`` a score that at least k training vectors reach.
        exclude: As for `nearest.most_similar`.
        grid: Of the training vectors.
        device: Where the products are computed.

    Returns:
        Scores and training ids, ``(rows, k)``.

    Cost: ``rows * num_train * dim`` float32 multiply-adds; if nearly all pairs tie without being
    equal, as many again one by one. Memory: under 200 MB, and 40 bytes for a training vector.
    """
    first = first_of_equals(train)
    copies = _Copies(first)
    found = []
    for start in range(0, len(generated), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        bounds = Bounds(generated[rows], grid, device=device)
        # One more than asked for: the excluded vector may stand among them.
        scores, ids = _best_of_distinct(bounds, train, first, k=k + 1, reached=reached[rows])
        own = None if exclude is None else exclude[rows]
        found.append(copies.put_back(scores, ids, exclude=own, k=k))
    return np.concatenate([each[0] for each in found]), np.concatenate([each[1] for each in found])


def first_of_equals(train: NDArray[np.float32]) -> NDArray[np.int64]:
    """``(num_train,)`` id of the first vector equal to each; its own for nearly all.

    Equal vectors whose hash is also that of a different one may stay apart, which costs time and
    nothing else.
    """
    weights = np.random.default_rng(0).integers(1, 2**63, train.shape[1], dtype=np.uint64) * 2 + 1
    hashes = np.empty(len(train), dtype=np.uint64)
    for rows in _tiles(len(train), train.shape[1]):
        # Adding zero turns -0.0 into 0.0, to which it is equal.
        bits = (train[rows] + np.float32(0)).view(np.uint32)
        hashes[rows] = (bits * weights).sum(axis=1, dtype=np.uint64)
    _, lowest, group = np.unique(hashes, return_index=True, return_inverse=True)
    first: NDArray[np.int64] = lowest[group].astype(np.int64)
    suspected = np.flatnonzero(first != np.arange(len(train)))
    for rows in _tiles(len(suspected), train.shape[1]):
        ids = suspected[rows]
        differ = (train[ids] != train[first[ids]]).any(axis=1)
        first[ids[differ]] = ids[differ]
    return first


class _Copies:
    """Training vectors by the first one that equals them."""

    def __init__(self, first: NDArray[np.int64]) -> None:
        self._any = bool((first != np.arange(len(first))).any())
        self._order = np.argsort(first, kind="stable")
        self._sorted = first[self._order]

    def put_back(
        self,
        scores: NDArray[np.float64],
        train_ids: NDArray[np.int64],
        *,
        exclude: NDArray[np.int64] | None,
        k: int,
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The k best of every row among the distinct vectors found and all their copies."""
        if not self._any:
            if exclude is not None:
                scores = np.where(train_ids == exclude[:, None], -np.inf, scores)
            return best_first(scores, train_ids, k)
        kept = np.full((len(scores), k), -np.inf), np.full((len(scores), k), _NOT_FOUND)
        for row in range(len(scores)):
            own = -1 if exclude is None else int(exclude[row])
            all_scores, all_ids = self._with_copies(scores[row], train_ids[row], own, k)
            kept[0][row], kept[1][row] = best_first(all_scores[None], all_ids[None], k)
        return kept

    def _with_copies(
        self, scores: NDArray[np.float64], train_ids: NDArray[np.int64], own: int, k: int
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        all_scores, all_ids = [], []
        for score, train_id in zip(scores, train_ids, strict=True):
            start, end = np.searchsorted(self._sorted, [train_id, train_id + 1])
            members = self._order[start : min(end, start + k + 1)]
            members = members[members != own]
            all_ids.append(members)
            all_scores.append(np.full(len(members), score))
        return np.concatenate(all_scores), np.concatenate(all_ids)


def _best_of_distinct(
    bounds: Bounds,
    train: NDArray[np.float32],
    first: NDArray[np.int64],
    *,
    k: int,
    reached: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The k best of every row among vectors that equal no earlier one.

    Where there are fewer, the rest has score -inf.
    """
    scores = np.full((len(reached), k), -np.inf)
    ids = np.full((len(reached), k), _NOT_FOUND)
    for columns in _tiles(len(train), train.shape[1]):
        rows, column = bounds.possible(train[columns], reached)
        train_ids = column + columns.start
        distinct = first[train_ids] == train_ids
        rows, train_ids = rows[distinct], train_ids[distinct]
        exact = pair_scores(bounds.generated, train, rows, train_ids, metric=bounds.grid.metric)
        scores, ids = _let_in(scores, ids, rows, train_ids, exact)
        reached = np.maximum(reached, scores[:, -1])
    return scores, ids


def _let_in(
    scores: NDArray[np.float64],
    ids: NDArray[np.int64],
    rows: NDArray[np.int64],
    train_ids: NDArray[np.int64],
    entrants: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Merge scored pairs, sorted by row, into the best so far."""
    if not len(rows):
        return scores, ids
    counts = np.bincount(rows, minlength=len(scores))
    place = np.arange(len(rows)) - (np.cumsum(counts) - counts)[rows]
    shape = (len(scores), int(counts.max()))
    new_scores, new_ids = np.full(shape, -np.inf), np.full(shape, _NOT_FOUND)
    new_scores[rows, place] = entrants
    new_ids[rows, place] = train_ids
    return best_first(
        np.concatenate([scores, new_scores], axis=1),
        np.concatenate([ids, new_ids], axis=1),
        scores.shape[1],
    )


def _tiles(count: int, dimension: int) -> Iterator[slice]:
    at_once = max(1, min(4096, _TILE_VALUES // dimension))
    for start in range(0, count, at_once):
        yield slice(start, min(start + at_once, count))
