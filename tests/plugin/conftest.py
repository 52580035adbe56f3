"""Runs of the plugin as users run it, small enough to be many."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from preloaded import PRELOADED

__all__ = ["PRELOADED"]

# 8 images of 10 steps: enough for a model that copies nearly always, done in a second. They would
# not do for memscan::splitting, which looks at every training image.
EVERY_SCAN = (
    "--memscan-budget=8img",
    "--memscan-steps=10",
    "--memscan-batch-size=8",
    "--memscan-fail=extracted <= 0",
)
QUICK = (*EVERY_SCAN, "--memscan-scans=carlini")

Gate = Callable[..., pytest.RunResult]


@pytest.fixture
def gate(pytester: pytest.Pytester) -> Gate:
    """Run pytest in the test's folder with ``--memscan MODEL`` and a small budget.

    One scan is enough for most tests; ``every_scan`` leaves it to the checkpoint which there are.
    """

    def run(
        model: str, *arguments: str, subprocess: bool = False, every_scan: bool = False
    ) -> pytest.RunResult:
        command = ("--memscan", model, *(EVERY_SCAN if every_scan else QUICK), *arguments)
        if subprocess:
            return pytester.runpytest_subprocess(*command)
        return pytester.runpytest_inprocess(*command)

    return run


def read_report(folder: Path) -> dict[str, Any]:
    """The verdict file of the run in ``folder``."""
    report: dict[str, Any] = json.loads((folder / ".memscan" / "report.json").read_text())
    return report
