"""The stochastic reverse process of a stock pipeline, step by step, for a whole population.

The pipeline runs as it is, with as many images as the population has trajectories. Attached to it:
the denoiser answers in batches of one size, and each step of the scheduler draws its noise from the
trajectory's own generator, after whoever listens has seen, and may have changed, what goes into it.
The noise of a place in the population is a function of its seed and the step alone.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from pytest_memscan.denoising.attach import denoiser_of, first_output, replaced
from pytest_memscan.denoising.schedule import read_parametrisation

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
class Chain:
    """A stock ``DDIMPipeline`` as a Markov chain.

    Attributes:
        pipeline: On its device.
        num_steps: Of the schedule.
        batch_size: Images in every denoiser call.
    """

    pipeline: Any
    num_steps: int
    batch_size: int

    def run(self, seeds: Sequence[int], listener: Listener, *, skip: int = 0) -> Any:
        """Run the pipeline for trajectories with these seeds.

        Args:
            seeds: One for each trajectory, below 2**32.
            listener: Told every step from `skip` on, before the scheduler takes it.
            skip: Steps whose denoiser calls are left out, to go on from latents that the listener
                puts in; their noise is drawn all the same.

        Returns:
            What the pipeline returns: ``images`` ``(num, channels, height, width)`` in [0, 1].
        """
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        with (
            warnings.catch_warnings(),
            self._in_batches(skip),
            self._stepping(generators, listener, skip),
        ):
            # Under ``-W error`` a deprecation within diffusers must not end a scan.
            warnings.simplefilter("ignore")
            return self.pipeline(
                batch_size=len(seeds),
                generator=generators,
                eta=ETA,
                num_inference_steps=self.num_steps,
                output_type="pt",
            )

    @contextmanager
    def _in_batches(self, skip: int) -> Iterator[None]:
        """The denoiser is called with batches of one size, whatever the population's."""
        denoiser = denoiser_of(self.pipeline)
        original = denoiser.forward
        calls = 0

        @functools.wraps(original)
        def forward(sample: torch.Tensor, timestep: Any, **settings: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls <= skip:
                predicted = torch.zeros_like(sample)
            else:
                predicted = torch.cat(
                    [
                        first_output(original(_padded(part, self.batch_size), timestep, **settings))
                        for part in sample.split(self.batch_size)  # type: ignore[no-untyped-call]
                    ]
                )[: len(sample)]
            return _Output(predicted)

        with replaced(denoiser, "forward", forward):
            yield

    @contextmanager
    def _stepping(
        self, generators: Sequence[torch.Generator], listener: Listener, skip: int
    ) -> Iterator[None]:
        scheduler = self.pipeline.scheduler
        original = scheduler.step
        number = -1

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
            return original(
                current.prediction,
                timestep,
                current.latents,
                variance_noise=current.noise.to(sample),
                **settings,
            )

        with replaced(scheduler, "step", step):
            yield


class _Output(tuple[torch.Tensor]):
    """Serves pipelines that ask for a tuple and those that ask for ``sample``."""

    def __new__(cls, sample: torch.Tensor) -> _Output:
        return super().__new__(cls, (sample,))

    @property
    def sample(self) -> torch.Tensor:
        return self[0]


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


def _padded(part: torch.Tensor, size: int) -> torch.Tensor:
    """A short batch filled up with its first row."""
    missing = size - len(part)
    return part if not missing else torch.cat([part, part[:1].expand(missing, *part.shape[1:])])
