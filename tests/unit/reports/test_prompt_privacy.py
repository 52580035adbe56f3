"""What prompts say, and what files are called, reaches no report.

The secrets are planted where results can hold names at all: there is no place for a prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace

import pytest
from unit.reports import prompt_samples, prompt_scans

from pytest_memscan.reports import prompt_text, terminal
from pytest_memscan.reports.html import to_html
from pytest_memscan.reports.json import json_schema
from pytest_memscan.results import (
    Coverage,
    KeyFinding,
    KeyScan,
    PromptCoverage,
    PromptFinding,
    PromptScan,
    RunResult,
    Screening,
)

SECRET = "alice-at-the-clinic-canary"  # noqa: S105  # a marker, not a password


def planted() -> RunResult:
    """A caption file, named after the image beside it, is where a prompt was found or lost."""
    result = prompt_samples.leaky()
    scan, keys = prompt_scans.prompt_scan(), prompt_scans.key_scan()
    names = (f"{SECRET}.txt", f"{SECRET}.txt line 7", f"{SECRET}/{SECRET}.png")
    prompts = replace(scan.prompts, unusable={"empty": names})
    places = [f"{SECRET}.txt", f"{SECRET}.txt line 3"] * 10
    scan = replace(
        scan,
        prompts=prompts,
        findings=tuple(
            replace(each, place=place) for each, place in zip(scan.findings, places, strict=False)
        ),
        images=replace(scan.images, train_unusable={"not an image": names}),
    )
    keys = replace(
        keys,
        canaries=prompts,
        findings=tuple(
            replace(each, place=place) for each, place in zip(keys.findings, places, strict=False)
        ),
    )
    integrity, detectors, carlini, side, status = result.checks
    checks = (
        integrity,
        detectors,
        replace(carlini, prompt_scan=scan),
        replace(side, keys=keys),
        status,
    )
    return replace(result, checks=checks)


def shown(result: RunResult) -> Iterator[str]:
    for verbosity in (-1, 0, 1, 2):
        yield "\n".join(terminal.summary_lines(result, verbosity=verbosity, width=120))
    pictures = prompt_samples.prompt_pictures(), prompt_samples.key_pictures()
    yield to_html(result, [], prompts=pictures[0], keys=pictures[1], images="none")
    yield to_html(result, [], prompts=pictures[0], keys=pictures[1], images="clear")


def test_a_file_named_after_somebody_is_not_shown_but_its_line_is() -> None:
    texts = list(shown(planted()))
    assert not [text for text in texts if SECRET in text]
    assert all("line 7" in text for text in texts[1:])
    assert all("line 3" in text for text in texts[1:])


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("line 7", "line 7"),
        ("captions.txt line 18", "line 18"),
        ("captions.csv row 4", "row 4"),
        ("captions.txt:12", "line 12"),
        ("portraits/alice 1987.txt", ""),
        ("alice", ""),
        ("alice 12", ""),
        ("deadline 12", ""),
        ("", ""),
    ],
)
def test_a_place_is_a_line_and_nothing_else(place: str, words: str) -> None:
    assert prompt_text.place_text(place) == words


def test_results_have_no_field_for_what_a_prompt_says() -> None:
    """A new field of text is a decision about privacy: this list is where it is taken."""
    allowed = {
        PromptCoverage: {"origin"},
        PromptFinding: {"route", "kind", "place"},
        PromptScan: {"title"},
        Screening: set(),
        KeyFinding: {"place"},
        KeyScan: {"title", "deciding_space", "sentence"},
        Coverage: {"train_origin"},
    }
    for kind, names in allowed.items():
        assert {each.name for each in fields(kind) if each.type == "str"} == names, kind
    assert "PromptFinding" in json_schema()["$defs"]
