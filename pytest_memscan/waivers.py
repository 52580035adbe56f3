"""Findings that somebody accepted, for a time and a reason.

In a policy file, and nowhere else::

    [[suppress]]
    id = "train#00013@1f2e3d4c"
    reason = "Public domain, cleared by legal on 2026-10-02"
    expires = 2027-04-01
"""

from __future__ import annotations

import datetime
import difflib
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_memscan.errors import OptionError
from pytest_memscan.results import Waiver
from pytest_memscan.settings import Given

KEYS = ("id", "reason", "expires")
MAX_DAYS = 5 * 366  # ahead; what expires later was meant to last for ever, or mistyped
_ID = re.compile(r"(concept[1-9][0-9]*/)?(train|prompt|canary)#[0-9]{5,}@[0-9a-f]{8}")
_WHERE_IDS_ARE = "reports show the id of every finding, as in train#00013@1f2e3d4c"


@dataclass(frozen=True, kw_only=True)
class WaiverLine:
    """One waiver of the policy file.

    Attributes:
        id: Of the finding, with the beginning of the fingerprint of its list.
        reason: Why it was accepted.
        expires: The last day it holds.
        source: Name of the file it stands in.
    """

    id: str
    reason: str
    expires: datetime.date
    source: str

    def holds(self, today: datetime.date) -> bool:
        """Whether it still counts."""
        return today <= self.expires


def parse_waivers(given: Given, *, today: datetime.date | None = None) -> tuple[WaiverLine, ...]:
    """Every ``[[suppress]]`` of a policy file, in order.

    Args:
        given: The tables, as TOML reads them.
        today: Expiry is checked against it; None for the day it is in UTC.

    Raises:
        OptionError: Names the file, the entry and what is wrong with it.
    """
    if not given.key:
        raise OptionError(
            f"{given.source}: a waiver can only be written in a policy file, as [[suppress]] in "
            "memscan.toml, where it is reviewed"
        )
    if not isinstance(given.value, list) or not all(isinstance(e, dict) for e in given.value):
        raise OptionError(
            f"{given.where}: expected tables with {', '.join(KEYS)}; begin each with "
            f"{_header(given)}"
        )
    latest = (today or utc_today()) + datetime.timedelta(days=MAX_DAYS)
    lines: list[WaiverLine] = []
    for number, table in enumerate(given.value, start=1):
        where = f"{given.source}: {_header(given)} number {number}"
        line = _parse(table, where, given.source, latest)
        twin = next((row for row, each in enumerate(lines, start=1) if each.id == line.id), None)
        if twin is not None:
            raise OptionError(f"{where}: {line.id} is waived by number {twin} already; keep one")
        lines.append(line)
    return tuple(lines)


def states(
    lines: Sequence[WaiverLine], used_ids: Collection[str], today: datetime.date
) -> tuple[Waiver, ...]:
    """What became of each waiver, as reports show it.

    Args:
        lines: Those of the policy.
        used_ids: Findings of the run that a waiver which holds names.
        today: The day of the run.
    """
    return tuple(
        Waiver(
            id=line.id,
            reason=line.reason,
            expires=line.expires.isoformat(),
            state=_state(line, used_ids, today),
            source=line.source,
        )
        for line in lines
    )


def utc_today() -> datetime.date:
    """The day it is, the same for everybody."""
    return datetime.datetime.now(datetime.timezone.utc).date()


def _state(line: WaiverLine, used_ids: Collection[str], today: datetime.date) -> str:
    if not line.holds(today):
        return "expired"
    return "used" if line.id in used_ids else "unused"


def _header(given: Given) -> str:
    return "[[tool.memscan.suppress]]" if given.source == "pyproject.toml" else "[[suppress]]"


def _parse(table: dict[str, Any], where: str, source: str, latest: datetime.date) -> WaiverLine:
    for problem in _wrong_keys(table):
        raise OptionError(f"{where}: {problem}")
    finding, reason = table["id"], table["reason"]
    if not isinstance(finding, str) or not _ID.fullmatch(finding):
        raise OptionError(f"{where}: {finding!r} is not the id of a finding; {_WHERE_IDS_ARE}")
    if not isinstance(reason, str) or not any(map(str.isalnum, reason)):
        raise OptionError(f"{where}: the reason of {finding} is not a text that says anything")
    expires = _date(table["expires"])
    if expires is None:
        raise OptionError(
            f"{where}: {finding} expires on {_shown(table['expires'])}, which is not a day; write "
            "one as 2027-01-31"
        )
    if expires > latest:
        raise OptionError(
            f"{where}: {finding} expires on {expires}, which is more than five years ahead; "
            f"{latest} is the latest, and it can be renewed"
        )
    return WaiverLine(id=finding, reason=reason.strip(), expires=expires, source=source)


def _wrong_keys(table: dict[str, Any]) -> Iterator[str]:
    for key in table:
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1)
            hint = f", did you mean {near[0]!r}?" if near else f"; a waiver has {', '.join(KEYS)}"
            yield f"unknown key {key!r}{hint}"
    for key in KEYS:
        if key not in table:
            yield f"{key!r} is missing; a waiver needs {', '.join(KEYS)}"


def _date(value: Any) -> datetime.date | None:
    # A date with a time is a date too for Python; which zone's day would it be?
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return value
    if not isinstance(value, str) or not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        return None
    try:
        return datetime.date.fromisoformat(value)
    except ValueError:
        return None


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, datetime.date | datetime.time) else repr(value)
