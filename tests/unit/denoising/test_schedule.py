"""How noisy the denoiser's input is, against what the schedulers themselves do to latents."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch

from pytest_memscan.denoising.parametrisation import noisy_latents
from pytest_memscan.denoising.schedule import NEAR_CLEAN, read_parametrisation

BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
ZERO_SNR = {
    **BETAS,
    "rescale_betas_zero_snr": True,
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
}
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {**BETAS, "steps_offset": 1}),
    "ddim-zero-snr": ("DDIMScheduler", ZERO_SNR),
    "ddpm": ("DDPMScheduler", BETAS),
    "pndm": ("PNDMScheduler", {**BETAS, "skip_prk_steps": True, "steps_offset": 1}),
    "euler": ("EulerDiscreteScheduler", BETAS),  # between training timesteps
    "euler-leading": ("EulerDiscreteScheduler", {**BETAS, "timestep_spacing": "leading"}),
    "euler-karras": ("EulerDiscreteScheduler", {**BETAS, "use_karras_sigmas": True}),
    "euler-ancestral": ("EulerAncestralDiscreteScheduler", BETAS),
    "heun": ("HeunDiscreteScheduler", BETAS),
    "dpm": ("DPMSolverMultistepScheduler", BETAS),
    "dpm-karras": ("DPMSolverMultistepScheduler", {**BETAS, "use_karras_sigmas": True}),
    "unipc": ("UniPCMultistepScheduler", BETAS),
}
# diffusers 0.42 with numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def made(name: str) -> Any:
    kind, settings = SCHEDULERS[name]
    return getattr(diffusers, kind)(**settings)


def _pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn((2, 1, 4, 8, 8), generator=generator)
    return clean, noise


@pytest.mark.parametrize("name", SCHEDULERS)
def test_mixtures_are_what_the_scheduler_adds_and_scales(name: str) -> None:
    scheduler = made(name)
    scheduler.set_timesteps(7)
    parametrisation = read_parametrisation(scheduler)
    assert not parametrisation.is_flow
    clean, noise = _pair()
    for index in range(len(scheduler.timesteps)):
        # A scheduler that counts its steps answers for the step that it begins with.
        scheduler.set_timesteps(7)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(index)
        timestep = scheduler.timesteps[index]
        added = scheduler.add_noise(clean, noise, timestep[None])
        expected = scheduler.scale_model_input(added, timestep)
        mixture = parametrisation.mixture(float(timestep))
        torch.testing.assert_close(
            noisy_latents(clean, noise, mixture), expected, rtol=2e-5, atol=2e-5
        )
        assert mixture.signal**2 + mixture.level**2 == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("shift", "dynamic"), [(1.0, {}), (3.0, {}), (3.0, {"use_dynamic_shifting": True})]
)
def test_flow_mixtures_are_what_the_scheduler_adds(shift: float, dynamic: dict[str, bool]) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift, **dynamic)
    scheduler.set_timesteps(6, **({"mu": 0.7} if dynamic else {}))
    parametrisation = read_parametrisation(scheduler)
    assert parametrisation.kind == "flow"
    assert parametrisation.is_flow
    clean, noise = _pair()
    for timestep in scheduler.timesteps:
        mixture = parametrisation.mixture(float(timestep))
        torch.testing.assert_close(
            noisy_latents(clean, noise, mixture),
            scheduler.scale_noise(clean, timestep[None], noise),
            rtol=1e-5,
            atol=1e-5,
        )
    assert parametrisation.mixture(float(scheduler.timesteps[0])).is_pure_noise
    assert parametrisation.mixture(NEAR_CLEAN).level == pytest.approx(0.001)


def test_pure_noise_is_recognised() -> None:
    scheduler = made("ddim-zero-snr")
    scheduler.set_timesteps(5)
    parametrisation = read_parametrisation(scheduler)
    assert parametrisation.mixture(999).is_pure_noise
    assert not parametrisation.mixture(998).is_pure_noise
    assert parametrisation.mixture(998.6).is_pure_noise  # nearer to it than to the one before


def test_between_timesteps_sigma_is_interpolated_in_its_logarithm() -> None:
    scheduler = diffusers.DDIMScheduler(**BETAS)
    parametrisation = read_parametrisation(scheduler)
    below, between, above = (parametrisation.mixture(each) for each in (10, 10.5, 11))
    sigmas = [each.level / each.signal for each in (below, between, above)]
    assert sigmas[1] == pytest.approx((sigmas[0] * sigmas[2]) ** 0.5, rel=1e-9)


@pytest.mark.parametrize("timestep", [-1, 1001, float("nan")])
def test_timesteps_that_no_model_was_trained_on_are_refused(timestep: float) -> None:
    parametrisation = read_parametrisation(diffusers.DDIMScheduler(**BETAS))
    with pytest.raises(ValueError, match="not within the 1000"):
        parametrisation.mixture(timestep)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("EDMEulerScheduler", {}),
        ("DDPMScheduler", {"prediction_type": "score"}),
        ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}),
    ],
)
def test_schedulers_that_are_not_understood_are_refused(
    kind: str, settings: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="is not understood"):
        read_parametrisation(getattr(diffusers, kind)(**settings))
