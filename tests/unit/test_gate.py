"""From what was measured to a verdict: nothing but a pass is green."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from scipy import stats
from unit.reports import samples, scans

from pytest_memscan.gate import (
    judge_coverage,
    judge_integrity,
    judge_run,
    judge_scan,
    judge_status,
    not_applicable,
)
from pytest_memscan.gate.verdicts import worst
from pytest_memscan.policy import Threshold, parse_threshold
from pytest_memscan.results import (
    CheckOutcome,
    Coverage,
    Estimate,
    RunResult,
    ScanResult,
    ThresholdOutcome,
    Verdict,
)
from pytest_memscan.scans.evidence import extracted_images
from pytest_memscan.statistics import proportion

PASS, FAIL, INCONCLUSIVE, ERROR, NOT_RUN, NOT_APPLICABLE = (
    Verdict.PASS,
    Verdict.FAIL,
    Verdict.INCONCLUSIVE,
    Verdict.ERROR,
    Verdict.NOT_RUN,
    Verdict.NOT_APPLICABLE,
)
POLICY = [parse_threshold("extracted <= 0"), parse_threshold("leak_rate <= 0.01")]


def scan_with(**metrics: Estimate) -> ScanResult:
    scan = scans.clean_scan()
    return replace(scan, metrics={**scan.metrics, **metrics})


def judged(threshold: Threshold, scan: ScanResult) -> ThresholdOutcome:
    (outcome,) = judge_scan(scan, [threshold]).thresholds
    return outcome


def check(verdict: Verdict, name: str = "carlini", **fields: object) -> CheckOutcome:
    return CheckOutcome(name=name, verdict=verdict, sentence=f"it is {verdict}", **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([], NOT_RUN),
        ([PASS], PASS),
        ([PASS, PASS], PASS),
        ([PASS, NOT_APPLICABLE], PASS),
        ([NOT_APPLICABLE, NOT_RUN], NOT_RUN),
        ([PASS, NOT_RUN], NOT_RUN),
        ([INCONCLUSIVE, NOT_RUN, PASS], INCONCLUSIVE),
        ([PASS, FAIL, INCONCLUSIVE], FAIL),
        ([FAIL, ERROR, PASS], ERROR),
    ],
)
def test_the_worst_verdict_decides(verdicts: list[Verdict], expected: Verdict) -> None:
    assert worst(verdicts) is expected
    assert worst(reversed(verdicts)) is expected


def test_a_rate_is_judged_by_its_bounds_in_every_case() -> None:
    """Against the binomial tails themselves, not the bounds computed from them."""
    seen = set()
    for n, limit in product((5, 30, 59, 299, 300), (0.01, 0.05, 0.5, 0.99)):
        threshold = parse_threshold(f"leak_rate <= {limit}")
        for hits in {*range(min(n, 25) + 1), n // 2, n - 1, n}:
            scan = scan_with(leak_rate=proportion(hits, n))
            outcome = judged(threshold, scan)
            surely_below = stats.binom.cdf(hits, n, limit) <= 0.05
            surely_above = stats.binom.sf(hits - 1, n, limit) < 0.05
            expected = PASS if surely_below else FAIL if surely_above else INCONCLUSIVE
            assert outcome.verdict is expected, (hits, n, limit)
            seen.add(expected)
    assert seen == {PASS, FAIL, INCONCLUSIVE}


@pytest.mark.parametrize(("operator", "verdict"), [("<=", PASS), ("<", FAIL)])
def test_a_bound_on_the_limit_itself_keeps_only_at_most(operator: str, verdict: Verdict) -> None:
    rate = Estimate(value=0.25, lower=0.25, upper=0.25, num_trials=100)
    threshold = parse_threshold(f"leak_rate {operator} 0.25")
    assert judged(threshold, scan_with(leak_rate=rate)).verdict is verdict


def test_an_inconclusive_rate_says_how_many_images_would_settle_it() -> None:
    outcome = judged(POLICY[1], scan_with(leak_rate=proportion(1, 320)))
    assert outcome.verdict is INCONCLUSIVE
    assert "(--memscan-budget" in outcome.sentence
    assert "on both sides of the limit of 1 %" in outcome.sentence
    on_the_limit = judged(POLICY[1], scan_with(leak_rate=proportion(3, 300)))
    assert "no number of images would settle it" in on_the_limit.sentence


@pytest.mark.parametrize(
    ("count", "expected_by_chance", "verdict"),
    [
        (0, 0.04, PASS),
        (1, 0.04, FAIL),
        (0, 3.0, PASS),
        (1, 0.1, INCONCLUSIVE),
        (6, 3.0, INCONCLUSIVE),
        (7, 3.0, FAIL),
    ],
)
def test_what_chance_explains_is_not_a_failure_and_not_a_pass(
    count: int, expected_by_chance: float, verdict: Verdict
) -> None:
    scan = scan_with(extracted=extracted_images(count, expected_by_chance))
    outcome = judged(POLICY[0], scan)
    assert outcome.verdict is verdict
    assert ("chance" in outcome.sentence) is (verdict is INCONCLUSIVE)


@pytest.mark.parametrize("scan", [scans.clean_scan(), scans.leaky_scan()], ids=["clean", "leaky"])
@pytest.mark.parametrize("found", [0, 18])
def test_a_missed_control_is_an_error_whatever_was_measured(scan: ScanResult, found: int) -> None:
    missed = replace(scan.controls[0], num_found=found)
    outcome = judge_scan(replace(scan, controls=(scan.controls[1], missed)), POLICY)
    assert outcome.verdict is ERROR
    assert "cannot be trusted" in outcome.sentence
    assert f"{found} of 20" in outcome.sentence


def test_a_stranger_that_is_found_is_an_error_too() -> None:
    scan = scans.clean_scan()
    ghost = replace(scan.controls[1], num_found=1)
    assert judge_scan(replace(scan, controls=(scan.controls[0], ghost)), POLICY).verdict is ERROR


def test_a_scan_gives_the_reasons_of_its_verdict_and_no_others() -> None:
    passed = judge_scan(scans.clean_scan(), POLICY)
    assert passed.verdict is PASS
    assert "extracted is 0" in passed.sentence
    assert "leak_rate is 0 %" in passed.sentence
    failed = judge_scan(scan_with(extracted=scans.count(2)), POLICY)
    assert failed.verdict is FAIL
    assert failed.sentence == "extracted is 2, over the limit of 0"
    assert [each.verdict for each in failed.thresholds] == [FAIL, PASS]


def coverage(**changes: object) -> Coverage:
    return replace(scans.COVERAGE, planned=1000, generated=1000, valid=1000, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("invalid", "verdict"),
    [(0, PASS), (10, PASS), (11, INCONCLUSIVE), (100, INCONCLUSIVE), (101, ERROR), (1000, ERROR)],
)
def test_invalid_images_are_tolerated_up_to_1_percent(invalid: int, verdict: Verdict) -> None:
    reasons = {"constant": invalid - invalid // 2, "not a number": invalid // 2}
    judged = judge_coverage(replace(coverage(invalid=reasons), valid=1000 - invalid))
    assert judged[0] is verdict
    if verdict is not PASS:
        assert f"{invalid} of 1000" in judged[1]
        assert "constant" in judged[1]
        assert "--memscan-dtype float32" in judged[1]


def test_fewer_images_than_planned_are_inconclusive() -> None:
    verdict, sentence = judge_coverage(replace(coverage(), generated=999, valid=999))
    assert (verdict, sentence) == (
        INCONCLUSIVE,
        "only 999 of 1000 planned images were generated",
    )


@pytest.mark.parametrize("nothing", [{"planned": 0, "generated": 0, "valid": 0}, {"train_used": 0}])
def test_a_comparison_with_nothing_is_an_error(nothing: dict[str, int]) -> None:
    assert judge_coverage(replace(coverage(), **nothing))[0] is ERROR  # type: ignore[arg-type]


@pytest.mark.parametrize("prefix", ["", "held-out: "])
def test_training_images_that_could_not_be_compared_are_named(prefix: str) -> None:
    names = ("a.png", "b.png", "c.png", "d.png")
    lost = {f"{prefix}empty file": names, f"{prefix}one flat colour": ("flat.png",)}
    verdict, sentence = judge_coverage(coverage(train_found=4000, train_unusable=lost))
    assert verdict is INCONCLUSIVE
    assert "4 " + prefix + "empty file (a.png, b.png, c.png ...)" in sentence
    assert "flat.png" not in sentence
    assert "Mend or remove these images" in sentence


@pytest.mark.parametrize(
    ("found", "lost", "verdict"),
    [
        (1000, 0, PASS),
        (1000, 1, INCONCLUSIVE),
        (999, 1, ERROR),
        (24, 1, ERROR),
        (2000, 2, INCONCLUSIVE),
        (2000, 3, ERROR),
        (10**7, 10**4, INCONCLUSIVE),
        (10**7, 10**4 + 1, ERROR),
    ],
)
def test_more_than_1_lost_training_image_in_1000_is_an_error(
    found: int, lost: int, verdict: Verdict
) -> None:
    names = tuple(f"{index}.png" for index in range(lost))
    reasons = {"empty file": names[: lost // 2], "cannot be opened": names[lost // 2 :]}
    reasons = {why: named for why, named in reasons.items() if named}
    judged = judge_coverage(coverage(train_found=found, train_unusable=reasons))
    assert judged[0] is verdict
    if verdict is ERROR:
        assert f"{lost} of {found} are more than 0.1 %" in judged[1]
        assert names[0] in judged[1]
        assert len(judged[1]) < 400


def test_lost_held_out_images_hide_no_leak() -> None:
    lost = {"held-out: empty file": ("a.png",) * 30}
    assert judge_coverage(coverage(train_unusable=lost))[0] is INCONCLUSIVE


@pytest.mark.parametrize("prefix", ["", "held-out: "])
def test_a_few_flat_training_images_are_harmless(prefix: str) -> None:
    unusable = {f"{prefix}one flat colour": ("flat.png",)}
    assert judge_coverage(coverage(train_unusable=unusable))[0] is PASS


@pytest.mark.parametrize(("flat", "verdict"), [(0, PASS), (10, PASS), (11, ERROR)])
def test_more_than_1_flat_training_image_in_100_is_an_error(flat: int, verdict: Verdict) -> None:
    names = tuple(f"flat{index}.png" for index in range(flat))
    unusable = {"one flat colour": names} if flat else {}
    judged = judge_coverage(coverage(train_found=1000, train_unusable=unusable))
    assert judged[0] is verdict
    if verdict is ERROR:
        assert "11 of 1000" in judged[1]
        assert "flat0.png, flat1.png, flat2.png ..." in judged[1]


def test_status_passes_only_with_full_coverage_and_no_error() -> None:
    complete = check(PASS, scan=scans.clean_scan())
    short = replace(scans.COVERAGE, generated=319, valid=319)
    integrity = judge_integrity(samples.INTEGRITY)
    assert integrity.verdict is PASS
    assert judge_status([integrity, complete]).verdict is PASS
    assert judge_status([integrity]).verdict is NOT_RUN
    assert judge_status([integrity, check(ERROR)]).verdict is ERROR
    assert judge_status([check(NOT_RUN, "integrity"), complete]).verdict is ERROR
    incomplete = check(FAIL, scan=replace(scans.clean_scan(), coverage=short))
    assert judge_status([complete, incomplete]).verdict is INCONCLUSIVE


def run(*checks: CheckOutcome) -> RunResult:
    return judge_run(
        checks,
        required=("integrity", "carlini", "status"),
        checkpoint="builtin:x",
        policy={},
        versions={},
        timings={},
        reason_not_run="the check was deselected",
    )


def test_checks_that_are_missing_were_not_run() -> None:
    result = run(check(PASS), check(PASS, "integrity"))
    assert result.verdict is NOT_RUN
    assert result.sentence == "the check was deselected"
    assert [each.name for each in result.checks] == ["integrity", "carlini", "status"]
    assert [each.verdict for each in result.checks] == [PASS, PASS, NOT_RUN]
    assert run().verdict is NOT_RUN


@pytest.mark.parametrize(
    "verdicts",
    [each for each in product(Verdict, repeat=3) if NOT_APPLICABLE not in each],
    ids=lambda verdicts: "-".join(verdicts),
)
def test_a_run_passes_only_when_every_check_does(
    verdicts: tuple[Verdict, Verdict, Verdict],
) -> None:
    integrity, carlini, status = verdicts
    result = run(check(status, "status"), check(integrity, "integrity"), check(carlini))
    assert (result.verdict is PASS) is (set(verdicts) == {PASS})
    assert result.verdict is worst(verdicts)
    assert result.sentence == f"it is {result.verdict}"


def test_the_sentence_of_a_pass_is_what_the_scan_measured() -> None:
    scanned = judge_scan(scans.clean_scan(), POLICY)
    result = run(check(PASS, "integrity"), scanned, check(PASS, "status"))
    assert result.sentence == scanned.sentence


def test_a_check_that_does_not_apply_is_no_pass_of_anything() -> None:
    skipped = not_applicable("carlini", "there is nothing to compare with")
    assert skipped.verdict is NOT_APPLICABLE
    integrity = judge_integrity(samples.INTEGRITY)
    status = judge_status([integrity, skipped])
    assert (status.verdict, status.sentence) == (NOT_RUN, "no scan was run")
    assert run(integrity, skipped, status).verdict is NOT_RUN
    assert run(integrity, skipped, check(PASS, "status")).sentence == integrity.sentence


def test_a_line_somebody_wrote_that_nothing_measured_is_an_error() -> None:
    scanned = judge_scan(scans.clean_scan(), POLICY)
    written = parse_threshold("memorised_prompts <= 0", source="memscan.toml")
    status = judge_status([scanned], [*POLICY, written])
    assert status.verdict is ERROR
    assert status.sentence.startswith('memscan.toml: "memorised_prompts <= 0" was not measured')
    assert judge_status([scanned], [*POLICY, parse_threshold(written.expression)]).verdict is PASS
