"""Attaching leaves nothing behind: the pipeline makes the same images bit by bit afterwards."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from pipeline_factory import FAMILIES, call_settings, tiny_pipeline

from pytest_memscan.denoising.attach import (
    Leave,
    Rows,
    count_calls,
    denoiser_of,
    run,
)
from pytest_memscan.denoising.conditioning import condition
from pytest_memscan.denoising.early import early_latents

# diffusers 0.42 with numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PROMPTS = ["a red cat", "the dog"]
SEEDS = [3, 4]
STEPS = 3


def images(pipeline: Any, family: str) -> torch.Tensor:
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    made: torch.Tensor = pipeline(
        PROMPTS,
        generator=generators,
        num_inference_steps=STEPS,
        output_type="pt",
        **call_settings(family),
    ).images
    return made


def traces(pipeline: Any) -> tuple[Any, ...]:
    denoiser = denoiser_of(pipeline)
    return (
        len(denoiser._forward_hooks),
        len(denoiser._forward_hooks_with_kwargs),
        "step" in vars(pipeline.scheduler),
        denoiser.training,
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pipeline_is_the_same_afterwards(family: str) -> None:
    pipeline = tiny_pipeline(family)
    before, were = images(pipeline, family), traces(pipeline)
    random = torch.random.get_rng_state()
    settings = call_settings(family)
    condition(pipeline, PROMPTS, seeds=SEEDS, steps=STEPS, settings=settings)
    early_latents(pipeline, PROMPTS, seeds=SEEDS, steps=STEPS + 2, stop_after=2, settings=settings)
    assert traces(pipeline) == were
    assert torch.equal(torch.random.get_rng_state(), random)
    assert torch.equal(images(pipeline, family), before)


@pytest.mark.parametrize("where", ["call", "step"])
def test_everything_is_detached_when_something_goes_wrong(where: str) -> None:
    pipeline = tiny_pipeline("sd1")
    before, were = images(pipeline, "sd1"), traces(pipeline)

    def fail(*_: object) -> None:
        raise RuntimeError("the disk is full")

    def nothing(*_: object) -> None:
        return

    rows = Rows(prompts=PROMPTS, seeds=SEEDS, steps=STEPS, settings=call_settings("sd1"))
    with pytest.raises(RuntimeError, match="the disk is full"):
        run(
            pipeline,
            rows,
            on_call=fail if where == "call" else nothing,
            on_step=fail if where == "step" else nothing,
        )
    assert traces(pipeline) == were
    assert torch.equal(images(pipeline, "sd1"), before)


def test_watching_changes_nothing_and_the_scheduler_still_gets_its_generators() -> None:
    """Ancestral steps draw from the generators, which pipelines only pass if `step` takes them."""
    from diffusers import EulerAncestralDiscreteScheduler

    pipeline = tiny_pipeline("sd1")
    pipeline.scheduler = EulerAncestralDiscreteScheduler.from_config(pipeline.scheduler.config)
    signature = inspect.signature(pipeline.scheduler.step)
    seen: list[torch.Tensor] = []
    stepped: list[float] = []
    signatures: list[inspect.Signature] = []

    def on_call(_: object, __: object, output: torch.Tensor) -> None:
        seen.append(output.clone())
        signatures.append(inspect.signature(pipeline.scheduler.step))

    rows = Rows(prompts=PROMPTS, seeds=SEEDS, steps=STEPS, settings=call_settings("sd1"))
    runs = []
    for _ in range(2):
        torch.manual_seed(len(runs))  # the global generator must not matter
        seen.clear()
        run(pipeline, rows, on_call=on_call, on_step=lambda _, t: stepped.append(t))
        runs.append([each.clone() for each in seen])
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))
    assert set(signatures) == {signature}
    assert stepped == [float(timestep) for timestep in pipeline.scheduler.timesteps] * 2


def test_a_step_that_somebody_else_replaced_is_given_back() -> None:
    pipeline = tiny_pipeline("sd1")
    theirs = pipeline.scheduler.step
    pipeline.scheduler.step = theirs

    def leave(*_: object) -> None:
        raise Leave

    rows = Rows(prompts=PROMPTS, seeds=SEEDS, steps=STEPS, settings=call_settings("sd1"))
    run(pipeline, rows, on_call=lambda *_: None, on_step=leave)
    assert vars(pipeline.scheduler)["step"] is theirs


@pytest.mark.parametrize(("family", "branches"), [("sd2-v", 2), ("sd3", 2), ("flux-dev", 1)])
def test_calls_are_counted_row_by_row(family: str, branches: int) -> None:
    pipeline = tiny_pipeline(family)
    with count_calls(pipeline) as counter:
        images(pipeline, family)
    assert counter.calls == branches * len(PROMPTS) * STEPS
    images(pipeline, family)
    assert counter.calls == branches * len(PROMPTS) * STEPS


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ({"prompts": [], "seeds": [], "steps": 1}, "0 prompts with 0 seeds"),
        ({"prompts": ["a"], "seeds": [1, 2], "steps": 1}, "1 prompts with 2 seeds"),
        ({"prompts": ["a"], "seeds": [1], "steps": 0}, "at least one is needed"),
    ],
)
def test_impossible_rows_are_refused(rows: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Rows(**rows)


def test_a_pipeline_without_denoiser_is_refused() -> None:
    with pytest.raises(ValueError, match="object has neither a unet nor a transformer"):
        denoiser_of(object())
