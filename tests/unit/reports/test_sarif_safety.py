"""SARIF gives nothing away, obeys nobody, and does not change by itself."""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.reports import prompt_samples, samples, scans
from unit.reports.code_scanning import check_accepted
from unit.reports.sarif_runs import failed, messages, results_of, run_of, told, validator

from pytest_memscan.policy import METRICS
from pytest_memscan.reports import sarif_rules
from pytest_memscan.reports.json import from_json, to_json
from pytest_memscan.reports.sarif import to_sarif
from pytest_memscan.results import (
    CheckOutcome,
    Location,
    MetricChange,
    Regression,
    RunResult,
    Verdict,
)

CHANGE = MetricChange(
    metric="leak_rate",
    check="memscan::carlini",
    before=scans.rate(3, lower=0.002, upper=0.03),
    now=scans.rate(32, lower=0.07, upper=0.14),
    test="exact McNemar test of images",
    p_value=0.0001,
    increased=True,
    num_new=29,
    num_gone=0,
)


def regressed(*changes: MetricChange) -> RunResult:
    regression = Regression(
        baseline="acme/faces@77ab013", source="old.json", significance=0.05, changes=changes
    )
    check = CheckOutcome(
        name="regression", verdict=Verdict.FAIL, sentence="It rose.", regression=regression
    )
    return replace(samples.failed(), checks=(check,))


def test_what_rose_since_the_baseline_is_reported_by_metric() -> None:
    same = replace(CHANGE, metric="ums_high", increased=False)
    (result,) = results_of(regressed(CHANGE, same))
    assert (result["ruleId"], result["level"]) == ("memscan/regression", "error")
    assert result["message"]["text"] == (
        "leak_rate (carlini) rose from 0.94 % to 10.0 % since acme/faces@77ab013; findings that "
        "were not there before: 29."
    )
    # printf 'memscan/regression\ncarlini\nleak_rate\n' | sha256sum
    known_by = result["partialFingerprints"]["primaryLocationLineHash"]
    assert known_by == "828b48b08b38e07e508374f385e864d9"


def test_the_text_is_a_function_of_what_was_measured() -> None:
    result = samples.failed()
    text = to_sarif(result)
    assert to_sarif(replace(result, timings={"generate": 1.0}, policy={})) == text
    assert to_sarif(from_json(to_json(result))) == text
    assert not re.search(r"20\d\d-\d\d-\d\d|/home|/tmp|/work", text)


def test_no_prompt_and_no_file_name_of_a_training_image_is_shown() -> None:
    leaky = prompt_samples.leaky()
    shown = to_sarif(replace(leaky, prompt_texts={"prompt#00017": "Ann Lee at her desk"}))
    assert shown == to_sarif(leaky)
    assert "private-name.png" not in to_sarif(samples.inconclusive())


HOSTILE = "a\x1b[31m\u202e [here](https://evil.example) {0}\n::error::boo"


def test_names_from_files_cannot_steer_anything() -> None:
    line = replace(samples.extracted(1, Verdict.FAIL), sentence=HOSTILE)
    result = replace(failed(line, num=1), checkpoint=HOSTILE, sentence=HOSTILE)
    shown = json.dumps(json.loads(to_sarif(result)), ensure_ascii=False)
    for steering in ("\x1b", "\u202e", "](", "{0}", " ::error"):
        assert steering not in shown
    assert "[here] (https://evil.example) (0) \\::error::boo." in messages(result)[0]


@settings(max_examples=40, deadline=None)
@given(text=st.text(st.characters(), max_size=30))
def test_any_text_anywhere_makes_a_file_that_github_accepts(text: str) -> None:
    place = Location(file=text, line=-len(text), column=0, end_column=0)
    line = replace(
        samples.extracted(1, Verdict.FAIL), expression=text, sentence=text, location=place
    )
    error = CheckOutcome(name=text, verdict=Verdict.ERROR, sentence=text)
    result = replace(
        failed(line, num=1),
        checkpoint=text,
        sentence=text,
        versions={"pytest-memscan": text},
    )
    result = replace(result, checks=(*result.checks, error))
    run = check_accepted(to_sarif(result))
    assert len(run["results"]) == 2
    shown = [run["properties"]["sentence"], *(each["message"]["text"] for each in run["results"])]
    kinds = {unicodedata.category(character) for each in shown for character in each}
    assert not {kind for kind in kinds if kind[0] == "C" or kind in ("Zl", "Zp")}


@pytest.mark.parametrize(
    ("checkpoint", "id_"),
    [
        ("acme/sd@3f9c2a1", "memscan/acme/sd/"),
        ("acme/sd@v2", "memscan/acme/sd@v2/"),
        ("builtin:leaky", "memscan/builtin:leaky/"),
        ("./out/caf\u00e9 1/", "memscan/./out/caf%C3%A9%201/"),
        ("", "memscan/checkpoint/"),
    ],
)
def test_the_category_is_the_checkpoint_without_its_commit(checkpoint: str, id_: str) -> None:
    run = run_of(replace(samples.passed(), checkpoint=checkpoint))
    assert run["automationDetails"] == {"id": id_}


@pytest.mark.parametrize(
    ("versions", "shown"),
    [
        ({"pytest-memscan": "0.1.0"}, {"semanticVersion": "0.1.0"}),
        ({"pytest-memscan": "1.0.0-rc.1"}, {"semanticVersion": "1.0.0-rc.1"}),
        ({"pytest-memscan": "0.2.dev3"}, {"version": "0.2.dev3"}),
        ({"torch": "2.13.0"}, {}),
    ],
)
def test_the_version_is_called_semantic_only_where_it_is(
    versions: dict[str, str], shown: dict[str, str]
) -> None:
    driver = run_of(replace(samples.passed(), versions=versions))["tool"]["driver"]
    assert driver == {"name": "pytest-memscan", "rules": [], **shown}


def test_every_metric_of_the_policy_is_explained() -> None:
    metrics = [metric for each in METRICS.values() for metric in each]
    rules = [sarif_rules.rule_of(metric) for metric in metrics]
    assert len({rule.title for rule in rules}) == len(metrics)
    assert sarif_rules.rule_of("unheard_of") not in rules
    lines = tuple(
        prompt_samples.threshold(metric, "0", scans.count(1), Verdict.FAIL)
        for metric in (*metrics, "unheard_of")
    )
    result = failed(*lines, num=1)
    assert told(result) == [(metric, "error") for metric in (*metrics, "unheard_of")]


def test_the_schema_itself_refuses_what_is_wrong() -> None:
    assert not validator().is_valid({"version": "2.1.0", "runs": [{"results": []}]})
    assert not validator().is_valid({"version": "2.0.0", "runs": []})
