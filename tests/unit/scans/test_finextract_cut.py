"""FineXtract: from where on an image is a copy, and what shows that this can be trusted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from unit.scans.finetune_worlds import (
    BASE,
    DISTINCT,
    GUIDED,
    NUM_PLANNED,
    OTHERS,
    TRAIN,
    Pixels,
    Worlds,
    between,
    copies,
    cosines,
)

from pytest_memscan.scans.finetune_plan import Scanned
from pytest_memscan.scans.finextract import finextract


@pytest.fixture
def worlds(tmp_path: Path) -> Iterator[Worlds]:
    worlds = Worlds(folder=tmp_path)
    with worlds.opened:
        yield worlds


def _scan(worlds: Worlds, train: Pixels, base: list[Pixels], **changes: object) -> Scanned:
    return finextract(
        worlds.target(
            train,
            NUM_PLANNED,
            guided=(worlds.method("finextract", GUIDED),),
            baselines=(),
            base=worlds.method("base", base),
            **changes,
        )
    )


def test_a_base_that_knows_the_training_images_fails_its_control(worlds: Worlds) -> None:
    concept = _scan(worlds, TRAIN, BASE[:28] + copies(TRAIN, [3, 3], seed=5)).concept
    control = next(each for each in concept.controls if each.name == "base")
    assert (control.num_images, control.num_found, control.passed) == (NUM_PLANNED, 2, False)
    assert all(each.passed for each in concept.controls if each.name != "base")


def test_the_cut_is_the_level_of_the_descriptor_unless_real_images_are_closer(
    worlds: Worlds,
) -> None:
    """Of the tiny descriptor the high level is 0.95; duplicates are no different images."""
    concept = _scan(worlds, TRAIN, BASE).concept
    assert concept.cut == pytest.approx(0.95)
    assert "high level" in concept.cut_sentence


def test_two_training_images_that_are_more_alike_move_the_cut(worlds: Worlds) -> None:
    train = TRAIN.copy()
    train[7] = between(train[6], OTHERS[0], 0.85, 0.88)
    concept = _scan(worlds, train, BASE, high_level=0.8).concept
    assert concept.num_train == len(DISTINCT)  # not merged
    alike = cosines(train[DISTINCT], list(train[DISTINCT]))
    np.fill_diagonal(alike, 0)
    assert concept.cut == pytest.approx(alike.max(), abs=1e-6)
    assert "two different training images" in concept.cut_sentence
    assert all(control.passed for control in concept.controls)


@pytest.mark.parametrize("seed", range(4))
def test_a_holdout_image_that_is_more_alike_moves_the_cut_and_is_not_found(
    worlds: Worlds, seed: int
) -> None:
    near = between(TRAIN[4], OTHERS[seed], 0.96, 0.985)
    holdout = np.stack([*OTHERS[110:115], near])
    concept = _scan(worlds, TRAIN, BASE, holdout=holdout).concept
    assert concept.cut == pytest.approx(cosines(TRAIN, [near]).max(), abs=1e-6)
    assert "held-out" in concept.cut_sentence
    assert all(control.passed for control in concept.controls)


def test_a_holdout_image_that_was_trained_on_leaves_nothing_to_trust(worlds: Worlds) -> None:
    holdout = np.stack([*OTHERS[110:115], TRAIN[4]])
    concept = _scan(worlds, TRAIN, BASE, holdout=holdout).concept
    assert not all(control.passed for control in concept.controls)
