"""What a run has to report one by one: broken limits, and whatever kept it from passing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pytest_memscan.reports.estimates import is_exact, split_expression, value_text
from pytest_memscan.reports.leaks import Leak, leaks_of
from pytest_memscan.reports.sarif_rules import ERROR, FAILED, INCONCLUSIVE, NOT_RUN, REGRESSION
from pytest_memscan.reports.text import check_name, escape
from pytest_memscan.results import (
    CheckOutcome,
    Location,
    MetricChange,
    RunResult,
    ThresholdOutcome,
    Verdict,
)

MAX_FINDINGS = 200  # listed for each check and metric
_RULE_OF = {
    Verdict.FAIL: FAILED,
    Verdict.INCONCLUSIVE: INCONCLUSIVE,
    Verdict.ERROR: ERROR,
    Verdict.NOT_RUN: NOT_RUN,
}
_VERDICT_OF = {rule: verdict for verdict, rule in _RULE_OF.items()}


@dataclass(frozen=True, kw_only=True)
class Alert:
    """One thing to report: what it is known by, and what people read.

    Attributes:
        rule: Metric whose limit is broken, or an id of ``sarif_rules``.
        check: That found it; "" for the run as a whole.
        subject: Id of a finding, a metric, or "" for the check as a whole.
        message: What was seen; not made safe.
        location: Line of the policy that it breaks, where there is one.
    """

    rule: str
    check: str
    subject: str
    message: str
    location: Location | None = None

    @property
    def identity(self) -> tuple[str, str, str]:
        """What does not move from run to run, and no two alerts of a run share."""
        return self.rule, self.check, self.subject


def alerts_of(result: RunResult) -> list[Alert]:
    """Everything worth an alert, in the order of the checks; nothing where the run passed.

    Among them is at least one that says why the run has its verdict.
    """
    if result.verdict is Verdict.PASS:
        return []
    alerts = _distinct(each for check in result.checks for each in _of_check(check))
    if result.verdict not in {_VERDICT_OF.get(each.rule, Verdict.FAIL) for each in alerts}:
        rule = _RULE_OF.get(result.verdict, ERROR)
        message = result.sentence or f"the verdict of the run is {result.verdict}"
        alerts.append(Alert(rule=rule, check="", subject="", message=message))
    return alerts


def _distinct(alerts: Iterable[Alert]) -> list[Alert]:
    """The first of those that are the same; ``status`` repeats what another check said."""
    known: dict[tuple[str, str, str], Alert] = {}
    said: set[tuple[str, str]] = set()
    for each in alerts:
        is_repeated = each.rule in (ERROR, INCONCLUSIVE) and (each.rule, each.message) in said
        if each.identity not in known and not is_repeated:
            known[each.identity] = each
            said.add((each.rule, each.message))
    return list(known.values())


def _of_check(check: CheckOutcome) -> Iterator[Alert]:
    leaks = leaks_of(check)
    broken = [
        alert
        for outcome in check.thresholds
        if outcome.verdict is Verdict.FAIL
        for alert in _broken(outcome, check, leaks)
    ]
    broken += _increases(check)
    unsettled = [
        _of_line(INCONCLUSIVE, outcome.sentence, outcome, check)
        for outcome in check.thresholds
        if outcome.verdict is Verdict.INCONCLUSIVE
    ]
    yield from broken
    yield from unsettled
    if check.verdict in _RULE_OF and not _is_told(check, broken, unsettled):
        was_run = check.verdict is not Verdict.NOT_RUN
        yield Alert(
            rule=_RULE_OF[check.verdict],
            check=_name(check.name),
            subject="",
            message=check.sentence if was_run else f"{_name(check.name)}: {check.sentence}",
            location=_where(check),
        )


def _is_told(check: CheckOutcome, broken: Sequence[Alert], unsettled: Sequence[Alert]) -> bool:
    """Whether the lines of a check already say all that its own sentence does."""
    if check.verdict is Verdict.FAIL:
        return bool(broken)
    sentences = "; ".join(each.message for each in unsettled)
    return check.verdict is Verdict.INCONCLUSIVE and bool(unsettled) and check.sentence == sentences


def _broken(
    outcome: ThresholdOutcome, check: CheckOutcome, leaks: Iterable[Leak]
) -> Iterator[Alert]:
    """The findings that count against one line, or one alert where it has none."""
    metric = _metric(outcome)
    counted = [leak for leak in leaks if metric in leak.metrics and leak.id not in outcome.waived]
    # The strongest are listed, in an order that scores do not change.
    listed = sorted(counted[:MAX_FINDINGS], key=lambda leak: leak.id)
    for leak in listed:
        yield Alert(
            rule=metric,
            check=_name(check.name),
            subject=escape(leak.id),
            message=_leak_text(leak, outcome, check),
            location=outcome.location,
        )
    num_more = _least_number(outcome, counted) - len(listed)
    if not listed or num_more > 0:
        more = f"; findings not listed one by one: at least {num_more}" if listed else ""
        message = f"{_open(outcome.sentence)}{more}{_doubt(check)}"
        yield _of_line(metric, message, outcome, check)


def _of_line(rule: str, message: str, outcome: ThresholdOutcome, check: CheckOutcome) -> Alert:
    return Alert(
        rule=rule,
        check=_name(check.name),
        subject=_metric(outcome),
        message=message or outcome.expression,
        location=outcome.location,
    )


def _leak_text(leak: Leak, outcome: ThresholdOutcome, check: CheckOutcome) -> str:
    return (
        f'{_open(leak.sentence)} ({_name(check.name)}). {leak.id} counts against "'
        f'{outcome.expression}": {_open(outcome.sentence)}{_doubt(check)}'
    )


def _doubt(check: CheckOutcome) -> str:
    is_error = check.verdict is Verdict.ERROR
    return ". The check ended in an error, so read this with care" if is_error else ""


def _least_number(outcome: ThresholdOutcome, counted: Sequence[Leak]) -> int:
    """How many findings count for sure; a report holds only some of very many."""
    estimate = outcome.estimate
    if estimate is None or not is_exact(estimate):
        return len(counted)
    return max(len(counted), int(estimate.lower) - len(outcome.waived))


def _increases(check: CheckOutcome) -> Iterator[Alert]:
    if check.regression is not None:
        for change in check.regression.changes:
            if change.increased:
                yield Alert(
                    rule=REGRESSION,
                    check=_name(change.check),
                    subject=escape(change.metric),
                    message=_increase_text(change, check.regression.baseline),
                    location=_where(check),
                )


def _increase_text(change: MetricChange, baseline: str) -> str:
    new = f"; findings that were not there before: {change.num_new}" if change.num_new else ""
    return (
        f"{change.metric} ({_name(change.check)}) rose from {value_text(change.before)} to "
        f"{value_text(change.now)} since {baseline}{new}"
    )


def _where(check: CheckOutcome) -> Location | None:
    return next((each.location for each in check.thresholds if each.location), None)


def _metric(outcome: ThresholdOutcome) -> str:
    return escape(split_expression(outcome)[0]) or "unknown"


def _name(check: str) -> str:
    return escape(check_name(check))


def _open(sentence: str) -> str:
    """Without its full stop, for more to follow."""
    return sentence.strip().removesuffix(".")
