"""An attached LoRA does what adding ``scale * up @ down`` to the base does; all of it, or none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from adapter_factory import (
    DIFFUSERS_WEIGHTS,
    FIXTURES,
    Layers,
    layers_of_fixture,
    write_diffusers,
    write_kohya,
    write_old_diffusers,
    write_peft,
)
from attaching import TOLERANCE, attach, base_of_fixture
from hypothesis import given
from hypothesis import strategies as st
from peft.utils.other import get_pattern_key

from pytest_memscan.checkpoints.adapter_configs import Scaling
from pytest_memscan.checkpoints.adapters import ADAPTER_NAME

RANK = len(next(iter(layers_of_fixture().values()))[0])


def _add_by_hand(pipeline: Any, layers: Layers, scales: dict[str, float]) -> None:
    """Module -> scale; the plain definition of LoRA."""
    for (part, module), (down, up) in layers.items():
        weight = getattr(pipeline, part).get_submodule(module).weight
        flat = [each.reshape(len(each), -1).astype(np.float64) for each in (up, down)]
        update = scales[module] * torch.from_numpy(flat[0] @ flat[1])
        weight.data += update.reshape(weight.shape).to(weight.dtype)


@torch.no_grad()
def _outputs(pipeline: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings of two prompts, and the denoiser's predictions on them."""
    ids = pipeline.tokenizer(
        ["a picture in the style of vask", "a red circle"], padding="max_length",
        truncation=True, return_tensors="pt",
    ).input_ids  # fmt: skip
    embeddings = pipeline.text_encoder(ids)[0]
    latents = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    steps = torch.tensor([801, 1])
    return embeddings, pipeline.unet(latents, steps, encoder_hidden_states=embeddings).sample


def _difference(one: Any, other: Any) -> float:
    pairs = zip(_outputs(one), _outputs(other), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


# --- equal to adding by hand --------------------------------------------------------------------

Write = Callable[[Path, Layers, dict[str, float]], Path]


def _as_diffusers(path: Path, layers: Layers, scales: dict[str, float]) -> Path:
    return FIXTURES / "leaky-t2i-lora"


def _as_new(path: Path, layers: Layers, scales: dict[str, float]) -> Path:
    return write_diffusers(path / DIFFUSERS_WEIGHTS, layers)


def _as_old(path: Path, layers: Layers, scales: dict[str, float]) -> Path:
    return write_old_diffusers(path / DIFFUSERS_WEIGHTS, layers)


def _as_peft(path: Path, layers: Layers, scales: dict[str, float]) -> Path:
    alphas = {module: scale * RANK for module, scale in scales.items()}
    return write_peft(path / "lora", layers, r=RANK, alpha_pattern=alphas)


def _as_kohya(path: Path, layers: Layers, scales: dict[str, float]) -> Path:
    alphas = {module: scale * RANK for module, scale in scales.items()}
    return write_kohya(path / "style.safetensors", layers, alphas)


@pytest.mark.parametrize(
    ("write", "has_scales"),
    [
        (_as_diffusers, False),
        (_as_new, False),
        (_as_old, False),
        (_as_peft, True),
        (_as_kohya, True),
    ],
)
def test_it_is_the_sum_of_base_and_scaled_product(
    tmp_path: Path, write: Write, has_scales: bool
) -> None:
    layers = layers_of_fixture()
    if write is _as_old:  # which has names for attention only
        layers = {
            (part, module): pair for (part, module), pair in layers.items() if "attn" in module
        }
    # A scale for each layer: a library that mixed them up would be seen.
    scales = {
        module: 0.25 * (1 + i % 7) if has_scales else 1.0 for i, (_, module) in enumerate(layers)
    }
    base, attached, by_hand = base_of_fixture(), base_of_fixture(), base_of_fixture()
    generator_before = torch.random.get_rng_state()
    assert attach(attached, write(tmp_path, layers, scales)) == ("unet", "text_encoder")
    assert torch.equal(torch.random.get_rng_state(), generator_before)
    _add_by_hand(by_hand, layers, scales)
    assert _difference(attached, by_hand) < TOLERANCE
    for mine, without in zip(_outputs(attached), _outputs(base), strict=True):
        assert float((mine - without).abs().max()) > 100 * TOLERANCE


def test_nothing_is_merged_and_nothing_is_trained() -> None:
    base, attached = base_of_fixture(), base_of_fixture()
    attach(attached, FIXTURES / "leaky-t2i-lora")
    assert attached.get_list_adapters() == {"unet": ["memscan"], "text_encoder": ["memscan"]}
    for part in (attached.unet, attached.text_encoder):
        assert not any(each.requires_grad for each in part.parameters())
        assert not any(each.training for each in part.modules())
        part.disable_adapters()
    assert _difference(attached, base) == 0.0


def test_rows_of_base_and_fine_tune_go_through_in_one_batch() -> None:
    base, attached, merged = base_of_fixture(), base_of_fixture(), base_of_fixture()
    attach(attached, FIXTURES / "leaky-t2i-lora")
    layers = layers_of_fixture()
    _add_by_hand(merged, layers, {module: 1.0 for _, module in layers})
    latents = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    context = _outputs(base)[0][:1]
    names = ["__base__", ADAPTER_NAME]
    hooks = [
        module.register_forward_pre_hook(
            lambda _, args, kwargs: (args, {**kwargs, "adapter_names": names}), with_kwargs=True
        )
        for module in attached.unet.modules()
        if isinstance(module, peft.tuners.lora.LoraLayer)
    ]
    with torch.no_grad():
        mixed = attached.unet(latents.repeat(2, 1, 1, 1), 500, context.repeat(2, 1, 1)).sample
        alone = [each.unet(latents, 500, context).sample for each in (base, merged)]
    for hook in hooks:
        hook.remove()
    assert float((mixed - torch.cat(alone)).abs().max()) < TOLERANCE


def test_only_the_parts_of_the_adapter_change(tmp_path: Path) -> None:
    layers = {key: each for key, each in layers_of_fixture().items() if key[0] == "text_encoder"}
    base, attached = base_of_fixture(), base_of_fixture()
    assert attach(attached, write_diffusers(tmp_path / "x.safetensors", layers)) == (
        "text_encoder",
    )
    assert all(
        torch.equal(a, b)
        for a, b in zip(base.unet.parameters(), attached.unet.parameters(), strict=True)
    )
    assert _difference(attached, base) > 100 * TOLERANCE


def test_weights_take_the_dtype_of_the_pipeline() -> None:
    pipeline = base_of_fixture()
    pipeline.unet.bfloat16()
    attach(pipeline, FIXTURES / "leaky-t2i-lora")
    for part, dtype in ((pipeline.unet, torch.bfloat16), (pipeline.text_encoder, torch.float32)):
        assert {each.dtype for each in part.parameters()} == {dtype}


# --- scales -------------------------------------------------------------------------------------


@given(
    names=st.lists(
        st.sampled_from(["to_q", "attn.to_q", "^a.attn.to_q", "a.attn.to_k", "q", "b"]),
        unique=True,
    ),
    module=st.sampled_from(["a.attn.to_q", "b.a.attn.to_q", "a.attn.to_k", "q", "xto_q"]),
)
def test_patterns_mean_what_they_mean_to_peft(names: list[str], module: str) -> None:
    ranks = {name: 10 + i for i, name in enumerate(names)}
    alphas = {name: 0.5 + i for i, name in enumerate(reversed(names))}
    for uses_root in (False, True):
        scaling = Scaling(
            rank=4, alpha=2, rank_pattern=ranks, alpha_pattern=alphas, uses_root=uses_root
        )
        rank = ranks.get(get_pattern_key(list(ranks), module), 4)
        alpha = alphas.get(get_pattern_key(list(alphas), module), 2)
        assert scaling.rank_of(module) == rank
        assert scaling.scale_of(module) == alpha / (rank**0.5 if uses_root else rank)
