"""The published JSON Schema is the one of this version, and every report keeps to it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from unit.reports import kinds

import pytest_memscan.reports
from pytest_memscan.reports.__main__ import main, schema_text
from pytest_memscan.reports.json import to_json
from pytest_memscan.results import RunResult

PUBLISHED = Path(pytest_memscan.reports.__file__).parent / "report.schema.json"
REPORTS = Path(__file__).parents[2] / "data" / "reports"


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_what_is_published_is_current() -> None:
    # After a change of the results:
    # python -m pytest_memscan.reports --schema --output pytest_memscan/reports/report.schema.json
    assert PUBLISHED.read_text(encoding="utf-8") == schema_text()


def test_the_command_prints_it(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["--schema"]) == 0
    assert capsysbinary.readouterr().out.decode() == PUBLISHED.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "result", kinds.every_sample(), ids=lambda r: f"{r.verdict}-{r.checkpoint}"
)
def test_every_kind_of_report_keeps_to_it(
    result: RunResult, validator: jsonschema.Draft202012Validator
) -> None:
    validator.validate(json.loads(to_json(result)))


def test_reports_of_real_runs_keep_to_it(validator: jsonschema.Draft202012Validator) -> None:
    found = sorted(REPORTS.glob("*.json"))
    assert found
    for path in found:
        validator.validate(json.loads(path.read_text(encoding="utf-8")))


BROKEN = {
    "no verdict": lambda report: report.pop("verdict"),
    "another verdict": lambda report: report.update(verdict="green"),
    "a number as text": lambda report: report["timings"].update(generate="fast"),
    "no measure": lambda report: report["checks"][1]["scan"].pop("measure"),
    "checks of another form": lambda report: report.update(checks={}),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_report_does_not(how: str, validator: jsonschema.Draft202012Validator) -> None:
    report: dict[str, Any] = json.loads(to_json(kinds.whole()))
    broken = copy.deepcopy(report)
    BROKEN[how](broken)
    validator.validate(report)
    assert not validator.is_valid(broken)
