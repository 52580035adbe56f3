"""Measured numbers in words: how often, how many, how surely, and against which limit."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from pytest_memscan.reports.text import escape, percent, quantity
from pytest_memscan.results import Estimate, ScanResult, ThresholdOutcome, Verdict

_RAREST = 1e-12  # below it the number of images says nothing more to anybody
_COMMON = 0.1  # from here on a percentage reads better than one in so many
_SMALL_POINTS = 0.0001  # percentage points; `percent` shows nothing smaller
_LARGE = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"))
_OPPOSITE = {"<=": ">", "<": ">=", ">=": "<", ">": "<=", "==": "!="}
_EXPRESSION = re.compile(r"\s*(\w+)\s*(<=|>=|==|<|>)\s*(\S+)\s*")


def count_text(number: float) -> str:
    """A number of images from one upwards, two significant digits.

    Example:
        >>> [count_text(number) for number in (34.4, 34_437, 1.23e6, 4.1e8, 2e9)]
        ['34', '34,000', '1.2 million', '410 million', '2 billion']
    """
    shown = float(f"{number:.2g}")
    for size, word in _LARGE:
        if shown >= size:
            return f"{shown / size:,.3g} {word}"
    return f"{shown:,.0f}" if shown >= 10 else f"{shown:g}"


def one_in(rate: float, *, about: str = "") -> str:
    """How often an ordinary image is a copy, for rates that a percentage cannot show.

    Args:
        rate: Chance of one image; an unbiased estimate may lie above 1.
        about: Before a number that is not exact.

    Example:
        >>> [one_in(rate) for rate in (2.9e-5, 1e-9, 0.25, 0.0)]
        ['one in 34,000 images', 'one in 1 billion images', '25.0 % of images', 'no image']
        >>> [one_in(rate, about="about ") for rate in (1.0, 1e-30)]
        ['every image', 'less than one in 1 trillion images']
    """
    if not math.isfinite(rate):
        return "not known"
    if rate <= 0:
        return "no image"
    if rate < _RAREST:
        return f"less than one in {count_text(1 / _RAREST)} images"
    if rate < _COMMON:
        return f"one in {about}{count_text(1 / rate)} images"
    return "every image" if rate >= 1 else f"{about}{percent(rate)} of images"


def odds_text(share: float) -> str:
    """A share in few letters, for tables: as a percentage where it is large.

    Example:
        >>> [odds_text(share) for share in (0.25, 0.0041, 2.4e-8, 1e-30, 0.0)]
        ['25.0 %', '1 in 240', '1 in 42 million', '< 1 in 1 trillion', '0 %']
    """
    if not math.isfinite(100 * share):
        return "not known"
    if 0 < share < _RAREST:
        return f"< 1 in {count_text(1 / _RAREST)}"
    return f"1 in {count_text(1 / share)}" if 0 < share < _COMMON else percent(share)


def odds_bounds(estimate: Estimate) -> str:
    """``"[1 in 28 million, 1 in 240]"``; steering that saw nothing bounds nothing."""
    if estimate.value == 0 and estimate.upper in (0, 1):
        return "no bounds"
    return f"[{odds_text(estimate.lower)}, {odds_text(estimate.upper)}]"


def share_text(share: float) -> str:
    """A share as a percentage, or as one in so many where a percentage would hide it.

    Example:
        >>> [share_text(share) for share in (0.0041, 2.4e-8, 0.0)]
        ['0.41 %', '1 in 42 million', '0 %']
    """
    in_percent = math.isfinite(100 * share) and not _is_small(share)
    return percent(share) if in_percent else odds_text(share)


def share_bounds(estimate: Estimate) -> str:
    """``"[0.12 %, 0.41 %]"``, or both as one in so many where a percentage would hide one."""
    show = odds_text if _is_small(estimate.lower) or _is_small(estimate.upper) else share_text
    return f"[{show(estimate.lower)}, {show(estimate.upper)}]"


def bounded_share(estimate: Estimate) -> str:
    """``"3.8 % [2.6 %, 5.3 %]"``."""
    return f"{share_text(estimate.value)} {share_bounds(estimate)}"


def share_and_odds(estimate: Estimate) -> str:
    """``"0.0041 % [0.0012 %, 0.013 %] (one in 24,000 images)"``, no rate told twice over."""
    shown = bounded_share(estimate)
    if estimate.value >= _COMMON or _is_small(estimate.value):
        return shown
    return f"{shown} ({one_in(estimate.value)})"


def least_text(rate: Estimate) -> str:
    """The lower bound in words: ``"at least one in 410,000"``."""
    if rate.lower < _RAREST:
        return "no lower bound"
    return f"at least {one_in(rate.lower).removesuffix(' images').removesuffix(' of')}"


def _is_small(share: float) -> bool:
    return 0 < 100 * share < _SMALL_POINTS


def value_text(estimate: Estimate) -> str:
    """The measured number of any metric; a rate of one in a billion keeps its size."""
    return quantity(estimate.value) if is_exact(estimate) else share_text(estimate.value)


def bounds_text(estimate: Estimate) -> str:
    """The bounds of any metric, those of a count that was not seen in full included.

    Example:
        >>> bounds_text(Estimate(value=3, lower=2, upper=7))
        '[2, 7]'
        >>> bounds_text(Estimate(value=3, lower=3, upper=3))
        'exact'
    """
    if not is_exact(estimate):
        return share_bounds(estimate)
    if estimate.lower == estimate.upper:
        return "exact"
    return f"[{quantity(estimate.lower)}, {quantity(estimate.upper)}]"


def is_exact(estimate: Estimate) -> bool:
    """Whether the number is a count, not a rate from so many trials."""
    return estimate.num_trials == 0


def bounds_heading(estimates: Sequence[Estimate]) -> str:
    """``"95 % bounds"``, without the number where the estimates do not share one."""
    levels = {estimate.confidence for estimate in estimates if not is_exact(estimate)}
    return f"{100 * levels.pop():g} % bounds" if len(levels) == 1 else "bounds"


def confirmed_text(scan: ScanResult) -> str:
    """How many distinct training images are confirmed as copied."""
    extracted = scan.metrics.get("extracted")
    if extracted is not None:
        return value_text(extracted)
    # Second choice: `findings` may have been cut to what a report can hold.
    return str(sum(finding.confirmed for finding in scan.findings))


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
    """The threshold against what was measured: ``"extracted 143 > 0"``.

    Where findings were waived, what is left is no number of its own, and is not shown as one.
    """
    metric, operator, limit = split_expression(outcome)
    estimate = outcome.estimate
    if outcome.waived:
        return f"{outcome_expression(outcome)}, {waived_text(outcome)}"
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


def waived_text(outcome: ThresholdOutcome) -> str:
    """``"2 waived"``, or nothing."""
    return f"{len(outcome.waived)} waived" if outcome.waived else ""


def outcome_expression(outcome: ThresholdOutcome) -> str:
    """The threshold as it was written."""
    return escape(outcome.expression)
