"""DDIM on a checkpoint's own noise schedule, beside the scheduler that it came with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from pipeline_factory import tiny_pipeline

from pytest_memscan.denoising.sampling import with_ddim

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

LATENTS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SCHEDULERS: list[tuple[str, dict[str, Any]]] = [
    ("PNDMScheduler", {**LATENTS, "steps_offset": 1, "skip_prk_steps": True}),
    ("PNDMScheduler", {"prediction_type": "v_prediction", "set_alpha_to_one": True}),
    ("EulerDiscreteScheduler", {**LATENTS, "timestep_spacing": "leading", "steps_offset": 1}),
    (
        "EulerAncestralDiscreteScheduler",
        {"trained_betas": [0.001, 0.01, 0.02, 0.05] * 5, "num_train_timesteps": 20},
    ),
    ("DPMSolverMultistepScheduler", {"prediction_type": "sample"}),
    ("DPMSolverMultistepScheduler", {"beta_schedule": "squaredcos_cap_v2", "lower_order_final": 0}),
    ("DDPMScheduler", {"clip_sample": True, "clip_sample_range": 0.7}),
    ("DDIMScheduler", {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}),
]
each_scheduler = pytest.mark.parametrize(("name", "settings"), SCHEDULERS)


def scheduled(name: str, settings: dict[str, Any]) -> Any:
    """A pipeline of this scheduler alone."""
    pipe = diffusers.DiffusionPipeline()
    scheduler: Any = getattr(diffusers, name)
    pipe.register_modules(scheduler=scheduler(**settings))
    return pipe


@each_scheduler
def test_ddim_takes_over_the_noise_schedule(name: str, settings: dict[str, Any]) -> None:
    pipe = scheduled(name, settings)
    made, own = with_ddim(pipe).scheduler, pipe.scheduler
    assert type(made) is diffusers.DDIMScheduler
    assert torch.equal(made.alphas_cumprod, own.alphas_cumprod)
    shared = set(own.config) & set(made.config) - {"_class_name", "_use_default_values"}
    assert {"beta_schedule", "prediction_type", "steps_offset", "timestep_spacing"} <= shared
    expected = {key: own.config[key] for key in shared}
    if expected["timestep_spacing"] == "linspace":
        expected["timestep_spacing"] = "trailing"
    assert {key: made.config[key] for key in shared} == expected


@each_scheduler
def test_a_step_ends_where_the_next_one_starts(name: str, settings: dict[str, Any]) -> None:
    scheduler = with_ddim(scheduled(name, settings)).scheduler
    scheduler.set_timesteps(5)
    timesteps = scheduler.timesteps.tolist()
    length = scheduler.config.num_train_timesteps // 5
    assert timesteps[1:] == [each - length for each in timesteps[:-1]]


@each_scheduler
def test_the_pipeline_stays_as_it_was(name: str, settings: dict[str, Any]) -> None:
    pipe = scheduled(name, settings)
    own, config, described = pipe.scheduler, dict(pipe.scheduler.config), dict(pipe.config)
    clone = with_ddim(pipe)
    assert clone is not pipe
    assert pipe.scheduler is own
    assert dict(own.config) == config
    assert dict(pipe.config) == described
    assert type(clone) is type(pipe)
    clone.scheduler.set_timesteps(3)
    assert own.num_inference_steps is None


@each_scheduler
def test_a_scheduler_that_was_saved_says_the_same(
    name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    pipe = scheduled(name, settings)
    pipe.scheduler.save_pretrained(tmp_path)
    loaded = diffusers.DiffusionPipeline()
    loaded.register_modules(scheduler=type(pipe.scheduler).from_pretrained(tmp_path))
    known = [dict(with_ddim(each).scheduler.config) for each in (pipe, loaded)]
    for each in known:
        each.pop("_use_default_values", None)
    assert known[0] == known[1]


@each_scheduler
def test_clean_latents_are_clipped_only_where_the_scheduler_clips(
    name: str, settings: dict[str, Any]
) -> None:
    """Latents of an autoencoder lie beyond 1."""
    scheduler = with_ddim(scheduled(name, settings)).scheduler
    scheduler.set_timesteps(4)
    timestep = int(scheduler.timesteps[-1])
    share = scheduler.alphas_cumprod[timestep]
    clean = torch.linspace(-4, 4, 9)
    if scheduler.config.prediction_type == "epsilon":
        sample, prediction = share.sqrt() * clean, torch.zeros(9)
    elif scheduler.config.prediction_type == "sample":
        sample, prediction = torch.zeros(9), clean
    else:
        sample, prediction = share.sqrt() * clean, -((1 - share).sqrt()) * clean
    found = scheduler.step(prediction, timestep, sample).pred_original_sample
    limit = settings.get("clip_sample_range", 1.0)
    # DDPM and DDIM themselves clip unless they are told not to.
    clips = name in ("DDPMScheduler", "DDIMScheduler")
    expected = clean.clamp(-limit, limit) if clips else clean
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["sd1", "sdxl", "pixart-sigma"])
def test_the_modules_are_the_same(family: str) -> None:
    pipe = tiny_pipeline(family)
    clone = with_ddim(pipe)
    assert type(clone) is type(pipe)
    components = clone.components
    for name, part in pipe.components.items():
        assert (components[name] is part) == (name != "scheduler" or part is None)


@pytest.mark.parametrize("family", ["sd3", "flux-dev"])
def test_a_flow_matching_model_is_returned_as_it_is(family: str) -> None:
    pipe = tiny_pipeline(family)
    own = pipe.scheduler
    assert with_ddim(pipe) is pipe
    assert pipe.scheduler is own


def test_a_solver_of_flows_is_left_alone() -> None:
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    pipe = scheduled("DPMSolverMultistepScheduler", flow)
    assert with_ddim(pipe) is pipe


def test_a_scheduler_that_is_not_understood_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"EDMEulerScheduler .* is not understood"):
        with_ddim(scheduled("EDMEulerScheduler", {}))
