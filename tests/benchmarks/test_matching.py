"""Matching is exact and bounded in memory; its speed is recorded as a ratio, never asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

SCRIPT = Path(__file__).with_name("matching.py")


def test_integer_matching_is_exact_and_bounded(
    record_property: Callable[[str, object], None],
) -> None:
    # A process of its own: peak memory is that of the whole process.
    output = subprocess.run(
        [sys.executable, str(SCRIPT), "500", "12000", "3072"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    figures = json.loads(output)
    for name, value in figures.items():
        record_property(name, value)
    assert figures["same nearest"] == 1.0
    assert figures["peak MB above inputs"] < 600
