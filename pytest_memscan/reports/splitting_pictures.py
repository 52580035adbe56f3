"""Pictures of copies that were found by steering, and the sections that show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.reports.charts import Chart
from pytest_memscan.reports.pictures import Album, Picture
from pytest_memscan.reports.splitting_charts import growth_chart, rate_chart
from pytest_memscan.reports.splitting_prompt_text import (
    PromptName,
    leaking_prompts,
    leaking_text,
    ordinary_text,
    prompt_names,
    quiet_text,
)
from pytest_memscan.results import (
    CheckOutcome,
    Finding,
    PromptLeak,
    RunResult,
    SplittingScan,
    SteeredCopy,
)

MAX_PICTURES = 500  # copies drawn in one report
MAX_LISTED = 500  # rows of the table of copies, and of that of prompts


@dataclass(frozen=True, kw_only=True, eq=False)
class SteeredPicture:
    """A generated image and the training image it copies, ``(height, width, channels)`` uint8."""

    finding: Finding
    steered: NDArray[np.uint8]
    train: NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class SteeredCard:
    """A copy as it is drawn."""

    copy: SteeredCopy
    steered: Picture
    train: Picture


@dataclass(frozen=True, kw_only=True)
class SplittingSection:
    """A scan that steered, with everything that is drawn for it."""

    check: CheckOutcome
    scan: SplittingScan
    cards: tuple[SteeredCard, ...]
    listed: tuple[SteeredCopy, ...]
    num_more: int
    rates: Chart | None
    growth: Chart | None
    names: Mapping[int, PromptName]  # of prompts, here and below; nothing without them
    leaking: tuple[PromptLeak, ...]
    num_more_leaking: int
    leaking_text: str
    quiet_text: str
    ordinary_text: str


def splitting_sections(
    result: RunResult, pictures: Sequence[SteeredPicture], album: Album
) -> list[SplittingSection]:
    """One for each scan that steered; pictures of other images are left out."""
    return [
        _section(check, check.splitting, pictures, album)
        for check in result.checks
        if check.splitting is not None
    ]


def _section(
    check: CheckOutcome,
    scan: SplittingScan,
    pictures: Sequence[SteeredPicture],
    album: Album,
) -> SplittingSection:
    listed = scan.copies[:MAX_LISTED]
    leaking = leaking_prompts(scan)
    copies = {copy.finding: copy for copy in scan.copies}
    cards: list[SteeredCard] = []
    for each in [each for each in pictures if each.finding in copies][:MAX_PICTURES]:
        drawn = album.add(each.steered, each.train)
        if drawn is not None:
            steered, train = drawn
            cards.append(SteeredCard(copy=copies[each.finding], steered=steered, train=train))
    return SplittingSection(
        check=check,
        scan=scan,
        cards=tuple(cards),
        listed=listed,
        num_more=max(0, scan.num_copies_total - len(listed)),
        rates=None if scan.degenerate else rate_chart(scan),
        growth=None if scan.degenerate else growth_chart(scan),
        names=prompt_names(scan),
        leaking=leaking[:MAX_LISTED],
        num_more_leaking=max(0, len(leaking) - MAX_LISTED),
        leaking_text=leaking_text(scan),
        quiet_text=quiet_text(scan),
        ordinary_text=ordinary_text(scan),
    )
