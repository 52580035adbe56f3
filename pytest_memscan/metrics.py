"""Memorisation scores on the neighbour-normalised L2: AMS, UMS and the three published levels.

Every function takes, for each generated image, its nearest training images: ``ratios`` and
``train_ids``, both ``(num_generated, num_neighbours)``, ratios ascending. The ratio is the L2
distance over half the mean distance to these neighbours (Carlini et al., arXiv:2301.13188,
alpha = 0.5): unitless, at least 0, smaller = more alike. The last of the neighbours is at least
as far as their mean, so its ratio is at least 2: every training image with a ratio below 2 is
among them, and no score with a cut below 2 misses any. Cuts must therefore be below 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.results import LevelScore
from pytest_memscan.statistics import distinct_count, proportion

_COMPLETE_BELOW = 2.0  # 1 / alpha: neighbour lists hold every training image below this ratio


def _check_band(cut: float, band_lower: float | None) -> None:
    if not 0 <= (band_lower or 0) < cut < _COMPLETE_BELOW:  # also refuses NaN
        raise ValueError(
            f"need 0 <= band_lower < cut < {_COMPLETE_BELOW:g}, got {band_lower} and {cut}: "
            "training images at larger ratios may be missing from the neighbours"
        )


@dataclass(frozen=True, kw_only=True)
class Level:
    """A published range of ratios ``(band_lower, cut]``; a ``band_lower`` of 0 leaves it open."""

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


def average_memorization_score(
    ratios: NDArray[np.floating[Any]], *, cut: float, band_lower: float | None = None
) -> float:
    """Share of generated images whose closest training image lies at or below ``cut`` (AMS).

    Args:
        ratios: ``(num_generated, num_neighbours)`` neighbour-normalised L2, ascending.
        cut: Largest ratio that counts, below 2.
        band_lower: Count only if the closest ratio is above it, as in the papers' bands, where a
            high match hides a low one. ``None`` or 0: no lower edge, so an exact copy counts.

    Returns:
        Fraction in ``[0, 1]``; the papers print it as a percentage.

    Raises:
        ValueError: If there is no generated image, a ratio is negative, not finite or out of
            order, or the band is empty.

    References:
        Chen et al., "SIDE", arXiv:2410.02467, eq. (6) and (8), for a distance: min, not max.

    Example:
        >>> ratios = np.array([[0.2, 2.1], [1.37, 2.0], [1.9, 2.0], [1.2, 2.2]])
        >>> average_memorization_score(ratios, cut=1.35)
        0.5
        >>> average_memorization_score(ratios, cut=1.4, band_lower=1.35)
        0.25
    """
    _check_ratios(ratios)
    _check_band(cut, band_lower)
    return float(_in_band(ratios[:, 0], cut, band_lower).mean())


def unique_memorization_score(
    ratios: NDArray[np.floating[Any]],
    train_ids: NDArray[np.integer[Any]],
    *,
    cut: float,
    band_lower: float | None = None,
) -> float:
    """Distinct training images matched by any generated image, per generated image (UMS).

    All training images in the band count, not only the closest, so UMS can exceed AMS, and 1.
    It falls as more images are generated: compare it only at an equal number of them.

    Args:
        ratios: ``(num_generated, num_neighbours)`` neighbour-normalised L2, ascending.
        train_ids: ``(num_generated, num_neighbours)`` ids of these training images.
        cut: Largest ratio that counts, below 2.
        band_lower: Count only matches above it. ``None`` or 0: no lower edge.

    Returns:
        Ratio in ``[0, num_neighbours]``; the papers print it as a percentage.

    Raises:
        ValueError: As `average_memorization_score`; if shapes differ or an id repeats in a row.

    References:
        Chen et al., "SIDE", arXiv:2410.02467, eq. (7) and (9).

    Example:
        >>> ratios = np.array([[0.2, 1.1], [0.1, 2.0]])
        >>> unique_memorization_score(ratios, np.array([[4, 7], [4, 9]]), cut=1.35)
        1.0
    """
    return num_distinct(ratios, train_ids, cut=cut, band_lower=band_lower) / len(ratios)


def num_distinct(
    ratios: NDArray[np.floating[Any]],
    train_ids: NDArray[np.integer[Any]],
    *,
    cut: float,
    band_lower: float | None = None,
) -> int:
    """Number of distinct training images in the band of any generated image.

    Raises:
        ValueError: As `unique_memorization_score`.
    """
    _check_neighbours(ratios, train_ids)
    _check_band(cut, band_lower)
    return len(np.unique(train_ids[_in_band(ratios, cut, band_lower)]))


def matched_ids(
    ratios: NDArray[np.floating[Any]],
    train_ids: NDArray[np.integer[Any]],
    *,
    cut: float,
    band_lower: float | None = None,
) -> list[NDArray[np.integer[Any]]]:
    """For each generated image, ids of the training images in the band, closest first.

    Raises:
        ValueError: As `unique_memorization_score`.

    Example:
        >>> ratios = np.array([[0.2, 1.1], [1.6, 2.0]])
        >>> [ids.tolist() for ids in matched_ids(ratios, np.array([[4, 7], [4, 9]]), cut=1.35)]
        [[4, 7], []]
    """
    _check_neighbours(ratios, train_ids)
    _check_band(cut, band_lower)
    hits = _in_band(ratios, cut, band_lower)
    return [ids[hit] for ids, hit in zip(train_ids, hits, strict=True)]


def level_scores(
    ratios: NDArray[np.floating[Any]],
    train_ids: NDArray[np.integer[Any]],
    *,
    null_probability: Callable[[float], float],
    confidence: float = 0.95,
) -> tuple[LevelScore, ...]:
    """AMS and UMS at every published level, cumulative with bounds and as the papers' bands.

    The bounds of UMS take the most training images that one generated image matched at the level
    as the most it can match: a larger group of look-alikes, not met in the scan, is outside them.

    Args:
        ratios: ``(num_generated, num_neighbours)`` neighbour-normalised L2, ascending.
        train_ids: ``(num_generated, num_neighbours)`` ids of these training images.
        null_probability: Chance that an image that copies nothing has a ratio below the given
            one, as `statistics.PowerLawTail.probability` of the calibration.
        confidence: Of each bound.

    Raises:
        ValueError: As `unique_memorization_score`.
    """
    return tuple(
        _level_score(
            ratios,
            train_ids,
            level=level,
            chance=null_probability(level.cut),
            confidence=confidence,
        )
        for level in LEVELS
    )


def _level_score(
    ratios: NDArray[np.floating[Any]],
    train_ids: NDArray[np.integer[Any]],
    *,
    level: Level,
    chance: float,
    confidence: float,
) -> LevelScore:
    cut, band_lower = level.cut, level.band_lower
    matches = matched_ids(ratios, train_ids, cut=cut)
    per_image = [len(ids) for ids in matches]
    return LevelScore(
        name=level.name,
        cut=cut,
        band_lower=band_lower,
        ams=proportion(sum(n > 0 for n in per_image), len(matches), confidence=confidence),
        ums=distinct_count(
            len(np.unique(np.concatenate(matches))),
            len(matches),
            most_per_image=max(1, max(per_image)),
            confidence=confidence,
        ),
        ams_band=average_memorization_score(ratios, cut=cut, band_lower=band_lower),
        ums_band=unique_memorization_score(ratios, train_ids, cut=cut, band_lower=band_lower),
        expected_by_chance=len(matches) * chance,
    )


def _in_band(
    ratios: NDArray[np.floating[Any]], cut: float, band_lower: float | None
) -> NDArray[np.bool_]:
    # without a lower edge a ratio of exactly 0, the exact copy, must count
    return (ratios <= cut) & (ratios > band_lower) if band_lower else ratios <= cut


def _check_ratios(ratios: NDArray[np.floating[Any]]) -> None:
    if ratios.ndim != 2 or not ratios.size:
        raise ValueError(
            "ratios must be (num_generated, num_neighbours), each at least 1, "
            f"got shape {ratios.shape}"
        )
    broken = ~np.isfinite(ratios).all(axis=1) | (ratios[:, 0] < 0)
    broken |= (ratios[:, 1:] < ratios[:, :-1]).any(axis=1)
    if broken.any():
        raise ValueError(
            "ratios must be finite, at least 0 and ascending in each row; not so for "
            f"{broken.sum()} of {len(ratios)} generated images (first: index {broken.argmax()})"
        )


def _check_neighbours(
    ratios: NDArray[np.floating[Any]], train_ids: NDArray[np.integer[Any]]
) -> None:
    _check_ratios(ratios)
    if train_ids.shape != ratios.shape or not np.issubdtype(train_ids.dtype, np.integer):
        raise ValueError(
            f"train_ids must be integers of the shape of ratios {ratios.shape}, "
            f"got {train_ids.dtype} of shape {train_ids.shape}"
        )
    repeated = (np.diff(np.sort(train_ids, axis=1), axis=1) == 0).any(axis=1)
    if repeated.any():
        raise ValueError(f"train_ids repeat an id in one row (first: index {repeated.argmax()})")
