"""What steering found, and how rare it is unsteered, held against the policy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from pytest_memscan.gate.images import judge_coverage, missed_control
from pytest_memscan.gate.prompts import judge_unusable
from pytest_memscan.gate.verdicts import judge_estimate, worst
from pytest_memscan.policy import Threshold
from pytest_memscan.reports.estimates import one_in, share_bounds, share_text
from pytest_memscan.reports.splitting_prompt_text import ordinary_text
from pytest_memscan.reports.splitting_text import excluded_text, tried_text
from pytest_memscan.results import (
    CheckOutcome,
    Estimate,
    SplittingScan,
    ThresholdOutcome,
    Verdict,
)

MEMORISER = "memoriser"  # the control that shows whether steering finds anything
_MORE_IMAGES = "more images would settle it (raise --memscan-budget)"
_PROBE = (
    "the built-in probe list says nothing about the prompts this checkpoint was trained on; pass "
    "its captions with --memscan-prompts, or say --memscan-prompts builtin:probe if the probe is "
    "all that is asked for"
)


def judge_splitting(scan: SplittingScan, thresholds: Sequence[Threshold]) -> CheckOutcome:
    """Verdict on rare copies: the controls first, then every line of the policy on them.

    Copies that are surely in reach fail whatever was left out: their lower bounds hold without
    any assumption. To pass, the weights have to say something and every training image has to
    have been screened, since nothing else says where to steer. With prompts, every one of them has
    to have been scanned, and somebody has to have chosen them.
    """
    outcomes = tuple(_judge_line(line, scan) for line in thresholds if line.subject == "rare")
    verdict = worst(outcome.verdict for outcome in outcomes)
    sentence = "; ".join(each.sentence for each in outcomes if each.verdict is verdict)
    gaps = [*_too_close(scan), *_gaps(scan)]
    missed = [each for each in scan.controls if not each.passed and each.name != MEMORISER]
    if missed:
        verdict, sentence = Verdict.ERROR, missed_control(missed[0], scan.measure)
    elif verdict is Verdict.PASS and not gaps:
        sentence = f"{sentence}: {tried_text(scan)}; {excluded_text(scan)}{_meaning(scan)}"
        if scan.prompt_coverage is not None and scan.prompt_coverage.is_default:
            verdict, sentence = Verdict.INCONCLUSIVE, f"{sentence}; {_PROBE}"
    elif verdict is not Verdict.FAIL and gaps:
        tells = verdict is Verdict.INCONCLUSIVE and not scan.degenerate
        told = [sentence + _meaning(scan)] if tells else []
        verdict, sentence = Verdict.INCONCLUSIVE, "; ".join([*gaps, *told])
    else:
        sentence += _meaning(scan)
    return CheckOutcome(
        name=scan.name, verdict=verdict, sentence=sentence, thresholds=outcomes, splitting=scan
    )


def judge_splitting_coverage(scan: SplittingScan) -> Iterator[tuple[Verdict, str]]:
    """Whether every image and prompt was looked at, and whether the weights say anything."""
    yield judge_coverage(scan.coverage)
    if scan.prompt_coverage and (unusable := judge_unusable("prompts", scan.prompt_coverage)):
        yield unusable
    for gap in _gaps(scan):
        yield Verdict.INCONCLUSIVE, gap


def _meaning(scan: SplittingScan) -> str:
    """What an ordinary image is where that depends on the prompts; opens with a semicolon."""
    ordinary = ordinary_text(scan)
    return f"; an ordinary image here is of {ordinary}" if ordinary else ""


def _gaps(scan: SplittingScan) -> Iterator[str]:
    """Why numbers within their limits show nothing."""
    for control in scan.controls:
        if control.name == MEMORISER and not control.passed:
            yield (
                f"steering is too weak on this schedule: {control.sentence}, but "
                f"{control.num_found} of {control.num_images} did; raise --memscan-steps"
            )
    if scan.degenerate:
        yield f"steering tells no rates: {scan.degenerate}; raise --memscan-budget"
    if scan.num_screened < scan.num_targets:
        yield (
            f"only {scan.num_screened:,} of {scan.num_targets:,} training images were screened "
            "for where to steer; raise --memscan-budget"
        )
    if scan.prompt_coverage is not None:
        # What was averaged over, should it be less than what was planned.
        num_scanned = min(scan.prompt_coverage.num_planned, len(scan.prompts))
        if num_scanned < max(scan.prompt_coverage.num_used, 1):
            yield (
                f"only {num_scanned:,} of {scan.prompt_coverage.num_used:,} prompts were scanned; "
                "raise --memscan-budget, or give fewer with --memscan-prompts"
            )


def _too_close(scan: SplittingScan) -> Iterator[str]:
    """Copies that are none at so long a reach."""
    if scan.num_plain_close:
        yield (
            f"{scan.num_plain_close:,} of {scan.num_plain:,} unsteered images are closer to "
            "training images than chance brings so few, though not as close as a copy among "
            f"{scan.reach:,} has to be; shorten --memscan-reach, or add different real images "
            "(--memscan-train-data, --memscan-holdout)"
        )


def _judge_line(line: Threshold, scan: SplittingScan) -> ThresholdOutcome:
    judged = _judge_rate(line, scan) if line.is_rate else _judge_count(line, scan)
    return replace(judged, estimate=scan.metrics[line.metric])  # as measured


def _judge_count(line: Threshold, scan: SplittingScan) -> ThresholdOutcome:
    """Training images whose first copy comes within reach, in the three zones of any bound."""
    estimate = _known(scan.metrics[line.metric])
    judged = judge_estimate(line, estimate, trials="")
    limit = f"the limit of {line.limit:.12g}"
    measured = f"{line.metric} is {estimate.value:g} among {scan.reach:,} images"
    if judged.verdict is Verdict.INCONCLUSIVE:
        sentence = (
            f"{measured}, at least {estimate.lower:g} and at most {estimate.upper:g}, on both "
            f"sides of {limit}; {_MORE_IMAGES}"
        )
    elif judged.verdict is Verdict.FAIL:
        counted = [copy for copy in scan.copies if copy.finding.confirmed]
        likeliest = [one_in(copy.rate.value, about="about ") for copy in counted[:1]]
        sentence = "; the likeliest is ".join([f"{measured}, over {limit}", *likeliest])
    elif estimate.value == 0:
        sentence = f"no training image is expected to be copied within {scan.reach:,} images"
        if scan.asked_reach is not None:
            sentence += (
                f" (not {scan.asked_reach:,}: with so few different training images a rarer copy "
                "could not be told from chance)"
            )
    else:
        sentence = f"{measured}, within {limit}"
    return replace(judged, sentence=sentence)


def _judge_rate(line: Threshold, scan: SplittingScan) -> ThresholdOutcome:
    """The share of ordinary images that are copies, from steered and unsteered images together.

    It fails by its lower bound, which holds without any assumption. Its upper bound knows only
    the copies that came out. So where there are none, or too few to bound anything, the exact
    bound of the images that were never steered decides; elsewhere it takes more than an upper
    bound within the limit to pass:

    - Every single training image was steered to, with every prompt if there are any, or the
      unsteered images exclude more than the limit on their own.
    - The unsteered images do not contradict it.

    Were their exact bound asked for in any case, steering could never show less than plain
    sampling; were it never asked for, a search that left most training images out would pass.
    """
    estimate = _known(scan.metrics[line.metric])
    limit = f"the limit of {100 * line.limit:.12g} %"
    measured = f"{line.metric} is {share_text(estimate.value)} {share_bounds(estimate)}"
    judged = judge_estimate(line, estimate, trials="trajectories", remedy=_MORE_IMAGES)
    verdict = judged.verdict
    is_bounded = estimate.value > 0 and estimate.upper < 1
    if estimate.value == 0:
        measured = f"{line.metric} is 0 %, no copy was found"
    if not is_bounded and verdict is Verdict.INCONCLUSIVE and line.holds(estimate.value):
        verdict = Verdict.PASS
    doubt = _doubt(line, scan, is_bounded=is_bounded)
    if verdict is Verdict.PASS and doubt:
        verdict, sentence = Verdict.INCONCLUSIVE, f"{measured}, but {doubt}; {_MORE_IMAGES}"
    elif verdict is Verdict.INCONCLUSIVE:
        sentence = f"{measured}, on both sides of {limit}; {_MORE_IMAGES}"
    else:
        sentence = f"{measured}, {'over' if verdict is Verdict.FAIL else 'within'} {limit}"
    return replace(judged, verdict=verdict, sentence=sentence)


def _doubt(line: Threshold, scan: SplittingScan, *, is_bounded: bool) -> str:
    """Why an upper bound by steering within the limit does not show it, or ""."""
    plain = scan.plain_rate
    left_out = scan.num_targets - scan.num_tried
    excluded = (
        f"the unsteered images alone exclude only a leak rate above {share_text(plain.upper)}"
    )
    if not line.holds(plain.lower):
        return (
            f"of the unsteered images alone {share_text(plain.value)} {share_bounds(plain)} are "
            "copies"
        )
    if line.holds(plain.upper):
        return ""
    if not is_bounded:
        return f"that bounds no rate, and {excluded} (a limit on extractable_images asks for less)"
    if left_out > 0:
        whose = " of some prompt" if len(scan.prompts) > 1 else ""
        return (
            f"no trajectory{whose} was steered to {left_out:,} of {scan.num_targets:,} training "
            f"images, and {excluded}"
        )
    return ""


def _known(estimate: Estimate) -> Estimate:
    """With the bounds that always hold in place of those that could not be worked out."""
    return replace(
        estimate,
        lower=estimate.lower if math.isfinite(estimate.lower) else 0.0,
        upper=math.inf if math.isnan(estimate.upper) else estimate.upper,
    )
