"""Several fine-tunes as one result, averaged over concepts as FineXtract does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pytest_memscan.extraction_metrics import over_concepts, paired_difference
from pytest_memscan.results import (
    ConceptScan,
    Estimate,
    FinetuneScan,
    Measure,
    MethodScores,
)
from pytest_memscan.scans.finetune_plan import Scanned

TITLE = "FineXtract (arXiv:2410.03039)"
PUBLISHED = "sscd-large-crop224"  # the descriptor of the published numbers
_ESTIMATES = (
    "average_similarity",
    "esr_strict",
    "esr_loose",
    "best_similarity",
    "best_esr_strict",
    "best_esr_loose",
)
_COUNTS = (
    "num_images", "num_extracted", "num_copied", "num_copied_extracted", "denoiser_calls",
)  # fmt: skip


def combined(
    scanned: Sequence[Scanned],
    *,
    measure: Measure,
    descriptor: str,
    provenance: Mapping[str, str],
) -> FinetuneScan:
    """One result of one fine-tune or of several.

    Args:
        scanned: At least one.
        measure: Of the similarities.
        descriptor: Its name.
        provenance: What must match before two results may be compared.
    """
    concepts = tuple(each.concept for each in scanned)
    average = concepts[0].methods if len(scanned) == 1 else _average(scanned)
    return FinetuneScan(
        title=TITLE,
        measure=measure,
        concepts=concepts,
        average=average,
        metrics=_metrics(scanned, average),
        denoiser_calls=sum(concept.denoiser_calls for concept in concepts),
        provenance=dict(provenance),
        notes=tuple(_notes(scanned, average, descriptor)),
    )


def _average(scanned: Sequence[Scanned]) -> tuple[MethodScores, ...]:
    """Means over concepts of every method that all of them have, in the order of the first."""
    by_key = [dict(zip(each.best, each.concept.methods, strict=True)) for each in scanned]
    shared = [key for key in by_key[0] if all(key in each for each in by_key)]
    return tuple(_mean([each[key] for each in by_key]) for key in shared)


def _mean(scores: Sequence[MethodScores]) -> MethodScores:
    settings = dict.fromkeys(each.settings for each in scores)
    means: dict[str, Any] = {
        name: over_concepts([getattr(each, name).value for each in scores]) for name in _ESTIMATES
    }
    sums: dict[str, Any] = {name: sum(getattr(each, name) for each in scores) for name in _COUNTS}
    scales = {each.scale for each in scores}
    scale = scales.pop() if len(scales) == 1 else None
    return replace(scores[0], settings=" or ".join(settings), scale=scale, **means, **sums)


def _metrics(scanned: Sequence[Scanned], average: Sequence[MethodScores]) -> dict[str, Estimate]:
    concepts = [each.concept for each in scanned]
    metrics: dict[str, Estimate] = {}
    guided = [each for each in average if each.method == "finextract"]
    if guided:
        best = max(guided, key=lambda each: each.rank)
        metrics |= {
            "copied_images": _count(sum(each.num_copied or 0 for each in concepts)),
            "extracted_images": _count(sum(_num_extracted(each) for each in concepts)),
            "esr_strict": best.esr_strict,
            "esr_loose": best.esr_loose,
        }
    without = [each for each in concepts if each.num_train is None]
    if without:
        candidates = sum(each.num_candidates or 0 for each in without)
        metrics["extraction_candidates"] = _count(candidates)
    return metrics


def _num_extracted(concept: ConceptScan) -> int:
    """Of the setting of model guidance that extracts most."""
    guided = (each for each in concept.methods if each.method == "finextract")
    return max((each.num_copied_extracted for each in guided), default=0)


def _count(number: int) -> Estimate:
    return Estimate(value=number, lower=number, upper=number)


def _notes(
    scanned: Sequence[Scanned], average: Sequence[MethodScores], descriptor: str
) -> Iterator[str]:
    if descriptor != PUBLISHED:
        yield (
            f"similarities are those of {descriptor}; the published numbers belong to {PUBLISHED} "
            "and cannot be compared with these"
        )
    guided = [each for each in average if each.method == "finextract"]
    if not guided or ("cfg", 0) not in scanned[0].best:
        return
    shown = max(guided, key=lambda each: each.rank)
    key = ("finextract", guided.index(shown))
    pairs = [(each.best[key], each.best["cfg", 0]) for each in scanned if ("cfg", 0) in each.best]
    gain = paired_difference([ours for ours, _ in pairs], [theirs for _, theirs in pairs])
    over = "concepts" if len(pairs) > 1 else "training images"
    yield (
        f"AS of FineXtract ({shown.settings}) minus CFG: {gain.value:+.3f} "
        f"[{gain.lower:+.3f}, {gain.upper:+.3f}] over {gain.num_trials} {over}"
    )
