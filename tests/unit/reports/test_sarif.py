"""SARIF that GitHub accepts, that says what the verdict says, and knows findings again."""

from __future__ import annotations

from dataclasses import replace

import pytest
from unit.reports import (
    finetune_samples,
    prompt_samples,
    samples,
    scans,
    side_scans,
    splitting_scans,
)
from unit.reports.code_scanning import check_accepted
from unit.reports.sarif_runs import failed, messages, results_of, run_of, told

from pytest_memscan.reports.json import not_run_report
from pytest_memscan.reports.sarif import to_sarif
from pytest_memscan.results import CheckOutcome, Location, RunResult, Verdict

EVERY_RUN = [
    *samples.every_verdict(),
    *prompt_samples.every_kind(),
    *finetune_samples.every_kind(),
    *side_scans.every_kind(),
    *splitting_scans.every_kind(),
]


@pytest.mark.parametrize("result", EVERY_RUN, ids=lambda r: f"{r.verdict}-{r.checkpoint}")
def test_every_kind_of_run_is_valid_and_accepted_by_github(result: RunResult) -> None:
    run = run_of(result)
    assert bool(run["results"]) == (result.verdict is not Verdict.PASS)
    assert run["properties"]["verdict"] == result.verdict.value
    used = dict.fromkeys(each["ruleId"] for each in run["results"])
    assert [each["id"] for each in run["tool"]["driver"]["rules"]] == list(used)
    broken = {
        outcome.expression.split()[0]
        for check in result.checks
        for outcome in check.thresholds
        if outcome.verdict is Verdict.FAIL
    }
    assert {rule for rule in used if "/" not in rule} == broken


@pytest.mark.parametrize(
    ("result", "results", "successful", "exit_code"),
    [
        (samples.passed(), [], True, 0),
        (failed(num=1), [("extracted", "error")], True, 1),
        (samples.inconclusive(), [("memscan/inconclusive", "warning")], True, 1),
        (
            samples.broken(),
            [("memscan/error", "error"), ("memscan/not-run", "warning")],
            False,
            1,
        ),
        (not_run_report("builtin:leaky", "Why."), [("memscan/not-run", "warning")], False, None),
    ],
    ids=["pass", "fail", "inconclusive", "error", "not_run"],
)
def test_results_and_exit_code_agree_with_the_verdict(
    result: RunResult, results: list[tuple[str, str]], successful: bool, exit_code: int | None
) -> None:
    assert told(result) == results
    (invocation,) = run_of(result)["invocations"]
    assert invocation["executionSuccessful"] is successful
    assert invocation.get("exitCode") == exit_code


def test_a_verdict_that_no_check_explains_has_a_result_too() -> None:
    passed = samples.passed()
    lost = replace(passed, verdict=Verdict.ERROR, sentence="the report could not be written: full")
    assert messages(lost) == ["the report could not be written: full."]
    odd = replace(passed.checks[0], verdict=Verdict.FAIL, sentence="Odd.")
    assert told(replace(passed, verdict=Verdict.FAIL, checks=(odd,))) == [
        ("memscan/failed", "error")
    ]


def test_each_finding_is_known_by_rule_check_and_id_alone() -> None:
    # printf 'extracted\ncarlini\ntrain#00042@1f2e3d4c\n' | sha256sum
    result = failed(num=43)
    known = {
        each["properties"]["subject"]: each["partialFingerprints"] for each in results_of(result)
    }
    assert known["train#00042@1f2e3d4c"] == {
        "memscan/v1": "699fa78e7601bbdce3da835a80aa56c0",
        "primaryLocationLineHash": "699fa78e7601bbdce3da835a80aa56c0",
    }
    # printf 'leak_rate\ncarlini\nleak_rate\n' | sha256sum
    line = samples.leak_rate(scans.rate(256, lower=0.7, upper=0.8), Verdict.FAIL, "Too many.")
    (only,) = results_of(failed(line))
    assert only["partialFingerprints"]["memscan/v1"] == "3d9003d242bf27c23a85178737b7ff92"


def test_scores_sentences_lines_and_versions_move_no_fingerprint() -> None:
    first = failed(num=5)
    check = first.checks[0]
    assert check.scan is not None
    moved = tuple(replace(each, score=1 - each.score) for each in reversed(check.scan.findings))
    line = replace(
        check.thresholds[0],
        sentence="extracted is 6.",
        location=Location(file="memscan.toml", line=9, column=3, end_column=20),
    )
    scan = replace(check.scan, findings=moved)
    other = replace(check, sentence="Other.", thresholds=(line,), scan=scan)
    second = replace(first, checks=(other,), versions={"pytest-memscan": "9.0.0"})
    known = [each["partialFingerprints"] for each in results_of(first)]
    assert [each["partialFingerprints"] for each in results_of(second)] == known
    assert len({each["memscan/v1"] for each in known}) == 5


def test_what_was_waived_is_left_out() -> None:
    line = replace(samples.extracted(3, Verdict.FAIL), waived=("train#00001@1f2e3d4c",))
    subjects = [each["properties"]["subject"] for each in results_of(failed(line))]
    assert subjects == ["train#00000@1f2e3d4c", "train#00002@1f2e3d4c"]


def test_at_most_200_findings_of_a_line_are_listed_and_the_rest_counted() -> None:
    listed = messages(failed(samples.extracted(731, Verdict.FAIL), num=500))
    assert len(listed) == 201
    assert listed[0].startswith("train#00000 <- generated#00000, ratio 0.2 (carlini). ")
    assert listed[-1].endswith("findings not listed one by one: at least 531.")
    assert len(messages(failed(num=200))) == 200


def test_the_largest_run_stays_far_below_the_limits_of_github() -> None:
    rates = tuple(f"ams_{each}" for each in range(20))
    lines = tuple(
        replace(
            prompt_samples.threshold(metric, limit, scans.count(500), Verdict.FAIL),
            sentence="x" * 100_000,
        )
        for metric in ("extracted", *rates)
        for limit in ("0", "1")
    )
    (check,) = failed(*lines, num=500).checks
    # Ten metrics have findings; here it is one metric of ten checks.
    checks = tuple(replace(check, name=f"scan-{each}") for each in range(10))
    text = to_sarif(replace(samples.failed(), checks=checks))
    assert len(text) < 10_000_000
    assert len(check_accepted(text)["results"]) == 10 * (200 + 1 + len(rates))


def test_a_metric_that_two_lines_limit_is_reported_once() -> None:
    line = samples.extracted(3, Verdict.FAIL)
    assert len(told(failed(line, replace(line, expression="extracted <= 1")))) == 3


def test_a_result_stands_at_the_line_of_the_policy() -> None:
    place = Location(file="conf/mem scan.toml", line=7, column=5, end_column=19)
    line = replace(samples.extracted(1, Verdict.FAIL), location=place)
    (result,) = results_of(failed(line, num=1))
    assert result["locations"][0]["physicalLocation"] == {
        "artifactLocation": {"uri": "conf/mem%20scan.toml", "uriBaseId": "%SRCROOT%"},
        "region": {"startLine": 7, "startColumn": 5, "endLine": 7, "endColumn": 19},
    }


@pytest.mark.parametrize(
    "file", ["", "/home/ann/memscan.toml", "../memscan.toml", "C:/memscan.toml", "a\\b.toml", "."]
)
def test_a_file_outside_the_repository_is_not_shown(file: str) -> None:
    line = replace(samples.extracted(1, Verdict.FAIL), location=Location(file=file, line=7))
    (result,) = results_of(failed(line, num=1))
    assert result["locations"][0]["physicalLocation"] == {
        "artifactLocation": {"uri": "memscan.toml", "uriBaseId": "%SRCROOT%"},
        "region": {"startLine": 1, "startColumn": 1, "endLine": 1, "endColumn": 2},
    }


def test_every_distinct_inconclusive_sentence_is_told_once() -> None:
    rates = scans.rate(2, lower=0.001, upper=0.02)
    line = samples.leak_rate(rates, Verdict.INCONCLUSIVE, "May be.")
    other = replace(line, expression="ums_high <= 0.01", sentence="May be, too.")
    unsettled = CheckOutcome(
        name="carlini",
        verdict=Verdict.INCONCLUSIVE,
        sentence="May be.; May be, too.",
        thresholds=(line, other),
    )
    doubtful = CheckOutcome(name="side", verdict=Verdict.INCONCLUSIVE, sentence="Too few.")
    status = replace(doubtful, name="status")
    result = replace(samples.inconclusive(), checks=(unsettled, doubtful, status))
    assert messages(result) == ["May be.", "May be, too.", "Too few."]


def test_an_error_is_told_once_and_casts_doubt_on_what_its_check_found() -> None:
    check = failed(num=1, verdict=Verdict.ERROR, sentence="A control was missed.").checks[0]
    status = CheckOutcome(name="status", verdict=Verdict.ERROR, sentence="A control was missed.")
    result = replace(samples.failed(), verdict=Verdict.ERROR, checks=(check, status))
    assert told(result) == [("extracted", "error"), ("memscan/error", "error")]
    found, error = messages(result)
    assert found.endswith("The check ended in an error, so read this with care.")
    assert error == "A control was missed."
