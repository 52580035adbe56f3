"""Train small checkpoints that remember some of their images: what scans are measured on.

    python docs/small_checkpoints.py digits OUT
    python docs/small_checkpoints.py clouds OUT
    python docs/small_checkpoints.py photos OUT --data cifar10.npz
    python docs/small_checkpoints.py repeated OUT --data cifar10.npz

========  ====================================  =======  ==========  ======  ===================
name      images                                size     parameters  steps   shown
========  ====================================  =======  ==========  ======  ===================
digits    400 handwritten ones of scikit-learn  8x8x1    0.2 M       3,000   1 to 8 times
photos    400 of CIFAR-10, halved by averaging  16x16x3  0.9 M       3,500   equally often
clouds    2,000 drawn by fixtures/images.py     12x12x3  0.9 M       9,000   60 of them 1.5 to
                                                                             15 times
repeated  2,500 of CIFAR-10, halved likewise    16x16x3  0.9 M       5,000   50 of them 5 to 50
                                                                             times
========  ====================================  =======  ==========  ======  ===================

All stop before every image is remembered, so that copies are rare. Images that are shown unequally
often are evenly spread over the logarithm, so that some are far rarer than others. ``--data`` is an
npz file with arrays ``images`` ``(n, 32, 32, 3)`` uint8 and ``labels`` ``(n,)``, which is not part
of the project. Writes a ``DDPMPipeline`` folder and ``images``. Those of ``clouds`` (by the hue of
their mean colour) and ``repeated`` lie in folders by class, with others of the same kind in
``auxiliary``: what SIDE-O and SIDE-A learn labels from. Some minutes on one core.
"""

from __future__ import annotations

import argparse
import colorsys
import copy
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from sklearn.datasets import load_digits
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1] / "fixtures"))
import images as drawn

Images = NDArray[np.uint8]
HUES = 8  # classes of clouds


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a checkpoint is, and what it is shown."""

    channels: tuple[int, ...]
    steps: int
    num_images: int = 400
    num_often: int = 0  # the first so many images ...
    often: tuple[float, float] = (1.0, 1.0)  # ... are shown from so to so many times as often
    in_bfloat16: bool = False  # passes of the denoiser; the weights are float32
    seed: int = 0
    batch_size: int = 64
    learning_rate: float = 4e-4
    ema_decay: float = 0.999


RECIPES = {
    "digits": Recipe(channels=(32, 64), steps=3_000, num_often=400, often=(1.0, 8.0)),
    "photos": Recipe(channels=(32, 48, 64), steps=3_500),
    "clouds": Recipe(
        channels=(32, 48, 64),
        steps=9_000,
        num_images=2_000,
        num_often=60,
        often=(1.5, 15.0),
        in_bfloat16=True,
    ),
    "repeated": Recipe(
        channels=(32, 48, 64),
        steps=5_000,
        num_images=2_500,
        num_often=50,
        often=(5.0, 50.0),
        in_bfloat16=True,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Data:
    """``(num, height, width, channels)`` uint8 each, and their classes where they have any."""

    train: Images
    auxiliary: Images | None = None
    train_classes: Sequence[int] | None = None
    auxiliary_classes: Sequence[int] | None = None


def read_data(name: str, recipe: Recipe, data: Path | None) -> Data:
    if name == "digits":
        levels = load_digits().images[: recipe.num_images, :, :, None] * (255 / 16)
        return Data(train=np.asarray(levels.round(), dtype=np.uint8))
    if name == "clouds":
        train = np.stack([_small_cloud(5_000_000 + i) for i in range(recipe.num_images)])
        others = np.stack([_small_cloud(8_000_000 + i) for i in range(recipe.num_images)])
        return Data(
            train=train,
            auxiliary=others,
            train_classes=[_hue(image) for image in train],
            auxiliary_classes=[_hue(image) for image in others],
        )
    if data is None:
        raise SystemExit(f"{name} needs --data FILE.npz")
    with np.load(data) as arrays:
        photos, labels = arrays["images"], arrays["labels"]
    if name == "photos":
        return Data(train=_halved(photos[: recipe.num_images]))
    order = np.random.default_rng(0).permutation(len(photos))
    ours, others = order[: recipe.num_images], order[recipe.num_images : 2 * recipe.num_images]
    return Data(
        train=_halved(photos[ours]),
        auxiliary=_halved(photos[others]),
        train_classes=labels[ours].tolist(),
        auxiliary_classes=labels[others].tolist(),
    )


def _halved(photos: Images) -> Images:
    tiles = photos.astype(np.float64).reshape(len(photos), 16, 2, 16, 2, 3)
    return np.asarray(tiles.mean(axis=(2, 4)).round(), dtype=np.uint8)


def _small_cloud(seed: int) -> Images:
    """As `fixtures/images.py` draws, but 12 pixels wide."""
    rng = np.random.default_rng(seed)
    grid = rng.integers(0, 256, size=(drawn.GRID, drawn.GRID, 3), dtype=np.uint8)
    side = 12 * drawn.OVERSAMPLING
    canvas = Image.fromarray(grid).resize((side, side), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(2, 5))):
        drawn._draw_shape(pen, rng, side)
    return np.asarray(canvas.resize((12, 12), Image.Resampling.BOX))


def _hue(image: Images) -> int:
    """Which of `HUES` equal parts of the colour circle the mean colour is in."""
    mean = image.reshape(-1, 3).mean(axis=0) / 255
    red, green, blue = mean - mean.mean() + 0.5
    return int(colorsys.rgb_to_hsv(red, green, blue)[0] * HUES) % HUES


def save_images(images: Images, classes: Sequence[int] | None, folder: Path) -> None:
    for number, image in enumerate(images):
        place = folder if classes is None else folder / str(classes[number])
        place.mkdir(parents=True, exist_ok=True)
        picture = image[..., 0] if image.shape[-1] == 1 else image
        Image.fromarray(picture).save(place / f"{number:05d}.png")


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
    least, most = recipe.often
    weights = torch.ones(len(images))
    spread = torch.linspace(0, 1, recipe.num_often)
    weights[: recipe.num_often] = least * (most / least) ** spread
    losses: list[float] = []
    started = time.monotonic()
    for step in range(1, recipe.steps + 1):
        clean = images[torch.multinomial(weights, recipe.batch_size, replacement=True)]
        noise = torch.randn_like(clean)
        timesteps = torch.randint(scheduler.config.num_train_timesteps, (len(clean),))
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.in_bfloat16):
            predicted = denoiser(scheduler.add_noise(clean, noise, timesteps), timesteps).sample
        loss = functional.mse_loss(predicted.float(), noise)
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
    parser.add_argument("--data", type=Path, help="npz, for photos and repeated")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    recipe = RECIPES[arguments.name]
    data = read_data(arguments.name, recipe, arguments.data)
    save_images(data.train, data.train_classes, arguments.out / "images")
    if data.auxiliary is not None:
        save_images(data.auxiliary, data.auxiliary_classes, arguments.out / "auxiliary")
    images = torch.from_numpy(data.train).permute(0, 3, 1, 2).float() / 127.5 - 1
    train(recipe, images, arguments.out / "model")


if __name__ == "__main__":
    main()
