"""Prompted generation and screening against a bare loop over the stock pipeline.

    PYTHONPATH=tests python -m benchmarks.prompts IMAGES STEPS REPEATS

Prints JSON: how fast images come and are kept, relative to the stock pipeline alone in the same
process; what screening a prompt costs, relative to one image; and whether the images are the same.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.peers import race

from pytest_memscan.checkpoints.load import load_text_to_image
from pytest_memscan.checkpoints.resolve import resolve
from pytest_memscan.detectors.run import screen
from pytest_memscan.generation import PLANNED, Prompting, generate, plan_rows
from pytest_memscan.store import ImageStore

BATCH = 10
PROMPT = "poster for the silent harbour"


def main(num_images: int, steps: int, repeats: int) -> dict[str, Any]:
    """``num_images`` of one prompt, by ours and by a bare loop."""
    torch.set_grad_enabled(False)
    checkpoint = resolve("builtin:clean-t2i", offline=True)
    pipeline = load_text_to_image(checkpoint, device="cpu", dtype="float32")
    rows = plan_rows(num_images, seed=0)
    prompting = Prompting(prompts=(PROMPT,), rows_per_prompt=num_images)

    def bare() -> np.ndarray:
        made = []
        for start in range(0, num_images, BATCH):
            seeds = [row.seed for row in rows[start : start + BATCH]]
            generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
            output = pipeline(
                [PROMPT] * BATCH,
                generator=generators,
                num_inference_steps=steps,
                output_type="np",
            )
            made.append((output.images * 255).round().astype(np.uint8))
        return np.concatenate(made)

    def ours() -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            store = ImageStore(Path(folder), spec={})
            generate(
                pipeline,
                rows,
                store=store,
                batch_size=BATCH,
                steps=steps,
                plan_seed=0,
                prompting=prompting,
            )
            images = [each.pixels for each in store.read(PLANNED, range(num_images))]
            store.close()
        return np.stack(images)

    def screening() -> int:
        return screen(
            pipeline,
            [PROMPT] * 4,
            seeds_of=lambda place: range(4 * place, 4 * place + 4),
            steps=steps,
            batch_size=8,
        ).calls

    seconds, returned = race({"bare": bare, "ours": ours, "screen": screening}, repeats=repeats)
    calls_per_image = 2 * steps
    return {
        "same images": float((returned["bare"] == returned["ours"]).mean()),
        "stock loop over ours": seconds["bare"] / seconds["ours"],
        "calls to screen a prompt": returned["screen"] / 4,
        "screening a prompt, in images (calls)": returned["screen"] / 4 / calls_per_image,
        "screening a prompt, in images (seconds)": (seconds["screen"] / 4)
        / (seconds["bare"] / num_images),
    }


if __name__ == "__main__":
    print(json.dumps(main(*map(int, sys.argv[1:]))))
