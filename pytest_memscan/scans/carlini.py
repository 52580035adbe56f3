"""Carlini et al. 2023, section 5: extraction from unconditional diffusion models.

    generate many images
    for each, how close it comes to its nearest training image: by default the
        neighbour-normalised L2, or the cosine similarity of descriptors
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
from pytest_memscan.metrics import level_scores
from pytest_memscan.rarefaction import expected_unique, good_turing_unseen
from pytest_memscan.results import Coverage, ScanResult
from pytest_memscan.sampler import Sampler
from pytest_memscan.scans.controls import run_controls
from pytest_memscan.scans.evidence import (
    Matches,
    calibrate_on_real_images,
    curve_sizes,
    extracted_images,
    findings_of,
    histogram,
    joined,
)
from pytest_memscan.similarity.calibration import fit_null
from pytest_memscan.similarity.reference import Reference
from pytest_memscan.statistics import distinct_count, excluded_rate, proportion

NAME = "carlini"
TITLE = "Carlini et al. 2023: plain sampling"
NEAR_THRESHOLD = {"float32": 0.05, "bfloat16": 0.2, "float16": 0.2}  # share of the cut
MAX_FINDINGS = 500
MAX_SAMPLES = 100_000  # ids of copies that a report lists


def carlini(
    sampler: Sampler,
    reference: Reference,
    *,
    holdout: NDArray[np.uint8] | None = None,
    coverage: Coverage,
    provenance: dict[str, str],
) -> ScanResult:
    """Attack a checkpoint by plain sampling and count what it copied.

    Args:
        sampler: Generated images.
        reference: Training images, near-duplicates merged.
        holdout: ``(num_holdout, height, width, channels)`` uint8, real images not trained on.
        coverage: What is known about the training data; the generated side is filled in here.
        provenance: Recorded as it is.

    Raises:
        TrainDataError: Too few real images to calibrate on, or a descriptor that cannot tell the
            training images apart.
    """
    invalid: Counter[str] = Counter()
    matches = match(sampler, reference, invalid)
    num_valid = len(matches.sample_ids)
    cut = calibrate_on_real_images(reference, holdout, num_generated=num_valid)
    confirmed, again = confirm(matches, sampler, reference, cut.dissimilarity)
    counts = Counter(matches.train_ids[confirmed].tolist())
    hits = [
        [train_id] if hit else []
        for train_id, hit in zip(matches.train_ids.tolist(), confirmed, strict=True)
    ]
    levels = level_scores(
        matches.nearest.dissimilarities,
        matches.nearest.train_ids,
        null_probability=fit_null(cut.null).probability,
        levels=reference.levels,
        measure=reference.measure,
    )
    metrics = {
        f"{kind}_{level.name}": getattr(level, kind) for level in levels for kind in ("ams", "ums")
    }
    metrics |= {
        "extracted": extracted_images(len(counts), cut.calibration.expected_false_matches),
        "leak_rate": proportion(int(confirmed.sum()), num_valid),
        "ums_confirmed": distinct_count(len(counts), num_valid),
    }
    findings = tuple(
        replace(each, num_copies=counts[each.train_id])
        for each in findings_of(matches, confirmed, again, reference=reference)
    )
    copies = matches.sample_ids[confirmed].tolist()
    return ScanResult(
        name=NAME,
        title=f"{TITLE}, {reference.measure.name}",
        measure=reference.measure,
        levels=levels,
        metrics=metrics,
        findings=findings[:MAX_FINDINGS],
        num_findings_total=len(findings),
        calibration=cut.calibration,
        controls=run_controls(reference, confirmed_cut=cut.dissimilarity, holdout=holdout),
        coverage=replace(
            coverage,
            planned=sampler.num_images,
            generated=num_valid + sum(invalid.values()),
            valid=num_valid,
            invalid=dict(sorted(invalid.items())),
            damaged=sampler.store.damaged,
            train_groups=len(reference.groups.representatives),
        ),
        num_confirmed_images=len(copies),
        confirmed_samples=tuple(copies) if len(copies) <= MAX_SAMPLES else (),
        excluded_rate=excluded_rate(num_valid),
        unseen_hit_rate=good_turing_unseen(list(counts.values()), num_valid),
        curve=expected_unique(hits, curve_sizes(num_valid)),
        histogram=histogram(matches.closest, reference.measure),
        denoiser_calls=sampler.num_images * sampler.steps,
        provenance=provenance
        | dict(reference.record)
        | {"near-duplicates searched": f"{reference.num_compared} training images against all"},
    )


def match(sampler: Sampler, reference: Reference, invalid: Counter[str]) -> Matches:
    """What every valid generated image is nearest to; the others are counted in ``invalid``."""
    blocks = [
        (sample_ids, reference.nearest(pixels)) for sample_ids, pixels in sampler.blocks(invalid)
    ]
    if not blocks:
        raise TrainDataError(
            f"none of the {sampler.num_images} generated images is valid "
            f"({', '.join(f'{count} {why}' for why, count in invalid.items())}); the checkpoint "
            "makes no pictures with this sampler, so there is nothing to judge"
        )
    return joined(blocks)


def confirm(
    matches: Matches, sampler: Sampler, reference: Reference, cut: float
) -> tuple[NDArray[np.bool_], dict[int, float]]:
    """Which generated images are confirmed copies, and the dissimilarities measured again.

    A last-bit difference between batch shapes must not decide a verdict: what lies near the cut
    is generated again alone in float32, and that image decides. One that comes out invalid there
    decides nothing: the first stands.
    """
    confirmed = matches.closest <= cut
    near = np.flatnonzero(np.abs(matches.closest - cut) <= NEAR_THRESHOLD[sampler.dtype] * cut)
    again: dict[int, float] = {}
    images = sampler.alone(matches.sample_ids[near].tolist())
    rows = near[[not image.invalid for image in images]]
    if len(rows):
        pixels = np.stack([image.pixels for image in images if not image.invalid])
        closest = reference.nearest(pixels).dissimilarities[:, 0]
        confirmed[rows] = closest <= cut
        again = dict(zip(matches.sample_ids[rows].tolist(), closest.tolist(), strict=True))
    return confirmed, again
