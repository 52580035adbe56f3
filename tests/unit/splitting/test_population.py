"""Who goes on, and what for: no weight is made or lost on average, whatever the promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from pytest_memscan.splitting.population import (
    DEFENSIVE,
    effective_share,
    normalised,
    select,
    systematic,
)

GRID = 2000  # of the one uniform number that decides a selection
UNIFORMS = (np.arange(GRID) + 0.5) / GRID

Floats = NDArray[np.float64]
shares = arrays.arrays(
    np.float64,
    st.integers(1, 12),
    elements=st.sampled_from([0.0, 1e-9, 0.1, 0.3, 1.0, 2.5, 40.0]),
)
scores = arrays.arrays(
    np.float64, 6, elements=st.sampled_from([-np.inf, -900.0, -8.0, -1.0, 0.0, 0.7, 5.0])
)


def expected_copies(log_weights: Floats, log_promise: Floats) -> Floats | None:
    """Expected total weight of each trajectory's descendants, over a fine grid of uniforms."""
    total = np.zeros(len(log_weights))
    for uniform in UNIFORMS:
        drawn = select(log_weights, log_promise, uniform=float(uniform))
        if drawn is None:
            return None
        np.add.at(total, drawn.survivors, np.exp(drawn.log_weights))
    return total / GRID


@settings(deadline=None)
@given(shares=shares, num=st.integers(1, 20), uniform=st.floats(0, 1, exclude_max=True))
def test_counts_are_the_shares_rounded_up_or_down(shares: Floats, num: int, uniform: float) -> None:
    assume(shares.sum() > 0)
    drawn = systematic(shares, num=num, uniform=uniform)
    assert drawn.shape == (num,)
    assert np.all(np.diff(drawn) >= 0)
    counts = np.bincount(drawn, minlength=len(shares))
    expected = num * shares / shares.sum()
    assert np.all(counts >= np.floor(expected - 1e-9))
    assert np.all(counts <= np.ceil(expected + 1e-9))
    assert not counts[shares == 0].any()


@settings(deadline=None, max_examples=20)
@given(shares=shares, num=st.integers(1, 9))
def test_counts_are_right_on_average(shares: Floats, num: int) -> None:
    assume(shares.sum() > 0)
    counts = np.zeros(len(shares))
    for uniform in UNIFORMS[::10]:
        counts += np.bincount(systematic(shares, num=num, uniform=uniform), minlength=len(shares))
    # Each count changes at two of the uniforms at most, and by one.
    np.testing.assert_allclose(
        counts / (GRID / 10), num * shares / shares.sum(), atol=2.01 / (GRID / 10)
    )


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([1, 1, 1, 1], 1.0),
        ([2, 0, 0, 0], 1 / 4),
        ([1, 1, 0, 0], 1 / 2),
        ([3, 1], 16 / 20),
        ([1], 1.0),
        ([0, 0], 0.0),
    ],
)
def test_the_effective_share_by_hand(weights: list[float], expected: float) -> None:
    with np.errstate(divide="ignore"):
        log_weights = np.log(np.array(weights, dtype=np.float64))
    assert effective_share(log_weights) == pytest.approx(expected)
    # Their unit says nothing, however small or large.
    assert effective_share(log_weights - 5000) == pytest.approx(expected)
    assert effective_share(log_weights + 5000) == pytest.approx(expected)


@settings(deadline=None, max_examples=10)
@given(log_weights=scores, log_promise=scores)
def test_expected_weight_stays_with_the_trajectory(
    log_weights: Floats, log_promise: Floats
) -> None:
    found = expected_copies(log_weights, log_promise)
    assume(found is not None)
    assert found is not None
    weights = np.exp(log_weights)
    # On a grid each count is off by two of the uniforms at most, each worth weight / expected.
    chosen = (1 - DEFENSIVE) * normalised(log_weights + log_promise)
    chosen += DEFENSIVE * normalised(log_weights)
    worth = np.divide(weights, 6 * chosen, out=np.zeros(6), where=chosen > 0)
    assert np.all(np.abs(found - weights) <= 2.01 * worth / GRID + 1e-12)


def test_survivors_are_drawn_by_weight_and_promise_beside_a_part_by_weight_alone() -> None:
    log_weights = np.log(np.array([4.0, 1.0, 1.0, 2.0]))
    log_promise = np.log(np.array([0.0, 100.0, 1.0, 0.5], dtype=np.float64) + 1e-300)
    drawn = select(log_weights, log_promise, uniform=0.4)
    assert drawn is not None
    counts = np.zeros(4)
    for uniform in UNIFORMS:
        each = select(log_weights, log_promise, uniform=float(uniform))
        assert each is not None
        counts += np.bincount(each.survivors, minlength=4)
    by_promise = np.array([0, 100, 1, 1]) / 102
    by_weight = np.array([4, 1, 1, 2]) / 8
    expected = 4 * (0.9 * by_promise + 0.1 * by_weight)
    np.testing.assert_allclose(counts / GRID, expected, atol=1e-3)
    new = np.exp(drawn.log_weights)
    np.testing.assert_allclose(new, (np.array([4, 1, 1, 2]) / expected)[drawn.survivors])


def test_no_weight_grows_beyond_what_the_defensive_part_allows() -> None:
    """Without promise a trajectory goes on by weight alone: at most ten times the mean weight."""
    random = np.random.default_rng(0)
    for _ in range(200):
        log_weights, log_promise = random.normal(size=(2, 30)) * [[1], [20]]
        drawn = select(log_weights, log_promise, uniform=random.random())
        assert drawn is not None
        assert drawn.log_weights.max() <= np.log(np.exp(log_weights).mean() / DEFENSIVE) + 1e-9


@pytest.mark.parametrize(
    ("log_weights", "log_promise"),
    [
        ([0.0], [0.0]),
        ([0.0, 0.0], [-np.inf, -np.inf]),
        ([-np.inf, 0.0], [0.0, -np.inf]),
        ([0.0, 0.0, 0.0], [3.0, 3.0, 3.0]),
        ([0.0, -1.0, 2.0], [0.0, 1.0, -2.0]),  # together even
    ],
)
def test_an_even_or_hopeless_population_is_left_alone(
    log_weights: list[float], log_promise: list[float]
) -> None:
    assert select(np.array(log_weights), np.array(log_promise), uniform=0.5) is None


def test_from_which_share_on_survivors_are_drawn() -> None:
    log_weights, promise = np.zeros(4), np.log([1, 1, 1e-9, 1e-9])
    assert select(log_weights, promise, uniform=0.5, least_effective=0.49) is None
    assert select(log_weights, promise, uniform=0.5, least_effective=0.51) is not None


def test_weights_far_below_what_a_float_can_hold_are_weighed_all_the_same() -> None:
    log_promise = np.array([-5000.0, -5010.0, -np.inf])
    drawn = select(np.full(3, -2000.0), log_promise, uniform=0.5)
    assert drawn is not None
    assert drawn.survivors.tolist() == [0, 0, 0]
    expected = 0.9 / (1 + np.exp(-10)) + 0.1 / 3
    np.testing.assert_allclose(drawn.log_weights, -2000 - np.log(3 * expected))
