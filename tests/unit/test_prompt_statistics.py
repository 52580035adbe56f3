"""Audits, corrections and tails: by their definitions, enumeration and simulation."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from pytest_memscan.prompt_statistics import (
    audit_size,
    bootstrap,
    holm,
    leak_rate,
    missed_share,
)
from pytest_memscan.statistics import proportion, required_trials

Floats = NDArray[np.float64]


def in_range(hits: int, trials: int, probability: float) -> bool:
    low, high = stats.binom.interval(0.9999, trials, probability)
    return bool(low <= hits <= high)


@settings(deadline=None)
@given(st.integers(1, 2000), st.floats(0.001, 0.9), st.sampled_from([0.8, 0.95, 0.99]))
def test_the_audit_size_is_the_smallest_that_bounds_the_share(
    population: int, limit: float, confidence: float
) -> None:
    size = audit_size(population, limit, confidence=confidence)
    assert missed_share(population, size, 0, confidence=confidence).upper <= limit
    assert missed_share(population, size - 1, 0, confidence=confidence).upper > limit


def test_the_audit_size_of_a_long_list_is_that_of_independent_trials() -> None:
    for limit in (0.01, 0.05, 0.001):
        assert audit_size(10**9, limit) == required_trials(limit)
    assert audit_size(0, 0.05) == 0
    assert audit_size(10, 0.05) == 10  # one prompt would already be too many


def test_the_audit_size_allows_a_share_that_equals_the_limit() -> None:
    """0.29 * 100 is a little below 29, and 29 of 100 are a share of 0.29 all the same."""
    for population, allowed in ((100, 29), (100, 57), (200, 58), (1000, 1), (1000, 3)):
        unseen = stats.hypergeom.pmf(0, population, allowed + 1, np.arange(population + 1))
        assert audit_size(population, allowed / population) == np.flatnonzero(unseen <= 0.05)[0]


@settings(deadline=None)
@given(st.integers(1, 60), st.data(), st.sampled_from([0.8, 0.95, 0.99]))
def test_the_missed_share_excludes_what_is_improbable_and_nothing_else(
    population: int, data: st.DataObject, confidence: float
) -> None:
    audited = data.draw(st.integers(0, population))
    missed = data.draw(st.integers(0, audited))
    share = missed_share(population, audited, missed, confidence=confidence)
    memorised = np.arange(missed, population - (audited - missed) + 1)
    so_few = stats.hypergeom.cdf(missed, population, memorised, audited)
    so_many = stats.hypergeom.sf(missed - 1, population, memorised, audited)
    error = 1 - confidence
    assume(np.abs(np.r_[so_few, so_many] - error).min() > 1e-9)  # where rounding decides
    assert share.upper == memorised[so_few > error].max() / population
    assert share.lower == memorised[so_many > error].min() / population
    assert share.lower <= share.upper
    if audited:
        assert share.value == float(np.clip(missed / audited, share.lower, share.upper))


@pytest.mark.parametrize(("population", "audited"), [(200, 20), (200, 150), (37, 37), (5000, 60)])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.6, 1.0])
def test_the_missed_share_covers_at_least_nominally(
    population: int, audited: int, share: float
) -> None:
    """Exact, by summing over every outcome."""
    memorised = round(share * population)
    outcomes = np.arange(audited + 1)
    chance = stats.hypergeom.pmf(outcomes, population, memorised, audited)
    possible = chance > 0
    bounds = [missed_share(population, audited, int(k)) for k in outcomes[possible]]
    truth = memorised / population
    assert chance[possible] @ [b.upper >= truth for b in bounds] >= 0.95
    assert chance[possible] @ [b.lower <= truth for b in bounds] >= 0.95


def test_the_missed_share_of_special_audits() -> None:
    full = missed_share(40, 40, 3)
    assert full.lower == full.value == full.upper == 3 / 40
    nobody = missed_share(40, 0, 0)
    assert (nobody.lower, nobody.upper, nobody.num_trials) == (0, 1, 0)
    nothing = missed_share(0, 0, 0)
    assert (nothing.lower, nothing.value, nothing.upper) == (0, 0, 0)
    nearly = missed_share(100, 99, 1)  # a second one would be the one left out: 2 / 100
    assert nearly.lower == nearly.value == nearly.upper == 1 / 100
    far, plain = missed_share(10**8, 300, 4), proportion(4, 300)
    assert far.upper == pytest.approx(plain.upper, rel=1e-4)
    assert far.lower == pytest.approx(plain.lower, rel=1e-4)
    assert missed_share(400, 300, 4).upper < plain.upper


def test_leak_rate_covers_in_simulated_scans() -> None:
    """3000 prompts, 80 memorised, of which a detector escalates most; the rest is audited."""
    rng = np.random.default_rng(0)
    scans, below, above = 1_000, 0, 0
    memorised = np.arange(3000) < 80
    for _ in range(scans):
        escalated = rng.random(3000) < np.where(memorised, 0.8, 0.03)
        screened_out = np.flatnonzero(~escalated)
        audit = rng.choice(screened_out, 150, replace=False)
        rate = leak_rate(
            3000,
            int((memorised & escalated).sum()),
            screened_out=len(screened_out),
            audited=150,
            missed=int(memorised[audit].sum()),
        )
        below += rate.lower <= 80 / 3000
        above += rate.upper >= 80 / 3000
    assert min(below, above) >= stats.binom.ppf(1e-4, scans, 0.95)


def test_leak_rate_adds_what_the_audit_says_of_the_rest() -> None:
    rate = leak_rate(1000, 50, screened_out=800, audited=100, missed=2)
    share = missed_share(800, 100, 2)
    assert rate.value == pytest.approx((50 + 800 * 0.02) / 1000)
    assert rate.upper == pytest.approx((50 + 800 * share.upper) / 1000)
    assert rate.lower == pytest.approx((50 + 800 * share.lower) / 1000)
    assert rate.num_trials == 300
    everyone = leak_rate(1000, 50, screened_out=0, audited=0, missed=0)
    assert everyone.lower == everyone.value == everyone.upper == 0.05
    unaudited = leak_rate(1000, 50, screened_out=800, audited=0, missed=0)
    assert (unaudited.lower, unaudited.upper) == (0.05, 0.85)


@pytest.mark.parametrize(
    "call",
    [
        lambda: missed_share(10, 11, 0),
        lambda: missed_share(10, 5, 6),
        lambda: missed_share(10, 5, -1),
        lambda: missed_share(10, 5, 0, confidence=1.0),
        lambda: audit_size(10, 0.0),
        lambda: leak_rate(10, 6, screened_out=5, audited=0, missed=0),
        lambda: leak_rate(0, 0, screened_out=0, audited=0, missed=0),
        lambda: leak_rate(5, 0, screened_out=-1, audited=0, missed=0),
        lambda: bootstrap([], np.mean, seed=0),
        lambda: bootstrap([1.0], np.mean, seed=0, resamples=0),
        lambda: holm([0.1, 1.1], 0.05),
        lambda: holm([0.1, np.nan], 0.05),
        lambda: holm([0.1], 0.0),
    ],
)
def test_what_cannot_be_is_refused(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"need|must"):
        call()


def test_bootstrap_is_close_to_the_normal_interval_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(size=400)
    estimate = bootstrap(values, np.mean, seed=1)
    error = 1.6449 * values.std() / np.sqrt(400)
    assert estimate.value == values.mean()
    assert estimate.upper - estimate.value == pytest.approx(error, rel=0.1)
    assert estimate.value - estimate.lower == pytest.approx(error, rel=0.1)
    assert estimate == bootstrap(values, np.mean, seed=1)
    assert estimate != bootstrap(values, np.mean, seed=2)


def test_bootstrap_draws_prompts_and_not_images() -> None:
    """Images of a prompt agree: 50 prompts of 20 equal images are 50 values, not 1000."""
    per_prompt = np.random.default_rng(0).normal(size=50)
    rows = np.repeat(per_prompt[:, None], 20, axis=1)
    by_prompt = bootstrap(rows, np.mean, seed=0)
    by_image = bootstrap(rows.ravel(), np.mean, seed=0)
    assert by_prompt.upper == pytest.approx(bootstrap(per_prompt, np.mean, seed=0).upper)
    assert by_prompt.upper - by_prompt.lower > 3 * (by_image.upper - by_image.lower)


def test_bootstrap_covers_as_documented_with_200_prompts() -> None:
    """Of the mean of skewed values: the upper bound holds in 93 %, the lower in 96 %."""
    rng, scans = np.random.default_rng(2), 250
    bounds = [
        bootstrap(rng.exponential(size=200), np.mean, seed=scan, resamples=300)
        for scan in range(scans)
    ]
    assert in_range(sum(each.lower <= 1 for each in bounds), scans, 0.96)
    assert in_range(sum(each.upper >= 1 for each in bounds), scans, 0.93)


@given(
    st.lists(
        st.sampled_from([0.0, 0.005, 0.01, 0.0125, 0.02, 0.025, 0.04, 0.05, 0.3, 1.0]),
        min_size=0,
        max_size=6,
    )
)
def test_holm_is_the_closed_test_of_bonferroni(p_values: list[float]) -> None:
    """A hypothesis falls if Bonferroni rejects every set of hypotheses that it belongs to."""
    everyone = range(len(p_values))
    expected = [
        all(
            min(p_values[each] for each in group) <= 0.05 / size
            for size in range(1, len(p_values) + 1)
            for group in combinations(everyone, size)
            if one in group
        )
        for one in everyone
    ]
    assert holm(p_values, 0.05).tolist() == expected


def test_holm_keeps_the_chance_of_any_false_alarm() -> None:
    rng, scans = np.random.default_rng(0), 4_000
    alarms = sum(bool(holm(rng.random(20), 0.05).any()) for _ in range(scans))
    assert in_range(alarms, scans, 1 - (1 - 0.05 / 20) ** 20)
