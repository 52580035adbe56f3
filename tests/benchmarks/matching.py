"""Neighbour-normalised L2 of 8-bit images against float32, scikit-learn and faiss.

    PYTHONPATH=tests python -m benchmarks.matching [NUM_GENERATED NUM_TRAIN NUM_PIXELS [REPEATS]]

Prints JSON: how many times longer each of the others takes for the 50 nearest training images, how
often they name the same nearest one, the largest relative error of float32 on near-duplicates,
and the peak memory above the inputs.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable

import numpy as np
import torch
from benchmarks.peers import (
    as_int8,
    bare_integer_product,
    bare_product,
    missing,
    peer_searches,
    race,
    ratios,
    same_nearest,
)
from numpy.typing import NDArray

from pytest_memscan.similarity.matching.pixels import NUM_NEIGHBOURS, TILE_TRAIN, nearest_neighbours

OURS = "memscan"


def float32_neighbours(
    generated: NDArray[np.uint8], train: NDArray[np.uint8]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The baseline: ``|a|^2 + |b|^2 - 2 a.b`` in float32, a running top-k over tiles."""
    left = torch.from_numpy(generated).float()
    norms = left.square().sum(dim=1, keepdim=True)
    best: tuple[torch.Tensor, torch.Tensor] | None = None
    for start in range(0, len(train), TILE_TRAIN):
        right = torch.from_numpy(train[start : start + TILE_TRAIN]).float()
        squared = torch.addmm(norms + right.square().sum(dim=1), left, right.T, alpha=-2)
        values, ids = squared.topk(min(NUM_NEIGHBOURS, len(right)), largest=False)
        ids += start
        if best is not None:
            values, ids = torch.cat([best[0], values], 1), torch.cat([best[1], ids], 1)
            values, order = values.topk(NUM_NEIGHBOURS, largest=False)
            ids = ids.gather(1, order)
        best = values, ids
    if best is None:
        raise ValueError("no training images")
    return best


def synthetic(
    num_generated: int, num_train: int, num_pixels: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Random images; the first half of the generated ones are near-duplicates."""
    rng = np.random.default_rng(0)
    train = rng.integers(0, 256, (num_train, num_pixels), dtype=np.uint8)
    generated = rng.integers(0, 256, (num_generated, num_pixels), dtype=np.uint8)
    half = num_generated // 2
    noise = rng.integers(-3, 4, (half, num_pixels))
    generated[:half] = np.clip(train[:half].astype(int) + noise, 0, 255)
    return generated, train


def measure(
    num_generated: int, num_train: int, num_pixels: int, repeats: int
) -> dict[str, float | str]:
    """Everything, on the same images."""
    generated, train = synthetic(num_generated, num_train, num_pixels)
    nearest_neighbours(generated[:8], train[:100])  # warm up
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    near = nearest_neighbours(generated, train)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    floats = generated.astype(np.float32), train.astype(np.float32)
    codes = as_int8(floats[0] - 128), as_int8(floats[1] - 128)
    peers = peer_searches(floats[1], floats[0], metric="euclidean", k=NUM_NEIGHBOURS)
    contestants: dict[str, Callable[[], object]] = {
        OURS: lambda: nearest_neighbours(generated, train).ratios,
        "float32": lambda: float32_neighbours(generated, train),
        "bare float32 product": lambda: bare_product(*floats),
        "bare 8-bit product": lambda: bare_integer_product(*codes),
        **peers,
    }
    seconds, found = race(contestants, repeats=repeats)
    values, ids = found["float32"]
    exact = near.squared[: num_generated // 2, 0].astype(np.float64)
    figures: dict[str, float | str] = {
        "float32 relative error": float(np.abs(values[: len(exact), 0].numpy() / exact - 1).max()),
        "peak MB above inputs": round(peak / 1024),
        "same nearest": same_nearest(near.train_ids, ids.numpy()),
    }
    for name in peers:
        figures[f"same nearest as {name}"] = same_nearest(near.train_ids, found[name])
    return figures | missing(peers) | ratios(seconds, ours=OURS)


if __name__ == "__main__":
    sizes = [int(argument) for argument in sys.argv[1:]] or [2_000, 50_000, 3_072]
    print(json.dumps(measure(*sizes[:3], repeats=[*sizes, 3][3]), indent=2))
