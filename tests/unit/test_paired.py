"""Exact tests against enumeration of what could have happened."""

from __future__ import annotations

from itertools import combinations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pytest_memscan.paired import fewest_significant, higher_share, more_than_before


@pytest.mark.parametrize("number", range(9))
def test_new_against_gone_by_enumeration(number: int) -> None:
    patterns = list(product((0, 1), repeat=number))  # each change is new or gone, alike likely
    for new in range(number + 1):
        as_many = sum(sum(pattern) >= new for pattern in patterns)
        expected = as_many / len(patterns)
        assert more_than_before(new, number - new) == pytest.approx(expected, rel=1e-12)


def test_by_hand() -> None:
    assert more_than_before(4, 0) == pytest.approx(1 / 16)
    assert more_than_before(4, 1) == pytest.approx((1 + 5) / 32)
    assert more_than_before(0, 7) == 1


@pytest.mark.parametrize("mean", [0.3, 4.0])
def test_two_poisson_counts_given_their_sum(mean: float) -> None:
    for total in range(1, 12):
        weights = [
            stats.poisson.pmf(now, mean) * stats.poisson.pmf(total - now, mean)
            for now in range(total + 1)
        ]
        for now in range(total + 1):
            expected = sum(weights[now:]) / sum(weights)
            assert more_than_before(now, total - now) == pytest.approx(expected)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 100_000), st.integers(0, 100_000))
def test_large_numbers_as_scipy(now: int, before: int) -> None:
    expected = stats.binom.sf(now - 1, now + before, 0.5)
    assert more_than_before(now, before) == pytest.approx(expected, rel=1e-6, abs=1e-300)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_shares_by_enumeration(data: st.DataObject) -> None:
    trials, trials_before = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))
    successes = data.draw(st.integers(0, trials))
    before = data.draw(st.integers(0, trials_before))
    ways = list(combinations(range(trials + trials_before), successes + before))
    as_many = sum(sum(place < trials for place in way) >= successes for way in ways)
    assert higher_share(successes, trials, before, trials_before) == pytest.approx(
        as_many / len(ways)
    )


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_shares_as_scipy(data: st.DataObject) -> None:
    trials, trials_before = data.draw(st.integers(1, 5000)), data.draw(st.integers(1, 5000))
    successes = data.draw(st.integers(0, trials))
    before = data.draw(st.integers(0, trials_before))
    table = [[successes, trials - successes], [before, trials_before - before]]
    expected = stats.fisher_exact(table, alternative="greater").pvalue
    found = higher_share(successes, trials, before, trials_before)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_a_small_chance_is_not_lost_in_rounding() -> None:
    assert higher_share(200, 3200, 0, 3200) == pytest.approx(
        stats.hypergeom.sf(199, 6400, 200, 3200), rel=1e-6
    )


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_shares_are_called_higher_no_more_often_than_said(share: float) -> None:
    trials, trials_before = 25, 18
    for level in (0.01, 0.05, 0.2):
        called = sum(
            stats.binom.pmf(now, trials, share) * stats.binom.pmf(before, trials_before, share)
            for now in range(trials + 1)
            for before in range(trials_before + 1)
            if higher_share(now, trials, before, trials_before) <= level
        )
        assert called <= level


@settings(deadline=None)
@given(st.integers(0, 60), st.floats(0.0001, 0.4))
def test_the_fewest_is_the_first_of_all(before: int, level: float) -> None:
    def p_value(now: int) -> float:
        return more_than_before(now, before)

    expected = next((now for now in range(151) if p_value(now) <= level), None)
    assert fewest_significant(p_value, level=level, most=150) == expected


def test_none_is_said_where_nothing_is_enough() -> None:
    assert fewest_significant(lambda now: higher_share(now, 2, 0, 2), level=0.05, most=2) is None


@pytest.mark.parametrize("numbers", [(-1, 0), (0, -1)])
def test_negative_numbers_are_refused(numbers: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least 0"):
        more_than_before(*numbers)


@pytest.mark.parametrize("numbers", [(1, 0, 0, 1), (3, 2, 0, 1), (0, 1, -1, 1), (0, 1, 2, 1)])
def test_shares_of_nothing_are_refused(numbers: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="successes of"):
        higher_share(*numbers)
