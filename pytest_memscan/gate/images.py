"""What was measured by comparing generated with training images, held against the policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pytest_memscan.gate.verdicts import judge_estimate, worst
from pytest_memscan.policy import Threshold
from pytest_memscan.results import (
    FLAT_IMAGE,
    CheckOutcome,
    Control,
    Coverage,
    Duplicates,
    Estimate,
    Measure,
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


def judge_scan(scan: ScanResult, thresholds: Sequence[Threshold]) -> CheckOutcome:
    """Verdict of one scan: its controls first, then every line of the policy on leakage."""
    outcomes = tuple(
        _judge_threshold(threshold, scan)
        for threshold in thresholds
        if threshold.subject == "images"
    )
    missed = [control for control in scan.controls if not control.passed]
    if missed:
        verdict, sentence = Verdict.ERROR, missed_control(missed[0], scan.measure)
    else:
        verdict = worst(outcome.verdict for outcome in outcomes)
        decisive = [outcome for outcome in outcomes if outcome.verdict is verdict]
        sentence = "; ".join(outcome.sentence for outcome in decisive)
    return CheckOutcome(
        name=scan.name, verdict=verdict, sentence=sentence, thresholds=outcomes, scan=scan
    )


def missed_control(control: Control, measure: Measure) -> str:
    """Why a scan whose planted case was misjudged says nothing, and what may help."""
    return (
        f"the scan cannot be trusted: {control.sentence}, but {control.num_found} of "
        f"{control.num_images} were (control {control.name}). More different real images "
        "(--memscan-train-data, --memscan-holdout) make the comparison sharper"
        f"{_OTHER_DESCRIPTOR if measure.higher_is_closer else ''}"
    )


def _judge_threshold(threshold: Threshold, scan: ScanResult) -> ThresholdOutcome:
    estimate = scan.metrics[threshold.metric]
    return judge_estimate(
        threshold, estimate, trials="images", remedy=_remedy(threshold, estimate, scan)
    )


def _remedy(threshold: Threshold, estimate: Estimate, scan: ScanResult) -> str:
    if not threshold.is_rate:
        expected = scan.calibration.expected_false_matches
        return f"but chance alone explains that many ({expected:.2g} expected)"
    needed = trials_to_settle(estimate.value, threshold.limit)
    if needed is None:
        return "no number of images would settle it"
    return f"about {needed} images would settle it (--memscan-budget {needed}img)"


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
        if threshold.subject == "duplicates"
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


def judge_invalid(coverage: Coverage) -> tuple[Verdict, str] | None:
    """What is to be said of generated images that cannot be judged, if anything."""
    num_invalid = sum(coverage.invalid.values())
    if num_invalid <= MAX_INVALID * coverage.planned:
        return None
    reasons = ", ".join(f"{count} {reason}" for reason, count in coverage.invalid.items())
    broken = num_invalid > BROKEN_INVALID * coverage.planned
    return (
        Verdict.ERROR if broken else Verdict.INCONCLUSIVE,
        f"{num_invalid} of {coverage.planned} generated images cannot be judged ({reasons}); "
        "check the checkpoint, or try --memscan-dtype float32",
    )


def judge_coverage(coverage: Coverage) -> tuple[Verdict, str]:
    """Whether a scan looked at everything it was asked to look at."""
    if gap := judge_invalid(coverage):
        return gap
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
    if gap := judge_train_images(coverage):
        return gap
    return (
        Verdict.PASS,
        f"{coverage.valid} of {coverage.planned} planned images compared with "
        f"{coverage.train_used} training images",
    )


def judge_train_images(coverage: Coverage) -> tuple[Verdict, str] | None:
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
