"""Exact integer matching against chunked float32, the same images, the same process.

    python tests/benchmarks/matching.py [NUM_GENERATED NUM_TRAIN NUM_PIXELS]

Prints JSON: seconds of both, their ratio (above 1: integers are faster), how often they name the
same nearest training image, the largest relative error of float32 on near-duplicates, and the
peak memory above the inputs.
"""

from __future__ import annotations

import json
import resource
import sys
import time

import numpy as np
import torch
from numpy.typing import NDArray

from pytest_memscan.similarity.pixels import NUM_NEIGHBOURS, TILE_TRAIN, nearest_neighbours


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


def measure(num_generated: int, num_train: int, num_pixels: int) -> dict[str, float]:
    """One run of both on random images, half of the generated ones near-duplicates."""
    rng = np.random.default_rng(0)
    train = rng.integers(0, 256, (num_train, num_pixels), dtype=np.uint8)
    generated = rng.integers(0, 256, (num_generated, num_pixels), dtype=np.uint8)
    half = num_generated // 2
    noise = rng.integers(-3, 4, (half, num_pixels))
    generated[:half] = np.clip(train[:half].astype(int) + noise, 0, 255)
    nearest_neighbours(generated[:8], train[:100])  # warm up
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    near = nearest_neighbours(generated, train)
    ours = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    started = time.perf_counter()
    values, ids = float32_neighbours(generated, train)
    baseline = time.perf_counter() - started
    exact = near.squared[:half, 0].astype(np.float64)
    return {
        "integer seconds": round(ours, 2),
        "float32 seconds": round(baseline, 2),
        "float32 / integer": round(baseline / ours, 2),
        "same nearest": float((near.train_ids[:, 0] == ids[:, 0].numpy()).mean()),
        "float32 relative error": float(np.abs(values[:half, 0].numpy() / exact - 1).max()),
        "peak MB above inputs": round(peak / 1024),
    }


if __name__ == "__main__":
    sizes = [int(argument) for argument in sys.argv[1:]] or [2_000, 50_000, 3_072]
    print(json.dumps(measure(*sizes), indent=2))
