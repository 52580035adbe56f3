"""The words and numbers that every report shares: names, shares, and safe text."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from pytest_memscan.results import (
    Control,
    Coverage,
    Duplicates,
    Measure,
    Verdict,
)

# GitHub reads `::command::` at the start of a line, and `##[command]` anywhere in one. Wrapping
# can move any word to the start of a line, so every word counts as a start.
_WORKFLOW_COMMAND = re.compile(r"(?:(?<=\s)|^)(?=::)|(?<=#)(?=#(?:\[|vso\[))")


def escape(text: str, *, limit: int = 120) -> str:
    r"""``text`` on one line, unable to steer a terminal, a CI log or the reading direction.

    Meant for strings that come from files. The result is harmless, not reversible: a backslash
    that was already there stays as it is.

    Args:
        text: Any string, lone surrogates included.
        limit: Most characters returned; the middle of a longer text becomes ``...``.

    Example:
        >>> escape("model\x1b[31m\u202egnp")
        'model\\x1b[31m\\u202egnp'
        >>> escape("::error::boo")
        '\\::error::boo'
    """
    safe = "".join(_escape_character(character) for character in text)
    safe = _WORKFLOW_COMMAND.sub(r"\\", safe)
    if len(safe) <= limit:
        return safe
    head = (limit - 2) // 2
    return f"{safe[:head]}...{safe[len(safe) - (limit - 3 - head) :]}"


def _escape_character(character: str) -> str:
    category = unicodedata.category(character)
    # C*: control, format (reading direction, zero width), surrogate, private and unassigned.
    if category[0] == "C" or category in ("Zl", "Zp"):
        return character.encode("unicode_escape").decode("ascii")
    return character


def train_name(train_id: int) -> str:
    """How reports call a training image; never by its file name."""
    return f"train#{train_id:05d}"


def generated_name(sample_id: int) -> str:
    """How reports call a generated image."""
    return f"generated#{sample_id:05d}"


def check_name(name: str) -> str:
    """``"carlini"``, whether the check was recorded by name or by its pytest id."""
    return name.removeprefix("memscan::")


def control_range(control: Control) -> str:
    """How many of the planted images had to be found."""
    if control.minimum_found <= 0:
        return f"at most {control.maximum_found}"
    if control.maximum_found >= control.num_images:
        return f"at least {control.minimum_found}"
    return f"{control.minimum_found} to {control.maximum_found}"


def controls_text(controls: Sequence[Control]) -> str:
    """``"re-encoded found 20/20; noise found 0/20"``, and what was required where one failed."""
    return "; ".join(
        f"{escape(each.name)} found {each.num_found}/{each.num_images}"
        + ("" if each.passed else f", expected {control_range(each)}: MISSED")
        for each in controls
    )


def cut_text(measure: Measure, cut: float) -> str:
    """``"ratio of at most 0.93"``, ``"similarity of at least 0.6"``."""
    return f"{measure.word} of {measure.limit_word} {score(cut)}"


def duplicates_text(duplicates: Duplicates) -> str:
    """``"3 groups, 4 of 150 training images could go (2 identical)"``."""
    if not duplicates.num_groups:
        return "none"
    groups = "group" if duplicates.num_groups == 1 else "groups"
    return (
        f"{duplicates.num_groups} {groups}, {duplicates.num_redundant} of {duplicates.num_images} "
        f"training images could go ({duplicates.num_identical} identical)"
    )


def verdict_word(verdict: Verdict) -> str:
    """``"NOT RUN"`` for ``Verdict.NOT_RUN``, and so on."""
    return verdict.value.upper().replace("_", " ")


def percent(share: float) -> str:
    """A share in ``[0, 1]`` as a percentage; something is never shown as nothing or as all.

    Example:
        >>> [percent(share) for share in (0.0, 0.00931, 0.447, 0.9999, 1.0, 1e-9)]
        ['0 %', '0.93 %', '44.7 %', '> 99.9 %', '100 %', '< 0.0001 %']
    """
    points = share * 100
    if points in (0, 100):
        return f"{points:.0f} %"
    if 0 < points < 0.0001:
        return "< 0.0001 %"
    if 99.95 <= points < 100:
        return "> 99.9 %"
    if abs(points) >= 10:
        return f"{points:.1f} %"
    return f"{points:.2f} %" if abs(points) >= 0.1 else f"{points:.2g} %"


def quantity(value: float) -> str:
    """An expected number of things, two significant digits, none of them invented.

    Example:
        >>> [quantity(value) for value in (0, 0.0427, 3.44, 143.0, 0.00012)]
        ['0', '0.043', '3.4', '143', '1.2e-04']
    """
    if value == int(value):
        return f"{value:.0f}"
    if abs(value) < 0.001:
        return f"{value:.1e}"
    return f"{value:.2g}" if abs(value) < 10 else f"{value:.0f}"


def score(value: float) -> str:
    """A ratio or a similarity, three digits after the point where two would hide it.

    Example:
        >>> [score(value) for value in (0.6, 1.35, 0.8764, 0.9996)]
        ['0.6', '1.35', '0.876', '1.000']
    """
    return f"{value:g}" if round(value, 2) == value else f"{value:.3f}"


def duration(seconds: float) -> str:
    """``"0.4 s"``, ``"3 min 20 s"`` or ``"2 h 05 min"``."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds >= 0.05 else "< 0.1 s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def sentence_lines(sentence: str, *, limit: int = 1000) -> Iterator[str]:
    """The lines of a message, each made safe; the remedy often stands on the second one."""
    return (escape(line.rstrip(), limit=limit) for line in sentence.strip().splitlines())


def wrap(label: str, sentence: str, width: int, *, indent: str = "") -> list[str]:
    """A message on lines of at most ``width`` columns, all but the first of them indented.

    Args:
        label: Goes before the first line; not made safe.
        sentence: Made safe; its own line breaks stay.
        width: Columns; twenty at least. A longer word is left whole.
        indent: Before every line.
    """
    lines: list[str] = []
    for number, line in enumerate(sentence_lines(sentence)):
        lines += textwrap.wrap(
            line if number else f"{label}{line}",
            width=max(width, 20),
            initial_indent=f"{indent}  " if number else indent,
            subsequent_indent=f"{indent}  ",
            # A break inside a word could put the "::" of a path at the start of a line.
            break_long_words=False,
            break_on_hyphens=False,
        )
    return lines


def coverage_text(coverage: Coverage) -> str:
    """What was generated and compared, and everything that was lost on the way; no file names."""
    text = f"generated {coverage.generated}/{coverage.planned}, valid {coverage.valid}"
    if coverage.train_used or coverage.train_found:
        text += f", compared with {coverage.train_used} training images"
        text += f" ({coverage.train_groups} distinct)" if coverage.train_groups else ""
    else:
        text += ", no training images to compare with"
    unusable = {why: len(names) for why, names in coverage.train_unusable.items()}
    if coverage.invalid:
        text += f", invalid {reason_counts(coverage.invalid.items())}"
    if coverage.train_resized:
        text += f", {coverage.train_resized} of them resized"
    if coverage.damaged:
        text += f", generated again {coverage.damaged}"
    if unusable:
        text += f", unusable training images {reason_counts(unusable.items())}"
    return text


def reason_counts(counts: Iterable[tuple[str, int]]) -> str:
    """``"4 (black 3, not a number 1)"``."""
    ordered = sorted(counts)
    listed = ", ".join(f"{escape(why)} {count}" for why, count in ordered)
    return f"{sum(count for _, count in ordered)} ({listed})"
