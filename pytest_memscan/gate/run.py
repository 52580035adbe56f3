"""The verdict of a run, from how its checks ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pytest_memscan.gate.finetunes import judge_finetune_coverage
from pytest_memscan.gate.images import judge_coverage
from pytest_memscan.gate.prompts import (
    judge_key_coverage,
    judge_prompt_coverage,
    judge_repeats_coverage,
)
from pytest_memscan.gate.side import judge_side_coverage
from pytest_memscan.gate.splitting import judge_splitting_coverage
from pytest_memscan.gate.verdicts import worst
from pytest_memscan.policy import Threshold
from pytest_memscan.results import CheckOutcome, Integrity, RunResult, Verdict, Waiver


def judge_integrity(integrity: Integrity) -> CheckOutcome:
    """A checkpoint that was vetted without an error."""
    return CheckOutcome(
        name="integrity",
        verdict=Verdict.PASS,
        sentence=(
            f"{integrity.pipeline}: {len(integrity.files)} files hashed, {integrity.num_tensors} "
            f"tensors ({integrity.num_parameters:,} parameters) complete and finite, no code"
        ),
        integrity=integrity,
    )


def judge_status(
    checks: Sequence[CheckOutcome], thresholds: Sequence[Threshold] = ()
) -> CheckOutcome:
    """The catch-all: every check ran, every scan had full coverage, every line was judged."""
    errors = [check for check in checks if check.verdict in (Verdict.ERROR, Verdict.NOT_RUN)]
    if errors:
        return CheckOutcome(name="status", verdict=Verdict.ERROR, sentence=errors[0].sentence)
    judged = [each for check in checks for each in judge_coverages(check)]
    unmeasured = _unmeasured(checks, thresholds)
    if unmeasured:
        judged.append((Verdict.ERROR, unmeasured))
    if any(check.keys for check in checks) and not any(check.thresholds for check in checks):
        judged.append((Verdict.INCONCLUSIVE, "no line of the policy limits what was measured"))
    verdict = worst(verdict for verdict, _ in judged)
    sentence = "; ".join(sentence for each, sentence in judged if each is verdict)
    return CheckOutcome(name="status", verdict=verdict, sentence=sentence or "no scan was run")


def judge_coverages(check: CheckOutcome) -> Iterator[tuple[Verdict, str]]:
    """Whether what one check measured was measured on everything."""
    if check.scan is not None:
        yield judge_coverage(check.scan.coverage)
    if check.splitting is not None:
        yield from judge_splitting_coverage(check.splitting)
    if check.side is not None:
        yield from judge_side_coverage(check.side)
    if check.prompt_scan is not None:
        yield judge_prompt_coverage(check.prompt_scan)
    if check.keys is not None:
        yield judge_key_coverage(check.keys)
    if check.repeats is not None:
        yield judge_repeats_coverage(check.repeats)
    if check.finetunes is not None:
        yield from judge_finetune_coverage(check.finetunes)


def _unmeasured(checks: Sequence[CheckOutcome], thresholds: Sequence[Threshold]) -> str:
    """Lines somebody wrote that nothing in this run could be held against."""
    measured = {outcome.expression for check in checks for outcome in check.thresholds}
    missing = [
        line for line in thresholds if not line.is_default and line.expression not in measured
    ]
    if not missing:
        return ""
    return (
        f'{missing[0].source}: "{missing[0].expression}" was not measured: no check of this run '
        f"gives {missing[0].metric}"
    )


def not_applicable(name: str, reason: str) -> CheckOutcome:
    """A check that this checkpoint has no use for."""
    return CheckOutcome(name=name, verdict=Verdict.NOT_APPLICABLE, sentence=reason)


def judge_run(
    checks: Sequence[CheckOutcome],
    *,
    required: Sequence[str],
    checkpoint: str,
    policy: dict[str, tuple[str, str]],
    versions: dict[str, str],
    timings: dict[str, float],
    reason_not_run: str = "not selected",
    not_scanned: Mapping[str, str] | None = None,
    waivers: Sequence[Waiver] = (),
) -> RunResult:
    """The verdict of a run; checks that are required and missing make it ``not_run``.

    Args:
        checks: Outcomes of the checks that were executed.
        required: Names of all checks of the run, in order.
        checkpoint: As people name it.
        policy: Setting -> value and source.
        versions: Of the software.
        timings: Seconds of each check.
        reason_not_run: Why a required check has no outcome.
        not_scanned: Checks that this run has not, with the reason.
        waivers: Those of the policy, with what became of them.
    """
    by_name = {check.name: check for check in checks}
    complete = tuple(
        by_name.get(name)
        or CheckOutcome(name=name, verdict=Verdict.NOT_RUN, sentence=reason_not_run)
        for name in required
    )
    verdict = worst(check.verdict for check in complete)
    decisive = next(check for check in complete if check.verdict is verdict)
    if verdict is Verdict.PASS:
        decisive = next((check for check in complete if check.scans), decisive)
    return RunResult(
        verdict=verdict,
        sentence=decisive.sentence,
        checkpoint=checkpoint,
        checks=complete,
        not_scanned=dict(not_scanned or {}),
        waivers=tuple(waivers),
        policy=policy,
        versions=versions,
        timings=timings,
    )
