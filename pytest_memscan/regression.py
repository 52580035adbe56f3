"""Whether a checkpoint leaks more than an earlier one: every metric of the policy, then and now.

Small increases are chance, and a checkpoint that was trained a little longer always moves a
little. So each metric is tested, exactly where its numbers allow it, and all tests together are
wrong about a checkpoint that did not get worse at most as often as ``significance`` says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from pytest_memscan.comparability import differences, jitter, measured
from pytest_memscan.paired import fewest_significant, higher_share, more_than_before
from pytest_memscan.policy import COUNTS
from pytest_memscan.prompt_statistics import holm
from pytest_memscan.reports.leaks import leaks_of
from pytest_memscan.results import (
    SCHEMA_VERSION,
    CheckOutcome,
    Estimate,
    MetricChange,
    Regression,
    RunResult,
)

SIGNIFICANCE = 0.05
_MOST_SEARCHED = 10**7  # of a count, for the smallest increase that would have been noticed
_UNTESTED = (
    "the lower bound now against the upper bound then, which is conservative; an increase is "
    "noticed once the two intervals have nothing in common"
)


@dataclass(frozen=True, kw_only=True)
class _Comparison:
    """One metric, before all of them are judged together.

    Attributes:
        method: In words.
        p_value: None where only intervals were compared.
        noticed: Level -> what would have been an increase, in words.
        is_apart: Whether the intervals have nothing in common, the later one being higher.
    """

    metric: str
    check: str
    before: Estimate
    now: Estimate
    method: str
    p_value: float | None = None
    noticed: Callable[[float], str] = lambda _: ""
    is_apart: bool = False
    num_new: int | None = None
    num_gone: int | None = None
    note: str = ""


def compare(
    before: RunResult,
    checks: Sequence[CheckOutcome],
    metrics: Collection[str],
    *,
    source: str,
    waived: Collection[str] = (),
    significance: float = SIGNIFICANCE,
) -> Regression:
    """Hold this run against an earlier one.

    The p-values are judged together by Holm (1979): if nothing increased, the chance that any of
    them says so is at most ``significance``. Rates put together from several samples have none,
    and only bounds that do not overlap count; two 95 % bounds of independent normal estimates do
    so by chance in about one of 100 comparisons, those of equal seeds less often.

    Args:
        before: The earlier run, of another checkpoint or of the same.
        checks: Outcomes of this one.
        metrics: Those that the policy limits; the limits themselves may differ.
        source: File of the earlier run, as a report may show it.
        waived: Ids of findings that somebody accepted; they are not new.
        significance: In (0, 1).

    Returns:
        Without ``changes`` if the two are incomparable, or if neither measured any of ``metrics``.
    """
    earlier = {check.name: check for check in before.checks}
    differing: dict[str, tuple[str, str]] = {}
    if before.schema_version != SCHEMA_VERSION:
        differing["schema_version"] = (str(before.schema_version), str(SCHEMA_VERSION))
    compared: list[_Comparison] = []
    for name, names in _measured_by(before.checks, checks, metrics).items():
        then = earlier.get(name)
        now = next((check for check in checks if check.name == name), None)
        lacking = _lacking(then, now, names)
        for key, values in (
            lacking or (differences(then, now, names) if then and now else {})
        ).items():
            known = differing.setdefault(key, values)
            if known != values:
                differing[f"{name}: {key}"] = values
        if then and now and not lacking:
            compared += (_compared(metric, then, now, waived) for metric in names)
    return Regression(
        baseline=before.checkpoint,
        source=source,
        significance=significance,
        changes=() if differing else tuple(_judged(compared, significance)),
        differing=differing,
    )


def _measured_by(
    before: Iterable[CheckOutcome], checks: Iterable[CheckOutcome], metrics: Collection[str]
) -> dict[str, list[str]]:
    """Check -> the metrics it measured in either run, each once, in the order given."""
    found: dict[str, list[str]] = {}
    outcomes = [*checks, *before]
    for metric in dict.fromkeys(metrics):
        for check in outcomes:
            if metric in measured(check) and metric not in found.setdefault(check.name, []):
                found[check.name].append(metric)
    return {name: names for name, names in found.items() if names}


def _lacking(
    before: CheckOutcome | None, now: CheckOutcome | None, metrics: Sequence[str]
) -> dict[str, tuple[str, str]]:
    """What only one of the runs measured, under the name of the check."""
    sides = []
    for check in (before, now):
        numbers = {} if check is None else measured(check)
        sides.append([metric for metric in metrics if metric in numbers])
    if sides[0] == sides[1]:
        return {}
    then, here = (f"measured {', '.join(names) or 'nothing'}" for names in sides)
    name = next(check.name for check in (now, before) if check is not None)
    return {f"check {name}": (then, here)}


def _compared(
    metric: str, before: CheckOutcome, now: CheckOutcome, waived: Collection[str]
) -> _Comparison:
    then, here = measured(before)[metric], measured(now)[metric]
    make = partial(
        _Comparison,
        metric=metric,
        check=now.name,
        before=then,
        now=here,
        note=jitter(before, now),
    )
    if metric == "leak_rate" and (copies := _copies(before, now)) is not None:
        new, gone = (len(each) for each in copies)
        return make(
            method="exact McNemar test of images of equal seeds",
            p_value=more_than_before(new, gone),
            noticed=partial(_new_noticed, "image that is a copy", "images that are copies"),
            num_new=new,
            num_gone=gone,
        )
    if (hits := _proportions(metric, then, here)) is not None:
        return make(
            method="Fisher's exact test, as if of different seeds",
            p_value=higher_share(*hits),
            noticed=partial(_share_noticed, hits[1], hits[2], hits[3]),
        )
    counts = _count(metric, then), _count(metric, here)
    if counts[0] is None or counts[1] is None:
        return make(method=_UNTESTED, is_apart=_is_apart(then, here))
    if (ids := _findings(metric, before, now, counts[0], counts[1])) is not None:
        new, gone = len(ids[0].difference(waived)), len(ids[1])
        return make(
            method="exact sign test of new against gone findings",
            p_value=more_than_before(new, gone),
            noticed=partial(_new_noticed, "finding", "findings"),
            num_new=new,
            num_gone=gone,
        )
    return make(
        method="exact test of two Poisson counts",
        p_value=more_than_before(counts[1], counts[0]),
        noticed=partial(_count_noticed, counts[0]),
    )


def _copies(before: CheckOutcome, now: CheckOutcome) -> tuple[set[int], set[int]] | None:
    """Images that are copies on one side only; None where the sides cannot be paired."""
    scans = before.scan, now.scan
    if scans[0] is None or scans[1] is None:
        return None
    sides = []
    for scan in (scans[0], scans[1]):
        ids = set(scan.confirmed_samples)
        # an image that was not valid on one side is no copy there, and would count as a change
        if len(ids) != scan.num_confirmed_images or scan.coverage.valid != scan.coverage.planned:
            return None
        sides.append(ids)
    if scans[0].coverage.planned != scans[1].coverage.planned:
        return None
    return sides[1] - sides[0], sides[0] - sides[1]


def _findings(
    metric: str, before: CheckOutcome, now: CheckOutcome, num_before: int, num_now: int
) -> tuple[set[str], set[str]] | None:
    """Ids of findings that are on one side only; None where a report does not list them all."""
    then, here = _ids(metric, before), _ids(metric, now)
    if len(then) != num_before or len(here) != num_now:
        return None
    return here - then, then - here


def _ids(metric: str, check: CheckOutcome) -> set[str]:
    return {leak.id for leak in leaks_of(check) if metric in leak.metrics}


def _proportions(metric: str, *sides: Estimate) -> tuple[int, int, int, int] | None:
    """Hits and images, now and then, of a rate that is a plain share of images; else None.

    Of others the number of trials is not what they are a share of.
    """
    if metric != "leak_rate" and not metric.startswith("ams_"):
        return None
    numbers: list[int] = []
    for estimate in reversed(sides):
        hits = estimate.value * estimate.num_trials
        if estimate.num_trials < 1 or not math.isfinite(hits) or abs(hits - round(hits)) > 1e-6:
            return None
        numbers += [round(hits), estimate.num_trials]
    return numbers[0], numbers[1], numbers[2], numbers[3]


def _count(metric: str, estimate: Estimate) -> int | None:
    """A whole number of things; None for anything else."""
    value = estimate.value
    is_count = metric in COUNTS and math.isfinite(value) and 0 <= value == int(value)
    return int(value) if is_count else None


def _is_apart(before: Estimate, now: Estimate) -> bool:
    """Bounds that are not known are no evidence."""
    return math.isfinite(now.lower) and math.isfinite(before.upper) and now.lower > before.upper


def _judged(compared: Sequence[_Comparison], significance: float) -> Iterator[MetricChange]:
    """All comparisons together: one that stands out among many need not mean anything."""
    p_values = [each.p_value for each in compared if each.p_value is not None]
    falls = iter(holm(p_values, significance).tolist() if p_values else [])
    for each in compared:
        tested = each.p_value is not None
        # none of Holm's levels is stricter, so what reaches it is always noticed
        power = each.noticed(significance / len(p_values)) if tested else ""
        note = f"not the same in both: {each.note}" if each.note else ""
        yield MetricChange(
            metric=each.metric,
            check=each.check,
            before=each.before,
            now=each.now,
            test="; ".join(text for text in (each.method, power, note) if text),
            p_value=each.p_value,
            increased=next(falls) if tested else each.is_apart,
            num_new=each.num_new,
            num_gone=each.num_gone,
        )


def _new_noticed(one: str, many: str, level: float) -> str:
    fewest = fewest_significant(lambda new: more_than_before(new, 0), level=level, most=2000)
    if fewest is None:  # at levels that nobody asks for
        return ""
    return f"{fewest} new {one if fewest == 1 else many} with none gone would have been noticed"


def _count_noticed(before: int, level: float) -> str:
    fewest = fewest_significant(
        lambda now: more_than_before(now, before), level=level, most=_MOST_SEARCHED
    )
    return "" if fewest is None else f"{fewest:,} or more would have been noticed"


def _share_noticed(trials: int, before: int, trials_before: int, level: float) -> str:
    fewest = fewest_significant(
        lambda now: higher_share(now, trials, before, trials_before), level=level, most=trials
    )
    if fewest is None:
        return "no share would have been noticed: it was too high, or of too few images"
    return f"{fewest:,} or more of {trials:,} images would have been noticed"
