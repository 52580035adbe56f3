"""Findings that somebody accepted, for a time and a reason."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from pytest_memscan.settings import Given


@dataclass(frozen=True, kw_only=True)
class WaiverLine:
    """One waiver of the policy file."""

    id: str
    reason: str
    expires: datetime.date
    source: str


def parse_waivers(given: Given) -> tuple[WaiverLine, ...]:
    """Every ``[[suppress]]`` of a policy file."""
    raise NotImplementedError
