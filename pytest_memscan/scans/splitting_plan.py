"""How a splitting scan spends its budget, before anything is made."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pytest_memscan.splitting.learning import SIGNAL_SHARES

LEAST_BUDGET = 4  # images: one unsteered, one steered, and what screening may take
PLAIN_SHARE = 0.2  # of the images, never steered
LEAST_PLAIN = 64
SCREENING_SHARE = 0.2  # of the budget, at most, from the second noise level on
MOST_SCREENING = 0.5  # of the budget, at most, for the first
FEWEST_ISLANDS = 3  # for an interval; large ones find more, and estimate better, than many small
SMALLEST_ISLAND = 32


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the images of a budget are spent.

    Sample ids go through the unsteered images first, then island by island.

    Attributes:
        num_plain: Never steered.
        num_islands: Of steered trajectories.
        island_size: Trajectories in each.
        num_levels: Noise levels at which each screened training image is denoised.
        num_screened: Training images that are screened.
    """

    num_plain: int
    num_islands: int
    island_size: int
    num_levels: int
    num_screened: int

    @property
    def num_steered(self) -> int:
        """Trajectories of all islands."""
        return self.num_islands * self.island_size

    @property
    def steered_ids(self) -> range:
        """Sample ids of all islands."""
        return range(self.num_plain, self.num_plain + self.num_steered)

    def ids_of(self, island: int) -> range:
        """Sample ids of one island, 0 for the first steered one."""
        first = self.num_plain + island * self.island_size
        return range(first, first + self.island_size)

    def denoiser_calls(self, num_steps: int) -> int:
        """Single-image forwards."""
        images = self.num_plain + self.num_steered
        return images * num_steps + self.num_levels * self.num_screened


def plan(num_images: int, *, num_targets: int, num_steps: int, largest_island: int) -> Plan:
    """Spend a budget of ``num_images * num_steps`` denoiser calls.

    Args:
        num_images: At least `LEAST_BUDGET`.
        num_targets: Different training images.
        num_steps: Denoiser calls for an image.
        largest_island: Trajectories that an island may have, at least `SMALLEST_ISLAND`.

    Raises:
        ValueError: Too few images.
    """
    if num_images < LEAST_BUDGET:
        raise ValueError(f"{num_images} images, need {LEAST_BUDGET}")
    calls = num_images * num_steps
    num_screened = min(num_targets, max(1, int(MOST_SCREENING * calls)))
    affordable = int(SCREENING_SHARE * calls / num_screened)
    num_levels = min(len(SIGNAL_SHARES), max(1, affordable))
    left = num_images - math.ceil(num_levels * num_screened / num_steps)
    num_plain = min(left - 1, max(round(PLAIN_SHARE * left), min(LEAST_PLAIN, left // 2)))
    steered = left - num_plain
    num_islands = max(1, min(FEWEST_ISLANDS, steered // SMALLEST_ISLAND))
    num_islands = max(num_islands, math.ceil(steered / largest_island))
    return Plan(
        num_plain=num_plain,
        num_islands=num_islands,
        island_size=steered // num_islands,
        num_levels=num_levels,
        num_screened=num_screened,
    )


def least_images(num_targets: int, num_steps: int, *, default: int) -> int:
    """Images that are spent where nobody set a budget: enough to screen every training image."""
    return max(default, math.ceil(num_targets / num_steps / SCREENING_SHARE))
