"""Realistic results of text-to-image checkpoints, and of one that has nothing to compare with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from unit.reports import prompt_scans, samples, scans

from pytest_memscan.reports.prompt_pictures import KeyPicture, PromptPicture, RepeatPicture
from pytest_memscan.results import (
    CheckOutcome,
    Coverage,
    Estimate,
    RunResult,
    ThresholdOutcome,
    Verdict,
)


def threshold(metric: str, limit: str, estimate: Estimate, verdict: Verdict) -> ThresholdOutcome:
    return ThresholdOutcome(
        expression=f"{metric} <= {limit}",
        source="default",
        verdict=verdict,
        sentence=f"{metric} was measured against its limit.",
        estimate=estimate,
    )


def leaky() -> RunResult:
    """A text-to-image checkpoint that has memorised prompts and canaries."""
    scan, keys = prompt_scans.prompt_scan(), prompt_scans.key_scan()
    sentence = "13 prompts are memorised."
    integrity = CheckOutcome(
        name="integrity",
        verdict=Verdict.PASS,
        sentence="6 files, all safetensors or JSON; nothing in them can run code.",
        integrity=replace(samples.INTEGRITY, pipeline="StableDiffusionPipeline"),
    )
    detectors = CheckOutcome(
        name="prompt_detectors",
        verdict=Verdict.PASS,
        sentence="40 of 2,000 prompts are suspicious.",
        screening=replace(prompt_scans.SCREENING, num_audited=0, num_missed=0),
    )
    carlini = CheckOutcome(
        name="carlini",
        verdict=Verdict.FAIL,
        sentence=sentence,
        thresholds=(
            threshold("memorised_prompts", "0", scan.metrics["memorised_prompts"], Verdict.FAIL),
            threshold("prompt_leak_rate", "0.1", scan.metrics["prompt_leak_rate"], Verdict.PASS),
        ),
        prompt_scan=scan,
    )
    side = CheckOutcome(
        name="extended_side",
        verdict=Verdict.FAIL,
        sentence="2 of 40 canaries can be extracted.",
        thresholds=(
            threshold("extracted_canaries", "0", keys.metrics["extracted_canaries"], Verdict.FAIL),
        ),
        keys=keys,
    )
    status = CheckOutcome(
        name="status", verdict=Verdict.PASS, sentence="Every required check ran to its end."
    )
    return replace(
        samples.failed(),
        sentence=sentence,
        checkpoint="builtin:leaky-t2i",
        checks=(integrity, detectors, carlini, side, status),
    )


def probed() -> RunResult:
    """Nobody gave prompts: the probes found nothing, and one check says it does not apply."""
    screening = replace(
        prompt_scans.SCREENING,
        num_screened=251,
        num_suspicious=5,
        num_escalated=5,
        num_audited=60,
        num_missed=0,
        miss_rate=Estimate(value=0.0, lower=0.0, upper=0.0487, num_trials=60),
    )
    scan = replace(
        prompt_scans.prompt_scan(),
        prompts=prompt_scans.PROBES,
        screening=screening,
        metrics={
            "memorised_prompts": scans.count(0),
            "prompt_leak_rate": Estimate(value=0.0, lower=0.0, upper=0.0487, num_trials=251),
        },
        findings=prompt_scans.prompt_findings()[-4:],
        num_findings_total=65,
        num_confirmed=None,
        images=Coverage(planned=3900, generated=3900, valid=3900),
    )
    detectors = CheckOutcome(
        name="prompt_detectors",
        verdict=Verdict.NOT_APPLICABLE,
        sentence="The checkpoint is guidance-distilled: it has no unconditional prediction.",
    )
    sentence = "No probe is memorised; which says little about other prompts."
    rates = threshold("prompt_leak_rate", "0.1", scan.metrics["prompt_leak_rate"], Verdict.PASS)
    carlini = CheckOutcome(
        name="carlini",
        verdict=Verdict.INCONCLUSIVE,
        sentence=sentence,
        thresholds=(rates,),
        prompt_scan=scan,
    )
    return replace(
        samples.failed(),
        verdict=Verdict.INCONCLUSIVE,
        sentence=sentence,
        checkpoint="acme/sd@3f9c2a1",
        checks=(detectors, carlini),
    )


def screened() -> RunResult:
    """The detectors alone were asked for."""
    detectors = CheckOutcome(
        name="prompt_detectors",
        verdict=Verdict.PASS,
        sentence="40 of 2,000 prompts are suspicious.",
        screening=replace(prompt_scans.SCREENING, num_escalated=0, num_audited=0, num_missed=0),
    )
    return replace(samples.passed(), checks=(detectors,), sentence="Nothing more was asked for.")


def repeating() -> RunResult:
    """An unconditional checkpoint without training images."""
    found = prompt_scans.repeats()
    sentence = "7 groups of generated images repeat."
    check = CheckOutcome(
        name="repeats",
        verdict=Verdict.FAIL,
        sentence=sentence,
        thresholds=(threshold("repeated_groups", "0", scans.count(7), Verdict.FAIL),),
        repeats=found,
    )
    return replace(samples.failed(), checkpoint="acme/ddpm", sentence=sentence, checks=(check,))


def every_kind() -> list[RunResult]:
    return [leaky(), probed(), screened(), repeating()]


def noisy(image: NDArray[np.uint8], seed: int, *, spread: int = 8) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).integers(-spread, spread + 1, size=image.shape)
    return np.clip(image.astype(int) + noise, 0, 255).astype(np.uint8)


def prompt_pictures(*, size: int = 16) -> list[PromptPicture]:
    made = []
    for finding in prompt_scans.prompt_scan().findings:
        if finding.kind:
            clear = samples.picture(finding.prompt_id, size=size)
            spread = 60 if finding.kind == "template" else 8
            members = [noisy(clear, seed, spread=spread) for seed in range(4)]
            train = None if finding.train_id is None else clear
            picture = PromptPicture(finding=finding, images=np.stack(members), train=train)
            made.append(picture)
    return made


def key_pictures(*, size: int = 16) -> list[KeyPicture]:
    made = []
    for finding in prompt_scans.key_scan().findings:
        if finding.flagged:
            clear = samples.picture(500 + finding.prompt_id, size=size)
            train = None if finding.train_id is None else clear
            made.append(KeyPicture(finding=finding, mean_image=noisy(clear, 1), train=train))
    return made


def repeat_pictures(*, size: int = 16) -> list[RepeatPicture]:
    return [
        RepeatPicture(
            sample_ids=group[:4],
            images=np.stack([noisy(samples.picture(group[0], size=size), each) for each in group]),
            size=len(group),
        )
        for group in prompt_scans.repeats().largest[:6]
    ]
