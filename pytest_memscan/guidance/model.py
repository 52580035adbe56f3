"""Model guidance (FineXtract, arXiv:2410.03039) on the denoiser of a stock pipeline."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from pytest_memscan.denoising.attach import (
    Leave,
    Rows,
    denoiser_of,
    first_output,
    replaced,
    run,
    takes,
)
from pytest_memscan.denoising.schedule import read_parametrisation
from pytest_memscan.guidance.adapters import adapted_layers, can_mix, mixed, switched_off
from pytest_memscan.guidance.answers import (
    Answers,
    Call,
    answering,
    refuse_nesting,
    timestep_in,
)
from pytest_memscan.guidance.arguments import latents_in, named, stacked, with_empty_prompt
from pytest_memscan.guidance.combination import FLOW_HAS_NO_K, ModelGuidance, combine
from pytest_memscan.guidance.pair import ModelPair

__all__ = ["CALLS_PER_STEP", "ModelGuidance", "model_guided"]

CALLS_PER_STEP = 2  # single-sample forwards for each image: one of the fine-tune, one of the base
# Arguments of a call of the fine-tune -> output to answer in, the fine-tune's and the base's
# predictions.
Ask = Callable[[Call], tuple[Any, torch.Tensor, torch.Tensor]]


@contextmanager
def model_guided(
    pair: ModelPair, guidance: ModelGuidance, *, settings: Mapping[str, Any] | None = None
) -> Iterator[None]:
    """While open, the denoiser of ``pair.pipeline`` answers with the guided prediction.

    The pipeline must be called without classifier-free guidance (``guidance_scale=1``); a
    guidance that is fed to the denoiser (Flux dev) is allowed, and the base is told the same.
    The base is asked with the empty prompt as its own stock pipeline encodes ``""`` without
    guidance: for SDXL that is what the text encoders say, not the zeros that
    ``force_zeros_for_empty_prompt`` puts in place of an absent *negative* prompt.

    A LoRA costs one forward of a batch twice as large, or two forwards where its layers cannot
    tell rows apart (DoRA); a full fine-tune one forward of each denoiser. Hooks on the denoiser
    see one call with one row for each image, and the guided answer.

    Args:
        pair: Both on the same device, in the same dtype.
        guidance: Scale and k.
        settings: Arguments with which the pipeline is going to be called, such as ``height``.

    Raises:
        ValueError: The pair is already guided, or not understood; k with a model that predicts a
            flow. Within the pipeline's call: classifier-free guidance, or arguments of the
            denoiser that are not understood.
    """
    pipeline, denoiser = pair.pipeline, denoiser_of(pair.pipeline)
    _refuse_nesting(pair)
    kind = read_parametrisation(pipeline.scheduler).kind if guidance.k else "epsilon"
    if kind == "flow":
        raise ValueError(FLOW_HAS_NO_K)
    with ExitStack() as stack:
        if pair.base is None:
            ask = stack.enter_context(_asking_adapters(pipeline, settings or {}))
        else:
            ask = _asking_both(denoiser, pair.base, settings or {})
        guided = _Guided(
            forward=denoiser.forward,
            pipeline=pipeline,
            guidance=guidance,
            ask=ask,
            needs_mixture=kind != "epsilon",
        )
        stack.enter_context(answering(pipeline, guided))
        yield


@dataclass(kw_only=True, eq=False)
class _Guided(Answers):
    """Answers what both models say together."""

    guidance: ModelGuidance
    ask: Ask
    needs_mixture: bool  # predictions cannot be combined without knowing how noisy the latents are

    def answer(self, call: Call) -> tuple[Any, torch.Tensor]:
        output, tuned, base = self.ask(call)
        return output, self._combined(call, tuned, base)

    def _combined(self, call: Call, tuned: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
        latents = latents_in(call)
        parts = latents.shape[1]
        # More channels than the latents': the predicted variance, which stays the fine-tune's.
        mean, variance = tuned[:, :parts], tuned[:, parts:]
        meaning: dict[str, Any] = {}
        if self.needs_mixture:
            parametrisation = read_parametrisation(self.pipeline.scheduler)
            mixture = parametrisation.mixture(timestep_in(call))
            meaning = {"kind": parametrisation.kind, "latents": latents, "mixture": mixture}
        guided = combine(mean, base[:, :parts], self.guidance, **meaning)
        return torch.cat([guided, variance], dim=1) if variance.shape[1] else guided


def _asking_both(denoiser: torch.nn.Module, base: Any, settings: Mapping[str, Any]) -> Ask:
    """A call of each denoiser."""
    forward, other = denoiser.forward, denoiser_of(base)
    # Where only text encoders were fine-tuned the denoiser is shared, and about to be guided.
    ask_base = forward if other is denoiser else other
    empty = _empty_prompt(base, settings)

    def ask(call: Call) -> tuple[Any, torch.Tensor, torch.Tensor]:
        asked = with_empty_prompt(call, empty)
        output = forward(**call)
        return output, first_output(output), first_output(ask_base(**asked))

    return ask


@contextmanager
def _asking_adapters(pipeline: Any, settings: Mapping[str, Any]) -> Iterator[Ask]:
    """One call of the denoiser for both; two where its adapters cannot tell rows apart."""
    denoiser = denoiser_of(pipeline)
    forward = denoiser.forward
    modules = [each for each in pipeline.components.values() if isinstance(each, torch.nn.Module)]
    layers = [layer for module in modules for layer in adapted_layers(module)]
    if not layers:
        raise ValueError("the pipeline has no adapter, and there is no base to compare it with")
    with switched_off(layers):
        empty = _empty_prompt(pipeline, settings)
    of_denoiser = adapted_layers(denoiser)
    if not can_mix(of_denoiser):

        def ask_twice(call: Call) -> tuple[Any, torch.Tensor, torch.Tensor]:
            asked = with_empty_prompt(call, empty)
            output = forward(**call)
            with switched_off(of_denoiser):
                return output, first_output(output), first_output(forward(**asked))

        yield ask_twice
        return
    with mixed(of_denoiser) as mixing:

        def ask_once(call: Call) -> tuple[Any, torch.Tensor, torch.Tensor]:
            both = stacked(call, with_empty_prompt(call, empty))
            mixing.rows = len(latents_in(call))
            output = forward(**both)
            tuned, base = first_output(output).chunk(2)
            return output, tuned, base

        yield ask_once


def _empty_prompt(pipeline: Any, settings: Mapping[str, Any]) -> Call:
    """Arguments of the pipeline's first denoiser call for one image and no prompt."""
    captured: list[Call] = []
    signature = inspect.signature(denoiser_of(pipeline).forward)

    def capture(args: tuple[Any, ...], kwargs: dict[str, Any], _: torch.Tensor) -> None:
        captured.append(named(signature, args, kwargs))
        raise Leave

    rows = Rows(
        prompts=[""],
        seeds=[0],
        steps=2,  # some schedulers cannot do with less
        guidance_scale=1.0 if takes(pipeline, "guidance_scale") else None,
        settings={name: value for name, value in settings.items() if name != "guidance_scale"},
    )
    # The pipeline's own scheduler may be in use, and stays as it is.
    with replaced(pipeline, "scheduler", copy.deepcopy(pipeline.scheduler)):
        run(pipeline, rows, on_call=capture, on_step=lambda *_: None)
    if not captured or len(latents_in(captured[0])) != 1:
        raise ValueError(f"{type(pipeline).__name__} does not ask its denoiser once for one image")
    return captured[0]


def _refuse_nesting(pair: ModelPair) -> None:
    for pipeline in (pair.pipeline, pair.base):
        if pipeline is not None:
            refuse_nesting(pipeline)
