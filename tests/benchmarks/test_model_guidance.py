"""Guided images are those of a loop by hand; pace and memory are recorded, never asserted."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.test_matching import figures_of


def test_guided_images_are_those_of_two_pipelines(
    record_property: Callable[[str, object], None],
) -> None:
    figures = figures_of("model_guidance", "10", "5", "1")
    for name, value in figures.items():
        record_property(name, value)
    for kind in ("lora", "full"):
        assert figures[f"{kind}: largest difference"] < 1e-4
        assert figures[f"{kind}: MB of weights, ours"] < figures[f"{kind}: MB of weights, peer"]
