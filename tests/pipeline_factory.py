"""Tiny text-to-image pipelines for tests: stock classes, random weights, real tokenizers.

Pictures are `SIDE` x `SIDE` pixels. Prompts are read by tokenizers that know every byte and a few
words; CLIP's takes `MAX_TOKENS` tokens and cuts longer prompts.
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from text_factory import (
    CLIP_WIDTH,
    MAX_TOKENS,
    T5_WIDTH,
    clip_encoder,
    clip_tokenizer,
    t5_encoder,
    t5_tokenizer,
    write_clip_vocabulary,
)

if TYPE_CHECKING:
    from typing import TypeAlias

    # Type checkers only see diffusers' placeholders for a missing torch, without attributes.
    DiffusionPipeline: TypeAlias = Any

__all__ = ["FAMILIES", "MAX_TOKENS", "SIDE", "call_settings", "save_tiny", "tiny_pipeline"]

FAMILIES = ("sd1", "sd2-v", "sdxl", "sd3", "flux-dev", "flux-schnell", "pixart-sigma")
SIDE = 16  # pixels

_LATENT_SIDE = SIDE // 2  # the autoencoders halve the picture once


def call_settings(family: str) -> dict[str, Any]:
    """Arguments without which this pipeline would make a picture of another size."""
    settings: dict[str, Any] = {"height": SIDE, "width": SIDE}
    if family == "pixart-sigma":
        settings |= {"use_resolution_binning": False, "clean_caption": False}
    return settings


def tiny_pipeline(family: str, *, seed: int = 0) -> DiffusionPipeline:
    """A new pipeline of one of `FAMILIES`, in memory, float32, without a progress bar.

    The same seed gives the same weights; torch's global generator is left as it was.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = _BUILDERS[family]()
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def save_tiny(family: str, folder: Path, *, seed: int = 0) -> Path:
    """Write the pipeline into `folder` and return it.

    Made once in a process for each family and seed; then copied.
    """
    shutil.copytree(_made_once(family, seed), folder, dirs_exist_ok=True)
    return folder


@cache
def _made_once(family: str, seed: int) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="memscan-pipeline-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    tiny_pipeline(family, seed=seed).save_pretrained(folder)
    for tokenizer in folder.glob("tokenizer*"):
        described = json.loads((tokenizer / "tokenizer_config.json").read_text("utf-8"))
        if described["tokenizer_class"] == "CLIPTokenizer":
            write_clip_vocabulary(tokenizer)
    return folder


# --- models -------------------------------------------------------------------------------------


def _vae(**settings: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=SIDE,
        **settings,
    )


def _unet(*, cross_attention_dim: int, **settings: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=_LATENT_SIDE,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=cross_attention_dim,
        attention_head_dim=2,  # diffusers reads this as the number of heads here
        norm_num_groups=4,
        **settings,
    )


def _noise_schedule() -> dict[str, Any]:
    """Of Stable Diffusion 1."""
    return {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "steps_offset": 1,
    }


# --- pipelines ----------------------------------------------------------------------------------


def _stable_diffusion(scheduler: Any) -> DiffusionPipeline:
    from diffusers import StableDiffusionPipeline

    tokenizer = clip_tokenizer()
    return StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=clip_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=_unet(cross_attention_dim=CLIP_WIDTH),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sd1() -> DiffusionPipeline:
    from diffusers import PNDMScheduler

    return _stable_diffusion(PNDMScheduler(**_noise_schedule(), skip_prk_steps=True))


def _sd2_v() -> DiffusionPipeline:
    from diffusers import DDIMScheduler

    return _stable_diffusion(
        DDIMScheduler(
            **_noise_schedule(),
            prediction_type="v_prediction",
            clip_sample=False,
            set_alpha_to_one=False,
        )
    )


def _sdxl() -> DiffusionPipeline:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    tokenizer = clip_tokenizer()
    return StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=clip_encoder(tokenizer),
        text_encoder_2=clip_encoder(tokenizer, projected=True),
        tokenizer=tokenizer,
        tokenizer_2=clip_tokenizer(),
        unet=_unet(
            cross_attention_dim=2 * CLIP_WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + CLIP_WIDTH,
        ),
        scheduler=EulerDiscreteScheduler(**_noise_schedule()),
        add_watermarker=False,
    )


def _sd3() -> DiffusionPipeline:
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    tokenizer, t5 = clip_tokenizer(), t5_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=_LATENT_SIDE,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=T5_WIDTH,
        caption_projection_dim=16,
        pooled_projection_dim=2 * CLIP_WIDTH,
        pos_embed_max_size=_LATENT_SIDE,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06),
        text_encoder=clip_encoder(tokenizer, projected=True),
        tokenizer=tokenizer,
        text_encoder_2=clip_encoder(tokenizer, projected=True),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5_encoder(t5),
        tokenizer_3=t5,
    )


def _flux(*, guidance_embeds: bool) -> DiffusionPipeline:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    tokenizer, t5 = clip_tokenizer(), t5_tokenizer()
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=T5_WIDTH,
        pooled_projection_dim=CLIP_WIDTH,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(4, 4, 8),
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            shift=3.0 if guidance_embeds else 1.0, use_dynamic_shifting=guidance_embeds
        ),
        vae=_vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1),
        text_encoder=clip_encoder(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=t5_encoder(t5),
        tokenizer_2=t5,
        transformer=transformer,
    )


def _pixart_sigma() -> DiffusionPipeline:
    from diffusers import (
        DPMSolverMultistepScheduler,
        PixArtSigmaPipeline,
        PixArtTransformer2DModel,
    )

    t5 = t5_tokenizer()
    transformer = PixArtTransformer2DModel(
        sample_size=_LATENT_SIDE,
        patch_size=2,
        in_channels=4,
        out_channels=8,  # half of it is the predicted variance, which the pipeline drops
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        cross_attention_dim=16,
        caption_channels=T5_WIDTH,
        use_additional_conditions=False,
    )
    return PixArtSigmaPipeline(
        tokenizer=t5,
        text_encoder=t5_encoder(t5),
        vae=_vae(),
        transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02),
    )


_BUILDERS: dict[str, Callable[[], DiffusionPipeline]] = {
    "sd1": _sd1,
    "sd2-v": _sd2_v,
    "sdxl": _sdxl,
    "sd3": _sd3,
    "flux-dev": lambda: _flux(guidance_embeds=True),
    "flux-schnell": lambda: _flux(guidance_embeds=False),
    "pixart-sigma": _pixart_sigma,
}
