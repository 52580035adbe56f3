"""The report people look at: one HTML file that needs no network and runs no script.

The templates beside this file hold the words and the layout. Every string they print passes
through ``escape`` and then through autoescape, whether the template asks for it or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from pytest_memscan.reports import charts, filters, prompt_text
from pytest_memscan.reports.finetune_pictures import FinetunePicture, finetune_sections
from pytest_memscan.reports.pictures import ImagePolicy, Picture, embed
from pytest_memscan.reports.prompt_pictures import (
    KeyPicture,
    PromptPicture,
    RepeatPicture,
    key_sections,
    prompt_sections,
    repeat_sections,
)
from pytest_memscan.reports.side_pictures import MAX_CLASSES, GuidedPicture, side_sections
from pytest_memscan.reports.splitting_pictures import SteeredPicture, splitting_sections
from pytest_memscan.results import Finding, RunResult, ScanResult, ThresholdOutcome

MAX_PAIRS = 60  # drawn in one report
MAX_GROUPS = 6  # of duplicates drawn
MAX_MEMBERS = 4  # of each of them
MAX_IDS = 20  # named in one group
NUM_OPEN = 12  # pairs shown before a click; the charts below them matter more than the 13th
NUM_OPEN_PROMPTS = 6  # likewise; such a card is twice as high


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """A finding with its two images, ``(height, width, channels)`` uint8."""

    finding: Finding
    generated: NDArray[np.uint8]
    train: NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """The first images of a group of duplicates, ``(num_shown, height, width, channels)`` uint8."""

    train_ids: tuple[int, ...]
    images: NDArray[np.uint8]
    size: int  # with those that are not shown


@dataclass(frozen=True, kw_only=True)
class GroupCard:
    """A group of duplicates as it is drawn."""

    members: tuple[tuple[int, Picture], ...]  # training id and picture
    num_more: int


@dataclass(frozen=True, kw_only=True)
class Card:
    """A finding as it is drawn."""

    finding: Finding
    generated: Picture
    train: Picture


@dataclass(frozen=True, kw_only=True)
class ScanSection:
    """A scan with everything that is drawn for it."""

    scan: ScanResult
    cards: tuple[Card, ...]
    listed: tuple[Finding, ...]  # findings shown as a table, where there are no pictures
    num_more: int
    histogram: charts.Chart | None
    curve: charts.Chart | None


def to_html(
    result: RunResult,
    pairs: Sequence[Pair],
    *,
    groups: Sequence[Group] = (),
    prompts: Sequence[PromptPicture] = (),
    keys: Sequence[KeyPicture] = (),
    repeats: Sequence[RepeatPicture] = (),
    finetunes: Sequence[FinetunePicture] = (),
    splitting: Sequence[SteeredPicture] = (),
    side: Sequence[GuidedPicture] = (),
    images: ImagePolicy,
) -> str:
    """The whole report as one HTML document.

    Args:
        result: What was measured.
        pairs: The images of the findings, closest first; those of no scan in ``result`` and
            those after the first sixty are left out.
        groups: The images of the largest groups of duplicates.
        prompts: Images of the memorised prompts, most certain first; pictures of other findings
            are left out, here and below.
        keys: Mean images of the flagged keys, lowest variance first.
        repeats: The images of the largest groups of repeats.
        finetunes: What was extracted from fine-tunes, beside training images.
        splitting: Copies that were found by steering, likeliest first.
        side: What plain sampling and guidance by surrogate labels brought out, closest first.
        images: ``"blurred"`` forgets the details before anything is embedded, ``"none"``
            embeds nothing, ``"clear"`` shows the images as they are.

    Raises:
        ValueError: An unknown ``images``, or an image that is not ``(h, w, c)`` uint8.
    """
    if images not in ("none", "blurred", "clear"):
        raise ValueError(f'images must be "none", "blurred" or "clear", got {images!r}')
    scans = [check.scan for check in result.checks if check.scan is not None]
    known = {finding for scan in scans for finding in scan.findings}
    drawn = [pair for pair in pairs if pair.finding in known][:MAX_PAIRS]
    group_cards = []
    if images != "none":
        group_cards = [_group_card(group, images) for group in groups]
    template = _environment().get_template("report.html.j2")
    return template.render(
        result=result,
        images=images,
        sections=[_section(scan, drawn, images) for scan in scans],
        thresholds=_distinct(each for check in result.checks for each in check.thresholds),
        prompt_sections=prompt_sections(result, prompts, images),
        screenings=prompt_text.lone_screenings(result),
        key_sections=key_sections(result, keys, images),
        repeat_sections=repeat_sections(result, repeats, images),
        finetune_sections=finetune_sections(result, finetunes, images),
        splitting_sections=splitting_sections(result, splitting, images),
        side_sections=side_sections(result, side, images),
        duplicates=[check.duplicates for check in result.checks if check.duplicates is not None],
        groups=group_cards,
        integrities=[check.integrity for check in result.checks if check.integrity is not None],
    )


def _section(scan: ScanResult, pairs: Sequence[Pair], images: ImagePolicy) -> ScanSection:
    cards: tuple[Card, ...] = ()
    if images != "none":
        cards = tuple(
            Card(
                finding=pair.finding,
                generated=embed(pair.generated, images=images),
                train=embed(pair.train, images=images),
            )
            for pair in pairs
            if pair.finding in scan.findings
        )
    listed = () if cards else scan.findings[:MAX_PAIRS]
    return ScanSection(
        scan=scan,
        cards=cards,
        listed=listed,
        num_more=max(0, scan.num_findings_total - len(cards) - len(listed)),
        histogram=charts.histogram(scan),
        curve=charts.curve(scan),
    )


def _group_card(group: Group, images: Literal["blurred", "clear"]) -> GroupCard:
    pictures = [embed(pixels, images=images) for pixels in group.images[:MAX_MEMBERS]]
    members = tuple(zip(group.train_ids, pictures, strict=False))
    return GroupCard(members=members, num_more=group.size - len(members))


def _distinct(thresholds: Iterable[ThresholdOutcome]) -> list[ThresholdOutcome]:
    return list(dict.fromkeys(thresholds))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("pytest_memscan.reports", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=filters.harmless,
    )
    environment.filters.update(filters.all_filters())
    environment.globals.update(filters.CONSTANTS)
    environment.globals.update(WIDTH=charts.WIDTH, HEIGHT=charts.HEIGHT, BOTTOM=charts.BOTTOM)
    environment.globals.update(LEFT=charts.LEFT, RIGHT=charts.RIGHT, NUM_OPEN=NUM_OPEN)
    environment.globals.update(MAX_IDS=MAX_IDS, NUM_OPEN_PROMPTS=NUM_OPEN_PROMPTS)
    environment.globals.update(MAX_CLASSES=MAX_CLASSES)
    return environment
