"""Carlini et al. 2023, section 5: extraction from unconditional diffusion models.

    generate many images
    for each, the neighbour-normalised L2 to its nearest training image
    a training image is extracted when a generated one comes abnormally close to it

This is the "Random" baseline of SIDE (arXiv:2410.02467): plain sampling, no guidance. What is
ours: near-duplicate training images are merged first, a match is *confirmed* only against what
distinct real images reach, near-threshold matches are generated again alone in float32, and
planted controls prove on every run that the scan can see.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

from pytest_memscan.errors import TrainDataError
from pytest_memscan.metrics import LEVELS, level_scores
from pytest_memscan.rarefaction import expected_unique, good_turing_unseen
from pytest_memscan.results import Calibration, Coverage, Estimate, Finding, ScanResult
from pytest_memscan.sampler import Sampler
from pytest_memscan.scans.controls import run_controls
from pytest_memscan.similarity.calibration import FALSE_MATCHES, MIN_NULL, calibrate, fit_null
from pytest_memscan.similarity.pixels import ALPHA, NUM_NEIGHBOURS
from pytest_memscan.similarity.reference import TrainReference
from pytest_memscan.statistics import distinct_count, excluded_rate, proportion

NAME = "carlini"
TITLE = "Carlini et al. 2023: plain sampling, neighbour-normalised L2"
NEAR_THRESHOLD = {"float32": 0.05, "bfloat16": 0.2, "float16": 0.2}  # share of the cut
MAX_FINDINGS = 500
HISTOGRAM_STEP = 0.05
NEAR_DUPLICATE_RATIO = 0.5  # a held-out image this close to a training image is that image


@dataclass(frozen=True, kw_only=True)
class Matches:
    """Neighbours of the valid generated images, in the order of the plan.

    ``sample_ids`` ``(num_valid,)``; ``ratios``, ``distances`` and ``train_ids``
    ``(num_valid, k)``, closest first.
    """

    sample_ids: NDArray[np.int64]
    ratios: NDArray[np.float64]
    distances: NDArray[np.float64]
    train_ids: NDArray[np.int64]


def carlini(
    sampler: Sampler,
    reference: TrainReference,
    *,
    holdout: NDArray[np.uint8] | None = None,
    coverage: Coverage,
    provenance: dict[str, str],
    device: str = "cpu",
) -> ScanResult:
    """Attack a checkpoint by plain sampling and count what it copied.

    Args:
        sampler: Generated images.
        reference: Training images, near-duplicates merged.
        holdout: ``(num_holdout, height, width, channels)`` uint8, real images not trained on.
        coverage: What is known about the training data; the generated side is filled in here.
        provenance: Recorded as it is.
        device: Where distances are computed.

    Raises:
        TrainDataError: Too few real images to calibrate on.
    """
    invalid: Counter[str] = Counter()
    matches = match(sampler, reference, invalid, device=device)
    num_valid = len(matches.sample_ids)
    calibration, null = _calibrate(reference, holdout, num_generated=num_valid, device=device)
    confirmed, again = _confirm(matches, sampler, reference, calibration, device=device)
    counts = Counter(matches.train_ids[confirmed, 0].tolist())
    hits = [
        [int(ids[0])] if hit else [] for ids, hit in zip(matches.train_ids, confirmed, strict=True)
    ]
    levels = level_scores(
        matches.ratios, matches.train_ids, null_probability=fit_null(null).probability
    )
    metrics = {
        f"{kind}_{level.name}": getattr(level, kind) for level in levels for kind in ("ams", "ums")
    }
    metrics |= {
        "extracted": _extracted(len(counts), calibration.expected_false_matches),
        "leak_rate": proportion(int(confirmed.sum()), num_valid),
        "ums_confirmed": distinct_count(len(counts), num_valid),
    }
    findings = _findings(matches, confirmed, again)
    return ScanResult(
        name=NAME,
        title=TITLE,
        levels=levels,
        metrics=metrics,
        findings=findings[:MAX_FINDINGS],
        num_findings_total=len(findings),
        calibration=calibration,
        controls=run_controls(
            reference,
            level_cut=LEVELS[-1].cut,
            confirmed_cut=calibration.confirmed_cut,
            holdout=holdout,
            device=device,
        ),
        coverage=replace(
            coverage,
            planned=sampler.num_images,
            generated=num_valid + sum(invalid.values()),
            valid=num_valid,
            invalid=dict(sorted(invalid.items())),
            damaged=sampler.store.damaged,
            train_groups=len(reference.pixels),
        ),
        num_confirmed_images=int(confirmed.sum()),
        excluded_rate=excluded_rate(num_valid),
        unseen_hit_rate=good_turing_unseen(list(counts.values()), num_valid),
        curve=expected_unique(hits, _curve_sizes(num_valid)),
        ratio_histogram=_histogram(matches.ratios[:, 0]),
        denoiser_calls=sampler.num_images * sampler.steps,
        provenance=provenance
        | {
            "distance": f"neighbour-normalised L2, n={NUM_NEIGHBOURS}, alpha={ALPHA}, 8-bit pixels",
            "near-duplicates searched": f"{reference.num_compared} training images against all",
        },
    )


def match(
    sampler: Sampler, reference: TrainReference, invalid: Counter[str], *, device: str
) -> Matches:
    """Neighbours of every valid generated image; the others are counted in ``invalid``."""
    blocks = [
        (sample_ids, reference.neighbours(pixels, device=device))
        for sample_ids, pixels in sampler.blocks(invalid)
    ]
    if not blocks:
        raise TrainDataError(
            f"none of the {sampler.num_images} generated images is valid "
            f"({', '.join(f'{count} {why}' for why, count in invalid.items())}); the checkpoint "
            "makes no pictures with this sampler, so there is nothing to judge"
        )
    return Matches(
        sample_ids=np.concatenate([ids for ids, _ in blocks]),
        ratios=np.concatenate([near.ratios for _, near in blocks]),
        distances=np.concatenate([near.distances for _, near in blocks]),
        train_ids=np.concatenate([near.train_ids for _, near in blocks]),
    )


def _calibrate(
    reference: TrainReference,
    holdout: NDArray[np.uint8] | None,
    *,
    num_generated: int,
    device: str,
) -> tuple[Calibration, NDArray[np.float64]]:
    """The confirmed cut and the null behind it: of two nulls, the one that asks for more."""
    nulls = {"leave-one-out": reference.null}
    if holdout is not None:
        nulls["held-out"] = _null_of_holdout(reference, holdout, device=device)
    usable = {source: null for source, null in nulls.items() if len(null) >= MIN_NULL}
    if not usable:
        raise TrainDataError(
            f"{len(reference.pixels)} different training images are too few to tell a copy from a "
            f"coincidence; add at least {MIN_NULL} real images that were not trained on "
            "with --memscan-holdout DIR"
        )
    try:
        candidates = [
            calibrate(
                null,
                source=source,
                num_generated=num_generated,
                num_train=len(reference.pixels),
                level_cut=LEVELS[-1].cut,
            )
            for source, null in usable.items()
        ]
    except ValueError as error:
        raise TrainDataError(f"the training images cannot be calibrated on: {error}") from None
    chosen = min(candidates, key=lambda calibration: calibration.confirmed_cut)
    return chosen, usable[chosen.source]


def _null_of_holdout(
    reference: TrainReference, holdout: NDArray[np.uint8], *, device: str
) -> NDArray[np.float64]:
    """Ratios of held-out images, refused when some of them were trained on.

    Such images would look like proof that strangers come this close, and hide every leak.
    """
    near = reference.neighbours(holdout, device=device)
    ratios = near.ratios[:, 0]
    limit = NEAR_DUPLICATE_RATIO
    if len(reference.null) >= MIN_NULL:
        by_chance = fit_null(reference.null).quantile(FALSE_MATCHES / len(holdout))
        limit = max(limit, min(LEVELS[-1].cut, by_chance))
    inside = np.flatnonzero(ratios <= limit)
    if len(inside):
        raise TrainDataError(
            f"--memscan-holdout: {len(inside)} of {len(holdout)} held-out images are (nearly) "
            f"training images, the first is holdout#{inside[0]:05d} = "
            f"train#{near.train_ids[inside[0], 0]:05d}; remove them from the held-out folder"
        )
    return ratios


def _confirm(
    matches: Matches,
    sampler: Sampler,
    reference: TrainReference,
    calibration: Calibration,
    *,
    device: str,
) -> tuple[NDArray[np.bool_], dict[int, float]]:
    """Which generated images are confirmed copies, and the ratios measured again.

    A last-bit difference between batch shapes must not decide a verdict: what lies near the cut
    is generated again alone in float32, and that image decides.
    """
    cut = calibration.confirmed_cut
    closest = matches.ratios[:, 0]
    confirmed = closest <= cut
    near = np.flatnonzero(np.abs(closest - cut) <= NEAR_THRESHOLD[sampler.dtype] * cut)
    again: dict[int, float] = {}
    if len(near):
        pixels = sampler.alone(matches.sample_ids[near].tolist())
        ratios = reference.neighbours(pixels, device=device).ratios[:, 0]
        confirmed[near] = ratios <= cut
        again = dict(zip(matches.sample_ids[near].tolist(), ratios.tolist(), strict=True))
    return confirmed, again


def _findings(
    matches: Matches, confirmed: NDArray[np.bool_], again: dict[int, float]
) -> tuple[Finding, ...]:
    """The closest generated image of each training image reached at any level, closest first."""
    findings: dict[int, Finding] = {}
    # Confirmed matches first: the finding of a training image shows the evidence against it.
    for row in np.lexsort((matches.ratios[:, 0], ~confirmed)):
        ratio = float(matches.ratios[row, 0])
        reached = [level.name for level in LEVELS if ratio <= level.cut]
        train_id = int(matches.train_ids[row, 0])
        if reached and train_id not in findings:
            sample_id = int(matches.sample_ids[row])
            findings[train_id] = Finding(
                sample_id=sample_id,
                train_id=train_id,
                ratio=ratio,
                distance=float(matches.distances[row, 0]),
                level=reached[-1],
                confirmed=bool(confirmed[row]),
                regenerated_ratio=again.get(sample_id),
            )
    return tuple(findings.values())


def _extracted(count: int, expected_false: float) -> Estimate:
    """Distinct confirmed training images; the lower bound leaves out what chance explains."""
    by_chance = 0
    while special.pdtrc(by_chance, expected_false) > 0.05:
        by_chance += 1
    return Estimate(value=count, lower=max(0, count - by_chance), upper=count)


def _curve_sizes(num_generated: int) -> list[int]:
    """Ten sizes up to the scan's own, then twice, five and ten times as many."""
    inside = np.unique(np.linspace(1, num_generated, 11).astype(int)).tolist()
    return [*inside, 2 * num_generated, 5 * num_generated, 10 * num_generated]


def _histogram(ratios: NDArray[np.float64]) -> tuple[tuple[float, int], ...]:
    bins = np.floor(ratios / HISTOGRAM_STEP).astype(int)
    counts = np.bincount(bins)
    return tuple((round(index * HISTOGRAM_STEP, 2), int(n)) for index, n in enumerate(counts))
