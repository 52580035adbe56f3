"""The control of splitting finds rare images where steering works, and not where it does not."""

from __future__ import annotations

import pytest
import torch
from unit.splitting.models import pictures, pipeline, watched

from pytest_memscan.scans import memoriser
from pytest_memscan.scans.memoriser import memoriser_control
from pytest_memscan.splitting.chain import Chain

STEPS = 20


def some_pictures(num: int) -> torch.Tensor:
    """All different, in [-1, 1]."""
    random = torch.Generator().manual_seed(3)
    return torch.rand((num, 1, 4, 4), generator=random) * 1.8 - 0.9


def test_rare_images_come_out() -> None:
    pipe, clean = pipeline(), some_pictures(200)
    control = memoriser_control(
        Chain(pipeline=pipe, num_steps=STEPS, batch_size=64),
        lambda rows: clean[rows],
        num_targets=200,
        seed=0,
    )
    assert control.passed
    assert (control.num_images, control.minimum_found, control.maximum_found) == (8, 2, 8)
    assert "8 training images that an exact model of 128" in control.sentence


def test_the_checkpoint_is_not_asked_and_is_left_as_it_was() -> None:
    pipe, clean = pipeline(), pictures(20)
    with watched(pipe) as seen:
        memoriser_control(
            Chain(pipeline=pipe, num_steps=3, batch_size=64),
            lambda rows: clean[rows],
            num_targets=20,
            seed=0,
        )
    assert seen.shapes == []
    assert "forward" not in vars(pipe.unet)
    assert "step" not in vars(pipe.scheduler)


def test_without_steering_the_control_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too few ordinary trajectories to learn from leave the islands unsteered."""
    monkeypatch.setattr(memoriser, "POPULATION", 16)
    pipe, clean = pipeline(), some_pictures(200)
    control = memoriser_control(
        Chain(pipeline=pipe, num_steps=STEPS, batch_size=16),
        lambda rows: clean[rows],
        num_targets=200,
        seed=0,
    )
    assert not control.passed


def test_two_images_are_enough_to_remember() -> None:
    pipe, clean = pipeline(), some_pictures(2)
    control = memoriser_control(
        Chain(pipeline=pipe, num_steps=STEPS, batch_size=64),
        lambda rows: clean[rows],
        num_targets=2,
        seed=0,
    )
    assert (control.num_images, control.minimum_found, control.maximum_found) == (1, 1, 1)
    assert control.num_found in (0, 1)
