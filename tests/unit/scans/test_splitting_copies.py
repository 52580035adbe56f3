"""What counts as extractable, and what all trajectories together say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pictures import smooth_images
from scipy import stats
from unit.gate.splitting_scans import copied, rate

from pytest_memscan.prices import certain_lower, combined
from pytest_memscan.scans.splitting import extractable
from pytest_memscan.scans.splitting_rates import degenerate, growth, leak_rate, rate_of, rates_at
from pytest_memscan.scans.splitting_source import Targets
from pytest_memscan.similarity.reference import prepare
from pytest_memscan.splitting.rounds import Outcome

REACH = 1000
CUT = 0.5


def island(
    dissimilarities: list[float],
    nearest: list[int],
    weights: list[float] | None = None,
    *,
    is_steered: bool = True,
    num_ancestors: int = 2,
) -> Outcome:
    return Outcome(
        number=0,
        nearest=np.array(nearest),
        dissimilarities=np.array(dissimilarities),
        log_weights=np.log(weights or np.ones(len(nearest))),
        num_ancestors=num_ancestors,
        least_effective=1.0,
        aims=np.arange(3),
        is_steered=is_steered,
        arrivals=None,
    )


def test_extractable_images_by_hand() -> None:
    surely = copied(0, rate(0.01, 0.002, 0.05))
    likely = copied(1, rate(0.001, 1e-5, 1.0))  # just within reach
    maybe = copied(2, rate(1e-4, 1e-6, 0.01))
    no = copied(3, rate(1e-6, 1e-8, 1e-5))
    counted = extractable([surely, likely, maybe, no], REACH)
    assert (counted.lower, counted.value, counted.upper) == (1, 2, 3)


def test_a_copy_that_did_not_come_out_again_neither_fails_nor_passes() -> None:
    copy = copied(0, rate(0.01, 0.002, 0.05))
    unconfirmed = replace(copy, finding=replace(copy.finding, confirmed=False))
    counted = extractable([unconfirmed], REACH)
    assert (counted.lower, counted.value, counted.upper) == (0, 0, 1)


def test_the_leak_rate_is_a_weighted_mean_over_islands() -> None:
    """Islands count as 1 and 4, by the square of their rank; each is weight over number."""
    ends = [
        island([0.4, 0.6, 0.3, np.inf], [0, 0, 1, 2], is_steered=False),
        island([0.4, 0.2], [0, 2], [0.2, 0.1]),
    ]
    first, second = 2 / 4, (0.2 + 0.1) / 2
    share = 1 / (1 + 4)
    found = leak_rate(ends, CUT, num_targets=3)
    assert found.value == pytest.approx(share * first + (1 - share) * second)
    assert found.num_trials == 6


def test_a_rate_is_never_below_what_the_unsteered_images_show_by_themselves() -> None:
    """Half of 60 images are copies, and steering went elsewhere."""
    found = rate_of([0.5, 1e-9, 0.0, 2e-9], [60, 10, 10, 10])
    exact = stats.beta.ppf(0.025, 30, 31)
    assert (found.value, found.lower) == (pytest.approx(exact), pytest.approx(exact))
    assert found.upper >= exact
    together = rate_of([0.5, 1e-9, 0.0, 2e-9], [60, 10, 10, 10], num_tried=100)
    assert together.lower == pytest.approx(stats.beta.ppf(0.05 / 200, 30, 31))


def test_a_rate_is_as_sure_as_the_islands_make_it_where_no_unsteered_image_is_a_copy() -> None:
    totals = [0.0, 2e-6, 3e-6, 2.5e-6]
    found = rate_of(totals, [64, 80, 80, 80], num_tried=5)
    assert found.lower == pytest.approx(certain_lower(totals, confidence=1 - 0.05 / 10))
    assert found.value == combined(totals, num_trials=304).value


@pytest.mark.parametrize("rate", [1e-4, 0.02, 0.3])
def test_lower_bounds_of_both_kinds_hold_together(rate: float) -> None:
    rng = np.random.default_rng(12)
    wrong = 0
    for _ in range(1000):
        steered = rate * rng.lognormal(-0.5, 1.0, size=3)
        plain = rng.binomial(64, rate) / 64
        wrong += rate_of([plain, *steered], [64, 80, 80, 80]).lower > rate
    assert wrong <= 0.05 * 1000 + 3 * (0.05 * 0.95 * 1000) ** 0.5


def test_rates_go_from_the_loosest_level_to_the_closest_image_and_never_rise() -> None:
    pixels = smooth_images(60)
    targets = Targets(reference=prepare(pixels), pixels=pixels)
    ends = [
        island([1.0, 0.9, 0.45, 1.4], [0, 0, 1, 2], is_steered=False),
        island([0.3, 0.1], [0, 2], [0.2, 0.1]),
    ]
    rates = list(rates_at(ends, CUT, targets))
    scores = [each.score for each in rates]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == len(scores)
    assert scores[-1] == pytest.approx(0.1)
    assert {CUT, *(level.cut for level in targets.reference.levels)} <= set(scores)
    values = [each.steered.value for each in rates]
    assert values == sorted(values, reverse=True)
    assert rates[0].plain.value == 1.0
    far = [island([1.0, 0.9], [0, 1], is_steered=False), island([0.8, 0.9], [0, 1])]
    assert [each.score for each in rates_at(far, CUT, targets)][-1] == CUT


def test_without_copies_nothing_grows() -> None:
    assert growth([island([1.0], [0])] * 3, CUT, num_targets=3, reach=REACH) == ()
    grown = growth([island([0.1], [0], [1e-3])] * 3, CUT, num_targets=3, reach=REACH)
    by_size = {each.num_generated: each.expected for each in grown}
    assert by_size[REACH] == pytest.approx(1 - (1 - 1e-3) ** REACH)
    assert {100, 1000, 1_000_000} <= set(by_size)


def test_when_the_weights_say_nothing() -> None:
    plain = island([1.0] * 40, [0] * 40, is_steered=False)
    few = island([1.0] * 20 + [np.inf] * 20, [0] * 40, is_steered=False)
    steered, not_steered = island([1.0], [0]), island([1.0], [0], is_steered=False)
    collapsed = island([1.0, 1.0], [0, 0], num_ancestors=1)
    assert degenerate([plain, steered, collapsed]) == ""
    assert "go back to one start" in degenerate([plain, steered, collapsed, collapsed])
    assert degenerate([few, not_steered]).startswith("20 valid unsteered images are too few")
    assert degenerate([plain, not_steered]).startswith("nothing in 40 unsteered images told")
