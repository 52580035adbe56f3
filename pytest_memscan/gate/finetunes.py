"""What was measured on a fine-tune and its base, held against the policy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_memscan.gate.images import judge_invalid, judge_train_images
from pytest_memscan.gate.prompts import judge_unusable
from pytest_memscan.gate.verdicts import judge_estimate, worst
from pytest_memscan.policy import Threshold
from pytest_memscan.reports.text import percent
from pytest_memscan.results import CheckOutcome, ConceptScan, FinetuneScan, Verdict

_NOTHING_REPEATS = (
    "nothing to compare with: no group of near-identical images shows that none is a training "
    "image; pass --memscan-train-data, or say --memscan-fail "
    '"extraction_candidates <= 0" if this is all that is asked for'
)
_MORE_IMAGES = (
    "leave --memscan-budget out, raise it, or say with --memscan-copy-rate that a higher rate is "
    "all that is asked for"
)
_WHICH_BASE = "pass the checkpoint that it was fine-tuned from with --memscan-base"
_WHICH_CAPTIONS = (
    "pass those it was trained with in a file with --memscan-prompts, or say --memscan-prompts "
    "builtin:none if there were none"
)
_REMEDY = "only more training images, or more concepts, make the interval narrower"


def judge_finetunes(scan: FinetuneScan, thresholds: Sequence[Threshold]) -> CheckOutcome:
    """Verdict on a fine-tune: the controls first, then every line on what was measured.

    Without training images it can fail and hardly ever pass, as with repeats.
    """
    lines = [line for line in thresholds if line.metric in scan.metrics]
    outcomes = tuple(
        judge_estimate(line, scan.metrics[line.metric], trials=_trials(scan), remedy=_REMEDY)
        for line in lines
        if line.subject in ("finetunes", "candidates")
    )
    verdict = worst(outcome.verdict for outcome in outcomes)
    sentence = "; ".join(each.sentence for each in outcomes if each.verdict is verdict)
    missed = [
        (concept, control)
        for concept in scan.concepts
        for control in concept.controls
        if not control.passed
    ]
    if missed:
        concept, control = missed[0]
        verdict = Verdict.ERROR
        sentence = (
            f"the scan cannot be trusted: {_of(concept, scan)}{control.sentence}, but "
            f"{control.num_found} of {control.num_images} were (control {control.name}). More "
            "different real images (--memscan-train-data, --memscan-holdout) make the comparison "
            "sharper, and another --memscan-descriptor may see more"
        )
    elif verdict is Verdict.PASS and (doubt := _doubt(scan, lines)):
        verdict, sentence = Verdict.INCONCLUSIVE, f"{sentence}; {doubt}"
    return CheckOutcome(
        name="finextract",
        verdict=verdict,
        sentence=sentence,
        thresholds=outcomes,
        finetunes=scan,
    )


def _doubt(scan: FinetuneScan, lines: Sequence[Threshold]) -> str:
    """Why numbers within their limits show nothing, or ""."""
    for concept in scan.concepts:
        if concept.fit.warning:
            return f"{_of(concept, scan)}{concept.fit.warning}; {_WHICH_BASE}"
    for concept in scan.concepts:
        if concept.shown_rate > concept.wanted_rate:
            return (
                f"{_of(concept, scan)}{concept.num_images} images only show that none comes up in "
                f"{percent(concept.shown_rate)} of them or more, and {percent(concept.wanted_rate)}"
                f" was to be shown; {_MORE_IMAGES}"
            )
    for concept in scan.concepts:
        if concept.captions_note:
            return (
                f"{_of(concept, scan)}captions: {concept.captions} ({concept.captions_origin}), "
                f"{concept.captions_note}; {_WHICH_CAPTIONS}"
            )
    written = any(line.subject == "candidates" and not line.is_default for line in lines)
    return "" if written or "extraction_candidates" not in scan.metrics else _NOTHING_REPEATS


def judge_finetune_coverage(scan: FinetuneScan) -> Iterator[tuple[Verdict, str]]:
    """Whether every image and every caption was looked at, concept by concept."""
    for concept in scan.concepts:
        gap = judge_invalid(concept.images)
        if gap is None and concept.prompts is not None:
            gap = judge_unusable("prompts", concept.prompts)
        if gap is None and concept.num_train is not None:
            gap = judge_train_images(concept.images)
        if gap is None and not concept.clustering.is_proven and concept.num_train is None:
            gap = (
                Verdict.INCONCLUSIVE,
                "the search for groups was cut short, and there may be candidates that it did not "
                "see; make fewer images with --memscan-budget, or pass --memscan-train-data",
            )
        if gap is None and not concept.clustering.is_proven:
            gap = (
                Verdict.PASS,
                "the search for groups was cut short, so larger ones may exist; what was copied "
                "does not depend on it",
            )
        if gap is None:
            images = concept.images
            gap = (Verdict.PASS, f"{images.valid} of {images.planned} images compared")
        yield gap[0], f"{_of(concept, scan)}{gap[1]}"


def _trials(scan: FinetuneScan) -> str:
    return "training images" if len(scan.concepts) == 1 else "concepts"


def _of(concept: ConceptScan, scan: FinetuneScan) -> str:
    return f"{concept.name}: " if len(scan.concepts) > 1 else ""
