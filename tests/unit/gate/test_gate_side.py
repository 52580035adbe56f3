"""What surrogate conditions brought out: what fails, what passes, and what says neither."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from unit.reports import scans, side_scans

from pytest_memscan.errors import OptionError
from pytest_memscan.gate import judge_run, judge_side, judge_status
from pytest_memscan.gate.run import judge_coverages
from pytest_memscan.gate.side import judge_side_coverage
from pytest_memscan.policy import (
    GUIDED_COUNTS,
    GUIDED_RATES,
    check_can_be_shown,
    parse_threshold,
    whole_policy,
)
from pytest_memscan.results import CheckOutcome, Estimate, SideScan, SideVariant, Verdict
from pytest_memscan.statistics import proportion

PASS, FAIL, INCONCLUSIVE, ERROR = (
    Verdict.PASS,
    Verdict.FAIL,
    Verdict.INCONCLUSIVE,
    Verdict.ERROR,
)
DEFAULTS = whole_policy((), {"guided"})
RATES = [*GUIDED_RATES]
BOUNDS = (0.0, 1e-3, 0.2, 0.7, 1.0)


def count(value: float, lower: float, upper: float) -> Estimate:
    return Estimate(value=value, lower=lower, upper=upper)


def side_scan(*, rate: Estimate | None = None, extracted: Estimate | None = None) -> SideScan:
    """A scan of one variant beside plain sampling, with every metric there is."""
    metrics = dict.fromkeys(GUIDED_RATES, rate or proportion(0, 2560))
    return replace(
        side_scans.clean_scan(),
        metrics={**metrics, "side_extracted": extracted or count(0, 0, 0)},
    )


def judged(line: str, scan: SideScan) -> CheckOutcome:
    return judge_side(scan, [parse_threshold(line)])


def gaps_of(scan: SideScan) -> list[tuple[Verdict, str]]:
    return [each for each in judge_side_coverage(scan) if each[0] is not PASS]


# --- the policy ---------------------------------------------------------------------------------


def test_without_a_line_no_training_image_may_come_out() -> None:
    assert [line.expression for line in DEFAULTS] == ["side_extracted <= 0"]
    assert {line.subject for line in DEFAULTS} == {"guided"}


@pytest.mark.parametrize("metric", [*GUIDED_COUNTS, *RATES])
def test_every_metric_is_about_guided_images_and_of_the_right_kind(metric: str) -> None:
    line = parse_threshold(f"{metric} <= {0.5 if metric in RATES else 3}")
    assert line.subject == "guided"
    assert line.is_rate == (metric in RATES)
    own = whole_policy([replace(line, source="memscan.toml")], {"guided"})
    assert [each.expression for each in own] == [line.expression]


@pytest.mark.parametrize("metric", RATES)
@pytest.mark.parametrize("limit", ["0", "1", "2", "1e-12", "nan", "-0.1"])
def test_a_rate_that_cannot_be_shown_is_refused(metric: str, limit: str) -> None:
    with pytest.raises(OptionError, match=r"rate|limit must be a number"):
        parse_threshold(f"{metric} <= {limit}")


@pytest.mark.parametrize("limit", ["0.5", "-1", "nan", "inf"])
def test_a_count_needs_a_whole_number(limit: str) -> None:
    with pytest.raises(OptionError, match="limit"):
        parse_threshold(f"side_extracted <= {limit}")


def test_how_many_images_a_guided_rate_takes_is_not_judged_beforehand() -> None:
    """Their number is that of each lambda, which a budget of time only fixes later."""
    for metric in RATES:
        check_can_be_shown(parse_threshold(f"{metric} <= 0.0001"), num_images=1)


# --- numbers ------------------------------------------------------------------------------------


def test_a_pass_says_how_much_was_looked_at() -> None:
    scan = side_scan()
    outcome = judge_side(scan, DEFAULTS)
    assert (outcome.name, outcome.verdict) == ("side", PASS)
    assert outcome.sentence == (
        "side_extracted is 0, within the limit of 0; 5,120 guided images of 1 variants, and 4,608 "
        "unguided ones"
    )
    assert outcome.side is scan
    assert outcome.metrics == scan.metrics


@pytest.mark.parametrize("limit", [0, 1, 3])
@pytest.mark.parametrize("line", ["side_extracted <= {}", "side_extracted < {}"])
def test_every_count_falls_into_one_of_three_zones(line: str, limit: int) -> None:
    if "< " in line and limit == 0:
        return
    for lower, value, upper in product(range(5), repeat=3):
        if not lower <= value <= upper:
            continue
        scan = side_scan(extracted=count(value, lower, upper))

        def holds(number: int) -> bool:
            return number < limit if "< " in line else number <= limit

        expected = PASS if holds(upper) else INCONCLUSIVE if holds(lower) else FAIL
        outcome = judged(line.format(limit), scan)
        assert outcome.verdict is expected, (limit, lower, value, upper)
        assert ("chance alone explains" in outcome.sentence) is (expected is INCONCLUSIVE)


@pytest.mark.parametrize("metric", RATES)
def test_every_rate_falls_into_one_of_three_zones(metric: str) -> None:
    for lower, upper, limit in product(BOUNDS, BOUNDS, (0.01, 0.5)):
        if lower > upper:
            continue
        rate = Estimate(value=(lower + upper) / 2, lower=lower, upper=upper, num_trials=320)
        expected = PASS if upper <= limit else FAIL if lower > limit else INCONCLUSIVE
        outcome = judged(f"{metric} <= {limit}", side_scan(rate=rate))
        assert outcome.verdict is expected, (lower, upper, limit)
        assert ("--memscan-budget" in outcome.sentence) is (expected is INCONCLUSIVE)
        assert "320 images at the worst setting" in outcome.sentence


@pytest.mark.parametrize("metric", ["side_extracted", *RATES])
@pytest.mark.parametrize("broken", ["value", "lower", "upper"])
def test_a_number_that_was_not_worked_out_never_passes(metric: str, broken: str) -> None:
    """Whichever of the three it is, no comparison with a NaN may read as a number within limits."""
    estimate = replace(count(0, 0, 0), **{broken: math.nan})
    scan = side_scan(rate=estimate, extracted=estimate)
    limit = 0.5 if metric in RATES else 0
    outcome = judged(f"{metric} <= {limit}", scan)
    if broken == "upper":
        assert outcome.verdict is INCONCLUSIVE
    assert outcome.verdict is not PASS or not math.isnan(estimate.upper)


def test_the_worst_line_decides_and_says_why() -> None:
    scan = side_scan(rate=proportion(30, 100), extracted=count(2, 0, 4))
    lines = [
        parse_threshold(line)
        for line in ("side_extracted <= 9", "side_extracted <= 3", "side_leak_rate <= 0.1")
    ]
    outcome = judge_side(scan, lines)
    assert [each.verdict for each in outcome.thresholds] == [PASS, INCONCLUSIVE, FAIL]
    assert outcome.verdict is FAIL
    assert outcome.sentence.startswith("side_leak_rate is 30.0 %")
    assert "side_extracted" not in outcome.sentence


def test_lines_on_other_scans_are_not_judged_here() -> None:
    others = whole_policy((), {"images", "rare", "duplicates", "prompts"})
    assert judge_side(side_scan(), [*DEFAULTS, *others]).thresholds == (
        judge_side(side_scan(), DEFAULTS).thresholds
    )


def test_a_scan_that_no_line_is_about_never_passes() -> None:
    assert judge_side(side_scan(), ()).verdict is Verdict.NOT_RUN


# --- what makes numbers worthless ---------------------------------------------------------------


@pytest.mark.parametrize("extracted", [count(0, 0, 0), count(3, 3, 3)], ids=["clean", "found"])
@pytest.mark.parametrize("which", range(len(scans.CONTROLS)))
def test_a_missed_control_is_an_error_whatever_was_found(extracted: Estimate, which: int) -> None:
    controls = [*side_scan().controls]
    planted = controls[which]
    num_found = 0 if planted.minimum_found else planted.num_images
    controls[which] = replace(planted, num_found=num_found)
    assert not controls[which].passed
    scan = replace(side_scan(extracted=extracted), controls=tuple(controls))
    outcome = judge_side(scan, DEFAULTS)
    assert outcome.verdict is ERROR
    assert outcome.sentence.startswith("the scan cannot be trusted")
    assert f"(control {planted.name})" in outcome.sentence
    assert judge_status([outcome], DEFAULTS).verdict is ERROR


def control_variant(name: str) -> SideVariant:
    return replace(side_scan().variants[0], name=name, is_control=True)


NOBODY: list[tuple[SideVariant, ...]] = [
    (),
    (control_variant("ol_ti"),),
    (control_variant("ol_ti"), control_variant("random_labels")),
]


@pytest.mark.parametrize("variants", NOBODY, ids=["none", "one control", "two controls"])
def test_without_a_variant_that_attacks_nothing_passes(variants: tuple[SideVariant, ...]) -> None:
    clean = replace(side_scan(), variants=variants)
    outcome = judge_side(clean, DEFAULTS)
    assert outcome.verdict is INCONCLUSIVE
    assert outcome.sentence.startswith("no variant of SIDE was run that is expected to bring out")
    assert "--memscan-side-variants" in outcome.sentence
    assert "side_extracted is 0" in outcome.sentence  # what was measured is not hidden
    # A user's own assertion about such numbers would be about nothing, too.
    assert [verdict for verdict, _ in judge_coverages(outcome)] == [PASS, INCONCLUSIVE]
    assert judge_status([outcome], DEFAULTS).verdict is INCONCLUSIVE
    assert run_of([outcome]).verdict is INCONCLUSIVE


@pytest.mark.parametrize("variants", NOBODY, ids=["none", "one control", "two controls"])
def test_what_came_out_without_an_attack_still_fails(variants: tuple[SideVariant, ...]) -> None:
    found = replace(side_scan(extracted=count(3, 3, 3)), variants=variants)
    assert judge_side(found, DEFAULTS).verdict is FAIL
    unsure = replace(side_scan(extracted=count(3, 0, 3)), variants=variants)
    assert judge_side(unsure, DEFAULTS).verdict is INCONCLUSIVE


def test_why_nothing_attacked_is_said_once() -> None:
    left_out = {
        "side_c": "no cluster is tight",
        "side_c_rest": "no cluster is tight",
        "side_o": "no labels",
    }
    scan = replace(side_scan(), variants=NOBODY[1], left_out=left_out)
    for sentence in (judge_side(scan, DEFAULTS).sentence, gaps_of(scan)[0][1]):
        assert "plain sampling (side_c: no cluster is tight; side_o: no labels)" in sentence
        assert "ask for one" not in sentence


def test_one_variant_beside_controls_is_an_attack() -> None:
    scan = side_scan()
    both = replace(scan, variants=(control_variant("ol_ti"), scan.variants[0]))
    assert judge_side(both, DEFAULTS).verdict is PASS
    assert gaps_of(both) == []


# --- coverage and the run -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, PASS),
        ({"generated": 300, "valid": 300}, INCONCLUSIVE),
        ({"train_used": 0}, ERROR),
        ({"valid": 0}, ERROR),
        ({"planned": 1000, "generated": 1000, "valid": 980, "invalid": {"nan": 20}}, INCONCLUSIVE),
        ({"planned": 1000, "generated": 1000, "valid": 800, "invalid": {"nan": 200}}, ERROR),
        ({"train_unusable": {"empty file": ("a.png",)}, "train_found": 4000}, INCONCLUSIVE),
        ({"train_unusable": {"empty file": ("a.png",)}, "train_found": 4}, ERROR),
    ],
)
def test_images_are_covered_as_in_any_scan(changes: dict[str, Any], verdict: Verdict) -> None:
    scan = replace(side_scan(), coverage=replace(side_scan().coverage, **changes))
    (whole,) = judge_side_coverage(scan)
    assert whole[0] is verdict
    outcome = judge_side(scan, DEFAULTS)
    status = judge_status([outcome], DEFAULTS)
    assert status.verdict is verdict
    assert run_of([outcome, status]).verdict is verdict


def run_of(checks: Iterable[CheckOutcome]) -> Any:
    checks = tuple(checks)
    return judge_run(
        checks,
        required=[check.name for check in checks],
        checkpoint="builtin:clean",
        policy={},
        versions={},
        timings={},
    )


def test_a_line_that_a_user_wrote_on_it_counts_as_measured() -> None:
    lines = whole_policy([parse_threshold("side_ums_mid <= 0.5", "memscan.toml")], {"guided"})
    outcome = judge_side(side_scan(), lines)
    assert judge_status([outcome], lines).verdict is PASS
    other = parse_threshold("extracted <= 0", "memscan.toml")
    assert judge_status([outcome], [*lines, other]).verdict is ERROR


def test_a_passing_run_says_what_side_says() -> None:
    outcome = judge_side(side_scan(), DEFAULTS)
    assert run_of([outcome, judge_status([outcome], DEFAULTS)]).sentence == outcome.sentence
