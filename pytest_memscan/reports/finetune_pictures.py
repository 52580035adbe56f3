"""Pictures of what was extracted from fine-tunes, and the sections that show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.reports.charts import Chart
from pytest_memscan.reports.finetune_charts import sweep_charts
from pytest_memscan.reports.finetune_text import Candidate, candidates
from pytest_memscan.reports.pictures import Album, Picture
from pytest_memscan.results import CheckOutcome, ConceptScan, FinetuneScan, RunResult

MAX_PICTURES = 500  # generated images drawn in one report, each beside a training image
MIN_PICTURES = 4  # of one fine-tune, however many there are
MAX_LISTED = 500  # rows of one table


@dataclass(frozen=True, kw_only=True, eq=False)
class FinetunePicture:
    """A generated image and the training image nearest to it, ``(height, width, channels)``."""

    concept: int  # place of the fine-tune in its scan
    sample_id: int
    train_id: int | None
    generated: NDArray[np.uint8]
    train: NDArray[np.uint8] | None


@dataclass(frozen=True, kw_only=True)
class FinetuneCard:
    """An extracted image as it is drawn."""

    candidate: Candidate
    generated: Picture
    train: Picture | None


@dataclass(frozen=True, kw_only=True)
class ConceptSection:
    """A fine-tune with everything that is drawn for it."""

    concept: ConceptScan
    cards: tuple[FinetuneCard, ...]
    listed: tuple[Candidate, ...]  # without pictures
    num_more: int
    sweep: tuple[Chart, ...]  # over the scale of model guidance, where there were several


@dataclass(frozen=True, kw_only=True)
class FinetuneSection:
    """A scan of fine-tunes with everything that is drawn for it."""

    check: CheckOutcome
    scan: FinetuneScan
    concepts: tuple[ConceptSection, ...]


def num_pictures(scan: FinetuneScan) -> int:
    """How many images of each fine-tune are drawn, at most."""
    return max(MIN_PICTURES, MAX_PICTURES // max(1, len(scan.concepts)))


def finetune_sections(
    result: RunResult, pictures: Sequence[FinetunePicture], album: Album
) -> list[FinetuneSection]:
    """One for each scan of fine-tunes; pictures of other images are left out."""
    return [
        FinetuneSection(
            check=check,
            scan=check.finetunes,
            concepts=tuple(
                _concept_section(
                    concept,
                    [each for each in pictures if each.concept == position],
                    album,
                    limit=num_pictures(check.finetunes),
                )
                for position, concept in enumerate(check.finetunes.concepts)
            ),
        )
        for check in result.checks
        if check.finetunes is not None
    ]


def _concept_section(
    concept: ConceptScan, pictures: Sequence[FinetunePicture], album: Album, *, limit: int
) -> ConceptSection:
    found = candidates(concept)
    kept = {(each.sample_id, each.train_id): each for each in pictures}
    cards: list[FinetuneCard] = []
    for candidate in found:
        picture = kept.get((candidate.sample_id, candidate.train_id))
        if picture is None or len(cards) == limit:
            continue
        drawn = album.add(picture.generated, *([] if picture.train is None else [picture.train]))
        if drawn is not None:
            train = drawn[1] if len(drawn) > 1 else None
            cards.append(FinetuneCard(candidate=candidate, generated=drawn[0], train=train))
    done = {card.candidate for card in cards}
    others = [each for each in found if each not in done]
    return ConceptSection(
        concept=concept,
        cards=tuple(cards),
        listed=tuple(others[:MAX_LISTED]),
        num_more=max(0, len(others) - MAX_LISTED),
        sweep=sweep_charts(concept),
    )
