"""Isolated groups against an enumeration of all subsets, and chance against simulated chance."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pytest_memscan.similarity import repeats as module
from pytest_memscan.similarity.duplicates import Search
from pytest_memscan.similarity.repeats import (
    MAX_DIMENSION,
    _mean_of_logs,
    counting_sizes,
    expected_by_chance,
    isolated_groups,
    local_dimensions,
)

Floats = NDArray[np.float64]
FAR = 1e9  # so that all images are one group


def table_of(points: Floats, *, torus: bool = False) -> Floats:
    """``(num, num)`` L2 distances; on the torus of unit side there are no edges."""
    apart = np.abs(points[:, None] - points[None])
    if torus:
        apart = np.minimum(apart, 1 - apart)
    return np.sqrt(np.square(apart).sum(axis=2))


def search_of(table: Floats) -> Search:
    """An exhaustive search that leaves a row's own image out."""
    without_own = table + np.diag(np.full(len(table), np.inf))

    def search(rows: NDArray[np.int64], k: int) -> tuple[Floats, NDArray[np.int64]]:
        order = np.argsort(without_own[rows], axis=1, kind="stable")[:, :k]
        return np.take_along_axis(without_own[rows], order, axis=1), order

    return search


def by_definition(
    table: Floats, reach: Floats, isolation: float
) -> list[tuple[tuple[int, ...], float, float]]:
    """Isolated groups among all subsets, those within a larger one removed."""
    everyone = range(len(table))
    isolated = []
    for size in range(2, len(table) + 1):
        for members in combinations(everyone, size):
            diameter = max(table[one, other] for one, other in combinations(members, 2))
            others = [one for one in everyone if one not in members]
            gap = min([reach[one] for one in members])
            gap = min([gap, *(table[one, other] for one in members for other in others)])
            if diameter <= isolation * gap and gap > 0:
                isolated.append((members, diameter, gap))
    outermost = [
        each for each in isolated if not any(set(each[0]) < set(other[0]) for other in isolated)
    ]
    return sorted(outermost, key=lambda each: (-len(each[0]), each[0]))


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    num_images=st.integers(1, 9),
    num_places=st.integers(1, 4),
    spread=st.sampled_from([0.0, 0.02, 0.1]),
    reach=st.sampled_from([0.05, 0.5, 2.0, FAR]),
    isolation=st.sampled_from([0.1, 0.5, 0.9]),
    on_grid=st.booleans(),
)
def test_groups_are_those_of_the_definition(
    seed: int,
    num_images: int,
    num_places: int,
    spread: float,
    reach: float,
    isolation: float,
    on_grid: bool,
) -> None:
    rng = np.random.default_rng(seed)
    points = rng.random((num_places, 2))[rng.integers(0, num_places, num_images)]
    points += rng.normal(scale=spread, size=points.shape)
    if on_grid:
        points = points.round(1)  # equal images and equal distances
    table, reaches = table_of(points), reach * rng.uniform(0.5, 1, num_images)
    found = isolated_groups(search_of(table), reaches, isolation=isolation)
    assert [(each.members, each.diameter, each.gap) for each in found] == by_definition(
        table, reaches, isolation
    )


def test_long_lists_are_made_only_where_groups_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NUM_NEIGHBOURS", 4)
    monkeypatch.setattr(module, "_MAX_CELLS", 60)
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.random((60, 8)), np.tile(rng.random((1, 8)), (30, 1))])
    points += rng.normal(scale=1e-3, size=points.shape)
    search, asked = search_of(table_of(points)), []

    def watched(rows: NDArray[np.int64], k: int) -> tuple[Floats, NDArray[np.int64]]:
        asked.extend((int(row), k) for row in rows)
        assert len(rows) * k <= max(60, k)
        return search(rows, k)

    groups = isolated_groups(watched, np.full(90, 0.5))
    assert [each.members for each in groups] == [tuple(range(60, 90))]
    assert {row for row, k in asked if k > 5} == set(range(60, 90))


def test_everything_the_same_is_one_group_and_noise_is_none() -> None:
    points = np.random.default_rng(0).random((200, 6))
    collapsed = table_of(0.5 + 1e-3 * points)
    (group,) = isolated_groups(search_of(collapsed), np.full(200, 0.3))
    assert len(group.members) == 200
    assert group.diameter == collapsed.max()
    assert group.gap == 0.3
    # as far from each other as from a blank picture: they show nothing they could share
    assert isolated_groups(search_of(collapsed), np.full(200, 1e-4)) == []


@pytest.mark.parametrize("dimension", [1, 2, 4])
def test_the_dimension_is_that_of_the_space(dimension: int) -> None:
    points = np.random.default_rng(dimension).random((1500, dimension))
    search = search_of(table_of(points, torus=True))
    assert local_dimensions(search, 1500, []).mean() == pytest.approx(dimension, rel=0.03)


def test_a_group_counts_as_one_image_for_the_dimension_of_others() -> None:
    rng = np.random.default_rng(3)
    apart = rng.random((400, 3))
    apart[:200] += 5.0  # so that no group is among the neighbours of the others
    points = np.concatenate([apart, apart[:200] + 1e-6])
    search = search_of(table_of(points))
    pairs = isolated_groups(search, np.full(600, 0.001))
    assert {each.members for each in pairs} == {(one, 400 + one) for one in range(200)}
    alone = local_dimensions(search_of(table_of(apart)), 400, [])
    together = local_dimensions(search, 600, pairs)
    np.testing.assert_allclose(together[200:400], alone[200:])
    np.testing.assert_array_equal(together[:200], together[400:])
    # they stand for their nearest neighbours, so the others are farther than chance had them
    assert (together[:200] < alone[:200]).all()


@pytest.mark.parametrize("group_size", [1, 3, 8])
def test_the_sum_of_logarithms_has_its_mean(group_size: int) -> None:
    steps = np.random.default_rng(0).exponential(size=(20_000, group_size + 19))
    volumes = steps.cumsum(axis=1)[:, group_size - 1 :]
    logs = np.log(volumes[:, -1:] / volumes[:, :-1]).sum(axis=1)
    (mean,) = _mean_of_logs(np.array([group_size]), 20)
    assert mean == pytest.approx(logs.mean(), rel=0.01)
    if group_size == 1:
        assert mean == pytest.approx(19)


def test_too_few_images_have_no_dimension_and_equal_distances_a_large_one() -> None:
    points = np.random.default_rng(0).random((10, 3))
    assert local_dimensions(search_of(table_of(points)), 10, []).size == 0
    corners = np.eye(30)
    found = local_dimensions(search_of(table_of(corners)), 30, [])
    np.testing.assert_allclose(found, MAX_DIMENSION)


@settings(deadline=None)
@given(dimension=st.floats(0.5, 30), isolation=st.floats(0.05, 0.7), group_size=st.integers(2, 6))
def test_chance_is_the_closed_form_of_its_series(
    dimension: float, isolation: float, group_size: int
) -> None:
    share = isolation**dimension
    every = -np.log1p(-share) / share - 1  # sum of share ** (s - 1) / s from s = 2
    small = sum(share ** (size - 1) / size for size in range(2, group_size))
    (found,) = expected_by_chance(
        np.array([dimension]), np.array([group_size]), num_images=10_000, isolation=isolation
    )
    assert found == pytest.approx(10_000 * (every - small), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("dimension", [1, 2, 3])
def test_scattered_points_form_no_more_groups_than_expected(dimension: int) -> None:
    observed = np.zeros(3)
    for seed in range(20):
        points = np.random.default_rng(seed).random((300, dimension))
        groups = isolated_groups(search_of(table_of(points, torus=True)), np.full(300, 0.5))
        sizes = np.array([len(each.members) for each in groups])
        observed += [(sizes >= size).sum() for size in (2, 3, 4)]
    bounds = expected_by_chance(np.full(3, float(dimension)), np.array([2, 3, 4]), num_images=300)
    assert observed[0] > 0
    assert (observed <= 20 * bounds).all()


@given(
    dimensions=st.lists(st.floats(0.5, 40), min_size=1, max_size=5),
    num_images=st.integers(20, 100_000),
)
def test_the_smallest_size_that_chance_does_not_explain(
    dimensions: list[float], num_images: int
) -> None:
    sizes = counting_sizes(np.array(dimensions), num_images=num_images, smallest=3, expected=0.05)
    at, below = (
        expected_by_chance(np.array(dimensions), sizes - less, num_images=num_images)
        for less in (0, 1)
    )
    assert (at <= 0.05).all()
    assert ((sizes == 3) | (below > 0.05)).all()
