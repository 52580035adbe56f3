"""The verdict of a run: every check, every scan's coverage, and every line that was written."""

from __future__ import annotations

from dataclasses import replace

import pytest
from unit.gate.test_gate_prompts import DEFAULTS, GIVEN, clean_scan, written
from unit.reports import prompt_scans, samples, scans

from pytest_memscan.gate import (
    judge_integrity,
    judge_keys,
    judge_prompt_scan,
    judge_repeats,
    judge_run,
    judge_scan,
    judge_screening,
    judge_status,
    not_applicable,
)
from pytest_memscan.policy import Threshold, whole_policy
from pytest_memscan.results import CheckOutcome, RunResult, Verdict

PASS, FAIL, INCONCLUSIVE, ERROR, NOT_RUN, NOT_APPLICABLE = (
    Verdict.PASS,
    Verdict.FAIL,
    Verdict.INCONCLUSIVE,
    Verdict.ERROR,
    Verdict.NOT_RUN,
    Verdict.NOT_APPLICABLE,
)
NEUTRAL = not_applicable("repeats", "it is for unconditional checkpoints")


def check(verdict: Verdict, name: str = "carlini") -> CheckOutcome:
    return CheckOutcome(name=name, verdict=verdict, sentence=f"{name} is {verdict}")


def passed(lines: tuple[Threshold, ...] = DEFAULTS) -> list[CheckOutcome]:
    """All checks of a text-to-image checkpoint that is clean."""
    keys = prompt_scans.key_scan()
    keys = replace(keys, metrics=keys.metrics | {"extracted_canaries": scans.count(0)})
    return [
        judge_integrity(samples.INTEGRITY),
        judge_screening(prompt_scans.SCREENING),
        judge_prompt_scan(clean_scan(), lines),
        judge_keys(keys, lines),
        NEUTRAL,
    ]


def run(*checks: CheckOutcome, required: tuple[str, ...] = ()) -> RunResult:
    return judge_run(
        checks,
        required=required or tuple(each.name for each in checks),
        checkpoint="acme/sd@3f9c2a1",
        policy={},
        versions={},
        timings={},
    )


# --- status -------------------------------------------------------------------------------------


def test_status_passes_where_everything_ran_to_its_end() -> None:
    status = judge_status(passed(), DEFAULTS)
    assert (status.name, status.verdict) == ("status", PASS)
    assert "sampled to an end" in status.sentence
    assert "keys measured" in status.sentence


def test_a_check_that_does_not_apply_is_neutral() -> None:
    with_it, without = passed(), passed()[:-1]
    assert judge_status(with_it, DEFAULTS) == judge_status(without, DEFAULTS)
    assert run(*with_it).verdict is run(*without).verdict is PASS


@pytest.mark.parametrize("verdict", [ERROR, NOT_RUN])
def test_the_first_check_that_did_not_run_is_what_status_says(verdict: Verdict) -> None:
    late = check(ERROR, "extended_side")
    status = judge_status([*passed(), check(verdict), late], DEFAULTS)
    assert status.verdict is ERROR
    assert status.sentence == f"carlini is {verdict}"


@pytest.mark.parametrize("verdict", [FAIL, INCONCLUSIVE])
def test_what_a_check_found_is_its_own_to_say(verdict: Verdict) -> None:
    assert judge_status([*passed(), check(verdict)], DEFAULTS).verdict is PASS


def test_keys_alone_without_a_limit_are_no_pass() -> None:
    keys = CheckOutcome(
        name="extended_side", verdict=Verdict.PASS, sentence="", keys=prompt_scans.key_scan()
    )
    status = judge_status([judge_integrity(samples.INTEGRITY), keys])
    assert status.verdict is Verdict.INCONCLUSIVE
    assert "no line of the policy" in status.sentence


def test_without_any_scan_status_does_not_pass() -> None:
    status = judge_status([judge_integrity(samples.INTEGRITY), NEUTRAL])
    assert (status.verdict, status.sentence) == (NOT_RUN, "no scan was run")


def test_gaps_of_any_scan_are_gaps_of_the_run() -> None:
    cut = judge_prompt_scan(clean_scan(prompts=replace(GIVEN, num_planned=50)), DEFAULTS)
    assert cut.verdict is PASS
    status = judge_status([*passed(), cut], DEFAULTS)
    assert status.verdict is INCONCLUSIVE
    assert "50 of 2000 prompts" in status.sentence
    assert "sampled to an end" not in status.sentence

    keys = judge_keys(replace(prompt_scans.key_scan(), num_canaries=1), DEFAULTS)
    assert judge_status([*passed(), keys], DEFAULTS).verdict is INCONCLUSIVE

    found = prompt_scans.repeats()
    bad = replace(found, images=replace(found.images, valid=1000, invalid={"constant": 1000}))
    assert judge_status([judge_repeats(bad, DEFAULTS)], DEFAULTS).verdict is ERROR


def test_scans_that_compare_with_training_images_are_covered_too() -> None:
    lines = whole_policy((), {"images"})
    status = judge_status([judge_scan(scans.clean_scan(), lines)], lines)
    assert status.verdict is PASS
    nothing = replace(scans.clean_scan(), coverage=replace(scans.COVERAGE, train_used=0))
    assert judge_status([judge_scan(nothing, lines)], lines).verdict is ERROR


# --- lines that nothing measured ----------------------------------------------------------------


def test_a_line_that_nothing_measured_is_an_error_naming_it() -> None:
    lines = whole_policy(written("repeated_groups <= 0"), {"prompts", "keys"})
    status = judge_status(passed(lines), lines)
    assert status.verdict is ERROR
    assert status.sentence == (
        '--memscan-fail: "repeated_groups <= 0" was not measured: no check of this run gives '
        "repeated_groups"
    )


def test_a_default_line_that_nothing_measured_is_none() -> None:
    lines = whole_policy((), {"images", "prompts", "keys", "repeats"})
    assert {line.subject for line in lines} == {"images", "prompts", "keys", "repeats"}
    assert judge_status(passed(lines), lines).verdict is PASS


@pytest.mark.parametrize("line", ["memorised_prompts <= 0", "extracted_canaries < 1"])
def test_a_line_that_was_measured_is_no_error(line: str) -> None:
    lines = whole_policy(written(line), {"prompts", "keys"})
    assert judge_status(passed(lines), lines).verdict is PASS


def test_a_line_on_keys_counts_as_measured_although_another_one_is_default() -> None:
    keys = replace(prompt_scans.key_scan(), num_canaries=0, canaries=None)
    lines = whole_policy(written("low_variance_prompts <= 5"), {"keys"})
    assert judge_status([judge_keys(keys, lines)], lines).verdict is PASS


# --- the run ------------------------------------------------------------------------------------


def test_a_run_passes_with_the_words_of_its_first_scan() -> None:
    result = run(*passed(), judge_status(passed(), DEFAULTS))
    assert result.verdict is PASS
    assert result.sentence == passed()[2].sentence
    assert [each.name for each in result.checks][-1] == "status"


def test_a_run_of_an_unconditional_checkpoint_passes_with_the_words_of_its_scan() -> None:
    lines = whole_policy(written("repeated_groups <= 9"), {"repeats"})
    repeats = judge_repeats(prompt_scans.repeats(), lines)
    result = run(judge_integrity(samples.INTEGRITY), repeats, judge_status([repeats], lines))
    assert (result.verdict, result.sentence) == (PASS, repeats.sentence)


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([PASS, INCONCLUSIVE], INCONCLUSIVE),
        ([PASS, INCONCLUSIVE, FAIL], FAIL),
        ([FAIL, ERROR], ERROR),
        ([PASS, NOT_APPLICABLE], PASS),
        ([NOT_APPLICABLE, FAIL], FAIL),
    ],
)
def test_the_worst_check_decides_and_speaks(verdicts: list[Verdict], expected: Verdict) -> None:
    checks = [check(verdict, f"check{place}") for place, verdict in enumerate(verdicts)]
    result = run(*checks)
    assert result.verdict is expected
    assert result.sentence == next(e.sentence for e in checks if e.verdict is expected)


def test_a_required_check_that_is_missing_is_not_run() -> None:
    result = run(check(PASS), required=("integrity", "carlini"))
    assert result.verdict is NOT_RUN
    assert [each.verdict for each in result.checks] == [NOT_RUN, PASS]
    assert result.sentence == "not selected"


def test_what_is_not_required_does_not_count() -> None:
    assert run(check(PASS), check(FAIL, "extra"), required=("carlini",)).verdict is PASS
