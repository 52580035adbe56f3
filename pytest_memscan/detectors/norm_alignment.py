"""Norm and alignment together (Asthana and Belagiannis, ICLR 2026), without labelled prompts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def norm_alignment(
    norms: Floats, alignments: Floats, *, negative_norms: Floats, negative_alignments: Floats
) -> Floats:
    """Sum of both parts, each in standard deviations above the mean of the negatives.

    The paper adds ``g1 * cosine + g2 * norm`` with weights that a logistic regression finds on
    labelled prompts, or 1 and 1. Labels are what a scan does not have; the negatives give the
    two parts a common scale instead. Ours.

    Args:
        norms: ``(num_prompts,)``, `scores.noise_magnitude` at the first step.
        alignments: ``(num_prompts,)``, `scores.alignment` near timestep 0.
        negative_norms: ``(num_negatives,)``, the same of prompts that were not trained on; what
            is not finite is left out.
        negative_alignments: ``(num_negatives,)``.

    Returns:
        ``(num_prompts,)``, around 0 for negatives, higher on memorised prompts. NaN where a part
        is, and everywhere if the negatives do not differ.

    Raises:
        ValueError: Fewer than two finite negatives.
    """
    return _standardised(norms, negative_norms) + _standardised(alignments, negative_alignments)


def _standardised(values: Floats, negatives: Floats) -> Floats:
    negatives = negatives[np.isfinite(negatives)]
    if len(negatives) < 2:
        raise ValueError(f"{len(negatives)} negatives have a score; at least 2 are needed")
    deviation = negatives.std(ddof=1)
    if deviation == 0:
        return np.full(values.shape, np.nan)
    standardised: Floats = (values - negatives.mean()) / deviation
    return standardised
