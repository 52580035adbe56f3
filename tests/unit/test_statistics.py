"""Bounds, sample sizes and tails against their definitions, tables and simulation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from pytest_memscan.statistics import (
    distinct_count,
    excluded_rate,
    power_law_tail,
    proportion,
    required_trials,
    trials_to_settle,
)

Floats = NDArray[np.float64]

# Trials needed to claim "rate < limit" at 95 %, exact, with so many hits.
HITS = (0, 1, 2, 3, 5)
NEEDED = {
    0.05: (59, 93, 124, 153, 208),
    0.01: (299, 473, 628, 773, 1049),
    0.005: (598, 947, 1258, 1549, 2100),
    0.001: (2995, 4742, 6294, 7752, 10511),
    0.0005: (5990, 9486, 12590, 15505, 21024),
    0.0001: (29956, 47437, 62956, 77535, 105128),
}


@pytest.mark.parametrize(
    ("limit", "hits", "needed"),
    [(p, k, n) for p, row in NEEDED.items() for k, n in zip(HITS, row, strict=True)],
)
def test_upper_bound_reaches_the_limit_at_the_tabulated_trials(
    limit: float, hits: int, needed: int
) -> None:
    assert proportion(hits, needed).upper <= limit < proportion(hits, needed - 1).upper
    if hits == 0:
        assert required_trials(limit) == needed


def test_required_trials_at_99_percent_confidence() -> None:
    needed = [required_trials(limit, confidence=0.99) for limit in NEEDED]
    assert needed == [90, 459, 919, 4603, 9209, 46050]


@pytest.mark.parametrize(
    ("limit", "trials", "most_to_pass", "fewest_to_fail"),
    [(0.01, 300, 0, 7), (0.01, 1000, 4, 16), (0.01, 3000, 20, 40), (0.001, 50000, 38, 63)],
)
def test_three_zones_of_a_limit(
    limit: float, trials: int, most_to_pass: int, fewest_to_fail: int
) -> None:
    assert (
        proportion(most_to_pass, trials).upper < limit < proportion(most_to_pass + 1, trials).upper
    )
    assert (
        proportion(fewest_to_fail - 1, trials).lower
        < limit
        < proportion(fewest_to_fail, trials).lower
    )


@given(st.integers(1, 500), st.data(), st.floats(0.5, 0.999))
def test_bounds_are_where_the_binomial_tail_reaches_the_error(
    trials: int, data: st.DataObject, confidence: float
) -> None:
    successes = data.draw(st.integers(0, trials))
    estimate = proportion(successes, trials, confidence=confidence)
    assert 0 <= estimate.lower <= estimate.value <= estimate.upper <= 1
    if successes < trials:
        tail = stats.binom.cdf(successes, trials, estimate.upper)
        assert tail == pytest.approx(1 - confidence, rel=1e-6)
    if successes > 0:
        tail = stats.binom.sf(successes - 1, trials, estimate.lower)
        assert tail == pytest.approx(1 - confidence, rel=1e-6)


@pytest.mark.parametrize("trials", [20, 300, 3000])
@pytest.mark.parametrize("rate", [0.0005, 0.01, 0.2, 0.9])
def test_proportion_covers_at_least_nominally(rate: float, trials: int) -> None:
    """Exact, by summing the binomial over every outcome."""
    outcomes = np.arange(trials + 1)
    chance = stats.binom.pmf(outcomes, trials, rate)
    bounds = [proportion(int(k), trials) for k in outcomes]
    assert chance[[b.upper >= rate for b in bounds]].sum() >= 0.95
    assert chance[[b.lower <= rate for b in bounds]].sum() >= 0.95


@given(st.floats(1e-4, 0.99), st.floats(0.5, 0.999))
def test_required_trials_is_minimal(limit: float, confidence: float) -> None:
    needed = required_trials(limit, confidence=confidence)
    assert proportion(0, needed, confidence=confidence).upper <= limit
    assert needed == 1 or proportion(0, needed - 1, confidence=confidence).upper > limit


@given(st.integers(1, 10**6), st.floats(0.5, 0.999))
def test_excluded_rate_is_the_upper_bound_of_no_hit(trials: int, confidence: float) -> None:
    rate = excluded_rate(trials, confidence=confidence)
    assert rate == pytest.approx(proportion(0, trials, confidence=confidence).upper, rel=1e-9)
    assert rate == pytest.approx(1 - (1 - confidence) ** (1 / trials), rel=1e-6)


@pytest.mark.parametrize("limit", [0.01, 0.03, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("factor", [0.0, 0.1, 0.3, 0.5, 0.7, 1.4, 2.0, 5.0, 30.0])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_trials_to_settle_is_the_first_of_a_plain_search(
    limit: float, factor: float, confidence: float
) -> None:
    rate = min(limit * factor, 1.0)

    def settled(trials: int) -> bool:
        estimate = proportion(round(rate * trials), trials, confidence=confidence)
        return estimate.upper <= limit if rate < limit else estimate.lower > limit

    first = next((n for n in range(1, 4000) if settled(n)), None)
    assert trials_to_settle(rate, limit, confidence=confidence, maximum=3999) == first


def test_trials_to_settle_gives_up_at_the_limit_itself_and_at_the_maximum() -> None:
    assert trials_to_settle(0.01, 0.01) is None
    assert trials_to_settle(float(np.nextafter(0.3, 1)), 0.3) is None
    assert trials_to_settle(0.0099, 0.01, maximum=10_000) is None
    far = trials_to_settle(0.0099, 0.01)
    assert far is not None
    assert 10**6 < far < 10**7


def _occupancy_coverage(
    rates: Floats, group_sizes: NDArray[np.int64], *, trials: int, most_per_image: int
) -> tuple[float, float]:
    """Share of scans whose lower and upper bound hold for the exact mean of distinct images.

    An image matches one group of training images at most, and then all of its members.
    """
    rng, runs = np.random.default_rng(0), 2000
    truth = ((1 - (1 - rates) ** trials) * group_sizes).sum() / trials
    outcomes = rng.multinomial(trials, [*rates, 1 - rates.sum()], size=runs)[:, :-1]
    distinct, repeats = np.unique((outcomes > 0) @ group_sizes, return_counts=True)
    bounds = [distinct_count(int(d), trials, most_per_image=most_per_image) for d in distinct]
    below = sum(n for b, n in zip(bounds, repeats, strict=True) if b.lower <= truth)
    above = sum(n for b, n in zip(bounds, repeats, strict=True) if b.upper >= truth)
    return below / runs, above / runs


def _zipf(size: int, mass: float, power: float) -> Floats:
    weights = 1 / np.arange(1, size + 1) ** power
    return mass * weights / weights.sum()


NOISE = 0.015  # 3 standard errors of a share of 0.95 over 2000 simulated scans
OCCUPANCY = {
    "uniform": np.full(500, 0.1 / 500),
    "few very probable ids": np.full(5, 0.9 / 5),
    "few probable ids and a tail": np.r_[np.full(3, 0.2), np.full(400, 0.2 / 400)],
    "heavy tail": _zipf(400, 0.3, 1.0),
    "heavier tail": _zipf(400, 0.05, 2.0),
    "rare": np.full(300, 0.004 / 300),
}


@pytest.mark.parametrize("name", OCCUPANCY)
@pytest.mark.parametrize("trials", [100, 1000])
def test_distinct_count_covers_with_one_match_per_image(name: str, trials: int) -> None:
    rates = OCCUPANCY[name]
    below, above = _occupancy_coverage(
        rates, np.ones(len(rates), dtype=int), trials=trials, most_per_image=1
    )
    assert min(below, above) >= 0.95 - NOISE


@pytest.mark.parametrize("mass", [0.005, 0.05, 0.4])
def test_distinct_count_covers_groups_up_to_the_stated_size(mass: float) -> None:
    group_sizes = np.r_[np.full(200, 1), np.full(20, 10)]
    rates = np.full(220, mass / 220)
    below, above = _occupancy_coverage(rates, group_sizes, trials=500, most_per_image=10)
    assert min(below, above) >= 0.95 - NOISE


def test_distinct_count_needs_the_size_of_the_groups() -> None:
    """The simulation can fail: the same scans, taken as one match per image, do not hold."""
    below, above = _occupancy_coverage(
        np.full(100, 0.03 / 100), np.full(100, 10), trials=1000, most_per_image=1
    )
    assert max(below, above) < 0.8


def test_distinct_count_above_the_trials_has_poisson_bounds() -> None:
    estimate = distinct_count(30, 10)
    assert estimate.value == 3.0
    assert stats.poisson.sf(29, estimate.lower * 10) == pytest.approx(0.05)
    assert stats.poisson.cdf(30, estimate.upper * 10) == pytest.approx(0.05)


def test_distinct_count_of_single_matches_is_a_proportion() -> None:
    assert distinct_count(3, 1000) == proportion(3, 1000)


@pytest.mark.parametrize("tail_size", [10, 40])
@pytest.mark.parametrize("exponent", [3.0, 30.0])
def test_exponent_and_extrapolation_hold_for_true_power_laws(
    exponent: float, tail_size: int
) -> None:
    """400 distances from the centre of a ball, uniform in ``exponent`` dimensions."""
    rng = np.random.default_rng(1)
    fits = [
        power_law_tail(rng.random(400) ** (1 / exponent), tail_size=tail_size) for _ in range(2000)
    ]
    assert np.mean([f.exponent_lower <= exponent for f in fits]) == pytest.approx(0.95, abs=NOISE)
    assert np.mean([f.exponent for f in fits]) == pytest.approx(exponent, rel=0.03)
    truth = 1e-4 ** (1 / exponent)
    assert np.mean([f.quantile(1e-4) <= truth for f in fits]) >= 0.945 - NOISE


def test_extrapolation_is_careful_for_gaussian_neighbours_in_30_dimensions() -> None:
    """Nearest of 1000 independent Gaussian points: the tail steepens towards zero."""
    rng = np.random.default_rng(2)

    def distance(probability: Floats | float) -> Floats:  # exact quantile function
        return np.sqrt(stats.chi2.ppf(-np.expm1(np.log1p(-probability) / 1000), 30))

    fits = [power_law_tail(distance(rng.random(400)), tail_size=40) for _ in range(500)]
    cuts = np.array([fit.quantile(1e-4) for fit in fits])
    assert np.mean(cuts <= distance(1e-4)) >= 0.97
    assert 0.8 < np.median(cuts) / distance(1e-4) < 0.95  # careful, not useless


@settings(deadline=None)  # 200 calls an example
@given(st.integers(0, 2**32 - 1), st.integers(2, 30), st.integers(60, 300))
def test_quantile_rises_and_probability_inverts_it(seed: int, tail_size: int, size: int) -> None:
    values = np.random.default_rng(seed).gamma(9.0, size=size)
    tail = power_law_tail(values, tail_size=tail_size)
    probabilities = np.r_[np.geomspace(1e-9, 1, 200), tail.tail_share]
    probabilities.sort()
    quantiles = np.array([tail.quantile(p) for p in probabilities])
    assert (np.diff(quantiles) > 0).all()
    assert quantiles[-1] == values.max()
    inverted = [tail.probability(q) for q in quantiles]
    assert inverted == pytest.approx(probabilities.tolist(), rel=1e-9)


def test_tail_joins_the_observed_values_at_the_threshold() -> None:
    values = np.arange(1.0, 101.0)
    tail = power_law_tail(values[::-1], tail_size=10)
    assert (tail.threshold, tail.tail_share, tail.num_values) == (11.0, 0.1, 100)
    assert tail.quantile(0.1) == pytest.approx(11.0)
    assert tail.quantile(0.1 - 1e-12) == pytest.approx(11.0)
    assert tail.probability(11.0) == pytest.approx(0.1)
    assert tail.exponent == pytest.approx(9 / np.log(11 / values[:10]).sum())
    log_sum = np.log(11 / values[:10]).sum()
    assert tail.exponent_lower == pytest.approx(stats.chi2.ppf(0.05, 20) / (2 * log_sum))
    assert (tail.probability(0.0), tail.probability(1e9)) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: proportion(0, 0), "trials must be at least 1, got 0"),
        (lambda: proportion(4, 3), r"successes must lie in \[0, 3\].* got 4"),
        (lambda: proportion(1, 3, confidence=1.0), "confidence .* got 1.0"),
        (lambda: distinct_count(-1, 3), "distinct >= 0.* got -1"),
        (lambda: distinct_count(1, 3, most_per_image=0), "most_per_image >= 1.* and 0"),
        (lambda: required_trials(0.0), "limit .* got 0.0"),
        (lambda: trials_to_settle(1.5, 0.1), "observed_rate .* got 1.5"),
        (lambda: power_law_tail([1.0, 2.0, 3.0], tail_size=2), "tail_size .* got 2"),
        (lambda: power_law_tail(np.ones((9, 9)), tail_size=2), r"got 2 for \(9, 9\)"),
        (lambda: power_law_tail(np.ones(9), tail_size=2), "all equal 1.0"),
        (lambda: power_law_tail([0.0, *range(1, 9)], tail_size=2), "positive.* duplicate"),
        (lambda: power_law_tail([np.nan, *range(1, 9)], tail_size=2), "finite"),
        (lambda: power_law_tail(range(1, 9), tail_size=2).quantile(0), "probability .* got 0"),
        (lambda: power_law_tail(range(1, 9), tail_size=2).probability(-1), "value .* got -1"),
    ],
)
def test_mistakes_are_named(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
