"""What the terminal shows of a comparison with an earlier run."""

from __future__ import annotations

from dataclasses import replace

from unit import baseline_samples as samples
from unit.baseline_samples import LINES, carlini, run

from pytest_memscan.gate.regression import judge_regression
from pytest_memscan.regression import compare
from pytest_memscan.reports.regression_text import regression_lines
from pytest_memscan.results import CheckOutcome, MetricChange, Regression, RunResult


def shown(regression: Regression, *, verbosity: int = 0, width: int = 100) -> str:
    lines = regression_lines(run(judge_regression(regression)), verbosity=verbosity, width=width)
    assert all(line.isascii() for line in lines)
    return "\n".join(lines)


def compared(now: CheckOutcome) -> Regression:
    return compare(run(carlini([3])), [now], LINES, source="ci/baseline.json")


INCREASED = """\
baseline: acme/faces@77ab013 (ci/baseline.json)
  metric        then      now   new   gone        p   result
  extracted        1        6     6      1    0.062   no increase shown
  leak_rate   0.31 %   3.75 %    12      1   0.0017   INCREASED"""


def test_every_metric_then_and_now() -> None:
    copies = {10 + sample: 50 + sample % 6 for sample in range(12)}
    assert shown(compared(carlini(copies))) == INCREASED


def test_verbose_says_how_they_were_compared() -> None:
    text = shown(compared(carlini([3], torch="2.14.0")), verbosity=1, width=200)
    assert (
        "\n  extracted: exact sign test of new against gone findings; 6 new findings with none "
        "gone would have been noticed; not the same in both: torch 2.13.0+cpu then, 2.14.0 now\n"
    ) in text
    assert text.endswith(
        "\n  all p-values together (Holm), at a chance of 5 % of any false increase"
    )


INCOMPARABLE = """\
baseline: incomparable with acme/faces@77ab013 (ci/baseline.json); these have to match:
                    then       now
  seed              0          1
  training images   98c8ef97   abababab"""


def test_what_has_to_match_stands_side_by_side() -> None:
    now = carlini([3], seed="1", training_images="ab" * 32)
    assert shown(compared(now)) == INCOMPARABLE


def test_many_differences_are_cut_short_unless_asked_for() -> None:
    keys = {f"key {number:02d}": ("a", "b") for number in range(11)}
    regression = Regression(baseline="b", source="b.json", significance=0.05, differing=keys)
    assert shown(regression).endswith("key 07   a      b\n  and 3 more (-v lists them)")
    assert "key 10" in shown(regression, verbosity=1)


def test_bounds_are_shown_where_they_decided() -> None:
    change = MetricChange(
        metric="prompt_leak_rate",
        check="carlini",
        before=samples.rate(0.01, 0.001, 0.03),
        now=samples.rate(0.1, 0.06, 0.14),
        test="bounds",
        p_value=None,
        increased=True,
    )
    regression = Regression(baseline="b", source="b.json", significance=0.05, changes=(change,))
    text = shown(regression)
    assert "1.00 % [0.10 %, 3.00 %]   10.0 % [6.00 %, 14.0 %]" in text
    assert text.endswith("INCREASED")


def test_nothing_is_shown_without_a_baseline_or_when_quiet() -> None:
    assert regression_lines(run(carlini()), verbosity=1, width=80) == []
    result = run(judge_regression(compared(carlini())))
    assert regression_lines(result, verbosity=-1, width=80) == []


def test_a_comparison_of_nothing_says_so() -> None:
    regression = Regression(baseline="b", source="b.json", significance=0.05)
    assert shown(regression) == "baseline: nothing was compared with b (b.json)"


def test_names_from_files_cannot_steer_the_terminal() -> None:
    hostile = "x\x1b[31m\n::error::y"
    regression = Regression(
        baseline=hostile,
        source=hostile,
        significance=0.05,
        differing={hostile: (hostile, hostile)},
    )
    for each in (regression, replace(regression, differing={})):
        text = shown(each)
        assert "\x1b" not in text
        assert "\n::error" not in text


def test_the_report_keeps_a_comparison() -> None:
    from pytest_memscan.reports.json import from_json, to_json

    result: RunResult = run(judge_regression(compared(carlini(range(9)))))
    assert from_json(to_json(result)) == result
