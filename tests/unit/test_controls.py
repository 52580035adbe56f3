"""Controls catch a scan that cannot see, and one that sees ghosts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pictures import smooth_images

from pytest_memscan.results import Control
from pytest_memscan.scans.controls import run_controls
from pytest_memscan.similarity.reference import prepare


def controls(cut: float = 0.9, **changes: object) -> dict[str, Control]:
    reference = replace(prepare(smooth_images(100)), **changes)  # type: ignore[arg-type]
    made = run_controls(reference, confirmed_cut=cut)
    return {control.name: control for control in made}


def test_a_scan_that_sees_passes_its_controls() -> None:
    assert all(control.passed for control in controls().values())


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_colour_images_can_be_planted(channels: int) -> None:
    made = run_controls(prepare(smooth_images(60, channels=channels)), confirmed_cut=0.9)
    assert all(control.passed for control in made)


def test_a_cut_too_strict_to_see_anything_is_noticed() -> None:
    made = controls(cut=0.001)
    assert not made["jpeg_confirmed"].passed
    assert made["jpeg"].passed


def test_a_cut_that_lets_everything_through_is_noticed() -> None:
    made = controls(cut=1.99)
    assert not made["noise"].passed


def test_a_distance_that_cannot_tell_images_apart_is_noticed() -> None:
    """As a descriptor with broken weights would: every image looks the same."""
    reference = prepare(smooth_images(100))
    blind = replace(reference, pixels=np.repeat(reference.pixels[:1], 100, axis=0))
    made = {c.name: c for c in run_controls(blind, confirmed_cut=0.9)}
    assert not made["jpeg"].passed
    assert not made["crop"].passed


def test_held_out_images_are_a_control_of_their_own() -> None:
    images = smooth_images(160)
    reference = prepare(images[:100])
    made = {c.name: c for c in run_controls(reference, confirmed_cut=0.9, holdout=images[100:])}
    assert made["holdout"].passed
    assert made["holdout"].num_images == 60
