"""Which lines are prompts, which are passed over, and which should have been prompts but cannot be.

Leading and trailing white space goes; everything else of a prompt stays as it is, since a model
memorises the very text that it saw.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from pytest_memscan.data.naming import describe_unusable
from pytest_memscan.errors import PromptError

MAX_PROMPTS = 1_000_000  # lines or rows
MAX_CHARACTERS = 10_000  # of one prompt
EMPTY, DUPLICATE = "empty", "duplicate"  # reasons that lose nothing
CONTROL_CHARACTER = "with a control character"
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # all but tab and line ends
_SURROGATE = re.compile(r"[\ud800-\udfff]")


class Entry(NamedTuple):
    """One line or row.

    Attributes:
        place: "line 7": where it stands, for people.
        text: As it was found; None where there is none.
        problem: Why it cannot be used, when that is known before it is looked at.
    """

    place: str
    text: str | None
    problem: str | None = None


class Tally:
    """What has been read so far."""

    def __init__(self, origin: str, *, most: int | None = MAX_PROMPTS) -> None:
        self.origin = origin
        self.most = most
        self.num_found = 0
        self.prompts: list[str] = []
        self.places: list[str] = []
        self.dropped: dict[str, int] = defaultdict(int)
        self.unusable: dict[str, list[str]] = defaultdict(list)
        self._seen: set[str] = set()

    def count_all(self, entries: Iterable[Entry]) -> None:
        """Sort every entry into used, dropped and unusable."""
        for entry in entries:
            self.num_found += 1
            if self.most is not None and self.num_found > self.most:
                raise PromptError(
                    f"{self.origin} holds more than {self.most:,} prompts, and a scan could not "
                    "try them all; name a shorter list"
                )
            self._count(entry)

    def _count(self, entry: Entry) -> None:
        text = (entry.text or "").strip()
        problem = entry.problem or _problem_of(entry.text or "", len(text))
        if problem is not None:
            self.unusable[problem].append(entry.place)
            return
        key = unicodedata.normalize("NFC", text)
        if not text or key in self._seen:
            self.dropped[DUPLICATE if text else EMPTY] += 1
            return
        self._seen.add(key)
        self.prompts.append(text)
        self.places.append(entry.place)

    def require_some(self) -> None:
        """Fail when nothing can be used.

        Raises:
            PromptError: Names the reasons.
        """
        if self.prompts:
            return
        if not self.num_found:
            raise PromptError(f"{self.origin} holds no prompts")
        reasons = [f"{count} {reason}" for reason, count in self.dropped.items()]
        if self.unusable:
            reasons.append(describe_unusable(self.unusable.items()))
        raise PromptError(f"no prompt in {self.origin} can be used: {'; '.join(reasons)}")


def _problem_of(text: str, length: int) -> str | None:
    if length > MAX_CHARACTERS:
        return f"longer than {MAX_CHARACTERS:,} characters"
    if text.isprintable():  # most are; neither of the below is
        return None
    if _SURROGATE.search(text):
        return "not UTF-8 text"
    if found := _CONTROL.search(text):
        return "with a NUL character" if found[0] == "\0" else CONTROL_CHARACTER
    return None
