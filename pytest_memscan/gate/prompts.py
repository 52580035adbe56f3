"""What was measured without comparing every image with training images: prompts, keys, repeats."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_memscan.gate.images import judge_invalid, judge_train_images
from pytest_memscan.gate.verdicts import judge_estimate, worst
from pytest_memscan.policy import Subject, Threshold
from pytest_memscan.results import (
    CheckOutcome,
    Estimate,
    KeyScan,
    PromptCoverage,
    PromptScan,
    Repeats,
    Screening,
    ThresholdOutcome,
    Verdict,
)

_PROBE = (
    "nothing of the built-in probe list is memorised, which says nothing about the prompts this "
    "checkpoint was trained on; pass its captions with --memscan-prompts, or say "
    "--memscan-prompts builtin:probe if the probe is all that is asked for"
)
_NOTHING_REPEATS = (
    'pass --memscan-train-data, or say --memscan-fail "repeated_groups <= 0" if this is all that '
    "is asked for"
)
_MAX_PLACES = 5  # named in one sentence


def judge_prompt_scan(scan: PromptScan, thresholds: Sequence[Threshold]) -> CheckOutcome:
    """Verdict on memorised prompts: the controls first, then every line on prompts."""
    outcomes = _judge(scan.metrics, thresholds, "prompts")
    verdict, sentence = _decisive(outcomes)
    missed = [control for control in scan.controls if not control.passed]
    if missed:
        control = missed[0]
        verdict = Verdict.ERROR
        sentence = (
            f"the scan cannot be trusted: {control.sentence}, but {control.num_found} of "
            f"{control.num_images} were (control {control.name})"
        )
    elif verdict is Verdict.PASS and scan.prompts.is_default:
        verdict, sentence = Verdict.INCONCLUSIVE, f"{sentence}; {_PROBE}"
    return CheckOutcome(
        name="carlini",
        verdict=verdict,
        sentence=sentence,
        thresholds=outcomes,
        prompt_scan=scan,
    )


def judge_screening(screening: Screening) -> CheckOutcome:
    """The detectors decide where images are spent, and nothing else: for information."""
    used = [each for each in screening.detectors if not each.not_applicable]
    sentence = (
        f"{screening.num_screened} prompts screened by {len(used)} detectors: "
        f"{screening.num_suspicious} suspicious, {screening.num_escalated} sampled, "
        f"{screening.num_audited} of the others audited"
    )
    return CheckOutcome(
        name="prompt_detectors", verdict=Verdict.PASS, sentence=sentence, screening=screening
    )


def judge_keys(keys: KeyScan, thresholds: Sequence[Threshold]) -> CheckOutcome:
    """Verdict on keys whose images hardly vary.

    Without planted strings nothing here is limited by default: it is for information then.
    """
    lines = [line for line in thresholds if keys.num_canaries or not line.is_default]
    outcomes = _judge(keys.metrics, lines, "keys")
    verdict, sentence = _decisive(outcomes)
    if not outcomes:
        flagged = keys.metrics["low_variance_prompts"].value
        verdict = Verdict.PASS
        sentence = f"{flagged:g} of {keys.num_keys} sampled prompts give images that hardly vary"
    return CheckOutcome(
        name="extended_side", verdict=verdict, sentence=sentence, thresholds=outcomes, keys=keys
    )


def judge_repeats(repeats: Repeats, thresholds: Sequence[Threshold]) -> CheckOutcome:
    """Verdict on near-identical generated images, which can fail and hardly ever pass.

    That nothing repeats shows little; it is a pass only where the policy asks for just that.
    """
    outcomes = _judge(repeats.metrics, thresholds, "repeats")
    verdict, sentence = _decisive(outcomes)
    written = any(line.subject == "repeats" and not line.is_default for line in thresholds)
    if verdict is Verdict.PASS and not written:
        verdict, sentence = Verdict.INCONCLUSIVE, f"{repeats.sentence}; {_NOTHING_REPEATS}"
    return CheckOutcome(
        name="repeats", verdict=verdict, sentence=sentence, thresholds=outcomes, repeats=repeats
    )


def judge_prompt_coverage(scan: PromptScan) -> tuple[Verdict, str]:
    """Whether every prompt was looked at, to its end."""
    prompts = scan.prompts
    if gap := judge_invalid(scan.images) or judge_unusable("prompts", prompts):
        return gap
    if gap := judge_train_images(scan.images):
        return gap
    if prompts.num_planned < prompts.num_used:
        share = prompts.num_planned / prompts.num_used
        return (
            Verdict.INCONCLUSIVE,
            f"the budget reaches {prompts.num_planned} of {prompts.num_used} prompts "
            f"({100 * share:.3g} %); raise --memscan-budget, or leave it out",
        )
    if scan.num_unsettled:
        return (
            Verdict.INCONCLUSIVE,
            f"{scan.num_unsettled} prompts were not sampled to an end; raise --memscan-budget, or "
            "look at the invalid images in the report",
        )
    screening = scan.screening
    return (
        Verdict.PASS,
        f"{screening.num_screened} prompts screened, "
        f"{screening.num_escalated + screening.num_audited} sampled to an end",
    )


def judge_key_coverage(keys: KeyScan) -> tuple[Verdict, str]:
    """Whether every planted string was looked at."""
    if keys.canaries is not None and (gap := judge_unusable("canaries", keys.canaries)):
        return gap
    if keys.canaries is not None and keys.num_canaries < keys.canaries.num_used:
        return (
            Verdict.INCONCLUSIVE,
            f"{keys.num_canaries} of {keys.canaries.num_used} planted strings were measured; raise "
            "--memscan-budget, or look at the invalid images in the report",
        )
    return Verdict.PASS, f"the variance of {keys.num_keys} keys measured"


def judge_repeats_coverage(repeats: Repeats) -> tuple[Verdict, str]:
    """Whether every planned image was looked at."""
    images = repeats.images
    if gap := judge_invalid(images):
        return gap
    return Verdict.PASS, f"{images.valid} of {images.planned} planned images compared"


def judge_unusable(option: str, prompts: PromptCoverage) -> tuple[Verdict, str] | None:
    """Lines that could not be read are never passed over."""
    if not prompts.unusable:
        return None
    named = "; ".join(
        f"{len(places)} {why} ({', '.join(places[:_MAX_PLACES])}"
        f"{' ...' if places[_MAX_PLACES:] else ''})"
        for why, places in prompts.unusable.items()
    )
    return (
        Verdict.INCONCLUSIVE,
        f"--memscan-{option}: not every line of {prompts.origin} could be used: {named}. Mend or "
        "remove these lines",
    )


def _judge(
    metrics: dict[str, Estimate], thresholds: Sequence[Threshold], subject: Subject
) -> tuple[ThresholdOutcome, ...]:
    return tuple(
        judge_estimate(
            line,
            metrics[line.metric],
            trials="sampled prompts",
            remedy="more prompts would have to be sampled",
        )
        for line in thresholds
        if line.subject == subject
    )


def _decisive(outcomes: Sequence[ThresholdOutcome]) -> tuple[Verdict, str]:
    verdict = worst(outcome.verdict for outcome in outcomes)
    return verdict, "; ".join(each.sentence for each in outcomes if each.verdict is verdict)
