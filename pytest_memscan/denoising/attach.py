"""Attaching to a stock pipeline: its denoiser's calls, its scheduler's steps, and leaving early.

Sampling loops and prompt encoding stay diffusers'. Everything is detached again, whatever
happens, and the pipeline is as usable as before.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

OnCall = Callable[[tuple[Any, ...], dict[str, Any], torch.Tensor], None]
OnStep = Callable[[torch.Tensor, float], None]


class Leave(Exception):  # noqa: N818 - it ends a run, nothing went wrong
    """Raised from a callback: the run is over, images are not wanted."""


@dataclass
class CallCounter:
    """Single-sample forwards: a batch of 8 is 8 calls, whatever the rows are for."""

    calls: int = 0


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What one run of a pipeline makes.

    Attributes:
        prompts: One for each row of the batch.
        seeds: One for each row; each row has its own CPU generator.
        steps: Of the whole schedule, also when the run is left early.
        guidance_scale: None for the pipeline's own default.
        settings: More arguments of the pipeline's call, such as ``height``.
    """

    prompts: Sequence[str]
    seeds: Sequence[int]
    steps: int
    guidance_scale: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.prompts or len(self.prompts) != len(self.seeds):
            raise ValueError(f"{len(self.prompts)} prompts with {len(self.seeds)} seeds")
        if self.steps < 1:
            raise ValueError(f"{self.steps} steps; at least one is needed")


def denoiser_of(pipeline: Any) -> torch.nn.Module:
    """The network that is called at every step.

    Raises:
        ValueError: The pipeline has none.
    """
    for name in ("unet", "transformer"):
        denoiser = getattr(pipeline, name, None)
        if isinstance(denoiser, torch.nn.Module):
            return denoiser
    raise ValueError(f"{type(pipeline).__name__} has neither a unet nor a transformer")


def argument_of(args: tuple[Any, ...], kwargs: dict[str, Any], place: int, *names: str) -> Any:
    """An argument of a denoiser's call, given by position or by one of its names."""
    if len(args) > place:
        return args[place]
    return next(kwargs[name] for name in names if name in kwargs)


def latents_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    """First argument of every denoiser: noisy latents, ``(batch, ...)``."""
    latents: torch.Tensor = argument_of(args, kwargs, 0, "hidden_states", "sample")
    return latents


@contextmanager
def count_calls(pipeline: Any) -> Iterator[CallCounter]:
    """Counts the denoiser's single-sample forwards while it is open."""
    counter = CallCounter()

    def count(_: object, args: tuple[Any, ...], kwargs: dict[str, Any], __: object) -> None:
        counter.calls += len(latents_of(args, kwargs))

    handle = denoiser_of(pipeline).register_forward_hook(count, with_kwargs=True)
    try:
        yield counter
    finally:
        handle.remove()


def run(pipeline: Any, rows: Rows, *, on_call: OnCall, on_step: OnStep) -> None:
    """Run the stock pipeline up to the latents, or until a callback raises `Leave`.

    Args:
        pipeline: Text-to-image pipeline of diffusers, on its device.
        rows: What to make.
        on_call: Told arguments and output of every denoiser call.
        on_step: Told the prediction (guided, of the latents' shape) and the timestep that the
            scheduler is about to step with.
    """
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in rows.seeds]
    guidance = {} if rows.guidance_scale is None else {"guidance_scale": rows.guidance_scale}
    with _hooked(denoiser_of(pipeline), on_call), _stepping(pipeline.scheduler, on_step):
        try:
            pipeline(
                list(rows.prompts),
                generator=generators,
                num_inference_steps=rows.steps,
                output_type="latent",
                **guidance,
                **rows.settings,
            )
        except Leave:
            # What the pipeline itself does after its last step.
            pipeline.maybe_free_model_hooks()


def takes(pipeline: Any, name: str) -> bool:
    """Whether the pipeline's call has an argument of this name."""
    return name in inspect.signature(type(pipeline).__call__).parameters


@contextmanager
def _hooked(denoiser: torch.nn.Module, on_call: OnCall) -> Iterator[None]:
    def watch(_: object, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        on_call(args, kwargs, first_output(output))

    handle = denoiser.register_forward_hook(watch, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def first_output(output: Any) -> torch.Tensor:
    """The prediction, from a tuple or from diffusers' output class."""
    prediction: torch.Tensor = output[0] if isinstance(output, tuple) else output.sample
    return prediction


@contextmanager
def _stepping(scheduler: Any, on_step: OnStep) -> Iterator[None]:
    """Tells of every ``scheduler.step`` of this one scheduler object."""
    original = scheduler.step

    # Pipelines look at the signature of `step` for what it takes; `wraps` keeps it.
    @functools.wraps(original)
    def step(model_output: torch.Tensor, timestep: Any, *args: Any, **kwargs: Any) -> Any:
        on_step(model_output, float(timestep))
        return original(model_output, timestep, *args, **kwargs)

    with replaced(scheduler, "step", step):
        yield


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Another method of this one object for the time being; what was there is put back."""
    had_its_own, before = name in vars(owner), getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if had_its_own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)
