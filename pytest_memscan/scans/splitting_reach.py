"""How close a copy has to be, and for how many ordinary images that can be told."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.scans.controls import least_cut
from pytest_memscan.scans.evidence import Cut, calibrate_on_real_images
from pytest_memscan.similarity.calibration import FALSE_MATCHES
from pytest_memscan.similarity.reference import Planted, Reference


def cut_within(reference: Reference, holdout: NDArray[np.uint8] | None, reach: int) -> Cut:
    """Where a match is a copy, so strictly that chance gives next to none among `reach` images."""
    return calibrate_on_real_images(
        reference, holdout, num_generated=reach, least_probability=FALSE_MATCHES / reach
    )


def shortened(
    reference: Reference,
    holdout: NDArray[np.uint8] | None,
    reach: int,
    *,
    shortest: int,
    more: Sequence[Planted] = (),
) -> int:
    """The reach, tenfold shorter as often as planted copies would not be confirmed.

    The longer the reach, the closer a copy has to be. With few different training images it may
    have to be closer than copies are, and a scan could see nothing at all.

    Args:
        reference: Training images.
        holdout: ``(num_holdout, height, width, channels)`` uint8, or None.
        reach: Images.
        shortest: It becomes no shorter.
        more: Planted copies besides those of every scan.
    """
    least = least_cut(reference, more=more)
    while reach >= 10 * shortest and cut_within(reference, holdout, reach).dissimilarity < least:
        reach //= 10
    return reach
