"""Limits on configurations leave room for models of the sizes that are released."""

from __future__ import annotations

import pytest

from pytest_memscan.checkpoints.families import family_of
from pytest_memscan.checkpoints.model_configs import check_channels, check_model_config

SDXL_UNET = {
    "_class_name": "UNet2DConditionModel", "sample_size": 128, "in_channels": 4, "out_channels": 4,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20], "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048, "layers_per_block": 2, "norm_num_groups": 32,
    "projection_class_embeddings_input_dim": 2816, "transformer_layers_per_block": [1, 2, 10],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "class_embed_type": None, "num_class_embeds": None, "num_attention_heads": None,
}  # fmt: skip
SD3_TRANSFORMER = {
    "_class_name": "SD3Transformer2DModel", "sample_size": 128, "patch_size": 2, "in_channels": 16,
    "out_channels": 16, "num_layers": 38, "attention_head_dim": 64, "num_attention_heads": 38,
    "joint_attention_dim": 4096, "caption_projection_dim": 2432, "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}  # fmt: skip
FLUX_TRANSFORMER = {
    "_class_name": "FluxTransformer2DModel", "patch_size": 1, "in_channels": 64, "num_layers": 19,
    "num_single_layers": 38, "attention_head_dim": 128, "num_attention_heads": 24,
    "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": True,
}  # fmt: skip
PIXART_TRANSFORMER = {
    "_class_name": "Transformer2DModel", "sample_size": 128, "patch_size": 2, "in_channels": 4,
    "out_channels": 8, "num_layers": 28, "attention_head_dim": 72, "num_attention_heads": 16,
    "caption_channels": 4096, "cross_attention_dim": 1152, "norm_num_groups": 32,
}  # fmt: skip
T5_XXL = {
    "architectures": ["T5EncoderModel"], "d_ff": 10240, "d_kv": 64, "d_model": 4096,
    "num_layers": 24, "num_decoder_layers": 24, "num_heads": 64, "vocab_size": 32128,
    "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128,
}  # fmt: skip
CLIP_G = {
    "architectures": ["CLIPTextModelWithProjection"], "hidden_size": 1280, "projection_dim": 1280,
    "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
    "max_position_embeddings": 77, "vocab_size": 49408,
}  # fmt: skip


@pytest.mark.parametrize(
    ("pipeline", "part", "config"),
    [
        ("StableDiffusionXLPipeline", "unet", SDXL_UNET),
        ("StableDiffusionXLPipeline", "text_encoder_2", CLIP_G),
        ("StableDiffusion3Pipeline", "transformer", SD3_TRANSFORMER),
        ("StableDiffusion3Pipeline", "text_encoder_3", T5_XXL),
        ("FluxPipeline", "transformer", FLUX_TRANSFORMER),
        ("PixArtSigmaPipeline", "transformer", PIXART_TRANSFORMER),
    ],
)
def test_a_configuration_of_released_size_is_accepted(
    pipeline: str, part: str, config: dict[str, object]
) -> None:
    family = family_of({"_class_name": pipeline})
    check_model_config(config, family, part, f"{part}/config.json")


@pytest.mark.parametrize(
    ("pipeline", "config", "latents"),
    [
        ("StableDiffusionXLPipeline", SDXL_UNET, 4),
        ("StableDiffusion3Pipeline", SD3_TRANSFORMER, 16),
        ("FluxPipeline", FLUX_TRANSFORMER, 16),
        ("PixArtSigmaPipeline", PIXART_TRANSFORMER, 4),
    ],
)
def test_the_denoiser_takes_what_the_autoencoder_makes(
    pipeline: str, config: dict[str, object], latents: int
) -> None:
    family = family_of({"_class_name": pipeline})
    check_channels(config, {"latent_channels": latents}, family, "config.json")
