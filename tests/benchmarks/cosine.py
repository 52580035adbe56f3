"""Exact cosine top-k of descriptors against scikit-learn and faiss.

    PYTHONPATH=tests python -m benchmarks.cosine [NUM_GENERATED NUM_TRAIN DIMENSION K [REPEATS]]

Prints JSON: how many times longer each of the others takes, how often they name the same nearest
training vector and the same k, and how many rows the 8-bit bound did not settle at once. For two
kinds of vectors: evenly spread ones, as of SSCD, and ones with a common mean and a few coordinates
that outweigh the rest, as of CLIP.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import numpy as np
from benchmarks.peers import (
    as_int8,
    bare_integer_product,
    bare_product,
    missing,
    peer_searches,
    race,
    ratios,
    same_nearest,
    same_sets,
)
from numpy.typing import NDArray

from pytest_memscan.similarity.matching.nearest import most_similar

OURS = "memscan"


def synthetic(kind: str, count: int, dimension: int, *, seed: int) -> NDArray[np.float32]:
    """Random unit vectors, ``(count, dimension)``."""
    vectors = np.random.default_rng(seed).standard_normal((count, dimension), dtype=np.float32)
    if kind == "uneven":
        vectors *= 5 / np.sqrt(1 + np.arange(dimension, dtype=np.float32))
        vectors[:, [5, dimension // 2]] += np.float32([30, -12])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def measure(
    kind: str, num_generated: int, num_train: int, dimension: int, k: int, repeats: int
) -> dict[str, float | str]:
    """Everything, on the same vectors; one in ten generated ones is a near-copy."""
    train = synthetic(kind, num_train, dimension, seed=0)
    generated = synthetic(kind, num_generated, dimension, seed=1)
    copies = train[: num_generated // 10] + 0.2 * generated[: num_generated // 10]
    generated[: len(copies)] = copies / np.linalg.norm(copies, axis=1, keepdims=True)
    codes = as_int8(generated), as_int8(train)
    peers = peer_searches(train, generated, metric="cosine", k=k)
    contestants: dict[str, Callable[[], object]] = {
        OURS: lambda: most_similar(generated, train, k=k),
        "bare float32 product": lambda: bare_product(generated, train),
        "bare 8-bit product": lambda: bare_integer_product(*codes),
        **peers,
    }
    seconds, found = race(contestants, repeats=repeats)
    ours = found[OURS]
    figures: dict[str, float | str] = {
        "share of rows not settled in 8 bits": ours.num_exhaustive / num_generated,
    }
    for name in peers:
        figures[f"same nearest as {name}"] = same_nearest(ours.train_ids, found[name])
        figures[f"same {k} as {name}"] = round(same_sets(ours.train_ids, found[name]), 6)
    return figures | missing(peers) | ratios(seconds, ours=OURS)


if __name__ == "__main__":
    sizes = [int(argument) for argument in sys.argv[1:]] or [10_000, 50_000, 512, 10]
    results = {
        kind: measure(kind, *sizes[:4], repeats=[*sizes, 3][4]) for kind in ("even", "uneven")
    }
    print(json.dumps(results, indent=2))
