"""Names of files in messages: they are somebody else's text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def printable(name: str) -> str:
    r"""A file name that can be printed: anything else of it escaped.

    Example:
        >>> printable("caf\udce9\n.png")
        'caf\\udce9\\n.png'
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in name
    )


def name_some(names: Sequence[str], most: int = 3) -> str:
    """``a.png, b.png, c.png and 5 more``."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def describe_unusable(unusable: Iterable[tuple[str, Sequence[str]]]) -> str:
    """One line: ``2 not a readable image (a.png, b.png); 1 empty file (c.png)``."""
    return "; ".join(f"{len(names)} {why} ({name_some(names)})" for why, names in unusable)
