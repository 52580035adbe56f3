"""Which verdict decides, and how a measured number is held against its limit.

Three zones: a rate *fails* when its lower bound breaks the limit, *passes* when its upper bound
keeps it, and is *inconclusive* in between. Nothing but ``pass`` is green.
"""

from __future__ import annotations

from collections.abc import Iterable

from pytest_memscan.policy import Threshold
from pytest_memscan.reports.text import percent
from pytest_memscan.results import Estimate, ThresholdOutcome, Verdict

# A missed control makes every other finding meaningless; a leak that was found outweighs
# whatever was not looked at.
_WORST_FIRST = (
    Verdict.ERROR,
    Verdict.FAIL,
    Verdict.INCONCLUSIVE,
    Verdict.NOT_RUN,
    Verdict.PASS,
    Verdict.NOT_APPLICABLE,
)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict that decides; ``not_run`` where there is none at all."""
    return min(verdicts, key=_WORST_FIRST.index, default=Verdict.NOT_RUN)


def judge_estimate(
    threshold: Threshold, estimate: Estimate, *, trials: str, remedy: str = ""
) -> ThresholdOutcome:
    """Compare one line of the policy with what was measured.

    Args:
        threshold: The line.
        estimate: A rate with its bounds, or a count.
        trials: What a rate is a share of: "images", "prompts".
        remedy: What would settle it, or why nothing would, when it is inconclusive.
    """
    if threshold.holds(estimate.upper):
        verdict = Verdict.PASS
    elif not threshold.holds(estimate.lower):
        verdict = Verdict.FAIL
    else:
        verdict = Verdict.INCONCLUSIVE
    return ThresholdOutcome(
        expression=threshold.expression,
        source=threshold.source,
        verdict=verdict,
        sentence=_sentence(threshold, estimate, verdict, trials=trials, remedy=remedy),
        estimate=estimate,
    )


def _sentence(
    threshold: Threshold, estimate: Estimate, verdict: Verdict, *, trials: str, remedy: str
) -> str:
    limit_word = "within" if verdict is Verdict.PASS else "over"
    if not threshold.is_rate:
        seen = f"{threshold.metric} is {estimate.value:g}"
        if verdict is Verdict.INCONCLUSIVE:
            return f"{seen}, {remedy}"
        return f"{seen}, {limit_word} the limit of {threshold.limit:.12g}"
    measured = (
        f"{threshold.metric} is {percent(estimate.value)} "
        f"[{percent(estimate.lower)}, {percent(estimate.upper)}] of {estimate.num_trials} {trials}"
    )
    limit = f"the limit of {100 * threshold.limit:.12g} %"
    if verdict is Verdict.INCONCLUSIVE:
        return f"{measured}, on both sides of {limit}; {remedy}"
    return f"{measured}, {limit_word} {limit}"
