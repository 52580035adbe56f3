"""Chains of a few pixels: a stock pipeline, with a random network or an exact denoiser."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
from numpy.typing import NDArray

from pytest_memscan.denoising.attach import replaced
from pytest_memscan.denoising.exact import ExactDenoiser, standing_in
from pytest_memscan.denoising.schedule import read_parametrisation

SIDE = 4
SHAPE = (1, SIDE, SIDE)


def pipeline(**scheduler: Any) -> Any:
    """A stock ``DDIMPipeline`` of 4 x 4 grey pixels, its network random."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DModel(
            sample_size=SIDE,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=(8,),
            norm_num_groups=2,
            down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",),
            add_attention=False,
        ).eval()
    made = DDIMPipeline(unet=unet, scheduler=DDIMScheduler(**scheduler))
    made.set_progress_bar_config(disable=True)
    return made


def pictures(num: int, *, seed: int = 0, size: float = 0.8) -> torch.Tensor:
    """Clean latents ``(num, 1, 4, 4)`` in [-1, 1], far from each other."""
    random = torch.Generator().manual_seed(seed)
    return size * torch.randint(0, 2, (num, *SHAPE), generator=random).float().mul(2).sub(1)


@contextmanager
def exactly(
    pipe: Any, clean: torch.Tensor, weights: torch.Tensor, spread: float = 0.15
) -> Iterator[None]:
    """The pipeline's denoiser answers as the optimal one of these images."""
    exact = ExactDenoiser(clean=clean, weights=weights, spread=spread)
    known = read_parametrisation(pipe.scheduler)
    with standing_in(pipe.unet, exact, known.mixture, known.kind):
        yield


@dataclass
class Watched:
    """What the denoiser was called with, and when it shall fail."""

    shapes: list[tuple[int, ...]] = field(default_factory=list)
    fail_at: int | None = None  # number of the call


@contextmanager
def watched(pipe: Any, *, fail_at: int | None = None) -> Iterator[Watched]:
    """Looks at every call of the denoiser itself."""
    seen, original = Watched(fail_at=fail_at), pipe.unet.forward

    @functools.wraps(original)
    def forward(sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if len(seen.shapes) == seen.fail_at:
            raise RuntimeError("the power went out")
        seen.shapes.append(tuple(sample.shape))
        return original(sample, *args, **kwargs)

    with replaced(pipe.unet, "forward", forward):
        yield seen


def nearest(
    images: torch.Tensor, clean: torch.Tensor
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Row of the nearest picture, and root mean squared distance from it in [-1, 1]."""
    scaled = images.flatten(1).double() * 2 - 1
    squared = torch.cdist(scaled, clean.flatten(1).double()).square() / clean[0].numel()
    found, rows = squared.min(dim=1)
    return rows.numpy(), found.sqrt().numpy()
