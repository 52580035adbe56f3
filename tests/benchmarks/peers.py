"""What matching is measured against, in the same process: bare products, scikit-learn, faiss.

scikit-learn and faiss are wanted by benchmarks only; one that is not installed is left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pytest_memscan.similarity.matching.candidates import TILE_GENERATED, TILE_TRAIN
from pytest_memscan.similarity.matching.products import integer_product

Ids = NDArray[np.int64]


def race(
    contestants: Mapping[str, Callable[[], Any]], *, repeats: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """Seconds of each, the best of a few, and what each returned.

    They take turns, so that all see the same machine. Processor time where there is one thread,
    since other work on the machine does not count then; wall time otherwise.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    best: dict[str, float] = dict.fromkeys(contestants, float("inf"))
    returned = {}
    for _ in range(repeats):
        for name, run in contestants.items():
            started = clock()
            returned[name] = run()
            best[name] = min(best[name], clock() - started)
    return best, returned


def ratios(seconds: Mapping[str, float], *, ours: str) -> dict[str, float]:
    """``NAME / ours``: above 1, ours is that many times faster."""
    return {
        f"{name} / {ours}": round(value / seconds[ours], 2)
        for name, value in seconds.items()
        if name != ours
    }


def bare_product(generated: NDArray[np.float32], train: NDArray[np.float32]) -> None:
    """All float32 products in tiles, and nothing done with them."""
    left, right = torch.from_numpy(generated), torch.from_numpy(train)
    for columns in right.split(TILE_TRAIN):
        for rows in left.split(TILE_GENERATED):
            rows @ columns.T


def bare_integer_product(generated: NDArray[np.int8], train: NDArray[np.int8]) -> None:
    """All 8-bit products in tiles, and nothing done with them."""
    left, right = torch.from_numpy(generated), torch.from_numpy(train)
    for columns in right.split(TILE_TRAIN):
        for rows in left.split(TILE_GENERATED):
            integer_product(rows, columns)


def as_int8(vectors: NDArray[np.float32]) -> NDArray[np.int8]:
    """Any 8-bit vectors of that shape: the time of a product does not depend on the values."""
    return np.clip(np.rint(vectors * (127 / np.abs(vectors).max())), -127, 127).astype(np.int8)


def sklearn_search(
    train: NDArray[np.float32], *, metric: str, k: int
) -> Callable[[NDArray[np.float32]], Ids] | None:
    """scikit-learn's brute force, or None."""
    try:
        from sklearn.neighbors import NearestNeighbors
    except ImportError:
        return None
    neighbours = NearestNeighbors(n_neighbors=k, algorithm="brute", metric=metric).fit(train)
    return lambda generated: neighbours.kneighbors(generated, return_distance=True)[1]


def faiss_search(
    train: NDArray[np.float32], *, metric: str, k: int
) -> Callable[[NDArray[np.float32]], Ids] | None:
    """faiss-cpu's flat index, or None."""
    try:
        import faiss
    except ImportError:
        return None
    faiss.omp_set_num_threads(torch.get_num_threads())
    kind = faiss.IndexFlatIP if metric == "cosine" else faiss.IndexFlatL2
    index = kind(train.shape[1])
    index.add(train)
    return lambda generated: index.search(generated, k)[1]


def peer_searches(
    train: NDArray[np.float32], generated: NDArray[np.float32], *, metric: str, k: int
) -> dict[str, Callable[[], Ids]]:
    """The searches of the peers that are installed."""
    made = {
        "scikit-learn": sklearn_search(train, metric=metric, k=k),
        "faiss": faiss_search(train, metric=metric, k=k),
    }
    return {name: partial(search, generated) for name, search in made.items() if search}


def missing(peers: Mapping[str, object]) -> dict[str, str]:
    """What to say of those that are not."""
    return dict.fromkeys({"scikit-learn", "faiss"} - set(peers), "not installed")


def same_nearest(ids: Ids, others: Ids) -> float:
    """Share of rows that name the same nearest training vector."""
    return float((ids[:, 0] == others[:, 0]).mean())


def same_sets(ids: Ids, others: Ids) -> float:
    """Share of all neighbours listed by both."""
    return float(
        np.mean(
            [len(np.intersect1d(*pair)) / len(pair[0]) for pair in zip(ids, others, strict=True)]
        )
    )
