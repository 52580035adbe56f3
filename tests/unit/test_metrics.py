"""AMS and UMS against plain loops over the full matrix, and the properties they promise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from pytest_memscan.metrics import (
    LEVELS,
    Level,
    average_memorization_score,
    level_scores,
    matched_ids,
    num_distinct,
    unique_memorization_score,
)

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]

BANDS: list[dict[str, Any]] = [
    *({"cut": level.cut} for level in LEVELS),
    *({"cut": level.cut, "band_lower": level.band_lower} for level in LEVELS),
]


@st.composite
def matrices(draw: st.DrawFn) -> Floats:
    """Ratios ``(num_generated, num_train)`` crowded at the edges of the levels."""
    edges = [0.0, 0.7, 1.3, 1.35, 1.350001, 1.4, 1.45, 1.5, 1.6, 2.0, 2.5]
    num_generated, num_train = draw(st.integers(1, 12)), draw(st.integers(1, 8))
    cells = st.lists(st.sampled_from(edges), min_size=num_train, max_size=num_train)
    return np.array(draw(st.lists(cells, min_size=num_generated, max_size=num_generated)))


def _neighbours(matrix: Floats) -> tuple[Floats, Ids]:
    """What the search returns: each row ascending, with every ratio below 2, and the rest."""
    train_ids = np.argsort(matrix, axis=1, kind="stable")
    return np.take_along_axis(matrix, train_ids, axis=1), train_ids


def _ams_by_definition(matrix: Floats, cut: float, band_lower: float) -> float:
    counted = 0
    for row in matrix.tolist():
        closest = min(row)
        if closest <= cut and (band_lower == 0 or closest > band_lower):
            counted += 1
    return counted / len(matrix)


def _union_by_definition(matrix: Floats, cut: float, band_lower: float) -> set[int]:
    union = set()
    for row in matrix.tolist():
        for train_id, ratio in enumerate(row):
            if ratio <= cut and (band_lower == 0 or ratio > band_lower):
                union.add(train_id)
    return union


@given(matrices(), st.sampled_from(BANDS))
def test_scores_are_those_of_the_definition(matrix: Floats, band: dict[str, float]) -> None:
    ratios, train_ids = _neighbours(matrix)
    edges = (band["cut"], band.get("band_lower", 0.0))
    union = _union_by_definition(matrix, *edges)
    assert average_memorization_score(ratios, **band) == _ams_by_definition(matrix, *edges)
    assert unique_memorization_score(ratios, train_ids, **band) == len(union) / len(matrix)
    assert num_distinct(ratios, train_ids, **band) == len(union)
    matches = matched_ids(ratios, train_ids, **band)
    assert len(matches) == len(matrix)
    assert {int(train_id) for ids in matches for train_id in ids} == union


@given(matrices(), st.sampled_from(BANDS))
def test_ams_is_a_share_and_ums_at_most_ams_times_neighbours(
    matrix: Floats, band: dict[str, float]
) -> None:
    ratios, train_ids = _neighbours(matrix)
    ams = average_memorization_score(ratios, **band)
    assert 0 <= ams <= 1
    if "band_lower" not in band:
        ums = unique_memorization_score(ratios, train_ids, **band)
        assert ums <= ams * ratios.shape[1] + 1e-12


@given(matrices(), st.sampled_from(BANDS), st.integers(0, 2**32 - 1))
def test_scores_ignore_the_order_of_train_and_generated(
    matrix: Floats, band: dict[str, float], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(rng.permutation(matrix, axis=0), axis=1)
    scores = [
        (average_memorization_score(ratios, **band), num_distinct(ratios, train_ids, **band))
        for ratios, train_ids in (_neighbours(matrix), _neighbours(shuffled))
    ]
    assert scores[0] == scores[1]


@given(matrices())
def test_levels_are_nested_and_cumulative_scores_hold_their_bands(matrix: Floats) -> None:
    scores = level_scores(*_neighbours(matrix), null_probability=lambda cut: 0.0)
    assert [score.name for score in scores] == ["low", "mid", "high"]
    for score in scores:
        assert score.ams.value >= score.ams_band
        assert score.ums.value >= score.ums_band
        for estimate in (score.ams, score.ums):
            assert 0 <= estimate.lower <= estimate.value <= estimate.upper
            assert estimate.num_trials == len(matrix)
    assert scores[0].ams.value >= scores[1].ams.value >= scores[2].ams.value
    assert sum(score.ams_band for score in scores) == pytest.approx(scores[0].ams.value)


def test_exact_copy_is_inside_the_top_level_and_its_band() -> None:
    ratios, train_ids = np.array([[0.0, 2.1]]), np.array([[5, 3]])
    high = level_scores(ratios, train_ids, null_probability=lambda cut: 0.0)[-1]
    assert (high.ams.value, high.ams_band, high.ums.value, high.ums_band) == (1, 1, 1, 1)


def test_worked_example() -> None:
    """A copy of 4 and 7; another copy of 4; a mid match of 9 with 4 in the low band; a stranger."""
    ratios = np.array([[0.2, 1.3, 2.0], [0.1, 2.0, 2.1], [1.38, 1.45, 2.0], [1.9, 2.0, 2.1]])
    train_ids = np.array([[4, 7, 1], [4, 9, 1], [9, 4, 1], [2, 3, 1]])
    low, mid, high = level_scores(ratios, train_ids, null_probability=lambda cut: cut / 100)
    assert [x.ams.value for x in (low, mid, high)] == [0.75, 0.75, 0.5]
    assert [x.ums.value for x in (low, mid, high)] == [0.75, 0.75, 0.5]
    assert [x.ams_band for x in (low, mid, high)] == [0.0, 0.25, 0.5]
    assert [x.ums_band for x in (low, mid, high)] == [0.25, 0.25, 0.5]
    assert [x.expected_by_chance for x in (low, mid, high)] == pytest.approx([0.06, 0.056, 0.054])


def test_ums_can_exceed_ams_and_one() -> None:
    ratios, train_ids = np.array([[0.1, 0.2, 0.3, 2.5]]), np.array([[1, 2, 3, 4]])
    assert average_memorization_score(ratios, cut=1.35) == 1.0
    assert unique_memorization_score(ratios, train_ids, cut=1.35) == 3.0


def test_bounds_are_exact_and_follow_the_confidence() -> None:
    ratios = np.tile([1.9, 2.0], (300, 1))
    train_ids = np.tile([0, 1], (300, 1))
    ratios[:2, 0] = 1.0
    high = level_scores(ratios, train_ids, null_probability=lambda cut: 0.0, confidence=0.99)[-1]
    assert stats.binom.cdf(2, 300, high.ams.upper) == pytest.approx(0.01)
    assert stats.binom.cdf(1, 300, high.ums.upper) == pytest.approx(0.01)  # one image, twice


def test_ums_bounds_widen_when_one_image_matches_several() -> None:
    ratios = np.tile([1.9, 1.95, 2.0], (300, 1))
    train_ids = np.tile([0, 1, 2], (300, 1))
    ratios[0] = [1.0, 1.1, 2.0]
    high = level_scores(ratios, train_ids, null_probability=lambda cut: 0.0)[-1]
    assert high.ums.value == 2 / 300
    assert high.ums.upper == pytest.approx(2 * high.ams.upper)
    assert high.ums.lower == pytest.approx(2 * high.ams.lower)


def test_float32_ratios_at_an_edge_count() -> None:
    ratios = np.array([[1.35, 2.0]], dtype=np.float32)
    assert average_memorization_score(ratios, cut=1.35) == 1.0


GOOD, IDS = np.array([[1.0, 2.0]]), np.array([[0, 1]])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: average_memorization_score(np.empty((0, 3)), cut=1.4), r"shape \(0, 3\)"),
        (lambda: average_memorization_score(np.empty((3, 0)), cut=1.4), r"shape \(3, 0\)"),
        (lambda: average_memorization_score(np.ones(3), cut=1.4), r"shape \(3,\)"),
        (lambda: average_memorization_score(np.array([[1, np.nan]]), cut=1.4), "finite.*index 0"),
        (lambda: average_memorization_score(np.array([[-0.1, 2]]), cut=1.4), "at least 0"),
        (
            lambda: average_memorization_score(np.array([[1.0, 2], [2, 1]]), cut=1.4),
            "ascending.* 1 of 2 .*index 1",
        ),
        (lambda: average_memorization_score(GOOD, cut=2.0), "cut < 2, got None and 2.0"),
        (lambda: average_memorization_score(GOOD, cut=1.4, band_lower=1.4), "got 1.4 and 1.4"),
        (lambda: Level(name="odd", cut=np.nan, band_lower=0.0), "got 0.0 and nan"),
        (lambda: num_distinct(GOOD, IDS.T, cut=1.4), r"\(1, 2\).*\(2, 1\)"),
        (lambda: num_distinct(GOOD, IDS * 1.0, cut=1.4), "integers.* float64"),
        (lambda: matched_ids(GOOD, np.array([[3, 3]]), cut=1.4), "repeat an id.*index 0"),
        (
            lambda: level_scores(GOOD[:0], IDS[:0], null_probability=lambda cut: 0.0),
            r"shape \(0, 2\)",
        ),
    ],
)
def test_mistakes_are_named(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
