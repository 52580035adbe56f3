"""A report with everything in it: five hundred findings, waivers, a baseline, gaps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from unit.reports import samples, scans

from pytest_memscan.reports.html import Pair
from pytest_memscan.results import (
    CheckOutcome,
    Finding,
    MetricChange,
    Regression,
    RunResult,
    Verdict,
    Waiver,
)

NUM_FINDINGS = 500
FINGERPRINT = "1f2e3d4c5b6a79880123456789abcdef0123456789abcdef0123456789abcdef"
WAIVED = "train#00000@1f2e3d4c"
WAIVERS = (
    Waiver(
        id=WAIVED,
        reason="Public domain, cleared by legal on 2026-10-02",
        expires="2027-04-01",
        state="used",
        source="memscan.toml",
    ),
    Waiver(
        id="train#00007@1f2e3d4c",
        reason="Under review",
        expires="2026-09-30",
        state="expired",
        source="memscan.toml",
    ),
)
REGRESSION = Regression(
    baseline="acme/faces@1f03c2d",
    source="baseline.json",
    significance=0.05,
    changes=(
        MetricChange(
            metric="extracted",
            check="carlini",
            before=scans.count(112),
            now=scans.count(500),
            test="exact McNemar test of the findings of both runs",
            p_value=1e-9,
            increased=True,
            num_new=391,
            num_gone=3,
        ),
        MetricChange(
            metric="leak_rate",
            check="carlini",
            before=scans.rate(250, lower=0.741, upper=0.82),
            now=scans.rate(256, lower=0.76, upper=0.836),
            test="Fisher's exact test",
            p_value=0.21,
            increased=False,
        ),
    ),
)
INCOMPARABLE = Regression(
    baseline="acme/faces@1f03c2d",
    source="baseline.json",
    significance=0.05,
    differing={"carlini: seed": ("0", "1")},
)


def finding(index: int) -> Finding:
    return replace(
        scans.finding(index % 143),
        train_id=index,
        sample_id=index,
        score=0.2 + 0.0014 * index,
        confirmed=index < NUM_FINDINGS - 20,
        regenerated_score=None,
        num_copies=1 + index % 7,
    )


def rich() -> RunResult:
    """A failed run of an unconditional checkpoint."""
    failed = samples.failed()
    integrity, carlini, status = failed.checks
    assert carlini.scan is not None
    scan = replace(
        carlini.scan,
        findings=tuple(finding(index) for index in range(NUM_FINDINGS)),
        num_findings_total=NUM_FINDINGS + 20,
        provenance={**scans.PROVENANCE, "training images": FINGERPRINT},
        coverage=replace(
            scans.COVERAGE,
            valid=317,
            invalid={"black": 3},
            train_found=154,
            train_unusable={"not an image": ("private-name.png", "b.png", "c.png", "d.png")},
        ),
    )
    limit, rate = carlini.thresholds
    regression = CheckOutcome(
        name="regression",
        verdict=Verdict.FAIL,
        sentence="extracted increased from 112 to 500.",
        regression=REGRESSION,
    )
    extended = CheckOutcome(
        name="extended_side",
        verdict=Verdict.NOT_APPLICABLE,
        sentence="An unconditional checkpoint has no keys.",
    )
    carlini = replace(carlini, scan=scan, thresholds=(replace(limit, waived=(WAIVED,)), rate))
    return replace(
        failed,
        checkpoint="acme/faces@9b1f6c0",
        checks=(integrity, carlini, extended, regression, status),
        waivers=WAIVERS,
        not_scanned={"finextract": "It needs a base; give one with --memscan-base."},
        timings={"carlini": 74.2, "integrity": 0.03},
    )


def blob(seed: int, *, size: int = 48) -> NDArray[np.uint8]:
    """Soft spots of colour, ``(size, size, 3)``: nobody's image."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] / size
    image = np.ones((size, size, 3)) * rng.uniform(40, 200, size=3)
    for _ in range(4):
        across, down, spread = rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.3)
        weight = np.exp(-((x - across) ** 2 + (y - down) ** 2) / (2 * spread**2))[..., None]
        image = image * (1 - weight) + weight * rng.uniform(0, 255, size=3)
    return np.clip(image, 0, 255).astype(np.uint8)


def pairs(result: RunResult, *, size: int = 48) -> list[Pair]:
    """A blob and its noisy copy for each finding."""
    made = []
    for check in result.checks:
        for each in check.scan.findings if check.scan is not None else ():
            train = blob(each.train_id, size=size)
            noise = np.random.default_rng(each.sample_id).integers(-8, 9, size=train.shape)
            generated = np.clip(train.astype(int) + noise, 0, 255).astype(np.uint8)
            made.append(Pair(finding=each, generated=generated, train=train))
    return made
