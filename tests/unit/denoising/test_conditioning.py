"""Predictions asked for afterwards are those that the pipeline itself would have got."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from pipeline_factory import FAMILIES, call_settings, tiny_pipeline

from pytest_memscan.denoising.attach import Rows, count_calls, latents_of, run
from pytest_memscan.denoising.conditioning import (
    DISTILLED,
    Conditioned,
    condition,
    not_applicable,
    split_branches,
)
from pytest_memscan.denoising.early import Step, follow

# diffusers 0.42 with numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@cache
def shared(family: str) -> Any:
    """One pipeline for many tests: attaching to it leaves nothing behind."""
    return tiny_pipeline(family)


GUIDED = [family for family in FAMILIES if not family.startswith("flux")]
PROMPTS = ["a red cat", "the dog"]
SEEDS = [3, 4]
STEPS = 4


def conditioned(pipeline: Any, family: str, **changes: Any) -> Conditioned:
    arguments = {"seeds": SEEDS, "steps": STEPS, "settings": call_settings(family), **changes}
    prompts = arguments.pop("prompts", PROMPTS)
    return condition(pipeline, prompts, **arguments)


def rows(family: str, guidance_scale: float | None = None) -> Rows:
    return Rows(
        prompts=PROMPTS,
        seeds=SEEDS,
        steps=STEPS,
        guidance_scale=guidance_scale,
        settings=call_settings(family),
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_every_call_of_a_run_is_repeated_bit_by_bit(family: str) -> None:
    pipeline = shared(family)
    steps: list[Step] = []
    follow(pipeline, rows(family), stop_after=None, on_step=steps.append)
    asked = conditioned(pipeline, family)
    assert torch.equal(asked.noise, steps[0].latents)
    assert torch.equal(asked.first.conditional, steps[0].predictions.conditional)
    assert asked.timesteps == tuple(step.timestep for step in steps)
    # PNDM's second step is told the first timestep again, while the denoiser is told its own.
    for step, timestep in zip(steps, asked.timesteps, strict=True):
        again = asked.predict(step.latents, timestep)
        assert torch.equal(again.conditional, step.predictions.conditional)
        if step.predictions.unconditional is None:
            assert again.unconditional is None
        else:
            assert again.unconditional is not None
            assert torch.equal(again.unconditional, step.predictions.unconditional)


@pytest.mark.parametrize("family", GUIDED)
def test_branches_are_those_of_the_prompt_and_of_no_prompt(family: str) -> None:
    pipeline = shared(family)
    asked = conditioned(pipeline, family)
    nothing = conditioned(pipeline, family, prompts=["", ""])
    assert nothing.first.unconditional is not None
    assert asked.first.unconditional is not None
    if family != "sdxl":  # it takes zeros for no prompt
        assert torch.equal(nothing.first.conditional, nothing.first.unconditional)
    assert torch.equal(asked.first.unconditional, nothing.first.unconditional)
    assert not torch.equal(asked.first.conditional, nothing.first.conditional)
    # Alone, without guidance, the pipeline asks about the prompt only.
    alone: list[torch.Tensor] = []
    run(
        pipeline,
        rows(family, guidance_scale=1.0),
        on_call=lambda args, kwargs, output: alone.append(
            split_branches(output, latents_of(args, kwargs)).conditional
        ),
        on_step=lambda *_: None,
    )
    torch.testing.assert_close(alone[0], asked.first.conditional, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", GUIDED)
@pytest.mark.parametrize("guidance_scale", [None, 0.0, 1.0, 3.0])
def test_guidance_does_not_change_raw_predictions(
    family: str, guidance_scale: float | None
) -> None:
    pipeline = shared(family)
    expected = conditioned(pipeline, family).first.change()
    asked = conditioned(pipeline, family, guidance_scale=guidance_scale)
    assert torch.equal(asked.first.change(), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_calls_are_counted(family: str) -> None:
    pipeline = shared(family)
    branches = 2 if family in GUIDED else 1
    with count_calls(pipeline) as counter:
        asked = conditioned(pipeline, family)
        assert asked.calls == counter.calls == branches * 2
        asked.predict(asked.noise, 1)
        assert asked.calls == counter.calls == branches * 4


@pytest.mark.parametrize("family", FAMILIES)
def test_who_has_no_unconditional_branch_says_so(family: str) -> None:
    pipeline = shared(family)
    reason = not_applicable(pipeline)
    assert reason == ("" if family in GUIDED else DISTILLED)
    if reason:
        asked = conditioned(pipeline, family)
        assert asked.first.unconditional is None
        with pytest.raises(ValueError, match="guidance-distilled"):
            asked.first.change()


def test_a_latent_consistency_model_is_guidance_distilled() -> None:
    from diffusers import UNet2DConditionModel

    pipeline = tiny_pipeline("sd1")
    config = {**pipeline.unet.config, "time_cond_proj_dim": 8}
    del config["_use_default_values"]  # would undo the line above
    pipeline.register_modules(unet=UNet2DConditionModel.from_config(config).eval())
    assert not_applicable(pipeline) == DISTILLED


def test_rows_do_not_depend_on_each_other() -> None:
    pipeline = shared("sd2-v")
    together = conditioned(pipeline, "sd2-v")
    swapped = conditioned(pipeline, "sd2-v", prompts=PROMPTS[::-1], seeds=SEEDS[::-1])
    assert torch.equal(together.noise, swapped.noise.flip(0))
    torch.testing.assert_close(together.first.change(), swapped.first.change().flip(0))


def test_other_latents_give_other_predictions_and_wrong_shapes_are_refused() -> None:
    pipeline = shared("sd1")
    asked = conditioned(pipeline, "sd1")
    other = asked.predict(asked.noise.double() * 0.5, asked.timesteps[0])  # cast to the model's
    assert other.conditional.dtype == torch.float32
    assert not torch.equal(other.conditional, asked.first.conditional)
    with pytest.raises(ValueError, match=r"shape \(1, 4, 8, 8\); expected \(2, 4, 8, 8\)"):
        asked.predict(asked.noise[:1], 1)
    with pytest.raises(ValueError, match="counts in whole ones"):
        asked.predict(asked.noise, 1.5)


def test_predicted_variance_is_dropped_and_odd_batches_are_refused() -> None:
    latents = torch.zeros(2, 4, 3, 3)
    output = torch.arange(4 * 8 * 9.0).reshape(4, 8, 3, 3)
    predictions = split_branches(output, latents)
    assert predictions.unconditional is not None
    assert torch.equal(predictions.unconditional, output[:2, :4])
    assert torch.equal(predictions.conditional, output[2:, :4])
    with pytest.raises(ValueError, match="answers 3 rows when 2 images"):
        split_branches(output[:3, :4], latents)


def test_half_precision_predictions_are_compared_in_single() -> None:
    pipeline = tiny_pipeline("sd3").to(torch.bfloat16)
    asked = conditioned(pipeline, "sd3")
    assert asked.first.conditional.dtype == torch.bfloat16
    assert asked.first.change().dtype == torch.float32
    again = asked.predict(asked.noise, asked.timesteps[0])
    assert torch.equal(again.conditional, asked.first.conditional)
