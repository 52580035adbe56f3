"""Measure detectors, variance and cliques on a text-to-image checkpoint with known answers.

    python docs/prompt_scans.py fixtures/leaky-t2i [--steps 25] [--fixed 500]

Needs the "docs" extra. The folder has ``prompts.json`` as written by fixtures/t2i: memorised
prompts by kind, and controls. Every prompt is scored by every detector and gets ten images. Prints
the AUROC of each statistic for each kind against all controls; then the share of all that is found
at a threshold that 1 % of every other control reaches, and the share of the other controls above
it. With ``--fixed N``, N images of every prompt are made, and the size of the largest clique of
near-identical ones goes to ``cliques.json`` in the current folder. Uses no result of a scan.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from pytest_memscan.checkpoints.load import load_text_to_image
from pytest_memscan.checkpoints.resolve import resolve
from pytest_memscan.cliques import largest_clique
from pytest_memscan.detectors.catalogue import BY_NAME
from pytest_memscan.detectors.run import screen
from pytest_memscan.detectors.scores import consistency
from pytest_memscan.generation import Prompting, encode, generate, plan_rows
from pytest_memscan.scans.carlini_prompts import edge_threshold, fixed_share
from pytest_memscan.similarity.descriptors.presets import load_descriptor
from pytest_memscan.similarity.tiles import masked_variance, tiled_l2, variance
from pytest_memscan.store import ImageStore, StoredImage

BATCH = 10
SEEDS = 4
HIGHER = {name: each.higher_is_memorised for name, each in BY_NAME.items()} | {
    "consistency of descriptors": True
}
Pixels = NDArray[np.uint8]


class _Kept(ImageStore):
    """Images in memory: thousands of small files would take longer than the images."""

    def __init__(self) -> None:
        self.images: dict[int, StoredImage] = {}

    def ids(self, kind: str) -> set[int]:
        return set(self.images)

    def add(self, kind: str, images: Any) -> None:
        self.images |= {image.sample_id: image for image in images}


def images_of(pipeline: Any, prompts: list[str], place: int, count: int, steps: int) -> Pixels:
    """``(count, height, width, channels)``: what a scan with seed 0 makes of that prompt."""
    prompting = Prompting(prompts=tuple(prompts), rows_per_prompt=500)
    store = _Kept()
    rows = plan_rows(count, seed=0, start=place * 500)
    generate(
        pipeline, rows, store=store, batch_size=BATCH, steps=steps, plan_seed=0, prompting=prompting
    )
    if any(image.invalid for image in store.images.values()):
        raise SystemExit(f"prompt {place} gives images that cannot be judged")
    return np.stack([store.images[row.sample_id].pixels for row in rows])


def detector_scores(pipeline: Any, prompts: list[str], steps: int) -> dict[str, NDArray[Any]]:
    """Every detector, the opt-in one too."""

    def seeds_of(place: int) -> list[int]:
        return [row.seed for row in plan_rows(SEEDS, seed=0, start=place * 500)]

    scores = screen(
        pipeline,
        prompts,
        seeds_of=seeds_of,
        steps=steps,
        batch_size=2 * SEEDS,
        num_seeds=SEEDS,
        early_step=-(-steps // 2),
        detectors=tuple(BY_NAME),
    )
    return scores.relative_to(scores).values


def image_statistics(pipeline: Any, images: Pixels, descriptor: Any) -> dict[str, float]:
    described = descriptor.describe(images)
    apart = tiled_l2(images)[np.triu_indices(len(images), 1)]
    return {
        "variance, pixels": variance(images),
        "variance, latents": variance(encode(pipeline, images)),
        "variance, descriptors": variance(described),
        "mean tiled L2": float(apart.mean()),
        "closest tiled L2": float(apart.min()),
        "masked variance": masked_variance(images),
        "fixed share": fixed_share(images),
        "consistency of descriptors": consistency(torch.from_numpy(described)),
    }


def found_at_one_percent(found: NDArray[Any], controls: NDArray[Any]) -> tuple[float, float]:
    """Share of ``found`` above what 1 % of every other control reaches, and of the rest."""
    threshold = np.quantile(controls[::2], 0.99)
    return float((found > threshold).mean()), float((controls[1::2] > threshold).mean())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--fixed", type=int, default=0)
    given = parser.parse_args()
    torch.set_grad_enabled(False)
    rows = json.loads((given.folder / "prompts.json").read_text(encoding="utf-8"))["prompts"]
    prompts = [row["prompt"] for row in rows]
    kinds = np.array([row["kind"] for row in rows])
    checkpoint = resolve(str(given.folder.resolve()), offline=True)
    pipeline = load_text_to_image(checkpoint, device="cpu", dtype="float32")
    columns = detector_scores(pipeline, prompts, given.steps)
    descriptor = load_descriptor(
        "builtin:copy", device="cpu", offline=True, cache_dir=Path("unused")
    )
    first = [
        images_of(pipeline, prompts, place, BATCH, given.steps) for place in range(len(prompts))
    ]
    statistics = [image_statistics(pipeline, images, descriptor) for images in first]
    columns |= {name: np.array([each[name] for each in statistics]) for name in statistics[0]}
    print_table(columns, kinds)
    if given.fixed:
        edge = edge_threshold([each for each, kind in zip(first, kinds, strict=True)])
        sizes = []
        for place in range(len(prompts)):
            images = images_of(pipeline, prompts, place, given.fixed, given.steps)
            clique = largest_clique(tiled_l2(images) <= edge, enough=BATCH)
            sizes.append(len(clique.members))
        Path("cliques.json").write_text(json.dumps({"edge": edge, "sizes": sizes}))


def print_table(columns: dict[str, NDArray[Any]], kinds: NDArray[Any]) -> None:
    groups = ("repeated", "canary", "template")
    print(f"| statistic | {' | '.join(f'AUROC {each}' for each in groups)} | all, at 1 % | FPR |")
    is_control = kinds == "control"
    for name, values in columns.items():
        signed = values if HIGHER.get(name, False) else -values
        controls = signed[is_control]
        line = []
        for group in groups:
            found = signed[kinds == group]
            labels = np.r_[np.ones(len(found)), np.zeros(len(controls))]
            line.append(f"{roc_auc_score(labels, np.r_[found, controls]):.3f}")
        share, false = found_at_one_percent(signed[np.isin(kinds, groups)], controls)
        print(f"| {name} | {' | '.join(line)} | {share:.0%} | {false:.1%} |")


if __name__ == "__main__":
    main()
