"""Where a line of the policy stands in its file.

TOML readers forget where they read what. The file was read as TOML before, so that finding its
tables, keys and texts again takes no more than cutting it into tokens.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_memscan.errors import OptionError
from pytest_memscan.policy import parse_threshold
from pytest_memscan.results import CheckOutcome, Location

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_TABLES = {"pyproject.toml": ("tool", "memscan")}  # any other file is all about this gate
_KEY = "fail"
_TOKEN = re.compile(
    r"""
    (?P<comment>\#[^\n]*)
    | (?P<text>\"{3}(?:\\.|[^\\])*?\"{3,5} | '{3}.*?'{3,5} | "(?:\\.|[^"\\\n])*" | '[^'\n]*')
    | (?P<newline>\n)
    | (?P<mark>[\[\]{}=,])
    | (?P<bare>[^\s\#"'\[\]{}=,]+)
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, kw_only=True)
class _Token:
    kind: str
    text: str
    start: int  # offset in the file


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """One ``key = value`` of a table."""

    path: tuple[str, ...]  # of its table and its own
    key: _Token
    value: tuple[_Token, ...]


def locate(expression: str, file: Path, root: Path) -> Location:
    """The place of a line of the policy: its text, else the key ``fail``, else the beginning.

    Args:
        expression: As `Threshold.expression` writes it.
        file: ``pyproject.toml``, or a file that holds nothing but settings of this gate.
        root: What the path of the location starts from; of a file elsewhere only the name is told.

    Returns:
        Lines and columns from 1, in characters; of a quoted text without its quotes.
    """
    name = _shown(file, root)
    try:
        content = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return Location(file=name)
    wanted = (*_TABLES.get(file.name, ()), _KEY)
    entry = next((each for each in _entries(content) if each.path == wanted), None)
    if entry is None:
        return Location(file=name)
    texts = (each for each in entry.value if each.kind == "text")
    found = next((each for each in texts if _says(each.text) == expression), None)
    return _place(found or entry.key, content, name)


def with_locations(check: CheckOutcome, *, policy_file: Path, root: Path) -> CheckOutcome:
    """The same outcome, every line of the policy with its place.

    What was not written in the policy file (on the command line, in pytest's ini, or nowhere)
    belongs to its beginning: that is where it would be changed for good.

    Args:
        check: How a check ended.
        policy_file: The file in use, or the one that would be; need not exist.
        root: As for `locate`.
    """
    beginning = Location(file=_shown(policy_file, root))
    return replace(
        check,
        thresholds=tuple(
            replace(
                each,
                location=locate(each.expression, policy_file, root)
                if each.source == policy_file.name
                else beginning,
            )
            for each in check.thresholds
        ),
    )


def _entries(content: str) -> Iterator[_Entry]:
    """Every ``key = value`` that stands on a line of its own, inline tables being values."""
    table: tuple[str, ...] = ()
    for line in _statements(content):
        if line[0].text == "[":
            table = _path([each for each in line if each.text not in ("[", "]")])
            continue
        sign = next((row for row, each in enumerate(line) if each.text == "="), 0)
        if sign:
            path = (*table, *_path(line[:sign]))
            yield _Entry(path=path, key=line[0], value=tuple(line[sign + 1 :]))


def _statements(content: str) -> Iterator[list[_Token]]:
    """Tokens of each header and each ``key = value``, comments left out."""
    statement: list[_Token] = []
    depth = 0
    for token in _tokens(content):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token.text, 0)
        if token.kind == "newline":
            if statement and depth <= 0:
                yield statement
                statement, depth = [], 0
        elif token.kind != "comment":
            statement.append(token)
    if statement:
        yield statement


def _tokens(content: str) -> Iterator[_Token]:
    for match in _TOKEN.finditer(content):
        yield _Token(kind=str(match.lastgroup), text=match[0], start=match.start())


def _path(tokens: list[_Token]) -> tuple[str, ...]:
    """The parts of a dotted key."""
    parts: list[str] = []
    for token in tokens:
        if token.kind == "text":
            parts.append(_decoded(token.text))
        else:
            parts += [part for part in token.text.split(".") if part]
    return tuple(parts)


def _says(quoted: str) -> str:
    """The line of the policy that a quoted text is, as it is written everywhere else."""
    text = _decoded(quoted)
    try:
        return parse_threshold(text).expression
    except OptionError:
        return text.strip()


def _decoded(quoted: str) -> str:
    try:
        return str(tomllib.loads(f"text = {quoted}")["text"])
    except tomllib.TOMLDecodeError:
        return quoted


def _place(token: _Token, content: str, name: str) -> Location:
    line = content.count("\n", 0, token.start) + 1
    column = token.start - (content.rfind("\n", 0, token.start) + 1) + 1
    width = len(token.text)
    if "\n" in token.text:
        width = token.text.index("\n")
    elif token.kind == "text" and width > 2:
        quotes = 3 if token.text[:3] in ('"""', "'''") else 1
        column, width = column + quotes, width - 2 * quotes
    return Location(file=name, line=line, column=column, end_column=column + width)


def _shown(file: Path, root: Path) -> str:
    try:
        return file.resolve().relative_to(root.resolve()).as_posix()
    except (ValueError, OSError):
        return file.name
