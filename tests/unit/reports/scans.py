"""A scan of a checkpoint that leaks and one of a checkpoint that does not."""

from __future__ import annotations

from dataclasses import replace

from pytest_memscan.results import (
    RATIO,
    Calibration,
    Control,
    Coverage,
    CurvePoint,
    Estimate,
    Finding,
    LevelScore,
    ScanResult,
)

NUM_GENERATED = 320
NUM_TRAIN = 150


def rate(hits: int, *, lower: float, upper: float) -> Estimate:
    return Estimate(value=hits / NUM_GENERATED, lower=lower, upper=upper, num_trials=NUM_GENERATED)


def count(value: int) -> Estimate:
    return Estimate(value=value, lower=value, upper=value)


CALIBRATION = Calibration(
    source="leave-one-out",
    num_null=150,
    null_closest=1.274,
    null_quantiles={"0.01": 1.3, "0.05": 1.41, "0.5": 1.72},
    tail_size=15,
    tail_exponent=24.1,
    tail_exponent_lower=16.2,
    false_match_probability=0.00013,
    confirmed_cut=0.93,
    expected_false_matches=0.0427,
    rule="A ratio of at most 0.93 is confirmed: at most one image in 7,500 of a model that "
    "copies nothing would come that close.",
)
CONTROLS = (
    Control(
        name="re-encoded",
        sentence="Training images saved as JPEG at quality 60 and cropped by one pixel.",
        num_images=20,
        num_found=20,
        minimum_found=19,
        maximum_found=20,
    ),
    Control(
        name="noise",
        sentence="Images of random noise, which copy nothing.",
        num_images=20,
        num_found=0,
        minimum_found=0,
        maximum_found=0,
    ),
)
COVERAGE = Coverage(
    planned=NUM_GENERATED,
    generated=NUM_GENERATED,
    valid=NUM_GENERATED,
    train_found=NUM_TRAIN,
    train_used=NUM_TRAIN,
    train_groups=NUM_TRAIN,
)
PROVENANCE = {
    "batch_size": "32",
    "checkpoint_sha256": "9b1f6c0e54d2a7738c1b9e0f5d4a6b2c7e8f90123456789abcdef0123456789a",
    "device": "cpu",
    "dtype": "float32",
    "scheduler": "DDIMScheduler, 50 steps",
    "seed": "0",
    "train_fingerprint": "6d0a4f2b1c9e8d7f",
}


def finding(index: int) -> Finding:
    """The ``index``-th closest of 143 findings; the last ones are not confirmed."""
    score = 0.21 + 0.0055 * index
    return Finding(
        sample_id=(17 + 97 * index) % NUM_GENERATED,
        train_id=(42 + 59 * index) % NUM_TRAIN,
        score=score,
        distance=0.031 + 0.0006 * index,
        level="high",
        confirmed=score <= CALIBRATION.confirmed_cut,
        regenerated_score=0.93 if index == 131 else None,
    )


def levels(*hits: tuple[int, int], null: float = 1.0) -> tuple[LevelScore, ...]:
    """Low, mid and high, from the images and the distinct training images at each."""
    cuts = {"low": (1.5, 1.4), "mid": (1.4, 1.35), "high": (1.35, 0.0)}
    closer = [*hits[1:], (0, 0)]
    scores = []
    for (name, (cut, lower)), (ams, ums), (ams_next, ums_next) in zip(
        cuts.items(), hits, closer, strict=True
    ):
        score = LevelScore(
            name=name,
            cut=cut,
            band_end=lower or None,
            ams=rate(ams, lower=max(0, ams - 15) / 320, upper=(ams + 16) / 320),
            ums=rate(ums, lower=max(0, ums - 12) / 320, upper=(ums + 13) / 320),
            ams_band=(ams - ams_next) / 320,
            ums_band=(ums - ums_next) / 320,
            num_matched=ams,
            expected_by_chance=null * (cut - 1.3) * 30,
        )
        scores.append(score)
    return tuple(scores)


def curve() -> tuple[CurvePoint, ...]:
    points = []
    for number in range(0, 960 + 1, 40):
        expected = NUM_TRAIN * (1 - 0.9905**number)
        spread = 3 + number / 60 if number > NUM_GENERATED else 3
        point = CurvePoint(
            num_generated=number,
            expected=expected,
            lower=max(0.0, expected - spread) if number else None,
            upper=expected + spread if number else None,
            extrapolated=number > NUM_GENERATED,
        )
        points.append(point)
    return tuple(points)


COPIES = (0, 0, 0, 0, 3, 9, 21, 34, 43, 40, 33, 24, 17, 12, 8, 5, 4, 2, 1, 0)
LEAKY_HISTOGRAM = tuple(
    (round(0.05 * index, 2), images)
    for index, images in enumerate([*COPIES, 0, 0, 0, 0, 1, 0, 2, 4, 6, 9, 12, 10, 8, 7, 3, 2])
)
CLEAN_HISTOGRAM = tuple(
    (round(1.25 + 0.05 * index, 2), images)
    for index, images in enumerate([1, 3, 6, 15, 29, 44, 61, 66, 48, 29, 13, 5])
)


def leaky_scan() -> ScanResult:
    return ScanResult(
        name="carlini",
        title="Unconditional extraction (Carlini et al., 2023)",
        measure=RATIO,
        levels=levels((272, 149), (261, 146), (257, 143)),
        metrics={
            "extracted": count(132),
            "leak_rate": rate(256, lower=0.76, upper=0.836),
        },
        findings=tuple(finding(index) for index in range(143)),
        num_findings_total=149,
        calibration=CALIBRATION,
        controls=CONTROLS,
        coverage=COVERAGE,
        num_confirmed_images=256,
        excluded_rate=0.0093,
        unseen_hit_rate=0.0406,
        curve=curve(),
        histogram=LEAKY_HISTOGRAM,
        denoiser_calls=16_000,
        provenance=PROVENANCE,
    )


def clean_scan() -> ScanResult:
    return replace(
        leaky_scan(),
        levels=levels((10, 9), (4, 4), (1, 1)),
        metrics={"extracted": count(0), "leak_rate": rate(0, lower=0.0, upper=0.0093)},
        findings=tuple(
            replace(finding(i), score=1.34 + 0.018 * i, level="low", confirmed=False)
            for i in range(9)
        ),
        num_findings_total=9,
        curve=(),
        unseen_hit_rate=0.0,
        histogram=CLEAN_HISTOGRAM,
    )
