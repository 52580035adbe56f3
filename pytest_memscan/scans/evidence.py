"""What a scan by distance makes of its matches: the cut, the findings, the counts.

Arrays and results in, results out: no files, no model. Every attack that ends in matches with
training images can use it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from pytest_memscan.errors import TrainDataError
from pytest_memscan.metrics import LEVELS
from pytest_memscan.results import Calibration, Estimate, Finding
from pytest_memscan.similarity.calibration import FALSE_MATCHES, MIN_NULL, calibrate, fit_null
from pytest_memscan.similarity.reference import TrainReference

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


def calibrate_on_real_images(
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


def findings_of(
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


def extracted_images(count: int, expected_false: float) -> Estimate:
    """Distinct confirmed training images; the lower bound leaves out what chance explains."""
    by_chance = 0
    while special.pdtrc(by_chance, expected_false) > 0.05:
        by_chance += 1
    return Estimate(value=count, lower=max(0, count - by_chance), upper=count)


def curve_sizes(num_generated: int) -> list[int]:
    """Ten sizes up to the scan's own, then twice, five and ten times as many."""
    inside = np.unique(np.linspace(1, num_generated, 11).astype(int)).tolist()
    return [*inside, 2 * num_generated, 5 * num_generated, 10 * num_generated]


def histogram(ratios: NDArray[np.float64]) -> tuple[tuple[float, int], ...]:
    """Images in each bin of ``HISTOGRAM_STEP``, with the bin's left edge, from 0 upwards."""
    bins = np.floor(ratios / HISTOGRAM_STEP).astype(int)
    counts = np.bincount(bins)
    return tuple((round(index * HISTOGRAM_STEP, 2), int(n)) for index, n in enumerate(counts))
