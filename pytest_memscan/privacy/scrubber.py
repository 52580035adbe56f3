"""Private values taken out of a text, in every form in which one may be written."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import quote

TOKEN = "(token)"  # noqa: S105 - what is shown in place of one
FILE = "(file)"
USER = "(user)"
_LEAST_PIECE = 6  # characters of a token that say too much, where pytest cut its middle out
_MOST_ROUNDS = 4  # what stood before a value may count once that is gone
_MOST_PIECES = 4096  # characters of a value whose pieces are looked for
_JSON_REPORT = '{\n  "'  # how one begins

# An embedded picture is no text: four letters of it may look like the beginning of a path.
_PICTURE = re.compile(r"(data:image/[a-z]+;base64,[A-Za-z0-9+/=]+)")
# gitleaks' rule asks for 34 letters, which a token with digits escapes.
_TOKENS = (
    r"(?<![A-Za-z0-9])hf_[A-Za-z0-9]{20,}"
    r"|(?<![A-Za-z0-9])(?:gh[opsur]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,})"
)
# What comes with a download from the Hub: a signature in an address is as good as a token.
_HEADERS = (
    r"(?i:(?<=bearer )[A-Za-z0-9._~+/-]{16,}=*"
    r"|(?<=x-amz-signature=)[^&\s\"'<>]+|(?<=x-amz-security-token=)[^&\s\"'<>]+"
    r"|(?<=[?&]signature=)[^&\s\"'<>]+)"
)
_CREDENTIALS = r"(?<=://)[^\s/@:\"'<>]{1,256}:[^\s/@\"'<>]{1,256}(?=@)"
# A picture's name may hold blanks; without such an ending, a name ends at the first one.
_REST = (
    r"(?:/[^\n\"'<>|:]{0,255}?\.(?:png|jpe?g|webp|gif|bmp|tiff?|parquet|tar|txt|jsonl?|csv)(?!\w)"
    r"|/[^\s\"'<>|:,;()\[\]]{1,255})"
)
# Not in the middle of a word, of an address or of a longer path; a colour may come before it.
_START = r"(?:(?<![\w.~/+@-])|(?<=\dm)|(?<=file://))"
_END = r"(?![\w.-]*\w)"
_CUT = re.compile(r"(?<!\.)\.\.\.(?!\.)")


@dataclass(frozen=True, kw_only=True)
class PrivatePath:
    """A file or folder whose place is nobody's business.

    Attributes:
        value: Absolute.
        shown: In its place.
        hides_files: Whether the names of the files in it are private too.
        is_short: Whether it could be part of an ordinary text; then only whole paths count.
    """

    value: str = field(repr=False)
    shown: str
    hides_files: bool = False
    is_short: bool = False


@dataclass(frozen=True, kw_only=True)
class Scrubber:
    """Takes private values out of texts.

    Attributes:
        tokens: Whatever else is around them.
        paths: Absolute ones; of two that match, the longer counts.
        texts: Whole lines of private lists, and what is shown in their place.
        user: Login name, taken out of absolute paths alone; "" for none.
    """

    tokens: tuple[str, ...] = field(default=(), repr=False)
    paths: tuple[PrivatePath, ...] = field(default=(), repr=False)
    texts: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    user: str = field(default="", repr=False)

    def scrub(self, text: str) -> str:
        """``text`` without them; a text that holds none comes back as it is.

        The time it takes grows with the length of the text, and scrubbing twice changes nothing.
        A JSON report keeps its form, its numbers and the names of its fields, whatever is private.
        """
        parts = _PICTURE.split(text)
        parts[::2] = map(self._scrubbed, parts[::2])
        clean = "".join(parts)
        if clean == text or not text.startswith(_JSON_REPORT):
            return clean
        try:
            return json.dumps(self._scrubbed_value(json.loads(text)), indent=2) + "\n"
        except ValueError:  # cut off, or no JSON after all
            return clean

    def _scrubbed_value(self, value: Any) -> Any:
        """Of JSON: every text in it."""
        if isinstance(value, str):
            return self.scrub(value)
        if isinstance(value, list):
            return [self._scrubbed_value(each) for each in value]
        if isinstance(value, dict):
            return {
                key if key.isidentifier() else self.scrub(key): self._scrubbed_value(each)
                for key, each in value.items()
            }
        return value

    def _scrubbed(self, text: str) -> str:
        for _ in range(_MOST_ROUNDS):
            clean = self._scrubbed_once(text)
            if clean == text:
                break
            text = clean
        return text

    def _scrubbed_once(self, text: str) -> str:
        text = self._pattern.sub(self._replacement, text)
        for private, shown in self._texts:
            if private in text:
                text = text.replace(private, shown)
        return self._without_pieces(text) if "..." in text else text

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        exact = sorted({form for each in self.tokens for form in forms(each)}, key=_longest_first)
        alternatives = []
        if exact:
            alternatives.append("(?P<exact>" + "|".join(map(re.escape, exact)) + ")")
        alternatives.append(f"(?P<token>{_TOKENS}|{_HEADERS}|{_CREDENTIALS})")
        alternatives += [f"(?P<path{place}>{rule})" for place, (rule, _) in enumerate(self._rules)]
        if self.user:
            alternatives.append(
                r"(?P<folders>(?:(?<![\w.:/~+@-])|(?<=\dm))(?:/[\w.+@-]{1,255}){0,32}?/(?:pytest-of-)?)"
                + re.escape(self.user)
                + r"(?![\w.+@-])"
            )
        return re.compile("|".join(alternatives))

    @cached_property
    def _rules(self) -> tuple[tuple[str, str], ...]:
        """A pattern for each form of each path, the longest first, and what is shown."""
        rules: dict[str, tuple[str, str]] = {}
        for path in self.paths:
            # A quote in JSON must stay an escaped one.
            for form, shown in zip(forms(path.value), forms(path.shown), strict=True):
                whole = re.escape(form)
                if path.is_short:
                    whole = f"{_START}{whole}{_END}"
                if path.hides_files:
                    rules.setdefault(f"{form}/", (whole + _REST, f"{shown}/{FILE}"))
                rules.setdefault(form, (whole, shown))
        return tuple(rules[form] for form in sorted(rules, key=_longest_first))

    @cached_property
    def _texts(self) -> tuple[tuple[str, str], ...]:
        everything = {form: shown for text, shown in self.texts for form in forms(text)}
        return tuple((form, everything[form]) for form in sorted(everything, key=_longest_first))

    def _replacement(self, match: re.Match[str]) -> str:
        kind = match.lastgroup or ""
        if kind == "folders":
            return f"{match['folders']}{USER}"
        if kind.startswith("path"):
            return self._rules[int(kind.removeprefix("path"))][1]
        return TOKEN

    def _without_pieces(self, text: str) -> str:
        """Without what is left of a token or path when pytest cuts the middle of a long value."""
        parts = _CUT.split(text)
        for place in range(len(parts) - 1):
            before, after = parts[place], parts[place + 1]
            for value, least_head, least_tail, shown in self._pieces:
                if head := _longest(before.endswith, value, least_head, from_start=True):
                    before = before[:-head] + shown
                if tail := _longest(after.startswith, value, least_tail, from_start=False):
                    after = shown + after[tail:]
            parts[place], parts[place + 1] = before, after
        return "...".join(parts)

    @cached_property
    def _pieces(self) -> tuple[tuple[str, int, int, str], ...]:
        """Values with how much of their beginning and of their end may be shown at most."""
        pieces = [(each, _LEAST_PIECE, _LEAST_PIECE, TOKEN) for each in self.tokens]
        for path in self.paths:
            if path.hides_files:
                folder, _, name = path.value.rpartition("/")
                pieces.append((path.value, len(folder) + 2, len(name) + 2, path.shown))
        return tuple(each for each in pieces if len(each[0]) <= _MOST_PIECES)


def forms(value: str) -> Iterator[str]:
    """``value`` as it is, and as it may be written in JSON, Python, an address or HTML."""
    yield value
    yield from (json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1])
    yield repr(value)[1:-1]
    escaped = value.encode("utf-8", "surrogateescape")
    yield from (quote(escaped), quote(escaped, safe=""))
    yield html.escape(value)


def _longest_first(text: str) -> tuple[int, str]:
    return -len(text), text


def _longest(fits: Callable[[str], bool], value: str, least: int, *, from_start: bool) -> int:
    """Characters of the longest beginning or end of ``value`` that fits; 0 for less than asked."""
    for size in range(len(value), least - 1, -1):
        if fits(value[:size] if from_start else value[-size:]):
            return size
    return 0
