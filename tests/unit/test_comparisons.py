"""Ratios of one attack against another, held against their definition and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats.contingency import relative_risk

from pytest_memscan.comparisons import ratio_of_distinct, ratio_of_proportions


@given(st.integers(1, 50), st.integers(1, 50), st.integers(50, 90), st.integers(50, 90))
def test_bounds_of_a_ratio_are_those_of_the_relative_risk(k: int, j: int, n: int, m: int) -> None:
    ours = ratio_of_proportions(k, n, j, m, confidence=0.975)
    theirs = relative_risk(k, n, j, m)
    interval = theirs.confidence_interval(0.95)
    assert ours.value == pytest.approx(theirs.relative_risk)
    assert ours.lower == pytest.approx(interval.low)
    assert ours.upper == pytest.approx(interval.high)


def test_a_ratio_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    ours, others = rng.binomial(400, 0.09, 2000), rng.binomial(400, 0.03, 2000)
    estimates = [
        ratio_of_proportions(k, 400, j, 400, confidence=0.95)
        for k, j in zip(ours.tolist(), others.tolist(), strict=True)
    ]
    assert np.mean([each.lower <= 3 for each in estimates]) > 0.93
    assert np.mean([each.upper >= 3 for each in estimates]) > 0.93


def test_ratios_without_a_success_are_told_apart() -> None:
    none = ratio_of_proportions(0, 100, 0, 100, confidence=0.95)
    only_ours = ratio_of_proportions(9, 100, 0, 100, confidence=0.95)
    only_theirs = ratio_of_proportions(0, 100, 9, 100, confidence=0.95)
    assert none.value == 1
    assert none.lower < 1 < none.upper
    assert only_ours.value == math.inf
    assert only_ours.lower > 1
    assert only_theirs.value == 0
    assert only_theirs.upper < 1


@pytest.mark.parametrize("counts", [(3, 2, 0, 5), (0, 0, 0, 5), (-1, 5, 0, 5)])
def test_impossible_counts_are_refused(counts: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="successes"):
        ratio_of_proportions(*counts, confidence=0.95)


def test_a_ratio_of_distinct_counts_is_that_of_the_sets() -> None:
    hits = [[1, 2], [], [2, 3], [4], [5], [6]]
    others = [[1], [1], [2], [1], [2], [2]]
    ratio = ratio_of_distinct(hits, others, confidence=0.95)
    assert ratio.value == 3
    assert ratio.lower < 3 < ratio.upper


def test_few_matches_bound_nothing() -> None:
    ratio = ratio_of_distinct([[1], [2], [3]], [[], [], []], confidence=0.95)
    assert ratio.value == math.inf
    assert (ratio.lower, ratio.upper) == (0, math.inf)


def test_distinct_counts_compare_only_among_equally_many() -> None:
    with pytest.raises(ValueError, match="equally many"):
        ratio_of_distinct([[1]], [[1], [2]], confidence=0.95)


def test_a_ratio_of_distinct_counts_covers_the_truth() -> None:
    """Two models whose training images come out with known chances."""
    rng = np.random.default_rng(1)
    rates, others = np.full(60, 0.004), np.full(20, 0.004)
    size, expected = 400, [60 * (1 - 0.996**400), 20 * (1 - 0.996**400)]
    truth = expected[0] / expected[1]
    covered = []
    for _ in range(25):
        drawn = [
            [np.flatnonzero(row).tolist() for row in rng.random((size, len(p))) < p]
            for p in (rates, others)
        ]
        ratio = ratio_of_distinct(drawn[0], drawn[1], confidence=0.95)
        covered.append((ratio.lower <= truth, ratio.upper >= truth))
    assert (np.mean(covered, axis=0) > 0.8).all()
