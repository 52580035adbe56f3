"""Screening: each family's scores from pieces put together here, order, cost, failures."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from pipeline_factory import FAMILIES, call_settings, tiny_pipeline

from pytest_memscan.denoising.attach import count_calls, denoiser_of
from pytest_memscan.denoising.conditioning import DISTILLED, condition
from pytest_memscan.denoising.early import early_latents
from pytest_memscan.detectors import scores
from pytest_memscan.detectors.agreement import seed_agreement
from pytest_memscan.detectors.catalogue import BY_NAME, PACKED, ScreenPlan, early_step_of
from pytest_memscan.detectors.run import DEFAULT_DETECTORS, DETECTORS, Scores, screen
from pytest_memscan.errors import MemscanError

# diffusers 0.42 with numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@cache
def shared(family: str) -> Any:
    """One pipeline for many tests: attaching to it leaves nothing behind."""
    return tiny_pipeline(family)


GUIDED = [family for family in FAMILIES if not family.startswith("flux")]
ALL = [each.name for each in DETECTORS]
PROMPTS = ["a red cat", "the dog", "a photo of the house"]
NUM_SEEDS = 3
STEPS = 4
EARLY = 2


def seeds_of(index: int) -> list[int]:
    return [100 * index + number for number in range(NUM_SEEDS)]


def screened(pipeline: Any, family: str, prompts: list[str] = PROMPTS, **changes: Any) -> Scores:
    arguments: dict[str, Any] = {
        "seeds_of": seeds_of,
        "steps": STEPS,
        "batch_size": NUM_SEEDS,
        "num_seeds": NUM_SEEDS,
        "early_step": EARLY,
        "detectors": ALL,
        "settings": call_settings(family),
        **changes,
    }
    return screen(pipeline, prompts, **arguments)


def noise_norms(pipeline: Any, family: str, prompt: str, seeds: list[int]) -> list[float]:
    """Norm of every change of the predicted noise of a stock run, from the raw outputs."""
    outputs: list[torch.Tensor] = []
    handle = denoiser_of(pipeline).register_forward_hook(
        lambda _, __, output: outputs.append(output[0][:, :4].double())
    )
    pipeline(
        [prompt] * len(seeds),
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        num_inference_steps=STEPS,
        output_type="latent",
        **call_settings(family),
    )
    handle.remove()
    norms = []
    for index, output in enumerate(outputs):
        change = output[len(seeds) :] - output[: len(seeds)]
        if family == "sd3":  # noise = x + (1 - sigma) * velocity
            change *= 1 - float(pipeline.scheduler.sigmas[index])
        if family == "sd2-v":  # noise = sqrt(1 - share) * x + sqrt(share) * velocity
            timestep = int(pipeline.scheduler.timesteps[index])
            change *= float(pipeline.scheduler.alphas_cumprod[timestep]) ** 0.5
        norms += [float(each.norm()) for each in change]
    return norms


def expected_scores(pipeline: Any, family: str, prompt: str, seeds: list[int]) -> dict[str, float]:
    rows = {"seeds": seeds, "steps": STEPS, "settings": call_settings(family)}
    prompts = [prompt] * len(seeds)
    asked = condition(pipeline, prompts, **rows)
    one_step, _ = early_latents(pipeline, prompts, stop_after=1, **rows)
    early, _ = early_latents(pipeline, prompts, stop_after=EARLY, **rows)
    found = {
        "denoising_confidence": scores.denoising_confidence(asked.noise, one_step),
        "early_spread": scores.early_spread(early),
        "masked_early_spread": scores.masked_early_spread(early),
    }
    if family not in GUIDED:
        return found
    first, unit = asked.timesteps[0], asked.parametrisation
    change = asked.first.change()
    # At pure noise, where SD3 begins, the velocity; else the noise.
    change = change if family == "sd3" else unit.noise_change(change, first)
    norms = noise_norms(pipeline, family, prompt, seeds)
    near = asked.predict(asked.noise, 1)
    assert near.unconditional is not None
    return found | {
        "noise_magnitude": scores.noise_magnitude(change),
        "masked_magnitude": scores.masked_magnitude(change),
        "seed_agreement": seed_agreement(
            unit.clean_latents(asked.noise, asked.first.conditional, first)
        ),
        "norm": scores.noise_magnitude(change),
        "alignment": scores.alignment(
            unit.noise(asked.noise, near.conditional, 1)
            - unit.noise(asked.noise, near.unconditional, 1),
            unit.noise(asked.noise, near.unconditional, 1),
        ),
        "mean_noise_magnitude": float(np.mean(norms)),
        "early_noise_magnitude": float(np.mean(norms[: EARLY * len(seeds)])),
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_of_every_family_from_their_pieces(family: str) -> None:
    pipeline = shared(family)
    found = screened(pipeline, family)
    found_by_name = {**found.values, **found.parts}
    for index, prompt in enumerate(PROMPTS):
        expected = expected_scores(pipeline, family, prompt, seeds_of(index))
        assert set(found_by_name) == set(expected)
        for name, value in expected.items():
            assert found_by_name[name][index] == pytest.approx(value, rel=1e-3, abs=1e-5), name


@pytest.mark.parametrize("family", FAMILIES)
def test_every_detector_scores_a_family_or_says_why_not(family: str) -> None:
    pipeline = shared(family)
    found = screened(pipeline, family)
    found = found.relative_to(found)
    assert set(found.values) | set(found.not_applicable) == set(ALL)
    assert not set(found.values) & set(found.not_applicable)
    assert set(found.calls_alone) == set(found.values)
    for values in found.values.values():
        assert values.shape == (len(PROMPTS),)
        assert np.isfinite(values).all()
    if family in GUIDED:
        assert found.not_applicable == {}
    else:
        without = [each.name for each in DETECTORS if each.needs_both_branches]
        reasons = {**dict.fromkeys(without, DISTILLED), "seed_agreement": PACKED}
        assert found.not_applicable == reasons
        assert found.parts == {}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_size", [2, 4])
def test_other_prompts_and_their_order_do_not_matter(family: str, batch_size: int) -> None:
    """Bit by bit, also where a prompt's seeds lie in two batches or in a padded one."""
    pipeline = shared(family)
    cheap = {"batch_size": batch_size, "detectors": DEFAULT_DETECTORS}
    forwards = screened(pipeline, family, **cheap)
    order = [2, 0, 1]
    shuffled = screened(
        pipeline,
        family,
        [PROMPTS[index] for index in order],
        seeds_of=lambda index: seeds_of(order[index]),
        **cheap,
    )
    alone = screened(pipeline, family, PROMPTS[:1], **cheap)
    for name, values in {**forwards.values, **forwards.parts}.items():
        others = {**shuffled.values, **shuffled.parts}[name]
        np.testing.assert_array_equal(others, values[order])
        np.testing.assert_array_equal({**alone.values, **alone.parts}[name], values[:1])


@pytest.mark.parametrize("family", ["sd2-v", "sd1", "flux-schnell"])
@pytest.mark.parametrize("name", ALL)
def test_a_detector_alone_costs_what_it_says(family: str, name: str) -> None:
    pipeline = shared(family)
    with count_calls(pipeline) as counter:
        found = screened(pipeline, family, detectors=[name])
    assert found.calls == counter.calls
    if name in found.calls_alone:
        assert found.calls == found.calls_alone[name] * len(PROMPTS)


@pytest.mark.parametrize("family", GUIDED)
def test_together_detectors_share_their_calls(family: str) -> None:
    pipeline = shared(family)
    with count_calls(pipeline) as counter:
        found = screened(pipeline, family, detectors=DEFAULT_DETECTORS)
    assert found.calls == counter.calls
    # Two branches: the early steps, the first of which serves all others, and one near 0.
    assert found.calls == len(PROMPTS) * NUM_SEEDS * 2 * (EARLY + 1)


def test_padding_is_paid_for_and_scores_nothing() -> None:
    pipeline = shared("sd2-v")
    with count_calls(pipeline) as counter:
        found = screened(pipeline, "sd2-v", batch_size=7, detectors=["noise_magnitude"])
    assert found.calls == counter.calls == 2 * 14
    assert found.values["noise_magnitude"].shape == (3,)


def test_the_default_is_cheap() -> None:
    plan = ScreenPlan(num_seeds=4, steps=50, early_step=early_step_of(50))
    early = {"early_spread", "masked_early_spread", "early_noise_magnitude"}
    assert max(BY_NAME[name].calls(plan) for name in set(DEFAULT_DETECTORS) - early) <= 20
    pipeline = shared("sd2-v")
    cheap = [name for name in DEFAULT_DETECTORS if name not in early]
    found = screened(pipeline, "sd2-v", num_seeds=3, steps=50, detectors=cheap)
    assert found.calls / len(PROMPTS) * 4 / 3 <= 20


def test_a_prediction_that_is_not_a_number_is_a_score_that_is_not_a_number() -> None:
    pipeline = tiny_pipeline("sd1")
    healthy = screened(pipeline, "sd1")
    batches: list[int] = []

    def poison(_: object, args: tuple[Any, ...], output: tuple[torch.Tensor]) -> Any:
        batches.append(int(args[1]))
        if len(batches) > 1:
            return None
        broken = output[0].clone()
        broken[-1, 0, 0, 0] = math.nan  # last seed of the first prompt, one value
        return (broken,)

    handle = pipeline.unet.register_forward_hook(poison)
    found = screened(pipeline, "sd1")
    handle.remove()
    for name, values in found.values.items():
        assert math.isnan(values[0]), name
        np.testing.assert_array_equal(values[1:], healthy.values[name][1:])
    combined = found.relative_to(found).values["norm_alignment"]
    assert np.isnan(combined).tolist() == [True, False, False]


def test_no_prompts_score_nothing_and_cost_nothing() -> None:
    found = screened(shared("sd1"), "sd1", [])
    assert found.calls == 0
    assert {len(values) for values in found.values.values()} == {0}


def test_progress_is_told_after_every_prompt() -> None:
    told: list[tuple[int, int]] = []
    pipeline = shared("sd1")
    screened(pipeline, "sd1", progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_out_of_memory_is_a_sentence() -> None:
    pipeline = tiny_pipeline("sd1")

    def exhaust(*_: object) -> None:
        raise torch.OutOfMemoryError

    pipeline.unet.register_forward_hook(exhaust)
    with pytest.raises(MemscanError, match="--memscan-batch-size 1, or --memscan-device cpu"):
        screened(pipeline, "sd1")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"detectors": ["magic"]}, "detector 'magic' is unknown; there are noise_magnitude"),
        ({"num_seeds": 1}, "at least 2 are needed"),
        ({"num_seeds": 5}, "3 seeds for a prompt; 5 are needed"),
        ({"early_step": 5}, "an early look at step 5 of 4"),
        ({"early_step": 0}, "an early look at step 0 of 4"),
        ({"guidance_scale": 1.0}, "detectors compare with no prompt"),
        ({"batch_size": 0}, "a batch of 0 rows"),
    ],
)
def test_impossible_screens_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        screened(shared("sd1"), "sd1", **changes)
