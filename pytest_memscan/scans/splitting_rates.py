"""What all trajectories of a splitting scan together say about ordinary images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from pytest_memscan.prices import certain_lower, combined, growth_curve
from pytest_memscan.results import CurvePoint, Estimate, RateAt
from pytest_memscan.scans.splitting_source import Targets
from pytest_memscan.splitting.learning import MIN_TRACED
from pytest_memscan.splitting.rounds import Outcome
from pytest_memscan.statistics import proportion

NUM_TIGHTER = 6  # similarities from the confirmed cut down to the closest image
TIGHTEST = 1 / 20  # of the cut


def leak_rate(ends: Sequence[Outcome], cut: float, num_targets: int) -> Estimate:
    """Share of ordinary images within a cut of some training image.

    It is an average over all trajectories, so it counts every copy as it came out of its batch,
    those too that were not confirmed alone: leaving out some after the fact would bias it.

    Args:
        ends: The unsteered images first, then every island.
        cut: Dissimilarity.
        num_targets: Training images.
    """
    totals = [float(each.rates(cut, num_targets).sum()) for each in ends]
    return rate_of(totals, [len(each.log_weights) for each in ends])


def rate_of(totals: Sequence[float], sizes: Sequence[int], *, num_tried: int = 1) -> Estimate:
    """A rate from what all trajectories say, and no less than either of two bounds that hold.

    By betting on islands, and the exact bound of those that were never steered, which knows more
    of a rate that they see by themselves. Each holds with half of the error allowed; where they
    contradict the estimate they are right.

    Args:
        totals: Estimates, the unsteered images first.
        sizes: Trajectories behind each.
        num_tried: Rates that the lower bounds hold for together (Bonferroni).
    """
    rate = combined(totals, num_trials=sum(sizes))
    confidence = 1 - (1 - rate.confidence) / (2 * num_tried)
    num_plain, hits = sizes[0], round(totals[0] * sizes[0])
    lower = max(
        min(rate.value, certain_lower(totals, confidence=confidence)),
        proportion(hits, num_plain, confidence=confidence).lower,
    )
    return replace(rate, value=max(rate.value, lower), lower=lower, upper=max(rate.upper, lower))


def plain_rate(plain: Outcome, cut: float) -> Estimate:
    """The share of copies among images that were never steered, with exact bounds."""
    num_valid = int(np.isfinite(plain.dissimilarities).sum())
    return proportion(int((plain.dissimilarities <= cut).sum()), num_valid)


def rates_at(ends: Sequence[Outcome], cut: float, targets: Targets) -> Iterator[RateAt]:
    """The same at other cuts, from the loosest level down to the closest image."""
    plain, reference = ends[0], targets.reference
    closest = min(float(each.dissimilarities.min()) for each in ends)
    cuts = {cut, *(level.cut for level in reference.levels)}
    if closest < cut:
        cuts |= set(np.geomspace(max(closest, cut * TIGHTEST), cut, NUM_TIGHTER).tolist())
    for each in sorted(cuts, reverse=True):
        yield RateAt(
            score=reference.measure.score(each),
            steered=leak_rate(ends, each, len(targets.ids)),
            plain=plain_rate(plain, each),
        )


def growth(
    ends: Sequence[Outcome], cut: float, *, num_targets: int, reach: int
) -> tuple[CurvePoint, ...]:
    """Expected distinct copied training images; empty where nothing was copied."""
    rates = np.array([each.rates(cut, num_targets) for each in ends])
    found = rates.any(axis=0)
    if not found.any():
        return ()
    powers = {10**power for power in range(2, 1 + math.ceil(math.log10(reach)))}
    sizes = sorted({*powers, 1000, 1_000_000, reach})
    trajectories = sum(len(each.log_weights) for each in ends)
    return growth_curve(rates[:, found], sizes, num_trajectories=trajectories)


def degenerate(ends: Sequence[Outcome]) -> str:
    """Why the weights say nothing, or ""."""
    plain, islands = ends[0], ends[1:]
    if not any(each.is_steered for each in islands):
        num_valid = int(np.isfinite(plain.dissimilarities).sum())
        if num_valid < MIN_TRACED:
            return (
                f"{num_valid} valid unsteered images are too few to learn from how to steer "
                f"(at least {MIN_TRACED})"
            )
        return f"nothing in {num_valid} unsteered images told which of them would end close"
    collapsed = sum(each.num_ancestors < 2 for each in islands)
    if 2 * collapsed > len(islands):
        return f"in {collapsed} of {len(islands)} islands all images go back to one start"
    return ""
