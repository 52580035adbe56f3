"""What steered images say about ordinary ones: rates of copies, and how sure they are.

An *island* is an independent population of steered trajectories. It gives one estimate of a rate,
at least 0 and unbiased given whatever earlier islands taught it. Tails are unknown and often heavy:
most islands come out low and a few far too high. Hence lower bounds that hold whatever the tails,
and upper ones that know only what the islands show. Bad arguments raise ``ValueError`` throughout:
estimates negative, not finite or missing, rates outside [0, 1], confidences outside (0, 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from pytest_memscan.results import CurvePoint, Estimate

Floats = NDArray[np.float64]
_STAKES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1.0)  # small ones for copies that few islands find
_HALVINGS = 50
_LEAST_SHARE = 0.1  # of the mean: an island below counts as this much on the log scale


def island_shares(num_islands: int) -> Floats:
    """``(num_islands,)`` weights, sum one, fixed beforehand: island ``b`` counts as ``b ** 2``.

    Later islands are steered better, nobody knows by how much. If variances fall like ``b ** -y``,
    the mean's is less than 9/5 of that with the best weights for any ``y`` in [0, 4], less than 9/8
    in [1, 3], however many islands (largest at the ends: it is convex in ``y``). It is the argument
    of Owen & Zhou ("The square root rule for adaptive importance sampling", 2019), whose
    ``sqrt(b)`` loses at most an eighth for ``y`` in [0, 1], for islands that get better faster.

    Example:
        >>> island_shares(4).round(3).tolist()
        [0.033, 0.133, 0.3, 0.533]
    """
    if num_islands < 1:
        raise ValueError(f"num_islands must be at least 1, got {num_islands}")
    squares = np.arange(1, num_islands + 1, dtype=np.float64) ** 2
    return np.asarray(squares / squares.sum())


def combined(estimates: ArrayLike, *, confidence: float = 0.95, num_trials: int) -> Estimate:
    """A rate from all islands, weighed by `island_shares`, with one-sided bounds; all in [0, 1].

    ``lower`` is `certain_lower`, but never above the value: it holds whatever the tails.

    ``upper`` holds only as far as the islands show: the larger of a t bound for the logarithm of
    the mean and Cox's bound for log-normal islands (Zhou & Gao 1997; t for z, Olsson 2005; here
    with weights ``b``), where islands below a tenth of the mean count as a tenth. Both squared
    errors trust islands not to get worse (see ``_error_factors``). Simulated coverage of a 95 %
    bound, 4 to 20 log-normal islands with variances equal or falling like ``1 / b``, ``b ** -2``:
    95 to 99 % where the middle island is 30 % off, 93 to 97 % at 100 %, 87 to 91 % at 300 % (rising
    like ``b``: 94, 92, 86 % and more); gamma islands 300 % off 86 to 91 %, a Pareto tail of
    exponent 2.2: 77 to 80 %. Of 500 plain images at a rate of 1 in 5,000 and then islands 95 %
    (the first) and 25 % off: 98 % and more; with 4 rows the bound is then mostly 5 times the value.
    What no island saw is not in it: put the exact bound of images that were never steered beside
    it. It is 1, nothing known, with one island or without a copy.

    Args:
        estimates: ``(num_islands,)``, in the order in which the islands ran.
        confidence: Of each bound.
        num_trials: Steered images behind the estimates; only passed on.

    Example:
        >>> rate = combined([2e-6, 3e-6, 2.5e-6, 2e-6], num_trials=1024)
        >>> f"{rate.lower:.2e} {rate.value:.2e} {rate.upper:.2e}"
        '8.23e-07 2.28e-06 3.31e-06'
    """
    islands = _checked(estimates, confidence, dimensions=1)
    value = min(1.0, float(island_shares(len(islands)) @ islands))
    known = value > 0 and len(islands) > 1
    return Estimate(
        value=value,
        lower=min(value, certain_lower(islands, confidence=confidence)),
        upper=max(value, math.exp(min(0.0, _log_upper(islands, confidence)))) if known else 1.0,
        confidence=confidence,
        num_trials=num_trials,
    )


def certain_lower(
    estimates: ArrayLike, *, confidence: float, weights: ArrayLike | None = None
) -> float:
    """Lower bound for the mean of non-negative estimates that assumes nothing about their tails.

    By betting (Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting",
    JRSS B 2024): if each estimate ``X_b`` has mean ``p`` given those before it, then ``e(p)``, the
    average over fixed stakes ``s`` in (0, 1] of ``prod_b 1 + s * (X_b / p - 1)``, is non-negative
    with mean 1, so it reaches ``1 / (1 - confidence)`` with probability at most ``1 - confidence``.
    It falls in ``p``; the bound is where it crosses. A lone estimate stakes everything, which is
    Markov's inequality: ``X * (1 - confidence)``. Simulated: a 95 % bound from 2 to 20 islands held
    in 99 % of cases; ten log-normal ones 30, 100 or 300 % off put it at 0.62, 0.48, 0.25 of p.

    Args:
        estimates: ``(num_islands,)``, of any size.
        confidence: Of the bound.
        weights: ``(num_islands,)``, above 0 and fixed beforehand: an island's stakes are ``s``
            times its weight over the largest. Even stakes by default: in simulation mostly
            higher bounds than with `island_shares`.

    Returns:
        0 if all are 0; at most their weighted mean.

    Example:
        >>> round(certain_lower([0.02], confidence=0.95), 6)
        0.001
    """
    islands = _checked(estimates, confidence, dimensions=1)
    given = np.ones(len(islands)) if weights is None else np.asarray(weights, dtype=np.float64)
    if given.shape != islands.shape or not (np.isfinite(given) & (given > 0)).all():
        raise ValueError(f"need {len(islands)} weights above 0, got {given.tolist()}")
    needed = -math.log1p(-confidence)
    return float(_lower_bounds(islands[:, None], given / given.max(), needed)[0])


def expected_copies(rates: ArrayLike, sizes: Sequence[int]) -> Floats:
    """``sum_j 1 - (1 - p_j) ** n``: expected distinct training images among ``n`` ordinary ones.

    As `rarefaction.expected_unique_from_rates`, but exact for rates that ``1 - p`` would lose.
    ``rates`` ``(num_images,)`` are chances of copying each training image; sizes are at least 1.

    Example:
        >>> expected_copies([0.5, 1e-20], [1, 2]).round(3).tolist()
        [0.5, 0.75]
    """
    chances = np.asarray(rates, dtype=np.float64)
    if chances.ndim != 1 or not ((chances >= 0) & (chances <= 1)).all():
        raise ValueError("rates must be (num_images,) and lie in [0, 1]")
    if min(sizes, default=1) < 1:
        raise ValueError(f"sizes must be at least 1, got {list(sizes)}")
    return np.array([_expected(chances, int(size)) for size in sizes], dtype=np.float64)


def growth_curve(
    per_island_rates: ArrayLike,
    sizes: Sequence[int],
    *,
    num_trajectories: int,
    confidence: float = 0.95,
) -> tuple[CurvePoint, ...]:
    """Expected distinct copied images among ``n`` ordinary ones, from all islands.

    `expected_copies` of the weighted mean rates. That bends downwards, so noisy rates give too
    little, and images never found are missing: read "at least". The jackknife over islands (one
    left out, shares rescaled) gives spread and bias, the bounds are ``expected * exp(-t * spread
    / expected)`` and ``(expected + bias) * exp(t * spread / expected)``. Simulated coverage of
    95 % bounds, 60 images, 4 to 20 islands: lower 95 % or more; upper 93 to 100 % with islands
    30 or 100 % off, 88 to 100 % with 300 %.

    Args:
        per_island_rates: ``(num_islands, num_found)``.
        sizes: Numbers of images ``n``, at least 1.
        num_trajectories: Steered images behind the rates; a larger ``n`` is an extrapolation.
        confidence: Of each bound.

    Returns:
        One point per size, at most ``n``; no bounds with fewer than 3 islands or without a copy.
    """
    islands = _checked(per_island_rates, confidence, dimensions=2)
    shares = island_shares(len(islands))
    means = shares @ islands
    bounded = len(islands) >= 3 and bool(means.any())
    if bounded:
        without = (means - shares[:, None] * islands) / (1 - shares)[:, None]
        quantile = _quantile(shares, confidence)
    points = []
    plain = expected_copies(np.minimum(means, 1), sizes)
    for size, expected in zip(map(int, sizes), np.minimum(plain, sizes).tolist(), strict=True):
        lower = upper = None
        if bounded:
            falls = (1 - shares) * (expected - np.minimum(_expected(without, size), size))
            spread = quantile * math.sqrt(_error_factors(shares) @ (falls / shares) ** 2) / expected
            factor = math.exp(min(spread, 700.0))  # more would overflow
            lower = expected / factor
            upper = min((expected + max(0.0, float(falls.sum()))) * factor, float(size))
        beyond = size > num_trajectories
        points.append(
            CurvePoint(
                num_generated=size, expected=expected, lower=lower, upper=upper, extrapolated=beyond
            )
        )
    return tuple(points)


def expected_until_first(rate: float) -> float:
    """Ordinary images until the first copy, on average: ``1 / rate``, infinite at 0."""
    if not 0 <= rate <= 1:
        raise ValueError(f"rate must lie in [0, 1], got {rate}")
    return 1 / rate if rate > 0 else math.inf


def _error_factors(shares: Floats) -> Floats:
    """Factors ``k_b`` that make ``sum_b k_b (X_b - mean) ** 2`` estimate the mean's variance.

    For uncorrelated ``X_b`` of variances ``v_b`` and equal means, that is ``sum w_b ** 2 v_b``, and
    ``sum w_b (X_b - mean) ** 2`` has mean ``sum w_b (1 - w_b) v_b``. Scaled to agree for equal
    ``v_b`` (for equal weights the textbook's ``s ** 2 / n``), it is on average not too low where
    variances do not rise with ``b``, and more than half in any case. Factors right for all ``v_b``
    exist only with all weights below a half; the last of 4 islands has more.
    """
    squared = float(shares @ shares)
    return np.asarray(shares * squared / (1 - squared))


def _freedom(shares: Floats) -> float:
    """Satterthwaite's (1946) degrees of freedom of the squared error, for equal variances."""
    to_deviations = np.eye(len(shares)) - shares
    form = to_deviations.T @ (_error_factors(shares)[:, None] * to_deviations)
    return float(np.trace(form) ** 2 / (form**2).sum())


def _quantile(shares: Floats, confidence: float) -> float:
    return float(special.stdtrit(_freedom(shares), confidence))


def _log_upper(islands: Floats, confidence: float) -> float:
    """Log of the upper bound in `combined`; at least 2 islands, not all 0."""
    shares = island_shares(len(islands))
    mean = float(shares @ islands)
    relative_error = math.sqrt(_error_factors(shares) @ (islands / mean - 1) ** 2)
    by_spread = math.log(mean) + _quantile(shares, confidence) * relative_error
    shares = np.sqrt(shares) / np.sqrt(shares).sum()  # as b: Cox's needs more degrees of freedom
    logs = np.log(np.maximum(islands, _LEAST_SHARE * mean))
    centre = float(shares @ logs)
    squared_error = float(_error_factors(shares) @ (logs - centre) ** 2)
    variance = squared_error / float(shares @ shares)
    error = math.sqrt(squared_error + variance**2 / (2 * (_freedom(shares) + 2)))
    cox = centre + variance / 2 + _quantile(shares, confidence) * error
    return max(by_spread, cox)


def _lower_bounds(islands: Floats, bets: Floats, needed: float) -> Floats:
    """Largest rate with a log e-value of at least ``needed``, for each column of ``islands``."""
    bounds = np.zeros(islands.shape[1])
    found = islands.any(axis=0)
    with np.errstate(divide="ignore"):
        logs = np.log(islands[:, found])  # in logs throughout: X / p can exceed 1e308
    if len(islands) == 1:
        bounds[found] = np.exp(logs[0] - needed)
        return bounds
    stakes = [stake * bets[:, None] for stake in _STAKES]
    high = logs.max(axis=0)  # no factor above 1: no evidence
    lone = (np.log(stakes[0]) + logs).max(axis=0)  # one island and the smallest stake: enough
    low = lone + np.log1p(-stakes[0]).sum() - math.log(len(stakes)) - needed
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        enough = _log_evidence(logs - middle, stakes) >= needed
        low, high = np.where(enough, middle, low), np.where(enough, high, middle)
    bounds[found] = np.exp(low)
    return bounds


def _log_evidence(log_ratios: Floats, stakes: Sequence[Floats]) -> Floats:
    total = np.full(log_ratios.shape[1], -np.inf)
    with np.errstate(divide="ignore"):  # a stake of 1 on an estimate of 0 loses everything
        for stake in stakes:
            factors = np.logaddexp(np.log1p(-stake), np.log(stake) + log_ratios)
            total = np.logaddexp(total, factors.sum(axis=0))
    return np.asarray(total - math.log(len(stakes)))


def _expected(rates: Floats, size: int) -> Floats:
    with np.errstate(divide="ignore"):
        return np.asarray(-np.expm1(size * np.log1p(-np.clip(rates, 0, 1))).sum(axis=-1))


def _checked(estimates: ArrayLike, confidence: float, *, dimensions: int) -> Floats:
    islands = np.asarray(estimates, dtype=np.float64)
    if islands.ndim != dimensions or len(islands) == 0:
        raise ValueError(f"need {dimensions} dimensions and an island, got shape {islands.shape}")
    if not (np.isfinite(islands) & (islands >= 0)).all():
        raise ValueError("estimates must be finite and at least 0")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie strictly between 0 and 1, got {confidence}")
    return islands
