"""Accepted findings, taken out of what is held against the policy.

The findings are taken out of the numbers and the scan is judged again, so that whatever else a
judge asks for (controls, coverage, prompts somebody chose) is asked for as well. Only lines that
fail may change: where it is open whether a limit is kept, a waiver closes nothing.

**The bound of a count.** Of ``n`` images that were seen to be copied, chance explains ``b``, so at
least ``n - b`` are real. At most ``w`` of these are the waived ones, so at least ``n - b - w`` real
ones are left, whether the waived ones are real or not: value and both bounds go down by ``w``. A
line can thus become inconclusive, where chance alone explains what is left.

**The bounds of a rate.** ``leak_rate`` counts copies of training images, and the copies of a waived
image are known, so what is left is a share of the same trials, with its exact bounds. They hold
for waivers that were written before these images were made. Of waivers written after looking at
them they say too little: whatever came up once is taken out, and what would have come up next is
not. So such a rate passes only if the chance that the next image copies an image not seen before
(Good & Turing) is within the limit too. All other rates stay as they were measured.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pytest_memscan.gate.verdicts import worst
from pytest_memscan.policy import COUNTS, Threshold
from pytest_memscan.reports.leaks import TRAINING_IMAGES, Leak, leak_id, leaks_of
from pytest_memscan.reports.text import percent, train_name
from pytest_memscan.results import (
    CheckOutcome,
    Estimate,
    FinetuneScan,
    KeyScan,
    PromptScan,
    ScanResult,
    SideScan,
    SplittingScan,
    SteeredCopy,
    ThresholdOutcome,
    Verdict,
)
from pytest_memscan.statistics import distinct_count, proportion
from pytest_memscan.waivers import WaiverLine

S = TypeVar("S", ScanResult, SplittingScan, SideScan, PromptScan, KeyScan, FinetuneScan)
_SEEN_ONCE = ("leak_rate", "ums_confirmed")


def waived_ids(
    check: CheckOutcome, waivers: Sequence[WaiverLine], today: datetime.date
) -> frozenset[str]:
    """Ids of findings of a check that a waiver names which still holds."""
    held = {each.id for each in waivers if each.holds(today)}
    return frozenset(leak.id for leak in leaks_of(check)) & held


def judge_with_waivers(
    judge: Callable[[S, Sequence[Threshold]], CheckOutcome],
    scan: S,
    thresholds: Sequence[Threshold],
    waivers: Sequence[WaiverLine],
    *,
    today: datetime.date,
) -> CheckOutcome:
    """The verdict of ``judge``, with accepted findings left out of the lines that fail.

    Estimates and the scan in the outcome stay as measured; sentences are about what is left, and
    say how many were waived.

    Args:
        judge: One of this room: `judge_scan`, `judge_side`, ...
        scan: What it judges.
        thresholds: The whole policy.
        waivers: Those of the policy; what expired counts for nothing.
        today: The day of the run.
    """
    measured = judge(scan, thresholds)
    if measured.verdict is not Verdict.FAIL:
        return measured
    ids = waived_ids(measured, waivers, today)
    leaks = {leak.id: leak for leak in leaks_of(measured) if leak.id in ids}
    taken = _taken(scan, tuple(leaks.values()))
    if not taken:
        return measured
    left = judge(_without(scan, taken, ids), thresholds)
    by_expression = {line.expression: line for line in thresholds}
    lines = tuple(
        _line(before, after, by_expression[before.expression], scan, taken)
        for before, after in zip(measured.thresholds, left.thresholds, strict=True)
    )
    if all(line.before is line.after for line in lines):
        return measured
    return _outcome(measured, left, lines)


@dataclass(frozen=True, kw_only=True)
class _Taken:
    """What waivers take out of one metric."""

    estimate: Estimate  # what is left
    ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Line:
    """One line of the policy, as measured and with the waivers; the same where they do nothing."""

    before: ThresholdOutcome
    after: ThresholdOutcome
    ids: tuple[str, ...] = ()

    @property
    def final(self) -> ThresholdOutcome:
        """As it is reported."""
        if self.after is self.before:
            return self.before
        return replace(
            self.after,
            sentence=_noted(self.after.sentence, len(self.ids)),
            estimate=self.before.estimate,
            waived=self.ids,
        )


def _line(
    before: ThresholdOutcome,
    after: ThresholdOutcome,
    threshold: Threshold,
    scan: S,
    taken: Mapping[str, _Taken],
) -> _Line:
    if before.verdict is not Verdict.FAIL or threshold.metric not in taken:
        return _Line(before=before, after=before)
    if (
        after.verdict is Verdict.PASS
        and threshold.metric in _SEEN_ONCE
        and isinstance(scan, ScanResult)
        and not threshold.holds(scan.unseen_hit_rate)
    ):
        after = replace(
            after,
            verdict=Verdict.INCONCLUSIVE,
            sentence=f"{after.sentence}, but so many training images came up only once that about "
            f"{percent(scan.unseen_hit_rate)} of further images would copy another one; waivers of "
            "what came up do not show that the rate is kept",
        )
    return _Line(before=before, after=after, ids=taken[threshold.metric].ids)


def _outcome(measured: CheckOutcome, left: CheckOutcome, lines: Sequence[_Line]) -> CheckOutcome:
    """Put together line by line, with what the judge says of what is left as a whole."""
    verdict = worst([left.verdict, *(line.after.verdict for line in lines)])
    told = [left.sentence] if left.verdict is verdict else []
    decisive = (line.after.sentence for line in lines if line.after.verdict is verdict)
    told += [sentence for sentence in decisive if not told or sentence not in told[0]]
    num_waived = len({each for line in lines for each in line.ids})
    return replace(
        measured,
        verdict=verdict,
        sentence=_noted("; ".join(told), num_waived),
        thresholds=tuple(line.final for line in lines),
    )


def _noted(sentence: str, num_waived: int) -> str:
    return f"{sentence} ({num_waived} waived)"


def _taken(scan: S, leaks: Sequence[Leak]) -> dict[str, _Taken]:
    """What is left of each metric that one of the findings is counted in."""
    if isinstance(scan, SplittingScan):
        taken = _of_splitting(scan, leaks)
    else:
        taken = {
            metric: _counted(scan.metrics[metric], leaks, metric)
            for metric in scan.metrics
            if metric in COUNTS
        }
    if isinstance(scan, ScanResult):
        taken |= _rates(scan, leaks)
    return {name: each for name, each in taken.items() if each.estimate != scan.metrics[name]}


def _counted(estimate: Estimate, leaks: Sequence[Leak], metric: str) -> _Taken:
    ids = tuple(leak.id for leak in leaks if metric in leak.metrics)
    number = len(ids)
    return _Taken(estimate=_lowered(estimate, number, number, number), ids=ids)


def _of_splitting(scan: SplittingScan, leaks: Sequence[Leak]) -> dict[str, _Taken]:
    """A copy is in the value, in the lower and in the upper bound by its own rate and bounds."""
    ids = {leak.id for leak in leaks}
    copies = [each for each in scan.copies if _id_of(each, scan) in ids]
    least = 1 / scan.reach
    lowered = _lowered(
        scan.metrics["extractable_images"],
        sum(copy.rate.value >= least for copy in copies),
        sum(copy.rate.lower >= least for copy in copies),
        sum(copy.rate.upper >= least for copy in copies),
    )
    counted = tuple(_id_of(copy, scan) for copy in copies if copy.rate.upper >= least)
    return {"extractable_images": _Taken(estimate=lowered, ids=counted)}


def _id_of(copy: SteeredCopy, scan: SplittingScan) -> str:
    return leak_id(train_name(copy.finding.train_id), scan.provenance, TRAINING_IMAGES)


def _rates(scan: ScanResult, leaks: Sequence[Leak]) -> dict[str, _Taken]:
    """The share of images that copy, and of distinct images copied, of the same trials."""
    rates: dict[str, _Taken] = {}
    rate = scan.metrics.get("leak_rate")
    if rate is not None and rate.num_trials:
        known = [(leak.id, leak.num_copies) for leak in leaks if leak.num_copies]
        hits = round(rate.value * rate.num_trials) - sum(number for _, number in known)
        lowered = proportion(max(hits, 0), rate.num_trials, confidence=rate.confidence)
        rates["leak_rate"] = _Taken(estimate=lowered, ids=tuple(each for each, _ in known))
    rate = scan.metrics.get("ums_confirmed")
    if rate is not None and rate.num_trials:
        distinct = round(rate.value * rate.num_trials) - len(leaks)
        lowered = distinct_count(max(distinct, 0), rate.num_trials, confidence=rate.confidence)
        rates["ums_confirmed"] = _Taken(estimate=lowered, ids=tuple(leak.id for leak in leaks))
    return {name: each for name, each in rates.items() if each.ids}


def _lowered(estimate: Estimate, value: int, lower: int, upper: int) -> Estimate:
    return replace(
        estimate,
        value=_less(estimate.value, value),
        lower=_less(estimate.lower, lower),
        upper=_less(estimate.upper, upper),
    )


def _less(number: float, by: int) -> float:
    return number if math.isnan(number) else max(0, number - by)


def _without(scan: S, taken: Mapping[str, _Taken], ids: frozenset[str]) -> S:
    changes: dict[str, Any] = {
        "metrics": scan.metrics | {name: each.estimate for name, each in taken.items()}
    }
    if isinstance(scan, SplittingScan):  # its sentences name the likeliest copy
        changes["copies"] = tuple(each for each in scan.copies if _id_of(each, scan) not in ids)
    return replace(scan, **changes)
