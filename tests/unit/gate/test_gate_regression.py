"""What a comparison with an earlier run means for the verdict, and how it is said."""

from __future__ import annotations

from dataclasses import replace

import pytest
from unit import baseline_samples as samples
from unit.baseline_samples import LINES, carlini, run

from pytest_memscan.gate.regression import judge_regression
from pytest_memscan.regression import compare
from pytest_memscan.results import CheckOutcome, MetricChange, Regression, Verdict

SINCE = "the baseline acme/faces@77ab013 (baseline.json)"


def judged(before: CheckOutcome, now: CheckOutcome, *metrics: str) -> CheckOutcome:
    found = compare(run(before), [now], metrics or LINES, source="baseline.json")
    outcome = judge_regression(found)
    assert (outcome.name, outcome.regression) == ("regression", found)
    return outcome


def test_an_increase_fails_and_says_what_rose_and_how_surely() -> None:
    outcome = judged(carlini(), carlini(range(6)))
    assert outcome.verdict is Verdict.FAIL
    assert outcome.sentence == (
        "extracted rose from 0 to 6 (6 new, 0 gone, p = 0.016); leak_rate rose from 0 % to "
        f"1.88 % (6 new, 0 gone, p = 0.016); since {SINCE}"
    )


def test_only_what_rose_is_named() -> None:
    before = carlini({sample: 3 for sample in range(5)})
    outcome = judged(before, carlini({sample: 3 for sample in range(25)}))
    assert outcome.sentence == (
        f"leak_rate rose from 1.56 % to 7.81 % (20 new, 0 gone, p < 0.000001); since {SINCE}"
    )


def test_a_count_without_ids_has_no_new_ones_to_name() -> None:
    change = MetricChange(
        metric="repeated_groups",
        check="repeats",
        before=samples.scans.count(0),
        now=samples.scans.count(7),
        test="exact test of two Poisson counts",
        p_value=1 / 128,
        increased=True,
    )
    outcome = judge_regression(
        Regression(baseline="b", source="b.json", significance=0.05, changes=(change,))
    )
    assert outcome.sentence.startswith("repeated_groups rose from 0 to 7 (p = 0.0078); since")


def test_bounds_that_part_are_shown() -> None:
    change = MetricChange(
        metric="prompt_leak_rate",
        check="carlini",
        before=samples.rate(0.01, 0.001, 0.03),
        now=samples.rate(0.1, 0.06, 0.14),
        test="bounds",
        p_value=None,
        increased=True,
    )
    outcome = judge_regression(
        Regression(baseline="b", source="b.json", significance=0.05, changes=(change,))
    )
    assert outcome.sentence.startswith(
        "prompt_leak_rate rose from 1.00 % [0.10 %, 3.00 %] to 10.0 % [6.00 %, 14.0 %]: the "
        "bounds do not overlap; since"
    )


def test_no_increase_passes_and_says_what_would_have_been_noticed() -> None:
    outcome = judged(carlini(), carlini([4, 9]))
    assert outcome.verdict is Verdict.PASS
    assert outcome.sentence == (
        f"no significant increase since {SINCE}: extracted 0 -> 2, leak_rate 0 % -> 0.62 %; "
        "extracted by exact sign test of new against gone findings; 6 new findings with none "
        "gone would have been noticed"
    )


def test_an_incomparable_run_is_inconclusive_and_names_what_differs() -> None:
    outcome = judged(carlini(), carlini(seed="1", training_images="ab" * 32))
    assert outcome.verdict is Verdict.INCONCLUSIVE
    assert outcome.sentence == (
        f"incomparable with {SINCE}: seed is 1, was 0; training images is abababab, was "
        "98c8ef97. To compare, scan with the settings of the baseline, or save a new one: run "
        "without --memscan-baseline and with --memscan-save-baseline"
    )


def test_of_many_differences_the_sentence_names_a_few() -> None:
    outcome = judged(
        carlini(), carlini(seed="1", steps="2", eta="3", dtype="bfloat16", scheduler="x", planned=9)
    )
    assert outcome.sentence.count(", was ") == 4
    assert "; and 2 more. To compare" in outcome.sentence


def test_nothing_in_common_is_no_pass() -> None:
    outcome = judged(carlini(), carlini(), "memorised_prompts")
    assert outcome.verdict is Verdict.INCONCLUSIVE
    assert "neither run measured a metric of the policy" in outcome.sentence


@pytest.mark.parametrize("field", ["baseline", "source"])
def test_names_cannot_steer_the_terminal(field: str) -> None:
    hostile = "x\x1b[31m\n::error::y"
    regression = Regression(baseline="b", source="b.json", significance=0.05)
    regression = replace(regression, **{field: hostile}, differing={hostile: (hostile, hostile)})  # type: ignore[arg-type]
    sentence = judge_regression(regression).sentence
    assert "\x1b" not in sentence
    assert "\n" not in sentence
