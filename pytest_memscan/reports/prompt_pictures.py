"""Pictures of memorised prompts, flagged keys and repeats, and the sections that show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.reports.pictures import Album, Picture
from pytest_memscan.reports.prompt_text import is_memorised
from pytest_memscan.results import (
    CheckOutcome,
    KeyFinding,
    KeyScan,
    PromptFinding,
    PromptScan,
    Repeats,
    RunResult,
)

MAX_PROMPTS = 24  # drawn in one report, with up to five pictures each
MAX_KEYS = 24
MAX_REPEATS = 6  # groups
MAX_IMAGES = 4  # of one prompt or one group
MAX_LISTED = 500  # findings in one table


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptPicture:
    """A memorised prompt with some of its images."""

    finding: PromptFinding
    images: NDArray[np.uint8]  # (1 to 4, height, width, channels), its representative first
    train: NDArray[np.uint8] | None  # (height, width, channels)


@dataclass(frozen=True, kw_only=True, eq=False)
class KeyPicture:
    """A flagged key with its mean image, ``(height, width, channels)`` uint8."""

    finding: KeyFinding
    mean_image: NDArray[np.uint8]
    train: NDArray[np.uint8] | None


@dataclass(frozen=True, kw_only=True, eq=False)
class RepeatPicture:
    """The first images of a group of repeats, ``(num_shown, height, width, channels)`` uint8."""

    sample_ids: tuple[int, ...]
    images: NDArray[np.uint8]
    size: int  # with those that are not shown


P = TypeVar("P", PromptPicture, KeyPicture)


@dataclass(frozen=True, kw_only=True)
class PromptCard:
    """A memorised prompt as it is drawn."""

    finding: PromptFinding
    images: tuple[Picture, ...]
    train: Picture | None


@dataclass(frozen=True, kw_only=True)
class KeyCard:
    """A flagged key as it is drawn."""

    finding: KeyFinding
    mean_image: Picture
    train: Picture | None


@dataclass(frozen=True, kw_only=True)
class RepeatCard:
    """A group of repeats as it is drawn."""

    members: tuple[tuple[int, Picture], ...]  # sample id and picture
    num_more: int


@dataclass(frozen=True, kw_only=True)
class PromptSection:
    """A scan of prompts with everything that is drawn for it."""

    check: CheckOutcome
    scan: PromptScan
    cards: tuple[PromptCard, ...]
    listed: tuple[PromptFinding, ...]  # memorised, without pictures
    others: tuple[PromptFinding, ...]  # sampled and not memorised
    num_more: int


@dataclass(frozen=True, kw_only=True)
class KeySection:
    """A scan of keys with everything that is drawn for it."""

    check: CheckOutcome
    keys: KeyScan
    spaces: tuple[str, ...]  # that variance was measured in
    cards: tuple[KeyCard, ...]
    listed: tuple[KeyFinding, ...]  # all of them, as numbers
    num_more: int


@dataclass(frozen=True, kw_only=True)
class RepeatSection:
    """Repeats with everything that is drawn for them."""

    check: CheckOutcome
    repeats: Repeats
    cards: tuple[RepeatCard, ...]


def prompt_sections(
    result: RunResult, pictures: Sequence[PromptPicture], album: Album
) -> list[PromptSection]:
    """One for each scan of prompts; pictures of other findings are left out."""
    return [
        _prompt_section(check, check.prompt_scan, pictures, album)
        for check in result.checks
        if check.prompt_scan is not None
    ]


def key_sections(
    result: RunResult, pictures: Sequence[KeyPicture], album: Album
) -> list[KeySection]:
    """One for each scan of keys; pictures of other findings are left out."""
    return [
        _key_section(check, check.keys, pictures, album)
        for check in result.checks
        if check.keys is not None
    ]


def repeat_sections(
    result: RunResult, pictures: Sequence[RepeatPicture], album: Album
) -> list[RepeatSection]:
    """One for each search for repeats; pictures of other groups are left out."""
    return [
        _repeat_section(check, check.repeats, pictures, album)
        for check in result.checks
        if check.repeats is not None
    ]


def _prompt_section(
    check: CheckOutcome, scan: PromptScan, pictures: Sequence[PromptPicture], album: Album
) -> PromptSection:
    cards: list[PromptCard] = []
    for each in _of(scan.findings, pictures)[:MAX_PROMPTS]:
        drawn = album.add(*each.images[:MAX_IMAGES], *_known(each.train))
        if drawn is not None:
            made, train = _apart(drawn, each.train)
            cards.append(PromptCard(finding=each.finding, images=made, train=train))
    done = [card.finding for card in cards]
    memorised = [each for each in scan.findings if is_memorised(each)]
    listed = [each for each in memorised if each not in done][:MAX_LISTED]
    others = [each for each in scan.findings if not is_memorised(each)][:MAX_LISTED]
    shown = len(cards) + len(listed) + len(others)
    return PromptSection(
        check=check,
        scan=scan,
        cards=tuple(cards),
        listed=tuple(listed),
        others=tuple(others),
        num_more=max(0, scan.num_findings_total - shown),
    )


def _key_section(
    check: CheckOutcome, keys: KeyScan, pictures: Sequence[KeyPicture], album: Album
) -> KeySection:
    cards: list[KeyCard] = []
    for each in _of(keys.findings, pictures)[:MAX_KEYS]:
        drawn = album.add(each.mean_image, *_known(each.train))
        if drawn is not None:
            (mean,), train = _apart(drawn, each.train)
            cards.append(KeyCard(finding=each.finding, mean_image=mean, train=train))
    listed = keys.findings[:MAX_LISTED]
    return KeySection(
        check=check,
        keys=keys,
        spaces=tuple(dict.fromkeys(space.space for space in keys.spaces)),
        cards=tuple(cards),
        listed=listed,
        num_more=max(0, keys.num_findings_total - len(listed)),
    )


def _repeat_section(
    check: CheckOutcome, repeats: Repeats, pictures: Sequence[RepeatPicture], album: Album
) -> RepeatSection:
    cards: list[RepeatCard] = []
    for each in [each for each in pictures if _starts_a_group(each, repeats)][:MAX_REPEATS]:
        drawn = album.add(*each.images[:MAX_IMAGES])
        if drawn is not None:
            members = tuple(zip(each.sample_ids, drawn, strict=False))
            cards.append(RepeatCard(members=members, num_more=each.size - len(members)))
    return RepeatSection(check=check, repeats=repeats, cards=tuple(cards))


def _of(findings: Sequence[PromptFinding] | Sequence[KeyFinding], pictures: Sequence[P]) -> list[P]:
    """The pictures of these findings, in the same order as they were given."""
    return [each for each in pictures if each.finding in findings]


def _known(train: NDArray[np.uint8] | None) -> list[NDArray[np.uint8]]:
    return [] if train is None else [train]


def _apart(
    drawn: tuple[Picture, ...], train: NDArray[np.uint8] | None
) -> tuple[tuple[Picture, ...], Picture | None]:
    """The generated images, and the training image where there is one, which comes last."""
    return (drawn, None) if train is None else (drawn[:-1], drawn[-1])


def _starts_a_group(picture: RepeatPicture, repeats: Repeats) -> bool:
    shown = picture.sample_ids
    return any(group[: len(shown)] == shown for group in repeats.largest)
