r"""Foreign text in GitHub's Markdown: it can neither format, link, mention nor run anything.

GitHub reads a summary three times: as Markdown, as HTML, and then the text of the page for
``@name``, ``#123`` and addresses. Only a code span is left alone by all three, so every word that
could mean something to one of them becomes one. A backtick and a ``|``, which would end a code
span or a cell, are written like other characters that are made harmless, as ``\x60``.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from pytest_memscan.reports.text import escape, sentence_lines

T = TypeVar("T")

MAX_ROWS = 50  # of one table
MAX_LINES = 6  # of one sentence
MAX_CELL = 300  # characters of any one string
EMPTY = "(empty)"
_MOST = 4_000  # characters of a string that are looked at; more are never shown

_WORD = re.compile(r"(?P<before>[(\"']*)(?P<core>.*?)(?P<after>[.,;:)\"'?!]*)")
_PLAIN = re.compile(r"(?!www\.|gh-\d)(?:[^\W_]|[-.,;%+/=()'\"?!])*", re.IGNORECASE)
_OPERATOR = re.compile(r"[<>=&-]+")
_BOUND = re.compile(r"\[?[\d.,%]+\]?[.,;:)]*")  # of an interval: "[0", "%,", "%];"


def code(text: str, *, limit: int = 120) -> str:
    r"""``text`` as a code span, on one line.

    Args:
        text: Any string.
        limit: Most characters kept; the middle of a longer text becomes ``...``.

    Example:
        >>> code("a|b`<script>@all")
        '`a\\x7cb\\x60<script>@all`'
    """
    if len(text) > _MOST:
        text = text[: _MOST // 2] + text[-_MOST // 2 :]  # both ends are shown
    safe = escape(text, limit=limit).strip().replace("`", "\\x60").replace("|", "\\x7c")
    return f"`{safe}`" if safe else EMPTY


def prose(text: str, *, limit: int = MAX_CELL) -> str:
    r"""A message whose words stay words, and whose names become code.

    The result must not stand at the start of a line, where ``1.`` or ``-`` would begin a list.

    Args:
        text: Any string; its first few lines are kept.
        limit: Most characters of each line.

    Example:
        >>> prose("side_extracted is 13 <= 20, see http://x.y [now](z).")
        '`side_extracted` is 13 &lt;= 20, see `http://x.y` `[now](z`).'
        >>> prose("0 % [0 %, 0.93 %], within")
        '0 % \\[0 %, 0.93 %\\], within'
    """
    lines = list(sentence_lines(text[:_MOST], limit=limit))
    shown = [" ".join(map(_word, line.split(" "))) for line in lines[:MAX_LINES]]
    return "<br>".join(shown + (["..."] if len(lines) > MAX_LINES else []))


def _word(word: str) -> str:
    if _OPERATOR.fullmatch(word):
        return html.escape(word)
    if _BOUND.fullmatch(word):
        return word.replace("[", "\\[").replace("]", "\\]")
    match = _WORD.fullmatch(word)
    # A pattern of ".*" matches every word that has no line break, and `escape` leaves none.
    before, core, after = match.groups() if match else ("", word, "")
    return word if _PLAIN.fullmatch(core) else f"{before}{code(core, limit=MAX_CELL)}{after}"


def table(
    heads: Sequence[str],
    things: Sequence[T],
    row: Callable[[T], Sequence[str]],
    *,
    right: str = "",
) -> str:
    """A table with a row for each of the first things, and how many more there are.

    Args:
        heads: One for each column.
        things: What the rows are about; no table where there is none.
        row: The cells of a thing, which are safe already.
        right: Head of the column that is aligned to the right.
    """
    if not things:
        return ""
    rules = ["---:" if head == right else "---" for head in heads]
    cells = [heads, rules, *map(row, things[:MAX_ROWS])]
    lines = (f"| {' | '.join(each)} |" for each in cells)
    return "\n".join(lines) + more(len(things) - MAX_ROWS)


def bullets(names_and_texts: Sequence[tuple[str, str]]) -> str:
    """A list of foreign texts, each behind the name of what it is about; cut like a table."""
    shown = names_and_texts[:MAX_ROWS]
    lines = (f"- {code(name)}: {prose(text, limit=1000)}" for name, text in shown)
    return "\n".join(lines) + more(len(names_and_texts) - MAX_ROWS)


def more(number: int) -> str:
    """``"and 12 more"`` as a paragraph; nothing where there are no more."""
    return f"\n\nand {number:,} more" if number > 0 else ""
