"""Which trajectories of a population go on, and what their weights become: importance splitting.

Survivors are drawn with any probabilities that the population itself decides, and each one's
weight is divided by its expected number of descendants. Given the population, the expected total
weight of a trajectory's descendants is then its own weight, whatever the probabilities, so that
weighted sums over final images stay unbiased (Cérou and Guyader 2007; Del Moral 2004, where the
probabilities come from fixed potentials; Bréhier et al. 2016 for probabilities that adapt).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAST_EFFECTIVE = 0.5  # share of the population; below it survivors are drawn
DEFENSIVE = 0.1  # share of the survivors that weight alone decides (Hesterberg 1995)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Who goes on.

    Attributes:
        survivors: ``(num,)`` int64 trajectory that each place continues, ascending.
        log_weights: ``(num,)`` weights of the new population.
    """

    survivors: NDArray[np.int64]
    log_weights: NDArray[np.float64]


def effective_share(log_scores: NDArray[np.float64]) -> float:
    """Effective size of a weighted population, as a share of its number (Kong et al. 1994).

    Args:
        log_scores: ``(num,)``, -inf allowed.

    Returns:
        In ``[1 / num, 1]``; 0 where all scores are -inf.
    """
    shares = normalised(log_scores)
    total = float(np.square(shares).sum())
    return 1.0 / (len(log_scores) * total) if total else 0.0


def systematic(shares: NDArray[np.float64], *, num: int, uniform: float) -> NDArray[np.int64]:
    """Systematic resampling: each index comes ``num * share`` times, rounded up or down.

    Args:
        shares: ``(size,)`` non-negative, sum above 0.
        num: Draws.
        uniform: One number in [0, 1) that decides them all.

    Returns:
        ``(num,)`` ascending indices.

    References:
        Kitagawa 1996; Carpenter et al. 1999.

    Example:
        >>> systematic(np.array([0.5, 0.0, 0.5]), num=4, uniform=0.3)
        array([0, 0, 2, 2])
    """
    edges = np.cumsum(shares)
    places = (uniform + np.arange(num)) / num * edges[-1]
    # Rounding must not let a place fall behind the last edge, nor on an index of share 0.
    found = np.searchsorted(edges, places, side="right")
    drawn: NDArray[np.int64] = np.minimum(found, np.flatnonzero(shares)[-1])
    return drawn


def select(
    log_weights: NDArray[np.float64],
    log_promise: NDArray[np.float64],
    *,
    uniform: float,
    least_effective: float = LEAST_EFFECTIVE,
) -> Selection | None:
    """Draw survivors by weight and promise, or leave a population that is still even as it is.

    Args:
        log_weights: ``(num,)``.
        log_promise: ``(num,)``; -inf for trajectories that cannot become a copy any more.
        uniform: See `systematic`.
        least_effective: Effective share of weight times promise below which survivors are drawn.

    Returns:
        None where nothing is drawn: the population is even enough, or nothing has any promise.
    """
    log_scores = log_weights + log_promise
    if len(log_weights) < 2 or not np.isfinite(log_scores).any():
        return None
    if effective_share(log_scores) >= least_effective:
        return None
    by_weight = normalised(log_weights)
    shares = (1 - DEFENSIVE) * normalised(log_scores) + DEFENSIVE * by_weight
    num = len(shares)
    survivors = systematic(shares, num=num, uniform=uniform)
    return Selection(
        survivors=survivors,
        log_weights=log_weights[survivors] - np.log(num * shares[survivors]),
    )


def normalised(log_scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares in proportion to scores given by their logarithms; all 0 where all are -inf."""
    highest = log_scores.max(initial=-np.inf)
    if not np.isfinite(highest):
        return np.zeros(len(log_scores))
    scores = np.exp(log_scores - highest)
    shares: NDArray[np.float64] = scores / scores.sum()
    return shares
