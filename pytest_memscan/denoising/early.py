"""Following a stock pipeline through its first steps, and leaving it there.

What the finished image will be can be seen early, in the predicted clean latents: the remaining
steps and the autoencoder are never paid for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pytest_memscan.denoising.attach import Leave, Rows, latents_of, run
from pytest_memscan.denoising.conditioning import (
    Conditioned,
    Predictions,
    conditioned_by,
    split_branches,
)
from pytest_memscan.denoising.schedule import Parametrisation


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of the sampling loop, before the scheduler takes it.

    Attributes:
        number: 1 for the first.
        timestep: As the scheduler counts.
        latents: ``(batch, ...)`` as the denoiser saw them.
        predictions: Of both branches.
        guided: ``(batch, ...)``, the prediction that the scheduler is given.
        clean: ``(batch, ...)``, the clean latents that it stands for; at least float32.
        parametrisation: What the predictions mean.
    """

    number: int
    timestep: float
    latents: torch.Tensor
    predictions: Predictions
    guided: torch.Tensor
    clean: torch.Tensor
    parametrisation: Parametrisation


def follow(
    pipeline: Any, rows: Rows, *, stop_after: int | None, on_step: Callable[[Step], None]
) -> Conditioned:
    """Run the stock pipeline for `stop_after` scheduler steps, never as far as the autoencoder.

    Args:
        pipeline: Text-to-image pipeline of diffusers, on its device.
        rows: What to make.
        stop_after: The last step that is looked at; the run is left before the scheduler takes
            it. None for the last of the schedule, which some schedulers make longer than asked.
        on_step: Told every step.

    Returns:
        The conditioning of the run, with the calls spent on it.

    Raises:
        ValueError: Fewer than one step, or the schedule has not that many; or the pipeline is
            not understood.
    """
    if stop_after is not None and stop_after < 1:
        raise ValueError(f"stop after step {stop_after}; the first is 1")
    watcher = _Watcher(pipeline, rows, stop_after=stop_after, on_step=on_step)
    run(pipeline, rows, on_call=watcher.called, on_step=watcher.stepped)
    if watcher.conditioned is None:
        raise ValueError(f"{type(pipeline).__name__} finished without calling its denoiser")
    return watcher.conditioned


def early_latents(
    pipeline: Any,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    steps: int,
    stop_after: int,
    guidance_scale: float | None = None,
    settings: Mapping[str, Any] | None = None,
) -> tuple[torch.Tensor, int]:
    """Predicted clean latents at one early step, guided.

    Args:
        pipeline: Text-to-image pipeline of diffusers, on its device.
        prompts: One for each row.
        seeds: One for each row; each row has its own CPU generator.
        steps: Length of the sampling schedule.
        stop_after: Step to look at, 1 for the first.
        guidance_scale: None for the pipeline's own default.
        settings: More arguments of the pipeline's call, such as ``height``.

    Returns:
        ``(batch, ...)`` latents in at least float32, in the pipeline's own layout, and the
        single-sample denoiser forwards spent.

    Raises:
        ValueError: As `follow`.
    """
    rows = Rows(
        prompts=prompts,
        seeds=seeds,
        steps=steps,
        guidance_scale=guidance_scale,
        settings=settings or {},
    )
    seen: dict[int, torch.Tensor] = {}

    def keep(step: Step) -> None:
        if step.number == stop_after:
            seen[step.number] = step.clean

    conditioned = follow(pipeline, rows, stop_after=stop_after, on_step=keep)
    return seen[stop_after], conditioned.calls


class _Watcher:
    """Puts a denoiser call and the scheduler step that follows it together."""

    def __init__(
        self, pipeline: Any, rows: Rows, *, stop_after: int | None, on_step: Callable[[Step], None]
    ) -> None:
        self.pipeline = pipeline
        self.rows = rows
        self.stop_after = stop_after
        self.on_step = on_step
        self.number = 0
        self.conditioned: Conditioned | None = None
        self._latents: torch.Tensor | None = None
        self._predictions: Predictions | None = None

    def called(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor) -> None:
        if self.conditioned is None:
            self.conditioned = conditioned_by(self.pipeline, self.rows, args, kwargs, output)
            self._latents, self._predictions = self.conditioned.noise, self.conditioned.first
            num_steps = len(self.conditioned.timesteps)
            self.stop_after = num_steps if self.stop_after is None else self.stop_after
            if self.stop_after > num_steps:
                raise ValueError(f"stop after step {self.stop_after} of {num_steps}")
            return
        batch = latents_of(args, kwargs)
        self.conditioned.calls += len(batch)
        self._latents = batch[-len(self.rows.prompts) :].clone()
        self._predictions = split_branches(output, self._latents)

    def stepped(self, guided: torch.Tensor, timestep: float) -> None:
        if self.conditioned is None or self._latents is None or self._predictions is None:
            raise ValueError("the scheduler steps before the denoiser was called")
        self.number += 1
        wide = torch.promote_types(guided.dtype, torch.float32)
        parametrisation = self.conditioned.parametrisation
        clean = parametrisation.clean_latents(self._latents.to(wide), guided.to(wide), timestep)
        self.on_step(
            Step(
                number=self.number,
                timestep=timestep,
                latents=self._latents,
                predictions=self._predictions,
                guided=guided,
                clean=clean,
                parametrisation=parametrisation,
            )
        )
        if self.number == self.stop_after:
            raise Leave
