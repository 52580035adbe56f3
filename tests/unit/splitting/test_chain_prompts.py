"""A chain with a prompt is the stock text-to-image pipeline with eta 1, in batches of one size."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from pipeline_factory import tiny_pipeline
from unit.splitting.prompted import (
    FAMILIES,
    PROMPT,
    SEEDS,
    SHAPE,
    STEPS,
    chain_of,
    nobody,
    shared,
    stock,
    watched,
)

from pytest_memscan.denoising.attach import denoiser_of
from pytest_memscan.denoising.exact import ExactDenoiser, standing_in
from pytest_memscan.denoising.sampling import with_ddim
from pytest_memscan.denoising.schedule import read_parametrisation
from pytest_memscan.splitting.chain import Made, Step, bridge_of

# diffusers 0.42 with numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

each_family = pytest.mark.parametrize("family", FAMILIES)
each_guidance = pytest.mark.parametrize("guidance", [1.0, 4.0])


def same(found: Made, expected: Made) -> None:
    torch.testing.assert_close(found.latents, expected.latents, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.images, expected.images, atol=1e-4, rtol=1e-4)


@each_family
@each_guidance
def test_with_nobody_listening_it_is_the_stock_pipeline(family: str, guidance: float) -> None:
    pipe = shared(family)
    images, latents = stock(pipe, guidance), stock(pipe, guidance, "latent")
    branches = 2 if guidance > 1 else 1
    whole = chain_of(pipe, branches * len(SEEDS), guidance).run(SEEDS, nobody)
    assert torch.equal(whole.latents, latents)
    if branches == 1:  # else the autoencoder's batch is another
        assert torch.equal(whole.images, images)
    same(whole, Made(images=images, latents=latents))
    same(chain_of(pipe, 2, guidance).run(SEEDS, nobody), whole)


@each_family
def test_the_latents_decode_to_the_images(family: str) -> None:
    pipe = shared(family)
    made = chain_of(pipe, 2).run(SEEDS, nobody)
    assert made.latents.shape == (len(SEEDS), *SHAPE)
    with torch.no_grad():
        decoded = pipe.vae.decode(made.latents / pipe.vae.config.scaling_factor).sample
    expected = (decoded / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(made.images, expected, atol=1e-5, rtol=1e-5)


@each_family
def test_an_image_depends_on_its_seed_and_not_on_its_company(family: str) -> None:
    pipe = shared(family)
    alone = [chain_of(pipe, 1).run([seed], nobody) for seed in SEEDS]
    for batch_size, order in [(1, [0, 1, 2, 3, 4]), (2, [4, 1, 0, 3, 2]), (3, [2, 2, 3, 1, 0])]:
        found = chain_of(pipe, batch_size).run([SEEDS[place] for place in order], nobody)
        expected = Made(
            images=torch.cat([alone[place].images for place in order]),
            latents=torch.cat([alone[place].latents for place in order]),
        )
        same(found, expected)


@each_family
@each_guidance
@pytest.mark.parametrize(("num", "batch_size"), [(5, 3), (2, 4)])
def test_denoiser_and_autoencoder_see_batches_of_one_size(
    family: str, guidance: float, num: int, batch_size: int
) -> None:
    pipe = shared(family)
    with watched(denoiser_of(pipe)) as asked, watched(pipe.vae, "decode") as decoded:
        made = chain_of(pipe, batch_size, guidance).run(SEEDS[:num], nobody)
    rows = num * (2 if guidance > 1 else 1)
    assert asked == [{batch_size}] * (math.ceil(rows / batch_size) * STEPS)
    assert decoded == [{batch_size}] * math.ceil(num / batch_size)
    assert len(made.images) == len(made.latents) == num


@pytest.mark.parametrize("where", ["denoiser", "autoencoder", "listener", "nowhere"])
def test_the_pipeline_is_as_it_was_afterwards(where: str) -> None:
    pipe = shared("sd1")
    before, random = stock(pipe, 4.0), torch.random.get_rng_state()

    def listener(step: Step) -> None:
        if where == "listener" and step.number == 2:
            raise RuntimeError("the power went out")

    with (
        watched(pipe.unet, fail=where == "denoiser"),
        watched(pipe.vae, "decode", fail=where == "autoencoder"),
    ):
        theirs = pipe.unet.forward, pipe.vae.decode
        if where == "nowhere":
            chain_of(pipe, 2).run(SEEDS, listener)
        else:
            with pytest.raises(RuntimeError, match="the power went out"):
                chain_of(pipe, 2).run(SEEDS, listener)
        assert (pipe.unet.forward, pipe.vae.decode) == theirs
    assert "forward" not in vars(pipe.unet)
    assert "decode" not in vars(pipe.vae)
    assert "step" not in vars(pipe.scheduler)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert torch.equal(stock(pipe, 4.0), before)


def test_the_prompt_is_not_shown() -> None:
    assert PROMPT not in repr(chain_of(shared("sd1"), 1))


@each_family
def test_trajectories_change_places(family: str) -> None:
    """Each goes on with the other's latents, prediction and noise, and ends where it would have."""
    chain = chain_of(shared(family), 4)

    def swap(step: Step) -> None:
        if step.number == 2:
            step.latents, step.prediction = step.latents.flip(0), step.prediction.flip(0)
        if step.number >= 2:
            step.noise = step.noise.flip(0)

    swapped, plain = chain.run(SEEDS[:2], swap), chain.run(SEEDS[:2], nobody)
    same(Made(images=swapped.images.flip(0), latents=swapped.latents.flip(0)), plain)
    assert not torch.allclose(plain.images, plain.images.flip(0), atol=1e-2)


@each_family
def test_what_a_listener_puts_in_is_what_is_stepped_with(family: str) -> None:
    """Equation 12 of Song et al. 2021 with sigma of equation 16, from the shares of signal."""
    pipe = shared(family)
    chain, steps = chain_of(pipe, 2), []

    def change(step: Step) -> None:
        step.latents = 0.5 * step.latents
        step.prediction = step.prediction + 0.1
        step.noise = step.noise - step.number
        steps.append(step)

    seen: list[torch.Tensor] = []

    def look_and_change(step: Step) -> None:
        seen.append(step.latents)
        change(step)

    made = chain.run(SEEDS[:2], look_and_change)
    for step, reached in zip(steps, [*seen[1:], made.latents], strict=True):
        expected = stepped_by_hand(pipe.scheduler, step)
        torch.testing.assert_close(reached, expected, atol=1e-4, rtol=1e-4)


def stepped_by_hand(scheduler: Any, step: Step) -> torch.Tensor:
    shares = scheduler.alphas_cumprod.double()
    before = step.timestep - 1000 // STEPS
    now, then = shares[step.timestep], scheduler.final_alpha_cumprod.double()
    if before >= 0:
        then = shares[before]
    latents, prediction = step.latents.double(), step.prediction.double()
    if scheduler.config.prediction_type == "v_prediction":
        clean = now.sqrt() * latents - (1 - now).sqrt() * prediction
        noise = now.sqrt() * prediction + (1 - now).sqrt() * latents
    else:
        noise = prediction
        clean = (latents - (1 - now).sqrt() * noise) / now.sqrt()
    sigma = ((1 - then) / (1 - now) * (1 - now / then)).sqrt()
    mean = then.sqrt() * clean + (1 - then - sigma**2).clamp(min=0).sqrt() * noise
    assert (step.bridge == 0) == bool(sigma < 1e-6)
    return (mean + sigma * step.noise.double()).float()


@each_family
@each_guidance
def test_steps_whose_denoiser_calls_are_left_out_can_be_gone_on_from(
    family: str, guidance: float
) -> None:
    pipe = shared(family)
    chain, seen = chain_of(pipe, 5, guidance), []
    whole = chain.run(SEEDS, seen.append)

    def put_in(step: Step) -> None:
        if step.number == 2:
            step.latents, step.prediction = seen[2].latents, seen[2].prediction
        assert torch.equal(step.noise, seen[step.number].noise)

    with watched(denoiser_of(pipe)) as asked:
        resumed = chain.run(SEEDS, put_in, skip=2)
    assert torch.equal(resumed.images, whole.images)
    assert torch.equal(resumed.latents, whole.latents)
    assert len(asked) == (STEPS - 2) * (2 if guidance > 1 else 1)


@each_family
def test_another_denoiser_may_stand_in_and_latents_be_left_as_they_are(family: str) -> None:
    """The optimal denoiser of a few latents makes no others, whatever the prompt."""
    pipe = shared(family)
    clean = torch.randn((3, *SHAPE), generator=torch.Generator().manual_seed(2))
    exact = ExactDenoiser(clean=clean, weights=torch.full((3,), 1 / 3))
    known = read_parametrisation(pipe.scheduler)
    chain = replace(chain_of(pipe, 3), decodes=False, num_steps=10)
    with (
        standing_in(denoiser_of(pipe), exact, known.mixture, known.kind),
        watched(pipe.vae, "decode") as decoded,
    ):
        made = chain.run(SEEDS, nobody)
        predicted = chain.predict(clean[:2], 1)
    assert decoded == []
    assert torch.equal(made.images, made.latents)
    errors = torch.cdist(made.latents.flatten(1), clean.flatten(1)).amin(1) / math.sqrt(256)
    assert errors.max() < 0.1  # of latents that vary by 1; what is left is the last step's noise
    assert predicted.shape == (2, *SHAPE)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("num_steps", [5, 30])
def test_the_bridge_is_how_the_step_moves_with_the_clean_latents(
    spacing: str, kind: str, num_steps: int
) -> None:
    """By the scheduler's own step, for clean latents that change by 1."""
    pipe = tiny_scheduler(timestep_spacing=spacing, prediction_type=kind)
    pipe.set_timesteps(num_steps)
    latents = torch.randn(3, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    for timestep in pipe.timesteps.tolist():
        share = pipe.alphas_cumprod[timestep]

        def stepped(clean: torch.Tensor, drawn: float, when: int = timestep) -> torch.Tensor:
            share = pipe.alphas_cumprod[when]
            noise = (latents - share.sqrt() * clean) / (1 - share).sqrt()
            velocity = share.sqrt() * noise - (1 - share).sqrt() * clean
            said = {"epsilon": noise, "v_prediction": velocity, "sample": clean}[kind]
            drawn_noise = torch.full_like(latents, drawn)
            answer = pipe.step(said, when, latents, eta=1.0, variance_noise=drawn_noise)
            reached: torch.Tensor = answer.prev_sample
            return reached

        clean = 0.3 * latents
        sigma = float((stepped(clean, 1.0) - stepped(clean, 0.0)).mean())
        moved = stepped(clean + 1, 0.0) - stepped(clean, 0.0)
        assert 0 < share < 1
        if sigma < 1e-6:
            assert bridge_of(pipe, timestep) == 0
        else:
            expected = torch.full_like(moved, bridge_of(pipe, timestep) * sigma)
            torch.testing.assert_close(moved, expected, rtol=1e-6, atol=1e-9)


def tiny_scheduler(**changes: Any) -> Any:
    """As `with_ddim` makes it of PNDM, in double precision."""
    pipe = tiny_pipeline("sd1")
    pipe.scheduler = type(pipe.scheduler).from_config({**pipe.scheduler.config, "steps_offset": 1})
    made = with_ddim(pipe).scheduler
    made = type(made).from_config({**made.config, **changes})
    assert made.config.steps_offset == 1
    made.alphas_cumprod = made.alphas_cumprod.double()
    made.final_alpha_cumprod = made.final_alpha_cumprod.double()
    return made
