"""P-values against negatives: the formula, its calibration, and how far it can be off."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from pytest_memscan.tails import (
    FEWEST_NEGATIVES,
    prediction_limit,
    rank_p_values,
    tail_p_values,
)

Floats = NDArray[np.float64]


def in_range(hits: int, trials: int, probability: float) -> bool:
    low, high = stats.binom.interval(0.9999, trials, probability)
    return bool(low <= hits <= high)


def test_tail_p_values_follow_the_prediction_formula() -> None:
    negatives = np.exp(np.random.default_rng(0).normal(size=30))
    logs = np.log(negatives)
    values = np.array([0.01, 0.5, 1.0, 40.0])
    t = (np.log(values) - logs.mean()) / (logs.std(ddof=1) * np.sqrt(1 + 1 / 30))
    np.testing.assert_allclose(tail_p_values(values, negatives), stats.t.cdf(t, 29))
    np.testing.assert_allclose(tail_p_values(values, negatives, tail="upper"), stats.t.sf(t, 29))
    assert tail_p_values([0.0], negatives).tolist() == [0.0]


@settings(deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-6, 0.5), st.sampled_from(["lower", "upper"]))
def test_tails_do_not_depend_on_units_order_or_side(seed: int, alpha: float, tail: str) -> None:
    rng = np.random.default_rng(seed)
    negatives, values = np.exp(rng.normal(size=25)), np.exp(3 * rng.normal(size=9))
    p = tail_p_values(values, negatives, tail=tail)  # type: ignore[arg-type]
    other = "upper" if tail == "lower" else "lower"
    for same in (
        tail_p_values(7.5 * values, 7.5 * rng.permutation(negatives), tail=tail),  # type: ignore[arg-type]
        tail_p_values(1 / values, 1 / negatives, tail=other),  # type: ignore[arg-type]
        tail_p_values(np.sqrt(values), np.sqrt(negatives), tail=tail),  # type: ignore[arg-type]
    ):
        np.testing.assert_allclose(same, p, rtol=1e-6)
    limit = prediction_limit(negatives, alpha, tail=tail)  # type: ignore[arg-type]
    assert tail_p_values([limit], negatives, tail=tail)[0] == pytest.approx(alpha, rel=1e-6)  # type: ignore[arg-type]
    ranked = np.sign(np.diff(p[np.argsort(values)]))
    assert (ranked >= 0).all() if tail == "lower" else (ranked <= 0).all()


@pytest.mark.parametrize("number", [24, 40, 64])
@pytest.mark.parametrize("contaminated", [0.0, 0.05, 0.1])
def test_false_alarms_stay_at_alpha_even_with_memorised_negatives(
    number: int, contaminated: float
) -> None:
    """Normal logarithms; of the negatives, a share with values 100 times lower."""
    rng, scans = np.random.default_rng(number), 4_000
    alarms = dict.fromkeys((0.05, 0.01), 0)
    found = 0
    for _ in range(scans):
        negatives = np.exp(0.5 * rng.normal(size=number))
        negatives[: round(contaminated * number)] /= 100
        fresh = float(np.exp(0.5 * rng.normal()))
        clean, memorised = tail_p_values([fresh, fresh / 100], negatives)
        for alpha in alarms:
            alarms[alpha] += clean <= alpha
        found += memorised <= 0.001
    for alpha, count in alarms.items():
        assert in_range(count, scans, alpha)
    assert found >= 0.97 * scans


def test_without_setting_aside_memorised_negatives_would_hide_memorised_prompts() -> None:
    """Why outliers are set aside: the plain formula loses what it looks for."""
    rng = np.random.default_rng(0)
    negatives = np.exp(0.5 * rng.normal(size=40))
    negatives[:4] /= 100
    logs = np.log(negatives)
    t = (np.log(0.01) - logs.mean()) / (logs.std(ddof=1) * np.sqrt(1 + 1 / 40))
    assert stats.t.cdf(t, 39) > 0.001
    assert tail_p_values([0.01], negatives)[0] < 1e-8


@pytest.mark.parametrize(
    ("draw", "least", "most"),
    [
        (lambda rng, n: rng.standard_t(5, n), 1.3, 2.5),
        (lambda rng, n: rng.laplace(size=n), 1.7, 3.0),
        (lambda rng, n: -rng.gumbel(size=n), 2.5, 4.5),
        (lambda rng, n: rng.gumbel(size=n), 0.0, 0.2),
    ],
    ids=["t with 5", "laplace", "skewed low", "skewed high"],
)
def test_how_far_heavier_tails_are_off_is_as_documented(
    draw: Callable[[np.random.Generator, int], Floats], least: float, most: float
) -> None:
    """False alarms at alpha = 0.01, as a multiple of it."""
    rng = np.random.default_rng(0)
    rates = [
        (tail_p_values(np.exp(draw(rng, 100)), np.exp(draw(rng, 32))) <= 0.01).mean()
        for _ in range(1_500)
    ]
    assert least <= np.mean(rates) / 0.01 <= most


def test_a_negative_without_any_variance_is_set_aside() -> None:
    negatives = np.exp(np.random.default_rng(0).normal(size=30))
    with_zero = np.r_[negatives, 0.0]
    values = [0.01, 0.3]
    np.testing.assert_allclose(tail_p_values(values, with_zero), tail_p_values(values, negatives))


@given(st.lists(st.integers(0, 5), max_size=8), st.lists(st.integers(0, 5), max_size=8))
def test_rank_p_values_count_negatives_as_extreme(values: list[int], negatives: list[int]) -> None:
    lower = rank_p_values(values, negatives)
    upper = rank_p_values(values, negatives, tail="upper")
    for value, low, high in zip(values, lower, upper, strict=True):
        assert low == (1 + sum(each <= value for each in negatives)) / (1 + len(negatives))
        assert high == (1 + sum(each >= value for each in negatives)) / (1 + len(negatives))


def test_rank_p_values_hold_for_any_distribution() -> None:
    rng, scans = np.random.default_rng(0), 4_000
    alarms = sum(
        rank_p_values(rng.pareto(0.5, 1), rng.pareto(0.5, 39))[0] <= 0.05 for _ in range(scans)
    )
    assert in_range(alarms, scans, 0.05)


@pytest.mark.parametrize(
    "call",
    [
        lambda: tail_p_values([1.0], np.arange(1.0, FEWEST_NEGATIVES)),
        lambda: tail_p_values([1.0], np.ones(20)),
        lambda: tail_p_values([-1.0], np.arange(1.0, 20.0)),
        lambda: tail_p_values([1.0], [*np.arange(1.0, 20.0), np.nan]),
        lambda: tail_p_values([1.0], [0.0, *np.arange(1.0, 20.0)], tail="upper"),
        lambda: tail_p_values([1.0], np.arange(1.0, 20.0), tail="both"),  # type: ignore[arg-type]
        lambda: prediction_limit(np.arange(1.0, 20.0), 0.0),
    ],
)
def test_what_cannot_be_is_refused(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"need|must|negative"):
        call()
