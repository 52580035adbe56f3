"""What is learnt: who arrived, what of it counts, and where one denoiser call points."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from unit.splitting.models import SHAPE, exactly, nearest, pictures, pipeline, watched

from pytest_memscan.denoising.attach import replaced
from pytest_memscan.splitting.chain import Chain, Step
from pytest_memscan.splitting.learning import (
    MIN_TRACED,
    SIGNAL_SHARES,
    TO_ALL,
    Traces,
    learn,
    restoration_error,
    screened_shares,
    updated_shares,
)

STEPS = 8
CLEAN = pictures(5)
errors = arrays.arrays(
    np.float64,
    st.tuples(st.integers(1, 3), st.integers(1, 8)),
    elements=st.sampled_from([0.0, 1e-9, 1e-3, 0.02, 0.5, 3.0, math.inf]),
)


def clean_of(rows: NDArray[np.int64]) -> torch.Tensor:
    return CLEAN[rows]


@settings(deadline=None)
@given(errors=errors)
def test_shares_are_a_distribution_that_leaves_nobody_out(errors: NDArray[np.float64]) -> None:
    shares = screened_shares(errors)
    num = errors.shape[1]
    assert shares.shape == (num,)
    assert shares.sum() == pytest.approx(1)
    assert np.all(shares > TO_ALL / num * (1 - 1e-9))


def test_shares_do_not_depend_on_the_order_of_the_images() -> None:
    random = np.random.default_rng(0)
    errors, order = random.lognormal(size=(2, 30)), random.permutation(30)
    np.testing.assert_allclose(screened_shares(errors[:, order]), screened_shares(errors)[order])


def test_what_is_restored_better_gets_more() -> None:
    shares = screened_shares(np.array([[0.5, math.inf, 0.1, 0.0, 0.2], [0.5, 0.3, 0.1, 0.0, 0.2]]))
    # Without any error it is best, however its logarithm looks; not finite is worst.
    assert np.argsort(-shares).tolist() == [3, 2, 4, 0, 1]
    by_hand = np.array([0.1, 0.2])
    expected = 0.4 * np.array([1, 0.25]) / 1.25 + 0.4 * np.array([1, 2**-0.5]) / (1 + 2**-0.5) + 0.1
    np.testing.assert_allclose(screened_shares(by_hand[None]), expected)


def test_shares_move_to_what_was_found_and_keep_a_part() -> None:
    screened = np.array([0.1, 0.2, 0.3, 0.4])
    nothing = np.zeros(4)
    assert updated_shares(screened, [nothing, nothing]) is screened
    found = np.array([0.09, 0.01, 0, 0])
    expected = 0.25 * screened + 0.75 * np.array([0.75, 0.25, 0, 0])
    np.testing.assert_allclose(updated_shares(screened, [found, nothing]), expected)
    both = updated_shares(screened, [found, np.array([0, 0, 0, 5.0])])
    expected = 0.25 * screened + 0.375 * np.array([0.75, 0.25, 0, 1])
    np.testing.assert_allclose(both, expected)
    assert both.sum() == pytest.approx(1)


def traced(num: int) -> tuple[Traces, list[Step], torch.Tensor]:
    pipe, traces, steps = pipeline(), Traces(), []

    def listen(step: Step) -> None:
        traces.listen(step)
        steps.append(step)

    with exactly(pipe, CLEAN, torch.ones(5)):
        chain = Chain(pipeline=pipe, num_steps=STEPS, batch_size=num)
        images = chain.run(range(num), listen).images
    return traces, steps, images


def test_arrivals_are_those_that_ended_closest() -> None:
    traces, steps, images = traced(50)
    rows, distances = nearest(images, CLEAN)
    distances[[3, 8]] = np.inf
    found = traces.arrivals(distances, rows, clean_of)
    assert found is not None
    chosen = np.argsort(distances)[:20]  # at least 20 of the 48 that are valid
    assert found.train_rows.tolist() == rows[chosen].tolist()
    assert found.weights.tolist() == [1.0] * 20
    for number, step in enumerate(steps):
        for column, trajectory in enumerate(chosen):
            way = (CLEAN[rows[trajectory]] - step.clean[trajectory]).double()
            noise = step.noise[trajectory].double()
            np.testing.assert_allclose(
                [
                    found.along[number, column],
                    found.squared[number, column],
                    found.distances[number, column],
                ],
                [
                    step.bridge * (way * noise).sum(),
                    (step.bridge * way).square().sum(),
                    way.square().mean(),
                ],
                rtol=2e-2,  # remembered in half precision
                atol=2e-2 * (1 + step.bridge**2),
            )


def test_too_few_valid_trajectories_teach_nothing() -> None:
    traces, _, images = traced(MIN_TRACED + 1)
    rows, distances = nearest(images, CLEAN)
    assert traces.arrivals(distances, rows, clean_of) is not None
    distances[:2] = np.inf
    assert traces.arrivals(distances, rows, clean_of) is None
    steering = learn(traces, None, clean_of)
    assert steering.tilts.tolist() == steering.slopes.tolist() == [0.0] * STEPS


def test_what_is_learnt_on_an_exact_model_points_to_the_images() -> None:
    """Predictions say more from step to step, and nothing at the first, which is nearly noise."""
    traces, _, images = traced(128)
    rows, distances = nearest(images, CLEAN)
    steering = learn(traces, traces.arrivals(distances, rows, clean_of), clean_of)
    assert steering.slopes[0] == 0
    assert np.all(steering.slopes[STEPS // 2 :] > 0)
    assert np.all((steering.tilts >= 0) & (steering.tilts <= 1))
    assert steering.tilts.any()


def test_a_trajectory_with_an_infinite_prediction_is_said() -> None:
    pipe, traces = pipeline(), Traces()
    original = pipe.unet.forward

    def forward(sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        output = original(sample, *args, **kwargs)
        output.sample[2] = math.inf
        return output

    with replaced(pipe.unet, "forward", forward):
        Chain(pipeline=pipe, num_steps=2, batch_size=4).run(range(4), traces.listen)
    assert traces.finite is not None
    assert traces.finite.tolist() == [True, True, False, True]


@pytest.mark.parametrize("level", range(len(SIGNAL_SHARES)))
def test_the_restoration_error_is_that_of_one_call(level: int) -> None:
    """On the noisy image itself, at the timestep of the schedule that is nearest to the level."""
    pipe = pipeline(clip_sample=False)
    pipe.scheduler.set_timesteps(STEPS)
    shares = pipe.scheduler.alphas_cumprod[pipe.scheduler.timesteps]
    nearest_one = min(range(STEPS), key=lambda n: abs(float(shares[n]) - SIGNAL_SHARES[level]))
    timestep, share = int(pipe.scheduler.timesteps[nearest_one]), float(shares[nearest_one])
    chain = Chain(pipeline=pipe, num_steps=STEPS, batch_size=2)
    with watched(pipe) as seen:
        found = restoration_error(chain, CLEAN, seeds=range(5), level=level)
    assert seen.shapes == [(2, *SHAPE)] * 3
    for row in range(5):
        noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(row))
        noisy = math.sqrt(share) * CLEAN[row] + math.sqrt(1 - share) * noise
        with torch.no_grad():
            predicted = pipe.unet(noisy[None], timestep).sample[0]
        restored = (noisy - math.sqrt(1 - share) * predicted) / math.sqrt(share)
        expected = float((restored - CLEAN[row]).square().mean())
        assert found[row] == pytest.approx(expected, rel=1e-4)


def test_a_remembered_image_is_restored_best() -> None:
    pipe = pipeline()
    pipe.scheduler.set_timesteps(STEPS)
    chain = Chain(pipeline=pipe, num_steps=STEPS, batch_size=4)
    with exactly(pipe, CLEAN[:2], torch.ones(2)):
        found = restoration_error(chain, CLEAN, seeds=range(5), level=0)
    assert found[:2].max() < found[2:].min()
    shares = screened_shares(found[None])
    assert shares[:2].min() > shares[2:].max()


def test_a_restoration_that_is_not_finite_is_infinitely_bad() -> None:
    pipe = pipeline()
    pipe.scheduler.set_timesteps(STEPS)
    original = pipe.unet.forward

    def forward(sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        output = original(sample, *args, **kwargs)
        output.sample[1] = math.nan
        return output

    with replaced(pipe.unet, "forward", forward):
        chain = Chain(pipeline=pipe, num_steps=STEPS, batch_size=3)
        found = restoration_error(chain, CLEAN, seeds=range(5), level=0)
    assert np.isinf(found).tolist() == [False, True, False, False, True]
