"""What every kind of check says of itself: its power, and what it looked at."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_memscan.reports import (
    finetune_text,
    key_text,
    prompt_text,
    splitting_text,
)
from pytest_memscan.reports.text import coverage_text, percent
from pytest_memscan.results import CheckOutcome


def power_texts(check: CheckOutcome) -> Iterator[str]:
    """What it would have noticed, had it been there; nothing for a check that promises nothing."""
    if check.scan is not None:
        rate = percent(check.scan.excluded_rate)
        yield f"this scan would have noticed a leak rate above {rate}"
    if check.splitting is not None:
        yield splitting_text.excluded_text(check.splitting)
    if check.prompt_scan is not None:
        yield prompt_text.power_text(check.prompt_scan.rule)
    if check.repeats is not None:
        yield key_text.shown_text(check.repeats)
    if check.finetunes is not None:
        is_set = len(check.finetunes.concepts) > 1
        for number, concept in enumerate(check.finetunes.concepts, start=1):
            prefix = f"concept {number}: " if is_set else ""
            yield f"{prefix}{finetune_text.shown_text(concept)}"


def coverage_texts(check: CheckOutcome) -> Iterator[str]:
    """What was generated, compared and lost; no file names."""
    if check.coverage is not None:
        yield coverage_text(check.coverage)
    elif check.finetunes is not None:
        for number, concept in enumerate(check.finetunes.concepts, start=1):
            yield f"concept {number}: {coverage_text(concept.images)}"
    if check.prompt_scan is not None:
        yield f"prompts: {prompt_text.prompts_text(check.prompt_scan.prompts)}"
