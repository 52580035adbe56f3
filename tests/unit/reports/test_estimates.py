"""Measured numbers in words: rates from one in two down to one in a billion, and their limits."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from unit.reports import samples, scans
from unit.reports.splitting_scans import rate

from pytest_memscan.reports import estimates
from pytest_memscan.results import Estimate, Verdict


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        (0.0, "no image"),
        (1.0, "every image"),
        (7.4, "every image"),
        (0.5, "50.0 % of images"),
        (0.1, "10.0 % of images"),
        (0.099, "one in 10 images"),
        (0.01, "one in 100 images"),
        (1 / 996, "one in 1,000 images"),
        (2.9e-5, "one in 34,000 images"),
        (1 / 999_999, "one in 1 million images"),
        (8.1e-7, "one in 1.2 million images"),
        (1e-9, "one in 1 billion images"),
        (1e-12, "one in 1 trillion images"),
        (9e-13, "less than one in 1 trillion images"),
        (5e-324, "less than one in 1 trillion images"),
        (math.nan, "not known"),
        (math.inf, "not known"),
    ],
)
def test_a_rate_is_told_as_one_in_so_many(rate: float, expected: str) -> None:
    assert estimates.one_in(rate) == expected


@given(st.floats(min_value=1e-12, max_value=0.0999))
def test_the_number_of_images_is_right_to_two_digits(rate: float) -> None:
    number, _, unit = estimates.one_in(rate).removeprefix("one in ").partition(" ")
    size = {"images": 1.0, "million images": 1e6, "billion images": 1e9, "trillion images": 1e12}
    shown = float(number.replace(",", "")) * size[unit]
    assert shown == pytest.approx(1 / rate, rel=0.0501)


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.0, "0 %"),
        (1.0, "100 %"),
        (0.0041, "0.41 %"),
        (1.1e-6, "0.00011 %"),
        (9.9e-7, "1 in 1 million"),
        (1e-9, "1 in 1 billion"),
        (1e-15, "< 1 in 1 trillion"),
        (math.nan, "not known"),
    ],
)
def test_a_share_below_what_a_percentage_shows_becomes_odds(share: float, expected: str) -> None:
    assert estimates.share_text(share) == expected


@example(1e307)  # 100 times that is infinite
@given(st.floats(allow_nan=True, allow_infinity=True))
def test_nothing_is_ever_shown_as_nan_or_as_infinite(number: float) -> None:
    for show in (estimates.one_in, estimates.share_text, estimates.odds_text):
        assert not {"nan", "inf"} & set(show(number).replace("%", "").split())


def test_both_bounds_are_told_in_the_same_way() -> None:
    assert estimates.share_bounds(rate(4.4e-5, 1.2e-5, 1.3e-4)) == "[0.0012 %, 0.013 %]"
    assert estimates.share_bounds(rate(4e-6, 2e-7, 5e-5)) == "[1 in 5 million, 1 in 20,000]"
    assert estimates.share_bounds(rate(0.0, 0.0, 0.0058)) == "[0 %, 0.58 %]"
    assert estimates.odds_bounds(rate(0.0, 0.0, 0.0058)) == "[0 %, 1 in 170]"
    for upper in (0.0, 1.0):
        assert estimates.odds_bounds(rate(0.0, 0.0, upper)) == "no bounds"


def test_a_count_that_was_not_seen_in_full_has_bounds_and_others_stay_as_they_were() -> None:
    assert estimates.bounds_text(Estimate(value=4, lower=2, upper=17)) == "[2, 17]"
    assert estimates.bounds_text(Estimate(value=4, lower=4, upper=4)) == "exact"
    assert estimates.value_text(Estimate(value=4, lower=2, upper=17)) == "4"
    assert estimates.value_text(rate(2.4e-8, 0.0, 1e-6)) == "1 in 42 million"
    common = rate(0.447, 0.4, 0.5)
    assert (estimates.value_text(common), estimates.bounds_text(common)) == (
        "44.7 %",
        "[40.0 %, 50.0 %]",
    )


def test_a_reason_turns_the_operator_round_when_the_limit_was_broken() -> None:
    assert estimates.reason(samples.extracted(143, Verdict.FAIL)) == "extracted 143 > 0"
    assert estimates.reason(samples.extracted(0, Verdict.PASS)) == "extracted 0 <= 0"


def test_a_rate_shows_its_bounds_and_the_limit_in_percent() -> None:
    rates = samples.leak_rate(scans.rate(2, lower=0.0011, upper=0.0195), Verdict.FAIL, "")
    assert estimates.reason(rates) == "leak_rate 0.62 % [0.11 %, 1.95 %] > 1 %"
    undecided = replace(rates, verdict=Verdict.INCONCLUSIVE)
    assert estimates.reason(undecided) == "leak_rate 0.62 % [0.11 %, 1.95 %], limit <= 1 %"


def test_a_threshold_that_was_not_measured_is_shown_as_written() -> None:
    unmeasured = replace(samples.extracted(0, Verdict.ERROR), estimate=None)
    assert estimates.reason(unmeasured) == "extracted <= 0"
    other = replace(unmeasured, expression="no more than \x1bten")
    assert estimates.split_expression(other) == (r"no more than \x1bten", "", "")


def test_a_rate_of_one_in_a_billion_keeps_its_size_beside_its_limit() -> None:
    rare = rate(2.4e-8, 1.1e-9, 7e-8)
    broken = samples.leak_rate(rare, Verdict.FAIL, "")
    assert estimates.reason(broken) == (
        "leak_rate 1 in 42 million [1 in 910 million, 1 in 14 million] > 1 %"
    )
