"""Runs as SARIF, each held against the schema and the rules of GitHub."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
from unit.reports import samples, scans
from unit.reports.code_scanning import check_accepted

from pytest_memscan.reports.sarif import to_sarif
from pytest_memscan.results import CheckOutcome, RunResult, ThresholdOutcome, Verdict

SCHEMA = Path(__file__).parents[2] / "data" / "sarif-schema-2.1.0.json"
LIST = {"training images": "1f2e3d4c5b6a"}


@functools.cache
def validator() -> Any:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    kind = jsonschema.validators.validator_for(schema)
    kind.check_schema(schema)
    return kind(schema)


def run_of(result: RunResult) -> dict[str, Any]:
    text = to_sarif(result)
    validator().validate(json.loads(text))
    assert text.endswith("}\n")
    return check_accepted(text)


def results_of(result: RunResult) -> list[dict[str, Any]]:
    return list(run_of(result)["results"])


def told(result: RunResult) -> list[tuple[str, str]]:
    return [(each["ruleId"], each["level"]) for each in results_of(result)]


def messages(result: RunResult) -> list[str]:
    return [each["message"]["text"] for each in results_of(result)]


def failed(*thresholds: ThresholdOutcome, num: int = 3, **changes: Any) -> RunResult:
    """A run whose only scan confirmed ``num`` training images as copied."""
    findings = tuple(
        replace(scans.finding(0), sample_id=each, train_id=each, score=0.2 + each / 1000)
        for each in range(num)
    )
    scan = replace(scans.leaky_scan(), findings=findings, provenance=LIST)
    lines = thresholds or (samples.extracted(num, Verdict.FAIL),)
    check = CheckOutcome(
        name="carlini", verdict=Verdict.FAIL, sentence="Leaks.", thresholds=lines, scan=scan
    )
    return replace(samples.failed(), checks=(replace(check, **changes),))
