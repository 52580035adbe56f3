"""Rates from islands: weights, bounds and growth, against brute force, enumeration, simulation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from decimal import Decimal, getcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from pytest_memscan import prices
from pytest_memscan.prices import (
    certain_lower,
    combined,
    expected_copies,
    expected_until_first,
    growth_curve,
    island_shares,
)
from pytest_memscan.rarefaction import expected_unique_from_rates

Floats = NDArray[np.float64]
STAKES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1.0)
ESTIMATE = st.one_of(st.just(0.0), st.floats(-60, 60).map(math.exp))
ESTIMATES = st.lists(ESTIMATE, min_size=1, max_size=8)


def cvs(decay: float, num_islands: int, level: float) -> Floats:
    """Relative errors of islands with variances as ``b ** -decay``, `level` in the middle."""
    order = np.arange(1, num_islands + 1)
    return np.asarray(level * ((num_islands + 1) / 2 / order) ** (decay / 2))


def log_normal(rng: np.random.Generator, runs: int, relative_errors: Floats) -> Floats:
    """``(runs, num_islands)`` with mean 1."""
    variances = np.log1p(relative_errors**2)
    noise = rng.normal(size=(runs, len(variances)))
    return np.exp(noise * np.sqrt(variances) - variances / 2)


def evidence(rate: float, estimates: Floats, bets: Floats) -> float:
    """The e-value from its definition."""
    stakes = (1.0,) if len(estimates) == 1 else STAKES
    return float(np.mean([np.prod(1 + s * bets * (estimates / rate - 1)) for s in stakes]))


def left_out_error(value: Callable[[Floats, Floats], float], islands: Floats) -> float:
    """Standard error by leaving islands out, written out for one function of a weighted mean."""
    shares = np.arange(1, len(islands) + 1) ** 2.0
    shares /= shares.sum()
    total = value(islands, shares)
    even = sum(w**2 for w in shares)  # what the squares are scaled by for equal variances
    squares = 0.0
    for left_out, w in enumerate(shares):
        kept = np.arange(len(islands)) != left_out
        change = total - value(islands[kept], shares[kept] / shares[kept].sum())
        squares += w * (change * (1 - w) / w) ** 2
    return math.sqrt(squares * even / (1 - even))


@pytest.mark.parametrize("num_islands", [1, 2, 3, 4, 10, 100])
@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0, 2.0, 2.7, 3.0, 4.0])
def test_shares_lose_little_to_the_best_weights(num_islands: int, decay: float) -> None:
    shares = island_shares(num_islands)
    order = np.arange(1.0, num_islands + 1)
    assert shares.sum() == pytest.approx(1)
    np.testing.assert_allclose(shares / shares[0], order**2)
    variances = order**-decay
    best = 1 / (1 / variances).sum()
    most = 9 / 8 if 1 <= decay <= 3 else 9 / 5
    assert best * (1 - 1e-12) <= (shares**2 * variances).sum() < best * most


@pytest.mark.parametrize("num_islands", [2, 3, 4, 10, 20])
@pytest.mark.parametrize("decay", [-1.0, 0.0, 1.0, 3.0])
def test_squared_error_is_not_too_low_unless_variances_rise(num_islands: int, decay: float) -> None:
    rng = np.random.default_rng(7)
    shares = island_shares(num_islands)
    scales = np.arange(1, num_islands + 1) ** (-decay / 2)
    islands = 5 + scales * (rng.exponential(size=(30_000, num_islands)) - 1)
    squares = ((islands - (islands @ shares)[:, None]) ** 2) @ prices._error_factors(shares)
    noise = 4.5 * squares.std() / math.sqrt(len(squares))
    variance = (shares**2 * scales**2).sum()
    if decay == 0:
        assert squares.mean() == pytest.approx(variance, abs=noise)
    assert squares.mean() >= variance * (0.5 if decay < 0 else 1) - noise


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=30))
def test_squared_error_has_half_the_variance_at_least(drawn: list[float]) -> None:
    """By its mean, for any variances; all of it where they do not rise."""
    shares = island_shares(len(drawn))
    for least, variances in [(0.5, np.array(drawn)), (1.0, np.sort(drawn)[::-1])]:
        covariance = np.diag(variances)
        to_deviations = np.eye(len(drawn)) - shares
        squares = np.diag(to_deviations @ covariance @ to_deviations.T)
        variance = shares @ covariance @ shares
        assert prices._error_factors(shares) @ squares >= least * variance * (1 - 1e-9)


def test_squared_error_is_the_textbooks_for_even_weights() -> None:
    np.testing.assert_allclose(prices._error_factors(np.full(5, 0.2)), 1 / 20)
    assert prices._freedom(np.full(5, 0.2)) == pytest.approx(4)


@pytest.mark.parametrize("num_islands", [2, 3, 4, 6, 20])
def test_freedom_matches_the_scatter_of_the_squared_error(num_islands: int) -> None:
    rng = np.random.default_rng(3)
    shares = island_shares(num_islands)
    islands = rng.normal(size=(60_000, num_islands))
    squares = ((islands - (islands @ shares)[:, None]) ** 2) @ prices._error_factors(shares)
    freedom = 2 * squares.mean() ** 2 / squares.var()
    assert prices._freedom(shares) == pytest.approx(freedom, rel=0.05)


@pytest.mark.parametrize("islands", [[1e-4, 3e-4, 2e-4, 2.5e-4], [0.0, 3e-4, 0.0, 1e-5, 2e-4]])
def test_combined_follows_its_definition(islands: list[float]) -> None:
    estimates, number = np.array(islands), len(islands)
    weights = [(b + 1) ** 2 for b in range(number)]
    value = sum(w * x for w, x in zip(weights, islands, strict=True)) / sum(weights)
    error = left_out_error(lambda x, shares: float(shares @ x), estimates)
    freedom = prices._freedom(island_shares(number))
    quantile = stats.t.ppf(0.9, freedom)
    by_spread = value * math.exp(quantile * error / value)
    logs = np.log([max(x, value / 10) for x in islands])
    order = np.arange(1, number + 1)
    even = (order**2).sum() / order.sum() ** 2
    s2 = np.cov(logs, aweights=order, ddof=1)  # divides by 1 - even
    freedom = prices._freedom(order / order.sum())
    error = math.sqrt(s2 * even + s2**2 / 2 / (freedom + 2))
    cox = np.average(logs, weights=order) + s2 / 2 + stats.t.ppf(0.9, freedom) * error
    rate = combined(islands, confidence=0.9, num_trials=77)
    assert rate.value == pytest.approx(value)
    assert rate.upper == pytest.approx(max(by_spread, math.exp(cox)))
    assert rate.lower == pytest.approx(min(value, certain_lower(islands, confidence=0.9)))
    assert (rate.confidence, rate.num_trials) == (0.9, 77)


@pytest.mark.parametrize("islands", [[0.2], [0.0], [0.0, 0.0, 0.0]])
def test_combined_knows_no_upper_bound_from_one_island_or_without_copies(
    islands: list[float],
) -> None:
    rate = combined(islands, num_trials=10)
    assert rate.upper == 1.0
    assert rate.value == islands[0]
    assert rate.lower == pytest.approx(0.05 * islands[0])


@settings(deadline=None)
@given(ESTIMATES)
def test_combined_is_ordered_and_a_probability(islands: list[float]) -> None:
    rate = combined(islands, num_trials=10)
    assert 0 <= rate.lower <= rate.value <= rate.upper <= 1


def upper_coverage(runs: Floats) -> float:
    """Share of the 95 % upper bounds that are at least the truth, 1."""
    return float(np.mean([not row.any() or prices._log_upper(row, 0.95) >= 0 for row in runs]))


# what the docstring of `combined` says about 95 % bounds
@pytest.mark.parametrize(
    ("level", "least", "most"), [(0.3, 0.95, 0.99), (1.0, 0.93, 0.97), (3.0, 0.87, 0.91)]
)
@pytest.mark.parametrize("decay", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("num_islands", [4, 10, 20])
def test_upper_bound_covers_log_normal_islands_as_documented(
    level: float, least: float, most: float, decay: float, num_islands: int
) -> None:
    rng = np.random.default_rng(11)
    runs = log_normal(rng, 800, cvs(decay, num_islands, level))
    noise = 3 * math.sqrt(0.05 * 0.95 / len(runs))
    assert least - noise <= upper_coverage(runs) <= most + noise


@pytest.mark.parametrize(("level", "least"), [(0.3, 0.94), (1.0, 0.92), (3.0, 0.86)])
def test_upper_bound_bears_islands_that_get_worse(level: float, least: float) -> None:
    runs = log_normal(np.random.default_rng(12), 1000, cvs(-1, 20, level))
    assert upper_coverage(runs) >= least - 3 * math.sqrt(0.05 * 0.95 / len(runs))


@pytest.mark.parametrize("num_islands", [4, 20])
def test_upper_bound_covers_plain_images_and_good_islands(num_islands: int) -> None:
    rng, runs, rate = np.random.default_rng(13), 1000, 1 / 5000
    plain = rng.binomial(500, rate, size=(runs, 1)) / 500 / rate
    steered = log_normal(rng, runs, np.array([0.95, *[0.25] * (num_islands - 2)]))
    rows = np.concatenate([plain, steered], axis=1)
    assert upper_coverage(rows) >= 0.98 - 3 * math.sqrt(0.02 * 0.98 / runs)
    if num_islands == 4:
        ratios = [math.exp(prices._log_upper(r, 0.95)) / (island_shares(4) @ r) for r in rows]
        assert 4 < np.median(ratios) < 5.5


def test_one_island_gives_markovs_bound() -> None:
    for estimate, confidence in [(3e-7, 0.95), (2.0, 0.5), (1e300, 0.999)]:
        bound = certain_lower([estimate], confidence=confidence)
        assert bound == pytest.approx(estimate * (1 - confidence), rel=1e-9)


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 4.0]])
def test_e_value_has_mean_one(weights: list[float] | None) -> None:
    """Two-point estimates with mean ``rate``, all outcomes enumerated."""
    rate, chances = 0.01, (0.5, 0.1, 0.001)
    bets = np.ones(3) if weights is None else np.array(weights) / 4
    mean, missed = 0.0, 0.0
    for hits in itertools.product([0, 1], repeat=3):
        share = math.prod(q if hit else 1 - q for hit, q in zip(hits, chances, strict=True))
        outcome = np.array([hit * rate / q for hit, q in zip(hits, chances, strict=True)])
        mean += share * evidence(rate, outcome, bets)
        missed += share * (certain_lower(outcome, confidence=0.9, weights=weights) > rate)
    assert mean == pytest.approx(1)
    assert missed <= 0.1


@settings(deadline=None)
@given(st.lists(ESTIMATE, min_size=2, max_size=6), st.integers(0, 2**32), st.floats(0.5, 0.999))
def test_lower_bound_is_where_the_evidence_runs_out(
    islands: list[float], seed: int, confidence: float
) -> None:
    estimates = np.array(islands)
    weights = np.random.default_rng(seed).uniform(0.1, 1, size=len(islands))
    bound = certain_lower(islands, confidence=confidence, weights=weights)
    if not estimates.any():
        assert bound == 0
        return
    bets = weights / weights.max()
    assert evidence(bound * (1 - 1e-6), estimates, bets) >= 1 / (1 - confidence)
    assert evidence(bound * (1 + 1e-6), estimates, bets) <= 1 / (1 - confidence)
    assert bound <= np.average(estimates, weights=weights) * (1 + 1e-9)


@settings(deadline=None)
@given(ESTIMATES, st.integers(0, 7), st.floats(1, 1e6))
def test_lower_bound_rises_with_every_estimate(
    islands: list[float], which: int, factor: float
) -> None:
    larger = list(islands)
    larger[which % len(islands)] = factor * (larger[which % len(islands)] + 1e-9)
    before = certain_lower(islands, confidence=0.95)
    assert certain_lower(larger, confidence=0.95) >= before * (1 - 1e-9)


@settings(deadline=None)
@given(ESTIMATES, st.floats(-250, 250), st.floats(0.5, 0.999))
def test_lower_bound_keeps_to_units(islands: list[float], power: float, confidence: float) -> None:
    unit = 10.0**power
    scaled = certain_lower([unit * x for x in islands], confidence=confidence)
    assert scaled == pytest.approx(unit * certain_lower(islands, confidence=confidence), rel=1e-8)


def test_lower_bound_bears_estimates_of_all_sizes() -> None:
    bound = certain_lower([0.0, 1e300, 1e-300, 0.0], confidence=0.95)
    assert 1e296 < bound < 1e300
    assert certain_lower([0.0, 0.0], confidence=0.95) == 0


def adapting(rng: np.random.Generator, runs: int, num_islands: int) -> Floats:
    """Islands that succeed the more seldom, the more the one before found; mean 1 given it."""
    islands = np.zeros((runs, num_islands))
    for b in range(num_islands):
        chance = 1 / (2 + 3 * islands[:, b - 1]) if b else np.full(runs, 0.5)
        islands[:, b] = (rng.random(runs) < chance) / chance
    return islands


HEAVY: dict[str, Callable[[np.random.Generator, int, int], Floats]] = {
    "log-normal, 300 % off": lambda rng, runs, n: log_normal(rng, runs, np.full(n, 3.0)),
    "log-normal, 10000 % off": lambda rng, runs, n: log_normal(rng, runs, np.full(n, 100.0)),
    "no variance": lambda rng, runs, n: (rng.pareto(1.2, size=(runs, n)) + 1) * 0.2 / 1.2,
    "one in fifty": lambda rng, runs, n: 50.0 * (rng.random((runs, n)) < 0.02),
    "one in two": lambda rng, runs, n: 2.0 * (rng.random((runs, n)) < 0.5),
    "about three hits": lambda rng, runs, n: (rng.random((runs, n)) < 3 / (n + 3)) * (n + 3) / 3,
    "adapting": adapting,
}


@pytest.mark.parametrize("kind", HEAVY)
@pytest.mark.parametrize("num_islands", [1, 4, 10, 20])
def test_lower_bound_holds_whatever_the_tails(kind: str, num_islands: int) -> None:
    runs = HEAVY[kind](np.random.default_rng(5), 2500, num_islands)
    lowers = prices._lower_bounds(runs.T, np.ones(num_islands), math.log(20))
    assert lowers[17] == pytest.approx(certain_lower(runs[17], confidence=0.95))
    assert np.mean(lowers > 1) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / len(runs))


def test_lower_bounds_hold_together_if_all_that_could_be_drawn_are_counted() -> None:
    """Two islands, 25 trajectories each; counting only the drawn targets is mostly wrong."""

    def lowers(islands: Floats, num_tried: int) -> Floats:
        return prices._lower_bounds(islands, np.ones(2), math.log(num_tried / 0.05))

    rng = np.random.default_rng(4)
    num_targets, num_each, rate, runs = 200_000, 25, 1e-6, 40
    wrong = {"drawn": 0, "all": 0}
    for _ in range(runs):
        islands = np.zeros((2, num_targets))
        for island in islands:  # each trajectory ends in its target, with weight `rate`
            drawn = rng.integers(num_targets, size=num_each)
            np.add.at(island, drawn, rate * num_targets / num_each)
        found = islands[:, islands.any(axis=0)]
        wrong["drawn"] += bool((lowers(found, found.shape[1]) > rate).any())
        wrong["all"] += bool((lowers(islands, num_targets) > rate).any())
    assert stats.binomtest(wrong["all"], runs, 0.05, "greater").pvalue > 0.001
    assert wrong["drawn"] > 0.9 * runs


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), max_size=6), st.integers(1, 1000))
def test_expected_copies_agree_with_rarefaction(rates: list[float], size: int) -> None:
    np.testing.assert_allclose(
        expected_copies(rates, [size]), expected_unique_from_rates(rates, [size]), atol=1e-12
    )


def test_expected_copies_keep_the_rarest() -> None:
    getcontext().prec = 60
    for rate, size in [(1e-19, 1), (1e-12, 10**6), (3e-9, 10**9)]:
        exact = 1 - (1 - Decimal(rate)) ** size
        assert expected_copies([rate], [size])[0] == pytest.approx(float(exact), rel=1e-12)


def test_expected_copies_match_simulated_images() -> None:
    """Each image copies one training image or none."""
    rng = np.random.default_rng(6)
    rates, size, runs = np.array([0.2, 0.05, 0.01, 0.001]), 40, 4000
    drawn = rng.multinomial(size, [*rates, 1 - rates.sum()], size=runs)[:, :-1]
    distinct = (drawn > 0).sum(axis=1)
    error = distinct.std() / math.sqrt(runs)
    assert expected_copies(rates, [size])[0] == pytest.approx(distinct.mean(), abs=4 * error)


def test_growth_follows_its_definition() -> None:
    rng = np.random.default_rng(8)
    islands = log_normal(rng, 5, np.full(7, 1.5)) * 1e-3 * (rng.random((5, 7)) < 0.7)
    quantile = stats.t.ppf(0.9, prices._freedom(island_shares(5)))
    points = growth_curve(islands, [1, 300, 10**5], num_trajectories=300, confidence=0.9)
    assert [point.num_generated for point in points] == [1, 300, 10**5]
    assert [point.extrapolated for point in points] == [False, False, True]
    for point in points:

        def distinct(x: Floats, shares: Floats, size: int = point.num_generated) -> float:
            return float((1 - (1 - shares @ x) ** size).sum())

        shares = island_shares(5)
        expected = distinct(islands, shares)
        bias = 0.0
        for left_out, share in enumerate(shares):
            kept = np.arange(5) != left_out
            without = distinct(islands[kept], shares[kept] / shares[kept].sum())
            bias += (1 - share) * (expected - without)
        factor = math.exp(quantile * left_out_error(distinct, islands) / expected)
        assert point.expected == pytest.approx(expected)
        assert point.lower == pytest.approx(expected / factor)
        upper = min((expected + max(bias, 0)) * factor, point.num_generated)
        assert point.upper == pytest.approx(upper)


def test_growth_has_no_bounds_from_two_islands_or_without_copies() -> None:
    for islands in (np.full((2, 3), 1e-3), np.zeros((5, 3)), np.zeros((5, 0))):
        (point,) = growth_curve(islands, [100], num_trajectories=10)
        assert (point.lower, point.upper) == (None, None)
        assert point.expected == pytest.approx(3 * (1 - 0.999**100) if islands.any() else 0)
    assert growth_curve(np.full((4, 2), 0.9), [1], num_trajectories=1)[0].expected == 1


# what the docstring of `growth_curve` says about 95 % bounds
@pytest.mark.parametrize(("level", "least"), [(0.3, 0.93), (1.0, 0.93), (3.0, 0.88)])
@pytest.mark.parametrize("num_islands", [4, 10, 20])
def test_growth_bounds_cover_as_documented(level: float, least: float, num_islands: int) -> None:
    rng = np.random.default_rng(9)
    rates = 10 ** rng.uniform(-8, -3, size=60)
    finding = 0.1 + 0.9 * (np.log10(rates) + 8) / 5  # rarer images are found by fewer islands
    sizes, runs = [100, 10**4, 10**6, 10**8], 300
    truth = expected_unique_from_rates(rates, sizes)
    covered = np.zeros((2, len(sizes)))
    for _ in range(runs):
        found = rng.random((num_islands, 60)) < finding
        noise = log_normal(rng, 60, np.full(num_islands, level)).T
        points = growth_curve(rates * noise * found / finding, sizes, num_trajectories=1000)
        for which, (point, true) in enumerate(zip(points, truth, strict=True)):
            assert point.lower is not None
            assert point.upper is not None
            covered[:, which] += point.lower <= true, point.upper >= true
    chance = 3 * math.sqrt(0.05 * 0.95 / runs)
    assert (covered[0] / runs >= 0.95 - chance).all()
    assert (covered[1] / runs >= least - chance).all()


def test_waiting_time_is_one_over_the_rate() -> None:
    rng = np.random.default_rng(1)
    assert expected_until_first(0) == math.inf
    assert expected_until_first(1) == 1
    assert expected_until_first(0.05) == pytest.approx(rng.geometric(0.05, 10**6).mean(), rel=0.01)


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: island_shares(0), "num_islands must be at least 1, got 0"),
        (lambda: combined([], num_trials=1), "an island"),
        (lambda: combined([-1e-9], num_trials=1), "at least 0"),
        (lambda: combined([math.nan], num_trials=1), "finite"),
        (lambda: combined([[0.1]], num_trials=1), "1 dimensions"),
        (lambda: combined([0.1], confidence=1, num_trials=1), "between 0 and 1, got 1"),
        (lambda: certain_lower([math.inf], confidence=0.9), "finite"),
        (lambda: certain_lower([1, 2], confidence=0.9, weights=[1]), "2 weights"),
        (lambda: certain_lower([1, 2], confidence=0.9, weights=[1, 0]), "above 0"),
        (lambda: expected_copies([1.1], [1]), "lie in"),
        (lambda: expected_copies([0.1], [0]), "sizes must be at least 1"),
        (lambda: growth_curve([[0.1]], [0], num_trajectories=1), "sizes must be at least 1"),
        (lambda: expected_until_first(-0.1), "got -0.1"),
    ],
)
def test_bad_arguments_are_refused(call: Callable[[], object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        call()
