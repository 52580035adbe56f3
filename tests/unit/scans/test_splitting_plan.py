"""How a splitting scan spends its budget."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_memscan.scans.splitting import Plan, least_images, plan
from pytest_memscan.scans.splitting_plan import LEAST_BUDGET, SMALLEST_ISLAND
from pytest_memscan.splitting.learning import SIGNAL_SHARES

BUDGETS = st.integers(LEAST_BUDGET, 10**7)
TARGETS = st.integers(2, 10**6)
STEPS = st.integers(1, 1000)
LARGEST = st.integers(SMALLEST_ISLAND, 512)


@given(num_images=BUDGETS, num_targets=TARGETS, num_steps=STEPS, largest_island=LARGEST)
def test_a_plan_spends_at_most_the_budget_and_leaves_nothing_out(
    num_images: int, num_targets: int, num_steps: int, largest_island: int
) -> None:
    made = plan(
        num_images, num_targets=num_targets, num_steps=num_steps, largest_island=largest_island
    )
    assert all(value >= 1 for value in vars(made).values())
    assert made.denoiser_calls(num_steps) <= num_images * num_steps
    assert made.island_size <= largest_island
    assert made.num_levels <= len(SIGNAL_SHARES)
    assert made.num_screened <= num_targets
    # What cannot be shared out evenly is less than an island and a step of screening.
    left = num_images * num_steps - made.denoiser_calls(num_steps)
    assert left < (made.num_islands + 1) * num_steps


@given(num_images=BUDGETS, num_targets=TARGETS, num_steps=STEPS)
def test_every_training_image_is_screened_before_anything_is_steered(
    num_images: int, num_targets: int, num_steps: int
) -> None:
    made = plan(num_images, num_targets=num_targets, num_steps=num_steps, largest_island=512)
    if made.num_screened < num_targets:
        assert made.num_levels == 1
        assert made.num_screened >= num_images * num_steps // 2
    if num_images >= least_images(num_targets, num_steps, default=LEAST_BUDGET):
        assert made.num_screened == num_targets


def test_a_default_budget_by_hand() -> None:
    """320 images of 50 steps are 16,000 calls; 150 images at 3 levels are 450, 9 images."""
    assert plan(320, num_targets=150, num_steps=50, largest_island=512) == Plan(
        num_plain=64, num_islands=3, island_size=247 // 3, num_levels=3, num_screened=150
    )
    assert least_images(150, 50, default=320) == 320
    assert least_images(4000, 10, default=320) == 2000


def test_sample_ids_go_through_the_plan_in_order() -> None:
    made = Plan(num_plain=5, num_islands=2, island_size=3, num_levels=1, num_screened=4)
    assert [*range(5), *made.ids_of(0), *made.ids_of(1)] == list(range(11))
    assert made.steered_ids == range(5, 11)
    assert made.denoiser_calls(10) == 11 * 10 + 4


@pytest.mark.parametrize("num_images", range(LEAST_BUDGET))
def test_what_cannot_be_planned_is_refused(num_images: int) -> None:
    with pytest.raises(ValueError, match=f"need {LEAST_BUDGET}"):
        plan(num_images, num_targets=10, num_steps=10, largest_island=512)


def test_a_budget_is_a_whole_number_of_islands() -> None:
    """Islands as large as the memory allows are many rather than left out."""
    made = plan(100_000, num_targets=100, num_steps=50, largest_island=512)
    assert made.num_islands == math.ceil((100_000 - 6 - made.num_plain) / 512)
