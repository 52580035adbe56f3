"""The values of a LoRA: its layers under the names of the base's modules, whatever the layout."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load

from pytest_memscan.checkpoints.adapter_files import Adapter, part_of_file
from pytest_memscan.checkpoints.adapter_keys import Pair, pairs_of, place_of
from pytest_memscan.checkpoints.files import open_regular, shown
from pytest_memscan.checkpoints.libraries import one_line, quiet
from pytest_memscan.errors import CheckpointError

if TYPE_CHECKING:
    from typing import Any, TypeAlias

    # Type checkers only see diffusers' placeholders for a missing torch, without attributes.
    DiffusionPipeline: TypeAlias = Any

OTHER_BASE = "give the base it was trained from with --memscan-base"
# Pipelines for which diffusers knows kohya's names; of these, the first two only rename.
_RENAMED = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
_REWRITTEN = ("FluxPipeline",)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What a LoRA adds to the weight of one layer: ``scale * up @ down``."""

    part: str  # component of the pipeline
    module: str  # as the adapter calls it
    key: str  # a tensor of it in the file, for messages
    down: torch.Tensor  # (rank, in) or (rank, in, height, width)
    up: torch.Tensor  # (out, rank) or (out, rank, 1, 1)
    scale: float

    @property
    def rank(self) -> int:
        """Of the update."""
        return int(self.down.shape[0])


def read_layers(pipeline: DiffusionPipeline, adapter: Adapter) -> list[Layer]:
    """All layers of a LoRA, with the values of the very bytes that were vetted.

    Args:
        pipeline: Of the base; kohya's names are read according to its class.
        adapter: Vetted.

    Raises:
        CheckpointError: A file changed since it was vetted, weights are not finite, no weight
            differs from zero, or kohya's names are of another architecture.
    """
    layers: list[Layer] = []
    for name in adapter.source.weights:
        tensors = _read(adapter, name)
        part = part_of_file(adapter.source, name)
        pairs = pairs_of(tensors, layout=adapter.layout, name=name, part=part)
        if adapter.layout == "kohya":
            layers += _from_kohya(pipeline, pairs, tensors, name)
        else:
            layers += [_layer(pair, tensors, adapter) for pair in pairs]
    if strength(layers) == 0:
        raise CheckpointError(
            f"{adapter.source.weights[0]} changes nothing: the up or down weights (or alphas) of "
            "all layers are zero, as before training; save the adapter after training"
        )
    return layers


def strength(layers: Iterable[Layer]) -> float:
    """Sum of squares of all that is added to weights: the same under every way of writing it."""
    return math.fsum(_energy(layer.down, layer.up) * layer.scale**2 for layer in layers)


def _energy(down: torch.Tensor, up: torch.Tensor) -> float:
    """Squared Frobenius norm of ``up @ down``, without making the product."""
    down, up = down.double().flatten(1), up.double().flatten(1)
    return float(((up.T @ up) * (down @ down.T)).sum().clamp_min(0))


def _read(adapter: Adapter, name: str) -> dict[str, torch.Tensor]:
    with open_regular(adapter.source.folder, name) as file:
        data = file.read()
    if hashlib.sha256(data).hexdigest() != adapter.files[name]:
        raise CheckpointError(f"{name} changed while it was read; start the scan again")
    tensors: dict[str, torch.Tensor] = load(data)
    for key, values in tensors.items():
        num_bad = int((~torch.isfinite(values)).sum())
        if num_bad:
            raise CheckpointError(
                f"{name}: {shown(key)} is {100 * num_bad / values.numel():.3g}% non-finite (NaN or "
                "infinite); the adapter is damaged or its training diverged"
            )
    return tensors


def _layer(pair: Pair, tensors: Mapping[str, torch.Tensor], adapter: Adapter) -> Layer:
    scaling = adapter.scalings.get(pair.part)
    return Layer(
        part=pair.part,
        module=pair.module,
        key=pair.down,
        down=tensors[pair.down],
        up=tensors[pair.up],
        scale=_own_scale(pair, tensors) if scaling is None else scaling.scale_of(pair.module),
    )


def _own_scale(pair: Pair, tensors: Mapping[str, torch.Tensor]) -> float:
    """Alpha by rank; without an alpha 1, in every layout."""
    if pair.alpha is None:
        return 1.0
    return float(tensors[pair.alpha].double().item()) / tensors[pair.down].shape[0]


# --- kohya --------------------------------------------------------------------------------------


def _from_kohya(
    pipeline: DiffusionPipeline, pairs: Sequence[Pair], tensors: dict[str, torch.Tensor], name: str
) -> list[Layer]:
    """Layers of kohya's layout, renamed by diffusers."""
    class_name = type(pipeline).__name__
    if class_name not in (*_RENAMED, *_REWRITTEN):
        raise CheckpointError(
            f"{name} is in the layout of kohya, which diffusers does not read for {class_name}; "
            "convert it to the layout of diffusers"
        )
    is_renamed = class_name in _RENAMED
    if not is_renamed:  # diffusers multiplies by alpha / rank, partly in place
        tensors = {key: values.float() for key, values in tensors.items()}
    converted = _converted(pipeline, tensors, name, is_renamed=is_renamed)
    before = [_kohya_layer(pair, tensors) for pair in pairs]
    after = (
        _renamed(converted, before, name) if is_renamed else _rewritten(converted, class_name, name)
    )
    if not math.isclose(strength(before), strength(after), rel_tol=1e-5):
        raise CheckpointError(
            f"{name}: diffusers reads only a part of this adapter for {class_name}; convert it to "
            "the layout of diffusers"
        )
    return after


def _converted(
    pipeline: DiffusionPipeline, tensors: dict[str, torch.Tensor], name: str, *, is_renamed: bool
) -> dict[str, torch.Tensor]:
    arguments: dict[str, Any] = {}
    if type(pipeline).__name__ == "StableDiffusionXLPipeline":
        arguments["unet_config"] = pipeline.unet.config
    given = dict(tensors) if is_renamed else {key: t.clone() for key, t in tensors.items()}
    try:
        with quiet():
            found = type(pipeline).lora_state_dict(given, **arguments)
    except Exception as error:
        raise CheckpointError(
            f"{name} does not fit {type(pipeline).__name__}, tensor names of another architecture "
            f"(first: {shown(min(tensors))}); {OTHER_BASE} ({one_line(error)})"
        ) from error
    return dict(found[0] if isinstance(found, tuple) else found)


def _kohya_layer(pair: Pair, tensors: Mapping[str, torch.Tensor]) -> Layer:
    return Layer(
        part=pair.part,
        module=pair.module,
        key=pair.down,
        down=tensors[pair.down],
        up=tensors[pair.up],
        scale=_own_scale(pair, tensors),
    )


def _renamed(
    converted: Mapping[str, torch.Tensor], before: Sequence[Layer], name: str
) -> list[Layer]:
    """The same layers, under the names that diffusers gave to the same tensors."""
    places = {id(values): place_of(key) for key, values in converted.items()}
    found = []
    for layer in before:
        down, up = places.get(id(layer.down)), places.get(id(layer.up))
        if down is None or up is None or (down.part, down.module) != (up.part, up.module):
            raise CheckpointError(
                f"{name}: diffusers leaves out {shown(layer.key)}, a layer of another "
                f"architecture or of another naming; {OTHER_BASE}"
            )
        found.append(replace(layer, part=down.part, module=down.module))
    return found


def _rewritten(converted: Mapping[str, torch.Tensor], class_name: str, name: str) -> list[Layer]:
    """The layers of tensors in which alphas are already multiplied."""
    try:
        pairs = pairs_of(converted, layout="diffusers", name=name)
    except CheckpointError as error:
        raise CheckpointError(f"{error} (as diffusers reads it for {class_name})") from None
    return [_kohya_layer(pair, converted) for pair in pairs]
