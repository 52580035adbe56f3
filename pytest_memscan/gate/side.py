"""What surrogate conditions brought out, held against the policy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_memscan.gate.images import judge_coverage, missed_control
from pytest_memscan.gate.verdicts import judge_estimate, worst
from pytest_memscan.policy import Threshold
from pytest_memscan.results import CheckOutcome, SideScan, ThresholdOutcome, Verdict


def judge_side(scan: SideScan, thresholds: Sequence[Threshold]) -> CheckOutcome:
    """Verdict on what SIDE brought out: its controls first, then every line of the policy on it.

    The worst of all variants and lambdas counts, plain sampling included.
    """
    outcomes = tuple(_judge_line(line, scan) for line in thresholds if line.subject == "guided")
    verdict = worst(outcome.verdict for outcome in outcomes)
    sentence = "; ".join(each.sentence for each in outcomes if each.verdict is verdict)
    missed = [control for control in scan.controls if not control.passed]
    if missed:
        verdict, sentence = Verdict.ERROR, missed_control(missed[0], scan.measure)
    elif verdict is Verdict.PASS:
        num_images = sum(each.num_images for variant in scan.variants for each in variant.settings)
        sentence += (
            f"; {num_images:,} guided images of {len(scan.variants)} variants, and "
            f"{scan.plain.num_images + scan.num_samples:,} unguided ones"
        )
    gaps = [sentence for _, sentence in _gaps(scan)]
    if verdict is Verdict.PASS and gaps:
        verdict, sentence = Verdict.INCONCLUSIVE, "; ".join([*gaps, sentence])
    return CheckOutcome(
        name=scan.name, verdict=verdict, sentence=sentence, thresholds=outcomes, side=scan
    )


def judge_side_coverage(scan: SideScan) -> Iterator[tuple[Verdict, str]]:
    """Whether every image was looked at, and whether any variant attacked at all."""
    yield judge_coverage(scan.coverage)
    yield from _gaps(scan)


def _gaps(scan: SideScan) -> Iterator[tuple[Verdict, str]]:
    """Why numbers within their limits show nothing."""
    if all(variant.is_control for variant in scan.variants):
        reasons: dict[str, str] = {}
        for name, reason in scan.left_out.items():  # one is often that of several variants
            reasons.setdefault(reason, name)
        why = "; ".join(f"{name}: {reason}" for reason, name in reasons.items())
        yield (
            Verdict.INCONCLUSIVE,
            "no variant of SIDE was run that is expected to bring out more than plain sampling"
            + (f" ({why})" if why else "; ask for one with --memscan-side-variants"),
        )


def _judge_line(line: Threshold, scan: SideScan) -> ThresholdOutcome:
    if line.is_rate:
        remedy = "more images would settle it (raise --memscan-budget)"
    else:
        expected = scan.calibration.expected_false_matches
        remedy = f"but chance alone explains that many ({expected:.2g} expected)"
    return judge_estimate(
        line, scan.metrics[line.metric], trials="images at the worst setting", remedy=remedy
    )
