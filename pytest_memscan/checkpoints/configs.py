"""What the configuration of a checkpoint may say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_memscan.checkpoints.families import GENERATOR_IGNORING_SCHEDULERS
from pytest_memscan.checkpoints.files import shown
from pytest_memscan.errors import CheckpointError

_MAX_INTEGER = 2**24
MAX_CHANNELS = 16_384
MAX_BLOCKS = 16
MAX_LAYERS = 64  # per block
_MAX_SIDE = 8_192  # pixels
MAX_TIMESTEPS = 100_000

_CODE_KEYS = {"auto_map", "trust_remote_code", "custom_pipeline", "custom_pipelines"}

# (key, largest value) of UNet2DModel; each must be a positive integer where it is present.
_UNET_COUNTS = {
    "in_channels": MAX_CHANNELS,
    "out_channels": MAX_CHANNELS,
    "layers_per_block": MAX_LAYERS,
    "norm_num_groups": MAX_CHANNELS,
    "attn_norm_num_groups": MAX_CHANNELS,
    "attention_head_dim": MAX_CHANNELS,
    "time_embedding_dim": 4 * MAX_CHANNELS,
    "num_train_timesteps": MAX_TIMESTEPS,
}
# What DDIMScheduler gives the same meaning as DDPMScheduler; first: the default of both.
_SAMPLING_CHOICES = {
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "prediction_type": ("epsilon", "sample", "v_prediction"),
    "timestep_spacing": ("leading", "trailing", "linspace"),
}


def refuse_code(config: Mapping[str, Any], name: str) -> None:
    """Refuse keys with which a repository asks to run its own code, at any depth.

    Raises:
        CheckpointError: Such a key is present; removing it silently would hide an attack.
    """
    stack: list[Any] = [dict(config)]
    while stack:
        value = stack.pop()
        if isinstance(value, list):
            stack.extend(value)
        elif isinstance(value, dict):
            for key, child in value.items():
                if _asks_for_code(key, child):
                    raise CheckpointError(
                        f"{name} holds the key {shown(key)}, with which a repository asks to run "
                        "its own code; such a checkpoint is refused"
                    )
                stack.append(child)


def _asks_for_code(key: str, value: object) -> bool:
    if key == "_attn_implementation_autoset":  # some versions of transformers write it
        return not isinstance(value, bool)
    # A kernel may be the name of a repository, whose code would be fetched.
    names_kernel = key.lstrip("_").startswith(("attn_implementation", "experts_implementation"))
    return names_kernel or key in _CODE_KEYS or key.endswith("_internal")


def check_unet_config(config: dict[str, Any], name: str) -> None:
    """Check the configuration of the denoiser, before anything is built from it.

    Raises:
        CheckpointError: Another class, a number that makes no sense, or a denoiser that the
            unconditional scan cannot use (class-conditional, learned variance, no image size).
    """
    refuse_code(config, name)
    check_saved_class(config, ("UNet2DModel",), name)
    check_integers(config, name)
    for key, maximum in _UNET_COUNTS.items():
        if config.get(key) is not None:
            check_count(config[key], maximum, key, name)
    _check_blocks(config, name)
    check_sample_size(config.get("sample_size"), name)
    _check_is_unconditional(config, name)


def check_class(class_name: object, accepted: tuple[str, ...], where: str, what: str) -> None:
    """Check that a class is one of those accepted.

    Args:
        class_name: As read.
        accepted: Names of classes.
        where: File, for the message.
        what: What the class is, for the message.

    Raises:
        CheckpointError: It is not.
    """
    if class_name in GENERATOR_IGNORING_SCHEDULERS:
        raise CheckpointError(
            f"{where}: {class_name} ignores the random generators it is given, so a scan with it "
            f"could not be repeated; save the checkpoint with {' or '.join(accepted[:3])}"
        )
    if class_name not in accepted:
        raise CheckpointError(
            f"{where}: {what} {shown(class_name)} is not supported; "
            f"supported: {', '.join(accepted)}"
        )


def check_saved_class(config: Mapping[str, Any], accepted: tuple[str, ...], name: str) -> None:
    """Check the class that a configuration was saved from, where it names one.

    Raises:
        CheckpointError: It is none of those accepted.
    """
    class_name = config.get("_class_name")
    if class_name is not None:
        check_class(class_name, accepted, name, "_class_name")


def check_integers(config: Mapping[str, Any], name: str) -> None:
    """Check that no number, at any depth, is absurdly large.

    Raises:
        CheckpointError: One is.
    """
    stack: list[tuple[str, Any]] = list(config.items())
    while stack:
        key, value = stack.pop()
        if isinstance(value, dict):
            stack.extend(value.items())
        elif isinstance(value, list):
            stack.extend((key, child) for child in value)
        elif isinstance(value, (int, float)) and abs(value) > _MAX_INTEGER:
            raise CheckpointError(f"{name}: {shown(key)} is {value:g}, which makes no sense")


def check_count(value: object, maximum: int, key: str, name: str) -> None:
    """Check that a number of a configuration is an integer from 1 to `maximum`.

    Raises:
        CheckpointError: It is not.
    """
    # type(), not isinstance(): True is an int.
    if type(value) is not int or not 1 <= value <= maximum:
        raise CheckpointError(
            f"{name}: {key} is {shown(value)}; expected an integer from 1 to {maximum:,}"
        )


def _check_blocks(config: dict[str, Any], name: str) -> None:
    channels = config.get("block_out_channels")
    if not isinstance(channels, list) or not 1 <= len(channels) <= MAX_BLOCKS:
        raise CheckpointError(
            f"{name}: block_out_channels is {shown(channels)}; expected 1 to {MAX_BLOCKS} integers"
        )
    for value in channels:
        check_count(value, MAX_CHANNELS, "block_out_channels", name)
    for key in ("down_block_types", "up_block_types"):
        types = config.get(key)
        is_complete = isinstance(types, list) and len(types) == len(channels)
        if not is_complete or not all(isinstance(block, str) for block in types or ()):
            raise CheckpointError(
                f"{name}: {key} is {shown(types)}; expected one block name for each of the "
                f"{len(channels)} block_out_channels"
            )


def check_sample_size(sample_size: object, name: str) -> None:
    """Check that a configuration says how large the pictures or latents are.

    Raises:
        CheckpointError: It does not, or with a size that makes no sense.
    """
    sides = sample_size if isinstance(sample_size, list) else [sample_size]
    if len(sides) not in (1, 2):
        raise CheckpointError(f"{name}: sample_size is {shown(sample_size)}; expected one or two")
    for side in sides:  # None, too: without it nobody knows how large an image to generate
        check_count(side, _MAX_SIDE, "sample_size", name)


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
    check_saved_class(config, ("DDPMScheduler", "DDIMScheduler"), name)
    check_integers(config, name)
    num_timesteps = config.get("num_train_timesteps", 1000)
    check_count(num_timesteps, MAX_TIMESTEPS, "num_train_timesteps", name)
    trained_betas = config.get("trained_betas")
    if trained_betas is not None:
        check_trained_betas(trained_betas, num_timesteps, name)
    for key, accepted in _SAMPLING_CHOICES.items():
        if key == "beta_schedule" and trained_betas is not None:
            continue  # the betas are listed one by one; both schedulers ignore the name
        value = config.get(key, accepted[0])
        if value not in accepted:
            raise CheckpointError(
                f"{name}: {key} {shown(value)} is unknown to DDIM sampling; "
                f"supported: {', '.join(accepted)}"
            )


def check_trained_betas(betas: object, num_timesteps: int, name: str) -> None:
    """Check that a noise schedule given by its betas is complete.

    Raises:
        CheckpointError: It is not.
    """
    values = betas if isinstance(betas, list) else []
    if len(values) != num_timesteps or not all(
        type(beta) in (int, float) and 0 <= beta <= 1 for beta in values
    ):
        raise CheckpointError(
            f"{name}: trained_betas must be {num_timesteps:,} numbers from 0 to 1, "
            "one for each training timestep"
        )
