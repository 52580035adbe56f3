"""Whether the configurations of a fine-tune and a base belong together; no torch.

Model guidance adds up predictions of both: they have to mean the same (noise, velocity or a flow,
at the same noise levels) in the same latent space, and take the same text features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_memscan.checkpoints.files import shown
from pytest_memscan.checkpoints.verify import Vetted
from pytest_memscan.errors import CheckpointError

# What changes neither a weight nor a prediction, or only how it is computed.
_IGNORED = frozenset(
    {"sample_size", "dropout", "upcast_attention", "force_upcast", "interpolation_scale"}
)
# What older versions of diffusers left out, where shapes do not show it.
_DEFAULTS: Mapping[str, Mapping[str, object]] = {
    "unet": {"attention_head_dim": 8},
    "vae": {
        "latent_channels": 4,
        "scaling_factor": 0.18215,
        "shift_factor": None,
        "latents_mean": None,
        "latents_std": None,
    },
}
_SCHEDULE: Mapping[str, object] = {
    "prediction_type": "epsilon",
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
}
_STABLE_BETAS = {"beta_start": 0.00085, "beta_end": 0.012}
_SCHEDULE_OF: Mapping[str, Mapping[str, object]] = {
    "HeunDiscreteScheduler": _STABLE_BETAS,
    "KDPM2DiscreteScheduler": _STABLE_BETAS,
    "KDPM2AncestralDiscreteScheduler": _STABLE_BETAS,
    "LCMScheduler": {**_STABLE_BETAS, "beta_schedule": "scaled_linear"},
}
_REMEDY = "give the checkpoint that it was fine-tuned from as --memscan-base"


def check_configs(finetuned: Vetted, base: Vetted, *, base_label: str) -> None:
    """Check that a fine-tuned pipeline and its base have one architecture and noise schedule.

    Ignored is what does not matter: the size of pictures, the class of the sampler, versions, the
    safety checker, and what only one of the two writes down.

    Args:
        finetuned: A pipeline folder, vetted.
        base: Likewise.
        base_label: What people call the base.

    Raises:
        CheckpointError: They differ; names the first difference, with both values.
    """
    ours, theirs = finetuned.files.parts.family, base.files.parts.family
    if ours.pipeline != theirs.pipeline:
        raise _misfit(base_label, "pipeline class", ours.pipeline, theirs.pipeline)
    for part in (ours.denoiser, "vae"):
        if part not in finetuned.configs or part not in base.configs:
            continue  # unconditional checkpoints have no autoencoder
        _compare_settings(finetuned.configs[part], base.configs[part], part, base_label)
        if part == ours.denoiser:
            _compare_shapes(finetuned, base, part, base_label)
    left, right = (_schedule(each.configs["scheduler"], each) for each in (finetuned, base))
    for key, default in _SCHEDULE.items():
        mine, its = left.get(key, default), right.get(key, default)
        if mine != its:
            raise _misfit(base_label, f"scheduler: {key}", mine, its)


def _misfit(base_label: str, what: str, ours: object, theirs: object) -> CheckpointError:
    return CheckpointError(
        f"the fine-tune does not fit its base {base_label}: {what} is {shown(ours)} in the "
        f"fine-tune and {shown(theirs)} in the base; {_REMEDY}"
    )


def _compare_settings(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], part: str, base_label: str
) -> None:
    defaults = _DEFAULTS.get(part, {})
    for key in sorted({*ours, *theirs} - _IGNORED):
        left, right = (
            defaults.get(key) if each.get(key) is None else each[key] for each in (ours, theirs)
        )
        is_known = key in defaults or (left is not None and right is not None)
        if is_known and not key.startswith("_") and not _is_same(left, right):
            raise _misfit(base_label, f"{part}/config.json: {key}", left, right)


def _is_same(left: object, right: object) -> bool:
    """Whether two values mean the same; one for all blocks may be written for each of them."""
    if isinstance(left, list) != isinstance(right, list):
        many, one = (left, right) if isinstance(left, list) else (right, left)
        return isinstance(many, list) and all(each == one for each in many)
    return left == right


def _compare_shapes(finetuned: Vetted, base: Vetted, part: str, base_label: str) -> None:
    """Catches what the configurations do not say."""
    ours, theirs = finetuned.tensors[part], base.tensors[part]
    for key in sorted({*ours, *theirs}):
        left, right = (
            list(each[key].info.shape) if key in each else "absent" for each in (ours, theirs)
        )
        if left != right:
            raise _misfit(base_label, f"{part}: tensor {shown(key)}", left, right)


def _schedule(config: Mapping[str, Any], vetted: Vetted) -> dict[str, Any]:
    """The settings that say what a prediction means; unset ones as the scheduler's class has it."""
    of_class = _SCHEDULE_OF.get(vetted.files.parts.classes["scheduler"], {})
    named = {key: config[key] for key in _SCHEDULE if config.get(key) is not None}
    return {**of_class, **named}
