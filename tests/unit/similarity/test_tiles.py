"""Tile distances and variances against loops that follow the definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pytest_memscan.similarity import tiles as module
from pytest_memscan.similarity.tiles import (
    l2,
    masked_l2,
    masked_variance,
    mean_image,
    tile_distances,
    tile_variances,
    tiled_l2,
    variance,
)

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]


def pictures(number: int, side: tuple[int, int] = (8, 12), seed: int = 0) -> Pixels:
    """Among them equal ones, black and white ones: where rounding would show."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (number, *side, 3), dtype=np.uint8)
    images[rng.random(number) < 0.2] = rng.choice([0, 255])
    return images[rng.integers(0, number, number)]


def plain_tile(image: Floats, tile: int, grid: int) -> Floats:
    height, width = image.shape[0] // grid, image.shape[1] // grid
    top, left = tile // grid * height, tile % grid * width
    return image[top : top + height, left : left + width]


def plain_distances(images: Pixels, others: Pixels, grid: int) -> Floats:
    """``sqrt(sum((a - b) ** 2) / d)`` for every tile and pair, one at a time."""
    result = np.empty((grid * grid, len(images), len(others)))
    for tile, i, j in np.ndindex(*result.shape):
        one = plain_tile(images[i] / 255, tile, grid)
        other = plain_tile(others[j] / 255, tile, grid)
        result[tile, i, j] = np.sqrt(((one - other) ** 2).sum() / one.size)
    return result


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 5), st.integers(1, 4), st.sampled_from([1, 2, 4]), st.integers(0, 10**6))
def test_distances_are_those_of_the_definition(n: int, m: int, grid: int, seed: int) -> None:
    images, others = pictures(n, seed=seed), pictures(m, seed=seed + 1)
    expected = plain_distances(images, others, grid)
    whole = plain_distances(images, others, 1)[0]
    quarter = np.sort(expected, axis=0)[: max(1, grid * grid // 4)]
    close = {"rtol": 0, "atol": 1e-12}
    np.testing.assert_allclose(tile_distances(images, others, grid=grid), expected, **close)
    np.testing.assert_allclose(tiled_l2(images, others, grid=grid), expected.max(axis=0), **close)
    np.testing.assert_allclose(l2(images, others), whole, **close)
    np.testing.assert_allclose(
        masked_l2(images, others, grid=grid), np.sqrt((quarter**2).mean(axis=0)), **close
    )


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 8), st.integers(0, 10**6))
def test_properties_of_the_distances(n: int, seed: int) -> None:
    images = pictures(n, seed=seed)
    order = np.random.default_rng(seed).permutation(n)
    for distance in (tiled_l2, masked_l2, l2):
        distances = distance(images)
        np.testing.assert_array_equal(distances, distances.T)
        np.testing.assert_array_equal(np.diag(distances), 0)
        np.testing.assert_array_equal(distance(images, images), distances)
        np.testing.assert_array_equal(distance(images[order]), distances[np.ix_(order, order)])
        np.testing.assert_allclose(distance(255 - images), distances, rtol=1e-15)
        np.testing.assert_allclose(distance(images[:, ::-1, ::-1]), distances, rtol=1e-12)
    assert (masked_l2(images) <= l2(images) + 1e-12).all()
    assert (l2(images) <= tiled_l2(images) + 1e-12).all()
    assert (tiled_l2(images) <= 1).all()


def test_one_pixel_level_apart_is_told_from_equal() -> None:
    images = np.full((2, 64, 64, 3), 254, dtype=np.uint8)
    images[1, 5, 5, 1] = 255
    assert l2(images)[0, 1] == pytest.approx(1 / 255 / np.sqrt(64 * 64 * 3), rel=1e-12)
    assert masked_l2(images)[0, 1] == 0


def test_black_and_white_tiles_of_large_images_do_not_overflow() -> None:
    """A tile can have more values than one integer product takes."""
    images = np.zeros((2, 600, 600, 3), dtype=np.uint8)
    images[1] = 255
    assert images[0].size > module.INT32_SAFE_VALUES
    assert l2(images).tolist() == [[0, 1], [1, 0]]
    assert tiled_l2(images).tolist() == [[0, 1], [1, 0]]


def test_a_large_flat_background_does_not_make_images_alike() -> None:
    """Carlini's reason for the largest tile: two small objects on white."""
    images = np.full((2, 32, 32, 3), 255, dtype=np.uint8)
    images[0, :8, :8] = 0
    assert l2(images)[0, 1] == 0.25
    assert tiled_l2(images)[0, 1] == 1
    assert masked_l2(images)[0, 1] == 0


@pytest.mark.parametrize("function", [tile_distances, tiled_l2, masked_l2, tile_variances])
@pytest.mark.parametrize("side", [(8, 10), (10, 8), (2, 2)])
def test_sides_that_do_not_divide_are_refused(function: object, side: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="resize them to sides that divide by 4"):
        function(pictures(2, side))  # type: ignore[operator]


def test_images_of_other_kinds_are_refused() -> None:
    images = pictures(2)
    with pytest.raises(ValueError, match="uint8"):
        tiled_l2(images.astype(np.float32))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cannot be compared"):
        tiled_l2(images, images[:, :4])
    with pytest.raises(ValueError, match="height, width, channels"):
        tiled_l2(images[0])
    with pytest.raises(ValueError, match="8-bit or float"):
        variance(images.astype(np.int64))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one"):
        variance(images[:0])
    with pytest.raises(ValueError, match="not finite"):
        variance(np.array([[1.0], [np.nan]]))


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 9), st.booleans(), st.integers(0, 10**6))
def test_variances_are_those_of_the_definition(n: int, is_float: bool, seed: int) -> None:
    pixels = pictures(n, seed=seed)
    images = (pixels / 255).astype(np.float32) if is_float else pixels
    values = images if is_float else pixels / 255
    mean = sum(np.asarray(image, dtype=float) for image in values) / n
    deviation = [np.square(image - mean) for image in values]
    np.testing.assert_allclose(mean_image(images), mean, atol=1e-12)
    assert variance(images) == pytest.approx(np.mean(deviation), rel=1e-9, abs=1e-15)
    expected = [np.mean([plain_tile(each, tile, 4) for each in deviation]) for tile in range(16)]
    np.testing.assert_allclose(tile_variances(images), expected, rtol=1e-9, atol=1e-15)
    assert masked_variance(images) == pytest.approx(
        np.mean(sorted(expected)[:4]), rel=1e-9, abs=1e-15
    )
    assert masked_variance(images) <= variance(images) + 1e-15


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 9), st.integers(0, 10**6))
def test_variance_is_half_the_mean_squared_distance_of_all_pairs(n: int, seed: int) -> None:
    """A second definition: over all ordered pairs, an image with itself included."""
    images = pictures(n, seed=seed)
    assert variance(images) == pytest.approx(np.square(l2(images)).mean() / 2, rel=1e-9, abs=1e-15)
    order = np.random.default_rng(seed).permutation(n)
    assert variance(images[order]) == pytest.approx(variance(images), rel=1e-12, abs=1e-15)
    assert variance(255 - images) == pytest.approx(variance(images), rel=1e-12, abs=1e-15)


def test_latents_and_descriptors_have_a_variance_too() -> None:
    latents = np.random.default_rng(0).normal(size=(50, 4, 8, 8)).astype(np.float16)
    assert variance(latents) == pytest.approx(latents.astype(float).var(axis=0).mean(), rel=1e-9)
    assert variance(latents[:, 0, 0]) == pytest.approx(
        latents[:, 0, 0].astype(float).var(axis=0).mean(), rel=1e-9
    )


def test_the_same_image_every_time_has_no_variance_at_all() -> None:
    image = pictures(1)
    for images in (np.repeat(image, 7, axis=0), np.repeat(image / np.float32(7), 7, axis=0)):
        assert variance(images) == masked_variance(images) == 0


def test_a_part_that_every_seed_shares_is_seen_by_the_masked_variance_only() -> None:
    """Template memorisation, and what looks like it: a part that is flat in all images."""
    rng = np.random.default_rng(0)
    free = rng.integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    template, flat = free.copy(), free.copy()
    template[:, 4:12, 4:12] = free[0, 4:12, 4:12]
    flat[:, :4] = 255
    assert masked_variance(template) == masked_variance(flat) == 0
    assert masked_variance(free) > 0.06
    assert variance(template) > 0.7 * variance(free)
    assert np.flatnonzero(tile_variances(template) == 0).tolist() == [5, 6, 9, 10]
