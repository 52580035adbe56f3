"""What the configuration of a checkpoint may say."""

from __future__ import annotations

from typing import Any

from pytest_memscan.checkpoints.files import shown
from pytest_memscan.checkpoints.layout import (
    GENERATOR_IGNORING_SCHEDULERS,
    SUPPORTED_COMPONENTS,
)
from pytest_memscan.errors import CheckpointError

_MAX_INTEGER = 2**24
_MAX_CHANNELS = 16_384
_MAX_BLOCKS = 16
_MAX_LAYERS = 64  # per block
_MAX_SIDE = 8_192  # pixels
_MAX_TIMESTEPS = 100_000

_CODE_KEYS = {"auto_map", "trust_remote_code", "custom_pipeline", "custom_pipelines"}

# (key, largest value) of UNet2DModel; each must be a positive integer where it is present.
_UNET_COUNTS = {
    "in_channels": _MAX_CHANNELS,
    "out_channels": _MAX_CHANNELS,
    "layers_per_block": _MAX_LAYERS,
    "norm_num_groups": _MAX_CHANNELS,
    "attn_norm_num_groups": _MAX_CHANNELS,
    "attention_head_dim": _MAX_CHANNELS,
    "time_embedding_dim": 4 * _MAX_CHANNELS,
    "num_train_timesteps": _MAX_TIMESTEPS,
}
# What DDIMScheduler gives the same meaning as DDPMScheduler; first: the default of both.
_SAMPLING_CHOICES = {
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "prediction_type": ("epsilon", "sample", "v_prediction"),
    "timestep_spacing": ("leading", "trailing", "linspace"),
}


def refuse_code(config: dict[str, Any], name: str) -> None:
    """Refuse keys with which a repository asks to run its own code, at any depth.

    Raises:
        CheckpointError: Such a key is present; removing it silently would hide an attack.
    """
    stack: list[Any] = [config]
    while stack:
        value = stack.pop()
        if isinstance(value, list):
            stack.extend(value)
        elif isinstance(value, dict):
            for key, child in value.items():
                asks = key in _CODE_KEYS or key.startswith("_attn_implementation")
                if asks or key.endswith("_internal"):
                    raise CheckpointError(
                        f"{name} holds the key {shown(key)}, with which a repository asks to run "
                        "its own code; such a checkpoint is refused"
                    )
                stack.append(child)


def check_unet_config(config: dict[str, Any], name: str) -> None:
    """Check the configuration of the denoiser, before anything is built from it.

    Raises:
        CheckpointError: Another class, a number that makes no sense, or a denoiser that the
            unconditional scan cannot use (class-conditional, learned variance, no image size).
    """
    refuse_code(config, name)
    _check_class(config, "unet", name)
    _check_integers(config, name)
    for key, maximum in _UNET_COUNTS.items():
        if config.get(key) is not None:
            _check_count(config[key], maximum, key, name)
    _check_blocks(config, name)
    _check_sample_size(config.get("sample_size"), name)
    _check_is_unconditional(config, name)


def _check_class(config: dict[str, Any], component: str, name: str) -> None:
    class_name, accepted = config.get("_class_name"), SUPPORTED_COMPONENTS[component]
    if class_name in GENERATOR_IGNORING_SCHEDULERS:
        raise CheckpointError(
            f"{name}: {class_name} ignores the random generators it is given, so a scan with it "
            f"could not be repeated; save the checkpoint with {' or '.join(accepted)}"
        )
    if class_name is not None and class_name not in accepted:
        raise CheckpointError(
            f"{name}: _class_name {shown(class_name)} is not supported; "
            f"supported: {', '.join(accepted)}"
        )


def _check_integers(config: dict[str, Any], name: str) -> None:
    stack: list[tuple[str, Any]] = list(config.items())
    while stack:
        key, value = stack.pop()
        if isinstance(value, dict):
            stack.extend(value.items())
        elif isinstance(value, list):
            stack.extend((key, child) for child in value)
        elif isinstance(value, (int, float)) and abs(value) > _MAX_INTEGER:
            raise CheckpointError(f"{name}: {shown(key)} is {value:g}, which makes no sense")


def _check_count(value: object, maximum: int, key: str, name: str) -> None:
    # type(), not isinstance(): True is an int.
    if type(value) is not int or not 1 <= value <= maximum:
        raise CheckpointError(
            f"{name}: {key} is {shown(value)}; expected an integer from 1 to {maximum:,}"
        )


def _check_blocks(config: dict[str, Any], name: str) -> None:
    channels = config.get("block_out_channels")
    if not isinstance(channels, list) or not 1 <= len(channels) <= _MAX_BLOCKS:
        raise CheckpointError(
            f"{name}: block_out_channels is {shown(channels)}; expected 1 to {_MAX_BLOCKS} integers"
        )
    for value in channels:
        _check_count(value, _MAX_CHANNELS, "block_out_channels", name)
    for key in ("down_block_types", "up_block_types"):
        types = config.get(key)
        is_complete = isinstance(types, list) and len(types) == len(channels)
        if not is_complete or not all(isinstance(block, str) for block in types or ()):
            raise CheckpointError(
                f"{name}: {key} is {shown(types)}; expected one block name for each of the "
                f"{len(channels)} block_out_channels"
            )


def _check_sample_size(sample_size: object, name: str) -> None:
    sides = sample_size if isinstance(sample_size, list) else [sample_size]
    if len(sides) not in (1, 2):
        raise CheckpointError(f"{name}: sample_size is {shown(sample_size)}; expected one or two")
    for side in sides:  # None, too: without it nobody knows how large an image to generate
        _check_count(side, _MAX_SIDE, "sample_size", name)


def _check_is_unconditional(config: dict[str, Any], name: str) -> None:
    for key in ("num_class_embeds", "class_embed_type"):
        if config.get(key) is not None:
            raise CheckpointError(
                f"{name}: {key} is {shown(config[key])}, so this denoiser needs a class label; "
                "only unconditional checkpoints can be scanned today"
            )
    in_channels, out_channels = config.get("in_channels", 3), config.get("out_channels", 3)
    if in_channels != out_channels:
        raise CheckpointError(
            f"{name}: out_channels is {out_channels} and in_channels {in_channels}, as in a model "
            "that also predicts its variance; such checkpoints cannot be sampled with DDIM"
        )


def check_scheduler_config(config: dict[str, Any], name: str) -> None:
    """Check that DDIM sampling gives this noise schedule the meaning it was trained with.

    Raises:
        CheckpointError: Another class, a number that makes no sense, or a choice that
            ``DDIMScheduler`` does not know.
    """
    refuse_code(config, name)
    _check_class(config, "scheduler", name)
    _check_integers(config, name)
    num_timesteps = config.get("num_train_timesteps", 1000)
    _check_count(num_timesteps, _MAX_TIMESTEPS, "num_train_timesteps", name)
    trained_betas = config.get("trained_betas")
    if trained_betas is not None:
        _check_trained_betas(trained_betas, num_timesteps, name)
    for key, accepted in _SAMPLING_CHOICES.items():
        if key == "beta_schedule" and trained_betas is not None:
            continue  # the betas are listed one by one; both schedulers ignore the name
        value = config.get(key, accepted[0])
        if value not in accepted:
            raise CheckpointError(
                f"{name}: {key} {shown(value)} is unknown to DDIM sampling; "
                f"supported: {', '.join(accepted)}"
            )


def _check_trained_betas(betas: object, num_timesteps: int, name: str) -> None:
    values = betas if isinstance(betas, list) else []
    if len(values) != num_timesteps or not all(
        type(beta) in (int, float) and 0 <= beta <= 1 for beta in values
    ):
        raise CheckpointError(
            f"{name}: trained_betas must be {num_timesteps:,} numbers from 0 to 1, "
            "one for each training timestep"
        )
