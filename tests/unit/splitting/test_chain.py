"""A chain is the stock pipeline with eta 1; each place's noise is its seed's alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from unit.splitting.models import SHAPE, pictures, pipeline, watched

from pytest_memscan.splitting.chain import Chain, Step, bridge_of, clean_latents

STEPS = 6
SEEDS = [11, 5, 8, 2**32 - 1, 3]


def nobody(_: Step) -> None:
    """Changes nothing."""


def stock(pipe: Any, seeds: list[int]) -> torch.Tensor:
    images: torch.Tensor = pipe(
        batch_size=len(seeds),
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        eta=1.0,
        num_inference_steps=STEPS,
        output_type="pt",
    ).images
    return images


@pytest.mark.parametrize(
    "scheduler",
    [
        {},
        {"prediction_type": "v_prediction", "timestep_spacing": "trailing"},
        {"prediction_type": "sample", "set_alpha_to_one": False, "clip_sample": False},
    ],
)
def test_with_nobody_listening_it_is_the_stock_pipeline(scheduler: dict[str, Any]) -> None:
    pipe = pipeline(**scheduler)
    chain = Chain(pipeline=pipe, num_steps=STEPS, batch_size=len(SEEDS))
    assert torch.equal(chain.run(SEEDS, nobody).images, stock(pipe, SEEDS))


def test_an_image_depends_on_its_seed_and_not_on_its_company() -> None:
    pipe = pipeline()
    alone = [
        Chain(pipeline=pipe, num_steps=STEPS, batch_size=1).run([seed], nobody).images
        for seed in SEEDS
    ]
    for batch_size, order in [(2, [0, 1, 2, 3, 4]), (3, [4, 1, 0]), (8, [2, 2, 3, 1])]:
        chain = Chain(pipeline=pipe, num_steps=STEPS, batch_size=batch_size)
        found = chain.run([SEEDS[place] for place in order], nobody).images
        expected = torch.cat([alone[place] for place in order])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("num", "batch_size"), [(5, 2), (4, 4), (3, 8), (1, 1)])
def test_the_denoiser_sees_batches_of_one_size(num: int, batch_size: int) -> None:
    pipe = pipeline()
    chain = Chain(pipeline=pipe, num_steps=STEPS, batch_size=batch_size)
    with watched(pipe) as seen:
        chain.run(list(range(num)), nobody)
    assert seen.shapes == [(batch_size, *SHAPE)] * (math.ceil(num / batch_size) * STEPS)


@pytest.mark.parametrize("where", ["denoiser", "listener", "nowhere"])
def test_the_pipeline_is_as_it_was_afterwards(where: str) -> None:
    pipe = pipeline()
    before = stock(pipe, SEEDS)
    chain = Chain(pipeline=pipe, num_steps=STEPS, batch_size=2)

    def listener(step: Step) -> None:
        if where == "listener" and step.number == 2:
            raise RuntimeError("the power went out")

    random = torch.random.get_rng_state()
    with watched(pipe, fail_at=4 if where == "denoiser" else None):
        theirs = pipe.unet.forward
        if where == "nowhere":
            chain.run(SEEDS, listener)
        else:
            with pytest.raises(RuntimeError, match="the power went out"):
                chain.run(SEEDS, listener)
        assert pipe.unet.forward is theirs
    assert "forward" not in vars(pipe.unet)
    assert "step" not in vars(pipe.scheduler)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert torch.equal(stock(pipe, SEEDS), before)


def test_a_listener_changes_what_the_scheduler_steps_with() -> None:
    """Of two trajectories that change places before a step, each goes on with the other's noise."""
    pipe = pipeline()
    chain = Chain(pipeline=pipe, num_steps=STEPS, batch_size=2)
    noises: list[torch.Tensor] = []

    def swap_all(step: Step) -> None:
        noises.append(step.noise.clone())
        if step.number == 2:
            step.latents, step.prediction = step.latents.flip(0), step.prediction.flip(0)
        if step.number >= 2:
            step.noise = step.noise.flip(0)

    swapped = chain.run(SEEDS[:2], swap_all).images
    torch.testing.assert_close(swapped.flip(0), chain.run(SEEDS[:2], nobody).images)
    drawn = torch.Generator().manual_seed(SEEDS[1])
    torch.randn(SHAPE, generator=drawn)  # where it starts
    for noise in noises:
        assert torch.equal(noise[1], torch.randn(SHAPE, generator=drawn))


def test_steps_whose_denoiser_calls_are_left_out_can_be_gone_on_from() -> None:
    pipe = pipeline()
    chain = Chain(pipeline=pipe, num_steps=STEPS, batch_size=5)
    seen: list[Step] = []
    whole = chain.run(SEEDS, seen.append).images

    def put_in(step: Step) -> None:
        if step.number == 3:
            step.latents, step.prediction = seen[3].latents, seen[3].prediction
        assert torch.equal(step.noise, seen[step.number].noise)

    with watched(pipe) as calls:
        assert torch.equal(chain.run(SEEDS, put_in, skip=3).images, whole)
    assert len(calls.shapes) == STEPS - 3


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("clip_sample_range", [None, 0.7])
def test_clean_latents_are_the_schedulers_own(
    prediction_type: str, clip_sample_range: float | None
) -> None:
    pipe = pipeline(
        prediction_type=prediction_type,
        clip_sample=clip_sample_range is not None,
        clip_sample_range=clip_sample_range or 1.0,
    )
    scheduler = pipe.scheduler
    scheduler.set_timesteps(STEPS)
    latents, prediction = pictures(4), torch.randn((4, *SHAPE), generator=torch.Generator())
    for timestep in scheduler.timesteps.tolist():
        expected = scheduler.step(prediction, timestep, latents).pred_original_sample
        found = clean_latents(scheduler, latents, prediction, timestep)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"},
        {"prediction_type": "v_prediction", "set_alpha_to_one": False, "steps_offset": 1},
        {"prediction_type": "sample"},
    ],
)
@pytest.mark.parametrize("num_steps", [3, 12])
def test_the_bridge_is_how_the_step_moves_with_the_clean_latents(
    settings: dict[str, Any], num_steps: int
) -> None:
    """Numerically, from what the scheduler's own step does with another prediction."""
    scheduler = pipeline(clip_sample=False, **settings).scheduler
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
    scheduler.set_timesteps(num_steps)
    latents = pictures(1).double()
    first, second = torch.randn((2, 1, *SHAPE), generator=torch.Generator()).double()
    zero, one = torch.zeros_like(latents), torch.ones_like(latents)
    for timestep in scheduler.timesteps.tolist():

        def stepped(prediction: torch.Tensor, noise: torch.Tensor, when: int = timestep) -> Any:
            return scheduler.step(prediction, when, latents, eta=1.0, variance_noise=noise)

        here, there = stepped(first, zero), stepped(second, zero)
        moved = there.prev_sample - here.prev_sample
        by = there.pred_original_sample - here.pred_original_sample
        sigma = float((stepped(first, one).prev_sample - here.prev_sample).mean())
        bridge = bridge_of(scheduler, timestep)
        if sigma < 1e-6:
            assert bridge == 0.0
            continue
        torch.testing.assert_close(moved, bridge * sigma * by, rtol=1e-5, atol=1e-7)
