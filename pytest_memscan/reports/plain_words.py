"""What a verdict means, for somebody who knows none of the metrics."""

from __future__ import annotations

from pytest_memscan.reports.sarif_rules import ERROR, FAILED, INCONCLUSIVE, NOT_RUN, rule_of
from pytest_memscan.reports.sarif_rules import REGRESSION as INCREASE
from pytest_memscan.results import RunResult, Verdict

HOLDS = "Every limit holds, and the scans saw everything they should."
_RULES = {
    Verdict.INCONCLUSIVE: INCONCLUSIVE,
    Verdict.ERROR: ERROR,
    Verdict.NOT_RUN: NOT_RUN,
}


def plain_words(result: RunResult) -> str:
    """One sentence for each thing that is wrong, or that nothing is."""
    if result.verdict is Verdict.PASS:
        return HOLDS
    rules = [_RULES.get(result.verdict, FAILED)]
    if result.verdict is Verdict.FAIL:
        rules = [
            line.expression.split(" ")[0]
            for check in result.checks
            for line in check.thresholds
            if line.verdict is Verdict.FAIL
        ]
        found = [check.regression for check in result.checks if check.regression is not None]
        if any(change.increased for each in found for change in each.changes):
            rules.append(INCREASE)
    titles = dict.fromkeys(rule_of(rule).title for rule in rules or [FAILED])
    return " ".join(f"{title}." for title in titles)
