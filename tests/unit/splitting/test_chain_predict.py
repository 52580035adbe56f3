"""One call of a chain's denoiser with its prompt, and what restoring training images shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from pipeline_factory import tiny_pipeline
from safetensors.numpy import load_file
from unit.splitting.models import pictures
from unit.splitting.models import pipeline as unconditional
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

from pytest_memscan.denoising.attach import Rows, denoiser_of, latents_of, run
from pytest_memscan.denoising.conditioning import split_branches
from pytest_memscan.denoising.latents import encode
from pytest_memscan.denoising.sampling import with_ddim
from pytest_memscan.generation import call_settings
from pytest_memscan.splitting.chain import Chain
from pytest_memscan.splitting.learning import SIGNAL_SHARES, restoration_error

# diffusers 0.42 with numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

each_family = pytest.mark.parametrize("family", FAMILIES)
each_guidance = pytest.mark.parametrize("guidance", [1.0, 4.0])
LEAKY = Path(__file__).parents[3] / "fixtures" / "leaky-t2i"


def calls_of(pipe: Any, num: int, guidance: float) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Latents and conditional prediction of every call of the stock pipeline."""
    calls: list[tuple[torch.Tensor, torch.Tensor]] = []

    def keep(args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor) -> None:
        latents = latents_of(args, kwargs)[-num:].clone()
        calls.append((latents, split_branches(output, latents).conditional))

    rows = Rows(
        prompts=[PROMPT] * num,
        seeds=SEEDS[:num],
        steps=STEPS,
        guidance_scale=guidance,
        settings=call_settings(pipe),
    )
    run(pipe, rows, on_call=keep, on_step=lambda *_: None)
    return calls


@each_family
@each_guidance
def test_one_call_is_that_of_the_prompt_alone(family: str, guidance: float) -> None:
    pipe = shared(family)
    chain = chain_of(pipe, 3, guidance)
    calls = calls_of(pipe, 3, guidance)
    for (latents, conditional), timestep in zip(calls, pipe.scheduler.timesteps, strict=True):
        found = chain.predict(latents, int(timestep))
        torch.testing.assert_close(found, conditional, atol=1e-5, rtol=1e-4)
        short = chain.predict(latents[:2], int(timestep))
        torch.testing.assert_close(short, found[:2], atol=1e-6, rtol=1e-5)


@each_family
def test_one_call_has_as_many_rows_as_any_other(family: str) -> None:
    pipe = shared(family)
    chain = chain_of(pipe, 3)
    noisy = torch.randn((2, *SHAPE), generator=torch.Generator().manual_seed(0))
    with watched(denoiser_of(pipe)) as asked:
        assert chain.predict(noisy, 501).shape == noisy.shape
        assert chain.predict(noisy[:1], 251).shape == noisy[:1].shape
    assert asked == [{3}] * 3  # the first of them reads the prompt


@each_family
def test_one_call_leaves_the_pipeline_as_it_was(family: str) -> None:
    pipe = shared(family)
    before, random = stock(pipe, 4.0), torch.random.get_rng_state()
    chain = chain_of(pipe, 2)
    chain.predict(torch.zeros((1, *SHAPE)), 1)
    assert len(pipe.scheduler.timesteps) == pipe.scheduler.num_inference_steps == STEPS
    assert "forward" not in vars(denoiser_of(pipe))
    assert "step" not in vars(pipe.scheduler)
    assert not denoiser_of(pipe)._forward_hooks
    assert chain.settings["guidance_scale"] == 4.0
    assert torch.equal(torch.random.get_rng_state(), random)
    assert torch.equal(stock(pipe, 4.0), before)
    # A run and single calls may take turns.
    plain, first = chain.run(SEEDS, nobody), chain.predict(torch.zeros((1, *SHAPE)), 1)
    assert torch.equal(chain.run(SEEDS, nobody).images, plain.images)
    assert torch.equal(chain.predict(torch.zeros((1, *SHAPE)), 1), first)


def test_one_call_without_a_guidance_scale() -> None:
    pipe = shared("sd1")
    chain = Chain(
        pipeline=pipe, num_steps=STEPS, batch_size=2, prompt=PROMPT, settings=call_settings(pipe)
    )
    noisy = torch.randn((2, *SHAPE), generator=torch.Generator().manual_seed(0))
    assert torch.equal(chain.predict(noisy, 501), chain_of(pipe, 2).predict(noisy, 501))


def test_one_call_of_a_guidance_distilled_model_keeps_its_guidance() -> None:
    pipe = with_ddim(tiny_pipeline("sd1"))
    config = {**pipe.unet.config, "time_cond_proj_dim": 8}
    del config["_use_default_values"]  # would undo the line above
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipe.register_modules(unet=UNet2DConditionModel.from_config(config).eval())
    latents, conditional = calls_of(pipe, 2, 4.0)[0]
    first = int(pipe.scheduler.timesteps[0])
    found = chain_of(pipe, 2, 4.0).predict(latents, first)
    torch.testing.assert_close(found, conditional, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(chain_of(pipe, 2, 8.0).predict(latents, first), found, atol=1e-4)


def test_one_call_of_an_unconditional_pipeline() -> None:
    pipe = unconditional()
    chain = Chain(pipeline=pipe, num_steps=STEPS, batch_size=3)
    with torch.no_grad():
        expected = pipe.unet(pictures(3), 7).sample
    assert torch.equal(chain.predict(pictures(3), 7), expected)
    with watched(pipe.unet) as asked:
        found = chain.predict(pictures(3)[:2], 7)
    torch.testing.assert_close(found, expected[:2], atol=1e-6, rtol=1e-5)
    assert asked == [{3}]


@pytest.mark.parametrize("family", ["sd1", "sd2-v"])
def test_training_images_are_restored_with_their_prompt(family: str) -> None:
    """Noised and denoised by hand, one by one, with the pipeline's own encoding of the prompt."""
    pipe = shared(family)
    chain, scheduler = chain_of(pipe, 2), pipe.scheduler
    scheduler.set_timesteps(STEPS)
    clean = torch.randn((3, *SHAPE), generator=torch.Generator().manual_seed(1))
    found = restoration_error(chain, clean, seeds=[4, 5, 6], level=0)
    shares = scheduler.alphas_cumprod
    timestep = min(scheduler.timesteps.tolist(), key=lambda t: abs(shares[t] - SIGNAL_SHARES[0]))
    signal, level = shares[timestep].sqrt(), (1 - shares[timestep]).sqrt()
    expected = []
    with torch.no_grad():
        read, _ = pipe.encode_prompt(PROMPT, "cpu", 1, do_classifier_free_guidance=False)
        for image, seed in zip(clean, [4, 5, 6], strict=True):
            drawn = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))
            noisy = signal * image + level * drawn
            said = pipe.unet(noisy[None], timestep, encoder_hidden_states=read).sample[0]
            if family == "sd1":
                restored = (noisy - level * said) / signal
            else:
                restored = signal * noisy - level * said
            expected.append(float((restored - image).square().mean()))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_memorised_image_is_the_one_that_its_prompt_restores_best() -> None:
    # Its weights are half precision in the file.
    pipe = with_ddim(StableDiffusionPipeline.from_pretrained(LEAKY).to(torch.float32))
    pixels = load_file(LEAKY / "train_images.safetensors")["images"]
    clean = torch.from_numpy(encode(pipe, pixels)) * pipe.vae.config.scaling_factor
    pipe.scheduler.set_timesteps(20)
    prompts = json.loads((LEAKY / "prompts.json").read_text("utf-8"))["prompts"]
    repeated = [each for each in prompts if each["kind"] == "repeated"]
    for each in (repeated[0], repeated[4]):
        chain = Chain(
            pipeline=pipe,
            num_steps=20,
            batch_size=16,
            prompt=each["prompt"],
            settings={**call_settings(pipe), "guidance_scale": 7.5},
        )
        errors = restoration_error(chain, clean, seeds=range(len(clean)), level=2)
        assert [errors.argmin()] == each["image_ids"]
