"""Curves of distinct training images against enumeration, published formulas and simulation."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pytest_memscan.rarefaction import (
    expected_unique,
    expected_unique_from_rates,
    good_turing_unseen,
)

Scan = list[list[int]]  # for each generated image, ids of the training images it matches

scans = st.lists(st.lists(st.integers(0, 12), max_size=3), min_size=1, max_size=40)


def _draw(rates: NDArray[np.float64], trials: int, *, seed: int, group_size: int = 1) -> Scan:
    """Images that match one group of training images at most, and then all of its members."""
    rng = np.random.default_rng(seed)
    groups = rng.choice(len(rates) + 1, p=[*rates, 1 - rates.sum()], size=trials)
    members = range(group_size)
    return [[int(g) * group_size + m for m in members] if g < len(rates) else [] for g in groups]


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 5), max_size=3), min_size=1, max_size=8))
def test_rarefaction_is_the_mean_over_all_subsets(scan: Scan) -> None:
    sizes = range(1, len(scan) + 1)
    for point in expected_unique(scan, sizes, draws=2):
        subsets = itertools.combinations(scan, point.num_generated)
        counts = [len({train_id for ids in subset for train_id in ids}) for subset in subsets]
        assert point.expected == pytest.approx(np.mean(counts), abs=1e-9)
        assert not point.extrapolated


@settings(max_examples=50, deadline=None)
@given(scans)
def test_curve_rises_through_the_observed_count_and_its_bounds_contain_it(scan: Scan) -> None:
    observed = len({train_id for ids in scan for train_id in ids})
    sizes = [*range(1, len(scan) + 1), 2 * len(scan), 10 * len(scan)]
    points = expected_unique(scan, sizes, draws=20)
    expected = np.array([point.expected for point in points])
    assert expected[len(scan) - 1] == pytest.approx(observed)
    assert (np.diff(expected) >= -1e-9).all()
    for point in points:
        assert point.extrapolated == (point.num_generated > len(scan))
        if point.lower is not None and point.upper is not None:
            assert 0 < point.lower <= point.expected <= point.upper


@settings(deadline=None)
@given(scans, st.randoms(use_true_random=False))
def test_expected_curve_ignores_the_order_of_images(scan: Scan, random: object) -> None:
    sizes = [1, len(scan), 3 * len(scan)]
    expected = [p.expected for p in expected_unique(scan, sizes, draws=2)]
    random.shuffle(scan)  # type: ignore[attr-defined]
    assert expected == pytest.approx([p.expected for p in expected_unique(scan, sizes, draws=2)])


def test_extrapolation_follows_the_printed_formula() -> None:
    """Four ids once, two ids twice, one id five times, in 20 images; eq. 18 by hand."""
    scan = [[1], [2], [3], [4], [5], [5], [6], [6], [7], [7], [7], [7], [7], *[[]] * 7]
    unseen = 19 / 20 * 4**2 / (2 * 2)
    by_hand = 7 + unseen * (1 - (1 - 4 / (20 * unseen + 4)) ** 30)
    assert expected_unique(scan, [50])[0].expected == pytest.approx(by_hand)


def test_nothing_unseen_when_every_id_was_seen_often() -> None:
    scan = [[1, 2], [1, 2], [1, 2], [1, 2]]
    assert [p.expected for p in expected_unique(scan, [4, 400])] == [2.0, 2.0]


def test_fewer_than_five_hits_have_no_bounds() -> None:
    few = expected_unique([[1], [2], [3, 4], *[[]] * 96], [50, 200])
    assert [(p.lower, p.upper) for p in few] == [(None, None), (None, None)]
    enough = expected_unique([[1], [2], [3, 4], [1], *[[]] * 95], [50, 200])
    assert all(p.lower is not None for p in enough)


def test_no_hit_at_all_is_a_flat_curve() -> None:
    assert [p.expected for p in expected_unique([[], [], []], [1, 3, 9])] == [0.0, 0.0, 0.0]


def test_an_id_twice_in_one_image_counts_once() -> None:
    assert expected_unique([[3, 3], []], [1], draws=2) == expected_unique([[3], []], [1], draws=2)


def test_same_seed_same_curve() -> None:
    scan = _draw(np.full(50, 0.004), 200, seed=0)
    assert expected_unique(scan, [100], seed=4) == expected_unique(scan, [100], seed=4)
    assert expected_unique(scan, [100], seed=4) != expected_unique(scan, [100], seed=5)


@pytest.mark.parametrize("group_size", [1, 4])
def test_bounds_hold_about_as_often_as_stated_within_the_sample(group_size: int) -> None:
    """Nominal 0.95; at least 0.88 promised, less 3 standard errors (0.02) of 250 scans."""
    rates = 0.2 / np.arange(1, 201) ** 1.0
    rates *= 0.2 / rates.sum()
    sizes = [100, 200, 400]
    truth = group_size * expected_unique_from_rates(rates, sizes)
    below, above, mean = np.zeros(3), np.zeros(3), np.zeros(3)
    for seed in range(250):
        scan = _draw(rates, 400, seed=seed, group_size=group_size)
        for i, point in enumerate(expected_unique(scan, sizes, draws=50, seed=seed)):
            assert point.lower is not None
            assert point.upper is not None
            below[i] += point.lower <= truth[i]
            above[i] += point.upper >= truth[i]
            mean[i] += point.expected
    assert min(*(below / 250), *(above / 250)) >= 0.88 - 0.06
    assert mean / 250 == pytest.approx(truth, rel=0.02)  # unbiased within the sample


def test_extrapolation_to_twice_the_sample_is_close_and_not_above() -> None:
    rates = np.full(200, 0.1 / 200)
    truth = expected_unique_from_rates(rates, [2000])[0]
    points = [
        expected_unique(_draw(rates, 1000, seed=s), [2000], draws=2)[0].expected for s in range(200)
    ]
    assert np.mean(points) == pytest.approx(truth, rel=0.03)


def test_expected_unique_from_rates_is_the_printed_sum() -> None:
    rates = [0.0, 0.2, 1.0]
    by_hand = [sum(1 - (1 - p) ** n for p in rates) for n in (1, 3)]
    assert expected_unique_from_rates(rates, [1, 3]) == pytest.approx(by_hand)


def test_good_turing_is_the_unseen_mass_on_average() -> None:
    """1000 scans of 500 images; 4 standard errors of the mean are about 4 %."""
    rates = 0.3 / 300 / np.linspace(0.2, 5, 300)
    counts = np.random.default_rng(3).multinomial(500, [*rates, 1 - rates.sum()], size=1000)
    unseen = ((counts[:, :-1] == 0) * rates).sum(axis=1).mean()
    estimates = [good_turing_unseen(row[:-1], 500) for row in counts]
    assert np.mean(estimates) == pytest.approx(unseen, rel=0.04)
    assert good_turing_unseen([], 10) == 0.0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: expected_unique([], [1]), "at least 1 generated image.* got 0"),
        (lambda: expected_unique([[1]], [0]), r"sizes >= 1.*\[0\]"),
        (lambda: expected_unique([[1]], [1], draws=1), "draws >= 2.* 1 and"),
        (lambda: expected_unique([[1]], [1], confidence=1.5), "confidence.* 1.5"),
        (lambda: good_turing_unseen([1], 0), "trials = 0"),
        (lambda: good_turing_unseen([-1], 4), r"\[0, trials\]"),
        (lambda: good_turing_unseen([5], 4), "trials = 4"),
    ],
)
def test_mistakes_are_named(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
