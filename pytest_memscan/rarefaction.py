"""Expected number of distinct training images as the number of generated images grows.

The count of distinct images falls behind the number of images the longer one looks, so two scans
compare only at equal size. These curves bring them there. They treat a generated image as a
sampling unit and a matched training image as an incidence in it, as ecologists count species.

References:
    Colwell et al., "Models and estimators linking individual-based and sample-based rarefaction,
    extrapolation and comparison of assemblages", J. Plant Ecology 5 (2012).
    Chao et al., "Rarefaction and extrapolation with Hill numbers", Ecol. Monographs 84 (2014).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from pytest_memscan.results import CurvePoint

_FEWEST_HITS = 5  # below this a bootstrap spread says more about luck than about the model


def good_turing_unseen(counts: ArrayLike, trials: int) -> float:
    """Chance that the next generated image matches a training image not seen so far.

    Args:
        counts: ``(num_matched,)`` generated images that matched each training image.
        trials: Generated images, with and without a match.

    Returns:
        Training images matched exactly once, per generated image (Good 1953). Where one image
        can match several it is the expected number of new ones, and may exceed 1.

    Raises:
        ValueError: If ``trials`` is below 1 or a count lies outside ``[0, trials]``.

    Example:
        >>> good_turing_unseen([1, 1, 7], 1000)
        0.002
    """
    seen = np.asarray(counts)
    if trials < 1 or ((seen < 0) | (seen > trials)).any():
        raise ValueError(f"counts must lie in [0, trials] with trials >= 1, got trials = {trials}")
    return int((seen == 1).sum()) / trials


def expected_unique_from_rates(rates: ArrayLike, sizes: Sequence[int]) -> NDArray[np.float64]:
    """``sum_j 1 - (1 - p_j) ** n``: expected distinct images when every rate is known.

    Args:
        rates: ``(num_train,)`` chance that one generated image matches each training image.
        sizes: Numbers of generated images ``n``.

    References:
        Chen et al., "SIDE", arXiv:2410.02467, where it explains why UMS needs equal sizes.

    Example:
        >>> expected_unique_from_rates([0.5, 0.5], [1, 2]).tolist()
        [1.0, 1.5]
    """
    missed = 1 - np.asarray(rates, dtype=np.float64)
    return np.array([float((1 - missed**size).sum()) for size in sizes])


def expected_unique(
    hits_per_image: Sequence[Sequence[int]],
    sizes: Sequence[int],
    *,
    confidence: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[CurvePoint, ...]:
    """Expected distinct training images among ``n`` generated ones, for each ``n`` in ``sizes``.

    Up to the number of images at hand this is the exact mean over all subsets of size ``n``.
    Beyond, it adds what the Chao2 lower bound says is still unseen: too low rather than too high,
    and of little worth beyond two to three times the images at hand.

    The bounds are ``expected * exp(-+ z * spread / expected)``, so they contain the estimate and
    stay positive; the spread is the bootstrap standard deviation. A plain bootstrap repeats
    images, so it sees fewer distinct ones than there are and its percentiles can miss the
    estimate. Here every repeated match may turn into an unseen training image, as often as Chao
    et al.'s (2014) assemblage has it, while images keep their matches together, so that several
    training images found by one generated image widen the interval. Simulated coverage of a 95 %
    bound: 88 to 100 % within the sample, down to 77 % at twice its size. Good for a picture; a
    verdict needs the exact bounds of `statistics.distinct_count`.

    Args:
        hits_per_image: For each generated image, ids of the training images it matches.
        sizes: Numbers of generated images, each at least 1.
        confidence: Of each bound.
        draws: Bootstrap repetitions, at least 2.
        seed: Of the bootstrap.

    Returns:
        One point per size, in the order given; no bounds below 5 hits.

    Raises:
        ValueError: If there is no image, a size below 1, too few draws, or a bad confidence.

    Example:
        >>> [round(p.expected, 3) for p in expected_unique([[7], [], [7], [9]], [2, 4])]
        [1.333, 2.0]
    """
    if not hits_per_image or min(sizes, default=1) < 1 or draws < 2 or not 0 < confidence < 1:
        raise ValueError(
            "need at least 1 generated image, sizes >= 1, draws >= 2 and a confidence in (0, 1), "
            f"got {len(hits_per_image)}, {list(sizes)}, {draws} and {confidence}"
        )
    trials, sizes = len(hits_per_image), [int(size) for size in sizes]
    images, columns = _incidences(hits_per_image)
    expected = _curve(np.bincount(columns), trials, sizes)
    lower = upper = [None] * len(sizes)
    if len(columns) >= _FEWEST_HITS:
        redraws = _redraws(images, columns, trials, draws=draws, seed=seed)
        spread = np.std([_curve(counts, trials, sizes) for counts in redraws], axis=0)
        factor = np.exp(float(special.ndtri(confidence)) * spread / expected)
        lower, upper = (expected / factor).tolist(), (expected * factor).tolist()
    return tuple(
        CurvePoint(num_generated=n, expected=mean, lower=low, upper=high, extrapolated=n > trials)
        for n, mean, low, high in zip(sizes, expected.tolist(), lower, upper, strict=True)
    )


def _incidences(
    hits_per_image: Sequence[Sequence[int]],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every match as a pair: number among the images that have any, number of the id."""
    matched = [sorted(set(ids)) for ids in hits_per_image if len(ids)]
    images = np.repeat(np.arange(len(matched)), [len(ids) for ids in matched])
    ids = np.array([train_id for ids in matched for train_id in ids], dtype=np.int64)
    return images, np.unique(ids, return_inverse=True)[1]


def _curve(counts: NDArray[np.int64], trials: int, sizes: Sequence[int]) -> NDArray[np.float64]:
    """Colwell et al. (2012), eq. 17 within the sample and eq. 18 beyond it."""
    seen, repeats = np.unique(counts[counts > 0], return_counts=True)
    once, unseen = int((counts == 1).sum()), _chao2(counts, trials)
    points = []
    for size in sizes:
        missed = np.exp(_log_miss(seen, trials, min(size, trials)))
        point = float((repeats * (1 - missed)).sum())
        if size > trials and unseen > 0:
            still_missed = (1 - once / (trials * unseen + once)) ** (size - trials)
            point += unseen * (1 - still_missed)
        points.append(point)
    return np.array(points)


def _log_miss(seen: NDArray[np.int64], trials: int, size: int) -> NDArray[np.float64]:
    """Log of ``C(trials - c, size) / C(trials, size)``: a subset misses an id seen ``c`` times."""
    spare = np.asarray(trials - seen - size, dtype=np.float64)
    log_miss: NDArray[np.float64] = (
        special.gammaln(trials - seen + 1.0)
        - special.gammaln(np.maximum(spare, 0) + 1)
        - special.gammaln(trials + 1.0)
        + special.gammaln(trials - size + 1.0)
    )
    return np.where(spare >= 0, log_miss, -np.inf)


def _chao2(counts: NDArray[np.int64], trials: int) -> float:
    """Lower bound for the number of ids never seen (Chao 1987, bias-corrected without pairs)."""
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    pairs = once**2 / (2 * twice) if twice else once * (once - 1) / 2
    return (trials - 1) / trials * pairs


def _assemblage(counts: NDArray[np.int64], trials: int) -> tuple[NDArray[np.float64], int]:
    """Chance that a match keeps its id when redrawn, per id, and the number of unseen ids.

    Chao et al. (2014), appendix on the bootstrap: an id seen ``c`` times of ``trials`` has the
    rate ``c / trials * (1 - shrink * (1 - c / trials) ** trials)``, with ``shrink`` such that
    what is taken away equals the mass of unseen ids that the sample coverage implies.
    """
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    num_unseen = math.ceil(_chao2(counts, trials))
    if num_unseen == 0:
        return np.ones(len(counts)), 0
    again = 2 * twice / once if twice else 2 / (once - 1)
    unseen_mass = once * (trials - 1) / (trials - 1 + again)  # in hits, of counts.sum()
    fading = (1 - counts / trials) ** trials
    shrink = unseen_mass / (counts * fading).sum()
    return np.clip(1 - shrink * fading, 0, 1), num_unseen


def _redraws(
    images: NDArray[np.int64], columns: NDArray[np.int64], trials: int, *, draws: int, seed: int
) -> Iterator[NDArray[np.int64]]:
    """Counts per id, the unseen ones last, as other scans of the same size would see them."""
    rng = np.random.default_rng(seed)
    keep, num_unseen = _assemblage(np.bincount(columns), trials)
    num_matched = int(images.max()) + 1
    for _ in range(draws):
        drawn = rng.integers(num_matched, size=rng.binomial(trials, num_matched / trials))
        copies = np.bincount(drawn, minlength=num_matched)[images]  # (num_hits,)
        kept = rng.binomial(copies, keep[columns])
        known = np.bincount(columns, weights=kept, minlength=len(keep)).astype(np.int64)
        turned = int((copies - kept).sum())
        unseen = np.bincount(rng.integers(num_unseen, size=turned)) if turned else known[:0]
        # two matches of one image may turn into the same unseen id; no id is in an image twice
        yield np.minimum(np.concatenate([known, unseen]), trials)
