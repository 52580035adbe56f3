"""How fast an index is built, by batch size, against the bare network.

    PYTHONPATH=tests python -m benchmarks.indexing [NUM_IMAGES [SIDE]] [--descriptor NAME]

Prints JSON for every batch size: images per second, and the time of the whole build over that of
the descriptor alone on the same images (1: reading, hashing and committing cost nothing). Without
``--descriptor`` the network is a small convolutional one with random weights.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from benchmarks.peers import race
from numpy.typing import NDArray

from pytest_memscan.results import SourceCoverage
from pytest_memscan.similarity.descriptors.descriptor import Descriptor
from pytest_memscan.similarity.index_build import build_index

BATCH_SIZES = (1, 4, 16, 64, 256)


def small_descriptor() -> Descriptor:
    """Four convolutions on images as they are."""
    torch.manual_seed(0)
    layers: list[torch.nn.Module] = []
    for inputs, outputs in ((3, 32), (32, 64), (64, 128), (128, 256)):
        layers += [torch.nn.Conv2d(inputs, outputs, 3, 2, 1), torch.nn.ReLU()]
    pooled = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(256, 256)]
    return Descriptor(
        name="small",
        network=torch.nn.Sequential(*layers, *pooled).eval(),
        preprocess=lambda batch: torch.from_numpy(batch).permute(0, 3, 1, 2) / 255 - 0.5,
        dimension=256,
        levels=None,
        record={"preset": "small"},
    )


def measure(descriptor: Descriptor, pixels: NDArray[np.uint8], repeats: int) -> dict[str, float]:
    """One batch size."""
    with tempfile.TemporaryDirectory() as folder:
        names = iter(range(repeats + 1))

        def build() -> None:
            build_index(
                pixels,
                descriptor,
                fingerprint="0" * 64,
                folder=Path(folder, str(next(names))),
                source=SourceCoverage(num_found=len(pixels), num_used=len(pixels)),
            )

        seconds, _ = race(
            {"build": build, "bare": lambda: descriptor.describe(pixels)}, repeats=repeats
        )
    return {
        "images/s": round(len(pixels) / seconds["build"]),
        "build / bare": round(seconds["build"] / seconds["bare"], 3),
    }


def main() -> None:
    """Measure every batch size."""
    parser = argparse.ArgumentParser()
    parser.add_argument("num_images", type=int, nargs="?", default=4_096)
    parser.add_argument("side", type=int, nargs="?", default=64)
    parser.add_argument("--descriptor")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    descriptor = small_descriptor()
    if options.descriptor:
        from pytest_memscan.similarity.descriptors.presets import load_descriptor

        descriptor = load_descriptor(options.descriptor, device="cpu", offline=True, cache_dir=None)
    shape = (options.num_images, options.side, options.side, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    descriptor.describe(pixels[:8])  # warm up
    results = {
        f"batch {size}": measure(replace(descriptor, batch_size=size), pixels, options.repeats)
        for size in BATCH_SIZES
    }
    print(json.dumps({"descriptor": descriptor.name, **results}, indent=2))


if __name__ == "__main__":
    main()
