"""Scans by SIDE: one where it added something, one of a checkpoint that copies nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from unit.reports import prompt_samples, samples, scans
from unit.reports.side_labels import (
    CLUSTERS,
    NUM_IMAGES,
    NUM_SAMPLES,
    TRAIN_LABELS,
    rate,
    training,
)

from pytest_memscan.reports.side_pictures import GuidedPicture
from pytest_memscan.results import (
    RATIO,
    CheckOutcome,
    CurvePoint,
    Estimate,
    Finding,
    Gain,
    GuidedFinding,
    GuidedImages,
    LevelScore,
    RunResult,
    SideScan,
    SideVariant,
    Verdict,
)

SCALES = (1.0, 3.0, 5.0, 6.0, 7.0, 8.0, 9.0, 12.0)
RISE = {1.0: 1.2, 3.0: 2.1, 5.0: 3.2, 6.0: 3.9, 7.0: 4.2, 8.0: 3.7, 9.0: 2.8, 12.0: 0.6}
PLAIN_HITS = {"low": (63, 45), "mid": (23, 18), "high": (13, 11)}
CUTS = {"low": (1.5, 1.4), "mid": (1.4, 1.35), "high": (1.35, None)}


def ratio(value: float, lower: float, upper: float) -> Estimate:
    return Estimate(
        value=value, lower=lower, upper=upper, confidence=1 - 0.05 / 8, num_trials=NUM_IMAGES
    )


def level(name: str, ams: int, ums: int) -> LevelScore:
    cut, end = CUTS[name]
    assert cut is not None
    return LevelScore(
        name=name,
        cut=cut,
        band_end=end,
        ams=rate(ams),
        ums=rate(ums),
        ams_band=0.4 * ams / NUM_IMAGES,
        ums_band=0.4 * ums / NUM_IMAGES,
        num_matched=ams,
        expected_by_chance=8 * (cut - 1.3),
    )


def curve(ums: int) -> tuple[CurvePoint, ...]:
    points = []
    for number in (*range(0, NUM_IMAGES + 1, 256), 2 * NUM_IMAGES, 5 * NUM_IMAGES, 10 * NUM_IMAGES):
        expected = 2.2 * ums * (1 - math.exp(-number / 4_200))
        points.append(
            CurvePoint(
                num_generated=number,
                expected=expected,
                lower=0.7 * expected if number else None,
                upper=1.3 * expected if number else None,
                extrapolated=number > NUM_IMAGES,
            )
        )
    return tuple(points)


def images(scale: float, ams: float, ums: float, *, num_copied: int, num_new: int) -> GuidedImages:
    """What so many times the matches of plain sampling look like."""
    levels = tuple(
        level(name, round(ams * hits), round(ums * distinct))
        for name, (hits, distinct) in PLAIN_HITS.items()
    )
    return GuidedImages(
        scale=scale,
        num_images=NUM_IMAGES,
        levels=levels,
        num_copies=2 * num_copied,
        leak_rate=rate(2 * num_copied),
        num_copied=num_copied,
        num_new=num_new,
        top={"0.001": 0.41 / max(ams, 0.5), "0.01": 1.21, "0.05": 1.38},
        curve=curve(round(ums * PLAIN_HITS["mid"][1])),
    )


def plain() -> GuidedImages:
    return images(0.0, 1.0, 1.0, num_copied=9, num_new=0)


def settings(strength: float, scales: Sequence[float] = SCALES) -> tuple[GuidedImages, ...]:
    """AMS rises with lambda, then falls; UMS less so."""
    made = []
    for scale in scales:
        ams = 1 + (RISE[scale] - 1) * strength
        ums = 1 + (math.sqrt(RISE[scale]) - 1) * strength
        made.append(
            images(scale, ams, ums, num_copied=round(9 * ums), num_new=round(7 * max(0, ums - 1)))
        )
    return tuple(made)


def side_c() -> SideVariant:
    made = settings(1.0)
    return SideVariant(
        name="side_c",
        title="SIDE-C: clusters of its own images",
        labels=CLUSTERS,
        training=training(),
        settings=made,
        mean_ams={"low": 0.082, "mid": 0.0319, "high": 0.018},
        mean_ums={"low": 0.031, "mid": 0.0131, "high": 0.008},
        best_scale=7.0,
        gain=Gain(ams=ratio(4.2, 2.1, 9.3), ums=ratio(2.05, 1.12, 4.1)),
    )


def side_o() -> SideVariant:
    return replace(
        side_c(),
        name="side_o",
        title="SIDE-O: labels of the training images",
        labels=TRAIN_LABELS,
        training=training(best=0.95),
        settings=settings(0.4),
        gain=Gain(ams=ratio(2.28, 1.04, 4.9), ums=ratio(1.42, 0.71, 2.9)),
    )


def ol_ti() -> SideVariant:
    return replace(
        side_c(),
        name="ol_ti",
        title="OL-TI: labels of the training images, classifier that is not told the timestep",
        labels=TRAIN_LABELS,
        training=replace(training(is_timed=False), accuracies=training().accuracies[:1]),
        settings=settings(-0.05),
        best_scale=12.0,
        gain=Gain(ams=ratio(1.02, 0.44, 2.2), ums=ratio(1.01, 0.47, 2.1)),
        is_control=True,
    )


def finding(index: int) -> GuidedFinding:
    score = 0.22 + 0.06 * index
    variant, scale = (("side_c", 7.0), ("plain", 0.0), ("side_o", 6.0))[index % 3]
    return GuidedFinding(
        finding=Finding(
            sample_id=12 + 31 * index,
            train_id=7 + 9 * index,
            score=score,
            distance=0.02 + 0.004 * index,
            level="high" if score <= 1.35 else "low",
            confirmed=index < 12,
            regenerated_score=0.92 if index == 10 else None,
        ),
        variant=variant,
        scale=scale,
    )


def leaky_scan() -> SideScan:
    return SideScan(
        name="side",
        title="SIDE: surrogate conditions, neighbour-normalised L2",
        measure=RATIO,
        metrics={
            "side_extracted": Estimate(value=12, lower=11, upper=12),
            "side_ams_mid": replace(rate(97), lower=0.024, upper=0.053),
            "side_ums_mid": replace(rate(37), lower=0.009, upper=0.024),
            "side_leak_rate": rate(36),
        },
        plain=plain(),
        variants=(side_o(), side_c(), ol_ti()),
        left_out={"side_a": "No auxiliary set was given: --memscan-side-auxiliary names one."},
        findings=tuple(finding(index) for index in range(14)),
        num_findings_total=31,
        num_samples=NUM_SAMPLES,
        num_samples_copied=6,
        calibration=scans.CALIBRATION,
        controls=scans.CONTROLS,
        coverage=replace(
            scans.COVERAGE,
            planned=25 * NUM_IMAGES + NUM_SAMPLES,
            generated=25 * NUM_IMAGES + NUM_SAMPLES,
            valid=25 * NUM_IMAGES + NUM_SAMPLES,
        ),
        denoiser_calls=3_302_400,
        classifier_calls=3_072_000,
        provenance={**scans.PROVENANCE, "checkpoint": "acme/faces@77ab013", "steps": "50"},
    )


def clean_scan() -> SideScan:
    """Nothing at any level, guided or not."""
    nothing = replace(
        plain(),
        levels=tuple(level(name, 0, 0) for name in CUTS),
        num_copies=0,
        leak_rate=rate(0),
        num_copied=0,
        top={},
        curve=(),
    )
    variant = replace(
        side_c(),
        settings=tuple(replace(nothing, scale=scale) for scale in (5.0, 7.0)),
        mean_ams={"low": 0.0, "mid": 0.0, "high": 0.0},
        mean_ums={"low": 0.0, "mid": 0.0, "high": 0.0},
        best_scale=5.0,
        gain=Gain(ams=ratio(1.0, 0.02, 41.0), ums=ratio(1.0, 0.0, math.inf)),
    )
    return replace(
        leaky_scan(),
        metrics={"side_extracted": Estimate(value=0, lower=0, upper=0), "side_ams_mid": rate(0)},
        plain=nothing,
        variants=(variant,),
        left_out={},
        findings=(),
        num_findings_total=0,
        num_samples_copied=0,
    )


def first_scan() -> SideScan:
    """Plain sampling brought out nothing, and guidance at a single lambda something."""
    found, clean = leaky_scan(), clean_scan()
    variant = replace(
        side_c(),
        settings=tuple(replace(each, num_new=each.num_copied) for each in settings(1.0, (7.0,))),
        gain=Gain(ams=ratio(math.inf, 13.1, math.inf), ums=ratio(math.inf, 0.0, math.inf)),
    )
    return replace(found, plain=clean.plain, variants=(variant,), num_samples_copied=0)


def run(scan: SideScan, verdict: Verdict, sentence: str) -> RunResult:
    limit = prompt_samples.threshold("side_extracted", "0", scan.metrics["side_extracted"], verdict)
    check = CheckOutcome(
        name="side", verdict=verdict, sentence=sentence, thresholds=(limit,), side=scan
    )
    return replace(
        samples.failed(),
        verdict=verdict,
        sentence=sentence,
        checkpoint="acme/faces@77ab013",
        checks=(check,),
    )


def leaky() -> RunResult:
    return run(leaky_scan(), Verdict.FAIL, "12 training images are confirmed as copied.")


def clean() -> RunResult:
    return run(clean_scan(), Verdict.PASS, "No training image was extracted.")


def first() -> RunResult:
    return run(first_scan(), Verdict.FAIL, "Guidance alone extracted training images.")


def every_kind() -> list[RunResult]:
    return [leaky(), clean(), first()]


def scan_of(result: RunResult) -> SideScan:
    (scan,) = [check.side for check in result.checks if check.side is not None]
    return scan


def pictures(result: RunResult, *, size: int = 16) -> list[GuidedPicture]:
    """A picture and its slightly noisy copy for every match."""
    made = []
    for each in scan_of(result).findings:
        train = samples.picture(each.finding.train_id, size=size)
        generated = prompt_samples.noisy(train, each.finding.sample_id)
        made.append(GuidedPicture(found=each, generated=generated, train=train))
    return made
