"""Scans that steered: one that found rare copies, one that found none, one without rates."""

from __future__ import annotations

import math
from dataclasses import replace

from unit.reports import prompt_samples, samples, scans

from pytest_memscan.reports.splitting_pictures import SteeredPicture
from pytest_memscan.results import (
    RATIO,
    CheckOutcome,
    Control,
    CurvePoint,
    Estimate,
    Finding,
    PromptCoverage,
    PromptLeak,
    RateAt,
    RunResult,
    SplittingScan,
    SteeredCopy,
    Verdict,
)

NUM_PLAIN = 512
NUM_STEERED = 1_536
RATES = (2.9e-5, 9e-6, 4.1e-6, 1.1e-6, 6e-7, 2.4e-7, 8e-8, 3e-8, 1e-8, 4e-9, 1.3e-9, 6e-10, 2e-14)
NUM_IN_REACH = 4
CONTROLS = (
    *scans.CONTROLS,
    Control(
        name="memoriser",
        sentence="The same steering on a denoiser that copies by construction.",
        num_images=16,
        num_found=16,
        minimum_found=14,
        maximum_found=16,
    ),
)


def rate(value: float, lower: float, upper: float, *, trials: int = NUM_STEERED) -> Estimate:
    return Estimate(value=value, lower=lower, upper=upper, num_trials=trials)


def plain(hits: int) -> Estimate:
    upper = 1 - 0.05 ** (1 / NUM_PLAIN) if not hits else 3.5 * hits / NUM_PLAIN
    return rate(hits / NUM_PLAIN, 0.1 * hits / NUM_PLAIN, upper, trials=NUM_PLAIN)


def copy(index: int) -> SteeredCopy:
    price = RATES[index]
    score = 0.12 + 0.05 * index
    return SteeredCopy(
        finding=Finding(
            sample_id=545 + 61 * index,
            train_id=12 + 7 * index,
            score=score,
            distance=0.02 + 0.004 * index,
            level="high",
            confirmed=True,
            regenerated_score=0.43 if index == 6 else None,
        ),
        rate=rate(price, price / 12 if index < 11 else 0.0, price * 3.1),
        num_copies=12 if index == 0 else 1 + 5 * (index % 4),
        num_islands=5 if index == 0 else 1,
        in_reach=index < NUM_IN_REACH,
    )


def growth() -> tuple[CurvePoint, ...]:
    points = []
    for power in range(19):
        number = round(10 ** (power / 2))
        expected = sum(-math.expm1(number * math.log1p(-each)) for each in RATES)
        points.append(
            CurvePoint(
                num_generated=number,
                expected=expected,
                lower=0.2 * expected,
                upper=min(2.4 * expected, 60.0),
                extrapolated=number > NUM_PLAIN,
            )
        )
    return tuple(points)


def rates() -> tuple[RateAt, ...]:
    """Loosest first; the plain estimate runs out of images long before the other."""
    made = []
    for step in range(10):
        score = 1.3 - 0.1 * step
        steered = 0.2 * 10 ** (-0.75 * step)
        hits = round(steered * NUM_PLAIN)
        made.append(
            RateAt(
                score=round(score, 2),
                steered=rate(steered, steered / (1.3 + 0.3 * step), steered * (1.3 + 0.3 * step)),
                plain=plain(hits),
            )
        )
    return tuple(made)


def leaky_scan() -> SplittingScan:
    leak = rate(4.4e-5, 1.2e-5, 1.3e-4)
    return SplittingScan(
        name="splitting",
        title="Rare copies, by steering trajectories and weighing them back",
        measure=RATIO,
        sampler="DDIMScheduler, eta 1, 50 steps",
        reach=1_000_000,
        metrics={
            "extractable_images": Estimate(value=NUM_IN_REACH, lower=2, upper=17),
            "steered_leak_rate": leak,
        },
        copies=tuple(copy(index) for index in range(len(RATES))),
        num_copies_total=17,
        leak_rate=leak,
        plain_rate=plain(0),
        num_plain=NUM_PLAIN,
        num_plain_copies=0,
        num_islands=12,
        num_steered=NUM_STEERED,
        num_targets=150,
        num_screened=150,
        num_tried=143,
        growth=growth(),
        rates=rates(),
        least_effective=0.41,
        fewest_ancestors=37,
        degenerate="",
        calibration=scans.CALIBRATION,
        controls=CONTROLS,
        coverage=replace(scans.COVERAGE, planned=2_048, generated=2_048, valid=2_048),
        denoiser_calls=102_850,
        provenance={**scans.PROVENANCE, "checkpoint": "acme/rare@77ab013", "steps": "50"},
    )


def clean_scan() -> SplittingScan:
    nothing = rate(0.0, 0.0, 1.0)  # trajectories that find nothing bound nothing
    return replace(
        leaky_scan(),
        metrics={
            "extractable_images": Estimate(value=0, lower=0, upper=0),
            "steered_leak_rate": nothing,
        },
        copies=(),
        num_copies_total=0,
        leak_rate=nothing,
        growth=tuple(replace(each, expected=0.0, lower=0.0, upper=0.0) for each in growth()),
        rates=tuple(replace(each, steered=nothing, plain=plain(0)) for each in rates()),
    )


def degenerate_scan() -> SplittingScan:
    wild = rate(7.4, 0.0, 1.0)
    found = leaky_scan()
    return replace(
        found,
        metrics={**found.metrics, "steered_leak_rate": wild},
        leak_rate=wild,
        copies=found.copies[:2],
        num_copies_total=2,
        least_effective=0.002,
        fewest_ancestors=1,
        degenerate="All final images of an island go back to a single starting point.",
    )


PROMPT_RATES = (3.1e-4, 1.2e-4, 6e-5, 2e-5, 9e-6, 8e-7, 3e-8)  # the others gave nothing
PLACES = ("line 4", "captions.csv row 9", "alice.txt")  # the last is private


def leak(prompt_id: int) -> PromptLeak:
    """What one of twelve prompts gave; the worst are not the first."""
    rank = (5 * prompt_id) % 12
    value = PROMPT_RATES[rank] if rank < len(PROMPT_RATES) else 0.0
    found = rank < len(PROMPT_RATES)
    return PromptLeak(
        prompt_id=prompt_id,
        place=PLACES[prompt_id % 3],
        leak_rate=rate(value, value / 9, 4 * value if found else 1.0, trials=170),
        plain_rate=rate(0.0, 0.0, 0.069 - 0.001 * rank, trials=42),
        num_copies=3 * (7 - rank) if found else 0,
        num_copied=1 + (rank == 0) if found else 0,
    )


def prompted(scan: SplittingScan, **changes: object) -> SplittingScan:
    """The same of a text-to-image checkpoint, twelve of whose 100 prompts were scanned."""
    coverage = PromptCoverage(
        origin="captions.txt", is_probe=False, num_found=104, num_used=100, num_planned=12
    )
    found = [leak(prompt_id) for prompt_id in range(12)]
    if not scan.copies:
        found = [replace(each, leak_rate=rate(0, 0, 1), num_copies=0) for each in found]
    with_copies = [each.prompt_id for each in found if each.num_copies] or [0]
    copies = tuple(
        replace(each, prompt_id=with_copies[position % len(with_copies)])
        for position, each in enumerate(scan.copies)
    )
    return replace(
        scan,
        **{"copies": copies, "prompts": tuple(found), "prompt_coverage": coverage} | changes,  # type: ignore[arg-type]
    )


def run(scan: SplittingScan, verdict: Verdict, sentence: str) -> RunResult:
    limit = prompt_samples.threshold(
        "extractable_images", "0", scan.metrics["extractable_images"], verdict
    )
    check = CheckOutcome(
        name="splitting", verdict=verdict, sentence=sentence, thresholds=(limit,), splitting=scan
    )
    return replace(
        samples.failed(),
        verdict=verdict,
        sentence=sentence,
        checkpoint="acme/rare@77ab013",
        checks=(check,),
    )


def leaky() -> RunResult:
    return run(leaky_scan(), Verdict.FAIL, "4 training images come out within 1,000,000 images.")


def clean() -> RunResult:
    return run(clean_scan(), Verdict.PASS, "No training image was reached.")


def degenerate() -> RunResult:
    return run(degenerate_scan(), Verdict.INCONCLUSIVE, "The weights say nothing.")


def prompted_kinds() -> list[RunResult]:
    """Every kind of a text-to-image checkpoint."""
    return [
        replace(
            run(prompted(scan_of(each)), each.verdict, each.sentence), checkpoint=each.checkpoint
        )
        for each in every_kind()
    ]


def every_kind() -> list[RunResult]:
    return [leaky(), clean(), degenerate()]


def scan_of(result: RunResult) -> SplittingScan:
    (scan,) = [check.splitting for check in result.checks if check.splitting is not None]
    return scan


def pictures(result: RunResult, *, size: int = 16) -> list[SteeredPicture]:
    """A picture and its slightly noisy copy for every copy."""
    made = []
    for each in scan_of(result).copies:
        train = samples.picture(each.finding.train_id, size=size)
        steered = prompt_samples.noisy(train, each.finding.sample_id)
        made.append(SteeredPicture(finding=each.finding, steered=steered, train=train))
    return made
