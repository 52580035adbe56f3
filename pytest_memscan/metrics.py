"""Memorisation scores: AMS, UMS and the three published levels.

Every function takes, for each generated image, its nearest training images:
``dissimilarities`` and ``train_ids``, both ``(num_generated, num_neighbours)``, ascending. The
dissimilarity is unitless, at least 0, smaller = more alike. It is one of two:

- the *ratio*, the L2 distance over half the mean distance to these neighbours (Carlini et al.,
  arXiv:2301.13188, alpha = 0.5). The last of the neighbours is at least as far as their mean, so
  its ratio is at least 2: every training image with a ratio below 2 is among them.
- one minus the cosine similarity of two descriptors. Whoever lists the neighbours makes sure
  that every training image within the largest cut is among them; where rows have fewer
  neighbours than columns, infinity and id -1 fill the rest.

Either way no score with a cut below 2 misses any, and cuts must be below 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.results import RATIO, LevelScore, Measure
from pytest_memscan.statistics import distinct_count, proportion

_COMPLETE_BELOW = 2.0  # 1 / alpha: neighbour lists hold every training image below this


def _check_band(cut: float, band_lower: float | None) -> None:
    if not 0 <= (band_lower or 0) < cut < _COMPLETE_BELOW:  # also refuses NaN
        raise ValueError(
            f"need 0 <= band_lower < cut < {_COMPLETE_BELOW:g}, got {band_lower} and {cut}: "
            "training images farther away may be missing from the neighbours"
        )


@dataclass(frozen=True, kw_only=True)
class Level:
    """A range of dissimilarities ``(band_lower, cut]``; a ``band_lower`` of 0 leaves it open."""

    name: str
    cut: float
    band_lower: float

    def __post_init__(self) -> None:
        _check_band(self.cut, self.band_lower)


# Edges recalled from the SIDE papers, not read in their text. The papers end the high level at
# 1.3, which would leave out the closest copies: here it is open.
LEVELS = (
    Level(name="low", cut=1.5, band_lower=1.4),
    Level(name="mid", cut=1.4, band_lower=1.35),
    Level(name="high", cut=1.35, band_lower=0.0),
)


def similarity_levels(low: float, mid: float, high: float) -> tuple[Level, ...]:
    """Levels from cuts on the cosine similarity; the highest is open at its upper end.

    The float32 similarity of two equal descriptors often exceeds 1, so a band that ended there
    would drop exact copies.

    Raises:
        ValueError: Unless ``-1 < low < mid < high < 1``.

    Example:
        >>> [(level.name, level.cut) for level in similarity_levels(0.4, 0.5, 0.6)]
        [('low', 0.6), ('mid', 0.5), ('high', 0.4)]
    """
    if not -1 < low < mid < high < 1:
        raise ValueError(f"need -1 < low < mid < high < 1, got {low}, {mid}, {high}")
    return (
        Level(name="low", cut=1 - low, band_lower=1 - mid),
        Level(name="mid", cut=1 - mid, band_lower=1 - high),
        Level(name="high", cut=1 - high, band_lower=0.0),
    )


def average_memorization_score(
    dissimilarities: NDArray[np.floating[Any]], *, cut: float, band_lower: float | None = None
) -> float:
    """Share of generated images whose closest training image is within ``cut`` (AMS).

    Args:
        dissimilarities: ``(num_generated, num_neighbours)`` of its nearest ones, ascending.
        cut: Largest dissimilarity that counts, below 2.
        band_lower: Count only if the closest one is above it, as in the papers' bands, where a
            high match hides a low one. ``None`` or 0: no lower edge, so an exact copy counts.

    Returns:
        Fraction in ``[0, 1]``; the papers print it as a percentage.

    Raises:
        ValueError: If there is no generated image, a dissimilarity is negative, not a number or
            out of order, or the band is empty.

    References:
        Chen et al., "SIDE", arXiv:2410.02467, eq. (6) and (8), for a distance: min, not max.

    Example:
        >>> dissimilarities = np.array([[0.2, 2.1], [1.37, 2.0], [1.9, 2.0], [1.2, 2.2]])
        >>> average_memorization_score(dissimilarities, cut=1.35)
        0.5
        >>> average_memorization_score(dissimilarities, cut=1.4, band_lower=1.35)
        0.25
    """
    _check_dissimilarities(dissimilarities)
    _check_band(cut, band_lower)
    return float(_in_band(dissimilarities[:, 0], cut, band_lower).mean())


def unique_memorization_score(
    dissimilarities: NDArray[np.floating[Any]],
    train_ids: NDArray[np.integer[Any]],
    *,
    cut: float,
    band_lower: float | None = None,
) -> float:
    """Distinct training images matched by any generated image, per generated image (UMS).

    All training images in the band count, not only the closest, so UMS can exceed AMS, and 1.
    It falls as more images are generated: compare it only at an equal number of them.

    Args:
        dissimilarities: ``(num_generated, num_neighbours)`` of its nearest ones, ascending.
        train_ids: ``(num_generated, num_neighbours)`` ids of these training images.
        cut: Largest dissimilarity that counts, below 2.
        band_lower: Count only matches above it. ``None`` or 0: no lower edge.

    Returns:
        Ratio in ``[0, num_neighbours]``; the papers print it as a percentage.

    Raises:
        ValueError: As `average_memorization_score`; if shapes differ or an id repeats in a row.

    References:
        Chen et al., "SIDE", arXiv:2410.02467, eq. (7) and (9).

    Example:
        >>> dissimilarities = np.array([[0.2, 1.1], [0.1, 2.0]])
        >>> unique_memorization_score(dissimilarities, np.array([[4, 7], [4, 9]]), cut=1.35)
        1.0
    """
    return num_distinct(dissimilarities, train_ids, cut=cut, band_lower=band_lower) / len(
        dissimilarities
    )


def num_distinct(
    dissimilarities: NDArray[np.floating[Any]],
    train_ids: NDArray[np.integer[Any]],
    *,
    cut: float,
    band_lower: float | None = None,
) -> int:
    """Number of distinct training images in the band of any generated image.

    Raises:
        ValueError: As `unique_memorization_score`.
    """
    _check_neighbours(dissimilarities, train_ids)
    _check_band(cut, band_lower)
    return len(np.unique(train_ids[_in_band(dissimilarities, cut, band_lower)]))


def matched_ids(
    dissimilarities: NDArray[np.floating[Any]],
    train_ids: NDArray[np.integer[Any]],
    *,
    cut: float,
    band_lower: float | None = None,
) -> list[NDArray[np.integer[Any]]]:
    """For each generated image, ids of the training images in the band, closest first.

    Raises:
        ValueError: As `unique_memorization_score`.

    Example:
        >>> dissimilarities = np.array([[0.2, 1.1], [1.6, 2.0]])
        >>> train_ids = np.array([[4, 7], [4, 9]])
        >>> [ids.tolist() for ids in matched_ids(dissimilarities, train_ids, cut=1.35)]
        [[4, 7], []]
    """
    _check_neighbours(dissimilarities, train_ids)
    _check_band(cut, band_lower)
    hits = _in_band(dissimilarities, cut, band_lower)
    return [ids[hit] for ids, hit in zip(train_ids, hits, strict=True)]


def level_scores(
    dissimilarities: NDArray[np.floating[Any]],
    train_ids: NDArray[np.integer[Any]],
    *,
    null_probability: Callable[[float], float],
    levels: Sequence[Level] = LEVELS,
    measure: Measure = RATIO,
    confidence: float = 0.95,
) -> tuple[LevelScore, ...]:
    """AMS and UMS at every level, cumulative with bounds and as the papers' bands.

    The bounds of UMS take the most training images that one generated image matched at the level
    as the most it can match: a larger group of look-alikes, not met in the scan, is outside them.

    Args:
        dissimilarities: ``(num_generated, num_neighbours)`` of its nearest ones, ascending.
        train_ids: ``(num_generated, num_neighbours)`` ids of these training images.
        null_probability: Chance that an image that copies nothing comes closer than the given
            dissimilarity, as `statistics.PowerLawTail.probability` of the calibration.
        levels: Low, mid and high.
        measure: Units that the cuts are reported in.
        confidence: Of each bound.

    Raises:
        ValueError: As `unique_memorization_score`.
    """
    return tuple(
        _level_score(
            dissimilarities,
            train_ids,
            level=level,
            measure=measure,
            chance=null_probability(level.cut),
            confidence=confidence,
        )
        for level in levels
    )


def _level_score(
    dissimilarities: NDArray[np.floating[Any]],
    train_ids: NDArray[np.integer[Any]],
    *,
    level: Level,
    measure: Measure,
    chance: float,
    confidence: float,
) -> LevelScore:
    cut, band_lower = level.cut, level.band_lower
    matches = matched_ids(dissimilarities, train_ids, cut=cut)
    per_image = [len(ids) for ids in matches]
    num_matched = sum(n > 0 for n in per_image)
    return LevelScore(
        name=level.name,
        cut=measure.score(cut),
        band_end=measure.score(band_lower) if band_lower else None,
        ams=proportion(num_matched, len(matches), confidence=confidence),
        ums=distinct_count(
            len(np.unique(np.concatenate(matches))),
            len(matches),
            most_per_image=max(1, max(per_image)),
            confidence=confidence,
        ),
        ams_band=average_memorization_score(dissimilarities, cut=cut, band_lower=band_lower),
        ums_band=unique_memorization_score(
            dissimilarities, train_ids, cut=cut, band_lower=band_lower
        ),
        num_matched=num_matched,
        expected_by_chance=len(matches) * chance,
    )


def _in_band(
    dissimilarities: NDArray[np.floating[Any]], cut: float, band_lower: float | None
) -> NDArray[np.bool_]:
    # without a lower edge a ratio of exactly 0, the exact copy, must count
    return (
        (dissimilarities <= cut) & (dissimilarities > band_lower)
        if band_lower
        else dissimilarities <= cut
    )


def _check_dissimilarities(dissimilarities: NDArray[np.floating[Any]]) -> None:
    if dissimilarities.ndim != 2 or not dissimilarities.size:
        raise ValueError(
            "dissimilarities must be (num_generated, num_neighbours), each at least 1, "
            f"got shape {dissimilarities.shape}"
        )
    closest = dissimilarities[:, 0]
    broken = ~np.isfinite(closest) | (closest < 0) | np.isnan(dissimilarities).any(axis=1)
    broken |= (dissimilarities[:, 1:] < dissimilarities[:, :-1]).any(axis=1)
    if broken.any():
        raise ValueError(
            "dissimilarities must be numbers of at least 0, ascending in each row, the first "
            f"finite; not so for {broken.sum()} of {len(dissimilarities)} generated images "
            f"(first: index {broken.argmax()})"
        )


def _check_neighbours(
    dissimilarities: NDArray[np.floating[Any]], train_ids: NDArray[np.integer[Any]]
) -> None:
    _check_dissimilarities(dissimilarities)
    if train_ids.shape != dissimilarities.shape or not np.issubdtype(train_ids.dtype, np.integer):
        raise ValueError(
            f"train_ids must be integers of shape {dissimilarities.shape}, "
            f"got {train_ids.dtype} of shape {train_ids.shape}"
        )
    ordered = np.sort(train_ids, axis=1)
    repeated = ((np.diff(ordered, axis=1) == 0) & (ordered[:, 1:] >= 0)).any(axis=1)
    if repeated.any():
        raise ValueError(f"train_ids repeat an id in one row (first: index {repeated.argmax()})")
