"""A vetted LoRA, attached to the pipeline of its base as layers of peft.

The libraries only warn where an adapter does not fit, and a scan that reads a part of it proves
nothing about the rest. Here every tensor must end in a layer, with its value, or it is an error.
"""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pytest_memscan.checkpoints.adapter_files import Adapter
from pytest_memscan.checkpoints.adapter_keys import PARTS
from pytest_memscan.checkpoints.adapter_layers import OTHER_BASE, Layer, read_layers
from pytest_memscan.checkpoints.files import shown
from pytest_memscan.checkpoints.libraries import one_line, quiet
from pytest_memscan.errors import CheckpointError

if TYPE_CHECKING:
    from typing import Any, TypeAlias

    # Type checkers only see diffusers' placeholders for a missing torch, without attributes.
    DiffusionPipeline: TypeAlias = Any

ADAPTER_NAME = "memscan"  # of the layers that are attached, for peft's `adapter_names`


@dataclass(frozen=True, kw_only=True)
class _Fitted:
    """A layer of the adapter and the module of the base that it changes."""

    layer: Layer
    name: str  # of the module in its part
    down: torch.Tensor  # in dtype and on device of the module
    up: torch.Tensor


def attach_adapter(pipeline: DiffusionPipeline, adapter: Adapter, *, label: str) -> tuple[str, ...]:
    """Attach a LoRA to a pipeline of its base, active in all its parts, as `ADAPTER_NAME`.

    Weights of the base stay what they are: nothing is merged, so that one batch can hold rows of
    the base (``adapter_names=["__base__", ...]``) and of the fine-tune. Parts are in eval mode,
    without gradients, and in the dtype and on the device that they were in.

    Args:
        pipeline: Of the base, as from `load_text_to_image`.
        adapter: From `vet_adapter`.
        label: The adapter as people name it, for messages.

    Returns:
        The parts that carry layers of the adapter, denoiser first: ("unet", "text_encoder").

    Raises:
        CheckpointError: peft is not installed, or the adapter does not fit the base, was changed
            since it was vetted, is not finite or changes nothing. The pipeline is then untouched,
            unless peft itself failed.
    """
    _require_peft()
    layers = read_layers(pipeline, adapter)
    _require_parts(pipeline, layers, label)
    fitted = _fit(pipeline, layers, label)
    parts = tuple(part for part in PARTS if part in fitted)
    for part in parts:
        _attach(getattr(pipeline, part), fitted[part], f"{label}, {part}")
    return parts


def _require_peft() -> None:
    try:
        import peft  # noqa: F401
    except ImportError:
        raise CheckpointError(
            "a LoRA is scanned with peft, which is not installed here; pip install peft"
        ) from None


# --- fitting ------------------------------------------------------------------------------------


def _require_parts(pipeline: DiffusionPipeline, layers: Sequence[Layer], label: str) -> None:
    for layer in layers:
        if not isinstance(getattr(pipeline, layer.part, None), torch.nn.Module):
            num = sum(each.part == layer.part for each in layers)
            raise CheckpointError(
                f"{shown(label)}: {num} of {len(layers)} LoRA layers are of {layer.part} (first: "
                f"{shown(layer.key)}), which the {type(pipeline).__name__} of the base does not "
                f"have; {OTHER_BASE}"
            )


def _fit(
    pipeline: DiffusionPipeline, layers: Sequence[Layer], label: str
) -> dict[str, list[_Fitted]]:
    """Part -> its layers, each with the module that it fits."""
    modules = {
        part: dict(getattr(pipeline, part).named_modules())
        for part in {layer.part for layer in layers}
    }
    fitted: dict[str, list[_Fitted]] = {}
    unmatched: list[str] = []
    mis_shaped: list[str] = []
    for layer in layers:
        name = _name_in(modules[layer.part], layer)
        expected = None if name is None else _shapes(modules[layer.part][name], layer.rank)
        found = (tuple(layer.down.shape), tuple(layer.up.shape))
        if name is None or expected is None:
            unmatched.append(shown(layer.key))
        elif expected != found:
            shapes = [" by ".join(str(list(shape)) for shape in each) for each in (found, expected)]
            mis_shaped.append(f"{shown(layer.key)} is {shapes[0]}, expected {shapes[1]}")
        else:
            weight = modules[layer.part][name].weight
            fitted.setdefault(layer.part, []).append(_cast(layer, name, weight, label))
    problems = [
        f"{len(keys)} {what} (first: {keys[0]})"
        for keys, what in ((unmatched, "match no layer"), (mis_shaped, "mis-shaped"))
        if keys
    ]
    if problems:
        raise CheckpointError(
            f"{shown(label)} does not fit the {type(pipeline).__name__} of the base, of "
            f"{len(layers)} LoRA layers: {', '.join(problems)}; it was trained from another "
            f"architecture ({OTHER_BASE}) or saved under names that diffusers does not use "
            "(convert it to the layout of diffusers)"
        )
    _require_distinct(fitted, label)
    return fitted


def _name_in(modules: dict[str, torch.nn.Module], layer: Layer) -> str | None:
    """The name of the layer in this base; text encoders lost a prefix in transformers 5."""
    prefix = "text_model."
    for name in (layer.module, layer.module.removeprefix(prefix), prefix + layer.module):
        if name in modules and (name == layer.module or layer.part.startswith("text_encoder")):
            return name
    return None


def _shapes(module: torch.nn.Module, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Shapes of down and up for this module; None where it takes no LoRA."""
    if isinstance(module, torch.nn.Linear):
        return (rank, module.in_features), (module.out_features, rank)
    if isinstance(module, torch.nn.Conv2d) and module.groups == 1:
        return (rank, module.in_channels, *module.kernel_size), (module.out_channels, rank, 1, 1)
    return None


def _cast(layer: Layer, name: str, weight: torch.Tensor, label: str) -> _Fitted:
    """The layer in the dtype and on the device of the weight that it changes; always a copy."""
    down, up = (
        each.to(device=weight.device, dtype=weight.dtype, copy=True).contiguous()
        for each in (layer.down, layer.up)
    )
    if not (torch.isfinite(down).all() and torch.isfinite(up).all()):
        raise CheckpointError(
            f"{shown(label)}: {shown(layer.key)} is too large for {weight.dtype}; use "
            "--memscan-dtype float32"
        )
    return _Fitted(layer=layer, name=name, down=down, up=up)


def _require_distinct(fitted: dict[str, list[_Fitted]], label: str) -> None:
    for part, layers in fitted.items():
        name, times = Counter(each.name for each in layers).most_common(1)[0]
        if times > 1:
            raise CheckpointError(
                f"{shown(label)} changes {part} layer {name} {times} times, under several names; "
                "save the adapter again under one"
            )


# --- attaching ----------------------------------------------------------------------------------


def _attach(model: Any, layers: Sequence[_Fitted], where: str) -> None:
    """Give the modules their LoRA layers, and look whether peft did."""
    import peft

    state = {f"{each.name}.lora_A.weight": each.down for each in layers}
    state |= {f"{each.name}.lora_B.weight": each.up for each in layers}
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they warn of is checked below
            # On the meta device first: peft would draw random weights from torch's generator.
            peft.inject_adapter_in_model(
                _config(layers), model, ADAPTER_NAME, low_cpu_mem_usage=True, state_dict=state
            )
            peft.set_peft_model_state_dict(model, state, ADAPTER_NAME, low_cpu_mem_usage=True)
    except Exception as error:
        raise CheckpointError(
            f"{shown(where)}: peft could not attach the adapter: {one_line(error)}"
        ) from error
    if hasattr(model, "_hf_peft_config_loaded"):
        model._hf_peft_config_loaded = True  # or diffusers' own methods would see no adapter
    model.eval().requires_grad_(False)
    _require_attached(model, layers, where)


def _config(layers: Sequence[_Fitted]) -> Any:
    """Of peft: exactly these layers, each with its own rank and alpha."""
    import peft

    ranks = {each.name: each.layer.rank for each in layers}
    alphas = {each.name: each.layer.scale * each.layer.rank for each in layers}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    return peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type] # any number does
        rank_pattern={f"^{re.escape(n)}": r for n, r in ranks.items() if r != rank},
        alpha_pattern={f"^{re.escape(n)}": a for n, a in alphas.items() if a != alpha},
        target_modules="|".join(re.escape(each.name) for each in layers),
        lora_dropout=0.0,
        inference_mode=True,
    )


def _require_attached(model: torch.nn.Module, layers: Sequence[_Fitted], where: str) -> None:
    """Each module carries its layer, active and with its values, and no other does."""
    from peft.tuners.lora import LoraLayer

    carrying = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer) and ADAPTER_NAME in module.lora_A
    }
    wrong = sorted(set(carrying) ^ {each.name for each in layers})
    for each in layers:
        module = carrying.get(each.name)
        if module is not None and not _holds(module, each):
            wrong.append(each.name)
    if wrong:
        raise CheckpointError(
            f"{shown(where)}: peft did not attach {len(wrong)} of {len(layers)} layers as they are "
            f"stored (first: {wrong[0]}); try another version of peft"
        )


def _holds(module: Any, fitted: _Fitted) -> bool:
    return (
        torch.equal(module.lora_A[ADAPTER_NAME].weight, fitted.down)
        and torch.equal(module.lora_B[ADAPTER_NAME].weight, fitted.up)
        and math.isclose(module.scaling[ADAPTER_NAME], fitted.layer.scale, rel_tol=1e-9)
        and module.active_adapters == [ADAPTER_NAME]
        and not module.disable_adapters
        and not module.merged
    )
