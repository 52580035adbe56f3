"""The published pipelines, from their definition: sizes, order of steps, numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_memscan.similarity.descriptors.preprocess import (
    CROP_224,
    SKEW_320,
    Preprocessing,
    as_rgb,
    resized_sides,
)


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


def triangle_resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear with antialiasing, from its definition: weights of a triangle as wide as a step.

    Two passes, the values rounded to 8 bits after each, as in PIL.
    """

    def pass_over_columns(values: np.ndarray, target: int) -> np.ndarray:
        source = values.shape[1]
        scale = source / target
        reach = max(scale, 1.0)
        result = np.empty((values.shape[0], target, values.shape[2]))
        for column in range(target):
            centre = (column + 0.5) * scale
            weights = np.maximum(0, 1 - np.abs(np.arange(source) + 0.5 - centre) / reach)
            result[:, column] = np.tensordot(values, weights / weights.sum(), axes=(1, 0))
        return np.floor(np.clip(result, 0, 255) + 0.5)

    across = pass_over_columns(image.astype(float), width)
    return pass_over_columns(across.transpose(1, 0, 2), height).transpose(1, 0, 2)


@pytest.mark.parametrize("shape", [(32, 32), (400, 500), (37, 641), (320, 320)])
def test_sscd_resizes_to_a_square_and_crops_nothing(shape: tuple[int, int]) -> None:
    image = picture(*shape)
    ready = SKEW_320(image[None])
    assert ready.shape == (1, 3, 320, 320)
    assert ready.dtype == torch.float32
    expected = triangle_resized(image, 320, 320) / 255
    expected = (expected - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    difference = np.abs(ready[0].permute(1, 2, 0).numpy() - expected)
    assert difference.max() <= 1.01 / 255 / 0.224  # PIL computes in fixed point: one level


@pytest.mark.parametrize("shape", [(300, 500), (500, 300), (256, 256), (32, 32)])
def test_crop224_keeps_the_proportions_and_crops_the_centre(shape: tuple[int, int]) -> None:
    image = picture(*shape)
    ready = CROP_224(image[None])
    assert ready.shape == (1, 3, 224, 224)
    height, width = shape
    short = min(shape)
    sides = [256 if side == short else int(256 * side / short) for side in (height, width)]
    resized = triangle_resized(image, *sides)
    top, left = ((side - 224) // 2 for side in sides)
    expected = (resized[top : top + 224, left : left + 224] / 255 - 0.5) / 0.5
    assert np.abs(ready[0].permute(1, 2, 0).numpy() - expected).max() <= 1.01 / 255 / 0.5


def test_values_are_those_of_to_tensor_and_normalize() -> None:
    image = np.zeros((1, 8, 8, 3), dtype=np.uint8)
    image[..., 0], image[..., 1], image[..., 2] = 255, 51, 0
    ready = SKEW_320(image)
    wanted = [(1 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, (0 - 0.406) / 0.225]
    for channel, value in enumerate(wanted):
        torch.testing.assert_close(ready[0, channel], torch.full((320, 320), value))
    assert CROP_224(image)[0, 0].unique().tolist() == [1.0]
    assert CROP_224(image)[0, 2].unique().tolist() == [-1.0]


@pytest.mark.parametrize(
    ("longer", "first"),
    [(256, 16), (257, 16), (258, 17), (259, 18), (260, 18), (261, 18), (263, 20)],
)
def test_half_a_pixel_is_rounded_as_torchvision_does(longer: int, first: int) -> None:
    # The shorter side is 256 already, so columns keep their values and tell where the crop began.
    image = np.zeros((1, 256, longer, 3), dtype=np.uint8)
    image[..., :] = np.minimum(np.arange(longer), 255)[None, None, :, None]
    ready = CROP_224(image)[0, 0, 0]
    assert round(float(ready[0]) * 127.5 + 127.5) == first


@pytest.mark.parametrize(
    ("size", "expected"),
    # int(size * long / short), as torchvision's resize documents: height 333 of 500 gives 384.
    [((500, 333), (384, 256)), ((333, 500), (256, 384)), ((640, 480), (341, 256)),
     ((256, 256), (256, 256)), ((32, 1), (8192, 256)), ((1023, 1024), (256, 256))],
)  # fmt: skip
def test_the_longer_side_is_cut_to_whole_pixels(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert resized_sides(*size, 256) == expected


@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 512))
def test_the_shorter_side_is_exact_and_the_longer_in_proportion(
    width: int, height: int, shorter: int
) -> None:
    sides = resized_sides(width, height, shorter)
    assert min(sides) == shorter
    assert max(sides) == math.floor(shorter * max(width, height) / min(width, height))
    assert (sides[0] <= sides[1]) == (width <= height) or sides[0] == sides[1]


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 5))
def test_images_of_a_batch_are_prepared_one_by_one(height: int, width: int, seed: int) -> None:
    images = np.stack([picture(height, width, seed=seed + shift) for shift in range(2)])
    together = CROP_224(images)
    for index in range(2):
        assert torch.equal(together[index : index + 1], CROP_224(images[index : index + 1]))


def test_grey_images_are_taken_three_times() -> None:
    grey = picture(20, 30, channels=1)[None]
    assert torch.equal(SKEW_320(grey), SKEW_320(np.repeat(grey, 3, axis=3)))


def test_the_input_stays_as_it_was() -> None:
    images = picture(320, 320)[None]
    kept = images.copy()
    SKEW_320(images)
    np.testing.assert_array_equal(images, kept)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 4, 4, 3), dtype=np.float32),
        np.zeros((4, 4, 3), dtype=np.uint8),
        np.zeros((1, 4, 4, 4), dtype=np.uint8),
        np.zeros((1, 0, 4, 3), dtype=np.uint8),
    ],
    ids=["float", "one image", "alpha", "empty"],
)
def test_what_is_no_batch_of_pictures_is_refused(images: np.ndarray) -> None:
    with pytest.raises(ValueError, match="images"):
        as_rgb(images)


@pytest.mark.parametrize(
    "settings_",
    [
        {"size": 224, "square": False, "crop": 256},
        {"size": 224, "square": False, "crop": None},
        {"size": 224, "square": True, "crop": 200},
    ],
)
def test_a_pipeline_that_cannot_be_is_not_built(settings_: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="crop"):
        Preprocessing(mean=(0, 0, 0), std=(1, 1, 1), **settings_)  # type: ignore[arg-type]


def test_the_text_tells_the_pipelines_apart() -> None:
    assert SKEW_320.text == (
        "PIL bilinear resize to 320x320, /255, mean 0.485 0.456 0.406, std 0.229 0.224 0.225"
    )
    assert CROP_224.text == (
        "PIL bilinear resize to short side 256, centre crop 224, /255, mean 0.5 0.5 0.5, "
        "std 0.5 0.5 0.5"
    )
