"""Two parts on the scale of the negatives."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_memscan.detectors.norm_alignment import norm_alignment

VALUES = st.floats(-100, 100).map(lambda value: round(value, 3))
MANY = st.lists(st.tuples(VALUES, VALUES), min_size=3, max_size=12)


@settings(deadline=None)
@given(prompts=MANY, negatives=MANY)
def test_by_definition(
    prompts: list[tuple[float, float]], negatives: list[tuple[float, float]]
) -> None:
    norms, alignments = zip(*negatives, strict=True)
    if len(set(norms)) == 1 or len(set(alignments)) == 1:
        return
    expected = [
        (norm - statistics.fmean(norms)) / statistics.stdev(norms)
        + (aligned - statistics.fmean(alignments)) / statistics.stdev(alignments)
        for norm, aligned in prompts
    ]
    combined = norm_alignment(
        np.array([norm for norm, _ in prompts]),
        np.array([aligned for _, aligned in prompts]),
        negative_norms=np.array(norms),
        negative_alignments=np.array(alignments),
    )
    assert combined.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_prompts_without_a_score_stay_without_and_do_not_calibrate() -> None:
    norms = np.array([1.0, 3.0, math.nan])
    alignments = np.array([0.0, 1.0, 0.5])
    combined = norm_alignment(
        norms, alignments, negative_norms=norms, negative_alignments=alignments
    )
    assert np.isfinite(combined[:2]).all()
    assert math.isnan(combined[2])
    assert combined[0] == pytest.approx(-math.sqrt(0.5) - 1)


def test_negatives_that_do_not_differ_give_no_scale() -> None:
    parts = {"negative_norms": np.ones(5), "negative_alignments": np.arange(5.0)}
    assert np.isnan(norm_alignment(np.ones(2), np.ones(2), **parts)).all()


def test_too_few_negatives_are_refused() -> None:
    parts = {"negative_norms": np.array([1.0, np.nan]), "negative_alignments": np.arange(2.0)}
    with pytest.raises(ValueError, match="1 negatives have a score"):
        norm_alignment(np.ones(2), np.ones(2), **parts)
