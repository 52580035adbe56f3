"""Adapters of a pipeline, switched off for a while or for some rows of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora.layer import Conv2d, Linear
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper

from pytest_memscan.guidance.pair import ADAPTER


def adapted_layers(module: torch.nn.Module) -> list[Any]:
    """Layers of a module that carry an adapter.

    Raises:
        ValueError: Something else than one active, unmerged adapter.
    """
    kinds = (BaseTunerLayer, AuxiliaryTrainingWrapper)
    layers: list[Any] = [layer for layer in module.modules() if isinstance(layer, kinds)]
    for layer in layers:
        merged = getattr(layer, "merged", False)
        if layer.disable_adapters or merged or list(layer.active_adapters) != [ADAPTER]:
            raise ValueError(
                f"a layer of {type(module).__name__} has the adapters "
                f"{list(layer.active_adapters)}, merged or not in use; expected one that is "
                f"active, unmerged, and named {ADAPTER}"
            )
    return layers


def can_mix(layers: Sequence[Any]) -> bool:
    """Whether every layer adds a plain low-rank product; DoRA, for one, does not."""
    return all(
        isinstance(layer, Linear | Conv2d) and ADAPTER not in layer.lora_variant for layer in layers
    )


@dataclass
class Mixing:
    """Adapts the first `rows` of a batch, and leaves as many behind them to the base."""

    rows: int = 0

    def add(self, layer: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        """Forward hook of a layer that is switched off."""
        if len(output) != 2 * self.rows:
            raise ValueError(
                f"an adapted layer is given {len(output)} rows in a batch of {2 * self.rows}"
            )
        first, second = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
        adapted = layer.lora_dropout[ADAPTER](args[0][: self.rows].to(first.weight.dtype))
        output[: self.rows] += (second(first(adapted)) * layer.scaling[ADAPTER]).to(output.dtype)


@contextmanager
def mixed(layers: Sequence[Any]) -> Iterator[Mixing]:
    """While open, the first half of every batch is adapted, and the second half is the base's.

    The same numbers as peft's mixed batches (``adapter_names``), which pick rows out by lists of
    indices: on a GPU each layer would wait for its lists to be copied there, and on a CPU half of
    a layer's rows would be copied three times.

    Args:
        layers: Of which `can_mix` is true.

    Yields:
        To be told how many rows half a batch has.
    """
    mixing = Mixing()
    with ExitStack() as stack:
        stack.enter_context(switched_off(layers))
        for layer in layers:
            stack.callback(layer.register_forward_hook(mixing.add).remove)
        yield mixing


@contextmanager
def switched_off(layers: Sequence[Any]) -> Iterator[None]:
    """While open, the layers are the base's.

    By peft's own flag: its public switch walks over every parameter and changes which of them
    want gradients.
    """
    before = [layer._disable_adapters for layer in layers]
    try:
        for layer in layers:
            layer._disable_adapters = True
        yield
    finally:
        for layer, was in zip(layers, before, strict=True):
            layer._disable_adapters = was
