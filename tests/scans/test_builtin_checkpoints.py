"""The built-in checkpoints by plain sampling, with nothing but the defaults."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Reports = Callable[[str], tuple[int, dict[str, Any]]]
NAMES = ("leaky", "clean", "partial")


@pytest.fixture
def report_of(once: Callable[[str, Callable[[Path], None]], Path]) -> Reports:
    """Exit code and JSON report of one, by its name."""

    def scan(folder: Path) -> None:
        name = folder.name.rpartition("-")[2]
        command = [sys.executable, "-m", "pytest", f"--memscan=builtin:{name}", "-q"]
        options = ["--memscan-cache-dir=cache", "--memscan-report=json:report.json"]
        options.append("--memscan-scans=carlini")  # the other one has tests of its own
        run = subprocess.run([*command, *options], cwd=folder, capture_output=True, check=False)
        (folder / "code").write_text(str(run.returncode))

    def read(name: str) -> tuple[int, dict[str, Any]]:
        folder = once(f"builtin-{name}", scan)
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        return int((folder / "code").read_text()), report

    return read


def scan_of(report: dict[str, Any]) -> dict[str, Any]:
    scan: dict[str, Any] = next(check["scan"] for check in report["checks"] if check["scan"])
    return scan


def test_leaky_fails(report_of: Reports) -> None:
    code, report = report_of("leaky")
    assert (code, report["verdict"]) == (1, "fail")
    scan = scan_of(report)
    assert scan["metrics"]["leak_rate"]["lower"] > 0.9
    assert scan["metrics"]["extracted"]["value"] > 100
    assert max(scan["findings"], key=lambda each: each["score"])["score"] < 0.5


def test_clean_passes(report_of: Reports) -> None:
    code, report = report_of("clean")
    assert (code, report["verdict"]) == (0, "pass")
    scan = scan_of(report)
    assert scan["metrics"]["extracted"]["value"] == 0
    assert scan["metrics"]["leak_rate"]["upper"] < 0.01


def test_partial_gives_away_images_it_was_shown_again_and_again(
    report_of: Reports,
) -> None:
    """The first ten training images were shown twenty times as often as the others.

    Of the others a few are half remembered and lie just below the cut, but none is copied.
    """
    code, report = report_of("partial")
    assert (code, report["verdict"]) == (1, "fail")
    scan = scan_of(report)
    copied = {each["train_id"] for each in scan["findings"] if each["score"] < 0.5}
    assert len(copied) >= 5
    assert copied <= set(range(10))
    assert copied <= {each["train_id"] for each in scan["findings"] if each["confirmed"]}
    assert scan["metrics"]["leak_rate"]["upper"] < 0.5


def test_all_saw_their_controls_and_everything_planned(
    report_of: Reports,
) -> None:
    for name in NAMES:
        scan = scan_of(report_of(name)[1])
        assert all(
            each["minimum_found"] <= each["num_found"] <= each["maximum_found"]
            for each in scan["controls"]
        )
        assert scan["coverage"]["valid"] == scan["coverage"]["planned"] == 320


def test_they_are_judged_by_the_same_rules(
    report_of: Reports,
) -> None:
    reports = [report_of(name)[1] for name in NAMES]
    assert reports[0]["policy"] == reports[1]["policy"] == reports[2]["policy"]
    for name in ("steps", "scheduler", "batch size", "dtype", "similarity"):
        assert len({scan_of(report)["provenance"][name] for report in reports}) == 1
