"""What a scan by splitting measured, with whatever a test needs to differ."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from unit.reports import scans

from pytest_memscan.results import (
    RATIO,
    Control,
    Estimate,
    Finding,
    PromptCoverage,
    PromptLeak,
    SplittingScan,
    SteeredCopy,
)
from pytest_memscan.statistics import proportion

MEMORISER = Control(
    name="memoriser",
    sentence="the same steering on a model that knows nothing else found and priced copies",
    num_images=8,
    num_found=8,
    minimum_found=8,
    maximum_found=8,
)


def count(value: float, lower: float, upper: float) -> Estimate:
    return Estimate(value=value, lower=lower, upper=upper)


def rate(value: float, lower: float, upper: float) -> Estimate:
    return Estimate(value=value, lower=lower, upper=upper, num_trials=320)


def copied(train_id: int, price: Estimate, *, in_reach: bool = True) -> SteeredCopy:
    """A training image that steering found."""
    finding = Finding(
        sample_id=7, train_id=train_id, score=0.4, distance=0.05, level="high", confirmed=True
    )
    return SteeredCopy(finding=finding, rate=price, num_copies=5, num_islands=3, in_reach=in_reach)


def splitting_scan(
    *,
    extractable: Estimate | None = None,
    leak_rate: Estimate | None = None,
    copies: tuple[SteeredCopy, ...] = (),
    **changes: Any,
) -> SplittingScan:
    """A scan that found nothing, all of whose training images were screened."""
    steered = leak_rate or rate(0.0, 0.0, 0.0)
    scan = SplittingScan(
        name="splitting",
        title="Rare copies, by steering",
        measure=RATIO,
        sampler="DDIMScheduler, eta 1, 50 steps",
        reach=1_000_000,
        metrics={"extractable_images": extractable or count(0, 0, 0), "steered_leak_rate": steered},
        copies=copies,
        num_copies_total=len(copies),
        leak_rate=steered,
        plain_rate=proportion(0, 64),
        num_plain=64,
        num_plain_copies=0,
        num_islands=4,
        num_steered=256,
        num_targets=2000,
        num_screened=2000,
        num_tried=180,
        growth=(),
        rates=(),
        least_effective=0.4,
        fewest_ancestors=30,
        degenerate="",
        calibration=scans.CALIBRATION,
        controls=(*scans.CONTROLS, MEMORISER),
        coverage=scans.COVERAGE,
        denoiser_calls=16_000,
        provenance=scans.PROVENANCE,
    )
    return replace(scan, **changes)


def prompted_scan(
    num_scanned: int,
    prompts: PromptCoverage,
    *,
    extractable: Estimate | None = None,
    **changes: Any,
) -> SplittingScan:
    """The same of a text-to-image checkpoint, so many of whose prompts were scanned."""
    leaks = tuple(
        PromptLeak(
            prompt_id=prompt_id,
            place=f"line {prompt_id + 1}",
            leak_rate=rate(0.0, 0.0, 1.0),
            plain_rate=proportion(0, 64 // num_scanned),
            num_copies=0,
            num_copied=0,
        )
        for prompt_id in range(num_scanned)
    )
    return splitting_scan(
        extractable=extractable, prompts=leaks, prompt_coverage=prompts, **changes
    )
