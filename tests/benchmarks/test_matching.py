"""Matching is exact and bounded in memory; its speed is recorded as a ratio, never asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]


def figures_of(script: str, *arguments: str) -> dict[str, Any]:
    """A process of its own: peak memory is that of the whole process."""
    finished = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{script}", *arguments],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )
    figures: dict[str, Any] = json.loads(finished.stdout)
    return figures


def test_integer_matching_is_exact_and_bounded(
    record_property: Callable[[str, object], None],
) -> None:
    figures = figures_of("matching", "500", "12000", "3072", "1")
    for name, value in figures.items():
        record_property(name, value)
        if name.startswith("same nearest"):
            assert value == 1.0
    assert figures["peak MB above inputs"] < 600


def test_cosine_matching_agrees_with_its_peers(
    record_property: Callable[[str, object], None],
) -> None:
    for kind, figures in figures_of("cosine", "400", "6000", "128", "10", "1").items():
        for name, value in figures.items():
            record_property(f"{kind}: {name}", value)
            if name.startswith("same nearest"):
                assert value == 1.0
            elif name.startswith("same 10"):
                assert value > 0.999  # theirs are float32


def test_memory_does_not_grow_with_the_training_set(
    record_property: Callable[[str, object], None],
) -> None:
    figures = figures_of("memory", "20000", "80000", "--generated=1200", "--dimension=128")
    small, large = (figures[each]["peak MB of most_similar"] for each in ("20,000", "80,000"))
    record_property("peak MB at 20,000 and 80,000", (small, large))
    assert large < 400
    assert large < small + 50


def test_building_an_index_is_recorded(record_property: Callable[[str, object], None]) -> None:
    figures = figures_of("indexing", "300", "16", "--repeats=1")
    assert len(figures) == 6
    for name, value in figures.items():
        record_property(name, value)
