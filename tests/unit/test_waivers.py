"""Waivers as they are written, and everything that is wrong with one that cannot be read."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from unit.reports import prompt_scans, scans, side_scans

from pytest_memscan.config_sources import tomllib
from pytest_memscan.errors import OptionError
from pytest_memscan.gate import judge_keys, judge_prompt_scan, judge_scan, judge_side
from pytest_memscan.reports.leaks import leaks_of
from pytest_memscan.settings import Given
from pytest_memscan.waivers import WaiverLine, parse_waivers, states

TODAY = datetime.date(2026, 11, 23)
GOOD = """
[[suppress]]
id = "train#00013@1f2e3d4c"
reason = " Public domain "
expires = 2027-01-31
"""


def parsed(toml: str, *, source: str = "memscan.toml", key: str = "suppress") -> Any:
    value = tomllib.loads(toml)["suppress"]
    return parse_waivers(Given(value=value, source=source, base=Path(), key=key), today=TODAY)


def changed(**values: str | None) -> str:
    lines = {"id": '"train#00013@1f2e3d4c"', "reason": '"cleared"', "expires": "2027-01-31"}
    kept = {name: text for name, text in (lines | values).items() if text is not None}
    return "[[suppress]]\n" + "\n".join(f"{name} = {text}" for name, text in kept.items())


def test_id_reason_expiry_and_where_they_were_written() -> None:
    (line,) = parsed(GOOD)
    assert line == WaiverLine(
        id="train#00013@1f2e3d4c",
        reason="Public domain",
        expires=datetime.date(2027, 1, 31),
        source="memscan.toml",
    )
    assert parsed(changed(expires='"2027-01-31"'))[0].expires == line.expires


@pytest.mark.parametrize(
    "name",
    [
        "train#00013@1f2e3d4c",
        "train#1234567@00000000",
        "prompt#00017@deadbeef",
        "canary#00003@deadbeef",
        "concept2/train#00003@1f2e3d4c",
        "concept12/train#00003@1f2e3d4c",
    ],
)
def test_every_form_of_id(name: str) -> None:
    assert parsed(changed(id=f'"{name}"'))[0].id == name


def test_the_ids_of_real_findings_can_be_written() -> None:
    of_train, of_prompts = {"training images": "1f2e" * 16}, {"prompt list": "0a1b" * 16}
    parts: list[tuple[Any, Any, dict[str, str]]] = [
        (judge_scan, scans.leaky_scan(), of_train),
        (judge_side, side_scans.leaky_scan(), of_train),
        (judge_prompt_scan, prompt_scans.prompt_scan(), of_prompts),
        (judge_keys, prompt_scans.key_scan(), of_prompts),
    ]
    ids = {
        leak.id
        for judge, scan, provenance in parts
        for leak in leaks_of(judge(replace(scan, provenance=provenance), []))
    }
    assert len(ids) > 100
    text = "\n".join(changed(id=f'"{each}"') for each in ids)
    assert {line.id for line in parsed(text)} == ids


@pytest.mark.parametrize(
    ("toml", "complaint"),
    [
        (changed(id=None), "number 1: 'id' is missing; a waiver needs id, reason, expires"),
        (changed(reason=None), "'reason' is missing"),
        (changed(expires=None), "'expires' is missing"),
        (changed(reason='""'), "the reason of train#00013@1f2e3d4c is not a text that says"),
        (changed(reason='" \\n "'), "the reason of train#00013@1f2e3d4c is not a text that says"),
        (changed(reason='"- \\u200b"'), "the reason of train#00013@1f2e3d4c is not a text that"),
        (changed(reason="3"), "the reason of train#00013@1f2e3d4c is not a text that says"),
        (changed(expire="2027-01-31", expires=None), "unknown key 'expire', did you mean 'expi"),
        (changed(owner='"me"'), "unknown key 'owner'; a waiver has id, reason, expires"),
        (changed(id='"train#00013"'), "'train#00013' is not the id of a finding; reports show"),
        (changed(id='"train#13@1f2e3d4c"'), "is not the id of a finding"),
        (changed(id='"train#00013@unknown"'), "is not the id of a finding"),
        (changed(id=f'"train#{5 * chr(0x0660)}@1f2e3d4c"'), "is not the id of a finding"),
        (changed(id='"train#*@1f2e3d4c"'), "is not the id of a finding"),
        (changed(id='"concept0/train#00013@1f2e3d4c"'), "is not the id of a finding"),
        (changed(id='"train#00013@1f2e3d4c\\n"'), "is not the id of a finding"),
        (changed(id="13"), "13 is not the id of a finding"),
        (changed(expires='"soon"'), "expires on 'soon', which is not a day; write one as 2027"),
        (changed(expires='"2027-02-30"'), "which is not a day"),
        (changed(expires='"20270131"'), "which is not a day"),
        (changed(expires='"2027-01-31T00:00:00"'), "which is not a day"),
        (changed(expires="2027-01-31T12:00:00"), "2027-01-31 12:00:00, which is not a day"),
        (changed(expires="2027-01-31T12:00:00Z"), "which is not a day"),
        (changed(expires="12:00:00"), "expires on 12:00:00, which is not a day"),
        (changed(expires="2027"), "which is not a day"),
        (changed(expires="true"), "which is not a day"),
        (changed(expires="2207-01-31"), "more than five years ahead; 2031-11-27 is the latest"),
        (GOOD + changed(reason='"again"'), "number 2: train#00013@1f2e3d4c is waived by number 1"),
        ('suppress = "train#00013@1f2e3d4c"', "expected tables with id, reason, expires; begin"),
        ("[suppress]\nid = 3", "expected tables"),
        ("suppress = [3]", "expected tables"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_entry(toml: str, complaint: str) -> None:
    with pytest.raises(OptionError) as caught:
        parsed(toml)
    assert str(caught.value).startswith("memscan.toml: ")
    assert complaint in str(caught.value)


def test_in_pyproject_the_table_has_another_name() -> None:
    with pytest.raises(OptionError, match=r"^pyproject.toml: \[\[tool.memscan.sup"):
        parsed(changed(id=None), source="pyproject.toml")


@pytest.mark.parametrize("source", ["--memscan-suppress", "ini memscan_suppress"])
def test_only_a_policy_file_can_hold_waivers(source: str) -> None:
    with pytest.raises(OptionError, match=f"^{source}: a waiver can only be written in a policy"):
        parsed(GOOD, source=source, key="")


def test_used_unused_and_expired() -> None:
    text = "\n".join(
        changed(id=f'"train#0000{number}@1f2e3d4c"', expires=f'"{day}"')
        for number, day in enumerate(["2026-11-22", "2026-11-23", "2026-11-23"])
    )
    lines = parsed(text)
    used = {line.id for line in lines[:2]}
    told = states(lines, used, TODAY)
    assert [each.state for each in told] == ["expired", "used", "unused"]
    assert [each.expires for each in told] == ["2026-11-22", "2026-11-23", "2026-11-23"]
    assert {(each.reason, each.source) for each in told} == {("cleared", "memscan.toml")}
