"""Every rendering of every result says the same verdict, and none says more than the exit code.

The verdict is read back from each rendering by a reader of its own, which knows nothing of how it
was written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from unit.reports import kinds

from pytest_memscan.items import _properties
from pytest_memscan.reports.html import to_html
from pytest_memscan.reports.json import from_json, to_json
from pytest_memscan.reports.markdown import to_markdown
from pytest_memscan.reports.model_card import to_model_card
from pytest_memscan.reports.render import FORMATS, render
from pytest_memscan.reports.sarif import to_sarif
from pytest_memscan.reports.terminal import summary_lines
from pytest_memscan.results import RunResult, Verdict

WORDS = {
    "PASS": Verdict.PASS,
    "FAIL": Verdict.FAIL,
    "INCONCLUSIVE": Verdict.INCONCLUSIVE,
    "ERROR": Verdict.ERROR,
    "NOT RUN": Verdict.NOT_RUN,
}
KINDS = kinds.each_kind()
RUNS = {
    f"{kind}-{verdict.value}": kinds.ended(result, verdict)
    for kind, result in KINDS.items()
    for verdict in kinds.VERDICTS
}
every_run = pytest.mark.parametrize("run", RUNS)


class Badge(HTMLParser):
    """Collects the title and the first badge of a page, and what colour the page has."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.title, self.badge, self.tone = "", "", ""
        self._into = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        classes = (dict(attrs).get("class") or "").split()
        self.tone = self.tone or next((each for each in classes if each.startswith("tone-")), "")
        self._into = "title" if tag == "title" else "badge" if "badge" in classes else ""

    def handle_endtag(self, tag: str) -> None:
        self._into = ""

    def handle_data(self, data: str) -> None:
        if self._into and not getattr(self, self._into):
            setattr(self, self._into, data.strip())


def of_json(text: str) -> Verdict:
    return Verdict(json.loads(text)["verdict"])


def of_html(text: str) -> Verdict:
    page = Badge(text)
    verdict = WORDS[page.badge]
    assert WORDS[page.title.partition(":")[0]] is verdict
    assert page.tone == f"tone-{verdict.value}"
    return verdict


def of_sarif(text: str) -> Verdict:
    (run,) = json.loads(text)["runs"]
    verdict = Verdict(run["properties"]["verdict"])
    (invocation,) = run["invocations"]
    assert (not run["results"]) == (verdict is Verdict.PASS)
    assert invocation.get("exitCode") == {"pass": 0, "not_run": None}.get(verdict.value, 1)
    assert invocation["executionSuccessful"] == (verdict.value not in ("error", "not_run"))
    return verdict


def of_markdown(text: str) -> Verdict:
    head = re.match(r"## memscan: ([A-Z ]+) `", text)
    assert head
    return WORDS[head[1]]


def of_model_card(text: str) -> Verdict:
    head = re.match(r"# pytest-memscan: (NOT RUN|[A-Z]+) \S", text)
    assert head
    verdict = WORDS[head[1]]
    loaded = yaml.safe_load(text)
    if verdict not in (Verdict.PASS, Verdict.FAIL):
        assert loaded is None
    for group in (loaded or {"model-index": [{"results": []}]})["model-index"][0]["results"]:
        for metric in group["metrics"]:
            assert metric["args"]["verdict_of_run"] == verdict.value
    return verdict


def of_terminal(lines: list[str]) -> Verdict:
    head = re.match(r"memscan: (NOT RUN|[A-Z]+) \S", lines[-1])
    assert head
    return WORDS[head[1]]


def of_junit(result: RunResult) -> Verdict:
    """What somebody concludes who sees the properties of the single checks only."""
    said = {dict(_properties(check))["memscan.verdict"] for check in result.checks}
    worst_first = ("error", "fail", "inconclusive", "not_run", "pass")
    return Verdict(next((each for each in worst_first if each in said), "not_run"))


RENDERERS: dict[str, Callable[[RunResult], str]] = {
    "json": to_json,
    "html": lambda result: to_html(result, (), images="none"),
    "sarif": to_sarif,
    "md": to_markdown,
    "model-card": to_model_card,
}
READERS: dict[str, Callable[[str], Verdict]] = {
    "json": of_json,
    "html": of_html,
    "sarif": of_sarif,
    "md": of_markdown,
    "model-card": of_model_card,
}


@every_run
def test_every_rendering_says_the_verdict(run: str) -> None:
    result = RUNS[run]
    said = {kind: READERS[kind](write(result)) for kind, write in RENDERERS.items()}
    for verbosity in (-1, 0, 1):
        lines = summary_lines(result, verbosity=verbosity, width=80)
        said[f"terminal {verbosity}"] = of_terminal(lines)
    said["junit"] = of_junit(result)
    assert said == dict.fromkeys(said, result.verdict)
    # Exit status 0 is for a pass alone; of a gate that was deselected, see the controller.
    assert {verdict is Verdict.PASS for verdict in said.values()} == {run.endswith("-pass")}


def test_the_samples_themselves_agree() -> None:
    for result in kinds.every_sample():
        said = {READERS[kind](write(result)) for kind, write in RENDERERS.items()}
        assert said == {result.verdict}


def test_every_limit_has_the_same_result_everywhere() -> None:
    for result in KINDS.values():
        markdown, page = to_markdown(result), RENDERERS["html"](result)
        card = yaml.safe_load(to_model_card(result))["model-index"][0]["results"]
        args = [metric["args"] for group in card for metric in group["metrics"]]
        outcomes = {each for check in result.checks for each in check.thresholds}
        for each in outcomes:
            assert {"limit": each.expression, "verdict": each.verdict.value} in [
                {key: arg[key] for key in ("limit", "verdict")} for arg in args
            ]
            row = next(
                line for line in markdown.splitlines() if line.startswith(f"| `{each.expression}`")
            )
            assert f"**{each.verdict.value.upper()}**" in row
            assert each.expression.replace("<", "&lt;") in page
        assert len(args) == len(outcomes)


def test_every_format_has_its_renderer() -> None:
    assert list(FORMATS) == list(RENDERERS) == list(READERS)


@pytest.mark.parametrize("kind", RENDERERS)
def test_a_stored_report_is_rendered_to_the_same_bytes(kind: str) -> None:
    again = from_json(to_json(kinds.whole()))
    assert again == kinds.whole()
    assert render(kind, again) == render(kind, kinds.whole()) == RENDERERS[kind](again)


def test_no_renderer_depends_on_how_a_result_came_about() -> None:
    for result in KINDS.values():
        # Steps are timed in the order in which they ran; JSON sorts the keys of mappings.
        ordered = replace(result, timings=dict(sorted(result.timings.items())))
        again = from_json(to_json(ordered))
        for kind in ("html", "sarif", "md", "model-card"):
            assert RENDERERS[kind](again) == RENDERERS[kind](ordered), kind


@pytest.mark.parametrize("kind", ["sarif", "model-card"])
def test_renderings_without_times_do_not_depend_on_them(kind: str) -> None:
    for result in KINDS.values():
        slow = replace(result, timings={"generate": 9999.0, "other": 1.0})
        assert RENDERERS[kind](slow) == RENDERERS[kind](result)


@pytest.mark.parametrize("kind", ["json", "html", "md"])
def test_renderings_with_times_differ_in_them_alone(kind: str) -> None:
    for result in KINDS.values():
        slow = replace(result, timings={name: 9999.0 for name in result.timings})
        before, after = (RENDERERS[kind](each).splitlines() for each in (result, slow))
        assert len(before) == len(after)
        pairs = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
        assert pairs
        for old, new in pairs:
            assert _without_times(old) == _without_times(new), old


def _without_times(line: str) -> str:
    """The line of a report without times, or rates that follow from them."""
    line = re.sub(r"(&lt; )?\b\d[\d.,]*(?=\D*$)|\d+ (h|min)\b", "", line.replace("\u00a0", " "))
    return re.sub(r"&lt; |[\d.,]+ ?(min|s|h)\b|\b(min|s|h)\b|\s+", "", line)


def test_reports_of_real_runs_agree_too() -> None:
    found = sorted((Path(__file__).parents[2] / "data" / "reports").glob("*.json"))
    assert found
    for path in found:
        result = from_json(path.read_text(encoding="utf-8"))
        said = {READERS[kind](write(result)) for kind, write in RENDERERS.items()}
        assert said == {Verdict(path.stem.rpartition("-")[2])}
