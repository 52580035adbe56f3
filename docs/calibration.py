"""What distinct real photographs do to the published cuts, and where the confirmed cut lies.

    python docs/calibration.py DATA.npz     (``images`` (n, height, width, 3) uint8)

Prints the table of docs/metrics.md: training images taken from the file, the rest held out.
"""

from __future__ import annotations

import sys

import numpy as np
from PIL import Image

from pytest_memscan.metrics import LEVELS
from pytest_memscan.scans.controls import run_controls
from pytest_memscan.similarity.calibration import calibrate
from pytest_memscan.similarity.reference import prepare

SCANS = ((32, 8_000, 320), (32, 8_000, 10_000), (32, 400, 320), (16, 4_000, 320), (16, 400, 320))
HIGH = LEVELS[-1].cut


def resized(images: np.ndarray, size: int) -> np.ndarray:
    box = Image.Resampling.BOX
    return np.stack(
        [np.asarray(Image.fromarray(image).resize((size, size), box)) for image in images]
    )


def row(images: np.ndarray, size: int, num_train: int, num_generated: int) -> str:
    order = np.random.default_rng(0).permutation(len(images))
    sized = resized(images[order], size)
    train, fresh = sized[:num_train], sized[num_train : num_train + 2_000]
    reference = prepare(train)
    _, cut = calibrate(
        reference.null,
        source="leave-one-out",
        num_generated=num_generated,
        measure=reference.measure,
        level_cut=HIGH,
    )
    ratios = reference.nearest(fresh).dissimilarities[:, 0]
    controls = run_controls(reference, confirmed_cut=cut)
    found = {each.name: f"{each.num_found}/{each.num_images}" for each in controls}
    confirmed = f"{int((ratios <= cut).sum())} of {len(fresh):,}"
    return (
        f"| {size} | {num_train:,} | {num_generated:,} | {(ratios <= HIGH).mean():.1%} | "
        f"{cut:.2f} | {confirmed} | "
        f"{found['jpeg_confirmed']}, {found['crop_confirmed']} |"
    )


if __name__ == "__main__":
    photographs = np.load(sys.argv[1])["images"]
    print(
        "| pixels | training images | images planned | fresh images below 1.35 | confirmed cut | "
        "fresh images confirmed | planted copies confirmed (JPEG, crop) |"
    )
    print("|---|---|---|---|---|---|---|")
    for scan in SCANS:
        print(row(photographs, *scan), flush=True)
