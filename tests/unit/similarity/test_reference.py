"""Near-duplicates, the leave-one-out null, and comparing with groups."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pytest_memscan.similarity import reference as module
from pytest_memscan.similarity.matching.pixels import nearest_neighbours
from pytest_memscan.similarity.reference import prepare

Images = NDArray[np.uint8]


def strangers(count: int, seed: int = 0) -> Images:
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


def slightly_changed(image: Images, seed: int = 1) -> Images:
    noise = np.random.default_rng(seed).integers(-4, 5, image.shape)
    return np.clip(image.astype(int) + noise, 0, 255).astype(np.uint8)


def test_different_images_stay_apart() -> None:
    made = prepare(strangers(80))
    np.testing.assert_array_equal(made.groups.representatives, np.arange(80))
    np.testing.assert_array_equal(made.groups.group_of, np.arange(80))
    assert made.groups.largest(5) == ()


def test_near_duplicates_are_merged_into_the_lowest_id() -> None:
    train = strangers(80)
    train[40] = train[3]
    train[60] = slightly_changed(train[3])
    made = prepare(train)
    assert made.groups.redundant.tolist() == [40, 60]
    assert made.groups.largest(5) == ((3, 40, 60),)


@pytest.mark.parametrize("copies", [30, 70, 120])
def test_a_large_family_of_near_duplicates_is_one_group(copies: int) -> None:
    """Such a family is its members' whole neighbourhood, which no relative rule can see."""
    train = strangers(200)
    for copy in range(1, copies):
        train[copy] = slightly_changed(train[0], seed=copy)
    made = prepare(train)
    assert len(made.groups.representatives) == 200 - copies + 1
    assert made.groups.largest(1) == (tuple(range(copies)),)


def test_a_set_of_identical_images_is_one_group() -> None:
    made = prepare(np.repeat(strangers(1), 60, axis=0))
    assert made.groups.representatives.tolist() == [0]
    assert len(made.null) == 0


def test_the_null_is_each_images_ratio_to_the_others() -> None:
    train = strangers(60)
    made = prepare(train)
    for row in range(0, 60, 13):
        others = np.delete(train, row, axis=0)
        expected = nearest_neighbours(train[row : row + 1], others).ratios[0, 0]
        assert made.null[row] == pytest.approx(expected, rel=1e-12)


def test_a_copied_duplicate_counts_for_its_group_at_its_own_distance() -> None:
    train = strangers(80)
    train[60] = slightly_changed(train[3])
    made = prepare(train)
    near = made.nearest(train[60:61])
    assert near.train_ids[0, 0] == 3
    assert near.dissimilarities[0, 0] == 0
    assert len(set(near.train_ids[0].tolist())) == near.train_ids.shape[1]


def test_duplicates_do_not_hide_a_copy() -> None:
    """Left in, 60 copies of an image would be its whole neighbourhood, and its ratio 2."""
    train = strangers(200)
    for copy in range(100, 160):
        train[copy] = slightly_changed(train[0], seed=copy)
    generated = slightly_changed(train[0], seed=999)[None]
    assert nearest_neighbours(generated, train).ratios[0, 0] > 1
    near = prepare(train).nearest(generated)
    assert near.train_ids[0, 0] == 0
    assert near.dissimilarities[0, 0] < 0.1


def test_above_a_size_only_a_sample_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ALL_PAIRS", 50)
    monkeypatch.setattr(module, "SAMPLED_ROWS", 30)
    train = strangers(200)
    whole_null = nearest_neighbours(train, train, exclude=np.arange(200)).ratios[:, 0]
    made = prepare(train)
    assert made.num_compared == 30
    assert len(made.groups.representatives) == 200
    assert len(made.null) == 30
    assert set(made.null.tolist()) <= set(whole_null.tolist())


def test_the_neighbourhood_is_of_groups_not_of_their_members() -> None:
    """Written from the definition: distance to a group is that to its closest member."""
    train = strangers(130)
    for copy in range(100, 130):
        train[copy] = slightly_changed(train[copy % 7], seed=copy)
    generated = strangers(5, seed=9)
    near = prepare(train).nearest(generated)
    flat = train.reshape(130, -1).astype(float)
    for row, image in enumerate(generated.reshape(5, -1).astype(float)):
        to_each = np.sqrt(np.square(flat - image).mean(axis=1)) / 255
        to_group = {number: to_each[number] for number in range(100)}
        for copy in range(100, 130):
            to_group[copy % 7] = min(to_group[copy % 7], to_each[copy])
        closest = sorted(to_group.items(), key=lambda item: item[1])[:50]
        scale = 0.5 * np.mean([distance for _, distance in closest])
        assert near.train_ids[row].tolist() == [number for number, _ in closest]
        np.testing.assert_allclose(
            near.dissimilarities[row], [distance / scale for _, distance in closest], rtol=1e-12
        )


def test_planted_copies_are_nearest_to_the_group_of_their_original() -> None:
    train = strangers(100)
    train[70] = train[2]
    for planted in prepare(train).planted():
        if planted.name == "jpeg":
            continue  # noise does not survive it
        assert len(planted.originals) == 59
        assert 70 not in planted.originals
