"""What a verdict means, in words that need no explanation."""

from __future__ import annotations

import html
from dataclasses import replace

import pytest
from unit.reports import kinds

from pytest_memscan.reports.html import to_html
from pytest_memscan.reports.markdown import to_markdown
from pytest_memscan.reports.plain_words import HOLDS, plain_words
from pytest_memscan.results import CheckOutcome, RunResult, ThresholdOutcome, Verdict


def failed(*metrics: str) -> RunResult:
    lines = tuple(
        ThresholdOutcome(
            expression=f"{metric} <= 0", source="default", verdict=Verdict.FAIL, sentence="over"
        )
        for metric in metrics
    )
    check = CheckOutcome(name="carlini", verdict=Verdict.FAIL, sentence="over", thresholds=lines)
    return RunResult(verdict=Verdict.FAIL, sentence="over", checkpoint="model", checks=(check,))


def test_each_broken_limit_is_said_once() -> None:
    assert plain_words(failed("extracted", "memorised_prompts", "extracted")) == (
        "A training image can be extracted. A prompt is memorised."
    )


def test_an_increase_is_said_too() -> None:
    assert plain_words(kinds.whole()).endswith("The checkpoint leaks more than before.")


def test_a_failure_without_a_broken_limit_is_no_pass() -> None:
    assert plain_words(failed()) == "A memscan check failed."


@pytest.mark.parametrize("verdict", kinds.VERDICTS)
def test_only_a_pass_reads_like_one(verdict: Verdict) -> None:
    for kind, result in kinds.each_kind().items():
        words = plain_words(kinds.ended(result, verdict))
        assert (words == HOLDS) is (verdict is Verdict.PASS), kind


def test_html_and_markdown_begin_with_it() -> None:
    result = replace(failed("extracted"), sentence="extracted is 1, over the limit of 0")
    words = plain_words(result)
    page = html.unescape(to_html(result, (), images="none"))
    assert page.index(words) < page.index(result.sentence)
    summary = to_markdown(result)
    assert summary.index(words) < summary.index(result.sentence)
