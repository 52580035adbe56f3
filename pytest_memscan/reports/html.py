"""The report people look at: one HTML file that needs no network and runs no script.

The templates beside this file hold the words and the layout. Every string they print passes
through ``escape`` and then through autoescape, whether the template asks for it or not. The page
allows itself one style sheet, known by its hash, and images that are part of the file; no script,
no request, nothing else.

Bounds: every scan shows its first ``MAX_PAIRS`` findings, ``NUM_OPEN`` of them at once and the
others ``PAGE`` to a fold. They are drawn until the images of the report weigh
``pictures.MAX_BYTES``; those that come after are listed in a table.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from pytest_memscan.reports import charts, filters, overview, prompt_text
from pytest_memscan.reports.finetune_pictures import FinetunePicture, finetune_sections
from pytest_memscan.reports.pictures import Album, ImagePolicy, Picture
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
from pytest_memscan.results import CheckOutcome, Finding, RunResult, ScanResult, ThresholdOutcome

MAX_PAIRS = 500  # drawn or listed for one scan
MAX_GROUPS = 6  # of duplicates drawn
MAX_MEMBERS = 4  # of each of them
MAX_IDS = 20  # named in one group
NUM_OPEN = 12  # pairs shown before a click; the charts below them matter more than the 13th
PAGE = 48  # in each fold that follows: it opens at once, and is scrolled through in a moment
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

    check: CheckOutcome
    scan: ScanResult
    cards: tuple[Card, ...]
    listed: tuple[Finding, ...]  # findings shown as a table: those without pictures
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
        pairs: The images of the findings, closest first; those of no scan in ``result`` are left
            out. Of each scan as many as ``MAX_PAIRS`` are drawn.
        groups: The images of the largest groups of duplicates.
        prompts: Images of the memorised prompts, most certain first; pictures of other findings
            are left out, here and below.
        keys: Mean images of the flagged keys, lowest variance first.
        repeats: The images of the largest groups of repeats.
        finetunes: What was extracted from fine-tunes, beside training images.
        splitting: Copies that were found by steering, likeliest first.
        side: What plain sampling and guidance by surrogate labels brought out, closest first.
        images: ``"blurred"`` forgets the details before anything is embedded, ``"none"``
            embeds nothing, ``"clear"`` shows the images as they are, made smaller where they are
            large.

    Raises:
        ValueError: An unknown ``images``, or an image that is not ``(h, w, c)`` uint8.
    """
    if images not in ("none", "blurred", "clear"):
        raise ValueError(f'images must be "none", "blurred" or "clear", got {images!r}')
    album = Album(images)
    style, style_hash = _style()
    # In the order of the report: where room runs out, what comes last is listed.
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            result=result,
            images=images,
            style=style,
            style_hash=style_hash,
            contents=overview.Contents(),
            marks=overview.marks(result),
            regressions=overview.regressions(result),
            gaps=overview.gaps(result),
            costs=overview.costs(result),
            provenances=overview.provenances(result),
            sections=_sections(result, pairs, album),
            thresholds=_distinct(each for check in result.checks for each in check.thresholds),
            side_sections=side_sections(result, side, album),
            splitting_sections=splitting_sections(result, splitting, album),
            prompt_sections=prompt_sections(result, prompts, album),
            screenings=prompt_text.lone_screenings(result),
            key_sections=key_sections(result, keys, album),
            repeat_sections=repeat_sections(result, repeats, album),
            finetune_sections=finetune_sections(result, finetunes, album),
            duplicates=[
                check.duplicates for check in result.checks if check.duplicates is not None
            ],
            groups=_group_cards(groups, album),
            integrities=[check.integrity for check in result.checks if check.integrity is not None],
            album=album,
        )
    )


def _sections(result: RunResult, pairs: Sequence[Pair], album: Album) -> list[ScanSection]:
    return [
        _section(check, check.scan, pairs, album)
        for check in result.checks
        if check.scan is not None
    ]


def _section(
    check: CheckOutcome, scan: ScanResult, pairs: Sequence[Pair], album: Album
) -> ScanSection:
    known = set(scan.findings)
    cards: list[Card] = []
    for pair in [pair for pair in pairs if pair.finding in known][:MAX_PAIRS]:
        drawn = album.add(pair.generated, pair.train)
        if drawn is not None:
            generated, train = drawn
            cards.append(Card(finding=pair.finding, generated=generated, train=train))
    done = {card.finding for card in cards}
    rest = [each for each in scan.findings if each not in done]
    listed = tuple(rest[: MAX_PAIRS - len(cards)])
    return ScanSection(
        check=check,
        scan=scan,
        cards=tuple(cards),
        listed=listed,
        num_more=max(0, scan.num_findings_total - len(cards) - len(listed)),
        histogram=charts.histogram(scan),
        curve=charts.curve(scan),
    )


def _group_cards(groups: Sequence[Group], album: Album) -> list[GroupCard]:
    cards = []
    for group in groups:
        drawn = album.add(*group.images[:MAX_MEMBERS])
        if drawn is not None:
            members = tuple(zip(group.train_ids, drawn, strict=False))
            cards.append(GroupCard(members=members, num_more=group.size - len(members)))
    return cards


def _distinct(thresholds: Iterable[ThresholdOutcome]) -> list[ThresholdOutcome]:
    return list(dict.fromkeys(thresholds))


@cache
def _style() -> tuple[Markup, Markup]:
    """The style sheet and its hash: the page allows this one and no other."""
    style = _environment().get_template("report.css").render()
    digest = base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii")
    return Markup(style), Markup(f"sha256-{digest}")  # noqa: S704 - of this package


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
    environment.globals.update(PAGE=PAGE)
    environment.globals.update(MAX_IDS=MAX_IDS, NUM_OPEN_PROMPTS=NUM_OPEN_PROMPTS)
    environment.globals.update(MAX_CLASSES=MAX_CLASSES)
    return environment
