"""Chains with a prompt, of tiny stock pipelines, and what they are compared with."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from pipeline_factory import tiny_pipeline

from pytest_memscan.denoising.attach import replaced
from pytest_memscan.denoising.sampling import with_ddim
from pytest_memscan.generation import call_settings
from pytest_memscan.splitting.chain import Chain, Step

FAMILIES = ["sd1", "sd2-v", "sdxl", "pixart-sigma"]
PROMPT = "a red cat"
STEPS = 4
SEEDS = [11, 5, 8, 2**32 - 1, 3]
SHAPE = (4, 8, 8)


@cache
def shared(family: str) -> Any:
    """One pipeline for many tests: a chain leaves nothing behind."""
    return with_ddim(tiny_pipeline(family))


def chain_of(pipe: Any, batch_size: int, guidance: float = 4.0) -> Chain:
    return Chain(
        pipeline=pipe,
        num_steps=STEPS,
        batch_size=batch_size,
        prompt=PROMPT,
        settings={**call_settings(pipe), "guidance_scale": guidance},
    )


def nobody(_: Step) -> None:
    """Changes nothing."""


def stock(pipe: Any, guidance: float, output_type: str = "pt") -> torch.Tensor:
    images: torch.Tensor = pipe(
        prompt=PROMPT,
        num_images_per_prompt=len(SEEDS),
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        num_inference_steps=STEPS,
        eta=1.0,
        guidance_scale=guidance,
        output_type=output_type,
        **call_settings(pipe),
    ).images
    return images


def lengths(value: Any) -> Iterator[int]:
    """Rows of all batched tensors among a call's arguments."""
    if torch.is_tensor(value) and value.ndim:
        yield len(value)
    elif isinstance(value, dict):
        yield from lengths(tuple(value.values()))
    elif isinstance(value, tuple):
        for each in value:
            yield from lengths(each)


@contextmanager
def watched(module: Any, name: str = "forward", *, fail: bool = False) -> Iterator[list[set[int]]]:
    """Rows of the arguments of each call that arrives at the module itself."""
    seen: list[set[int]] = []
    original = getattr(module, name)

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        if fail:
            raise RuntimeError("the power went out")
        seen.append(set(lengths((args, kwargs))))
        return original(*args, **kwargs)

    with replaced(module, name, call):
        yield seen
