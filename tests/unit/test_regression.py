"""Then against now: hand-worked comparisons, one for each way of comparing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from unit import baseline_samples as samples
from unit.baseline_samples import LINES, carlini, compared, without_ids
from unit.reports import prompt_scans

from pytest_memscan.results import (
    CheckOutcome,
    Duplicates,
    Estimate,
    MetricChange,
    Verdict,
)


def change(before: CheckOutcome, now: CheckOutcome, metric: str = "extracted") -> MetricChange:
    (found,) = compared(before, now, (metric,)).changes
    return found


def measuring(name: str, *metrics: tuple[str, Estimate]) -> CheckOutcome:
    """A check of prompts that measured just these."""
    scan = replace(prompt_scans.prompt_scan(), metrics=dict(metrics), findings=())
    return CheckOutcome(name=name, verdict=Verdict.PASS, sentence="", prompt_scan=scan)


def test_five_new_findings_are_an_increase_and_four_are_not() -> None:
    for new, expected in ((4, False), (5, True)):
        found = change(carlini(), carlini(range(new)))
        assert found.p_value == pytest.approx(0.5**new)
        assert (found.increased, found.num_new, found.num_gone) == (expected, new, 0)
    assert "5 new findings with none gone would have been noticed" in found.test


def test_two_metrics_have_to_share_the_significance() -> None:
    for new, expected in ((5, False), (6, True)):
        found = compared(carlini(), carlini(range(new))).changes
        assert [each.increased for each in found] == [expected, expected]
    assert [each.metric for each in found] == list(LINES)
    assert "6 new findings with none gone" in found[0].test


def test_what_is_gone_counts_against_what_is_new() -> None:
    found = change(carlini(range(10)), carlini(range(2, 18)))
    assert (found.num_new, found.num_gone) == (8, 2)
    assert found.p_value == pytest.approx((1 + 10 + 45) / 1024)
    assert not found.increased


def test_copies_are_paired_by_seed() -> None:
    before = carlini({sample: 7 for sample in range(10)})
    now = carlini({sample: 7 for sample in range(9, 20)})  # sample 9 in both
    found = change(before, now, "leak_rate")
    assert (found.num_new, found.num_gone) == (10, 9)
    assert found.p_value == pytest.approx(0.5)
    assert found.test.startswith("exact McNemar test of images of equal seeds")


@pytest.mark.parametrize("spoil", [without_ids, lambda _: carlini(range(3), valid=316)])
def test_copies_that_cannot_be_paired_are_compared_as_shares(
    spoil: Callable[[CheckOutcome], CheckOutcome],
) -> None:
    found = change(spoil(carlini(range(3))), carlini(range(3)), "leak_rate")
    assert (found.num_new, found.num_gone) == (None, None)
    assert found.test.startswith("Fisher's exact test")
    assert found.p_value is not None
    assert found.p_value > 0.5


def test_shares_of_different_numbers_of_images_are_compared_and_counts_are_not() -> None:
    before, now = carlini(range(3), planned=3200), carlini(range(9))
    found = compared(before, now, ("leak_rate",))
    assert found.is_comparable
    assert found.changes[0].increased
    assert "of 320 images would have been noticed" in found.changes[0].test
    assert compared(before, now).differing == {"planned images": ("3,200", "320")}


def test_findings_that_a_report_does_not_list_leave_the_counts() -> None:
    before, now = carlini(range(4)), carlini(range(20))
    assert before.scan is not None
    cut = replace(before, scan=replace(before.scan, findings=before.scan.findings[:2]))
    found = change(cut, now)
    assert found.test.startswith("exact test of two Poisson counts; 12 or more")
    assert (found.num_new, found.num_gone) == (None, None)
    assert found.p_value == pytest.approx(sum(math.comb(24, k) for k in range(20, 25)) / 2**24)
    assert found.increased


def test_what_a_waiver_accepts_is_not_new() -> None:
    waived = {"train#00000@98c8ef97", "train#00009@98c8ef97"}
    (found,) = compared(carlini(), carlini(range(5)), ("extracted",), waived=waived).changes
    assert (found.num_new, found.increased) == (4, False)


def test_metrics_that_neither_measured_are_left_out() -> None:
    assert [each.metric for each in compared(carlini(), carlini(), ("x", *LINES)).changes] == [
        *LINES
    ]
    nothing = compared(carlini(), carlini(), ("memorised_prompts",))
    assert (nothing.changes, nothing.is_comparable) == ((), True)


@pytest.mark.parametrize(
    ("then", "now", "expected"),
    [
        ((0.01, 0.0, 0.03), (0.05, 0.031, 0.08), True),
        ((0.01, 0.0, 0.03), (0.05, 0.03, 0.08), False),
        ((0.01, 0.0, 0.03), (0.01, 0.0, 0.03), False),
        ((1.0, 0.99, 1.0), (1.0, 0.99, 1.0), False),
        ((0.0, 0.0, math.inf), (0.9, 0.8, 1.0), False),
        ((0.0, 0.0, math.nan), (0.9, 0.8, 1.0), False),
        ((0.0, 0.0, 0.1), (math.nan, math.nan, math.nan), False),
        ((0.0, 0.0, 0.1), (math.inf, math.inf, math.inf), False),
    ],
)
def test_rates_of_several_samples_rise_when_their_bounds_part(
    then: tuple[float, float, float], now: tuple[float, float, float], *, expected: bool
) -> None:
    found = change(
        measuring("carlini", ("prompt_leak_rate", samples.rate(*then))),
        measuring("carlini", ("prompt_leak_rate", samples.rate(*now))),
        "prompt_leak_rate",
    )
    assert (found.p_value, found.increased) == (None, expected)
    assert "conservative" in found.test


def test_duplicates_are_compared_though_they_are_no_scan() -> None:
    def found(groups: int, searched: int = 100) -> CheckOutcome:
        duplicates = Duplicates(
            num_images=100,
            num_groups=groups,
            num_redundant=groups,
            num_identical=0,
            largest=(),
            num_searched=searched,
            measure="pixels",
        )
        return CheckOutcome(
            name="duplicates", verdict=Verdict.PASS, sentence="", duplicates=duplicates
        )

    assert change(found(0), found(9), "duplicate_groups").increased
    assert compared(found(0), found(0, 50), ("duplicate_groups",)).differing == {
        "training images searched": ("100", "50")
    }
