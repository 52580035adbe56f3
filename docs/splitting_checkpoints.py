"""Train small checkpoints that remember some of their images: what splitting is measured on.

    python docs/splitting_checkpoints.py digits OUT
    python docs/splitting_checkpoints.py photos OUT --data cifar10.npz

=======  ==========================================  ======  ==========  =====  ==========
name     images                                      size    parameters  steps  shown
=======  ==========================================  ======  ==========  =====  ==========
digits   400 of scikit-learn's handwritten digits    8x8x1   0.2 million 3,000  1 to 8 times
photos   400 of CIFAR-10, halved by averaging        16x16x3 0.7 million 3,500  equally often
=======  ==========================================  ======  ==========  =====  ==========

Both stop before every image is remembered, so that copies are rare. The images of ``digits`` are
shown unequally often, evenly spread over the logarithm, so that some are far rarer than others.
``--data`` is an npz file with an array ``images`` ``(n, 32, 32, 3)`` uint8, which is not part of
the project. Writes a ``DDPMPipeline`` folder and ``images/*.png``. A few minutes on one core.
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from torch.nn import functional

NUM_IMAGES = 400


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a checkpoint is, and what it is shown."""

    channels: tuple[int, ...]
    steps: int
    most_often: float = 1.0  # how often the most shown image comes for each time of the least
    seed: int = 0
    batch_size: int = 64
    learning_rate: float = 4e-4
    ema_decay: float = 0.999


RECIPES = {
    "digits": Recipe(channels=(32, 64), steps=3_000, most_often=8.0),
    "photos": Recipe(channels=(32, 48, 64), steps=3_500),
}


def read_images(name: str, data: Path | None) -> NDArray[np.uint8]:
    """``(NUM_IMAGES, height, width, channels)`` uint8."""
    if name == "digits":
        levels = load_digits().images[:NUM_IMAGES, :, :, None] * (255 / 16)
        return np.asarray(levels.round(), dtype=np.uint8)
    if data is None:
        raise SystemExit("photos needs --data FILE.npz")
    with np.load(data) as arrays:
        photos = arrays["images"][:NUM_IMAGES].astype(np.float64)
    halved = photos.reshape(len(photos), 16, 2, 16, 2, 3).mean(axis=(2, 4))
    return np.asarray(halved.round(), dtype=np.uint8)


def new_denoiser(size: int, image_channels: int, channels: tuple[int, ...]) -> UNet2DModel:
    plain = len(channels) - 1
    return UNet2DModel(
        sample_size=size,
        in_channels=image_channels,
        out_channels=image_channels,
        layers_per_block=1,
        block_out_channels=channels,
        down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * plain,
        attention_head_dim=16,
        norm_num_groups=8,
    )


def train(recipe: Recipe, images: torch.Tensor, folder: Path) -> None:
    """Train on ``images`` ``(n, channels, height, width)`` in [-1, 1]; saves the average."""
    torch.manual_seed(recipe.seed)
    denoiser = new_denoiser(images.shape[-1], images.shape[1], recipe.channels)
    average = copy.deepcopy(denoiser).requires_grad_(False)
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", timestep_spacing="trailing")
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=recipe.learning_rate)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
    weights = recipe.most_often ** torch.linspace(0, 1, len(images))
    losses: list[float] = []
    started = time.monotonic()
    for step in range(1, recipe.steps + 1):
        clean = images[torch.multinomial(weights, recipe.batch_size, replacement=True)]
        noise = torch.randn_like(clean)
        timesteps = torch.randint(scheduler.config.num_train_timesteps, (len(clean),))
        predicted = denoiser(scheduler.add_noise(clean, noise, timesteps), timesteps).sample
        loss = functional.mse_loss(predicted, noise)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        optimizer.step()
        decay.step()
        with torch.no_grad():
            for kept, new in zip(average.parameters(), denoiser.parameters(), strict=True):
                kept.lerp_(new, 1 - min(recipe.ema_decay, step / (step + 10)))
        losses.append(loss.item())
        if step % 500 == 0:
            mean = sum(losses[-500:]) / 500
            print(f"step {step}: loss {mean:.4f}, {time.monotonic() - started:.0f} s", flush=True)
            DDPMPipeline(unet=average, scheduler=scheduler).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, help="npz with the array `images`, for photos")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pixels = read_images(arguments.name, arguments.data)
    folder = arguments.out / "images"
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(pixels):
        picture = image[..., 0] if image.shape[-1] == 1 else image
        Image.fromarray(picture).save(folder / f"{number:04d}.png")
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    train(RECIPES[arguments.name], images, arguments.out / "model")


if __name__ == "__main__":
    main()
