"""AS and A-ESR from their definitions, and bounds against closed forms and SciPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from pytest_memscan.extraction_metrics import (
    average_similarity,
    best_matches,
    extraction_success_rate,
    over_concepts,
    over_train_images,
    paired_difference,
)
from pytest_memscan.statistics import proportion

shapes = st.tuples(st.integers(1, 6), st.integers(1, 6))
similarities = hnp.arrays(np.float64, shapes, elements=st.sampled_from([-1, -0.5, 0, 0.6, 0.7, 1]))
scores = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@given(similarities)
def test_scores_follow_their_definitions(similarity: Any) -> None:
    values, ids = best_matches(similarity)
    for row, value, best in zip(similarity.tolist(), values, ids, strict=True):
        assert value == max(row)
        assert best == row.index(max(row))
    assert average_similarity(values) == pytest.approx(sum(map(max, similarity)) / len(similarity))
    for threshold in (0.6, 0.7):
        above = sum(max(row) > threshold for row in similarity.tolist())
        assert extraction_success_rate(values, threshold) == above / len(similarity)


def test_a_hand_worked_table() -> None:
    similarity = np.array([[0.2, 0.9, 0.1], [0.7, 0.3, 0.7], [0.65, 0.1, 0.2], [0.1, 0.2, 0.3]])
    values, ids = best_matches(similarity)
    assert values.tolist() == [0.9, 0.7, 0.65, 0.3]
    assert ids.tolist() == [1, 0, 0, 2]
    table = over_train_images(values)
    assert table.average_similarity.value == pytest.approx(0.6375)
    assert table.esr_strict == proportion(1, 4)  # 0.7 is not above 0.7
    assert table.esr_loose == proportion(3, 4)


def test_float32_cosines_may_exceed_one_and_equal_a_threshold() -> None:
    similarity = np.array([[0.2, 1.0000002], [0.7, 0.1]], dtype=np.float32)
    values, _ = best_matches(similarity)
    assert values[0] == 1.0
    assert extraction_success_rate(values, 0.7) == 0.5
    assert average_similarity([1.0000002]) == 1.0


def test_nothing_extracted_resembles_nothing() -> None:
    values, ids = best_matches(np.empty((3, 0)))
    assert values.tolist() == [0, 0, 0]
    assert ids.tolist() == [-1, -1, -1]
    assert over_train_images(values).esr_loose == proportion(0, 3)


@settings(deadline=None)
@given(scores)
def test_bounds_enclose_the_mean_and_stay_in_range(values: list[float]) -> None:
    estimate = over_train_images(values).average_similarity
    assert 0 <= estimate.lower <= estimate.value <= estimate.upper <= 1
    assert estimate.num_trials == len(values)
    turned = over_train_images(values[::-1]).average_similarity
    assert (turned.lower, turned.upper) == (estimate.lower, estimate.upper)
    better = over_train_images([min(value + 0.1, 1) for value in values]).average_similarity
    assert better.lower >= estimate.lower - 1e-12
    assert better.upper >= estimate.upper - 1e-12


@pytest.mark.parametrize("count", [1, 2, 5, 30])
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_equal_scores_have_bounds_in_closed_form(count: int, value: float) -> None:
    """The weight of what was never seen exceeds ``1 - 0.05 ** (1 / n)`` with 5 %."""
    unseen = 1 - 0.05 ** (1 / count)
    estimate = over_train_images([value] * count).average_similarity
    assert estimate.lower == pytest.approx(value - unseen * value, abs=0.01)
    assert estimate.upper == pytest.approx(value + unseen * (1 - value), abs=0.01)


@pytest.mark.parametrize(("copied", "count"), [(0, 10), (1, 10), (3, 10), (20, 20), (17, 50)])
def test_zeros_and_ones_have_the_bounds_of_a_share(copied: int, count: int) -> None:
    estimate = over_concepts([1.0] * copied + [0.0] * (count - copied))
    exact = proportion(copied, count)
    assert estimate.value == exact.value
    assert (estimate.lower, estimate.upper) == pytest.approx((exact.lower, exact.upper), abs=0.01)


def test_bounds_hold_for_few_images_of_which_few_are_copied() -> None:
    """A t-interval's upper bound holds in 82 % here, a bootstrap's in 78 %."""
    rng = np.random.default_rng(0)
    held = np.zeros(2)
    for _ in range(200):
        copied = rng.random(10) < 0.1
        drawn = np.where(copied, rng.uniform(0.8, 0.98, 10), rng.uniform(0.2, 0.5, 10))
        estimate = over_train_images(drawn).average_similarity
        held += (estimate.lower <= 0.404, estimate.upper >= 0.404)
    assert (held >= 0.94 * 200).all()


def test_a_negative_score_widens_the_range_downwards() -> None:
    positive, negative = (over_concepts([0.5, first]) for first in (0.0, -1e-9))
    assert negative.lower < positive.lower - 0.2
    assert negative.upper == pytest.approx(positive.upper, abs=1e-6)


def test_one_concept_says_next_to_nothing_about_others() -> None:
    alone = over_concepts([0.4])
    assert alone.lower < 0.03
    assert alone.upper > 0.96
    two = over_concepts([0.4, 0.5])
    assert two.lower < 0.15
    assert two.upper > 0.8


def test_one_concept_is_compared_over_its_training_images() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.uniform(0.4, 0.9, 10), rng.uniform(0.3, 0.8, 10)
    found = paired_difference([first], [second])
    for side, bound in (("greater", found.lower), ("less", found.upper)):
        exact = stats.ttest_rel(first, second, alternative=side).confidence_interval(0.95)
        assert bound == pytest.approx(exact.low if side == "greater" else exact.high)
    assert found.value == pytest.approx((first - second).mean())
    assert found.num_trials == 10


def test_several_concepts_are_the_units() -> None:
    rng = np.random.default_rng(1)
    first = [rng.uniform(0.4, 0.9, size) for size in (5, 20, 10, 7)]
    second = [each - gain for each, gain in zip(first, (0.1, 0.02, 0.05, 0.07), strict=True)]
    found = paired_difference(first, second)
    exact = stats.ttest_1samp([0.1, 0.02, 0.05, 0.07], 0, alternative="greater")
    assert found.lower == pytest.approx(exact.confidence_interval(0.95).low)
    assert found.value == pytest.approx(0.06)  # every concept counts once
    assert found.num_trials == 4
    back = paired_difference(second, first)
    assert (back.lower, back.upper) == pytest.approx((-found.upper, -found.lower))


def test_a_single_training_image_bounds_nothing() -> None:
    found = paired_difference([[0.9]], [[0.4]])
    assert (found.value, found.lower, found.upper) == (pytest.approx(0.5), -2, 2)


@pytest.mark.parametrize(
    "call",
    [
        lambda: best_matches(np.empty((0, 4))),
        lambda: best_matches([0.4]),
        lambda: best_matches([[0.4, 1.2]]),
        lambda: best_matches([[0.4, np.nan]]),
        lambda: average_similarity([]),
        lambda: average_similarity([np.nan]),
        lambda: extraction_success_rate([2.0], 0.7),
        lambda: over_train_images([[0.5]]),
        lambda: over_concepts([]),
        lambda: paired_difference([], []),
        lambda: paired_difference([[0.5]], [[0.5, 0.4]]),
        lambda: paired_difference([[0.5]], []),
    ],
)
def test_what_cannot_be_is_refused(call: Any) -> None:
    with pytest.raises(ValueError, match=r"need|argument"):
        call()
