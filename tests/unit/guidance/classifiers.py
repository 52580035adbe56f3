"""What tests of classifier guidance share: a classifier, and stock unconditional pipelines."""

from __future__ import annotations

from functools import cache
from typing import Any

import diffusers
import torch
from pipeline_factory import tiny_pipeline


class Linear(torch.nn.Module):
    """Any module with parameters, indifferent to time."""

    def __init__(self, values: int, num_classes: int = 3) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            self.layer = torch.nn.Linear(values, num_classes)
        self.dtypes: set[torch.dtype] = set()
        self.eval()

    def forward(self, noisy: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        """Logits."""
        self.dtypes.add(noisy.dtype)
        answered: torch.Tensor = self.layer(noisy.flatten(1))
        return answered


@cache
def latent_pipeline(family: str) -> Any:
    """A stock text-to-image pipeline, made once."""
    return tiny_pipeline(family)


def unconditional(
    kind: str = "epsilon", *, ddpm: bool = False, learned: bool = False, clips: bool = True
) -> Any:
    """A stock unconditional pipeline of 3 x 8 x 8 images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = diffusers.UNet2DModel(
            sample_size=8,
            in_channels=3,
            out_channels=6 if learned else 3,
            layers_per_block=1,
            block_out_channels=(8,),
            norm_num_groups=4,
            down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",),
        ).eval()
    scheduler: Any = diffusers.DDPMScheduler if ddpm else diffusers.DDIMScheduler
    settings = {"variance_type": "learned_range"} if learned else {}
    kind_of: Any = diffusers.DDPMPipeline if ddpm else diffusers.DDIMPipeline
    pipeline = kind_of(unet, scheduler(prediction_type=kind, clip_sample=clips, **settings))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def made(pipeline: Any, num: int, steps: int = 4) -> torch.Tensor:
    """Images of the stock loop in [0, 1]."""
    images: torch.Tensor = pipeline(
        batch_size=num,
        num_inference_steps=steps,
        generator=[torch.Generator().manual_seed(seed) for seed in range(num)],
        output_type="pt",
    ).images
    return images
