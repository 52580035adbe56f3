"""One batch of prompts and seeds through the denoiser: everything that detectors look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pytest_memscan.denoising.attach import Rows
from pytest_memscan.denoising.conditioning import DISTILLED, Conditioned, widened
from pytest_memscan.denoising.early import Step, follow
from pytest_memscan.denoising.schedule import NEAR_CLEAN
from pytest_memscan.detectors.catalogue import EARLY, ScreenPlan
from pytest_memscan.detectors.scores import change_norms


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What has to be looked at.

    Attributes:
        early_step: None without an early look.
        trajectory: Every step of the schedule.
        near_clean: The same noise near timestep 0.
    """

    early_step: int | None
    trajectory: bool
    near_clean: bool

    @classmethod
    def by(cls, detectors: Sequence[str], plan: ScreenPlan) -> Wanted:
        """What these detectors want."""
        both = plan.branches == 2
        return cls(
            early_step=plan.early_step if EARLY & set(detectors) else None,
            trajectory=both and "mean_noise_magnitude" in detectors,
            near_clean=both and "norm_alignment" in detectors,
        )

    @property
    def stop_after(self) -> int | None:
        """Last step that is needed; None for all."""
        return None if self.trajectory else self.early_step or 1


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was seen of one batch.

    Attributes:
        tensors: Name -> ``(batch, ...)`` in at least float32, on the CPU.
        has_picture: Latents are ``(channels, height, width)``.
        num_steps: Of the schedule, which some schedulers make longer than asked.
        calls: Single-sample denoiser forwards.
    """

    tensors: dict[str, torch.Tensor]
    has_picture: bool
    num_steps: int
    calls: int


def observe(pipeline: Any, rows: Rows, wanted: Wanted) -> Seen:
    """Run the pipeline as far as it is needed, and ask near timestep 0 where that is wanted.

    Tensors, each where both branches or the look are there: ``noise`` (first latents), ``guided``
    (clean latents of the first step), ``clean`` (the same without guidance), ``change`` (of the
    first step), ``early`` (clean latents of the early look), ``early_norms`` and ``norms`` (of the
    changes so far and of all, ``(batch, steps)``), ``near_change`` and ``near_unconditional``
    (predicted noise near timestep 0).
    """
    tensors: dict[str, torch.Tensor] = {}
    norms: list[torch.Tensor] = []

    def look(step: Step) -> None:
        if step.number == 1:
            tensors.update(_first_step(step))
        if step.predictions.unconditional is not None:
            change = step.parametrisation.noise_change(step.predictions.change(), step.timestep)
            norms.append(change_norms(change.cpu()))
        if step.number == wanted.early_step:
            tensors["early"] = step.clean
            if norms:
                tensors["early_norms"] = torch.stack(norms, dim=1)

    conditioned = follow(pipeline, rows, stop_after=wanted.stop_after, on_step=look)
    if norms and wanted.trajectory:
        tensors["norms"] = torch.stack(norms, dim=1)
    if wanted.near_clean:
        tensors.update(_near_clean(conditioned))
    return Seen(
        tensors={name: tensor.cpu() for name, tensor in tensors.items()},
        has_picture=conditioned.noise.dim() == 4,
        num_steps=len(conditioned.timesteps),
        calls=conditioned.calls,
    )


def _first_step(step: Step) -> dict[str, torch.Tensor]:
    latents = widened(step.latents)
    tensors = {
        "noise": latents,
        "guided": step.clean,
        "clean": step.parametrisation.clean_latents(
            latents, widened(step.predictions.conditional), step.timestep
        ),
    }
    if step.predictions.unconditional is not None:
        change = step.predictions.change()
        tensors["change"] = step.parametrisation.visible_change(change, step.timestep)
    return tensors


def _near_clean(conditioned: Conditioned) -> dict[str, torch.Tensor]:
    """The paper evaluates both ends of the schedule at the same pure noise."""
    predictions = conditioned.predict(conditioned.noise, NEAR_CLEAN)
    change = conditioned.parametrisation.noise_change(predictions.change(), NEAR_CLEAN)
    if predictions.unconditional is None:
        raise ValueError(DISTILLED)
    unconditional = conditioned.parametrisation.noise(
        widened(conditioned.noise), widened(predictions.unconditional), NEAR_CLEAN
    )
    return {"near_change": change, "near_unconditional": unconditional}
