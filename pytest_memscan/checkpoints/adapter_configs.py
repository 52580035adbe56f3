"""How strong a LoRA is: what adapter_config.json and diffusers' metadata say about its scale."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_memscan.checkpoints.adapter_keys import DENOISER, PARTS, WHAT_IS_SUPPORTED
from pytest_memscan.checkpoints.configs import check_count, check_integers, refuse_code
from pytest_memscan.checkpoints.files import parse_json, shown
from pytest_memscan.errors import CheckpointError

DIFFUSERS_METADATA = "lora_adapter_metadata"  # in the header of a safetensors file
_MAX_RANK = 16_384
# Patterns are regular expressions; an arbitrary one could take for ever.
_PLAIN_PATTERN = re.compile(r"\^?[\w.]+", re.ASCII)
# Base weights stay what they are with these; PiSSA, OLoRA and the like change them.
_HARMLESS_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
_MEANINGFUL = {
    "peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "bias",
    "init_lora_weights",
}  # fmt: skip
# Of training, of the choice of layers (the tensors name them), or only for people.
_IGNORED = {
    "auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "eva_config",
    "exclude_modules", "inference_mode", "layers_pattern", "layers_to_transform", "loftq_config",
    "lora_dropout", "megatron_core", "peft_version", "qalora_group_size", "revision",
    "runtime_config", "target_modules", "task_type",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """The scale of the layers of one part: ``alpha / rank`` (peft's rule)."""

    rank: int
    alpha: float
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    uses_root: bool = False  # alpha / sqrt(rank), arXiv:2312.03732

    def rank_of(self, module: str) -> int:
        """The rank that a layer must have."""
        return self.rank_pattern.get(_matching(self.rank_pattern, module), self.rank)

    def scale_of(self, module: str) -> float:
        """What the product of up and down is multiplied by."""
        alpha = self.alpha_pattern.get(_matching(self.alpha_pattern, module), self.alpha)
        rank = self.rank_of(module)
        return alpha / (math.sqrt(rank) if self.uses_root else rank)


def _matching(patterns: Mapping[str, object], module: str) -> str:
    """The first pattern for a layer, as peft chooses it: it matches the end of the name."""
    return next((key for key in patterns if re.match(rf"(.*\.)?({key})$", module)), "")


def scaling_of(config: Mapping[str, Any], name: str) -> Scaling:
    """What a configuration of peft says about the scale.

    Args:
        config: adapter_config.json, or the part of diffusers' metadata about one model.
        name: Where it stands, for messages.

    Raises:
        CheckpointError: No LoRA, a setting that changes more than the scale, or a number that
            makes no sense.
    """
    refuse_code(config, name)
    peft_type = config.get("peft_type")
    if peft_type != "LORA":
        raise CheckpointError(
            f"{name}: peft_type is {shown(peft_type)}, not 'LORA'; {WHAT_IS_SUPPORTED}"
        )
    check_integers({key: config[key] for key in config if key in _MEANINGFUL}, name)
    _refuse_other_settings(config, name)
    check_count(config.get("r"), _MAX_RANK, "r", name)
    return Scaling(
        rank=config["r"],
        alpha=_number(config.get("lora_alpha"), "lora_alpha", name),
        rank_pattern=_pattern(config, "rank_pattern", name, only_ranks=True),
        alpha_pattern=_pattern(config, "alpha_pattern", name),
        uses_root=_flag(config.get("use_rslora"), "use_rslora", name),
    )


def scalings_in(metadata: Mapping[str, str], name: str) -> dict[str, Scaling]:
    """Part -> scale, from the metadata that diffusers writes with a LoRA; may be empty.

    Args:
        metadata: ``__metadata__`` of the safetensors file.
        name: File, for messages.

    Raises:
        CheckpointError: As `scaling_of`, or the metadata is no JSON.
    """
    text = metadata.get(DIFFUSERS_METADATA)
    if not text:
        return {}
    where = f"{DIFFUSERS_METADATA} of {name}"
    of_part: dict[str, dict[str, Any]] = {}
    for key, value in parse_json(text.encode("utf-8", "surrogatepass"), where).items():
        head, _, setting = key.partition(".")
        part, setting = (head, setting) if head in PARTS else (DENOISER, key)
        of_part.setdefault(part, {})[setting] = value
    return {part: scaling_of(config, where) for part, config in of_part.items()}


def _refuse_other_settings(config: Mapping[str, Any], name: str) -> None:
    if config.get("bias", "none") != "none":
        raise CheckpointError(
            f"{name}: bias is {shown(config['bias'])}, so this adapter also replaces biases; "
            f"{WHAT_IS_SUPPORTED}"
        )
    start = config.get("init_lora_weights")
    if start not in _HARMLESS_STARTS:
        raise CheckpointError(
            f"{name}: init_lora_weights is {shown(start)}, which changes the weights of the base; "
            "convert the adapter with peft's path_initial_model_for_weight_conversion, or merge it"
        )
    for key, value in config.items():
        if value and key not in _MEANINGFUL and key not in _IGNORED:
            raise CheckpointError(
                f"{name}: {shown(key)} is {shown(value)}, a setting that a scan cannot honour; "
                f"{WHAT_IS_SUPPORTED}"
            )


def _pattern(
    config: Mapping[str, Any], key: str, name: str, *, only_ranks: bool = False
) -> dict[str, Any]:
    found = config.get(key) or {}
    if not isinstance(found, dict):
        raise CheckpointError(f"{name}: {key} is {shown(found)}; expected layers and numbers")
    for layer, value in found.items():
        if not _PLAIN_PATTERN.fullmatch(layer):
            raise CheckpointError(
                f"{name}: {key} names the layers {shown(layer)}; only plain names of layers are "
                "accepted there, not regular expressions"
            )
        if only_ranks:
            check_count(value, _MAX_RANK, key, name)
        else:
            _number(value, key, name)
    return found


def _number(value: object, key: str, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise CheckpointError(f"{name}: {key} is {shown(value)}; expected a number")
    return float(value)


def _flag(value: object, key: str, name: str) -> bool:
    if value is not None and not isinstance(value, bool):
        raise CheckpointError(f"{name}: {key} is {shown(value)}; expected true or false")
    return bool(value)
