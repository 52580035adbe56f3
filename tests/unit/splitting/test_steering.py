"""Promises from their formula, tilts and what they weigh, and both learnt back from known ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pytest_memscan.splitting.steering import (
    CAUTION,
    Aims,
    Steering,
    fit_slope,
    fit_tilts,
    tilted,
)

SHAPE = (2, 3, 3)


def some_aims(num: int, seed: int) -> Aims:
    generator = torch.Generator().manual_seed(seed)
    shares = torch.rand(num, generator=generator, dtype=torch.float64) + 0.01
    return Aims(
        clean=torch.randn((num, *SHAPE), generator=generator),
        log_shares=(shares / shares.sum()).log(),
    )


def drawn(num: int, seed: int) -> torch.Tensor:
    return torch.randn((num, *SHAPE), generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=30)
@given(
    num=st.integers(1, 6),
    num_aims=st.integers(1, 5),
    slope=st.sampled_from([0.0, 0.3, 4.0, 30.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_promise_is_its_formula(num: int, num_aims: int, slope: float, seed: int) -> None:
    aims, predicted = some_aims(num_aims, seed), drawn(num, seed ^ 1)
    log_weights = torch.from_numpy(np.random.default_rng(seed).normal(size=num) * 2)
    found, parts = aims.promise(predicted, log_weights, slope)
    likely = np.empty((num, num_aims))
    for row in range(num):
        for column in range(num_aims):
            error = (predicted[row] - aims.clean[column]).double().square().mean()
            likely[row, column] = math.exp(-slope * float(error))
    weights = np.exp(log_weights.numpy())
    means = weights @ likely / weights.sum()
    share = np.exp(aims.log_shares.numpy()) * likely / means
    np.testing.assert_allclose(np.exp(found.numpy()), share.sum(axis=1), rtol=1e-4)
    np.testing.assert_allclose(
        parts.numpy(), share / share.sum(axis=1, keepdims=True), rtol=1e-4, atol=1e-12
    )
    # Of all that is promised each aim gets its share, however far it is from everything.
    promised = weights[:, None] * np.exp(found.numpy())[:, None] * parts.numpy()
    np.testing.assert_allclose(
        promised.sum(axis=0) / weights.sum(), np.exp(aims.log_shares.numpy()), rtol=1e-6
    )


def test_an_aim_far_from_everything_gets_its_share_at_the_steepest_slope() -> None:
    """``exp(-slope * distance)`` is 0 in any float; its share of the population is not."""
    far = torch.full((1, *SHAPE), 100.0)
    aims = Aims(
        clean=torch.cat([drawn(1, 0), far]), log_shares=torch.tensor([0.75, 0.25]).double().log()
    )
    found, parts = aims.promise(drawn(20, 3), torch.zeros(20, dtype=torch.float64), 1e4)
    promised = found.exp()[:, None] * parts / 20
    np.testing.assert_allclose(promised.sum(dim=0), [0.75, 0.25], rtol=1e-6)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_promises_nothing_and_changes_nothing_else(broken: float) -> None:
    aims, predicted = some_aims(3, 5), drawn(4, 6)
    log_weights = torch.tensor([0.3, 9.0, -1.0, 0.0], dtype=torch.float64)
    kept = torch.tensor([0, 2, 3])
    expected, expected_parts = aims.promise(predicted[kept], log_weights[kept], 2.0)
    predicted[1, 0, 1, 1] = broken
    found, parts = aims.promise(predicted, log_weights, 2.0)
    assert found[1] == -math.inf
    torch.testing.assert_close(found[kept], expected)
    torch.testing.assert_close(parts[kept], expected_parts)
    assert parts.isfinite().all()
    nothing, parts = aims.promise(torch.full((4, *SHAPE), broken), log_weights, 2.0)
    assert (nothing == -math.inf).all()
    assert parts.isfinite().all()


def test_distances_and_means_are_those_of_the_images() -> None:
    aims, predicted = some_aims(3, 1), drawn(4, 2)
    expected = torch.stack(
        [torch.stack([(row - aim).square().mean() for aim in aims.clean]) for row in predicted]
    )
    torch.testing.assert_close(aims.distances(predicted), expected.double(), rtol=1e-5, atol=1e-6)
    own = aims.distances(aims.clean).diagonal()
    assert (own >= 0).all()
    assert (own < 1e-6).all()
    parts = torch.tensor([[1.0, 0, 0], [0.5, 0.25, 0.25]], dtype=torch.float64)
    mixed = 0.5 * aims.clean[0] + 0.25 * (aims.clean[1] + aims.clean[2])
    torch.testing.assert_close(aims.mean(parts), torch.stack([aims.clean[0], mixed]))


@settings(deadline=None, max_examples=30)
@given(tilt=st.floats(-2, 2), size=st.floats(0, 3), seed=st.integers(0, 2**32 - 1))
def test_a_tilt_weighs_the_density_without_it_over_that_with_it(
    tilt: float, size: float, seed: int
) -> None:
    noise, direction = drawn(3, seed).double(), size * drawn(3, seed ^ 1).double()
    used, log_ratio = tilted(noise, direction, tilt)
    torch.testing.assert_close(used, noise + tilt * direction)
    without = stats.norm.logpdf(used.numpy())
    with_it = stats.norm.logpdf(used.numpy(), loc=tilt * direction.numpy())
    expected = (without - with_it).reshape(3, -1).sum(axis=1)
    np.testing.assert_allclose(log_ratio.numpy(), expected, rtol=1e-9, atol=1e-9)


def test_tilted_noise_weighs_one_on_average_and_keeps_its_mean() -> None:
    """What the weights are for, on a function that the tilt moves much."""
    num, direction = 40_000, torch.tensor([[0.6, -0.4]])
    noise = torch.randn((num, 2), generator=torch.Generator().manual_seed(0))
    used, log_ratio = tilted(noise, direction.expand(num, 2), 1.5)
    weights = log_ratio.exp().numpy()
    beyond = (used[:, 0] > 2).double().numpy()
    for found, truth in [(weights, 1.0), (weights * beyond, stats.norm.sf(2))]:
        error = found.std() / math.sqrt(num)
        assert abs(found.mean() - truth) < 4 * error
    assert beyond.mean() > 3 * stats.norm.sf(2)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 12])
def test_a_known_tilt_is_fitted(num_steps: int) -> None:
    random = np.random.default_rng(num_steps)
    true = np.full(num_steps, 0.6)
    direction = random.normal(size=(num_steps, 50, 8))
    noise = random.normal(size=direction.shape) + true[:, None, None] * direction
    along, squared = (direction * noise).sum(-1), np.square(direction).sum(-1)
    found = fit_tilts(along, squared, random.uniform(0.5, 1, size=50))
    assert found.shape == (num_steps,)
    # Standard error of a mean with known directions: 1 over the root of their squared lengths.
    np.testing.assert_allclose(found, true, atol=5 / math.sqrt(50 * 8))


def test_tilts_are_averaged_over_neighbours_and_only_where_there_is_one() -> None:
    squared = np.ones((9, 400))
    along = np.zeros((9, 400))
    along[4] = 0.9
    found = fit_tilts(along, squared, np.ones(400))
    np.testing.assert_allclose(found, [0, 0, 0, 0.3, 0.3, 0.3, 0, 0, 0])
    assert fit_tilts(-along, squared, np.ones(400)).tolist() == [0.0] * 9
    assert fit_tilts(9 * along, squared, np.ones(400)).max() == 1.0
    # 400 trajectories show it, four of them do not.
    assert not fit_tilts(along[:, :4], squared[:, :4], np.ones(4)).any()
    assert not fit_tilts(along, squared, np.zeros(400)).any()
    assert not fit_tilts(along, 0 * squared, np.ones(400)).any()


def test_noise_alone_is_seldom_taken_for_a_tilt() -> None:
    """Beyond 1.5 standard errors: once in 15, for each step."""
    random = np.random.default_rng(0)
    direction, noise = random.normal(size=(2, 600, 30, 4))
    along, squared = (direction * noise).sum(-1), np.square(direction).sum(-1)
    found = np.concatenate(
        [
            fit_tilts(along[n : n + 3], squared[n : n + 3], np.ones(30))[1:2]
            for n in range(0, 600, 3)
        ]
    )
    expected = 200 * stats.norm.sf(1.5)
    assert abs((found > 0).sum() - expected) < 4 * math.sqrt(expected)


def test_a_known_slope_is_fitted() -> None:
    """Gamma distances tilted by ``exp(-1.5 d)`` are gamma distances again."""
    random = np.random.default_rng(2)
    true, shape, scale = 1.5, 4.0, 0.25
    plain = random.gamma(shape, scale, size=(4000, 300))
    arrived = random.gamma(shape, scale / (1 + true * scale), size=300)
    found = fit_slope(plain, arrived, np.ones(300))
    # Fisher information of the tilt: the variance of the tilted distances.
    error = 1 / math.sqrt(300 * shape * (scale / (1 + true * scale)) ** 2)
    assert abs(found / CAUTION - true) < 4 * error


def test_trajectories_count_by_their_weights() -> None:
    random = np.random.default_rng(3)
    plain = random.gamma(4.0, 0.25, size=(500, 20))
    arrived = random.gamma(4.0, 0.15, size=20)
    weights = np.repeat([1.0, 2.0], 10)
    twice = np.r_[0:20, 10:20]
    expected = fit_slope(plain[:, twice], arrived[twice], np.ones(30))
    assert fit_slope(plain, arrived, weights) == pytest.approx(expected, rel=1e-3)
    assert fit_slope(plain, arrived, weights * 70) == pytest.approx(expected, rel=1e-3)


def test_distances_that_say_nothing_give_no_slope_and_no_slope_is_endless() -> None:
    random = np.random.default_rng(4)
    plain = random.gamma(4.0, 0.25, size=(400, 40))
    assert fit_slope(plain, random.gamma(4.0, 0.25, size=40), np.ones(40)) == 0.0
    assert fit_slope(plain, random.gamma(4.0, 0.5, size=40), np.ones(40)) == 0.0  # farther away
    # At the end all that arrived are there, and nobody else: told apart by any slope.
    assert 0 < fit_slope(plain, np.zeros(40), np.ones(40)) <= 1e4 * CAUTION
    spread = np.linspace(0.0, 1e-2, 40)
    found = fit_slope(plain + 1.0, spread, np.ones(40))
    assert found <= CAUTION / spread.std() * (1 + 1e-9)


def test_steps_of_tilts_and_slopes_must_agree() -> None:
    with pytest.raises(ValueError, match="tilts"):
        Steering(tilts=np.zeros(3), slopes=np.zeros(4))
