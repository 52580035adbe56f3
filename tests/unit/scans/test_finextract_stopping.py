"""When enough is known of a fine-tune, and no image more is made."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from unit.scans.finetune_worlds import (
    BASE,
    INVALID,
    NUM_PLANNED,
    OTHERS,
    TRAIN,
    Worlds,
    copies,
)

from pytest_memscan.scans.finetune_plan import Stopping, images_to_show, shown_rate
from pytest_memscan.scans.finextract import finextract


@pytest.fixture
def worlds(tmp_path: Path) -> Iterator[Worlds]:
    worlds = Worlds(folder=tmp_path)
    with worlds.opened:
        yield worlds


@given(st.integers(1, 2000), st.integers(1, 200))
def test_the_rate_that_is_shown_leaves_a_union_bound_of_five_percent(
    num_images: int, num_train: int
) -> None:
    rate = shown_rate(num_images, num_train)
    assert num_train * (1 - rate) ** num_images == pytest.approx(0.05)


@given(st.floats(0.001, 0.5), st.integers(1, 300))
def test_so_many_images_show_a_rate_and_one_fewer_does_not(rate: float, num_train: int) -> None:
    count = images_to_show(rate, num_train)
    assert shown_rate(count, num_train) <= rate * (1 + 1e-9)
    assert shown_rate(count - 1, num_train) > rate * (1 - 1e-9)


@given(st.integers(1, 3000), st.integers(1, 64))
def test_looks_are_whole_batches_and_end_with_the_plan(planned: int, batch: int) -> None:
    looks = Stopping(planned=planned, limit=0, batch=batch).looks()
    assert looks == sorted(set(looks))
    assert looks[-1] == planned
    assert not any(look % batch for look in looks[:-1])


def test_two_images_made_at_the_shown_rate_both_come_up_with_95_percent() -> None:
    """Exactly, by inclusion and exclusion; one image is made at a time."""
    for num_images in (20, 100, 500):
        rate = shown_rate(num_images, 2)
        missed = 2 * (1 - rate) ** num_images - (1 - 2 * rate) ** num_images
        assert 0.045 < missed <= 0.05
    assert shown_rate(0, 10) == 1.0


@given(st.integers(1, 3000))
def test_looks_end_with_everything_and_are_evenly_spread(planned: int) -> None:
    looks = Stopping(planned=planned, limit=0).looks()
    assert looks == sorted(set(looks))
    assert looks[-1] == planned
    assert max(np.diff([0, *looks])) <= math.ceil(planned / 5)
    assert Stopping(planned=planned, limit=None).looks() == [planned]


@given(st.integers(1, 999), st.integers(1, 50), st.integers(0, 5), st.integers(0, 3))
def test_it_stops_when_the_limit_is_broken_or_nothing_would_have_been_missed(
    num_images: int, num_train: int, num_copied: int, limit: int
) -> None:
    stopping = Stopping(planned=1000, limit=limit, rate=0.02)
    chance = num_train * 0.98**num_images  # of missing one that comes up in 2 % of the images
    assume(abs(chance - 0.05) > 1e-9)
    enough = num_copied > limit or (num_copied == 0 and chance < 0.05)
    assert bool(stopping.why(num_images, num_copied, num_train)) is enough
    assert not stopping.why(1000, num_copied, num_train)
    assert not replace(stopping, limit=None).why(num_images, num_copied, num_train)


def test_a_broken_limit_stops_model_guidance_and_the_others_make_as_many(worlds: Worlds) -> None:
    stop = math.ceil(NUM_PLANNED / 5)
    scanned = finextract(
        worlds.target(
            TRAIN,
            NUM_PLANNED,
            # Nothing more is there: a seventh image would have to be made.
            guided=(worlds.method("finextract", copies(TRAIN, [0, 3, 3]) + OTHERS[: stop - 3]),),
            baselines=(worlds.method("direct", OTHERS[:stop]),),
            base=worlds.method("base", BASE[:stop]),
            stopping=Stopping(planned=NUM_PLANNED, limit=1),
        )
    )
    concept = scanned.concept
    assert (concept.num_planned, concept.num_images, concept.num_copied) == (NUM_PLANNED, stop, 2)
    assert "2 training images are copied already, more than the limit of 1" in concept.stopped
    assert [each.num_images for each in concept.methods] == [stop, stop]
    assert concept.images.planned == concept.images.valid == 3 * stop == worlds.described


def test_a_clean_run_stops_once_no_image_of_the_stated_rate_would_have_been_missed(
    worlds: Worlds,
) -> None:
    planned, rate = 50, 0.2  # 7 * 0.8 ** 23 is below 5 %, and the third look is after 30
    assert [7 * 0.8**n <= 0.05 for n in (20, 30)] == [False, True]
    scanned = finextract(
        worlds.target(
            TRAIN,
            planned,
            guided=(worlds.method("finextract", OTHERS[:30]),),
            baselines=(),
            base=worlds.method("base", OTHERS[30:60]),
            stopping=Stopping(planned=planned, limit=0, rate=rate),
        )
    )
    concept = scanned.concept
    assert (concept.num_images, concept.num_copied) == (30, 0)
    assert "one that comes up in 20 % of the images would have been seen" in concept.stopped
    assert concept.shown_rate == shown_rate(30, 7) <= rate


def test_images_that_cannot_be_judged_show_nothing(worlds: Worlds) -> None:
    planned = 50
    images = [INVALID if place % 2 else OTHERS[place] for place in range(planned)]
    scanned = finextract(
        worlds.target(
            TRAIN,
            planned,
            guided=(worlds.method("finextract", images),),
            baselines=(),
            base=worlds.method("base", OTHERS[50:100]),
            stopping=Stopping(planned=planned, limit=0, rate=0.2),
        )
    )
    # Of 30 images 15 are valid: 7 * 0.8 ** 15 is more than 5 %; of 50, 25, and that is everything.
    assert (scanned.concept.num_images, scanned.concept.stopped) == (50, "")
