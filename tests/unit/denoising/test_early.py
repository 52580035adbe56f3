"""The early look sees what the pipeline would go on with, and pays for nothing else."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from pipeline_factory import FAMILIES, call_settings, tiny_pipeline

from pytest_memscan.denoising.attach import Rows, count_calls, denoiser_of
from pytest_memscan.denoising.early import Step, early_latents, follow

# diffusers 0.42 with numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@cache
def shared(family: str) -> Any:
    """One pipeline for many tests: attaching to it leaves nothing behind."""
    return tiny_pipeline(family)


PROMPTS = ["a red cat", "the dog"]
SEEDS = [3, 4]
STEPS = 5


def look(
    pipeline: Any, family: str, *, stop_after: int, **changes: Any
) -> tuple[torch.Tensor, int]:
    arguments = {"seeds": SEEDS, "steps": STEPS, "settings": call_settings(family), **changes}
    return early_latents(pipeline, PROMPTS, stop_after=stop_after, **arguments)


def final_latents(pipeline: Any, family: str, **changes: Any) -> torch.Tensor:
    made: torch.Tensor = pipeline(
        PROMPTS,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        num_inference_steps=STEPS,
        output_type="latent",
        **call_settings(family),
        **changes,
    ).images
    return made


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("stop_after", [1, 3])
def test_the_rest_of_the_steps_and_the_autoencoder_are_never_called(
    family: str, stop_after: int
) -> None:
    pipeline = tiny_pipeline(family)
    forwards, decodes = [], []
    handles = [
        denoiser_of(pipeline).register_forward_hook(lambda *_: forwards.append(1)),
        pipeline.vae.decoder.register_forward_hook(lambda *_: decodes.append(1)),
    ]
    with count_calls(pipeline) as counter:
        latents, calls = look(pipeline, family, stop_after=stop_after)
    for handle in handles:
        handle.remove()
    assert len(forwards) == stop_after
    assert decodes == []
    assert calls == counter.calls
    assert calls == stop_after * len(PROMPTS) * (1 if family.startswith("flux") else 2)
    assert len(latents) == len(PROMPTS)
    assert latents.isfinite().all()


@pytest.mark.parametrize("guidance_scale", [1.0, 7.5])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_after_the_last_ddim_step_the_look_is_the_result(kind: str, guidance_scale: float) -> None:
    from diffusers import DDIMScheduler

    pipeline = tiny_pipeline("sd1")
    pipeline.scheduler = DDIMScheduler.from_config(
        pipeline.scheduler.config, prediction_type=kind, set_alpha_to_one=True, clip_sample=False
    )
    guidance = {"guidance_scale": guidance_scale}
    latents, _ = look(pipeline, "sd1", stop_after=STEPS, **guidance)
    expected = final_latents(pipeline, "sd1", **guidance)
    torch.testing.assert_close(latents, expected, rtol=1e-4, atol=1e-4)


def test_where_ddim_ends_with_a_little_noise_the_look_is_without_it() -> None:
    """`set_alpha_to_one` off, as Stable Diffusion has it: the result is one more DDIM step."""
    pipeline = shared("sd2-v")
    steps: list[Step] = []
    rows = Rows(prompts=PROMPTS, seeds=SEEDS, steps=STEPS, settings=call_settings("sd2-v"))
    conditioned = follow(pipeline, rows, stop_after=STEPS, on_step=steps.append)
    last = steps[-1]
    noise = conditioned.parametrisation.noise(last.latents, last.guided, last.timestep)
    share = float(pipeline.scheduler.final_alpha_cumprod)
    expected = share**0.5 * last.clean + (1 - share) ** 0.5 * noise
    torch.testing.assert_close(final_latents(pipeline, "sd2-v"), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["sdxl", "sd3", "flux-dev", "flux-schnell", "pixart-sigma"])
def test_after_the_last_step_to_zero_noise_the_look_is_the_result(family: str) -> None:
    pipeline = shared(family)
    latents, _ = look(pipeline, family, stop_after=STEPS)
    expected = final_latents(pipeline, family)
    torch.testing.assert_close(latents, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["sd1", "sd2-v", "sdxl"])
def test_every_step_agrees_with_what_the_scheduler_predicts(family: str) -> None:
    from diffusers import DDIMScheduler

    pipeline = tiny_pipeline(family)
    if family == "sd1":
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    predicted: list[torch.Tensor] = []
    original = pipeline.scheduler.step

    def step(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **{**kwargs, "return_dict": True})
        predicted.append(output.pred_original_sample)
        return (output.prev_sample,)

    pipeline.scheduler.step = step
    steps: list[Step] = []
    rows = Rows(prompts=PROMPTS, seeds=SEEDS, steps=STEPS, settings=call_settings(family))
    follow(pipeline, rows, stop_after=STEPS, on_step=steps.append)
    assert len(predicted) == STEPS - 1  # the last is left before it is taken
    for ours, theirs in zip(steps, predicted, strict=False):
        torch.testing.assert_close(ours.clean, theirs, rtol=1e-4, atol=1e-3)


def test_guidance_is_in_the_look() -> None:
    pipeline = shared("sd1")
    weak, _ = look(pipeline, "sd1", stop_after=1, guidance_scale=1.5)
    strong, _ = look(pipeline, "sd1", stop_after=1, guidance_scale=9.0)
    assert not torch.equal(weak, strong)


def test_stopping_outside_of_the_schedule_is_refused() -> None:
    pipeline = shared("sd2-v")
    with pytest.raises(ValueError, match="the first is 1"):
        look(pipeline, "sd2-v", stop_after=0)
    with count_calls(pipeline) as counter, pytest.raises(ValueError, match="step 6 of 5"):
        look(pipeline, "sd2-v", stop_after=6)
    assert counter.calls == 2 * len(PROMPTS)  # refused at the first call
