"""Tables of plain text."""

from __future__ import annotations

from collections.abc import Container, Sequence


def aligned(rows: Sequence[Sequence[str]], *, right: Container[int] = ()) -> list[str]:
    """Columns of equal width, three spaces apart; those in ``right`` end below each other.

    Example:
        >>> aligned([("a", "1", "x"), ("bc", "10", "")], right=(1,))
        ['a     1   x', 'bc   10']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "   ".join(
            cell.rjust(width) if position in right else cell.ljust(width)
            for position, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
