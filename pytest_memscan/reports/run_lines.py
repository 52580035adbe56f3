"""What the terminal shows of the run as a whole: waivers, what was left out, what it cost."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_memscan.reports.columns import aligned
from pytest_memscan.reports.leaks import leaks_of
from pytest_memscan.reports.text import check_name, duration, escape, wrap
from pytest_memscan.results import CheckOutcome, RunResult, Waiver

NUM_IDS = 100  # of findings, listed with -vv


def run_lines(result: RunResult, *, verbosity: int, width: int) -> list[str]:
    """Lines about the run rather than about one of its checks.

    Args:
        result: What was measured.
        verbosity: pytest's. Waivers are always shown; with 1 what was not scanned, with 2 the ids
            of findings, the cost of each check and what it was measured with.
        width: Columns that sentences are wrapped to.
    """
    lines: list[str] = []
    for waiver in result.waivers:
        lines += wrap(f"waiver {waiver.state}: ", _waiver_text(waiver), width)
    if verbosity > 0:
        for name, reason in result.not_scanned.items():
            lines += wrap(f"not scanned: {escape(name)}: ", reason, width)
    if verbosity > 1:
        lines += _id_lines(result)
        lines += _cost_lines(result)
        for check in result.checks:
            lines += _provenance_lines(check)
    return lines


def _waiver_text(waiver: Waiver) -> str:
    return f"{waiver.id} until {waiver.expires} ({waiver.source}): {waiver.reason}"


def _id_lines(result: RunResult) -> Iterator[str]:
    """What a waiver names a finding by."""
    leaks = [leak for check in result.checks for leak in leaks_of(check)]
    if leaks:
        yield "ids of findings, as a waiver names them:"
        yield from (f"  {escape(each.id)}  {escape(each.sentence)}" for each in leaks[:NUM_IDS])
    if len(leaks) > NUM_IDS:
        yield f"  and {len(leaks) - NUM_IDS} more, in the JSON report"


def _cost_lines(result: RunResult) -> list[str]:
    rows = [("check", "images", "time")]
    for check in result.checks:
        images = "" if check.coverage is None else f"{check.coverage.generated:,}"
        seconds = result.timings.get(check.name)
        if images or seconds is not None:
            name = escape(check_name(check.name))
            rows.append((name, images, "" if seconds is None else duration(seconds)))
    return aligned(rows, right=(1, 2)) if len(rows) > 1 else []


def _provenance_lines(check: CheckOutcome) -> Iterator[str]:
    for name, value in check.provenance.items():
        yield f"{escape(check_name(check.name))}: {escape(name)}: {escape(value)}"
