"""Comparing predictions with training images costs next to nothing; pace is only recorded."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.test_matching import figures_of


def test_steering_spends_its_time_in_the_denoiser(
    record_property: Callable[[str, object], None],
) -> None:
    figures = figures_of("splitting", "partial", "64", "5", "1")
    for name, value in figures.items():
        record_property(name, value)
    assert figures["aims"] == 1024
    assert figures["comparing / all of the island"] < 0.1
