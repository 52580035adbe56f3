"""Pictures of what guidance brought out, and the sections that show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.reports.charts import Chart
from pytest_memscan.reports.pictures import Album, Picture
from pytest_memscan.reports.side_charts import accuracy_chart, ams_chart, growth_chart, ums_chart
from pytest_memscan.results import CheckOutcome, GuidedFinding, RunResult, SideScan, SideVariant

MAX_GUIDED = 500  # matches drawn in one report
MAX_LISTED = 500  # rows of the table of matches
MAX_CLASSES = 200  # rows of the table of classes


@dataclass(frozen=True, kw_only=True, eq=False)
class GuidedPicture:
    """A generated image and the training image it matches, ``(height, width, channels)`` uint8."""

    found: GuidedFinding
    generated: NDArray[np.uint8]
    train: NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class GuidedCard:
    """A match as it is drawn."""

    found: GuidedFinding
    generated: Picture
    train: Picture


@dataclass(frozen=True, kw_only=True)
class VariantSection:
    """A variant with its charts."""

    variant: SideVariant
    rates: tuple[Chart, ...]  # AMS and UMS over lambda
    accuracy: Chart | None
    growth: Chart | None


@dataclass(frozen=True, kw_only=True)
class SideSection:
    """A scan by SIDE, with everything that is drawn for it."""

    check: CheckOutcome
    scan: SideScan
    variants: tuple[VariantSection, ...]
    cards: tuple[GuidedCard, ...]
    listed: tuple[GuidedFinding, ...]  # as a table: those without pictures
    num_more: int


def side_sections(
    result: RunResult, pictures: Sequence[GuidedPicture], album: Album
) -> list[SideSection]:
    """One for each scan by SIDE; pictures of other findings are left out."""
    return [
        _section(check, check.side, pictures, album)
        for check in result.checks
        if check.side is not None
    ]


def _section(
    check: CheckOutcome, scan: SideScan, pictures: Sequence[GuidedPicture], album: Album
) -> SideSection:
    known = set(scan.findings)
    cards: list[GuidedCard] = []
    for each in [each for each in pictures if each.found in known][:MAX_GUIDED]:
        drawn = album.add(each.generated, each.train)
        if drawn is not None:
            generated, train = drawn
            cards.append(GuidedCard(found=each.found, generated=generated, train=train))
    done = {card.found for card in cards}
    listed = tuple(each for each in scan.findings if each not in done)[:MAX_LISTED]
    return SideSection(
        check=check,
        scan=scan,
        variants=tuple(_variant(each, scan) for each in scan.variants),
        cards=tuple(cards),
        listed=listed,
        num_more=max(0, scan.num_findings_total - len(cards) - len(listed)),
    )


def _variant(variant: SideVariant, scan: SideScan) -> VariantSection:
    rates = (ams_chart(variant, scan), ums_chart(variant, scan))
    return VariantSection(
        variant=variant,
        rates=tuple(each for each in rates if each is not None),
        accuracy=accuracy_chart(variant),
        growth=growth_chart(variant, scan),
    )
