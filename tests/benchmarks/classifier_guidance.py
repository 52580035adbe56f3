"""Classifier guidance on tiny stock pipelines, against the same pipelines without it.

    PYTHONPATH=tests python -m benchmarks.classifier_guidance IMAGES STEPS REPEATS
    PYTHONPATH=tests python -m benchmarks.classifier_guidance peak STEPS

The first prints JSON: images a second, guided relative to unguided in the same process; and what
guidance costs beyond the classifier itself, as a share of unguided generation plus forward and
backward of the bare classifier at every step. The second prints the peak of memory of one guided
batch, in megabytes, above what the process held when everything was loaded and had run once.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from benchmarks.memory import Peak
from benchmarks.peers import race

from pytest_memscan.guidance.classifier import classifier_guided

BATCH = 32
SIDE = 16
NUM_CLASSES = 20


class Small(torch.nn.Module):
    """Three convolutions, indifferent to time."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 24, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(24, 48, 3, stride=2, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(48, 48, 3, stride=2, padding=1),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
            torch.nn.Linear(48, NUM_CLASSES),
        )

    def forward(self, noisy: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        """Logits, ``(batch, NUM_CLASSES)``."""
        answered: torch.Tensor = self.layers(noisy)
        return answered


def main(num_images: int, steps: int, repeats: int) -> dict[str, Any]:
    """``num_images`` guided and not, and the bare classifier as often as it is asked."""
    pipeline, classifier = stock(), Small().eval()
    classes = torch.arange(BATCH) % NUM_CLASSES
    batches = range(0, num_images, BATCH)
    noisy = torch.randn(BATCH, 3, SIDE, SIDE)

    def unguided() -> torch.Tensor:
        return torch.cat([made(pipeline, first, steps) for first in batches])

    def guided(scale: float) -> torch.Tensor:
        images = []
        for first in batches:
            with classifier_guided(pipeline, classifier, classes, scale):
                images.append(made(pipeline, first, steps))
        return torch.cat(images)

    def bare() -> None:
        for _ in range(len(batches) * steps):
            asked = noisy.clone().requires_grad_()
            with torch.enable_grad():
                logits = classifier(asked, asked)
                likely = logits.log_softmax(1).gather(1, classes[:, None]).sum()
                torch.autograd.grad(likely, asked)

    contestants = {
        "unguided": unguided,
        "guided": lambda: guided(2.0),
        "scale 0": lambda: guided(0.0),
        "classifier": bare,
    }
    for run in contestants.values():
        run()  # warm up
    seconds, returned = race(contestants, repeats=repeats)
    needed = seconds["unguided"] + seconds["classifier"]
    return {
        "unguided images a second": round(num_images / seconds["unguided"], 2),
        "guided / unguided images a second": round(seconds["unguided"] / seconds["guided"], 3),
        "scale 0 / unguided images a second": round(seconds["unguided"] / seconds["scale 0"], 3),
        "classifier / unguided seconds": round(seconds["classifier"] / seconds["unguided"], 3),
        "overhead beyond the classifier": round(seconds["guided"] / needed - 1, 4),
        "same images at scale 0": torch.equal(returned["scale 0"], returned["unguided"]),
        "same images guided": torch.equal(returned["guided"], returned["unguided"]),
    }


def stock() -> Any:
    """An unconditional pipeline of `SIDE` x `SIDE` images with random weights."""
    from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=SIDE,
        in_channels=3,
        out_channels=3,
        block_out_channels=(32, 64),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
    )
    pipeline = DDIMPipeline(unet.eval(), DDIMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def made(pipeline: Any, first: int, steps: int) -> torch.Tensor:
    """One batch, ``(BATCH, 3, SIDE, SIDE)`` in [0, 1]."""
    images: torch.Tensor = pipeline(
        batch_size=BATCH,
        generator=[torch.Generator().manual_seed(first + row) for row in range(BATCH)],
        num_inference_steps=steps,
        output_type="pt",
    ).images
    return images


def peak_of(steps: int) -> float:
    """Megabytes of one guided batch."""
    pipeline, classes = stock(), torch.arange(BATCH) % NUM_CLASSES
    guided = classifier_guided(pipeline, Small().eval(), classes, 2.0)
    with guided:
        made(pipeline, 0, 3)
        with Peak() as peak:
            made(pipeline, 0, steps)
    return round(peak.highest - peak.before, 1)


if __name__ == "__main__":
    if sys.argv[1] == "peak":
        print(json.dumps({"peak MB": peak_of(int(sys.argv[2]))}))
    else:
        print(json.dumps(main(*map(int, sys.argv[1:]))))
