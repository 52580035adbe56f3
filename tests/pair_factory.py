"""Tiny fine-tunes with their bases, for tests: whole models, and LoRAs with random weights."""

from __future__ import annotations

from typing import Any

import torch
from pipeline_factory import tiny_pipeline

from pytest_memscan.denoising.attach import denoiser_of
from pytest_memscan.guidance.pair import ADAPTER, ModelPair

KINDS = ("full", "lora", "text-encoder-lora")

_DENOISER_LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "proj_out", "linear_1"]
_CLIP_LAYERS = ["q_proj", "k_proj", "v_proj", "out_proj"]
_T5_LAYERS = ["q", "v"]


def tiny_pair(family: str, kind: str = "full") -> ModelPair:
    """A pair of one of `KINDS`; the same arguments give the same weights."""
    if kind == "full":
        return ModelPair(pipeline=tiny_pipeline(family), base=tiny_pipeline(family, seed=1))
    pipeline = tiny_pipeline(family)
    attach(pipeline, denoiser=kind == "lora")
    return ModelPair(pipeline=pipeline, base=None)


def separate_pair(family: str, kind: str = "full") -> tuple[Any, Any]:
    """Fine-tune and base of `tiny_pair` as two plain models: adapters are added to the weights."""
    pair = tiny_pair(family, kind)
    if pair.base is not None:
        return pair.pipeline, pair.base
    for layer in adapters_in(pair.pipeline):
        layer.merge()
    return pair.pipeline, tiny_pipeline(family)


def attach(pipeline: Any, *, denoiser: bool = True, name: str = ADAPTER, **settings: Any) -> None:
    """Random adapters on every text encoder, and on the denoiser."""
    from peft import LoraConfig, inject_adapter_in_model

    parts = {key: part for key, part in pipeline.components.items() if "text_encoder" in key}
    targets = [
        (part, _CLIP_LAYERS if "CLIP" in type(part).__name__ else _T5_LAYERS)
        for part in parts.values()
    ]
    if denoiser:
        targets.append((denoiser_of(pipeline), _DENOISER_LAYERS))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        for part, layers in targets:
            config = LoraConfig(
                r=2, lora_alpha=4, target_modules=layers, init_lora_weights=False, **settings
            )
            inject_adapter_in_model(config, part, adapter_name=name)
            part.eval().requires_grad_(False)


def adapters_in(pipeline: Any) -> list[Any]:
    """Layers with an adapter, of all parts of a pipeline."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    parts = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    return [
        layer for part in parts for layer in part.modules() if isinstance(layer, BaseTunerLayer)
    ]
