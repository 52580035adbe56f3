"""Prompted generation is the stock pipeline's; its pace is recorded as a ratio, never asserted."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.test_matching import figures_of


def test_prompted_images_are_the_stock_pipeline_s(
    record_property: Callable[[str, object], None],
) -> None:
    figures = figures_of("prompts", "20", "5", "1")
    for name, value in figures.items():
        record_property(name, value)
    assert figures["same images"] == 1.0
    # Four seeds, both branches: three steps of five, and one look near timestep 0.
    assert figures["calls to screen a prompt"] == 4 * 2 * (3 + 1)
