"""The stochastic reverse process of a stock pipeline, step by step, for a whole population.

The pipeline runs as it is, with as many images as the population has trajectories. Attached to it:
denoiser and autoencoder answer in batches of one size, and each step of the scheduler draws its
noise from the trajectory's own generator, after whoever listens has seen, and may have changed,
what goes into it. The noise of a place in the population is a function of its seed and the step
alone.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from pytest_memscan.denoising import attach
from pytest_memscan.denoising.attach import denoiser_of, first_output, replaced
from pytest_memscan.denoising.conditioning import Conditioned, conditioned_by, not_applicable
from pytest_memscan.denoising.schedule import read_parametrisation
from pytest_memscan.splitting.batches import decoding_in_batches, in_batches, padded

ETA = 1.0  # of DDIM: as much noise as the ancestral sampler of DDPM


@dataclass(kw_only=True)
class Step:
    """What the scheduler is about to step with; a listener may change all but `number`.

    Attributes:
        number: 0 for the first.
        timestep: As the scheduler counts.
        latents: ``(num, ...)`` noisy latents.
        prediction: ``(num, ...)`` of the denoiser.
        noise: ``(num, ...)`` standard normal, added after scaling by `sigma`.
        clean: ``(num, ...)`` float32 predicted clean latents, clipped as the scheduler does.
        bridge: Change of the mean of the step, in units of `sigma`, for each unit by which the
            clean latents change; 0 where the scheduler adds no noise.
    """

    number: int
    timestep: int
    latents: torch.Tensor
    prediction: torch.Tensor
    noise: torch.Tensor
    clean: torch.Tensor
    bridge: float


Listener = Callable[[Step], None]


@dataclass(frozen=True, kw_only=True)
class Made:
    """What trajectories ended in.

    Attributes:
        images: ``(num, channels, height, width)`` in [0, 1].
        latents: ``(num, ...)``, what the denoiser's steps led to: the images in [-1, 1] where there
            is no autoencoder.
    """

    images: torch.Tensor
    latents: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Chain:
    """A stock pipeline with DDIM as a Markov chain.

    Attributes:
        pipeline: On its device; its scheduler is a ``DDIMScheduler``.
        num_steps: Of the schedule.
        batch_size: Images in every denoiser call.
        prompt: Of every image; None for an unconditional pipeline. Private.
        settings: More arguments of a text-to-image pipeline's call.
        decodes: Whether latents are made into images; else they stand in their place.
    """

    pipeline: Any
    num_steps: int
    batch_size: int
    prompt: str | None = field(default=None, repr=False)
    settings: Mapping[str, Any] = field(default_factory=dict)
    decodes: bool = True

    def run(self, seeds: Sequence[int], listener: Listener, *, skip: int = 0) -> Made:
        """Run the pipeline for trajectories with these seeds.

        Args:
            seeds: One for each trajectory, below 2**32.
            listener: Told every step from `skip` on, before the scheduler takes it.
            skip: Steps whose denoiser calls are left out, to go on from latents that the listener
                puts in; their noise is drawn all the same.
        """
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        if self.prompt is None:
            asked: dict[str, Any] = {"batch_size": len(seeds), "eta": ETA}
        else:
            asked = {"prompt": self.prompt, "num_images_per_prompt": len(seeds), **self.settings}
        with (
            _quiet(),
            in_batches(denoiser_of(self.pipeline), self.batch_size, skip=skip),
            decoding_in_batches(self.pipeline, self.batch_size),
            self._stepping(generators, listener, skip) as ends,
        ):
            output = self.pipeline(
                generator=generators,
                num_inference_steps=self.num_steps,
                output_type="pt" if self.decodes or self.prompt is None else "latent",
                **asked,
            )
        return Made(images=output.images, latents=ends[-1])

    @torch.no_grad()
    def predict(self, noisy: torch.Tensor, timestep: int) -> torch.Tensor:
        """One denoiser call, without guidance, on latents of one's own.

        Args:
            noisy: ``(batch, ...)``, at most `batch_size` of them.
            timestep: Of the schedule.
        """
        filled = padded(noisy, self.batch_size)
        if self._conditioned is not None:
            return self._conditioned.predict(filled, timestep).conditional[: len(noisy)]
        denoiser = denoiser_of(self.pipeline)
        asked = filled.to(next(denoiser.parameters()).dtype)
        return first_output(denoiser(asked, timestep))[: len(noisy)]

    @cached_property
    def _conditioned(self) -> Conditioned | None:
        """The denoiser that has read the prompt, and no other."""
        if self.prompt is None:
            return None
        # Without an unconditional branch, a call is of `batch_size` rows here too. A scale that was
        # distilled into the denoiser is not a second branch, and stays.
        alone = {} if not_applicable(self.pipeline) else {"guidance_scale": 1.0}
        rows = attach.Rows(
            prompts=[self.prompt] * self.batch_size,
            seeds=range(self.batch_size),  # its noise is not looked at
            steps=self.num_steps,
            settings={**self.settings, **alone},
        )
        captured: list[Conditioned] = []

        def capture(args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor) -> None:
            captured.append(conditioned_by(self.pipeline, rows, args, kwargs, output))
            raise attach.Leave

        with _quiet():
            attach.run(self.pipeline, rows, on_call=capture, on_step=lambda *_: None)
        return captured[0]

    @contextmanager
    def _stepping(
        self, generators: Sequence[torch.Generator], listener: Listener, skip: int
    ) -> Iterator[list[torch.Tensor]]:
        """Yields a list that holds the latents after the last step taken."""
        scheduler = self.pipeline.scheduler
        original = scheduler.step
        number = -1
        reached: list[torch.Tensor] = []

        @functools.wraps(original)
        def step(
            model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, **settings: Any
        ) -> Any:
            nonlocal number
            number += 1
            noise = torch.stack(
                [torch.randn(sample.shape[1:], generator=each) for each in generators]
            ).to(sample)
            settings = settings | {"generator": None, "eta": ETA}
            if number < skip:
                return original(model_output, timestep, sample, variance_noise=noise, **settings)
            current = Step(
                number=number,
                timestep=int(timestep),
                latents=sample,
                prediction=model_output,
                noise=noise,
                clean=clean_latents(scheduler, sample, model_output, int(timestep)),
                bridge=bridge_of(scheduler, int(timestep)),
            )
            listener(current)
            stepped = original(
                current.prediction,
                timestep,
                current.latents,
                variance_noise=current.noise.to(sample),
                **settings,
            )
            reached[:] = [stepped[0]]  # the class that schedulers answer with can be indexed
            return stepped

        with replaced(scheduler, "step", step):
            yield reached


@contextmanager
def _quiet() -> Iterator[None]:
    """Under ``-W error`` a deprecation within diffusers must not end a scan."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def clean_latents(
    scheduler: Any, latents: torch.Tensor, prediction: torch.Tensor, timestep: int
) -> torch.Tensor:
    """Predicted clean latents in float32, clipped where the scheduler clips them."""
    reading = read_parametrisation(scheduler)
    clean = reading.clean_latents(latents.float(), prediction.float(), timestep)
    if scheduler.config.get("clip_sample"):
        limit = float(scheduler.config.get("clip_sample_range", 1.0))
        clean = clean.clamp(-limit, limit)
    return clean


def bridge_of(scheduler: Any, timestep: int) -> float:
    """How far the mean of a step moves with the clean latents, in units of the step's noise.

    The step is ``sqrt(next) * clean + sqrt(1 - next - sigma**2) * noise`` (Song et al. 2021,
    equation 12, with eta of 1), where the predicted noise moves against the clean latents.
    """
    shares = scheduler.alphas_cumprod
    earlier = timestep - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    now = float(shares[timestep])
    then = float(shares[earlier] if earlier >= 0 else scheduler.final_alpha_cumprod)
    variance = (1 - then) / (1 - now) * (1 - now / then)
    if variance < 1e-12:
        return 0.0
    kept = max(0.0, 1 - then - variance)
    moved = math.sqrt(then) - math.sqrt(kept * now / (1 - now))
    return moved / math.sqrt(variance)
