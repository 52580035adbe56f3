"""Training images that are there more than once.

What a model saw several times it copies first (Carlini et al. 2023, section 4.2), so a training set
with duplicates is the cheapest leak to mend. No checkpoint is attacked here: the groups are those
that every scan merges before it counts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.results import Duplicates
from pytest_memscan.similarity.reference import Reference

MAX_LISTED = 50  # groups named in a report


def find_duplicates(reference: Reference, vectors: NDArray[Any]) -> Duplicates:
    """Count the groups of (near-)duplicates and the images that could go.

    Args:
        reference: Training images with their groups.
        vectors: ``(num_train, ...)`` pixels, or descriptors where there are no pixels: what two
            identical images have in common.
    """
    groups = reference.groups
    redundant = groups.redundant
    originals = groups.representative_of(redundant)
    return Duplicates(
        num_images=len(groups.group_of),
        num_groups=len(np.unique(originals)),
        num_redundant=len(redundant),
        num_identical=sum(
            np.array_equal(vectors[one], vectors[other])
            for one, other in zip(redundant.tolist(), originals.tolist(), strict=True)
        ),
        largest=groups.largest(MAX_LISTED),
        num_searched=reference.num_compared,
        measure=reference.distance_name,
    )
