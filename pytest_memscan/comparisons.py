"""One attack against another on equally many images: how many times as much it brought out.

Ratios live on a logarithmic scale, so their bounds are the estimate times and over a factor. Every
bound is one-sided and holds with probability ``confidence`` on its own; two sets of images are
taken as independent. Made from the same seeds they vary together, which makes the bounds wider
than they need to be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy import special

from pytest_memscan.rarefaction import expected_unique
from pytest_memscan.results import Estimate

_HALF = 0.5  # added to every count where one is 0 (Walter 1975, Biometrika 62)


def ratio_of_proportions(
    successes: int, trials: int, other_successes: int, other_trials: int, *, confidence: float
) -> Estimate:
    """Share of trials that succeeded over that of other trials (AMS over AMS).

    Bounds by the logarithmic method (Katz et al. 1978, Biometrics 34): the logarithm of the ratio
    is close to normal with variance ``1/k - 1/n + 1/K - 1/N``.

    Returns:
        Infinite where only the others are without a success; 1 where both are. There the bounds
        come from counts with a half added to each.

    Raises:
        ValueError: Unless ``0 <= successes <= trials``, ``trials >= 1``, for both.

    Example:
        >>> ratio_of_proportions(20, 100, 10, 100, confidence=0.95).value
        2.0
    """
    for count, total in ((successes, trials), (other_successes, other_trials)):
        if total < 1 or not 0 <= count <= total:
            raise ValueError(f"{count} successes of {total} trials")
    some, of, others, among = float(successes), trials, float(other_successes), other_trials
    if some and others:
        value = (some / of) / (others / among)
        centre = math.log(value)
    else:
        value = math.inf if some else (0.0 if others else 1.0)
        some, others = some + _HALF, others + _HALF
        centre = math.log((some / (of + _HALF)) / (others / (among + _HALF)))
    spread = math.sqrt(max(0.0, 1 / some - 1 / of) + max(0.0, 1 / others - 1 / among))
    return _estimate(value, centre, spread, confidence=confidence, num_trials=trials)


def ratio_of_distinct(
    hits: Sequence[Sequence[int]], other_hits: Sequence[Sequence[int]], *, confidence: float
) -> Estimate:
    """Distinct training images matched by some images over those matched by others (UMS over UMS).

    How much each count would vary comes from the bootstrap of `rarefaction.expected_unique`, which
    makes up for the images that a plain bootstrap would miss. Five matches on either side are
    needed for that: with fewer there are no bounds but 0 and infinity.

    Args:
        hits: For each generated image, ids of the training images it matches.
        other_hits: Likewise; as many images, since distinct counts compare only then.
        confidence: Of each bound.

    Raises:
        ValueError: Different numbers of images, or none.

    Example:
        >>> ratio_of_distinct([[1], [2], [3]], [[1], [1], []], confidence=0.95).value
        3.0
    """
    if len(hits) != len(other_hits) or not hits:
        raise ValueError(f"{len(hits)} images against {len(other_hits)}; expected equally many")
    counts, spreads = [], []
    for each in (hits, other_hits):
        counts.append(len({train_id for ids in each for train_id in ids}))
        spreads.append(_spread_of_distinct(each))
    value = 1.0 if not any(counts) else (counts[0] / counts[1] if counts[1] else math.inf)
    spread = math.hypot(*spreads)
    centre = math.log(value) if 0 < value < math.inf else 0.0
    return _estimate(value, centre, spread, confidence=confidence, num_trials=len(hits))


def _spread_of_distinct(hits: Sequence[Sequence[int]]) -> float:
    """Standard deviation of the logarithm of the number of distinct matches."""
    confidence = 0.95
    (point,) = expected_unique(hits, [len(hits)], confidence=confidence)
    if point.upper is None:
        return math.inf
    return math.log(point.upper / point.expected) / float(special.ndtri(confidence))


def _estimate(
    value: float, centre: float, spread: float, *, confidence: float, num_trials: int
) -> Estimate:
    reach = float(special.ndtri(confidence)) * spread
    return Estimate(
        value=value,
        lower=math.exp(centre - reach) if math.isfinite(reach) else 0.0,
        upper=math.exp(centre + reach) if math.isfinite(reach) else math.inf,
        confidence=confidence,
        num_trials=num_trials,
    )
