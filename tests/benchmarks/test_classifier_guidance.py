"""Scale 0 is the pipeline as it is; pace and memory are recorded, never asserted."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.test_matching import figures_of


def test_scale_0_makes_the_unguided_images_and_steps_pile_up_nothing(
    record_property: Callable[[str, object], None],
) -> None:
    figures = figures_of("classifier_guidance", "32", "5", "1")
    for steps in ("10", "100"):
        figures[f"peak MB of {steps} steps"] = figures_of("classifier_guidance", "peak", steps)[
            "peak MB"
        ]
    for name, value in figures.items():
        record_property(name, value)
    assert figures["same images at scale 0"]
    assert not figures["same images guided"]
    # Noisy images and graphs of 90 more steps, were they kept, would be several times that.
    assert figures["peak MB of 100 steps"] < figures["peak MB of 10 steps"] + 100
