"""What a workflow on GitHub says of a run: a few annotations, and values for its next steps."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from pytest_memscan.reports.estimates import reason
from pytest_memscan.reports.text import check_name, sentence_lines, verdict_word
from pytest_memscan.results import CheckOutcome, Location, RunResult, Verdict

MOST_ANNOTATIONS = 10  # errors of one step that GitHub shows; it drops the others in silence
_GREEN = (Verdict.PASS, Verdict.NOT_APPLICABLE)


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """An error that GitHub shows, beside a line of the policy file where there is one."""

    title: str
    message: str
    location: Location | None = None


def to_annotations(result: RunResult, *, limit: int = MOST_ANNOTATIONS) -> list[Annotation]:
    """Why a run is not a pass: every limit that does not hold, every check that did not work.

    Args:
        result: What was measured.
        limit: Most annotations returned; the last of them says how many there are more.
    """
    if result.verdict is Verdict.PASS:
        return []
    found = list(dict.fromkeys(each for check in result.checks for each in _of_check(check)))
    if not found:
        title = f"memscan: {verdict_word(result.verdict)}"
        found = [Annotation(title=title, message=_safe(result.sentence))]
    if len(found) <= limit:
        return found
    rest = len(found) - limit + 1
    more = Annotation(title="memscan", message=f"and {rest} more; the reports list all")
    return [*found[: limit - 1], more]


def decisive_metric(result: RunResult) -> str:
    """The first limit that decided the verdict: ``"extracted 134 > 0"``; empty where none did."""
    thresholds = [each for check in result.checks for each in check.thresholds]
    return next((reason(each) for each in thresholds if each.verdict is result.verdict), "")


def regression_word(result: RunResult) -> str:
    """``"increase"``, ``"none"`` or ``"incomparable"``; empty where no baseline was given."""
    found = [each.regression for each in result.checks if each.regression is not None]
    if not found:
        return ""
    if not all(each.is_comparable for each in found):
        return "incomparable"
    increased = any(change.increased for each in found for change in each.changes)
    return "increase" if increased else "none"


def checkpoint_hash(result: RunResult) -> str:
    """The commit of a checkpoint from the Hub, else one sha256 over those of its files.

    Returns:
        40 or 64 hex digits; empty where its files were not looked at.
    """
    commits = (check.provenance.get("checkpoint commit", "") for check in result.checks)
    for commit in commits:
        if re.fullmatch(r"[0-9a-f]{40}", commit):
            return commit
    for check in result.checks:
        if check.integrity is not None:
            files = sorted(check.integrity.files.items())
            listing = "".join(f"{digest}  {name}\n" for name, digest in files)
            return hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest()
    return ""


def _of_check(check: CheckOutcome) -> Iterator[Annotation]:
    name = f"memscan {check_name(check.name)}"
    broken = [each for each in check.thresholds if each.verdict not in _GREEN]
    for each in broken:
        yield Annotation(
            title=f"{name}: {verdict_word(each.verdict)}",
            message=f"{_safe(each.sentence)}\nThe limit: {_safe(each.expression)}",
            location=each.location,
        )
    if not broken and check.verdict not in _GREEN:
        yield Annotation(
            title=f"{name}: {verdict_word(check.verdict)}", message=_safe(check.sentence)
        )


def _safe(text: str) -> str:
    return "\n".join(sentence_lines(text))
