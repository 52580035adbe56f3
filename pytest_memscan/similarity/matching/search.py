"""The exact search behind `nearest`: candidates, their scores by definition, proof or more work.

*Exact* means: as if the float64 score of every pair had been computed from its definition
(`exact.pair_scores`) and sorted, equal scores by the lower training id. It is done in three steps.

1. All pairs in 8-bit integers, with a proven bound on the error of each row (`quantised`). The
   ``width > k`` best products of a row are its candidates (`candidates`).
2. Scores of the candidates by their definition; at first of the k best, then of those that the
   bound lets reach them. A row is *proven* when its k-th best score is above everything that a
   training vector outside the candidates can reach: the smallest product kept, plus the bound.
   Then no such vector is in the answer, not even as a tie.
3. Rows that are not proven go through float32 products of all pairs, whose bound is thousands of
   times tighter (`exact.exhaustive`). How many needed that is part of the answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.similarity.matching.candidates import (
    TILE_TRAIN,
    generated_rows,
    tile_rows,
    top_candidates,
)
from pytest_memscan.similarity.matching.exact import best_first, exhaustive, pair_scores
from pytest_memscan.similarity.matching.quantised import (
    MAX_DIMENSION,
    Metric,
    check_vectors,
    code_generated,
    survey,
)

CANDIDATES_PER_NEIGHBOUR = 6
SPARE_CANDIDATES = 64
_CANDIDATES_AT_ONCE = 2**21  # of all rows of a block, which bounds the memory for them


@dataclass(frozen=True, kw_only=True)
class Found:
    """``scores`` and ``train_ids`` ``(num_generated, k)``, best first; see `nearest.Similar`."""

    scores: NDArray[np.float64]
    train_ids: NDArray[np.int64]
    num_exhaustive: int


class Search:
    """Generated vectors against training vectors, both checked.

    Raises:
        ValueError: As documented in `nearest`.
    """

    def __init__(
        self,
        generated: NDArray[np.float32],
        train: NDArray[np.float32],
        *,
        metric: Metric,
        device: str,
    ) -> None:
        _check_shapes(generated, train)
        self._generated, self._train = generated, train
        self._metric, self._device = metric, device
        at_once = tile_rows(TILE_TRAIN, train.shape[1])
        for start in range(0, len(generated), at_once):
            tile = generated[start : start + at_once]
            check_vectors(tile, side="generated", first_row=start, metric=metric)
        self._grid = survey(train, metric=metric, tile_rows=at_once)

    def top(self, k: int, exclude: NDArray[np.int64] | None) -> Found:
        """The k best training vectors of every generated one.

        Raises:
            ValueError: There is none to return.
        """
        k = min(k, len(self._train) - (exclude is not None))
        if k < 1:
            raise ValueError("no training vector can be returned: k, or what is left, is 0")
        scores = np.empty((len(self._generated), k))
        ids = np.empty(scores.shape, dtype=np.int64)
        width = CANDIDATES_PER_NEIGHBOUR * k + SPARE_CANDIDATES
        at_once = min(generated_rows(self._train.shape[1]), max(1, _CANDIDATES_AT_ONCE // width))
        proven = np.empty(len(scores), dtype=np.bool_)
        for rows in _blocks(len(scores), at_once):
            own = None if exclude is None else exclude[rows]
            scores[rows], ids[rows], proven[rows] = self._settle(rows, own, k=k, width=width)
        left = np.flatnonzero(~proven)
        if len(left):
            scores[left], ids[left] = exhaustive(
                self._generated[left],
                self._train,
                k=k,
                reached=scores[left, -1],
                exclude=None if exclude is None else exclude[left],
                grid=self._grid,
                device=self._device,
            )
        return Found(scores=scores, train_ids=ids, num_exhaustive=len(left))

    def _settle(
        self, block: slice, exclude: NDArray[np.int64] | None, *, k: int, width: int
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
        """Steps 1 and 2 for some rows: scores, training ids, and which rows are proven."""
        generated = self._generated[block]
        coded = code_generated(generated, self._grid, device=self._device)
        candidates = top_candidates(
            coded,
            self._train,
            width=min(width, len(self._train)),
            exclude=exclude,
            device=self._device,
        )
        ids = candidates.train_ids
        margins = coded.margins(residual=candidates.residual, length=candidates.length)
        most = coded.units[:, None] * candidates.products + margins[:, None]
        scores = np.full(ids.shape, -np.inf)
        scores[:, :k] = self._scores(generated, ids, np.ones((len(ids), k), dtype=np.bool_))
        needed = (most >= coded.values(scores[:, :k].min(axis=1))[:, None]) & (ids >= 0)
        needed[:, :k] = False
        # Products are in descending order, so that those needed stand at the front.
        last = max(k, int(np.flatnonzero(needed.any(axis=0)).max(initial=0)) + 1)
        rest = self._scores(generated, ids, needed[:, :last])
        scores[:, :last] = np.where(needed[:, :last], rest, scores[:, :last])
        best, best_ids = best_first(scores[:, :last], ids[:, :last], k)
        proven = coded.values(best[:, -1]) > most[:, -1]
        proven |= (ids[:, -1] < 0) | (ids.shape[1] == len(self._train))
        return best, best_ids, proven

    def _scores(
        self, generated: NDArray[np.float32], ids: NDArray[np.int64], wanted: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """Scores by definition of the wanted pairs, ``wanted.shape``; -inf elsewhere."""
        rows, columns = np.nonzero(wanted)
        scores = np.full(wanted.shape, -np.inf)
        scores[rows, columns] = pair_scores(
            generated, self._train, rows, ids[rows, columns], metric=self._metric
        )
        return scores


def _blocks(count: int, at_once: int) -> Iterator[slice]:
    for start in range(0, count, at_once):
        yield slice(start, min(start + at_once, count))


def _check_shapes(generated: NDArray[np.float32], train: NDArray[np.float32]) -> None:
    for side, vectors in (("generated", generated), ("train", train)):
        if vectors.ndim != 2 or vectors.dtype != np.float32:
            raise ValueError(
                f"{side} vectors are {vectors.dtype} {vectors.shape}; expected float32 (num, dim)"
            )
    if not len(generated) or not len(train):
        raise ValueError(f"cannot match {len(generated)} generated with {len(train)} train vectors")
    if generated.shape[1] != train.shape[1]:
        raise ValueError(
            f"generated vectors have {generated.shape[1]} values, train vectors {train.shape[1]}"
        )
    if not 1 <= train.shape[1] <= MAX_DIMENSION:
        raise ValueError(f"vectors of {train.shape[1]} values; expected 1 to {MAX_DIMENSION}")
