"""Tiny checkpoints for tests: real diffusers pipelines with random weights."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def save_tiny_checkpoint(folder: Path, *, seed: int = 0, channels: int = 3, size: int = 8) -> Path:
    """Write a ``DDPMPipeline`` with random weights into `folder` and return it.

    Made once in a process for each combination of arguments; then copied.
    """
    shutil.copytree(_made_once(seed, channels, size), folder, dirs_exist_ok=True)
    return folder


@cache
def _made_once(seed: int, channels: int, size: int) -> Path:
    import torch
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DModel(
            sample_size=size,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=(8, 8),
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            layers_per_block=1,
        )
    folder = Path(tempfile.mkdtemp(prefix="memscan-checkpoint-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    DDPMPipeline(unet=unet, scheduler=DDPMScheduler()).save_pretrained(folder)
    return folder
