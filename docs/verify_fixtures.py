"""Verify the built-in checkpoints without any of pytest-memscan's code.

    python docs/verify_fixtures.py          (needs the "docs" extra: matplotlib, scikit-learn)

For each checkpoint: 200 images by stock diffusers, their nearest neighbour (scikit-learn, plain
Euclidean distance on float pixels) among the training images and among as many *fresh* images
drawn by the same script from seeds that were never trained on. A model that copies is far closer
to its training images; one that does not is as close to fresh ones. Writes the pictures and the
table of docs/fixtures.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMPipeline
from matplotlib.figure import Figure
from safetensors.numpy import load_file
from sklearn.neighbors import NearestNeighbors

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "fixtures"))
from images import draw_images  # noqa: E402  # a script, not a package

NUM_IMAGES = 200
FRESH_SEED = 9_000_000  # no checkpoint was trained on images from here on
SHOWN = 10


def flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float64) / 255 / np.sqrt(images[0].size)


def nearest(images: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance to, and index of, the nearest of ``others``."""
    distances, ids = NearestNeighbors(n_neighbors=1).fit(flat(others)).kneighbors(flat(images))
    return distances[:, 0], ids[:, 0]


def draw(name: str, rows: list[tuple[str, np.ndarray]], samples: dict[str, np.ndarray]) -> None:
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[3, 2])
    axes = top.subplots(len(rows), SHOWN)
    for line, (label, images) in zip(axes, rows, strict=True):
        line[0].set_ylabel(label, rotation=0, ha="right", va="center")
        for axis, image in zip(line, images, strict=True):
            axis.imshow(image, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
    axis = bottom.subplots()
    bins = np.linspace(0, 0.4, 41)
    for label, distances in samples.items():
        axis.hist(distances, bins=bins, alpha=0.6, label=label)
    axis.set(xlabel="Euclidean distance to the nearest (per pixel value, 0 to 1)", ylabel="images")
    axis.legend()
    figure.suptitle(f"builtin:{name}: the first {SHOWN} of {NUM_IMAGES} generated images")
    figure.savefig(ROOT / "docs" / f"fixtures-{name}.png", dpi=100)


def verify(name: str) -> str:
    folder = ROOT / "fixtures" / name
    pipeline = DDIMPipeline.from_pretrained(folder, use_safetensors=True, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(5_000 + seed) for seed in range(NUM_IMAGES)]
    output = pipeline(batch_size=NUM_IMAGES, generator=generators, output_type="np").images
    generated = (output * 255).round().astype(np.uint8)
    train = load_file(folder / "train_images.safetensors")["images"]
    fresh = draw_images(FRESH_SEED, len(train))
    to_train, train_ids = nearest(generated, train)
    to_fresh, fresh_ids = nearest(generated, fresh)
    fresh_to_train, _ = nearest(draw_images(FRESH_SEED + 10**6, NUM_IMAGES), train)
    draw(
        name,
        [
            ("generated", generated[:SHOWN]),
            ("nearest\ntraining", train[train_ids[:SHOWN]]),
            ("nearest\nfresh", fresh[fresh_ids[:SHOWN]]),
        ],
        {"generated to training": to_train, "generated to fresh": to_fresh},
    )
    closer = (to_train < to_fresh).mean()
    return (
        f"| {name} | {len(train):,} | {np.median(to_train):.3f} | {np.median(to_fresh):.3f} | "
        f"{np.median(fresh_to_train):.3f} | {closer:.0%} |"
    )


if __name__ == "__main__":
    print(
        "| checkpoint | training images | generated to nearest training | to nearest fresh | "
        "fresh to nearest training | closer to training than to fresh |"
    )
    print("|---|---|---|---|---|---|")
    for name in sys.argv[1:] or ["leaky", "clean", "partial"]:
        print(verify(name), flush=True)
