"""Which training descriptors are most like each generated one: exact, in bounded memory.

Every pair is compared in 8-bit integers with a proven bound on the error; what the bound leaves
open is decided by float64 scores of the original vectors (`search` has the steps, `quantised` the
proof). The answer is that of a float64 brute force, equal scores by the lower training id.

Cost: ``num_generated * num_train * dim`` 8-bit multiply-adds, and one pass over the training
vectors beforehand to check them and to choose the integers.
Memory: inputs as given (training vectors may be a memory map), the answer, and under 700 MB
whatever their number: one tile of each side and its products, and candidates of 16,384 rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.similarity.matching.search import Search


@dataclass(frozen=True, kw_only=True)
class Similar:
    """For each generated vector the most similar training vectors, most similar first.

    Attributes:
        similarities: ``(num_generated, k)`` float64 cosines, in [-1, 1].
        train_ids: ``(num_generated, k)`` int64.
        num_exhaustive: Rows that 8-bit integers did not settle, so that all training vectors were
            compared with them in float32.
    """

    similarities: NDArray[np.float64]
    train_ids: NDArray[np.int64]
    num_exhaustive: int = 0


@dataclass(frozen=True, kw_only=True)
class Near:
    """For each generated vector the nearest training vectors, nearest first.

    Attributes:
        distances: ``(num_generated, k)`` float64 L2 distances.
        train_ids: ``(num_generated, k)`` int64.
        num_exhaustive: As in `Similar`.
    """

    distances: NDArray[np.float64]
    train_ids: NDArray[np.int64]
    num_exhaustive: int = 0


def most_similar(
    generated: NDArray[np.float32],
    train: NDArray[np.float32],
    *,
    k: int,
    exclude: NDArray[np.int64] | None = None,
    device: str = "cpu",
) -> Similar:
    """The ``k`` training vectors of greatest cosine with each generated vector, exactly.

    Args:
        generated: ``(num_generated, dim)`` float32 unit vectors.
        train: ``(num_train, dim)`` float32 unit vectors; may be a memory map.
        k: Training vectors to return; all where there are fewer.
        exclude: ``(num_generated,)`` id of the training vector that each row must not be
            compared with (itself, when training vectors are compared with each other).
        device: Where the products are computed.

    Returns:
        float64 dot products, clipped to [-1, 1] after sorting: that of a unit vector in float32
        with itself may be 1 + 1e-7.

    Raises:
        ValueError: A side is empty, the dimensions differ or exceed 65,536, or a vector is not
            finite or not of length 1 within 1e-4.

    Example:
        >>> train = np.eye(3, dtype=np.float32)
        >>> most_similar(train[1:2], train, k=2).train_ids
        array([[1, 0]])
    """
    found = Search(generated, train, metric="cosine", device=device).top(k, exclude)
    return Similar(
        similarities=np.clip(found.scores, -1.0, 1.0),
        train_ids=found.train_ids,
        num_exhaustive=found.num_exhaustive,
    )


def nearest_vectors(
    generated: NDArray[np.float32],
    train: NDArray[np.float32],
    *,
    k: int,
    exclude: NDArray[np.int64] | None = None,
    device: str = "cpu",
) -> Near:
    """The ``k`` training vectors nearest to each generated vector by L2, exactly.

    Args:
        generated: ``(num_generated, dim)`` float32, of any length.
        train: ``(num_train, dim)`` float32; may be a memory map.
        k: As for `most_similar`.
        exclude: As for `most_similar`.
        device: As for `most_similar`.

    Raises:
        ValueError: As for `most_similar`, but lengths are free.

    Example:
        >>> train = np.array([[0.0], [3.0], [5.0]], dtype=np.float32)
        >>> nearest_vectors(np.float32([[4.5]]), train, k=2).distances
        array([[0.5, 1.5]])
    """
    found = Search(generated, train, metric="l2", device=device).top(k, exclude)
    return Near(
        distances=np.sqrt(-found.scores),
        train_ids=found.train_ids,
        num_exhaustive=found.num_exhaustive,
    )
