"""Runs to compare with each other: plain sampling with as many copies as a test wants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace

from unit.reports import scans

from pytest_memscan.regression import compare
from pytest_memscan.results import (
    CheckOutcome,
    Estimate,
    Integrity,
    Regression,
    RunResult,
    ScanResult,
    Verdict,
)
from pytest_memscan.statistics import proportion

PROVENANCE = {
    "batch size": "32",
    "checkpoint": "acme/faces",
    "checkpoint commit": "77ab013",
    "device": "cpu",
    "diffusers": "0.42.1",
    "dtype": "float32",
    "eta": "0.0",
    "held-out images": "none",
    "image size": "16x16, RGB",
    "pipeline": "DDIMPipeline",
    "pytest-memscan": "0.1.0",
    "scheduler": "DDIMScheduler",
    "seed": "0",
    "similarity": "neighbour-normalised L2, n=50, alpha=0.5, 8-bit pixels",
    "steps": "50",
    "torch": "2.13.0+cpu",
    "training images": "98c8ef97df9cac5cc9b87d95f232f5d7c2afcea4a8e514d5ca660f73e7174bfb",
}
LINES = ("extracted", "leak_rate")


def scan(
    copies: Mapping[int, int] | Collection[int] = (),
    *,
    planned: int = 320,
    valid: int | None = None,
    **provenance: str,
) -> ScanResult:
    """Plain sampling.

    Args:
        copies: Generated image -> training image that it copies; or generated images, each of
            which copies the training image of its own number.
        planned: Generated images.
        valid: Of them; None for all.
        provenance: What is not as usual; blanks are underscores.
    """
    pairs = dict(copies) if isinstance(copies, Mapping) else {each: each for each in copies}
    valid = planned if valid is None else valid
    counts = Counter(pairs.values())
    firsts = {train_id: sample_id for sample_id, train_id in sorted(pairs.items(), reverse=True)}
    findings = tuple(
        replace(
            scans.finding(0), sample_id=sample_id, train_id=train_id, num_copies=counts[train_id]
        )
        for train_id, sample_id in sorted(firsts.items())
    )
    given = {name.replace("_", " "): value for name, value in provenance.items()}
    return replace(
        scans.clean_scan(),
        metrics={
            "extracted": scans.count(len(counts)),
            "leak_rate": proportion(len(pairs), valid),
        },
        findings=findings,
        num_findings_total=len(findings),
        num_confirmed_images=len(pairs),
        confirmed_samples=tuple(sorted(pairs)),
        coverage=replace(scans.COVERAGE, planned=planned, generated=planned, valid=valid),
        provenance=PROVENANCE | given,
    )


def carlini(
    copies: Mapping[int, int] | Collection[int] = (),
    *,
    planned: int = 320,
    valid: int | None = None,
    **provenance: str,
) -> CheckOutcome:
    made = scan(copies, planned=planned, valid=valid, **provenance)
    return CheckOutcome(name="carlini", verdict=Verdict.PASS, sentence="fine", scan=made)


def integrity() -> CheckOutcome:
    return CheckOutcome(
        name="integrity",
        verdict=Verdict.PASS,
        sentence="complete",
        integrity=Integrity(
            pipeline="DDIMPipeline", files={"a": "b"}, num_tensors=1, num_parameters=1
        ),
    )


def status() -> CheckOutcome:
    return CheckOutcome(name="status", verdict=Verdict.PASS, sentence="every check ran")


def run(*checks: CheckOutcome, verdict: Verdict = Verdict.PASS, **policy: str) -> RunResult:
    """A run of these checks, and the two that every run has."""
    return RunResult(
        verdict=verdict,
        sentence="no copy found",
        checkpoint="acme/faces@77ab013",
        checks=(integrity(), *checks, status()),
        policy={name: (value, "default") for name, value in policy.items()},
        versions={"torch": "2.13.0"},
        timings={"carlini": 12.5},
    )


def rate(value: float, lower: float, upper: float, *, trials: int = 2000) -> Estimate:
    return Estimate(value=value, lower=lower, upper=upper, num_trials=trials)


def compared(
    before: CheckOutcome,
    now: CheckOutcome,
    metrics: tuple[str, ...] = LINES,
    waived: Collection[str] = (),
) -> Regression:
    """Two runs of one check each."""
    return compare(run(before), [now], metrics, source="baseline.json", waived=waived)


def without_ids(check: CheckOutcome) -> CheckOutcome:
    """As a report of too many copies to list has it."""
    assert check.scan is not None
    return replace(check, scan=replace(check.scan, confirmed_samples=()))
