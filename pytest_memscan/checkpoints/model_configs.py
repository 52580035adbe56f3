"""What the configurations of a text-to-image checkpoint may say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pytest_memscan.checkpoints.configs import (
    MAX_BLOCKS,
    MAX_CHANNELS,
    MAX_TIMESTEPS,
    check_count,
    check_integers,
    check_sample_size,
    check_saved_class,
    check_trained_betas,
    refuse_code,
)
from pytest_memscan.checkpoints.families import Family
from pytest_memscan.checkpoints.files import shown
from pytest_memscan.errors import CheckpointError

_MAX_WIDTH = 131_072
_MAX_VOCABULARY = 2**20
_MAX_LAYERS = 256
# -Infinity where nothing is clipped: how diffusers writes the default of multistep solvers.
UNBOUNDED = frozenset({"lambda_min_clipped"})
_PREDICTIONS = ("epsilon", "v_prediction", "sample", "flow_prediction")

# (key, largest value); each must be a positive integer, or a list of them, where it is present.
_COUNTS = {
    "in_channels": MAX_CHANNELS,
    "out_channels": MAX_CHANNELS,
    "latent_channels": MAX_CHANNELS,
    "block_out_channels": MAX_CHANNELS,
    "norm_num_groups": MAX_CHANNELS,
    "cross_attention_dim": _MAX_WIDTH,
    "attention_head_dim": MAX_CHANNELS,
    "num_attention_heads": MAX_CHANNELS,
    "addition_time_embed_dim": _MAX_WIDTH,
    "projection_class_embeddings_input_dim": _MAX_WIDTH,
    "joint_attention_dim": _MAX_WIDTH,
    "caption_projection_dim": _MAX_WIDTH,
    "pooled_projection_dim": _MAX_WIDTH,
    "caption_channels": _MAX_WIDTH,
    "pos_embed_max_size": MAX_CHANNELS,
    "patch_size": MAX_CHANNELS,
    "layers_per_block": _MAX_LAYERS,
    "transformer_layers_per_block": _MAX_LAYERS,
    "num_layers": _MAX_LAYERS,
    "num_hidden_layers": _MAX_LAYERS,
    "num_decoder_layers": _MAX_LAYERS,
    "hidden_size": _MAX_WIDTH,
    "intermediate_size": _MAX_WIDTH,
    "projection_dim": _MAX_WIDTH,
    "max_position_embeddings": _MAX_WIDTH,
    "vocab_size": _MAX_VOCABULARY,
    "d_model": _MAX_WIDTH,
    "d_kv": _MAX_WIDTH,
    "d_ff": _MAX_WIDTH,
    "num_heads": MAX_CHANNELS,
    "relative_attention_num_buckets": _MAX_WIDTH,
}
_COUNTS_FROM_ZERO = {"num_single_layers": _MAX_LAYERS}
_LISTS = ("block_out_channels", "down_block_types", "up_block_types")


def check_model_config(config: dict[str, Any], family: Family, part: str, name: str) -> None:
    """Check the configuration of a denoiser, autoencoder or text encoder before it is built.

    Args:
        config: As read.
        family: What the checkpoint is.
        part: Component, as "unet".
        name: File, for messages.

    Raises:
        CheckpointError: Another class, a number that makes no sense, or a denoiser that needs
            more than a prompt.
    """
    refuse_code(config, name)
    component = family.components[part]
    if component.library == "diffusers":
        check_saved_class(config, component.classes, name)
    check_integers(config, name)
    for key, maximum in _COUNTS.items():
        for value in _leaves(config.get(key)):
            check_count(value, maximum, key, name)
    for key, maximum in _COUNTS_FROM_ZERO.items():
        for value in _leaves(config.get(key)):
            if value != 0 or type(value) is not int:
                check_count(value, maximum, key, name)
    for key in _LISTS:
        value = config.get(key, [])
        if not isinstance(value, list) or len(value) > MAX_BLOCKS:
            raise CheckpointError(f"{name}: {key} is {shown(value)}; expected a short list")
    if part == family.denoiser:
        _check_denoiser(config, name)


def _leaves(value: object) -> Iterator[object]:
    """A number, or the numbers of a list of lists; none where the value is absent."""
    if isinstance(value, list):
        for child in value:
            yield from _leaves(child)
    elif value is not None:
        yield value


def _check_denoiser(config: Mapping[str, Any], name: str) -> None:
    if config.get("sample_size") is not None:
        check_sample_size(config["sample_size"], name)
    for key in ("num_class_embeds", "class_embed_type"):
        if config.get(key) is not None:
            raise CheckpointError(
                f"{name}: {key} is {shown(config[key])}, so this denoiser needs more than a "
                "prompt; such a checkpoint is not supported"
            )


def check_channels(
    denoiser: Mapping[str, Any], vae: Mapping[str, Any], family: Family, name: str
) -> None:
    """Check that the denoiser takes latents and nothing else, as in text-to-image.

    Args:
        denoiser: Configuration.
        vae: Configuration.
        family: What the checkpoint is.
        name: File of the denoiser's configuration.

    Raises:
        CheckpointError: It takes more channels than the autoencoder makes (an inpainting model).
    """
    latents = vae.get("latent_channels", 4)
    # Flux packs squares of two by two latents into channels.
    expected = 4 * latents if family.pipeline == "FluxPipeline" else latents
    in_channels = denoiser.get("in_channels")
    if in_channels is not None and in_channels != expected:
        raise CheckpointError(
            f"{name}: in_channels is {in_channels}, but the autoencoder makes latents of "
            f"{expected}: this denoiser needs an input image, or the parts are of different "
            "checkpoints"
        )


def check_sampling_config(config: dict[str, Any], family: Family, name: str) -> None:
    """Check the scheduler of a text-to-image checkpoint, which is used as saved.

    Raises:
        CheckpointError: Another class, a number that makes no sense, or an unknown prediction.
    """
    refuse_code(config, name)
    check_saved_class(config, family.components["scheduler"].classes, name)
    check_integers({key: config[key] for key in config if key not in UNBOUNDED}, name)
    num_timesteps = config.get("num_train_timesteps", 1000)
    check_count(num_timesteps, MAX_TIMESTEPS, "num_train_timesteps", name)
    if config.get("trained_betas") is not None:
        check_trained_betas(config["trained_betas"], num_timesteps, name)
    prediction = config.get("prediction_type", _PREDICTIONS[0])
    if prediction not in _PREDICTIONS:
        raise CheckpointError(
            f"{name}: prediction_type {shown(prediction)} is unknown; "
            f"supported: {', '.join(_PREDICTIONS)}"
        )
