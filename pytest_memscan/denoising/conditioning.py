"""A stock pipeline's denoiser with its prompts already encoded, to be asked anything again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pytest_memscan.denoising.attach import (
    Leave,
    Rows,
    argument_of,
    denoiser_of,
    first_output,
    latents_of,
    run,
    takes,
)
from pytest_memscan.denoising.schedule import Parametrisation, read_parametrisation

DISTILLED = "guidance-distilled: the denoiser has no unconditional branch"
_ANY_GUIDANCE = 7.5  # above 1, so that pipelines ask both branches; which value changes nothing
_ROUNDING = 0.01  # of a timestep in half precision


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Raw predictions of both branches.

    Attributes:
        conditional: ``(batch, ...)`` for the prompts.
        unconditional: The same for the empty prompt; None where the denoiser has no such branch.
    """

    conditional: torch.Tensor
    unconditional: torch.Tensor | None

    def change(self) -> torch.Tensor:
        """Conditional minus unconditional in at least float32, ``(batch, ...)``.

        Raises:
            ValueError: There is no unconditional branch.
        """
        if self.unconditional is None:
            raise ValueError(DISTILLED)
        return widened(self.conditional) - widened(self.unconditional)


@dataclass(kw_only=True)
class Conditioned:
    """A denoiser with the conditioning of one batch of prompts.

    Attributes:
        noise: ``(batch, ...)``, the first latents as the denoiser sees them.
        timesteps: Of the sampling schedule, the noisiest first.
        parametrisation: What the predictions mean.
        first: Predictions on `noise` at the first timestep; they cost nothing more.
        calls: Single-sample forwards spent so far.
    """

    noise: torch.Tensor
    timesteps: tuple[float, ...]
    parametrisation: Parametrisation
    first: Predictions
    calls: int
    _denoiser: torch.nn.Module = field(repr=False)
    _args: tuple[Any, ...] = field(repr=False)
    _kwargs: dict[str, Any] = field(repr=False)

    def predict(self, latents: torch.Tensor, timestep: float) -> Predictions:
        """Ask the denoiser about other latents, with the same prompts.

        Args:
            latents: ``(batch, ...)`` like `noise`, in the denoiser's scale.
            timestep: As the scheduler counts.

        Returns:
            Raw predictions, in the denoiser's dtype and on its device.

        Raises:
            ValueError: Another shape, or a timestep between those that the model counts.
        """
        if latents.shape != self.noise.shape:
            expected = tuple(self.noise.shape)
            raise ValueError(f"latents of shape {tuple(latents.shape)}; expected {expected}")
        captured = latents_of(self._args, self._kwargs)
        asked = latents.to(captured.device, captured.dtype)
        asked = asked.repeat(len(captured) // len(asked), *[1] * (asked.dim() - 1))
        when = self._as_captured(timestep)
        args, kwargs = list(self._args), dict(self._kwargs)
        if len(args) > 1:
            args[1] = when
        else:
            kwargs["timestep"] = when
        if args:
            args[0] = asked
        else:
            kwargs["hidden_states" if "hidden_states" in kwargs else "sample"] = asked
        with torch.no_grad():
            output = first_output(self._denoiser(*args, **kwargs))
        self.calls += len(asked)
        return split_branches(output, self.noise)

    def _as_captured(self, timestep: float) -> Any:
        """A timestep of the shape, dtype and scale in which the pipeline gives its own."""
        captured = argument_of(self._args, self._kwargs, 1, "timestep")
        first = float(captured.flatten()[0]) if torch.is_tensor(captured) else float(captured)
        value = timestep
        if not math.isclose(first, self.timesteps[0], rel_tol=_ROUNDING):
            # Flux counts in shares of the training timesteps.
            value = timestep / self.parametrisation.num_train_timesteps
        if not torch.is_tensor(captured):
            return type(captured)(value)
        if not captured.is_floating_point() and value != int(value):
            raise ValueError(f"timestep {timestep}, but this model counts in whole ones")
        return torch.full_like(captured, value)


def condition(
    pipeline: Any,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    steps: int,
    guidance_scale: float | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Conditioned:
    """Encode prompts and draw noise as the pipeline does, and leave at its first denoiser call.

    Args:
        pipeline: Text-to-image pipeline of diffusers, on its device.
        prompts: One for each row.
        seeds: One for each row; each row has its own CPU generator.
        steps: Length of the sampling schedule.
        guidance_scale: Only guidance-distilled models depend on it; for others it is raised
            above 1 where needed, so that both branches are asked.
        settings: More arguments of the pipeline's call, such as ``height``.

    Raises:
        ValueError: The numbers of prompts and seeds differ, or the pipeline is not understood.
    """
    if not not_applicable(pipeline) and (guidance_scale is None or guidance_scale <= 1):
        guidance_scale = _ANY_GUIDANCE
    rows = Rows(
        prompts=prompts,
        seeds=seeds,
        steps=steps,
        guidance_scale=guidance_scale,
        settings=settings or {},
    )
    captured: list[Conditioned] = []

    def capture(args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor) -> None:
        captured.append(conditioned_by(pipeline, rows, args, kwargs, output))
        raise Leave

    run(pipeline, rows, on_call=capture, on_step=lambda *_: None)
    return captured[0]


def conditioned_by(
    pipeline: Any,
    rows: Rows,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    output: torch.Tensor,
) -> Conditioned:
    """What the first denoiser call of a run says about the rest."""
    latents = latents_of(args, kwargs)
    noise = latents[-len(rows.prompts) :].clone()
    return Conditioned(
        noise=noise,
        timesteps=tuple(float(timestep) for timestep in pipeline.scheduler.timesteps),
        parametrisation=read_parametrisation(pipeline.scheduler),
        first=split_branches(output, noise),
        calls=len(latents),
        _denoiser=denoiser_of(pipeline),
        _args=args,
        _kwargs=kwargs,
    )


def split_branches(output: torch.Tensor, latents: torch.Tensor) -> Predictions:
    """Predictions out of a batch that may hold the unconditional rows first.

    Args:
        output: ``(batch or 2 * batch, ...)``; with twice the channels where the model predicts
            the variance too (Nichol and Dhariwal 2021), which is dropped.
        latents: ``(batch, ...)``.

    Raises:
        ValueError: Neither one nor two branches.
    """
    if output.dim() == 4 and output.shape[1] == 2 * latents.shape[1]:
        output = output.chunk(2, dim=1)[0]
    if len(output) == len(latents):
        return Predictions(conditional=output, unconditional=None)
    if len(output) != 2 * len(latents):
        raise ValueError(
            f"the denoiser answers {len(output)} rows when {len(latents)} images are made; "
            "expected as many, or twice as many"
        )
    unconditional, conditional = output.chunk(2)
    return Predictions(conditional=conditional, unconditional=unconditional)


def not_applicable(pipeline: Any) -> str:
    """Why a prompt's predictions cannot be compared with those without a prompt, or "".

    A model distilled without a trace in its configuration (SDXL Turbo) cannot be told apart.
    """
    config: Any = denoiser_of(pipeline).config
    # A guidance scale that is fed to the network was distilled into it; where the pipeline takes
    # a "true" one besides, its models are made to be sampled without an unconditional branch.
    embedded = config.get("guidance_embeds") or config.get("time_cond_proj_dim") is not None
    if embedded or takes(pipeline, "true_cfg_scale"):
        return DISTILLED
    if not takes(pipeline, "guidance_scale"):
        return "the pipeline has no classifier-free guidance"
    return ""


def widened(values: torch.Tensor) -> torch.Tensor:
    """In float32 at least: half precision is the denoiser's, not that of what is made of it."""
    return values if values.dtype == torch.float64 else values.float()
