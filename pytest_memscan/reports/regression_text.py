"""What the terminal shows of a comparison with an earlier run."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_memscan.reports.columns import aligned
from pytest_memscan.reports.estimates import bounds_text, is_exact, value_text
from pytest_memscan.reports.text import escape, wrap
from pytest_memscan.results import Estimate, MetricChange, Regression, RunResult

NUM_KEYS = 8  # listed without -v
_HASH_DIGITS = 8
_LONGEST_VALUE = 40


def regression_lines(result: RunResult, *, verbosity: int, width: int) -> list[str]:
    """Every metric then and now, or what differs that must not; nothing without a baseline.

    Args:
        result: What was measured.
        verbosity: pytest's: below 0 nothing is shown; above 0 also every test and every key.
        width: Columns that sentences are wrapped to.
    """
    lines: list[str] = []
    for check in result.checks:
        if check.regression is not None and verbosity >= 0:
            lines += _lines(check.regression, everything=verbosity > 0, width=width)
    return lines


def _lines(regression: Regression, *, everything: bool, width: int) -> list[str]:
    source = f"{escape(regression.baseline)} ({escape(regression.source)})"
    if not regression.is_comparable:
        return [
            *wrap("baseline: ", f"incomparable with {source}; these have to match:", width),
            *_keys(regression, everything=everything),
        ]
    if not regression.changes:
        return wrap("baseline: ", f"nothing was compared with {source}", width)
    lines = wrap("baseline: ", source, width)
    header = ("metric", "then", "now", "new", "gone", "p", "result")
    rows = [header, *(_row(change) for change in regression.changes)]
    lines += [f"  {line}" for line in aligned(rows, right=(1, 2, 3, 4, 5))]
    return lines + (list(_tests(regression, width)) if everything else [])


def _row(change: MetricChange) -> tuple[str, ...]:
    p = change.p_value
    return (
        escape(change.metric),
        _value(change.before, change),
        _value(change.now, change),
        "" if change.num_new is None else f"{change.num_new:,}",
        "" if change.num_gone is None else f"{change.num_gone:,}",
        "" if p is None else (f"{p:.2g}" if p >= 1e-6 else "< 1e-6"),
        "INCREASED" if change.increased else "no increase shown",
    )


def _value(estimate: Estimate, change: MetricChange) -> str:
    """With its bounds where these decided."""
    shown = value_text(estimate)
    bounded = change.p_value is None and not (is_exact(estimate) and _is_sharp(estimate))
    return f"{shown} {bounds_text(estimate)}" if bounded else shown


def _is_sharp(estimate: Estimate) -> bool:
    return estimate.lower == estimate.upper


def _tests(regression: Regression, width: int) -> Iterator[str]:
    """Metrics that were tested alike are told together."""
    told: dict[str, list[str]] = {}
    for change in regression.changes:
        told.setdefault(change.test, []).append(escape(change.metric))
    for test, metrics in told.items():
        text = escape(test, limit=1000)
        yield from wrap(f"{', '.join(metrics)}: ", text, width - 2, indent="  ")
    yield from wrap(
        "",
        f"all p-values together (Holm), at a chance of {100 * regression.significance:g} % of any "
        "false increase",
        width - 2,
        indent="  ",
    )


def _keys(regression: Regression, *, everything: bool) -> list[str]:
    keys = list(regression.differing.items())
    shown = keys if everything else keys[:NUM_KEYS]
    rows = [("", "then", "now"), *((escape(key), *map(_shown, sides)) for key, sides in shown)]
    more = len(keys) - len(shown)
    lines = [f"  {line}" for line in aligned(rows)]
    return [*lines, f"  and {more} more (-v lists them)"] if more else lines


def _shown(value: str) -> str:
    """A fingerprint is recognised by its beginning."""
    is_hash = len(value) >= 32 and all(letter in "0123456789abcdef" for letter in value)
    return value[:_HASH_DIGITS] if is_hash else escape(value, limit=_LONGEST_VALUE)
