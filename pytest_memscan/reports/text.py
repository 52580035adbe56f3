"""The words and numbers that every report shares: names, shares, limits, and safe text."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from pytest_memscan.results import (
    Control,
    Coverage,
    Duplicates,
    Estimate,
    Measure,
    ScanResult,
    ThresholdOutcome,
    Verdict,
)

_OPPOSITE = {"<=": ">", "<": ">=", ">=": "<", ">": "<=", "==": "!="}
_EXPRESSION = re.compile(r"\s*(\w+)\s*(<=|>=|==|<|>)\s*(\S+)\s*")
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


def confirmed_text(scan: ScanResult) -> str:
    """How many distinct training images are confirmed as copied."""
    extracted = scan.metrics.get("extracted")
    if extracted is not None:
        return value_text(extracted)
    # Second choice: `findings` may have been cut to what a report can hold.
    return str(sum(finding.confirmed for finding in scan.findings))


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


def is_exact(estimate: Estimate) -> bool:
    """Whether the number was counted, so that bounds would say nothing."""
    return estimate.num_trials == 0


def value_text(estimate: Estimate) -> str:
    """The measured number: a count as it is, a rate as a percentage."""
    return quantity(estimate.value) if is_exact(estimate) else percent(estimate.value)


def bounds_text(estimate: Estimate) -> str:
    """``"[1.90 %, 4.70 %]"``, or ``"exact"`` for a count."""
    if is_exact(estimate):
        return "exact"
    return f"[{percent(estimate.lower)}, {percent(estimate.upper)}]"


def bounds_heading(estimates: Sequence[Estimate]) -> str:
    """``"95 % bounds"``, without the number where the estimates do not share one."""
    levels = {estimate.confidence for estimate in estimates if not is_exact(estimate)}
    return f"{100 * levels.pop():g} % bounds" if len(levels) == 1 else "bounds"


def split_expression(outcome: ThresholdOutcome) -> tuple[str, str, str]:
    """Metric, operator and limit of a threshold, the limit in the unit of the measured number.

    An expression of another form comes back whole, as the metric.
    """
    match = _EXPRESSION.fullmatch(outcome.expression)
    if match is None:
        return escape(outcome.expression), "", ""
    metric, operator, limit = match.groups()
    if outcome.estimate is None or is_exact(outcome.estimate):
        return metric, operator, limit
    try:
        return metric, operator, f"{100 * float(limit):g} %"
    except ValueError:
        return metric, operator, limit


def reason(outcome: ThresholdOutcome) -> str:
    """The threshold against what was measured: ``"extracted 143 > 0"``."""
    metric, operator, limit = split_expression(outcome)
    estimate = outcome.estimate
    if estimate is None or not operator:
        return outcome_expression(outcome)
    measured = value_text(estimate)
    if not is_exact(estimate):
        measured = f"{measured} {bounds_text(estimate)}"
    if outcome.verdict is Verdict.PASS:
        return f"{metric} {measured} {operator} {limit}"
    if outcome.verdict is Verdict.FAIL and operator in _OPPOSITE:
        return f"{metric} {measured} {_OPPOSITE[operator]} {limit}"
    return f"{metric} {measured}, limit {operator} {limit}"


def outcome_expression(outcome: ThresholdOutcome) -> str:
    """The threshold as it was written."""
    return escape(outcome.expression)


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
