"""What a workflow on GitHub says of a run."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from unit.reports import samples

from pytest_memscan.reports import github
from pytest_memscan.results import (
    CheckOutcome,
    Estimate,
    Location,
    MetricChange,
    Regression,
    RunResult,
    ThresholdOutcome,
    Verdict,
)

HERE = Location(file="memscan.toml", line=3, column=1, end_column=20)
ONE = Estimate(value=1, lower=1, upper=1)


def limits(count: int) -> RunResult:
    outcomes = tuple(
        ThresholdOutcome(
            expression=f"metric_{number} <= 0",
            source="memscan.toml",
            verdict=Verdict.FAIL,
            sentence=f"metric_{number} is 1, over the limit of 0",
            location=HERE,
        )
        for number in range(count)
    )
    check = CheckOutcome(
        name="memscan::carlini", verdict=Verdict.FAIL, sentence="", thresholds=outcomes
    )
    return RunResult(verdict=Verdict.FAIL, sentence="s", checkpoint="c", checks=(check,))


def compared(regression: Regression | None) -> RunResult:
    check = CheckOutcome(
        name="regression", verdict=Verdict.PASS, sentence="", regression=regression
    )
    return RunResult(verdict=Verdict.PASS, sentence="", checkpoint="c", checks=(check,))


def test_a_pass_annotates_nothing() -> None:
    passed = RunResult(verdict=Verdict.PASS, sentence="", checkpoint="c")
    assert github.to_annotations(passed) == []


def test_a_broken_limit_is_shown_where_it_was_set() -> None:
    (found,) = github.to_annotations(limits(1))
    assert found.title == "memscan carlini: FAIL"
    assert found.message == "metric_0 is 1, over the limit of 0\nThe limit: metric_0 <= 0"
    assert found.location == HERE


def test_limits_that_hold_are_not_annotated() -> None:
    result = samples.failed()
    held = [
        each.expression
        for check in result.checks
        for each in check.thresholds
        if each.verdict is Verdict.PASS
    ]
    shown = "\n".join(each.message for each in github.to_annotations(result))
    assert shown
    assert not [expression for expression in held if expression in shown]


@pytest.mark.parametrize(
    ("count", "shown", "more"), [(10, 10, ""), (11, 10, "2"), (500, 10, "491")]
)
def test_github_is_never_given_more_than_it_shows(count: int, shown: int, more: str) -> None:
    found = github.to_annotations(limits(count))
    assert len(found) == shown
    assert (f"and {more} more" in found[-1].message) is bool(more)


def test_the_same_limit_of_two_checks_is_annotated_once() -> None:
    (check,) = limits(1).checks
    twice = replace(limits(1), checks=(check, check))
    assert len(github.to_annotations(twice)) == 1


def test_a_check_that_could_not_work_is_annotated_with_its_sentence() -> None:
    found = github.to_annotations(samples.broken())
    assert found[0].title == "memscan integrity: ERROR"
    assert "is a pickle" in found[0].message
    assert found[0].location is None


def test_a_run_without_checks_is_annotated_as_a_whole() -> None:
    result = RunResult(verdict=Verdict.NOT_RUN, sentence="deselected", checkpoint="c")
    (found,) = github.to_annotations(result)
    assert (found.title, found.message) == ("memscan: NOT RUN", "deselected")


def test_names_in_a_message_cannot_steer_the_log() -> None:
    result = RunResult(
        verdict=Verdict.ERROR, sentence="bad file a\x1b[31m\n::set-output::x", checkpoint="c"
    )
    (found,) = github.to_annotations(result)
    assert found.message == "bad file a\\x1b[31m\n\\::set-output::x"


def test_the_decisive_metric_is_the_first_limit_of_the_runs_own_verdict() -> None:
    assert github.decisive_metric(samples.failed()) == "extracted 132 > 0"
    assert github.decisive_metric(samples.broken()) == ""


def test_a_checkpoint_of_the_hub_is_known_by_its_commit() -> None:
    result = samples.failed()
    commit = "a1b2" * 10
    checks = tuple(
        each
        if each.scan is None
        else replace(
            each, scan=replace(each.scan, provenance={"checkpoint commit": commit, "seed": "0"})
        )
        for each in result.checks
    )
    assert github.checkpoint_hash(replace(result, checks=checks)) == commit


def test_local_files_are_known_by_the_hash_of_their_listing() -> None:
    listing = "".join(
        f"{digest}  {name}\n" for name, digest in sorted(samples.INTEGRITY.files.items())
    )
    expected = hashlib.sha256(listing.encode()).hexdigest()
    check = CheckOutcome(
        name="integrity", verdict=Verdict.PASS, sentence="", integrity=samples.INTEGRITY
    )
    result = RunResult(verdict=Verdict.PASS, sentence="", checkpoint="c", checks=(check,))
    assert github.checkpoint_hash(result) == expected
    assert github.checkpoint_hash(replace(result, checks=())) == ""


@pytest.mark.parametrize(
    ("increased", "differing", "word"),
    [
        (None, {}, ""),
        (False, {}, "none"),
        (True, {}, "increase"),
        (None, {"seed": ("0", "1")}, "incomparable"),
    ],
)
def test_a_regression_is_one_word(
    increased: bool | None, differing: dict[str, tuple[str, str]], word: str
) -> None:
    change = MetricChange(
        metric="extracted",
        check="carlini",
        before=ONE,
        now=ONE,
        test="exact",
        p_value=0.5,
        increased=bool(increased),
    )
    regression = Regression(
        baseline="c",
        source="b.json",
        significance=0.05,
        changes=() if increased is None else (change,),
        differing=differing,
    )
    assert github.regression_word(compared(regression if word else None)) == word
