"""Controls of scans by prompt: planted repeats are seen, and none where nothing was planted."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from pictures import smooth_images
from unit.scans.worlds import copy_of, own_picture, random_picture

from pytest_memscan.results import Control
from pytest_memscan.scans.prompt_controls import prompt_controls

Pixels = NDArray[np.uint8]
EDGE = 0.05


def unlike(number: int, *, num_images: int = 10) -> list[Pixels]:
    rng = np.random.default_rng(0)
    return [np.stack([random_picture(rng) for _ in range(num_images)]) for _ in range(number)]


def alike(*, num_copies: int, num_images: int = 10) -> Pixels:
    rng = np.random.default_rng(1)
    copies = [copy_of(own_picture(0), rng) for _ in range(num_copies)]
    return np.stack(copies + [random_picture(rng) for _ in range(num_images - num_copies)])


def controls(
    copied: list[Pixels], unrelated: list[Pixels], *, edge: float = EDGE, clique_size: int = 10
) -> dict[str, Control]:
    made = prompt_controls(copied=copied, unrelated=unrelated, edge=edge, clique_size=clique_size)
    return {control.name: control for control in made}


def pictures(number: int, *, channels: int = 3) -> list[Pixels]:
    return [image[None] for image in smooth_images(number, channels=channels)]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_scan_that_sees_passes_its_controls(channels: int) -> None:
    made = controls(pictures(20, channels=channels), unlike(20))
    assert all(control.passed for control in made.values())
    assert (made["copies"].num_found, made["strings"].num_found) == (20, 0)


def test_an_edge_that_is_too_strict_is_noticed() -> None:
    made = controls(pictures(20), unlike(20), edge=1e-6)
    assert not made["copies"].passed


def test_an_edge_that_is_too_lax_is_noticed() -> None:
    made = controls(pictures(20), unlike(20), edge=1.0)
    assert made["strings"].num_found == 20
    assert not made["strings"].passed


@pytest.mark.parametrize(("num_ghosts", "passed"), [(0, True), (2, True), (3, False)])
def test_up_to_a_tenth_of_random_strings_may_repeat(num_ghosts: int, passed: bool) -> None:
    strings = [alike(num_copies=10)] * num_ghosts + unlike(24 - num_ghosts)
    control = controls(pictures(20), strings)["strings"]
    assert (control.num_found, control.passed) == (num_ghosts, passed)


def test_a_string_repeats_by_the_same_number_of_images_as_a_prompt() -> None:
    """With large batches, ten of many images are enough, as they are for a prompt."""
    strings = [alike(num_copies=10, num_images=30), alike(num_copies=9, num_images=30)]
    assert controls(pictures(20), strings)["strings"].num_found == 1
    assert controls(pictures(20), strings, clique_size=9)["strings"].num_found == 2


def test_without_random_strings_there_is_nothing_to_miss() -> None:
    assert controls(pictures(20), [])["strings"].passed
