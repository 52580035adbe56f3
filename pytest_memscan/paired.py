"""Then against now: exact one-sided tests of whether something became more.

Every p-value is the chance of an increase at least as large if nothing increased. What varies
together (images of equal seeds) is compared in pairs; where only totals are left, the tests take
the two sides as independent, which makes p too large, never too small, for sides that rise and
fall together.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import special


def more_than_before(now: int, before: int) -> float:
    """Chance of ``now`` or more of ``now + before``, if each is as likely on either side.

    ``P(X >= now)`` for ``X ~ Binomial(now + before, 1/2)``, which is three exact tests in one:

    - **McNemar** (1947, Psychometrika 12), exact: ``now`` images are copies now and were none
      before, ``before`` the other way round; images that did not change say nothing.
    - The **sign test** of findings: ``now`` are new, ``before`` are gone.
    - Two **Poisson counts** given their sum (Przyborowski & Wilenski 1940, Biometrika 31), for
      what has no identity.

    Raises:
        ValueError: A negative number.

    Example:
        >>> more_than_before(5, 0), more_than_before(0, 0)
        (0.03125, 1.0)
    """
    if now < 0 or before < 0:
        raise ValueError(f"need numbers of at least 0, got {now} and {before}")
    return float(special.betainc(now, before + 1, 0.5)) if now else 1.0


def higher_share(successes: int, trials: int, before: int, trials_before: int) -> float:
    """Chance of so many of all successes falling into the trials of now: Fisher's exact test.

    Hypergeometric, given the sum of successes (Fisher 1935, The Design of Experiments).

    Args:
        successes: Of now, in ``[0, trials]``.
        trials: Of now, at least 1.
        before: Successes then, in ``[0, trials_before]``.
        trials_before: Of then, at least 1.

    Raises:
        ValueError: A number out of range.

    Example:
        >>> round(higher_share(3, 3, 0, 3), 12)
        0.05
    """
    for count, total in ((successes, trials), (before, trials_before)):
        if total < 1 or not 0 <= count <= total:
            raise ValueError(f"{count} successes of {total} trials")
    marked, population = successes + before, trials + trials_before
    least, most = max(0, marked - trials_before), min(marked, trials)

    def chance(k: NDArray[np.int64]) -> float:
        ways = _log_ways(trials, k) + _log_ways(trials_before, marked - k)
        return float(np.exp(ways - _log_ways(population, np.array(marked))).sum())

    # the tail that is small is summed: taking a sum from 1 would leave rounding errors of it
    if successes * population > marked * trials:
        return min(1.0, chance(np.arange(successes, most + 1)))
    return max(0.0, 1 - chance(np.arange(least, successes)))


def fewest_significant(p_value: Callable[[int], float], *, level: float, most: int) -> int | None:
    """Smallest number, up to ``most``, whose p-value is at most ``level``; None if there is none.

    Args:
        p_value: Falls (or stays) as its argument grows.
        level: In (0, 1).
        most: At least 0.

    Example:
        >>> fewest_significant(lambda new: more_than_before(new, 0), level=0.05, most=100)
        5
    """
    if p_value(most) > level:
        return None
    low, high = -1, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if p_value(middle) <= level else (middle, high)
    return high


def _log_ways(number: int, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
    ways: NDArray[np.float64] = -special.betaln(chosen + 1, number - chosen + 1) - np.log(
        number + 1
    )
    return ways
