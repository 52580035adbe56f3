"""Halves of a batch are adapted as peft adapts rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model

from pytest_memscan.guidance.adapters import adapted_layers, can_mix, mixed, switched_off
from pytest_memscan.guidance.pair import ADAPTER


def network(**settings: Any) -> torch.nn.Module:
    """A convolution and a linear layer, adapted."""
    torch.manual_seed(0)
    plain = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.GELU(), torch.nn.Flatten(), torch.nn.Linear(36, 5)
    )
    config = LoraConfig(
        r=2, lora_alpha=3, target_modules=["0", "3"], init_lora_weights=False, **settings
    )
    return inject_adapter_in_model(config, plain, adapter_name=ADAPTER).eval()


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_as_peft_s_own_mixed_batches(rows: int, dtype: torch.dtype) -> None:
    adapted = network().to(dtype)
    pictures = torch.randn(2 * rows, 3, 5, 5).to(dtype)
    layers = adapted_layers(adapted)
    assert can_mix(layers)
    with mixed(layers) as mixing:
        mixing.rows = rows
        ours = adapted(pictures)
    names = {"adapter_names": [ADAPTER] * rows + ["__base__"] * rows}
    handles = [
        layer.register_forward_pre_hook(lambda _, args, __: (args, names), with_kwargs=True)
        for layer in layers
    ]
    theirs = adapted(pictures)
    for handle in handles:
        handle.remove()
    assert torch.equal(ours, theirs)
    if dtype == torch.float32:
        torch.testing.assert_close(ours[:rows], adapted(pictures[:rows]))
        with switched_off(layers):
            torch.testing.assert_close(ours[rows:], adapted(pictures[rows:]))
    assert not torch.allclose(ours, adapted(pictures))


@torch.no_grad()
def test_a_layer_that_is_given_other_rows_is_refused() -> None:
    adapted = network()
    layers = adapted_layers(adapted)
    with mixed(layers) as mixing:
        mixing.rows = 1
        with pytest.raises(ValueError, match="given 4 rows in a batch of 2"):
            adapted(torch.randn(4, 3, 5, 5))
    assert not any(layer.disable_adapters or layer._forward_hooks for layer in layers)


def test_switching_off_leaves_no_trace() -> None:
    adapted = network()
    layers = adapted_layers(adapted)
    wanted = [each.requires_grad for each in adapted.parameters()]

    def interrupted() -> None:
        with switched_off(layers):
            assert all(layer.disable_adapters for layer in layers)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not any(layer.disable_adapters for layer in layers)
    assert [each.requires_grad for each in adapted.parameters()] == wanted


def test_dora_cannot_be_mixed() -> None:
    assert not can_mix(adapted_layers(network(use_dora=True)))
