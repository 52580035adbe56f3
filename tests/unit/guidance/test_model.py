"""A guided stock pipeline hears what two separate models say, combined; and forgets it again."""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
from pair_factory import adapters_in, attach, separate_pair, tiny_pair
from pipeline_factory import call_settings, tiny_pipeline

from pytest_memscan.denoising.attach import (
    argument_of,
    count_calls,
    denoiser_of,
    first_output,
    latents_of,
)
from pytest_memscan.denoising.conditioning import condition
from pytest_memscan.guidance.model import ModelGuidance, model_guided
from pytest_memscan.guidance.pair import ModelPair

# diffusers 0.42 with numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PROMPTS = ["a red cat", "the dog"]
SEEDS = [3, 4]
STEPS = 3
FLOWS = ("sd3", "flux-dev")
GUIDANCE = ModelGuidance(scale=3.0, k=-0.02)
CASES = [
    *product(("sd1", "sd2-v", "sdxl", "sd3", "flux-dev", "pixart-sigma"), ("full", "lora")),
    ("sd1", "text-encoder-lora"),
]


@cache
def shared(family: str, kind: str) -> ModelPair:
    """One pair for many tests: guidance leaves nothing behind."""
    return tiny_pair(family, kind)


def embedded(family: str) -> float:
    """Guidance that is told to the denoiser; elsewhere 1, which is none."""
    return 2.5 if family == "flux-dev" else 1.0


def images(
    pipeline: Any,
    family: str,
    *,
    prompts: list[str] = PROMPTS,
    seeds: list[int] = SEEDS,
    **changes: Any,
) -> torch.Tensor:
    arguments = {"guidance_scale": embedded(family), **call_settings(family), **changes}
    made: torch.Tensor = pipeline(
        prompts,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        num_inference_steps=STEPS,
        output_type="pt",
        **arguments,
    ).images
    return made


def traces(pair: ModelPair) -> tuple[Any, ...]:
    """What attaching could leave behind."""
    modules = [denoiser_of(pair.pipeline), *adapters_in(pair.pipeline)]
    modules += [] if pair.base is None else [denoiser_of(pair.base)]
    return (
        [("forward" in vars(each), len(each._forward_pre_hooks)) for each in modules],
        [len(each._forward_hooks) for each in modules],
        [each.disable_adapters for each in adapters_in(pair.pipeline)],
        "step" in vars(pair.pipeline.scheduler),
        pair.pipeline.scheduler,
        pair.base and pair.base.scheduler,
    )


def heard(pair: ModelPair, family: str, guidance: ModelGuidance) -> list[tuple[Any, float, Any]]:
    """Latents, timestep and answer of every denoiser call of a guided run."""
    calls: list[tuple[Any, float, Any]] = []

    def hear(_: object, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        timestep = torch.as_tensor(argument_of(args, kwargs, 1, "timestep")).flatten()[0]
        calls.append((latents_of(args, kwargs), float(timestep), first_output(output)))

    with model_guided(pair, guidance, settings=call_settings(family)):
        handle = denoiser_of(pair.pipeline).register_forward_hook(hear, with_kwargs=True)
        images(pair.pipeline, family)
    handle.remove()
    return calls


def asked(pipeline: Any, family: str, prompts: list[str]) -> Any:
    return condition(
        pipeline,
        prompts,
        seeds=SEEDS,
        steps=STEPS,
        guidance_scale=embedded(family),
        settings=call_settings(family),
    )


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_every_answer_is_what_two_separate_models_say(family: str, kind: str) -> None:
    pair = shared(family, kind)
    guidance = ModelGuidance(scale=3.0, k=0.0 if family in FLOWS else -0.02)
    before, were = images(pair.pipeline, family), traces(pair)
    calls = heard(pair, family, guidance)
    assert traces(pair) == were
    assert torch.equal(images(pair.pipeline, family), before)

    separate = separate_pair(family, kind)
    tuned = asked(separate[0], family, PROMPTS)
    base = asked(separate[1], family, ["", ""])
    meaning = tuned.parametrisation
    assert len(calls) >= STEPS
    for latents, told, answer in calls:
        timestep = told * meaning.num_train_timesteps if family == "flux-dev" else told
        each = [model.predict(latents, timestep).conditional for model in (tuned, base)]
        if family in FLOWS:
            torch.testing.assert_close(answer, 3 * each[0] - 2 * each[1], rtol=0, atol=1e-5)
            continue
        mean = answer[:, : latents.shape[1]]
        ours, other, guided = (
            meaning.noise(latents, prediction, timestep) for prediction in (*each, mean)
        )
        torch.testing.assert_close(guided, 3 * ours - 2.02 * other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["full", "lora", "text-encoder-lora"])
def test_scale_1_is_the_fine_tune_alone(kind: str) -> None:
    pair = shared("sd1", kind)
    plain = images(pair.pipeline, "sd1")
    with model_guided(pair, ModelGuidance(scale=1.0), settings=call_settings("sd1")):
        guided = images(pair.pipeline, "sd1")
    torch.testing.assert_close(guided, plain, rtol=0, atol=1e-5)
    with model_guided(pair, GUIDANCE, settings=call_settings("sd1")):
        guided = images(pair.pipeline, "sd1")
    assert (guided - plain).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("family", ["sd1", "flux-dev"])
def test_an_image_does_not_depend_on_its_batch(family: str, kind: str) -> None:
    pair = shared(family, kind)
    with model_guided(pair, ModelGuidance(scale=3.0), settings=call_settings(family)):
        together = images(pair.pipeline, family)
        for row in range(2):
            alone = images(pair.pipeline, family, prompts=[PROMPTS[row]], seeds=[SEEDS[row]])
            torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-5)


def test_a_lora_is_one_forward_of_a_mixed_batch() -> None:
    pair = shared("sd1", "lora")
    rows: list[int] = []
    first = denoiser_of(pair.pipeline).conv_in
    with (
        model_guided(pair, GUIDANCE, settings=call_settings("sd1")),
        count_calls(pair.pipeline) as counter,
    ):
        handle = first.register_forward_hook(lambda _, args, __: rows.append(len(args[0])))
        images(pair.pipeline, "sd1")
    handle.remove()
    assert rows == [4] * (STEPS + 1)  # PNDM asks once more
    assert counter.calls == 2 * len(rows)  # from outside: one row for each image


def test_adapters_that_cannot_be_mixed_are_switched_off_for_the_base() -> None:
    pipeline = tiny_pipeline("sd1")
    attach(pipeline, use_dora=True)
    calls = heard(ModelPair(pipeline=pipeline, base=None), "sd1", GUIDANCE)
    tuned = asked(pipeline, "sd1", PROMPTS)
    base = asked(tiny_pipeline("sd1"), "sd1", ["", ""])
    for latents, timestep, answer in calls:
        ours, other = (model.predict(latents, timestep).conditional for model in (tuned, base))
        torch.testing.assert_close(answer, 3 * ours - 2.02 * other, rtol=0, atol=1e-5)


def test_a_base_that_shares_the_denoiser_and_the_scheduler() -> None:
    pipeline, other = tiny_pipeline("sd1"), tiny_pipeline("sd1", seed=1)
    base = type(pipeline)(**pipeline.components | {"text_encoder": other.text_encoder})
    base.set_progress_bar_config(disable=True)
    pair = ModelPair(pipeline=pipeline, base=base)
    tuned_says, base_says = asked(pipeline, "sd1", PROMPTS), asked(base, "sd1", ["", ""])
    calls = heard(pair, "sd1", ModelGuidance(scale=2.0))
    for latents, timestep, answer in calls:
        ours, theirs = (
            model.predict(latents, timestep).conditional for model in (tuned_says, base_says)
        )
        torch.testing.assert_close(answer, 2 * ours - theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("failing_call", [0, 2])  # the empty prompt's; one of the sampling
def test_everything_is_detached_whatever_happens(
    kind: str, error: type[BaseException], failing_call: int
) -> None:
    pair = shared("sd1", kind)
    before, were = images(pair.pipeline, "sd1"), traces(pair)
    calls: list[int] = []

    def fail(*_: object) -> None:
        calls.append(len(calls))
        if calls[-1] == failing_call:
            raise error

    def guided() -> None:
        with model_guided(pair, GUIDANCE, settings=call_settings("sd1")):
            images(pair.pipeline, "sd1")

    asks_empty = pair.pipeline if pair.base is None else pair.base
    handle = denoiser_of(asks_empty).conv_out.register_forward_hook(fail)
    with pytest.raises(error):
        guided()
    handle.remove()
    assert calls[-1] == failing_call
    assert traces(pair) == were
    assert torch.equal(images(pair.pipeline, "sd1"), before)


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("sd1", {"guidance_scale": 3.0}),
        ("pixart-sigma", {"guidance_scale": 3.0}),  # does not say that it does
        ("flux-dev", {"negative_prompt": ["", ""], "true_cfg_scale": 3.0}),  # one after the other
    ],
)
def test_classifier_free_guidance_besides_is_an_error(
    family: str, kind: str, changes: dict[str, Any]
) -> None:
    pair = shared(family, kind)
    with (
        model_guided(pair, ModelGuidance(scale=3.0), settings=call_settings(family)),
        pytest.raises(ValueError, match="called with guidance_scale=1"),
    ):
        images(pair.pipeline, family, **changes)


def test_one_guidance_at_a_time() -> None:
    pair = shared("sd1", "full")
    settings = call_settings("sd1")
    turned = ModelPair(pipeline=pair.base, base=pair.pipeline)
    with model_guided(pair, GUIDANCE, settings=settings):
        once = images(pair.pipeline, "sd1")
        for other in (pair, turned):
            nested = model_guided(other, GUIDANCE, settings=settings)
            with pytest.raises(ValueError, match="already guided"):
                nested.__enter__()
        assert torch.equal(images(pair.pipeline, "sd1"), once)
    with model_guided(pair, GUIDANCE, settings=settings):
        assert torch.equal(images(pair.pipeline, "sd1"), once)


@pytest.mark.parametrize("family", FLOWS)
def test_k_is_refused_for_a_flow(family: str) -> None:
    refused = model_guided(shared(family, "full"), GUIDANCE, settings=call_settings(family))
    with pytest.raises(ValueError, match="at sigma = 1, where sampling starts"):
        refused.__enter__()


def test_another_scheduler_in_between_is_refused() -> None:
    pair = tiny_pair("sd1")
    with model_guided(pair, GUIDANCE, settings=call_settings("sd1")):
        scheduler = pair.pipeline.scheduler
        pair.pipeline.scheduler = type(scheduler).from_config(scheduler.config)
        with pytest.raises(ValueError, match="another scheduler"):
            images(pair.pipeline, "sd1")


def test_adapters_that_are_not_in_use_as_agreed_are_refused() -> None:
    pipeline = tiny_pipeline("sd1")
    pair = ModelPair(pipeline=pipeline, base=None)
    with pytest.raises(ValueError, match="no adapter"):
        model_guided(pair, GUIDANCE).__enter__()
    attach(pipeline, name="somebody")
    with pytest.raises(ValueError, match=r"has the adapters \['somebody'\].*named memscan"):
        model_guided(pair, GUIDANCE).__enter__()
    pair = tiny_pair("sd1", "lora")
    for layer in adapters_in(pair.pipeline):
        layer.merge()
    with pytest.raises(ValueError, match="unmerged"):
        model_guided(pair, GUIDANCE).__enter__()
