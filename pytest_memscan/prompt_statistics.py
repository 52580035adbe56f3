"""Statistics where the prompt is the unit: audits, leak rates, and scores against negatives.

Images of one prompt are not independent, prompts are. Shares of the prompts of one scan are shares
of a finite list: once all of it was looked at, nothing is uncertain any more.

Every bound is one-sided, as in `pytest_memscan.statistics`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from pytest_memscan.results import Estimate
from pytest_memscan.tails import Tail, prediction_limit, rank_p_values, tail_p_values

__all__ = [
    "Tail",
    "audit_size",
    "bootstrap",
    "holm",
    "leak_rate",
    "missed_share",
    "prediction_limit",
    "rank_p_values",
    "tail_p_values",
]

Floats = NDArray[np.float64]


def audit_size(population: int, limit: float, *, confidence: float = 0.95) -> int:
    """Smallest random sample that, if nothing is found in it, bounds the share at ``limit``.

    Drawn without replacement from ``population`` prompts; exact. No prompts need no audit.

    Raises:
        ValueError: Unless limit and confidence lie within (0, 1).

    Example:
        >>> audit_size(100, 0.05), audit_size(10**6, 0.05)
        (39, 59)
    """
    _check(confidence=confidence, limit=limit)
    if population < 1:
        return 0
    too_many = int(limit * population)
    while too_many / population <= limit:
        too_many += 1
    low, high = 0, population - too_many + 1  # a sample of `high` cannot avoid all of them
    while high - low > 1:
        middle = (low + high) // 2
        unseen = _at_most(0, population, too_many, middle)
        low, high = (low, middle) if unseen <= 1 - confidence else (middle, high)
    return high


def missed_share(
    population: int, audited: int, missed: int, *, confidence: float = 0.95
) -> Estimate:
    """Share of the screened-out prompts that are memorised, from a random sample of them.

    ``audited`` of ``population`` prompts were drawn without replacement, ``missed`` of them are
    memorised. Exact bounds, the hypergeometric counterpart of Clopper & Pearson: shares that give
    so few, or so many, with a probability of at most ``1 - confidence`` are excluded. With
    everybody audited both are the share itself; with nobody audited they are 0 and 1, and the
    value of 0 means nothing. The value is that of the sample, or the nearer bound: where nearly
    everybody was audited, the few others may be unable to make up the share of the sample.

    Raises:
        ValueError: Unless ``0 <= missed <= audited <= population``.

    Example:
        >>> missed_share(100, 39, 0).upper, missed_share(39, 39, 0).upper
        (0.05, 0.0)
    """
    _check(confidence=confidence)
    if not 0 <= missed <= audited <= population:
        raise ValueError(
            f"need 0 <= missed <= audited <= population, got {missed}, {audited}, {population}"
        )
    if population == 0:
        return Estimate(value=0.0, lower=0.0, upper=0.0, confidence=confidence)
    harmless = audited - missed

    def too_few(memorised: int) -> bool:
        return _at_most(harmless, population, population - memorised, audited) <= 1 - confidence

    def not_too_many(memorised: int) -> bool:
        return _at_most(missed, population, memorised, audited) > 1 - confidence

    lower = (_last(too_few, missed - 1, population - harmless) + 1) / population
    upper = _last(not_too_many, missed, population - harmless) / population
    return Estimate(
        value=min(max(missed / audited, lower), upper) if audited else 0.0,
        lower=lower,
        upper=upper,
        confidence=confidence,
        num_trials=audited,
    )


def leak_rate(
    num_prompts: int,
    found: int,
    *,
    screened_out: int,
    audited: int,
    missed: int,
    confidence: float = 0.95,
) -> Estimate:
    """Share of the screened prompts that are memorised: those found, and those to be expected.

    Args:
        num_prompts: Prompts screened.
        found: Memorised ones among the ``num_prompts - screened_out`` that were all sampled.
        screened_out: Prompts left out by the detectors.
        audited: Of those, sampled at random.
        missed: Of those audited, found memorised; not part of ``found``.
        confidence: Of each bound; all uncertainty is the audit's.

    Raises:
        ValueError: On counts that cannot be, or ``num_prompts`` below 1.

    Example:
        >>> rate = leak_rate(1000, 20, screened_out=900, audited=100, missed=0)
        >>> rate.lower, rate.value, rate.upper
        (0.02, 0.02, 0.045)
    """
    sampled = num_prompts - screened_out
    if num_prompts < 1 or not 0 <= found <= sampled:
        raise ValueError(
            f"need 0 <= found <= num_prompts - screened_out, got {found}, {num_prompts} and "
            f"{screened_out}"
        )
    share = missed_share(screened_out, audited, missed, confidence=confidence)
    return Estimate(
        value=(found + share.value * screened_out) / num_prompts,
        lower=(found + round(share.lower * screened_out)) / num_prompts,
        upper=(found + round(share.upper * screened_out)) / num_prompts,
        confidence=confidence,
        num_trials=sampled + audited,
    )


def bootstrap(
    values_per_prompt: ArrayLike,
    statistic: Callable[[Floats], float],
    *,
    seed: int,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Estimate:
    """Any statistic of the prompts, with percentile bootstrap bounds (Efron 1979).

    Approximate: a 95 % bound of a mean holds in 86 to 98 % of simulations with 10 prompts, 90 to
    98 % with 40, 93 to 96 % with 200 (normal, exponential and 0/1 values). Equal values give no
    spread, so for a share that may be 0 use `missed_share` or `statistics.proportion`.

    Args:
        values_per_prompt: ``(num_prompts, ...)``; rows are drawn with replacement.
        statistic: Of an array of that shape, such as ``np.mean``.
        seed: Same seed, same bounds.
        resamples: Lists of prompts drawn.
        confidence: Of each bound.

    Raises:
        ValueError: Without a prompt or a resample.

    Example:
        >>> estimate = bootstrap([1.0, 2.0, 3.0, 4.0], np.mean, seed=0)
        >>> estimate.lower < estimate.value < estimate.upper
        True
    """
    _check(confidence=confidence)
    values = np.asarray(values_per_prompt, dtype=np.float64)
    if values.ndim < 1 or not len(values) or resamples < 1:
        raise ValueError(f"need at least one prompt and resample, got {values.shape}, {resamples}")
    rng = np.random.default_rng(seed)
    drawn = [statistic(values[rng.integers(0, len(values), len(values))]) for _ in range(resamples)]
    lower, upper = np.quantile(drawn, (1 - confidence, confidence))
    return Estimate(
        value=float(statistic(values)),
        lower=float(lower),
        upper=float(upper),
        confidence=confidence,
        num_trials=len(values),
    )


def holm(p_values: ArrayLike, alpha: float) -> NDArray[np.bool_]:
    """Which hypotheses fall when any false alarm at all has a probability of at most ``alpha``.

    Step-down: the i-th smallest of m is compared with ``alpha / (m - i + 1)``, until one stands
    (Holm 1979). Holds for dependent p-values too, as those are that share their negatives.

    Raises:
        ValueError: Unless the ``(num_hypotheses,)`` p-values lie in [0, 1] and alpha in (0, 1).

    Example:
        >>> holm([0.04, 0.01, 0.03], 0.05).tolist()
        [False, True, False]
    """
    p = np.asarray(p_values, dtype=np.float64)
    _check(limit=alpha)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError("p-values must be a flat list of numbers in [0, 1]")
    order = np.argsort(p, kind="stable")
    falls = np.empty(len(p), dtype=bool)
    falls[order] = np.logical_and.accumulate(p[order] <= alpha / np.arange(len(p), 0, -1))
    return falls


def _at_most(hits: int, population: int, marked: int, drawn: int) -> float:
    """Hypergeometric: chance of at most so many marked ones in a sample without replacement."""
    k = np.arange(max(0, drawn - population + marked), min(hits, marked, drawn) + 1)
    ways = _log_ways(marked, k) + _log_ways(population - marked, drawn - k)
    return float(np.exp(ways - _log_ways(population, np.array(drawn))).sum())


def _log_ways(number: int, chosen: NDArray[np.int64]) -> Floats:
    ways: Floats = -special.betaln(chosen + 1, number - chosen + 1) - np.log(number + 1)
    return ways


def _last(holds: Callable[[int], bool], low: int, high: int) -> int:
    """Largest ``n`` in ``[low, high]`` at which a claim holds that fails from some point on."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def _check(*, confidence: float = 0.5, limit: float = 0.5) -> None:
    for name, value in (("confidence", confidence), ("limit or alpha", limit)):
        if not 0 < value < 1:
            raise ValueError(f"{name} must lie strictly between 0 and 1, got {value}")
