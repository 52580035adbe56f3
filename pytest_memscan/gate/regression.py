"""An increase since an earlier run fails; a run that cannot be compared with it shows nothing."""

from __future__ import annotations

from pytest_memscan.reports.estimates import bounded_share, is_exact, value_text
from pytest_memscan.reports.text import escape
from pytest_memscan.results import CheckOutcome, MetricChange, Regression, Verdict

NAME = "regression"
_MOST_KEYS = 4  # that a sentence can hold; the reports list all
_LONGEST_VALUE = 60
_REMEDY = (
    "scan with the settings of the baseline, or save a new one: run without --memscan-baseline "
    "and with --memscan-save-baseline"
)


def judge_regression(regression: Regression) -> CheckOutcome:
    """Verdict on a comparison.

    An increase fails however small the numbers are: the other checks judge their size. Runs that
    did not measure the same, or measured nothing in common, are inconclusive.
    """
    since = f"{escape(regression.baseline)} ({escape(regression.source)})"
    risen = [change for change in regression.changes if change.increased]
    if not regression.is_comparable:
        verdict, sentence = Verdict.INCONCLUSIVE, _incomparable(regression, since)
    elif not regression.changes:
        verdict = Verdict.INCONCLUSIVE
        sentence = (
            f"nothing was compared with the baseline {since}: neither run measured a metric of "
            "the policy; ask for the same scans as then, with the same training images"
        )
    elif risen:
        verdict = Verdict.FAIL
        sentence = f"{'; '.join(map(_risen_text, risen))}; since the baseline {since}"
    else:
        verdict = Verdict.PASS
        shown = ", ".join(
            f"{each.metric} {value_text(each.before)} -> {value_text(each.now)}"
            for each in regression.changes
        )
        tested = (each for each in regression.changes if each.p_value is not None)
        first = next(tested, regression.changes[0])
        sentence = (
            f"no significant increase since the baseline {since}: {shown}; {first.metric} by "
            f"{escape(first.test, limit=400)}"
        )
    return CheckOutcome(name=NAME, verdict=verdict, sentence=sentence, regression=regression)


def _risen_text(change: MetricChange) -> str:
    """``"extracted rose from 0 to 6 (6 new, 0 gone, p = 0.016)"``."""
    if change.p_value is None:
        shown = value_text if is_exact(change.now) else bounded_share
        return (
            f"{change.metric} rose from {shown(change.before)} to {shown(change.now)}: the bounds "
            "do not overlap"
        )
    details = [f"p {_p_text(change.p_value)}"]
    if change.num_new is not None:
        details = [f"{change.num_new:,} new, {change.num_gone or 0:,} gone", *details]
    values = f"from {value_text(change.before)} to {value_text(change.now)}"
    return f"{change.metric} rose {values} ({', '.join(details)})"


def _p_text(p_value: float) -> str:
    return f"= {p_value:.2g}" if p_value >= 1e-6 else "< 0.000001"


def _incomparable(regression: Regression, since: str) -> str:
    keys = [
        f"{escape(key)} is {_shown(now)}, was {_shown(then)}"
        for key, (then, now) in regression.differing.items()
    ]
    more = f"; and {len(keys) - _MOST_KEYS} more" if len(keys) > _MOST_KEYS else ""
    shown = "; ".join(keys[:_MOST_KEYS])
    return f"incomparable with the baseline {since}: {shown}{more}. To compare, {_REMEDY}"


def _shown(value: str) -> str:
    """A fingerprint is recognised by its beginning."""
    is_hash = len(value) >= 32 and all(letter in "0123456789abcdef" for letter in value)
    return value[:8] if is_hash else escape(value, limit=_LONGEST_VALUE)
