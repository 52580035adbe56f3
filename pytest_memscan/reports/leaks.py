"""Findings that count against a limit, each with an id that lasts from run to run.

A waiver names a finding by its id, SARIF recognises it by it. The id holds no score, since scores
move from run to run, and the beginning of the fingerprint of the list it is numbered in: once
images are added to a training set, ``train#00013`` may be another image, and nothing that was
said about the old one must hold for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pytest_memscan.reports.prompt_text import is_canary, prompt_name
from pytest_memscan.reports.text import generated_name, percent, score, train_name
from pytest_memscan.results import (
    CheckOutcome,
    ConceptScan,
    Finding,
    FinetuneScan,
    KeyScan,
    Measure,
    PromptScan,
    ScanResult,
    SideScan,
    SplittingScan,
)

FINGERPRINT_DIGITS = 8
TRAINING_IMAGES = "training images"  # key of provenance
PROMPT_LIST = "prompt list"  # likewise
UNKNOWN = "unknown"  # in place of a fingerprint, in reports of older versions


@dataclass(frozen=True, kw_only=True)
class Leak:
    """One training image, prompt or planted string that came out.

    Attributes:
        id: ``"train#00013@1f2e3d4c"``; one image has one id, whichever check found it.
        name: The same without the fingerprint, as reports call it.
        check: That found it.
        metrics: Counts it is one of: ``("extracted",)``.
        sentence: What was seen, with its score.
        num_copies: Generated images that are copies of it, where they were counted.
    """

    id: str
    name: str
    check: str
    metrics: tuple[str, ...]
    sentence: str
    num_copies: int | None = None


def leaks_of(check: CheckOutcome) -> tuple[Leak, ...]:
    """The findings of a check that count, strongest evidence first.

    A report holds at most some hundred findings of a scan; the counts may be larger.
    """
    leaks: list[Leak] = []
    if check.scan is not None:
        leaks += _of_scan(check.name, check.scan)
    if check.splitting is not None:
        leaks += _of_splitting(check.name, check.splitting)
    if check.side is not None:
        leaks += _of_side(check.name, check.side)
    if check.prompt_scan is not None:
        leaks += _of_prompts(check.name, check.prompt_scan)
    if check.keys is not None:
        leaks += _of_keys(check.name, check.keys)
    if check.finetunes is not None:
        leaks += _of_finetunes(check.name, check.finetunes)
    return tuple(leaks)


def leak_id(name: str, provenance: Mapping[str, str], key: str) -> str:
    """``name`` with the beginning of the fingerprint of the list it is numbered in.

    Args:
        name: ``"train#00013"``.
        provenance: Of the scan.
        key: Of the fingerprint in there.

    Example:
        >>> leak_id("train#00013", {"training images": "1f2e3d4c5b6a"}, "training images")
        'train#00013@1f2e3d4c'
    """
    return f"{name}@{provenance.get(key, UNKNOWN)[:FINGERPRINT_DIGITS]}"


def _of_scan(check: str, scan: ScanResult) -> Iterator[Leak]:
    for each in scan.findings:
        if each.confirmed:
            yield Leak(
                id=_train_id(each, scan.provenance),
                name=train_name(each.train_id),
                check=check,
                metrics=("extracted",),
                sentence=_match_text(each, scan.measure, generated_name(each.sample_id)),
                num_copies=each.num_copies,
            )


def _of_splitting(check: str, scan: SplittingScan) -> Iterator[Leak]:
    for each in scan.copies:
        if each.finding.confirmed:
            steered = f"steered#{each.finding.sample_id:05d}"
            yield Leak(
                id=_train_id(each.finding, scan.provenance),
                name=train_name(each.finding.train_id),
                check=check,
                metrics=("extractable_images",) if each.in_reach else (),
                sentence=f"{_match_text(each.finding, scan.measure, steered)}; "
                f"{percent(each.rate.value)} of ordinary images",
                num_copies=each.num_copies,
            )


def _of_side(check: str, scan: SideScan) -> Iterator[Leak]:
    for each in scan.findings:
        if each.finding.confirmed:
            yield Leak(
                id=_train_id(each.finding, scan.provenance),
                name=train_name(each.finding.train_id),
                check=check,
                metrics=("side_extracted",),
                sentence=_match_text(
                    each.finding, scan.measure, generated_name(each.finding.sample_id)
                ),
            )


def _of_prompts(check: str, scan: PromptScan) -> Iterator[Leak]:
    for each in scan.findings:
        if each.kind and not is_canary(each):
            name = prompt_name(each)
            yield Leak(
                id=leak_id(name, scan.provenance, PROMPT_LIST),
                name=name,
                check=check,
                metrics=("memorised_prompts", f"{each.kind}_prompts"),
                sentence=f"{name} is memorised ({each.kind}): {each.clique_size} of "
                f"{each.num_images} images are near-identical",
                num_copies=each.clique_size,
            )


def _of_keys(check: str, keys: KeyScan) -> Iterator[Leak]:
    for each in keys.findings:
        if each.flagged:
            name = prompt_name(each)
            yield Leak(
                id=leak_id(name, keys.provenance, PROMPT_LIST),
                name=name,
                check=check,
                metrics=("extracted_canaries" if each.is_canary else "low_variance_prompts",),
                sentence=f"the {each.num_images} images of {name} hardly vary",
            )


def _of_finetunes(check: str, scan: FinetuneScan) -> Iterator[Leak]:
    is_set = len(scan.concepts) > 1
    for number, concept in enumerate(scan.concepts, start=1):
        prefix = f"concept {number}: "
        own = scan.provenance.get(f"{prefix}{TRAINING_IMAGES}")
        provenance = dict(scan.provenance) | ({TRAINING_IMAGES: own} if own else {})
        for leak in _of_concept(check, concept, provenance):
            if is_set:
                yield Leak(
                    id=f"concept{number}/{leak.id}",
                    name=f"concept{number}/{leak.name}",
                    check=check,
                    metrics=leak.metrics,
                    sentence=f"{prefix}{leak.sentence}",
                )
            else:
                yield leak


def _of_concept(check: str, concept: ConceptScan, provenance: Mapping[str, str]) -> Iterator[Leak]:
    for each in sorted(concept.matches, key=lambda each: -each.best_similarity):
        if each.is_copied:
            extracted = each.extracted_similarity
            is_extracted = extracted is not None and extracted > concept.cut
            name = train_name(each.train_id)
            yield Leak(
                id=leak_id(name, provenance, TRAINING_IMAGES),
                name=name,
                check=check,
                metrics=("copied_images", *(("extracted_images",) if is_extracted else ())),
                sentence=f"{name} <- {generated_name(each.best_sample_id)}, similarity "
                f"{score(each.best_similarity)}",
            )


def _train_id(finding: Finding, provenance: Mapping[str, str]) -> str:
    return leak_id(train_name(finding.train_id), provenance, TRAINING_IMAGES)


def _match_text(finding: Finding, measure: Measure, generated: str) -> str:
    return f"{train_name(finding.train_id)} <- {generated}, {measure.word} {score(finding.score)}"
