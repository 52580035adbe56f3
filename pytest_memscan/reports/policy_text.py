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

_INDENT = "  "
_LONGEST_VALUE = 60  # columns that a value may take before its source moves on
_LEAST_WIDTH = 40


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
        (name.replace("_", "-"), *policy[name])
        for name in policy
        if name not in ("fail", "suppress")
    ]
    lines = ["settings", *_table(settings, width)]
    limits = [(each.expression, _place(each)) for each in thresholds]
    lines += ["", "policy", *(_table(limits, width) or [f"{_INDENT}no limit on anything"])]
    lines += ["", "checks", *_wrapped(", ".join(checks) or "none", width)]
    if not_scanned:
        lines += ["", "not in this run", *_reasons(not_scanned, width)]
    if waivers:
        lines += ["", "waivers"]
        lines += [line for each in waivers for line in _waiver(each, today, width)]
    return lines


def _place(line: PolicyLine) -> str:
    where = line.location
    return line.source if where is None else f"{where.file}:{where.line}"


def _table(rows: Iterable[tuple[str, ...]], width: int) -> list[str]:
    """Columns as wide as what is in them; what is too long goes on in the lines below."""
    cells = [[_ascii(cell) for cell in row] for row in rows]
    if not cells:
        return []
    *names, _ = ([len(row[column]) for row in cells] for column in range(len(cells[0])))
    widths = [min(max(each), _LONGEST_VALUE) for each in names]
    lines = []
    for row in cells:
        padded = [cell.ljust(room) for cell, room in zip(row, widths, strict=False)]
        line = _INDENT + _INDENT.join([*padded, row[-1]])
        if len(line) <= width and all(
            len(cell) <= room for cell, room in zip(row, widths, strict=False)
        ):
            lines.append(line)
        else:
            lines += _broken(row, widths[0], width)
    return lines


def _broken(row: Sequence[str], first: int, width: int) -> list[str]:
    """A row that does not fit: its later cells one below the other, behind the first column."""
    indent = " " * (len(_INDENT) + first + len(_INDENT))
    name, *others = row
    return textwrap.wrap(
        f"{name.ljust(first)}{_INDENT}{others[0]}",
        width=width,
        initial_indent=_INDENT,
        subsequent_indent=indent,
        drop_whitespace=True,
        break_long_words=False,
        break_on_hyphens=False,
    ) + [f"{indent}{cell}" for cell in others[1:]]


def _reasons(not_scanned: Mapping[str, str], width: int) -> Iterator[str]:
    first = max(len(_ascii(name)) for name in not_scanned)
    for name, reason in not_scanned.items():
        yield from _broken((_ascii(name), _ascii(reason)), first, width)


def _waiver(waiver: Waiver, today: datetime.date, width: int) -> Iterator[str]:
    days = (datetime.date.fromisoformat(waiver.expires) - today).days
    yield from _wrapped(f"{waiver.id}  {_left(days)}, {waiver.expires} ({waiver.source})", width)
    yield from _wrapped(waiver.reason, width, indent=2 * _INDENT)


def _left(days: int) -> str:
    if days < 0:
        return f"EXPIRED {-days} day{'' if days == -1 else 's'} ago, counts for nothing"
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
