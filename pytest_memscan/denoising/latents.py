"""Between images and what a denoiser works on, through the autoencoder of a stock pipeline."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


@torch.no_grad()
def encode(pipeline: Any, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Latents ``(num_images, channels, height, width)`` of images, by the pipeline's autoencoder.

    The mode of the posterior, unscaled, image by image. Not finite where the autoencoder
    overflows, as some do in float16.

    Args:
        pipeline: Text-to-image.
        pixels: ``(num_images, height, width, channels)`` uint8.
    """
    vae = pipeline.vae
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(vae.device, vae.dtype) / 127.5 - 1
    latents = [vae.encode(image[None]).latent_dist.mode()[0].float().cpu() for image in images]
    return torch.stack(latents).numpy()


def clean_latents_of(pipeline: Any, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`encode`, in the scale in which the denoiser works; arguments and shapes are the same."""
    scale, shift = _latent_scale(pipeline)
    scaled: NDArray[np.float32] = ((encode(pipeline, pixels) - shift) * scale).astype(np.float32)
    return scaled


@torch.no_grad()
def images_of(pipeline: Any, latents: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The images ``(num_images, height, width, channels)`` of what `clean_latents_of` gives."""
    vae = pipeline.vae
    scale, shift = _latent_scale(pipeline)
    unscaled = torch.from_numpy((latents / scale + shift).astype(np.float32))
    images = [
        vae.decode(each[None].to(vae.device, vae.dtype)).sample[0].float().cpu()
        for each in unscaled
    ]
    levels = (torch.stack(images) / 2 + 0.5).nan_to_num().clamp(0, 1).mul(255).round()
    pixels: NDArray[np.uint8] = levels.to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return pixels


def _latent_scale(pipeline: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Factor and shift of each channel, as diffusers' pipelines apply them."""
    config = pipeline.vae.config
    mean, deviation = config.get("latents_mean"), config.get("latents_std")
    factor = np.float32(config.scaling_factor)
    if mean is None or deviation is None:
        return factor * np.ones(1, np.float32), np.full(1, config.get("shift_factor") or 0.0)
    each = (-1, 1, 1)
    return (
        factor / np.array(deviation, dtype=np.float32).reshape(each),
        np.array(mean, dtype=np.float32).reshape(each),
    )
