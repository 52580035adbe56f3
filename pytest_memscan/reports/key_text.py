"""The words that reports share about keys, canaries, and images that come up again and again.

A canary is a secret: like any prompt it is named by its number and the line it stands on.
"""

from __future__ import annotations

from pytest_memscan.reports.prompt_text import counted, near_text, variance
from pytest_memscan.reports.text import escape, percent, quantity
from pytest_memscan.results import KeyFinding, KeyScan, KeyVariance, Repeats

NOTHING_TO_COMPARE = (
    "An image that comes up again and again is probably a training image. One that was copied "
    "only once does not show here, since there was nothing to compare with."
)


def num_flagged(scan: KeyScan) -> str:
    """Keys whose images hardly vary."""
    count = sum(each.flagged for each in scan.findings)
    return counted(None, count, is_cut=_is_cut(scan))


def num_extracted(scan: KeyScan) -> str:
    """Canaries whose images hardly vary."""
    count = sum(each.flagged and each.is_canary for each in scan.findings)
    return counted(scan.metrics.get("extracted_canaries"), count, is_cut=_is_cut(scan))


def _is_cut(scan: KeyScan) -> bool:
    # Lowest variance first: a list that ends with a key that is not flagged has all that are.
    return len(scan.findings) < scan.num_findings_total and all(
        each.flagged for each in scan.findings
    )


def flagged_text(scan: KeyScan) -> str:
    """``"3 of 60 flagged by their descriptor variance; canaries extracted: 2 of 40"``."""
    text = (
        f"{num_flagged(scan)} of {scan.num_keys:,} flagged by their "
        f"{escape(scan.deciding_space)} variance"
    )
    if scan.num_canaries:
        text += f"; canaries extracted: {num_extracted(scan)} of {scan.num_canaries:,}"
    return text


def key_text(finding: KeyFinding, deciding_space: str) -> str:
    """``"flagged, pixel variance 0.031 (p 0.005), 16 images"``, and what it shows."""
    parts = ["flagged" if finding.flagged else "not flagged"]
    measured = finding.variances.get(deciding_space)
    if measured is not None:
        parts.append(
            f"{escape(deciding_space)} variance {variance(measured)} (p {finding.p_value:.2g})"
        )
    parts.append(f"{finding.num_images} images")
    parts += [f"mean image nearest to {near_text(finding)}"] if finding.train_id is not None else []
    return ", ".join(parts)


def space_text(space: KeyVariance, *, decides: bool) -> str:
    """``"pixel of strings 3 below 0.12 (decides; 200 negatives)"``."""
    return (
        f"{escape(space.space)} of {escape(space.form)} {space.num_below:,} below "
        f"{variance(space.threshold)} ({'decides; ' if decides else ''}"
        f"{space.num_negatives:,} negatives)"
    )


def repeats_text(repeats: Repeats) -> str:
    """``"3 groups of at least 4 near-identical images, 14 of 2,000 generated images"``."""
    if not repeats.num_groups:
        return (
            f"none: no {repeats.group_size} of {repeats.num_images:,} generated images are "
            "near-identical"
        )
    groups = "group" if repeats.num_groups == 1 else "groups"
    chance = repeats.expected_by_chance
    among = repeats.num_searched or repeats.num_images
    share = repeats.num_repeating / among if among else 0.0
    return (
        f"{repeats.num_groups:,} {groups} of at least {repeats.group_size} near-identical images"
        + ("" if chance is None else f" ({quantity(chance)} expected by chance)")
        + f"; {repeats.num_repeating:,} of the first {among:,} generated images "
        f"({percent(share)}) are in one"
    )


def shown_text(repeats: Repeats) -> str:
    """What the search would have found."""
    return (
        f"an image that is at least {percent(repeats.shown_rate)} of what the model makes would "
        f"have come up {repeats.group_size} times (95 % confidence)"
    )
