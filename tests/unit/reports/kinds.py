"""One result of each kind, ended in any way, and one that is full of hostile text."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

from unit.reports import (
    finetune_samples,
    prompt_samples,
    samples,
    scans,
    side_scans,
    splitting_scans,
)

from pytest_memscan.reports.json import not_run_report
from pytest_memscan.results import (
    CheckOutcome,
    Estimate,
    MetricChange,
    Regression,
    RunResult,
    Verdict,
    Waiver,
)

VERDICTS = (Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.ERROR, Verdict.NOT_RUN)
FINGERPRINT = "6d0a4f2b1c9e8d7f"


def each_kind() -> dict[str, RunResult]:
    return {
        "carlini": samples.failed(),
        "prompts": prompt_samples.leaky(),
        "repeats": prompt_samples.repeating(),
        "finetune": finetune_samples.leaky(),
        "set": finetune_samples.several(),
        "side": side_scans.leaky(),
        "splitting": splitting_scans.leaky(),
        "prompted": splitting_scans.prompted_kinds()[0],
    }


def every_sample() -> list[RunResult]:
    return [
        *samples.every_verdict(),
        *prompt_samples.every_kind(),
        *finetune_samples.every_kind(),
        *side_scans.every_kind(),
        *splitting_scans.every_kind(),
        *splitting_scans.prompted_kinds(),
        whole(),
    ]


def ended(result: RunResult, verdict: Verdict) -> RunResult:
    """The same run with another end: what was red before ends like the run, the rest passes."""
    sentence = f"It ended as {verdict.value}."
    if verdict is Verdict.NOT_RUN:
        return not_run_report(result.checkpoint, sentence)
    checks = tuple(
        check
        if check.verdict is Verdict.PASS
        else replace(
            check,
            verdict=verdict,
            sentence=sentence,
            thresholds=tuple(replace(each, verdict=verdict) for each in check.thresholds),
        )
        for check in result.checks
    )
    return replace(result, verdict=verdict, sentence=sentence, checks=checks)


def regression(*, comparable: bool = True) -> CheckOutcome:
    change = MetricChange(
        metric="extracted",
        check="carlini",
        before=scans.count(3),
        now=scans.count(132),
        test="exact McNemar test of the same seeds",
        p_value=3e-9,
        increased=True,
        num_new=130,
        num_gone=1,
    )
    found = Regression(
        baseline="builtin:clean",
        source="baseline.json",
        significance=0.05,
        changes=(change,) if comparable else (),
        differing={} if comparable else {"seed": ("0", "1"), "steps": ("50", "25")},
    )
    verdict = Verdict.FAIL if comparable else Verdict.ERROR
    return CheckOutcome(
        name="regression", verdict=verdict, sentence="extracted has increased.", regression=found
    )


def whole(*, comparable: bool = True) -> RunResult:
    """A failed run that has everything a result can have."""
    result = samples.failed()
    integrity, carlini, status = result.checks
    assert carlini.scan is not None
    scan = replace(
        carlini.scan,
        provenance=carlini.scan.provenance
        | {"training images": FINGERPRINT, "checkpoint commit": "3f9c2a1"},
    )
    leaked = f"train#00042@{FINGERPRINT[:8]}"
    first = replace(carlini.thresholds[0], waived=(leaked,))
    carlini = replace(carlini, scan=scan, thresholds=(first, *carlini.thresholds[1:]))
    waivers = (
        Waiver(
            id=leaked,
            reason="A logo that is public.",
            expires="2030-01-31",
            state="used",
            source="memscan.toml",
        ),
        Waiver(
            id="train#00001@00000000",
            reason="Gone.",
            expires="2020-01-31",
            state="expired",
            source="memscan.toml",
        ),
    )
    return replace(
        result,
        checks=(integrity, carlini, regression(comparable=comparable), status),
        waivers=waivers,
        not_scanned={"side": "--memscan-scans does not name it"},
        policy=result.policy | {"report": ("json:.memscan/report.json", "default")},
    )


def large(num_findings: int = 500) -> RunResult:
    """A scan that found far too much."""
    result = whole()
    integrity, carlini, *others = result.checks
    assert carlini.scan is not None
    findings = tuple(
        replace(scans.finding(index % 130), sample_id=index, train_id=index)
        for index in range(num_findings)
    )
    metrics = carlini.scan.metrics | {"extracted": scans.count(num_findings)}
    scan = replace(
        carlini.scan, findings=findings, num_findings_total=num_findings, metrics=metrics
    )
    return replace(result, checks=(integrity, replace(carlini, scan=scan), *others))


KEPT = {"provenance", "metrics", "policy", "versions", "null_quantiles", "top"}  # their keys


def poisoned(value: Any, text: str, *, name: str = "") -> Any:
    """``value`` with ``text`` in the place of every string that could come from a file."""
    if isinstance(value, Verdict) or value is None:
        return value
    if isinstance(value, str):
        return text
    if is_dataclass(value) and not isinstance(value, type):
        changes = {
            field.name: poisoned(getattr(value, field.name), text, name=field.name)
            for field in fields(value)
        }
        return replace(value, **changes)
    if isinstance(value, tuple):
        return tuple(poisoned(each, text) for each in value)
    if isinstance(value, dict):
        return {
            key if name in KEPT else f"{text}{number}": poisoned(each, text)
            for number, (key, each) in enumerate(value.items())
        }
    return value


def estimate(value: float) -> Estimate:
    return Estimate(value=value, lower=value / 2, upper=value * 2, num_trials=100)
