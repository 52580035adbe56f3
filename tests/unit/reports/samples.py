"""Realistic results to render: one for each way a run can end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from unit.reports import scans

from pytest_memscan.reports.html import Pair
from pytest_memscan.reports.json import not_run_report
from pytest_memscan.results import (
    CheckOutcome,
    Estimate,
    Integrity,
    RunResult,
    ThresholdOutcome,
    Verdict,
)

INTEGRITY = Integrity(
    pipeline="DDPMPipeline",
    files={
        "unet/diffusion_pytorch_model.safetensors": scans.PROVENANCE["checkpoint_sha256"],
        "scheduler/scheduler_config.json": "0f3c5a" + "7" * 58,
    },
    num_tensors=214,
    num_parameters=1_482_371,
)


def extracted(value: int, verdict: Verdict) -> ThresholdOutcome:
    return ThresholdOutcome(
        expression="extracted <= 0",
        source="default",
        verdict=verdict,
        sentence=f"{value} distinct training images are confirmed as copied.",
        estimate=scans.count(value),
    )


def leak_rate(estimate: Estimate, verdict: Verdict, sentence: str) -> ThresholdOutcome:
    return ThresholdOutcome(
        expression="leak_rate <= 0.01",
        source="memscan.toml",
        verdict=verdict,
        sentence=sentence,
        estimate=estimate,
    )


def _run(verdict: Verdict, sentence: str, *checks: CheckOutcome, checkpoint: str) -> RunResult:
    return RunResult(
        verdict=verdict,
        sentence=sentence,
        checkpoint=checkpoint,
        checks=checks,
        policy={
            "train-data": ("builtin:leaky", "command line"),
            "seed": ("0", "default"),
            "images": ("blurred", "default"),
        },
        versions={"torch": "2.13.0", "diffusers": "0.42.1", "pytest-memscan": "0.1.0"},
        timings={"verify": 0.03, "generate": 74.2, "compare": 1.31},
    )


def _integrity() -> CheckOutcome:
    return CheckOutcome(
        name="integrity",
        verdict=Verdict.PASS,
        sentence="2 files, all safetensors or JSON; nothing in them can run code.",
        integrity=INTEGRITY,
    )


def failed() -> RunResult:
    scan = scans.leaky_scan()
    rates = leak_rate(
        scan.metrics["leak_rate"], Verdict.FAIL, "At least 76.0 % of generated images are copies."
    )
    sentence = "132 training images can be extracted from this checkpoint."
    carlini = CheckOutcome(
        name="carlini",
        verdict=Verdict.FAIL,
        sentence=sentence,
        thresholds=(extracted(132, Verdict.FAIL), rates),
        scan=scan,
    )
    status = CheckOutcome(
        name="status", verdict=Verdict.PASS, sentence="Every required check ran to its end."
    )
    return _run(Verdict.FAIL, sentence, _integrity(), carlini, status, checkpoint="builtin:leaky")


def passed() -> RunResult:
    scan = scans.clean_scan()
    rates = leak_rate(scan.metrics["leak_rate"], Verdict.PASS, "At most 0.93 % are copies.")
    carlini = CheckOutcome(
        name="carlini",
        verdict=Verdict.PASS,
        sentence="No training image was extracted.",
        thresholds=(extracted(0, Verdict.PASS), rates),
        scan=scan,
    )
    sentence = "No training image was extracted by 320 generated images."
    return _run(Verdict.PASS, sentence, _integrity(), carlini, checkpoint="builtin:clean")


def inconclusive() -> RunResult:
    scan = replace(
        scans.clean_scan(),
        levels=scans.levels((0, 0), (0, 0), (0, 0)),
        findings=(),
        num_findings_total=0,
        coverage=replace(
            scans.COVERAGE,
            valid=316,
            damaged=2,
            invalid={"black": 3, "not a number": 1},
            train_found=154,
            train_unusable={"not an image": ("private-name.png", "b.png", "c.png", "d.png")},
            train_groups=148,
        ),
    )
    estimate = scans.rate(2, lower=0.0011, upper=0.0195)
    sentence = "The leak rate may be on either side of 1 %; about 900 images would settle it."
    rates = leak_rate(estimate, Verdict.INCONCLUSIVE, sentence)
    carlini = CheckOutcome(
        name="carlini",
        verdict=Verdict.INCONCLUSIVE,
        sentence=sentence,
        thresholds=(extracted(0, Verdict.PASS), rates),
        scan=scan,
    )
    return _run(Verdict.INCONCLUSIVE, sentence, _integrity(), carlini, checkpoint="acme/sd@3f9c2a1")


def broken() -> RunResult:
    """The checkpoint was refused, so nothing was scanned."""
    sentence = (
        "checkpoint ./unet.bin is a pickle, which can run code when loaded.\n"
        "Convert it to safetensors (see docs/checkpoints.md)."
    )
    integrity = CheckOutcome(name="integrity", verdict=Verdict.ERROR, sentence=sentence)
    carlini = CheckOutcome(
        name="carlini", verdict=Verdict.NOT_RUN, sentence="The checkpoint could not be loaded."
    )
    return _run(Verdict.ERROR, sentence, integrity, carlini, checkpoint="./unet.bin")


def every_verdict() -> list[RunResult]:
    not_run = not_run_report("builtin:leaky", "Every memscan check was deselected.")
    return [failed(), passed(), inconclusive(), broken(), not_run]


def picture(seed: int, *, size: int = 16) -> NDArray[np.uint8]:
    """Coloured patches with sharp edges, ``(size, size, 3)``."""
    rng = np.random.default_rng(seed)
    image = np.empty((size, size, 3), dtype=np.uint8)
    image[:] = rng.integers(0, 256, size=3)
    for _ in range(6):
        top, left = rng.integers(0, size * 3 // 4, size=2)
        side = int(rng.integers(size // 5, size // 2))
        image[top : top + side, left : left + side] = rng.integers(0, 256, size=3)
    return image


def pairs(result: RunResult, *, size: int = 16) -> list[Pair]:
    """A picture and its slightly noisy copy for every scans.finding."""
    found = [each for check in result.checks if check.scan for each in check.scan.findings]
    made = []
    for each in found:
        train = picture(each.train_id, size=size)
        noise = np.random.default_rng(each.sample_id).integers(-8, 9, size=train.shape)
        generated = np.clip(train.astype(int) + noise, 0, 255).astype(np.uint8)
        made.append(Pair(finding=each, generated=generated, train=train))
    return made
