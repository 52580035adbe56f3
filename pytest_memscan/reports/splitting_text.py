"""The words for copies that were found by steering, and for how rare they are unsteered."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pytest_memscan.reports.estimates import (
    least_text,
    one_in,
    share_and_odds,
    share_bounds,
    share_text,
    value_text,
)
from pytest_memscan.reports.splitting_prompt_text import of_prompts
from pytest_memscan.reports.text import generated_name, percent, quantity
from pytest_memscan.results import CurvePoint, Estimate, Finding, SplittingScan, SteeredCopy

UNDONE = "How rare each is in normal use was worked out by undoing the steering."
CAN_MISS = "steering can miss a copy that the denoiser's early predictions do not point to"
IN_REACH = "within reach"
OUT_OF_REACH = "out of reach"
CONFIRMED = "confirmed"
NOT_CONFIRMED = "not confirmed"

_TOLD = (1_000, 1_000_000)  # numbers of images that a reader can picture


def is_steered(finding: Finding, scan: SplittingScan) -> bool:
    """Whether the image came out of an island; those that were never steered come first."""
    return finding.sample_id >= scan.coverage.planned - scan.num_steered


def image_name(finding: Finding, scan: SplittingScan) -> str:
    """How reports call the image: ``"steered#00345"``, ``"generated#00012"`` where it was not."""
    sample_id = finding.sample_id
    return f"steered#{sample_id:05d}" if is_steered(finding, scan) else generated_name(sample_id)


def standing_text(copy: SteeredCopy, scan: SplittingScan) -> str:
    """What a copy counts for; one that did not come out again never counts as in reach."""
    if not copy.finding.confirmed:
        return NOT_CONFIRMED
    if scan.degenerate:
        return CONFIRMED
    return IN_REACH if copy.in_reach else OUT_OF_REACH


def found_label(scan: SplittingScan) -> str:
    """How the copies were found."""
    return "found by steering" + (" and without it" if scan.num_plain_copies else "")


def origin_text(scan: SplittingScan) -> str:
    """Which images nobody would have seen in normal use."""
    if not scan.num_plain_copies:
        return "These images were found by steering towards training images, not in normal use."
    return (
        "Images called steered# were found by steering towards training images, not in normal "
        "use; those called generated# were never steered."
    )


def copied_text(scan: SplittingScan) -> str:
    """``"7 training images, not in normal use; 3 within reach (...)"``, or that there is none."""
    total = scan.num_copies_total
    if not total:
        return "none"
    images = f"{total:,} training image{'' if total == 1 else 's'}"
    images += "" if scan.num_plain_copies else ", not in normal use"
    unconfirmed = sum(not copy.finding.confirmed for copy in scan.copies)
    if unconfirmed:
        least = "at least " if len(scan.copies) < total else ""
        images += f"; {least}{unconfirmed:,} {NOT_CONFIRMED}"
    return images if scan.degenerate else f"{images}; {reach_text(scan)}"


def reach_text(scan: SplittingScan) -> str:
    """How many of them count, and what that means."""
    within = sum(copy.in_reach and copy.finding.confirmed for copy in scan.copies)
    counted = scan.metrics.get("extractable_images")
    shown = f"{within:,}" if counted is None else value_text(counted)
    return f"{shown} within reach (a first copy expected among {scan.reach:,} ordinary images)"


def price_text(copy: SteeredCopy) -> str:
    """``"one in about 34,000 images [at least one in 410,000]"``."""
    # A copy that was seen has a rate, however small a number underflows to nothing.
    rate = max(copy.rate.value, math.ulp(0.0))
    return f"{one_in(rate, about='about ')} [{least_text(copy.rate)}]"


def score_text(finding: Finding) -> str:
    """``"0.12"``, and the score of the image made again alone where there is one."""
    again = finding.regenerated_score
    return f"{finding.score:.2f}" + ("" if again is None else f", {again:.2f} in float32")


def islands_text(copy: SteeredCopy, scan: SplittingScan) -> str:
    """``"12 copies in 5 of 12 islands"``, ``"1 copy, unsteered"``."""
    copies = f"{copy.num_copies:,} {'copy' if copy.num_copies == 1 else 'copies'}"
    if not copy.num_islands:
        return f"{copies}, unsteered"
    islands = "island" if scan.num_islands == 1 else "islands"
    return f"{copies} in {copy.num_islands:,} of {scan.num_islands:,} {islands}"


def rate_text(estimate: Estimate) -> str:
    """``"0.0041 % [0.0012 %, 0.013 %] (one in 24,000 images) by steering"``."""
    if estimate.value <= 0:
        return "none seen by steering"
    return f"{share_and_odds(estimate)} by steering"


def plain_text(scan: SplittingScan) -> str:
    """``"0 % [0 %, 0.58 %] from 512 images that were never steered, 0 of them copies"``."""
    rate = scan.plain_rate
    return (
        f"{share_text(rate.value)} {share_bounds(rate)} from {scan.num_plain:,} images that were "
        f"never steered, {scan.num_plain_copies:,} of them copies"
    )


def tried_text(scan: SplittingScan) -> str:
    """Where the trajectories went, and how much of the training set was looked at before."""
    if scan.num_screened >= scan.num_targets:
        screened = "all screened"
    else:
        screened = f"{scan.num_screened:,} of them screened"
    many = len(scan.prompts) > 1
    least, each = ("at least ", " with each prompt") if many else ("", "")
    return (
        f"{scan.num_steered:,} trajectories{of_prompts(scan)} were steered to "
        f"{least}{scan.num_tried:,} of {scan.num_targets:,} training images{each}, {screened}"
    )


def excluded_text(scan: SplittingScan) -> str:
    """What the unsteered images show whatever the steering did."""
    rate = scan.plain_rate
    return (
        f"the {scan.num_plain:,} unsteered images alone exclude a leak rate above "
        f"{share_text(rate.upper)} ({100 * rate.confidence:g} % confidence)"
    )


def nothing_text(scan: SplittingScan) -> str:
    """What was and was not excluded, where no copy was found."""
    return f"nothing found: {tried_text(scan)}; {excluded_text(scan)}; {CAN_MISS}"


def degenerate_text(scan: SplittingScan) -> str:
    """Why there are no rates, and what stands all the same."""
    return f"{scan.degenerate.rstrip('. ')}; {excluded_text(scan)}"


def sound_metrics(scan: SplittingScan) -> dict[str, Estimate]:
    """Its metrics; none where the weights say nothing."""
    return {} if scan.degenerate else scan.metrics


def effort_text(scan: SplittingScan) -> str:
    """Denoiser calls, and how many ordinary images they would have made."""
    calls = f"{scan.denoiser_calls:,}, screening included"
    steps = scan.provenance.get("steps", "")
    # With prompts it takes one call a step or, guided, two: not known here.
    if scan.prompts or not steps.isdecimal() or int(steps) < 1:
        return calls
    return f"{calls}: as many as {scan.denoiser_calls // int(steps):,} ordinary images take"


def health_text(scan: SplittingScan) -> str:
    """How well the islands were spread over different trajectories."""
    points = "starting point" if scan.fewest_ancestors == 1 else "starting points"
    each = " for each prompt" if len(scan.prompts) > 1 else ""
    return (
        f"{scan.num_islands:,}{each}; after selection at least "
        f"{percent(scan.least_effective)} of an "
        f"island's trajectories were effective, and its final images go back to at least "
        f"{scan.fewest_ancestors:,} {points}"
    )


def told_growth(scan: SplittingScan) -> tuple[CurvePoint, ...]:
    """Points of the curve at numbers of images that say something; else the last one.

    None where no copy is expected at all.
    """
    if not any(each.expected > 0 for each in scan.growth):
        return ()
    wanted = {*_TOLD, scan.reach}
    points = tuple(each for each in scan.growth if each.num_generated in wanted)
    return points or scan.growth[-1:]


def expected_text(point: CurvePoint) -> str:
    """``"2.1 [1.2, 3.4]"``; without the interval where none can be given."""
    expected = _number(point.expected)
    if point.lower is None or point.upper is None:
        return expected
    return f"{expected} [{_number(point.lower)}, {_number(point.upper)}]"


def _number(value: float) -> str:
    return quantity(value) if value < 1000 else f"{value:,.0f}"


def growth_text(points: Sequence[CurvePoint]) -> str:
    """``"0.04 [0.01, 0.1] among 1,000 images; 2.1 [1.2, 3.4] among 1,000,000 images"``."""
    return "; ".join(
        f"{expected_text(each)} among {each.num_generated:,} images" for each in points
    )
