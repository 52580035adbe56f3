"""How far a fine-tune is from its base: which components differ, and whether it can be its base.

Weights are compared one tensor at a time; no third copy of a network is ever made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pytest_memscan.checkpoints.files import shown
from pytest_memscan.checkpoints.pairing_configs import check_configs
from pytest_memscan.checkpoints.weight_sums import WeightSums
from pytest_memscan.errors import CheckpointError

if TYPE_CHECKING:
    from typing import TypeAlias

    # Type checkers only see diffusers' placeholders for a missing torch, without attributes.
    DiffusionPipeline: TypeAlias = Any

__all__ = ["Difference", "check_configs", "compare", "compare_adapter", "share_identical"]

# Cosine between the denoisers' matrices below which the base is hardly the right one. Measured on
# the fixtures: 0.99 after a short full fine-tune and 0.93 after a long one that memorised; 0.00
# between networks of different seeds, trained or not.
UNRELATED = 0.5
_ENCODER = ("encoder.", "quant_conv.")  # of the autoencoder: what gives latents their meaning
_NOT_SETTINGS = frozenset({"transformers_version", "dtype", "torch_dtype", "architectures"})


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What a fine-tune changed.

    Attributes:
        parts: Components whose weights differ by more than rounding, as ("unet", "text_encoder").
        identical: Components whose weights are equal to the last bit.
        distance: ``|θ' - θ| / |θ|`` of the denoiser: Euclidean norms over all of its weights; θ
            are the base's.
        cosine: Between the denoisers' weights, over tensors of two or more dimensions. Biases and
            the scales of norms begin alike in every network and would hide that two are unrelated.
        warning: Why the base is hardly the right one; "" if nothing speaks against it.
    """

    parts: tuple[str, ...]
    identical: tuple[str, ...]
    distance: float
    cosine: float
    warning: str = ""


def compare(finetuned: DiffusionPipeline, base: DiffusionPipeline) -> Difference:
    """How the loaded fine-tune and its base differ.

    Args:
        finetuned: With weights of its own in every component.
        base: In the same dtype.

    Raises:
        CheckpointError: Nothing differs by more than rounding; or what must be the same is not:
            tokenizers, the latent space of the autoencoders, the shapes of the denoisers.
    """
    _check_tokenizers(finetuned, base)
    denoiser = "unet" if getattr(base, "unet", None) is not None else "transformer"
    parts, identical, sums = [], [], WeightSums()
    for part, module in base.components.items():
        other = getattr(finetuned, part, None)
        if not isinstance(module, torch.nn.Module) and not isinstance(other, torch.nn.Module):
            continue
        found = _compare_part(other, module, part)
        if part == denoiser:
            sums = _same_shapes(found, part)
        if found is None or not found.is_rounding:
            parts.append(part)
        elif found.is_identical:
            identical.append(part)
    if not set(parts) - {"vae"}:
        is_exact = denoiser in identical
        raise CheckpointError(
            f"the fine-tune equals its base{'' if is_exact else ' but for rounding'}: there is "
            "nothing to extract; is --memscan-base the right one?"
        )
    return Difference(
        parts=tuple(parts),
        identical=tuple(identical),
        distance=sums.distance,
        cosine=sums.cosine,
        warning=_warning(sums, denoiser),
    )


def _compare_part(tuned: Any, base: Any, part: str) -> WeightSums | None:
    """Sums over all weights; None where a component is absent from one or has other shapes.

    A text encoder may have learnt new tokens: it is used with prompts for the fine-tune alone.
    """
    if tuned is None or base is None:
        return None
    ours, theirs = _weights(tuned), _weights(base)
    if part == "vae":
        _check_latents(ours, theirs)
    if {k: v.shape for k, v in ours.items()} != {k: v.shape for k, v in theirs.items()}:
        return None
    sums = WeightSums()
    for key, weight in theirs.items():
        sums.add(ours[key].to(weight.device), weight)
    return sums


def _weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Floating-point weights by name; no copies."""
    return {k: v for k, v in module.state_dict().items() if v.is_floating_point()}


def _same_shapes(found: WeightSums | None, part: str) -> WeightSums:
    if found is None:
        raise CheckpointError(
            f"the weights of {part}/ have other shapes in the fine-tune than in its base; give the "
            "checkpoint that it was fine-tuned from as --memscan-base"
        )
    return found


def _check_latents(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """Check that both denoisers speak of the same latents.

    The encoder decides what latents mean. Decoders trained on (as sd-vae-ft-mse) only paint
    differently, and the fine-tune's own one is used.
    """
    sums = WeightSums()
    for key in sorted(key for key in {*ours, *theirs} if key.startswith(_ENCODER)):
        left, right = ours.get(key), theirs.get(key)
        if left is None or right is None or left.shape != right.shape:
            sums.is_rounding = False
            break
        sums.add(left.to(right.device), right)
    if not sums.is_rounding:
        raise CheckpointError(
            "the fine-tune and its base have different autoencoders (vae/): latents of the one "
            "mean something else to the other, so their predictions cannot be combined; is "
            "--memscan-base the right one?"
        )


def _check_tokenizers(finetuned: DiffusionPipeline, base: DiffusionPipeline) -> None:
    """Check that every token of the base has its number in the fine-tune; new ones may be added."""
    for part in base.components:
        theirs, ours = getattr(base, part), getattr(finetuned, part, None)
        if not part.startswith("tokenizer") or theirs is None or ours is None:
            continue
        known = ours.get_vocab()
        for token, number in theirs.get_vocab().items():
            if known.get(token) != number:
                found = "unknown" if token not in known else f"number {known[token]}"
                raise CheckpointError(
                    f"{part}/: token {shown(token)} is {found} in the fine-tune and number "
                    f"{number} in the base: they read prompts differently; is --memscan-base the "
                    "right one?"
                )


def _warning(sums: WeightSums, part: str) -> str:
    if sums.cosine >= UNRELATED:
        return ""
    return (
        f"the weights of {part}/ are unrelated to the base's (cosine {sums.cosine:.2f}, relative "
        f"distance {sums.distance:.2f}; a fine-tune has a cosine near 1): this is hardly the "
        "checkpoint that it was made from, and what is extracted with it proves nothing"
    )


# --- LoRA ---------------------------------------------------------------------------------------


def compare_adapter(pipeline: DiffusionPipeline) -> Difference:
    """How the active adapters change the network that they are attached to.

    `Difference.distance` and `Difference.cosine` are those between the weights with the update
    added to them and without. That the base is the right one, no update can tell.

    Args:
        pipeline: With LoRA layers of peft in its denoiser or text encoders.

    Raises:
        CheckpointError: No layer is changed.
    """
    denoiser = "unet" if getattr(pipeline, "unet", None) is not None else "transformer"
    parts: list[str] = []
    identical: list[str] = []
    sums = WeightSums()
    for part, module in pipeline.components.items():
        if not isinstance(module, torch.nn.Module):
            continue
        found = _adapted(module)
        (identical if found.is_identical else parts).append(part)
        if part == denoiser:
            sums = found
    if not parts:
        raise CheckpointError(
            "the LoRA changes no weight of its base: there is nothing to extract; was it saved "
            "before its training began?"
        )
    return Difference(
        parts=tuple(parts),
        identical=tuple(identical),
        distance=sums.distance,
        cosine=sums.cosine,
    )


@torch.no_grad()
def _adapted(module: torch.nn.Module) -> WeightSums:
    """The sums over all weights that are not the adapters' own."""
    modules: list[Any] = [each for each in module.modules() if hasattr(each, "get_delta_weight")]
    layers = {id(layer.get_base_layer().weight): layer for layer in modules}
    sums = WeightSums()
    for name, weight in module.named_parameters():
        if "lora_" not in name:
            sums.add(_with_update(weight, layers.get(id(weight))), weight)
    return sums


def _with_update(weight: torch.Tensor, layer: Any | None) -> torch.Tensor:
    """A weight with what the active adapters of its layer add to it; peft turns and scales it."""
    if layer is None:
        return weight
    known = {*layer.lora_A, *layer.lora_embedding_A}
    tuned = weight.float()
    for name in layer.active_adapters:
        if name in known:
            tuned = tuned + layer.get_delta_weight(name).float()
    return tuned


# --- sharing ------------------------------------------------------------------------------------


def share_identical(finetuned: DiffusionPipeline, base: DiffusionPipeline) -> tuple[str, ...]:
    """Let the base use the fine-tune's modules wherever they are the same to the last bit.

    Afterwards only what differs is in memory twice: as a rule, the denoiser.

    Returns:
        The components that are shared now.
    """
    shared = []
    for part, module in list(base.components.items()):
        other = getattr(finetuned, part, None)
        if isinstance(module, torch.nn.Module) and _is_same_module(other, module):
            base.register_modules(**{part: other})
            shared.append(part)
    return tuple(shared)


def _is_same_module(tuned: Any, base: Any) -> bool:
    if tuned is base:
        return True
    if type(tuned) is not type(base) or _settings(tuned) != _settings(base):
        return False
    ours, theirs = tuned.state_dict(), base.state_dict()
    return ours.keys() == theirs.keys() and all(
        ours[key].dtype == theirs[key].dtype
        and torch.equal(ours[key].to(theirs[key].device), theirs[key])
        for key in theirs
    )


def _settings(module: Any) -> dict[str, Any]:
    config = module.config
    found = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    return {k: v for k, v in found.items() if not k.startswith("_") and k not in _NOT_SETTINGS}
