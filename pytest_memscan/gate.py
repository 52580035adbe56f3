"""Thresholds x results -> verdict. Pure: what was measured comes in, sentences come out.

Three zones: a rate *fails* when its lower bound breaks the limit, *passes* when its upper bound
keeps it, and is *inconclusive* in between. Nothing but ``pass`` is green.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pytest_memscan.policy import Threshold
from pytest_memscan.reports.text import percent
from pytest_memscan.results import (
    FLAT_IMAGE,
    CheckOutcome,
    Coverage,
    Duplicates,
    Estimate,
    Integrity,
    RunResult,
    ScanResult,
    ThresholdOutcome,
    Verdict,
)
from pytest_memscan.statistics import trials_to_settle

_OTHER_DESCRIPTOR = ", and another --memscan-descriptor may see more"
MAX_INVALID = 0.01  # share of generated images; above it the scan is inconclusive
BROKEN_INVALID = 0.1  # above it the scan is broken
MAX_LOST_TRAIN = 0.001  # share of training images that could not be read; above it: an error
MAX_FLAT_TRAIN = 0.01  # share of training images of one flat colour, likewise
HELD_OUT = "held-out: "  # how the reasons of held-out images begin
# A missed control makes every other finding meaningless; a leak that was found outweighs
# whatever was not looked at.
_WORST_FIRST = (
    Verdict.ERROR,
    Verdict.FAIL,
    Verdict.INCONCLUSIVE,
    Verdict.NOT_RUN,
    Verdict.PASS,
)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict that decides; ``not_run`` where there is none at all."""
    return min(verdicts, key=_WORST_FIRST.index, default=Verdict.NOT_RUN)


def judge_threshold(threshold: Threshold, scan: ScanResult) -> ThresholdOutcome:
    """Compare one line of the policy with what a scan measured."""
    estimate = scan.metrics[threshold.metric]
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
        sentence=_threshold_sentence(threshold, estimate, verdict, scan),
        estimate=estimate,
    )


def _threshold_sentence(
    threshold: Threshold, estimate: Estimate, verdict: Verdict, scan: ScanResult
) -> str:
    if not threshold.is_rate:
        seen = f"{threshold.metric} is {estimate.value:g}"
        expected = scan.calibration.expected_false_matches
        if verdict is Verdict.INCONCLUSIVE:
            return f"{seen}, but chance alone explains that many ({expected:.2g} expected)"
        limit = "within" if verdict is Verdict.PASS else "over"
        return f"{seen}, {limit} the limit of {threshold.limit:.12g}"
    measured = (
        f"{threshold.metric} is {percent(estimate.value)} "
        f"[{percent(estimate.lower)}, {percent(estimate.upper)}] of {estimate.num_trials} images"
    )
    if verdict is not Verdict.INCONCLUSIVE:
        limit = "within" if verdict is Verdict.PASS else "over"
        return f"{measured}, {limit} the limit of {100 * threshold.limit:.12g} %"
    needed = trials_to_settle(estimate.value, threshold.limit)
    remedy = (
        "no number of images would settle it"
        if needed is None
        else (f"about {needed} images would settle it (--memscan-budget {needed}img)")
    )
    return f"{measured}, on both sides of the limit of {100 * threshold.limit:.12g} %; {remedy}"


def judge_scan(scan: ScanResult, thresholds: Sequence[Threshold]) -> CheckOutcome:
    """Verdict of one scan: its controls first, then every line of the policy on leakage."""
    outcomes = tuple(
        judge_threshold(threshold, scan)
        for threshold in thresholds
        if not threshold.is_about_duplicates
    )
    missed = [control for control in scan.controls if not control.passed]
    if missed:
        control = missed[0]
        verdict, sentence = (
            Verdict.ERROR,
            (
                f"the scan cannot be trusted: {control.sentence}, but {control.num_found} of "
                f"{control.num_images} were (control {control.name}). More different real images "
                "(--memscan-train-data, --memscan-holdout) make the comparison sharper"
                f"{_OTHER_DESCRIPTOR if scan.measure.higher_is_closer else ''}"
            ),
        )
    else:
        verdict = worst(outcome.verdict for outcome in outcomes)
        decisive = [outcome for outcome in outcomes if outcome.verdict is verdict]
        sentence = "; ".join(outcome.sentence for outcome in decisive)
    return CheckOutcome(
        name=scan.name, verdict=verdict, sentence=sentence, thresholds=outcomes, scan=scan
    )


def judge_duplicates(duplicates: Duplicates, thresholds: Sequence[Threshold]) -> CheckOutcome:
    """What is more than once in the training set: for information, unless the policy limits it."""
    found = f"no (near-)duplicates among {duplicates.num_images} training images"
    if duplicates.num_groups:
        found = (
            f"(near-)duplicates among {duplicates.num_images} training images: "
            f"{duplicates.num_groups} groups; {duplicates.num_redundant} images could go "
            f"({duplicates.num_identical} of them identical to one that stays)"
        )
    if duplicates.num_searched < duplicates.num_images:
        found += f"; searched around {duplicates.num_searched} of them, so there may be more"
    counts = {
        "duplicate_groups": duplicates.num_groups,
        "duplicate_images": duplicates.num_redundant,
    }
    outcomes = tuple(
        _judge_count(threshold, counts[threshold.metric], duplicates)
        for threshold in thresholds
        if threshold.is_about_duplicates
    )
    verdict = worst([Verdict.PASS, *(outcome.verdict for outcome in outcomes)])
    return CheckOutcome(
        name="duplicates",
        verdict=verdict,
        sentence=found,
        thresholds=outcomes,
        duplicates=duplicates,
    )


def _judge_count(threshold: Threshold, count: int, duplicates: Duplicates) -> ThresholdOutcome:
    within = threshold.holds(count)
    partly = duplicates.num_searched < duplicates.num_images
    verdict = Verdict.PASS if within else Verdict.FAIL
    sentence = (
        f"{threshold.metric} is {count}, {'within' if within else 'over'} the limit of "
        f"{threshold.limit:.12g}"
    )
    if within and partly:
        # Only a lower bound is known.
        verdict = Verdict.INCONCLUSIVE
        sentence += f", but only {duplicates.num_searched} images were searched around"
    return ThresholdOutcome(
        expression=threshold.expression,
        source=threshold.source,
        verdict=verdict,
        sentence=sentence,
        estimate=Estimate(
            value=count, lower=count, upper=duplicates.num_images if partly else count
        ),
    )


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


def judge_coverage(coverage: Coverage) -> tuple[Verdict, str]:
    """Whether a scan looked at everything it was asked to look at."""
    num_invalid = sum(coverage.invalid.values())
    if num_invalid > MAX_INVALID * coverage.planned:
        reasons = ", ".join(f"{count} {reason}" for reason, count in coverage.invalid.items())
        broken = num_invalid > BROKEN_INVALID * coverage.planned
        return (
            Verdict.ERROR if broken else Verdict.INCONCLUSIVE,
            f"{num_invalid} of {coverage.planned} generated images cannot be judged ({reasons}); "
            "check the checkpoint, or try --memscan-dtype float32",
        )
    if not coverage.valid or not coverage.train_used:
        return (
            Verdict.ERROR,
            f"{coverage.valid} generated images were compared with {coverage.train_used} training "
            "images; a comparison with nothing cannot pass",
        )
    if coverage.generated < coverage.planned:
        return (
            Verdict.INCONCLUSIVE,
            f"only {coverage.generated} of {coverage.planned} planned images were generated",
        )
    if gap := _judge_train_images(coverage):
        return gap
    return (
        Verdict.PASS,
        f"{coverage.valid} of {coverage.planned} planned images compared with "
        f"{coverage.train_used} training images",
    )


def _judge_train_images(coverage: Coverage) -> tuple[Verdict, str] | None:
    """What is to be said of training and held-out images that were not compared, if anything."""
    # A flat training image shows nothing that could leak; any other lost file might.
    lost = {
        why: names for why, names in coverage.train_unusable.items() if not why.endswith(FLAT_IMAGE)
    }
    num_lost = sum(len(names) for why, names in lost.items() if not why.startswith(HELD_OUT))
    flat = coverage.train_unusable.get(FLAT_IMAGE, ())
    gap = f"not every training image was compared: {_named(lost)}"
    if num_lost > MAX_LOST_TRAIN * coverage.train_found:
        return (
            Verdict.ERROR,
            f"{gap}. {num_lost} of {coverage.train_found} are more than "
            f"{100 * MAX_LOST_TRAIN:g} %. Mend or remove these images",
        )
    if len(flat) > MAX_FLAT_TRAIN * coverage.train_found:
        return (
            Verdict.ERROR,
            f"{len(flat)} of {coverage.train_found} training images cannot be told from any other: "
            f"{_named({FLAT_IMAGE: flat})}. That is more than {100 * MAX_FLAT_TRAIN:g} %; check "
            "that these are the images the checkpoint was trained on, or remove the flat ones",
        )
    return (Verdict.INCONCLUSIVE, f"{gap}. Mend or remove these images") if lost else None


def _named(unusable: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(
        f"{len(names)} {why} ({', '.join(names[:3])}{' ...' if names[3:] else ''})"
        for why, names in unusable.items()
    )


def judge_status(checks: Sequence[CheckOutcome]) -> CheckOutcome:
    """The catch-all: every check ran, and every scan had full coverage."""
    errors = [check for check in checks if check.verdict in (Verdict.ERROR, Verdict.NOT_RUN)]
    if errors:
        return CheckOutcome(name="status", verdict=Verdict.ERROR, sentence=errors[0].sentence)
    judged = [judge_coverage(check.scan.coverage) for check in checks if check.scan]
    verdict = worst(verdict for verdict, _ in judged)
    sentence = "; ".join(sentence for each, sentence in judged if each is verdict)
    return CheckOutcome(name="status", verdict=verdict, sentence=sentence or "no scan was run")


def judge_run(
    checks: Sequence[CheckOutcome],
    *,
    required: Sequence[str],
    checkpoint: str,
    policy: dict[str, tuple[str, str]],
    versions: dict[str, str],
    timings: dict[str, float],
    reason_not_run: str = "not selected",
) -> RunResult:
    """The verdict of a run; checks that are required and missing make it ``not_run``."""
    by_name = {check.name: check for check in checks}
    complete = tuple(
        by_name.get(name)
        or CheckOutcome(name=name, verdict=Verdict.NOT_RUN, sentence=reason_not_run)
        for name in required
    )
    verdict = worst(check.verdict for check in complete)
    decisive = next(check for check in complete if check.verdict is verdict)
    if verdict is Verdict.PASS:
        decisive = next((check for check in complete if check.scan), decisive)
    return RunResult(
        verdict=verdict,
        sentence=decisive.sentence,
        checkpoint=checkpoint,
        checks=complete,
        policy=policy,
        versions=versions,
        timings=timings,
    )
