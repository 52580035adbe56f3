"""Runs on fine-tunes, and pictures of what was extracted from them."""

from __future__ import annotations

from dataclasses import replace

from unit.reports import finetune_scans, prompt_samples, samples, scans

from pytest_memscan.reports.finetune_pictures import FinetunePicture
from pytest_memscan.reports.finetune_text import candidates
from pytest_memscan.results import CheckOutcome, FinetuneScan, RunResult, ThresholdOutcome, Verdict


def _run(
    scan: FinetuneScan, verdict: Verdict, sentence: str, *thresholds: ThresholdOutcome
) -> RunResult:
    check = CheckOutcome(
        name="finextract",
        verdict=verdict,
        sentence=sentence,
        thresholds=thresholds,
        finetunes=scan,
    )
    return replace(
        samples.failed(),
        verdict=verdict,
        sentence=sentence,
        checkpoint=scan.concepts[0].name if len(scan.concepts) == 1 else "concepts.toml",
        checks=(check,),
    )


def _copied(number: int, verdict: Verdict) -> ThresholdOutcome:
    return prompt_samples.threshold("copied_images", "0", scans.count(number), verdict)


def leaky() -> RunResult:
    sentence = "4 of 10 training images can be extracted."
    scan = finetune_scans.scan(finetune_scans.CONCEPT)
    limit = prompt_samples.threshold("esr_strict", "0.1", finetune_scans.THREE, Verdict.FAIL)
    return _run(scan, Verdict.FAIL, sentence, _copied(4, Verdict.FAIL), limit)


def clean() -> RunResult:
    sentence = "No training image was extracted by 900 generated images."
    scan = finetune_scans.scan(finetune_scans.clean_concept())
    return _run(scan, Verdict.PASS, sentence, _copied(0, Verdict.PASS))


def lone() -> RunResult:
    sentence = "6 groups of generated images repeat."
    scan = finetune_scans.scan(finetune_scans.lone_concept())
    limit = prompt_samples.threshold("extraction_candidates", "0", scans.count(6), Verdict.FAIL)
    return _run(scan, Verdict.FAIL, sentence, limit)


def several() -> RunResult:
    sentence = "8 of 30 training images can be extracted."
    leaking = finetune_scans.CONCEPT
    doubtful = replace(
        leaking,
        name="acme/hats-lora",
        fit=replace(leaking.fit, warning="The base hardly belongs to it."),
    )
    scan = finetune_scans.scan(leaking, finetune_scans.clean_concept(), doubtful)
    return _run(scan, Verdict.FAIL, sentence, _copied(8, Verdict.FAIL))


def every_kind() -> list[RunResult]:
    return [leaky(), clean(), lone(), several()]


def scan_of(result: RunResult) -> FinetuneScan:
    scan = result.checks[0].finetunes
    assert scan is not None
    return scan


def pictures(result: RunResult, *, size: int = 16) -> list[FinetunePicture]:
    """One for each candidate: a picture, and a noisy copy of it where it is a copy."""
    made = []
    for position, concept in enumerate(scan_of(result).concepts):
        for each in candidates(concept):
            train = None
            if each.train_id is not None:
                train = samples.picture(100 * position + each.train_id, size=size)
            seed = 1000 + 100 * position + each.sample_id
            generated = samples.picture(seed, size=size)
            if train is not None and each.is_copy:
                generated = prompt_samples.noisy(train, seed)
            made.append(
                FinetunePicture(
                    concept=position,
                    sample_id=each.sample_id,
                    train_id=each.train_id,
                    generated=generated,
                    train=train,
                )
            )
    return made
