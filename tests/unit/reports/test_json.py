"""The JSON report loses nothing, invents nothing, and says what is wrong with a bad one."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
from unit.reports import prompt_samples, samples, scans

from pytest_memscan.errors import MemscanError
from pytest_memscan.reports import json as report
from pytest_memscan.results import (
    SCHEMA_VERSION,
    KeyScan,
    PromptScan,
    Repeats,
    RunResult,
    ScanResult,
    Screening,
    Verdict,
)


@pytest.mark.parametrize(
    "result",
    [*samples.every_verdict(), *prompt_samples.every_kind()],
    ids=lambda r: f"{r.verdict}-{r.checkpoint}",
)
def test_a_run_comes_back_exactly_and_writes_the_same_bytes(result: RunResult) -> None:
    text = report.to_json(result)
    again = report.from_json(text)
    assert again == result
    assert report.to_json(again) == text


def test_a_scan_comes_back_exactly() -> None:
    scan = scans.leaky_scan()
    again = report.load(report.dump(scan), ScanResult)
    assert again == scan
    assert isinstance(again, ScanResult)


def test_prompts_keys_and_repeats_come_back_as_what_they_were() -> None:
    checks = report.from_json(report.to_json(prompt_samples.leaky())).checks
    assert isinstance(checks[1].screening, Screening)
    assert isinstance(checks[2].prompt_scan, PromptScan)
    assert checks[2].prompt_scan.calls.spent == 41_200
    assert isinstance(checks[3].keys, KeyScan)
    (repeating,) = report.from_json(report.to_json(prompt_samples.repeating())).checks
    assert isinstance(repeating.repeats, Repeats)
    probed = report.from_json(report.to_json(prompt_samples.probed()))
    assert probed.checks[0].verdict is Verdict.NOT_APPLICABLE


def test_a_report_from_before_there_were_prompts_can_be_read() -> None:
    plain = json.loads(report.to_json(samples.failed()))
    for check in plain["checks"]:
        for name in ("prompt_scan", "screening", "keys", "repeats"):
            assert check.pop(name) is None
    assert report.from_json(json.dumps(plain)) == samples.failed()


def test_awkward_floats_and_names_survive() -> None:
    name = 'caf\u00e9 "\udc80" \u202e\x00'
    result = replace(samples.passed(), checkpoint=name, timings={"a": 0.1 + 0.2, "b": 5e-324})
    text = report.to_json(result)
    assert text.isascii()
    assert report.from_json(text) == result


def test_mappings_are_sorted_and_fields_keep_their_order() -> None:
    result = samples.passed()
    turned = replace(result, policy=dict(reversed(result.policy.items())))
    text = report.to_json(turned)
    assert text == report.to_json(result)
    assert text.endswith("}\n")
    plain = json.loads(text)
    assert list(plain)[:4] == ["schema_version", "verdict", "sentence", "checkpoint"]
    assert list(plain["policy"]) == sorted(plain["policy"])


def test_only_timings_differ_between_equal_runs() -> None:
    slow = replace(samples.passed(), timings={"generate": 99.0})
    fast = json.loads(report.to_json(samples.passed()))
    other = json.loads(report.to_json(slow))
    assert {key for key in fast if fast[key] != other[key]} == {"timings"}


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused_by_name(number: float) -> None:
    scan = replace(scans.leaky_scan(), excluded_rate=number)
    with pytest.raises(MemscanError, match=r"ScanResult .*: excluded_rate is -?(nan|inf)"):
        report.dump(scan)


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "1e999"])
def test_a_number_that_is_not_finite_is_refused_when_read(literal: str) -> None:
    text = report.to_json(samples.passed()).replace("74.2", literal)
    with pytest.raises(MemscanError, match=r"timings\.generate is (nan|inf)"):
        report.from_json(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not valid JSON"),
        ('{"schema_version": 1, "verd', "cut off or edited"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "no schema_version"),
        ("{}", "no schema_version"),
        ('{"schema_version": "1"}', "no schema_version"),
        ('{"schema_version": 0}', "no schema_version"),
        ('{"schema_version": 1}', "damaged at verdict: Field required"),
        (
            '{"schema_version": 1, "verdict": "green", "sentence": "", "checkpoint": ""}',
            "damaged at verdict: Input should be 'pass'",
        ),
    ],
)
def test_a_broken_report_is_explained(text: str, words: str) -> None:
    with pytest.raises(MemscanError) as caught:
        report.from_json(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_report_of_a_newer_version_asks_for_an_upgrade() -> None:
    newer = replace(samples.passed(), schema_version=SCHEMA_VERSION + 1)
    with pytest.raises(MemscanError, match=r"reads up to 1\. Upgrade pytest-memscan"):
        report.from_json(report.to_json(newer))


def test_the_schema_describes_what_is_written() -> None:
    schema = report.json_schema()
    written = json.loads(report.to_json(samples.failed()))
    assert set(schema["properties"]) == set(written)
    assert schema["$schema"].endswith("2020-12/schema")
    assert {"ScanResult", "PromptScan", "KeyScan", "Repeats"} <= set(schema["$defs"])
    assert "not_applicable" in schema["$defs"]["Verdict"]["enum"]
    json.dumps(schema)


def test_a_run_without_checks_still_has_a_report() -> None:
    result = report.not_run_report("builtin:leaky", "Every memscan check was deselected.")
    assert result.verdict is Verdict.NOT_RUN
    assert report.from_json(report.to_json(result)) == result


def test_a_file_is_replaced_whole_and_its_folder_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "report.json"
    report.write_text_atomically(path, "first\n")
    report.write_text_atomically(path, "second \u00e9\n")
    assert path.read_bytes() == "second \u00e9\n".encode()
    assert [each.name for each in path.parent.iterdir()] == ["report.json"]


def test_a_failed_write_keeps_the_old_report_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    report.write_text_atomically(path, "first\n")
    with pytest.raises(UnicodeEncodeError):
        report.write_text_atomically(path, "half \udc80")
    assert path.read_text() == "first\n"
    assert [each.name for each in tmp_path.iterdir()] == ["report.json"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MemscanError, match=r"cannot write .*report\.json: "):
        report.write_text_atomically(tmp_path / "file" / "report.json", "x")


@pytest.mark.parametrize("name", ["pipe", "link"])
def test_a_device_or_pipe_is_never_replaced_by_a_file(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    with pytest.raises(MemscanError, match=f"{name}: It is a device or a pipe"):
        report.write_text_atomically(tmp_path / name, "x")
    assert (tmp_path / "pipe").is_fifo()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["link", "pipe"]


@pytest.mark.parametrize("place", ["/dev/stdout", "/dev/no-such-device", "/dev/null"])
def test_nothing_is_written_beside_devices(place: str) -> None:
    # Not by writing: should it succeed, it would break the machine of whoever runs as root.
    with pytest.raises(OSError, match="It is a device or a pipe"):
        report._refuse_special(Path(place))


@pytest.mark.parametrize("place", ["", ".", "/"])
def test_a_folder_is_no_place_for_a_report(place: str) -> None:
    with pytest.raises(MemscanError, match=r"Is a directory\. Choose another place"):
        report.write_text_atomically(Path(place), "x")
