"""Groups of near-duplicates, and what is nearest when a group counts once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pytest_memscan.similarity import duplicates as module
from pytest_memscan.similarity.duplicates import (
    DuplicateGroups,
    TooManyError,
    near_duplicate_groups,
    nearest_groups,
    random_pair_distance,
)

Found = tuple[NDArray[np.float64], NDArray[np.int64]]


def groups_of(labels: list[int]) -> DuplicateGroups:
    """Groups from a label for each training image, the lowest id representing each."""
    first = {label: labels.index(label) for label in labels}
    representatives = sorted(first.values())
    position = {first_id: index for index, first_id in enumerate(representatives)}
    group_of = np.array([position[first[label]] for label in labels])
    return DuplicateGroups(representatives=np.array(representatives), group_of=group_of)


def search_of(table: NDArray[np.float64]) -> object:
    """An exhaustive search of a table of distances ``(num_rows, num_train)``."""

    def search(rows: NDArray[np.int64], k: int) -> Found:
        order = np.argsort(table[rows], axis=1, kind="stable")[:, :k]
        return np.take_along_axis(table[rows], order, axis=1), order

    return search


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    num_train=st.integers(1, 40),
    num_labels=st.integers(1, 12),
    k=st.integers(1, 15),
    reach=st.one_of(st.none(), st.floats(0, 1)),
)
def test_nearest_groups_are_those_of_the_definition(
    seed: int, num_train: int, num_labels: int, k: int, reach: float | None
) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_labels, num_train).tolist()
    table = rng.random((4, num_train))
    groups = groups_of(labels)
    distances, train_ids = nearest_groups(search_of(table), 4, groups, k=k, within=reach)  # type: ignore[arg-type]
    for row in range(4):
        closest = {
            labels.index(label): min(
                table[row, one] for one in range(num_train) if labels[one] == label
            )
            for label in set(labels)
        }
        ordered = sorted(closest.items(), key=lambda item: item[1])
        wanted = max(
            min(k, len(ordered)),
            0 if reach is None else sum(distance <= reach for _, distance in ordered),
        )
        assert train_ids[row, :wanted].tolist() == [one for one, _ in ordered[:wanted]]
        np.testing.assert_array_equal(distances[row, :wanted], [d for _, d in ordered[:wanted]])
        assert ((train_ids[row] >= 0) == np.isfinite(distances[row])).all()


def test_a_row_can_leave_its_own_group_out() -> None:
    own_image_left_out = np.array([[np.inf, 0.1, 0.7, 0.3]])
    distances, train_ids = nearest_groups(
        search_of(own_image_left_out),  # type: ignore[arg-type]
        1,
        groups_of([0, 0, 1, 2]),
        k=5,
        own=np.array([0]),
    )
    assert train_ids.tolist() == [[3, 2]]
    assert distances.tolist() == [[0.3, 0.7]]


def test_more_look_alikes_than_can_be_listed_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WITHIN", 20)
    table = np.zeros((2, 100))
    with pytest.raises(TooManyError, match="more than 20"):
        nearest_groups(search_of(table), 2, groups_of(list(range(100))), k=5, within=0.5)  # type: ignore[arg-type]


def test_rows_are_searched_in_parts_when_lists_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A family of many copies needs long lists, for the rows near it only."""
    monkeypatch.setattr(module, "_MAX_CELLS", 50)
    labels = [0] * 90 + list(range(1, 11))
    table = np.random.default_rng(0).random((7, 100))
    table[2, :90] = 0.001  # this row sees the family first
    calls: list[tuple[int, int]] = []

    def search(rows: NDArray[np.int64], k: int) -> Found:
        calls.append((len(rows), k))
        return search_of(table)(rows, k)  # type: ignore[operator, no-any-return]

    distances, train_ids = nearest_groups(search, 7, groups_of(labels), k=4)
    assert distances.shape == train_ids.shape == (7, 4)
    assert np.isfinite(distances).all()
    assert all(rows * k <= max(50, k) for rows, k in calls)


def test_chains_join_and_strangers_stay() -> None:
    distances = np.array([[0.01, 1.0], [0.01, 0.02], [0.02, 1.0], [0.9, 1.0]])
    train_ids = np.array([[1, 3], [0, 2], [1, 3], [0, 1]])
    groups = near_duplicate_groups(
        distances, train_ids, rows=np.arange(4), num_train=5, typical_distance=1.0
    )
    assert groups.representatives.tolist() == [0, 3, 4]
    assert groups.group_of.tolist() == [0, 0, 0, 1, 2]
    assert groups.redundant.tolist() == [1, 2]
    assert groups.largest(9) == ((0, 1, 2),)
    assert groups.representative_of(np.array([2, 4])).tolist() == [0, 4]


def test_the_distance_of_random_pairs_is_that_of_all_pairs() -> None:
    vectors = np.random.default_rng(0).normal(size=(80, 6)).astype(np.float32)
    squares = [
        float(np.square(one - other).sum()) for one in vectors.astype(float) for other in vectors
    ]
    assert random_pair_distance(vectors) == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-6)
