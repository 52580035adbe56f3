"""The built-in checkpoints by plain sampling, with nothing but the defaults."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, dict[str, Any]]]:
    """Exit code and JSON report of each."""
    folder = tmp_path_factory.mktemp("builtin")
    made = {}
    for name in ("leaky", "clean", "partial"):
        command = [sys.executable, "-m", "pytest", f"--memscan=builtin:{name}", "-q"]
        options = [f"--memscan-cache-dir={folder / 'cache'}", f"--memscan-report=json:{name}.json"]
        options.append("--memscan-scans=carlini")  # the other one has tests of its own
        code = subprocess.run(
            [*command, *options], cwd=folder, capture_output=True, check=False
        ).returncode
        made[name] = code, json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return made


def scan_of(report: dict[str, Any]) -> dict[str, Any]:
    scan: dict[str, Any] = next(check["scan"] for check in report["checks"] if check["scan"])
    return scan


def test_leaky_fails(reports: dict[str, tuple[int, dict[str, Any]]]) -> None:
    code, report = reports["leaky"]
    assert (code, report["verdict"]) == (1, "fail")
    scan = scan_of(report)
    assert scan["metrics"]["leak_rate"]["lower"] > 0.9
    assert scan["metrics"]["extracted"]["value"] > 100
    assert max(scan["findings"], key=lambda each: each["score"])["score"] < 0.5


def test_clean_passes(reports: dict[str, tuple[int, dict[str, Any]]]) -> None:
    code, report = reports["clean"]
    assert (code, report["verdict"]) == (0, "pass")
    scan = scan_of(report)
    assert scan["metrics"]["extracted"]["value"] == 0
    assert scan["metrics"]["leak_rate"]["upper"] < 0.01


def test_partial_gives_away_images_it_was_shown_again_and_again(
    reports: dict[str, tuple[int, dict[str, Any]]],
) -> None:
    """The first ten training images were shown twenty times as often as the others.

    Of the others a few are half remembered and lie just below the cut, but none is copied.
    """
    code, report = reports["partial"]
    assert (code, report["verdict"]) == (1, "fail")
    scan = scan_of(report)
    copied = {each["train_id"] for each in scan["findings"] if each["score"] < 0.5}
    assert len(copied) >= 5
    assert copied <= set(range(10))
    assert copied <= {each["train_id"] for each in scan["findings"] if each["confirmed"]}
    assert scan["metrics"]["leak_rate"]["upper"] < 0.5


def test_all_saw_their_controls_and_everything_planned(
    reports: dict[str, tuple[int, dict[str, Any]]],
) -> None:
    for _, report in reports.values():
        scan = scan_of(report)
        assert all(
            each["minimum_found"] <= each["num_found"] <= each["maximum_found"]
            for each in scan["controls"]
        )
        assert scan["coverage"]["valid"] == scan["coverage"]["planned"] == 320


def test_they_are_judged_by_the_same_rules(
    reports: dict[str, tuple[int, dict[str, Any]]],
) -> None:
    policies = [dict(report["policy"]) for _, report in reports.values()]
    for policy in policies:
        del policy["report"]
    assert policies[0] == policies[1] == policies[2]
    for name in ("steps", "scheduler", "batch size", "dtype", "similarity"):
        assert len({scan_of(report)["provenance"][name] for _, report in reports.values()}) == 1
