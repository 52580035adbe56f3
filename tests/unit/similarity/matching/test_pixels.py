"""Distances and neighbours against a float64 reference written from the definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pytest_memscan.similarity.matching import pixels
from pytest_memscan.similarity.matching.pixels import nearest_neighbours, neighbour_normalised

Images = NDArray[np.uint8]


def random_images(seed: int, count: int, shape: tuple[int, ...] = (4, 5, 3)) -> Images:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def reference(
    generated: Images, train: Images, k: int, exclude: NDArray[np.int64] | None = None
) -> tuple[list[list[int]], list[list[float]], list[list[float]]]:
    """Ids, normalised L2 and ratios, one pair at a time in float64."""
    all_ids, all_distances, all_ratios = [], [], []
    for row, image in enumerate(generated):
        pairs = []
        for train_id, other in enumerate(train):
            if exclude is not None and train_id == exclude[row]:
                continue
            difference = image.astype(np.float64) / 255 - other.astype(np.float64) / 255
            pairs.append((float(np.sqrt((difference**2).sum() / difference.size)), train_id))
        pairs = sorted(pairs)[:k]
        mean = sum(distance for distance, _ in pairs) / len(pairs)
        all_ids.append([train_id for _, train_id in pairs])
        all_distances.append([distance for distance, _ in pairs])
        all_ratios.append([distance / (0.5 * mean) for distance, _ in pairs])
    return all_ids, all_distances, all_ratios


@pytest.mark.parametrize(("num_train", "k"), [(7, 50), (60, 50), (90, 50), (90, 1), (90, 7)])
def test_neighbours_agree_with_the_definition(num_train: int, k: int) -> None:
    generated, train = random_images(0, 11), random_images(1, num_train)
    near = nearest_neighbours(generated, train, k=k)
    ids, distances, ratios = reference(generated, train, k)
    np.testing.assert_array_equal(near.train_ids, ids)
    np.testing.assert_allclose(near.distances, distances, rtol=1e-12)
    np.testing.assert_allclose(near.ratios, ratios, rtol=1e-12)


def test_an_image_is_not_compared_with_itself_when_excluded() -> None:
    train = random_images(2, 30)
    rows = np.arange(30)
    near = nearest_neighbours(train, train, k=5, exclude=rows)
    ids, distances, _ = reference(train, train, 5, exclude=rows)
    np.testing.assert_array_equal(near.train_ids, ids)
    np.testing.assert_allclose(near.distances, distances, rtol=1e-12)


def test_tiles_do_not_change_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    generated, train = random_images(3, 23), random_images(4, 71)
    rows = np.arange(23)
    whole = nearest_neighbours(generated, train, exclude=rows)
    monkeypatch.setattr(pixels, "TILE_GENERATED", 5)
    monkeypatch.setattr(pixels, "TILE_TRAIN", 9)
    tiled = nearest_neighbours(generated, train, exclude=rows)
    np.testing.assert_array_equal(whole.squared, tiled.squared)
    np.testing.assert_array_equal(whole.train_ids, tiled.train_ids)


def test_large_images_are_exact_where_int32_would_overflow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    black = np.zeros((1, 256, 256, 3), dtype=np.uint8)
    white = np.full((1, 256, 256, 3), 255, dtype=np.uint8)
    near = nearest_neighbours(black, np.concatenate([white, black]), k=2)
    assert near.squared.tolist() == [[0, 255**2 * 256 * 256 * 3]]
    assert near.distances.tolist() == [[0.0, 1.0]]


def test_equal_distances_go_to_the_lower_id() -> None:
    image = random_images(5, 1)
    train = np.concatenate([image] * 4)
    assert nearest_neighbours(image, train, k=3).train_ids.tolist() == [[0, 1, 2]]


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**16), shift=st.integers(0, 255))
def test_squared_distances_are_exact_integers(seed: int, shift: int) -> None:
    generated, train = random_images(seed, 3), random_images(seed + 1, 6)
    train[0] = generated[0] ^ shift
    near = nearest_neighbours(generated, train, k=6)
    for row, image in enumerate(generated):
        for column, train_id in enumerate(near.train_ids[row]):
            difference = image.astype(np.int64) - train[train_id].astype(np.int64)
            assert near.squared[row, column] == (difference**2).sum()


def test_a_memory_map_is_read_like_an_array(tmp_path: object) -> None:
    train = random_images(6, 40)
    file = f"{tmp_path}/train.u8"
    train.tofile(file)
    mapped = np.memmap(file, dtype=np.uint8, mode="r").reshape(train.shape)
    generated = random_images(7, 5)
    np.testing.assert_array_equal(
        nearest_neighbours(generated, mapped).squared, nearest_neighbours(generated, train).squared
    )


@pytest.mark.parametrize(
    ("generated", "train", "exclude", "words"),
    [
        (random_images(0, 0), random_images(0, 3), None, "0 generated"),
        (random_images(0, 3), random_images(0, 0), None, "0 train"),
        (random_images(0, 3), random_images(0, 3, (4, 4, 3)), None, "(4, 4, 3)"),
        (random_images(0, 1), random_images(0, 1), np.array([0]), "there are none"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    generated: Images, train: Images, exclude: NDArray[np.int64] | None, words: str
) -> None:
    with pytest.raises(ValueError, match=words.replace("(", r"\(").replace(")", r"\)")):
        nearest_neighbours(generated, train, exclude=exclude)


def test_an_image_far_from_all_scores_two() -> None:
    np.testing.assert_allclose(neighbour_normalised(np.full((1, 50), 0.3)), 2.0)


def test_a_copy_scores_zero_and_so_does_one_among_identical_images() -> None:
    ratios = neighbour_normalised(np.array([[0.0, 0.4, 0.5], [0.0, 0.0, 0.0]]))
    assert ratios[0, 0] == 0.0
    assert ratios[1].tolist() == [0.0, 0.0, 0.0]


def test_every_image_with_a_ratio_below_two_is_among_the_neighbours() -> None:
    near = nearest_neighbours(random_images(8, 40), random_images(9, 300))
    assert (near.ratios[:, -1] >= 2.0).all()


@pytest.mark.gpu
def test_cuda_gives_the_same_integers() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    for shape in ((4, 5, 3), (16, 16, 3), (32, 32, 1)):
        generated, train = random_images(10, 37, shape), random_images(11, 333, shape)
        cpu = nearest_neighbours(generated, train)
        cuda = nearest_neighbours(generated, train, device="cuda")
        np.testing.assert_array_equal(cpu.squared, cuda.squared)
        np.testing.assert_array_equal(cpu.train_ids, cuda.train_ids)
