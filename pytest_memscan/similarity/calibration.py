"""How close two different real images come, and what a generated image must undercut.

The published cuts say nothing about how often images that are *not* copies reach them; at low
resolution that is often. The *null* does: the dissimilarity of each real image from the nearest
training image other than itself (leave-one-out), or of held-out images from the training images.
A generated image is a confirmed copy only when it is closer than all but a share
``FALSE_MATCHES / num_generated`` of such real images would be, so that a model that makes new
images, however close, has ``FALSE_MATCHES`` expected false alarms in the *whole* scan. From
``FALSE_MATCHES / MIN_PROBABILITY`` images on, the share stays at ``MIN_PROBABILITY``, since a cut
that shrinks with every image would end up confirming nothing; the false alarms then expected
are printed, and subtracted from the lower bound of what was extracted.

That share is smaller than one image of the null, so its tail is continued by the power law that
nearest-neighbour distances follow (`statistics.power_law_tail`), with the lower confidence
bound of the exponent: the cut errs towards fewer confirmed copies. One minus a cosine is half the
squared distance of two unit vectors, so it follows a power law too, of half the exponent.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.metrics import Level, similarity_levels
from pytest_memscan.reports.text import cut_text
from pytest_memscan.results import Calibration, Measure
from pytest_memscan.statistics import PowerLawTail, power_law_tail

FALSE_MATCHES = 0.05  # expected in a whole scan of a model that copies nothing
MIN_PROBABILITY = 1e-5  # of a false match, below which the cut does not go
MIN_NULL = 10  # real images; with fewer no tail can be fitted
TAIL_SHARE = 0.1  # of the null that counts as its tail
MIN_TAIL = 40  # smallest ratios, unless that is more than half of the null
MAX_TAIL = 500  # deeper in the tail the power law holds better
REPORTED_QUANTILES = (0.001, 0.01, 0.05, 0.5)
LEVEL_SHARES = (0.1, 0.01, 0.001)  # of images that copy nothing, at low, mid and high


def fit_null(null: NDArray[np.float64]) -> PowerLawTail:
    """Distribution of the dissimilarity of real images from other training images.

    Args:
        null: ``(num_null,)`` dissimilarity from the nearest other training image,
            near-duplicates removed.

    Raises:
        ValueError: Fewer than ``MIN_NULL`` values.
    """
    if len(null) < MIN_NULL:
        raise ValueError(f"{len(null)} real images cannot be calibrated on; {MIN_NULL} are needed")
    wanted = min(MAX_TAIL, max(MIN_TAIL, round(TAIL_SHARE * len(null))))
    return power_law_tail(null, tail_size=min(wanted, len(null) // 2))


def calibrate(
    null: NDArray[np.float64],
    *,
    source: str,
    num_generated: int,
    level_cut: float,
    measure: Measure,
    caveat: str = "",
    least_probability: float = MIN_PROBABILITY,
) -> tuple[Calibration, float]:
    """The cut that a confirmed copy reaches, and the same as a dissimilarity.

    Args:
        null: As for `fit_null`.
        source: "leave-one-out" or "held-out".
        num_generated: Valid generated images in the scan.
        level_cut: Cut of the closest level; confirmed matches lie below it too.
        measure: Units of the scores in the result.
        caveat: Added to the rule, where the measure has a weakness here.
        least_probability: Of a false match of one image; the cut goes no lower.

    Raises:
        ValueError: Too few real images.
    """
    tail = fit_null(null)
    probability = max(least_probability, FALSE_MATCHES / num_generated)
    cut = min(level_cut, tail.quantile(probability))
    at_cut = tail.probability(cut)
    calibration = Calibration(
        source=source,
        num_null=len(null),
        null_closest=measure.score(float(null.min())),
        null_quantiles={
            f"{share:g}": measure.score(float(np.quantile(null, share)))
            for share in REPORTED_QUANTILES
        },
        tail_size=round(tail.tail_share * tail.num_values),
        tail_exponent=tail.exponent,
        tail_exponent_lower=tail.exponent_lower,
        false_match_probability=at_cut,
        confirmed_cut=measure.score(cut),
        expected_false_matches=at_cut * num_generated,
        rule=_rule(source, len(null), measure, measure.score(cut), at_cut * num_generated) + caveat,
    )
    return calibration, cut


def levels_of_null(null: NDArray[np.float64]) -> tuple[Level, ...]:
    """Levels for a descriptor that nobody published any for.

    Low, mid and high are the similarities that an image which copies nothing reaches with a
    training image in one of 10, 100 and 1,000 cases.

    Raises:
        ValueError: Too few real images, or so alike that there are no three different cuts.
    """
    tail = fit_null(null)
    return similarity_levels(*(1 - tail.quantile(share) for share in LEVEL_SHARES))


def _rule(source: str, num_null: int, measure: Measure, cut: float, expected: float) -> str:
    real = "training images left out one by one" if source == "leave-one-out" else "held-out images"
    return (
        f"a match is a confirmed copy at a {cut_text(measure, cut)}: high level, and closer than "
        f"{num_null} {real} lead one to expect of any image that is not a copy "
        f"({expected:.2g} false matches expected in the whole scan)"
    )
