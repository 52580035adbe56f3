"""Copies that steering found: what fails, what passes, and what says neither."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import pytest
from unit.gate.splitting_scans import MEMORISER, copied, count, rate, splitting_scan
from unit.reports import scans

from pytest_memscan.gate import (
    judge_coverages,
    judge_run,
    judge_scan,
    judge_splitting,
    judge_splitting_coverage,
    judge_status,
)
from pytest_memscan.policy import parse_threshold, whole_policy
from pytest_memscan.results import CheckOutcome, Estimate, SplittingScan, Verdict
from pytest_memscan.statistics import proportion

PASS, FAIL, INCONCLUSIVE, ERROR = (
    Verdict.PASS,
    Verdict.FAIL,
    Verdict.INCONCLUSIVE,
    Verdict.ERROR,
)
DEFAULTS = whole_policy((), {"rare"})
FOUND = count(3, 1, 5)


def judged(line: str, scan: SplittingScan) -> CheckOutcome:
    return judge_splitting(scan, [parse_threshold(line)])


# --- images in reach ----------------------------------------------------------------------------


def test_a_pass_says_how_the_search_was_done() -> None:
    outcome = judge_splitting(splitting_scan(), DEFAULTS)
    assert (outcome.name, outcome.verdict) == ("splitting", PASS)
    assert outcome.sentence == (
        "no training image is expected to be copied within 1,000,000 images: 256 trajectories were "
        "steered to 180 of 2,000 training images, all screened; the 64 unsteered images alone "
        "exclude a leak rate above 4.57 % (95 % confidence)"
    )
    assert outcome.splitting == splitting_scan()
    assert set(outcome.metrics) == {"extractable_images", "steered_leak_rate"}


def test_every_count_falls_into_one_of_three_zones() -> None:
    for limit, lower, value, upper in product(range(4), repeat=4):
        if not lower <= value <= upper:
            continue
        scan = splitting_scan(extractable=count(value, lower, upper))
        expected = PASS if upper <= limit else FAIL if lower > limit else INCONCLUSIVE
        outcome = judged(f"extractable_images <= {limit}", scan)
        assert outcome.verdict is expected, (limit, lower, value, upper)
        assert [each.verdict for each in outcome.thresholds] == [expected]
        assert ("--memscan-budget" in outcome.sentence) is (expected is INCONCLUSIVE)


def test_a_failure_says_how_rare_the_likeliest_copy_is() -> None:
    scan = splitting_scan(extractable=FOUND, copies=(copied(4, rate(1 / 12_000, 1e-6, 0.01)),))
    assert judge_splitting(scan, DEFAULTS).sentence == (
        "extractable_images is 3 among 1,000,000 images, over the limit of 0; the likeliest is one "
        "in about 12,000 images"
    )


def test_the_likeliest_is_one_that_was_confirmed() -> None:
    common, rare = (copied(4, rate(price, 1e-6, 0.1)) for price in (1 / 50, 1 / 12_000))
    failed = replace(common, finding=replace(common.finding, confirmed=False))
    scan = splitting_scan(extractable=FOUND, copies=(failed, rare))
    assert "; the likeliest is one in about 12,000" in judge_splitting(scan, DEFAULTS).sentence


def test_copies_that_may_be_in_reach_say_what_is_and_is_not_known() -> None:
    sentence = judge_splitting(splitting_scan(extractable=count(2, 0, 4)), DEFAULTS).sentence
    assert "extractable_images is 2 among 1,000,000 images, at least 0 and at most 4" in sentence
    within = splitting_scan(extractable=FOUND, reach=500)
    assert judged("extractable_images <= 7", within).sentence.startswith(
        "extractable_images is 3 among 500 images, within the limit of 7: "
    )


# --- the rate -----------------------------------------------------------------------------------


def test_a_rate_fails_by_its_lower_bound_whatever_the_unsteered_images_say() -> None:
    scan = splitting_scan(leak_rate=rate(3e-5, 2e-5, 5e-5))
    outcome = judged("steered_leak_rate <= 0.00001", scan)
    assert outcome.verdict is FAIL
    assert outcome.sentence == (
        "steered_leak_rate is 0.003 % [0.002 %, 0.005 %], over the limit of 0.001 %"
    )


def test_a_rate_with_bounds_on_both_sides_needs_more_images() -> None:
    outcome = judged("steered_leak_rate <= 0.00003", splitting_scan(leak_rate=rate(3e-5, 0, 5e-5)))
    assert outcome.verdict is INCONCLUSIVE
    assert "on both sides of the limit of 0.003 %" in outcome.sentence
    assert "--memscan-budget" in outcome.sentence


@pytest.mark.parametrize(
    ("limit", "num_tried", "verdict"),
    [
        (1e-6, 2000, PASS),  # every training image was steered to
        (1e-6, 1999, INCONCLUSIVE),
        (0.05, 180, PASS),  # the unsteered images show it alone
        (0.04, 180, INCONCLUSIVE),
    ],
)
def test_a_bound_by_steering_counts_as_far_as_the_search_went(
    limit: float, num_tried: int, verdict: Verdict
) -> None:
    scan = splitting_scan(num_tried=num_tried, leak_rate=rate(1e-9, 1e-10, 1e-8))
    outcome = judged(f"steered_leak_rate <= {limit}", scan)
    assert outcome.verdict is verdict
    if verdict is INCONCLUSIVE:
        assert f"no trajectory was steered to {2000 - num_tried:,} of 2,000" in outcome.sentence
        assert "exclude only a leak rate above 4.57 %" in outcome.sentence
    else:
        assert "[1 in 10 billion, 1 in 100 million]" in outcome.sentence


@pytest.mark.parametrize("upper", [0.0, 1.0])
@pytest.mark.parametrize(("limit", "verdict"), [(0.05, PASS), (0.04, INCONCLUSIVE)])
def test_where_no_copy_was_found_the_exact_bound_decides(
    upper: float, limit: float, verdict: Verdict
) -> None:
    scan = splitting_scan(num_tried=2000, leak_rate=rate(0.0, 0.0, upper))
    outcome = judged(f"steered_leak_rate <= {limit}", scan)
    assert outcome.verdict is verdict
    assert "no copy was found" in outcome.sentence
    if verdict is INCONCLUSIVE:
        assert "exclude only a leak rate above 4.57 % (a limit on extract" in outcome.sentence


@pytest.mark.parametrize(
    ("limit", "verdict"), [(0.05, PASS), (0.04, INCONCLUSIVE), (1e-7, INCONCLUSIVE)]
)
def test_where_copies_are_too_few_to_bound_anything_it_decides_too(
    limit: float, verdict: Verdict
) -> None:
    scan = splitting_scan(num_tried=2000, leak_rate=rate(1e-6, 0.0, 1.0))
    assert judged(f"steered_leak_rate <= {limit}", scan).verdict is verdict


def test_unsteered_images_that_contradict_the_steered_ones_keep_it_from_passing() -> None:
    plain = proportion(6, 64)
    scan = splitting_scan(
        num_tried=2000, leak_rate=rate(1e-6, 1e-7, 1e-5), plain_rate=plain, num_plain_copies=6
    )
    outcome = judged("steered_leak_rate <= 0.01", scan)
    assert plain.lower > 0.01
    assert outcome.verdict is INCONCLUSIVE
    assert "but of the unsteered images alone 9.38 %" in outcome.sentence


def test_no_rate_passes_without_a_bound_that_keeps_the_limit() -> None:
    """Whatever else holds: the property behind every case above."""
    bounds = (0.0, 1e-6, 1e-3, 0.2, 1.0)
    for lower, upper, hits, tried in product(bounds, bounds, (0, 1, 60), (0, 2000)):
        for limit in (1e-5, 0.01, 0.5) if lower <= upper else ():
            scan = splitting_scan(
                leak_rate=rate((lower + upper) / 2, lower, upper),
                plain_rate=proportion(hits, 64),
                num_tried=tried,
            )
            verdict = judged(f"steered_leak_rate <= {limit}", scan).verdict
            if lower > limit:
                assert verdict is FAIL
            if verdict is PASS:
                assert lower <= limit
                assert scan.plain_rate.lower <= limit
                exact = scan.plain_rate.upper <= limit
                assert exact or (tried == 2000 and 0 < upper <= limit)


# --- what makes numbers worthless ---------------------------------------------------------------


@pytest.mark.parametrize("extractable", [count(0, 0, 0), FOUND], ids=["clean", "found"])
def test_a_missed_control_is_an_error_whatever_was_found(extractable: Estimate) -> None:
    missed = replace(MEMORISER, name="re-encoded", num_found=2)
    scan = splitting_scan(extractable=extractable, controls=(*scans.CONTROLS, missed))
    outcome = judge_splitting(scan, DEFAULTS)
    assert outcome.verdict is ERROR
    assert outcome.sentence.startswith("the scan cannot be trusted: the same steering")
    assert "but 2 of 8 were (control re-encoded)" in outcome.sentence
    assert "--memscan-holdout" in outcome.sentence


@pytest.mark.parametrize(
    ("extractable", "verdict"),
    [(count(0, 0, 0), INCONCLUSIVE), (FOUND, FAIL)],
    ids=["clean", "found"],
)
def test_steering_that_finds_nothing_in_a_memoriser_cannot_pass(
    extractable: Estimate, verdict: Verdict
) -> None:
    missed = replace(MEMORISER, num_found=2)
    scan = splitting_scan(extractable=extractable, controls=(missed,))
    outcome = judge_splitting(scan, DEFAULTS)
    assert outcome.verdict is verdict
    assert ("--memscan-steps" in outcome.sentence) == (verdict is INCONCLUSIVE)


def test_a_shortened_reach_is_said() -> None:
    scan = splitting_scan(extractable=count(0, 0, 0), reach=1000, asked_reach=1_000_000)
    outcome = judge_splitting(scan, DEFAULTS)
    assert outcome.verdict is PASS
    assert "within 1,000 images (not 1,000,000:" in outcome.sentence


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"degenerate": "one trajectory holds all the weight"}, "one trajectory holds all"),
        ({"num_screened": 640}, "only 640 of 2,000 training images were screened"),
    ],
)
def test_a_search_that_says_nothing_passes_nothing_and_still_fails(
    changes: dict[str, object], words: str
) -> None:
    clean = splitting_scan(**changes)
    outcome = judge_splitting(clean, DEFAULTS)
    assert outcome.verdict is INCONCLUSIVE
    assert words in outcome.sentence
    assert "--memscan-budget" in outcome.sentence
    # A user's own assertion would be about nothing too.
    gaps = [each for each in judge_coverages(outcome) if each[0] is not PASS]
    assert [verdict for verdict, _ in gaps] == [INCONCLUSIVE]
    assert words in gaps[0][1]
    assert judge_status([outcome], DEFAULTS).verdict is INCONCLUSIVE

    found = splitting_scan(extractable=FOUND, **changes)
    assert judge_splitting(found, DEFAULTS).verdict is FAIL


@pytest.mark.parametrize("line", ["extractable_images <= 0", "steered_leak_rate <= 0.1"])
@pytest.mark.parametrize("upper", [math.nan, math.inf])
def test_rates_that_were_not_worked_out_are_neither_a_failure_nor_a_pass(
    line: str, upper: float
) -> None:
    unknown = Estimate(value=math.nan, lower=math.nan, upper=upper, num_trials=320)
    scan = splitting_scan(
        extractable=unknown, leak_rate=unknown, degenerate="one trajectory holds all the weight"
    )
    assert judged(line, scan).verdict is INCONCLUSIVE
    assert judged(line, replace(scan, degenerate="")).verdict is INCONCLUSIVE


def test_a_gap_does_not_hide_what_may_have_been_found() -> None:
    scan = splitting_scan(extractable=count(2, 0, 2), num_screened=640)
    sentence = judge_splitting(scan, DEFAULTS).sentence
    assert "only 640 of 2,000" in sentence
    assert "extractable_images is 2" in sentence


# --- coverage and the run -----------------------------------------------------------------------


def test_images_are_covered_as_in_any_scan() -> None:
    (whole,) = judge_splitting_coverage(splitting_scan())
    assert whole[0] is PASS
    for changes, verdict in (
        ({"generated": 300, "valid": 300}, INCONCLUSIVE),
        ({"train_used": 0}, ERROR),
        ({"valid": 200, "invalid": {"constant": 120}}, ERROR),
        ({"train_unusable": {"empty file": ("a.png",)}, "train_found": 4000}, INCONCLUSIVE),
    ):
        coverage = replace(scans.COVERAGE, **changes)  # type: ignore[arg-type]
        (gap,) = judge_splitting_coverage(splitting_scan(coverage=coverage))
        assert gap[0] is verdict, changes


def test_a_line_on_rare_copies_counts_as_measured_and_others_do_not() -> None:
    lines = whole_policy([parse_threshold("steered_leak_rate <= 0.05", "memscan.toml")], {"rare"})
    assert [line.expression for line in lines] == ["steered_leak_rate <= 0.05"]
    outcome = judge_splitting(splitting_scan(), lines)
    assert judge_status([outcome], lines).verdict is PASS
    other = parse_threshold("extracted <= 0", "memscan.toml")
    assert judge_splitting(splitting_scan(), [*lines, other]).thresholds == outcome.thresholds
    assert judge_status([outcome], [*lines, other]).verdict is ERROR


def test_a_run_passes_with_the_words_of_plain_sampling_first() -> None:
    steered = judge_splitting(splitting_scan(), DEFAULTS)
    plain = judge_scan(scans.clean_scan(), whole_policy((), {"images"}))

    def run(*checks: CheckOutcome) -> str:
        return judge_run(
            checks,
            required=[check.name for check in checks],
            checkpoint="builtin:clean",
            policy={},
            versions={},
            timings={},
        ).sentence

    assert run(plain, steered) == plain.sentence
    assert run(steered) == steered.sentence


def test_unsteered_images_that_are_too_close_for_chance_never_pass() -> None:
    """A long reach asks copies to be closer than these are, and they are none the less copies."""
    scan = replace(splitting_scan(), num_plain_close=29)
    outcome = judge_splitting(scan, DEFAULTS)
    assert outcome.verdict is INCONCLUSIVE
    assert outcome.sentence.startswith("29 of 64 unsteered images are closer to training images")
    assert "shorten --memscan-reach" in outcome.sentence
    assert INCONCLUSIVE not in [verdict for verdict, _ in judge_splitting_coverage(scan)]
    found = replace(splitting_scan(extractable=FOUND), num_plain_close=29)
    assert judge_splitting(found, DEFAULTS).verdict is FAIL
