"""One model that predicts noise, clean latents, velocity or flow scores the same.

The model is known in closed form: prompt ``c`` stands for clean latents that are normal around
``mean(c)`` with variance ``spread(c)``. Its predictions are worked out here from the schedules'
formulas, so that scores also have a value that was worked out by hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pipeline_factory import call_settings, tiny_pipeline

from pytest_memscan.denoising.conditioning import Conditioned, condition
from pytest_memscan.detectors.run import DETECTORS, Scores, screen
from pytest_memscan.detectors.scores import alignment, masked_magnitude, noise_magnitude

# diffusers 0.42 with numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PROMPTS = ["a red cat", "the dog", "a photo of the house"]
BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
KINDS = ("epsilon", "v_prediction", "sample")
Levels = Callable[[float], tuple[float, float]]


def by_betas(timestep: float) -> tuple[float, float]:
    """Signal and noise of Stable Diffusion's schedule, ``log(sigma)`` linear in between."""
    betas = np.linspace(BETAS["beta_start"] ** 0.5, BETAS["beta_end"] ** 0.5, 1000) ** 2
    shares = np.cumprod(1 - betas)
    log_sigma = float(np.interp(timestep, np.arange(1000), 0.5 * np.log((1 - shares) / shares)))
    scale = math.sqrt(1 + math.exp(2 * log_sigma))
    return 1 / scale, math.exp(log_sigma) / scale


def by_flow(timestep: float) -> tuple[float, float]:
    return 1 - timestep / 1000, timestep / 1000


class KnownDenoiser(torch.nn.Module):
    """In place of a UNet."""

    def __init__(self, config: Any, *, kind: str, levels: Levels) -> None:
        super().__init__()
        self.config, self.kind, self.levels = config, kind, levels
        self.dtype, self.device = torch.float32, torch.device("cpu")
        directions = torch.randn((16, 4 * 8 * 8), generator=torch.Generator().manual_seed(0))
        self.register_buffer("directions", directions.double() / 4)

    def means(self, encoder_hidden_states: torch.Tensor) -> torch.Tensor:
        return (encoder_hidden_states.double().mean(dim=1) @ self.directions).reshape(-1, 4, 8, 8)

    def spreads(self, encoder_hidden_states: torch.Tensor) -> torch.Tensor:
        """One variance for each place, so that seeds agree more in some than in others."""
        return 0.1 + self.means(encoder_hidden_states)[:, :1].square()

    def posterior(
        self, noisy: torch.Tensor, encoder_hidden_states: torch.Tensor, timestep: float
    ) -> torch.Tensor:
        """Mean of the clean latents, given the noisy ones: a product of two normal densities."""
        signal, level = self.levels(timestep)
        means, spreads = self.means(encoder_hidden_states), self.spreads(encoder_hidden_states)
        precision = signal**2 / level**2 + 1 / spreads
        return (signal * noisy / level**2 + means / spreads) / precision

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: Any, **_: Any
    ) -> tuple[torch.Tensor]:
        signal, level = self.levels(float(timestep))
        noisy = sample.double()
        clean = self.posterior(noisy, encoder_hidden_states, float(timestep))
        noise = (noisy - signal * clean) / level
        said = {
            "epsilon": noise,
            "sample": clean,
            "v_prediction": signal * noise - level * clean,
            "flow": noise - clean,
        }
        return (said[self.kind].float(),)


def pipeline_of(kind: str, scheduler: Any) -> Any:
    pipeline = tiny_pipeline("sd1")
    pipeline.unet = KnownDenoiser(
        pipeline.unet.config, kind=kind, levels=by_flow if kind == "flow" else by_betas
    )
    pipeline.scheduler = scheduler
    return pipeline


def screened(kind: str) -> Scores:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(**BETAS, prediction_type=kind, clip_sample=False, steps_offset=1)
    return screen(
        pipeline_of(kind, scheduler),
        PROMPTS,
        seeds_of=lambda index: range(10 * index, 10 * index + 3),
        steps=10,
        batch_size=3,
        num_seeds=3,
        detectors=[each.name for each in DETECTORS],
        settings=call_settings("sd1"),
    )


def test_all_scores_are_the_same_whatever_is_predicted() -> None:
    expected = screened("epsilon")
    expected = expected.relative_to(expected)
    assert set(expected.values) == {each.name for each in DETECTORS}
    for kind in KINDS[1:]:
        scores = screened(kind)
        for name, values in scores.relative_to(scores).values.items():
            np.testing.assert_allclose(values, expected.values[name], rtol=1e-4, atol=1e-5)


def flow_scheduler() -> Any:
    from diffusers import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)


def vp_scheduler(kind: str) -> Any:
    from diffusers import EulerDiscreteScheduler  # its timesteps need not be whole

    return EulerDiscreteScheduler(**BETAS, prediction_type=kind)


def conditioned_by(kind: str) -> tuple[Conditioned, Any]:
    scheduler = flow_scheduler() if kind == "flow" else vp_scheduler(kind)
    pipeline = pipeline_of(kind, scheduler)
    settings = call_settings("sd1")
    return condition(pipeline, PROMPTS, seeds=[1, 2, 3], steps=5, settings=settings), pipeline


def matching(conditioned: Conditioned, sigma: float) -> float:
    """Timestep with this ratio of noise to signal, by bisection."""
    low, high = 0.0, 999.0
    for _ in range(80):
        middle = (low + high) / 2
        mixture = conditioned.parametrisation.mixture(middle)
        low, high = (middle, high) if mixture.level / mixture.signal < sigma else (low, middle)
    return low


@pytest.mark.parametrize("flow_timestep", [150, 500, 900])
def test_a_flow_scores_as_the_model_of_unit_variance_that_it_equals(flow_timestep: int) -> None:
    """The same noisy latents, scaled by each schedule's own amount of signal and noise."""
    noise = torch.randn((3, 4, 8, 8), generator=torch.Generator().manual_seed(9))
    clean = torch.randn((3, 4, 8, 8), generator=torch.Generator().manual_seed(10))
    sigma = flow_timestep / (1000 - flow_timestep)
    found: dict[str, list[float]] = {}
    for kind in ("flow", "epsilon", "v_prediction"):
        asked, _ = conditioned_by(kind)
        timestep = flow_timestep if kind == "flow" else matching(asked, sigma)
        mixture = asked.parametrisation.mixture(timestep)
        latents = mixture.signal * clean + mixture.level * noise
        predictions = asked.predict(latents, timestep)
        change = asked.parametrisation.noise_change(predictions.change(), timestep)
        assert predictions.unconditional is not None
        unconditional = asked.parametrisation.noise(latents, predictions.unconditional, timestep)
        predicted = asked.parametrisation.clean_latents(latents, predictions.conditional, timestep)
        found[kind] = [
            noise_magnitude(change),
            masked_magnitude(change),
            alignment(change, unconditional),
            float(predicted.double().norm()),
        ]
    for kind in ("epsilon", "v_prediction"):
        assert found[kind] == pytest.approx(found["flow"], rel=1e-3)


@pytest.mark.parametrize("kind", ["flow", *KINDS])
def test_the_change_is_what_the_closed_form_says(kind: str) -> None:
    asked, pipeline = conditioned_by(kind)
    timestep = 900.0
    predictions = asked.predict(asked.noise, timestep)
    changes = asked.parametrisation.noise_change(predictions.change(), timestep)
    signal, level = pipeline.unet.levels(timestep)

    def believed(prompts: list[str]) -> torch.Tensor:
        tokens = pipeline.tokenizer(
            prompts, padding="max_length", max_length=24, return_tensors="pt"
        )
        states = pipeline.text_encoder(tokens.input_ids)[0]
        clean: torch.Tensor = pipeline.unet.posterior(asked.noise.double(), states, timestep)
        return clean

    expected = -(signal / level) * (believed(PROMPTS) - believed([""] * 3))
    torch.testing.assert_close(changes.double(), expected, rtol=1e-3, atol=1e-5)
