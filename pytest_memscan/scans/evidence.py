"""What a scan by distance makes of its matches: the cut, the findings, the counts.

Arrays and results in, results out: no files, no model. Every attack that ends in matches with
training images can use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from pytest_memscan.errors import TrainDataError
from pytest_memscan.results import Calibration, Estimate, Finding, Measure
from pytest_memscan.similarity.calibration import (
    FALSE_MATCHES,
    MIN_NULL,
    MIN_PROBABILITY,
    calibrate,
    fit_null,
)
from pytest_memscan.similarity.reference import NearestTrain, Reference

HISTOGRAM_STEP = 0.05
NEAR_DUPLICATE_SHARE = 0.37  # of the high level: a held-out image this close is a training image


@dataclass(frozen=True, kw_only=True)
class Matches:
    """What the valid generated images are nearest to, in the order of the plan.

    ``sample_ids`` ``(num_valid,)``; ``nearest`` has a row for each of them.
    """

    sample_ids: NDArray[np.int64]
    nearest: NearestTrain

    @property
    def closest(self) -> NDArray[np.float64]:
        """Dissimilarity from the nearest training image, ``(num_valid,)``."""
        return self.nearest.dissimilarities[:, 0]

    @property
    def train_ids(self) -> NDArray[np.int64]:
        """Id of that training image, ``(num_valid,)``."""
        return self.nearest.train_ids[:, 0]


def joined(parts: Sequence[tuple[NDArray[np.int64], NearestTrain]]) -> Matches:
    """Blocks of generated images as one, all rows filled to the widest."""
    columns = max(near.train_ids.shape[1] for _, near in parts)
    distances = [near.distances for _, near in parts if near.distances is not None]

    def fill(rows: NDArray[Any], value: float) -> NDArray[Any]:
        missing = ((0, 0), (0, columns - rows.shape[1]))
        return np.pad(rows, missing, constant_values=value)

    return Matches(
        sample_ids=np.concatenate([ids for ids, _ in parts]),
        nearest=NearestTrain(
            dissimilarities=np.concatenate(
                [fill(near.dissimilarities, np.inf) for _, near in parts]
            ),
            train_ids=np.concatenate([fill(near.train_ids, -1) for _, near in parts]),
            distances=np.concatenate(distances) if distances else None,
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Where a match becomes a confirmed copy.

    ``dissimilarity``: the cut itself; ``null``: the real images behind it, ``(num_null,)``;
    ``calibration``: the same for reports.
    """

    dissimilarity: float
    null: NDArray[np.float64]
    calibration: Calibration


def calibrate_on_real_images(
    reference: Reference,
    holdout: NDArray[np.uint8] | None,
    *,
    num_generated: int,
    least_probability: float = MIN_PROBABILITY,
) -> Cut:
    """The confirmed cut: of two nulls, by the one that asks for more; see `calibrate`."""
    nulls = {"leave-one-out": reference.null}
    if holdout is not None:
        nulls["held-out"] = _null_of_holdout(reference, holdout)
    usable = {source: null for source, null in nulls.items() if len(null) >= MIN_NULL}
    if not usable:
        raise TrainDataError(
            f"{len(reference.groups.representatives)} different training images are too few to "
            f"tell a copy from a coincidence; add at least {MIN_NULL} real images that were not "
            "trained on with --memscan-holdout DIR"
        )
    cuts = []
    for source, null in usable.items():
        try:
            calibration, dissimilarity = calibrate(
                null,
                source=source,
                num_generated=num_generated,
                level_cut=reference.levels[-1].cut,
                measure=reference.measure,
                caveat=reference.caveat,
                least_probability=least_probability,
            )
        except ValueError as error:
            raise TrainDataError(f"the training images cannot be calibrated on: {error}") from None
        cuts.append(Cut(dissimilarity=dissimilarity, null=null, calibration=calibration))
    return min(cuts, key=lambda cut: cut.dissimilarity)


def _null_of_holdout(reference: Reference, holdout: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Dissimilarity of held-out images, refused when some of them were trained on.

    Such images would look like proof that strangers come this close, and hide every leak.
    """
    near = reference.nearest(holdout)
    closest = near.dissimilarities[:, 0]
    level_cut = reference.levels[-1].cut
    limit = NEAR_DUPLICATE_SHARE * level_cut
    if len(reference.null) >= MIN_NULL:
        by_chance = fit_null(reference.null).quantile(FALSE_MATCHES / len(holdout))
        limit = max(limit, min(level_cut, by_chance))
    inside = np.flatnonzero(closest <= limit)
    if len(inside):
        raise TrainDataError(
            f"--memscan-holdout: {len(inside)} of {len(holdout)} held-out images are (nearly) "
            f"training images, the first is holdout#{inside[0]:05d} = "
            f"train#{near.train_ids[inside[0], 0]:05d}; remove them from the held-out folder"
        )
    return closest


def findings_of(
    matches: Matches,
    confirmed: NDArray[np.bool_],
    again: dict[int, float],
    *,
    reference: Reference,
) -> tuple[Finding, ...]:
    """The closest generated image of each training image reached at any level, closest first."""
    findings: dict[int, Finding] = {}
    score = reference.measure.score
    # Confirmed matches first: the finding of a training image shows the evidence against it.
    for row in np.lexsort((matches.closest, ~confirmed)):
        closest = float(matches.closest[row])
        reached = [level.name for level in reference.levels if closest <= level.cut]
        train_id = int(matches.train_ids[row])
        if reached and train_id not in findings:
            sample_id = int(matches.sample_ids[row])
            distances = matches.nearest.distances
            findings[train_id] = Finding(
                sample_id=sample_id,
                train_id=train_id,
                score=score(closest),
                distance=None if distances is None else float(distances[row]),
                level=reached[-1],
                confirmed=bool(confirmed[row]),
                regenerated_score=score(again[sample_id]) if sample_id in again else None,
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


def histogram(
    dissimilarities: NDArray[np.float64], measure: Measure
) -> tuple[tuple[float, int], ...]:
    """Images in each bin of ``HISTOGRAM_STEP`` of scores, with the bin's left edge, from 0 up.

    A similarity below 0 is counted in the first bin.
    """
    scores = np.array([measure.score(each) for each in dissimilarities.tolist()])
    bins = np.floor(np.maximum(scores, 0) / HISTOGRAM_STEP + 1e-9).astype(int)
    return tuple(
        (round(index * HISTOGRAM_STEP, 2), int(count))
        for index, count in enumerate(np.bincount(bins))
    )
