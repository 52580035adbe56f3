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
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.errors import TrainDataError
from pytest_memscan.metrics import LEVELS, level_scores
from pytest_memscan.rarefaction import expected_unique, good_turing_unseen
from pytest_memscan.results import Calibration, Coverage, ScanResult
from pytest_memscan.sampler import Sampler
from pytest_memscan.scans.controls import run_controls
from pytest_memscan.scans.evidence import (
    Matches,
    calibrate_on_real_images,
    curve_sizes,
    extracted_images,
    findings_of,
    histogram,
)
from pytest_memscan.similarity.calibration import fit_null
from pytest_memscan.similarity.pixels import ALPHA, NUM_NEIGHBOURS
from pytest_memscan.similarity.reference import TrainReference
from pytest_memscan.statistics import distinct_count, excluded_rate, proportion

NAME = "carlini"
TITLE = "Carlini et al. 2023: plain sampling, neighbour-normalised L2"
NEAR_THRESHOLD = {"float32": 0.05, "bfloat16": 0.2, "float16": 0.2}  # share of the cut
MAX_FINDINGS = 500


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
    calibration, null = calibrate_on_real_images(
        reference, holdout, num_generated=num_valid, device=device
    )
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
        "extracted": extracted_images(len(counts), calibration.expected_false_matches),
        "leak_rate": proportion(int(confirmed.sum()), num_valid),
        "ums_confirmed": distinct_count(len(counts), num_valid),
    }
    findings = findings_of(matches, confirmed, again)
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
        curve=expected_unique(hits, curve_sizes(num_valid)),
        ratio_histogram=histogram(matches.ratios[:, 0]),
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
