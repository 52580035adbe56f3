"""Near-duplicates, the leave-one-out null, and comparing with groups."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pytest_memscan.similarity import reference as module
from pytest_memscan.similarity.pixels import nearest_neighbours
from pytest_memscan.similarity.reference import prepare

Images = NDArray[np.uint8]


def strangers(count: int, seed: int = 0) -> Images:
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


def slightly_changed(image: Images, seed: int = 1) -> Images:
    noise = np.random.default_rng(seed).integers(-4, 5, image.shape)
    return np.clip(image.astype(int) + noise, 0, 255).astype(np.uint8)


def test_different_images_stay_apart() -> None:
    made = prepare(strangers(80))
    assert len(made.pixels) == 80
    assert len(made.duplicates) == 0
    np.testing.assert_array_equal(made.train_ids, np.arange(80))


def test_near_duplicates_are_merged_into_the_lowest_id() -> None:
    train = strangers(80)
    train[40] = train[3]
    train[60] = slightly_changed(train[3])
    made = prepare(train)
    assert len(made.pixels) == 78
    assert set(range(80)) - set(made.train_ids.tolist()) == {40, 60}


@pytest.mark.parametrize("copies", [30, 70, 120])
def test_a_large_family_of_near_duplicates_is_one_group(copies: int) -> None:
    """Such a family is its members' whole neighbourhood, which no relative rule can see."""
    train = strangers(200)
    for copy in range(1, copies):
        train[copy] = slightly_changed(train[0], seed=copy)
    made = prepare(train)
    assert len(made.pixels) == 200 - copies + 1
    assert made.train_ids[0] == 0


def test_a_set_of_identical_images_is_one_group() -> None:
    made = prepare(np.repeat(strangers(1), 60, axis=0))
    assert made.train_ids.tolist() == [0]
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
    near = made.neighbours(train[60:61])
    assert near.train_ids[0, 0] == 3
    assert near.squared[0, 0] == 0
    assert len(set(near.train_ids[0].tolist())) == near.train_ids.shape[1]


def test_duplicates_do_not_hide_a_copy() -> None:
    """Left in, 60 copies of an image would be its whole neighbourhood, and its ratio 2."""
    train = strangers(200)
    for copy in range(100, 160):
        train[copy] = slightly_changed(train[0], seed=copy)
    generated = slightly_changed(train[0], seed=999)[None]
    assert nearest_neighbours(generated, train).ratios[0, 0] > 1
    near = prepare(train).neighbours(generated)
    assert near.train_ids[0, 0] == 0
    assert near.ratios[0, 0] < 0.1


def test_above_a_size_only_a_sample_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ALL_PAIRS", 50)
    monkeypatch.setattr(module, "SAMPLED_ROWS", 30)
    train = strangers(200)
    whole_null = nearest_neighbours(train, train, exclude=np.arange(200)).ratios[:, 0]
    made = prepare(train)
    assert made.num_compared == 30
    assert len(made.pixels) == 200
    assert len(made.null) == 30
    assert set(made.null.tolist()) <= set(whole_null.tolist())
