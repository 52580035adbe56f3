"""How sure a measured number is: exact bounds, sample sizes, tails and curves of unique images.

Every bound is one-sided and holds with probability ``confidence`` on its own, so an upper and a
lower bound together hold with at least ``2 * confidence - 1``. Trials are taken as independent:
images that share a prompt are not, and there a prompt is the trial.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from pytest_memscan.rarefaction import (
    expected_unique,
    expected_unique_from_rates,
    good_turing_unseen,
)
from pytest_memscan.results import Estimate

__all__ = [
    "PowerLawTail",
    "distinct_count",
    "excluded_rate",
    "expected_unique",
    "expected_unique_from_rates",
    "good_turing_unseen",
    "power_law_tail",
    "proportion",
    "required_trials",
    "trials_to_settle",
]

_MOST_BLURRED = 1000  # hits searched one by one; matters above a million trials only


def proportion(successes: int, trials: int, *, confidence: float = 0.95) -> Estimate:
    """Share of trials that succeeded, with exact one-sided bounds (Clopper & Pearson 1934).

    Raises:
        ValueError: Unless ``0 <= successes <= trials``, ``trials >= 1``, ``0 < confidence < 1``.

    Example:
        >>> f"{proportion(0, 300).upper:.5f}"  # no hit in 300 images is not "no leak"
        '0.00994'
    """
    _check(trials, confidence=confidence)
    if not 0 <= successes <= trials:
        raise ValueError(f"successes must lie in [0, {trials}] (trials), got {successes}")
    lower, upper = _binomial_bounds(successes, trials, confidence=confidence)
    return Estimate(
        value=successes / trials, lower=lower, upper=upper, confidence=confidence, num_trials=trials
    )


def distinct_count(
    distinct: int, trials: int, *, most_per_image: int = 1, confidence: float = 0.95
) -> Estimate:
    """Distinct training images per generated image (UMS), with one-sided bounds.

    The bounds are for the mean over repeated scans of the same size, ``E[distinct] / trials``.
    With one training image per generated image, "seen at least once" is negatively associated
    over training images, so the count varies less than a binomial one and Clopper-Pearson is
    conservative in simulation. If one image can bring ``m`` new ones, ``distinct / m`` adds
    variables in [0, 1], least certain when each is 0 or 1 (Hoeffding 1963), so its bounds times
    ``m`` are. Above ``m * trials`` the stated ``m`` is wrong: exact Poisson bounds (Garwood
    1936) are used, as if training images were found independently.

    Args:
        distinct: Training images matched by at least one generated image.
        trials: Generated images.
        most_per_image: Most training images that one generated image can match. Without such
            a limit no upper bound can hold: a large group may be there and not yet seen. With
            1 stated and groups of 10 present, coverage of a 95 % bound falls to 58 %.
        confidence: Of each bound.

    Raises:
        ValueError: On a negative count, or ``trials`` or ``most_per_image`` below 1.
    """
    _check(trials, confidence=confidence)
    if distinct < 0 or most_per_image < 1:
        raise ValueError(
            f"need distinct >= 0 and most_per_image >= 1, got {distinct} and {most_per_image}"
        )
    groups = distinct / most_per_image
    if groups <= trials:
        lower, upper = _binomial_bounds(groups, trials, confidence=confidence)
    else:
        lower = float(special.gammaincinv(groups, 1 - confidence)) / trials
        upper = float(special.gammaincinv(groups + 1, confidence)) / trials
    return Estimate(
        value=distinct / trials,
        lower=lower * most_per_image,
        upper=upper * most_per_image,
        confidence=confidence,
        num_trials=trials,
    )


def excluded_rate(trials: int, *, confidence: float = 0.95) -> float:
    """Smallest rate that would have shown at least one hit in ``trials`` with ``confidence``.

    Example:
        >>> f"{excluded_rate(1000):.4f}"
        '0.0030'
    """
    _check(trials, confidence=confidence)
    return -math.expm1(math.log1p(-confidence) / trials)


def required_trials(limit: float, *, confidence: float = 0.95) -> int:
    """Fewest trials whose zero hits put the upper bound at or below ``limit``.

    Raises:
        ValueError: Unless ``limit`` and ``confidence`` lie strictly between 0 and 1.

    Example:
        >>> required_trials(0.01), required_trials(0.001)
        (299, 2995)
    """
    _check(1, confidence=confidence, limit=limit)

    def passes(trials: int) -> bool:
        return _binomial_bounds(0, trials, confidence=confidence)[1] <= limit

    # the formula is right up to rounding; the bound itself decides
    return _first(passes, 0, math.ceil(math.log1p(-confidence) / math.log1p(-limit)) + 2)


def trials_to_settle(
    observed_rate: float, limit: float, *, confidence: float = 0.95, maximum: int = 10**9
) -> int | None:
    """Fewest trials at which the observed rate, if it stays, decides about ``limit``.

    With ``round(observed_rate * n)`` hits of ``n``, a rate below the limit is settled when the
    upper bound is at or below the limit, a rate above it when the lower bound is above it.

    Returns:
        The smallest such ``n``; ``None`` if there is none up to ``maximum``, as when the
        observed rate equals the limit.

    Raises:
        ValueError: Unless the rate lies in [0, 1], and limit and confidence within (0, 1).

    Example:
        >>> trials_to_settle(0.002, 0.01), trials_to_settle(0.01, 0.01)
        (473, None)
    """
    _check(1, confidence=confidence, limit=limit)
    if not 0 <= observed_rate <= 1:
        raise ValueError(f"observed_rate must lie in [0, 1], got {observed_rate}")
    if observed_rate == limit:
        return None

    most = round(observed_rate * maximum)
    settles = _Settling(rate=observed_rate, limit=limit, confidence=confidence, maximum=maximum)
    # the margin to the limit is convex in the hits and ends positive, so it crosses zero once;
    # whole trials blur the crossing by a few hits, by more the nearer the rate is to the limit
    found = _first(settles.somewhere, -1, most + 1)
    blurred = 4 + int(4 * observed_rate * limit / abs(observed_rate - limit))
    nearby = range(max(found - min(blurred, _MOST_BLURRED), 0), min(found, most) + 1)
    return next((settles.first_trials(hits) for hits in nearby if settles.somewhere(hits)), None)


@dataclass(frozen=True, kw_only=True)
class PowerLawTail:
    """Distribution of positive values: as observed above ``threshold``, a power law below."""

    threshold: float  # the (tail_size + 1)-th smallest value
    tail_share: float  # tail_size / num_values, share of the values below the threshold
    exponent: float  # P(value < r) ~ r ** exponent below the threshold, unbiased
    exponent_lower: float  # its one-sided lower bound, the one that extrapolates
    num_values: int
    body: NDArray[np.float64] = field(repr=False, compare=False)  # values from the threshold up

    def quantile(self, probability: float) -> float:
        """Value ``r`` with ``P(value < r) = probability``, for probabilities in (0, 1]."""
        if not 0 < probability <= 1:
            raise ValueError(f"probability must lie in (0, 1], got {probability}")
        if probability < self.tail_share:
            ratio = probability / self.tail_share
            return float(self.threshold * ratio ** (1 / self.exponent_lower))
        return float(np.interp(probability, self._shares(), self.body))

    def probability(self, value: float) -> float:
        """``P(V < value)``, the inverse of :meth:`quantile`; 0 at 0, 1 from the maximum up."""
        if not value >= 0:
            raise ValueError(f"value must be at least 0, got {value}")
        if value < self.threshold:
            return float(self.tail_share * (value / self.threshold) ** self.exponent_lower)
        return float(np.interp(value, self.body, self._shares()))

    def _shares(self) -> NDArray[np.float64]:
        return np.linspace(self.tail_share, 1, len(self.body))


def power_law_tail(values: ArrayLike, *, tail_size: int, confidence: float = 0.95) -> PowerLawTail:
    """Fit the lower tail of positive distances, to say how small is too small for chance.

    Distances from independent points to their nearest neighbour follow ``P(d < r) ~ r ** m`` near
    zero, ``m`` being the intrinsic dimension (Levina & Bickel, NIPS 2004). Then the logarithms
    ``log(threshold / d)`` of the ``tail_size`` smallest are exponential with rate ``m``, and
    their sum ``S`` is Gamma: ``exponent = (tail_size - 1) / S`` is unbiased (Hill 1975 has
    ``tail_size / S``), and ``2 * m * S`` is chi-square with ``2 * tail_size`` degrees of freedom,
    which gives ``exponent_lower`` exactly. The lower exponent makes extrapolated quantiles
    smaller, so fewer strangers pass for copies: for true power laws they stay at or below the
    truth in about ``confidence`` of the cases far from the threshold, less often near it (92 %
    at a fifth of the tail share), and more often where the tail steepens towards zero.
    Near-duplicates among the values pull the quantiles towards 0, which hides copies: even one
    in 400 takes a quarter off the quantile at 1e-4, so remove them first.

    Args:
        values: ``(num_values,)`` positive distances or ratios, any order and unit.
        tail_size: Values in the tail, from 2 to half of them.
        confidence: Of ``exponent_lower``.

    Raises:
        ValueError: If the values are too few, not finite, not positive or equal in the tail.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    _check(1, confidence=confidence)
    if ordered.ndim != 1 or not 2 <= tail_size <= len(ordered) // 2:
        raise ValueError(
            f"tail_size must be 2 to half of a flat list, got {tail_size} for {ordered.shape}"
        )
    if not (np.isfinite(ordered).all() and ordered[0] > 0):
        raise ValueError(
            f"values must be finite and positive, got a range of {ordered[0]} to {ordered[-1]}. "
            "A 0 is an exact duplicate: remove duplicates before fitting the tail"
        )
    threshold = float(ordered[tail_size])
    log_sum = float(np.log(threshold / ordered[:tail_size]).sum())
    if log_sum <= 0:
        raise ValueError(f"the {tail_size + 1} smallest values all equal {threshold}: no tail")
    return PowerLawTail(
        threshold=threshold,
        tail_share=tail_size / len(ordered),
        exponent=(tail_size - 1) / log_sum,
        exponent_lower=float(special.gammaincinv(tail_size, 1 - confidence)) / log_sum,
        num_values=len(ordered),
        body=ordered[tail_size:],
    )


@dataclass(frozen=True, kw_only=True)
class _Settling:
    """Where ``round(rate * n)`` hits of ``n`` decide about the limit."""

    rate: float
    limit: float
    confidence: float
    maximum: int

    def __call__(self, hits: int, trials: int) -> bool:
        lower, upper = _binomial_bounds(hits, trials, confidence=self.confidence)
        return upper <= self.limit if self.rate < self.limit else lower > self.limit

    def trials_with(self, hits: int) -> tuple[int, int]:
        """First and last number of trials at which the rate means this many hits."""
        end = self.maximum + 1
        start = _first(lambda n: round(self.rate * n) >= hits, 0, end)
        return start, _first(lambda n: round(self.rate * n) > hits, 0, end) - 1

    def somewhere(self, hits: int) -> bool:
        # at equal hits, more trials help a rate below the limit and hurt one above it
        start, stop = self.trials_with(hits)
        return start <= stop and self(hits, stop if self.rate < self.limit else start)

    def first_trials(self, hits: int) -> int:
        start, stop = self.trials_with(hits)
        return start if self(hits, start) else _first(lambda n: self(hits, n), start, stop)


def _first(holds: Callable[[int], bool], low: int, high: int) -> int:
    """Smallest ``n`` in ``(low, high)`` at which a claim that stays true holds; else ``high``."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _binomial_bounds(successes: float, trials: int, *, confidence: float) -> tuple[float, float]:
    """Clopper-Pearson bounds as beta quantiles, continued to fractions of a success."""
    failures = trials - successes
    lower = special.betaincinv(successes, failures + 1, 1 - confidence) if successes > 0 else 0.0
    upper = special.betaincinv(successes + 1, failures, confidence) if failures > 0 else 1.0
    return float(lower), float(upper)


def _check(trials: int, *, confidence: float, limit: float = 0.5) -> None:
    if trials < 1:
        raise ValueError(f"trials must be at least 1, got {trials}")
    for name, value in (("confidence", confidence), ("limit", limit)):
        if not 0 < value < 1:
            raise ValueError(f"{name} must lie strictly between 0 and 1, got {value}")
