"""What a run would be held against, for a person who asks before it starts.

Plain ASCII, so that it survives any terminal and log; whatever comes from files is made safe.
"""

from __future__ import annotations

import datetime
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pytest_memscan.reports.text import escape
from pytest_memscan.results import Location, Waiver

_INDENT = _GAP = "  "
_LEAST_WIDTH, _LEAST_VALUE = 40, 20  # columns
_SHOWN_BELOW = ("fail", "suppress")
_NO_LIMIT = "no limit on anything"


@dataclass(frozen=True, kw_only=True)
class PolicyLine:
    """One line of the policy, before anything was measured."""

    expression: str
    source: str
    location: Location | None = None  # where it is written; None where nobody wrote it in a file


def policy_lines(
    policy: Mapping[str, tuple[str, str]],
    thresholds: Sequence[PolicyLine],
    waivers: Sequence[Waiver],
    checks: Sequence[str],
    not_scanned: Mapping[str, str],
    *,
    today: datetime.date,
    width: int,
) -> list[str]:
    """Every effective setting and what follows from it, line by line.

    Args:
        policy: Setting -> its value as text, and where it was set.
        thresholds: Every limit, written or by default.
        waivers: Of the policy file.
        checks: Those of the run, in order.
        not_scanned: Check the run has not -> why.
        today: Days left are counted from it.
        width: Columns; 40 at least. A longer word is left whole.
    """
    width = max(width, _LEAST_WIDTH)
    settings = [
        (name.replace("_", "-"), *policy[name]) for name in policy if name not in _SHOWN_BELOW
    ]
    limits = {each.expression: _place(each) for each in thresholds}
    lines = ["settings", *_settings(settings, width)]
    lines += ["", "policy", *(_pairs(limits, width) if limits else _wrapped(_NO_LIMIT, width))]
    lines += ["", "checks", *_wrapped(", ".join(checks) or "none", width)]
    if not_scanned:
        lines += ["", "not in this run", *_pairs(not_scanned, width)]
    if waivers:
        lines += ["", "waivers"]
        lines += [line for each in waivers for line in _waiver(each, today, width)]
    return lines


def _place(line: PolicyLine) -> str:
    where = line.location
    return line.source if where is None else f"{where.file}:{where.line}"


def _settings(rows: Iterable[tuple[str, str, str]], width: int) -> Iterator[str]:
    """Name, value and source in columns; a long value goes on in its own."""
    cells = [(_ascii(name), _ascii(value), _ascii(source)) for name, value, source in rows]
    first = max((len(name) for name, _, _ in cells), default=0)
    last = max((len(source) for _, _, source in cells), default=0)
    room = max(width - len(_INDENT) - first - last - 2 * len(_GAP), _LEAST_VALUE)
    values = [_wrapped(value, room, indent="") or [""] for _, value, _ in cells]
    middle = min(max((len(line) for lines in values for line in lines), default=0), room)
    for (name, _, source), (begin, *rest) in zip(cells, values, strict=True):
        yield f"{_INDENT}{name:<{first}}{_GAP}{begin:<{middle}}{_GAP}{source}"
        yield from (f"{_INDENT}{'':<{first}}{_GAP}{line}" for line in rest)


def _pairs(rows: Mapping[str, str], width: int) -> Iterator[str]:
    """A name and a text beside it, which may go on below."""
    first = max(len(_ascii(name)) for name in rows)
    room = max(width - len(_INDENT) - first - len(_GAP), _LEAST_VALUE)
    for name, text in rows.items():
        begin, *rest = _wrapped(text, room, indent="") or [""]
        yield f"{_INDENT}{_ascii(name):<{first}}{_GAP}{begin}".rstrip()
        yield from (f"{_INDENT}{'':<{first}}{_GAP}{line}" for line in rest)


def _waiver(waiver: Waiver, today: datetime.date, width: int) -> Iterator[str]:
    days = (datetime.date.fromisoformat(waiver.expires) - today).days
    yield from _wrapped(f"{waiver.id}  {_left(days)}, {waiver.expires} ({waiver.source})", width)
    yield from _wrapped(waiver.reason, width, indent=2 * _INDENT)


def _left(days: int) -> str:
    if days < 0:
        return f"EXPIRED {-days} day{'' if days == -1 else 's'} ago"
    if days == 0:
        return "expires after today"
    return f"expires in {days} day{'' if days == 1 else 's'}"


def _wrapped(text: str, width: int, *, indent: str = _INDENT) -> list[str]:
    return textwrap.wrap(
        _ascii(text),
        width=width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _ascii(text: str) -> str:
    return escape(text, limit=1000).encode("ascii", "backslashreplace").decode("ascii")
