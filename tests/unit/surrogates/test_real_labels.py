"""Real class labels: every image has one, names stay private, and SIDE-A learns from others."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from pytest_memscan.data.images import ImageSet
from pytest_memscan.errors import TrainDataError
from pytest_memscan.surrogates.real_labels import real_labels, require_disjoint

TRAIN_DATA = "--memscan-train-data"


def image_set(*labels: str | None) -> ImageSet:
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 4, 4, 3), dtype=np.uint8)
    return ImageSet(
        pixels=pixels,
        names=tuple(f"{index}.png" for index in range(len(labels))),
        captions=(None,) * len(labels),
        labels=labels,
        fingerprint="",
        num_found=len(labels),
    )


def why_not(*labels: str | None) -> str:
    with pytest.raises(TrainDataError) as caught:
        real_labels(image_set(*labels), option=TRAIN_DATA)
    return str(caught.value)


def test_classes_are_numbered_in_the_order_of_their_names() -> None:
    images = image_set("dog", "cat", "dog", "Eve")
    found = real_labels(images, option=TRAIN_DATA)
    assert found.names == ("Eve", "cat", "dog")
    assert found.labels.dtype == np.int64
    np.testing.assert_array_equal(found.labels, [2, 1, 2, 0])
    assert found.images is images.pixels
    assert "Eve" not in repr(found)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (("10", "9", "-1", "9"), ("-1", "9", "10")),
        (("10", "9", "x"), ("10", "9", "x")),
        (("7", "07"), ("07", "7")),
        (("9" * 5000, "8"), ("8", "9" * 5000)),
        (("٣", "2"), ("2", "٣")),
    ],
)
def test_numbers_come_in_numeric_order(labels: tuple[str, ...], names: tuple[str, ...]) -> None:
    assert real_labels(image_set(*labels), option=TRAIN_DATA).names == names


@given(st.lists(st.text(min_size=1), min_size=2).filter(lambda labels: len(set(labels)) > 1))
def test_numbers_and_names_are_two_ways_to_say_the_same(labels: list[str]) -> None:
    found = real_labels(image_set(*labels), option=TRAIN_DATA)
    assert [found.names[label] for label in found.labels] == labels
    assert set(found.labels.tolist()) == set(range(len(set(labels))))


def test_images_without_a_label_are_counted() -> None:
    message = why_not("Ann", None, "Bob", None)
    assert message.startswith("--memscan-train-data: 2 of 4 images have no class label")
    assert "docs/training-images.md" in message
    assert "Ann" not in message
    assert why_not(*[None] * 1234).startswith(f"{TRAIN_DATA}: 1,234 of 1,234 images have no")


def test_one_class_is_none() -> None:
    message = why_not("Ann", "Ann", "Ann")
    assert message.startswith("--memscan-train-data: all 3 images have the same class label")
    assert "at least 2 classes" in message
    assert "Ann" not in message


def pictures(count: int, *, seed: int, size: int = 12) -> NDArray[np.uint8]:
    """Smooth pictures, all different."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    resized = [
        Image.fromarray(each).resize((size, size), Image.Resampling.BICUBIC) for each in coarse
    ]
    return np.stack([np.asarray(each) for each in resized])


def through_jpeg(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=90)
    return np.asarray(Image.open(buffer))


def overlap(auxiliary: NDArray[np.uint8], train: NDArray[np.uint8]) -> str:
    with pytest.raises(TrainDataError) as caught:
        require_disjoint(auxiliary, train)
    return str(caught.value)


def test_other_images_are_disjoint() -> None:
    require_disjoint(pictures(80, seed=1), pictures(120, seed=2))


def test_training_images_among_the_auxiliary_ones_are_counted_and_the_first_is_named() -> None:
    auxiliary, train = pictures(80, seed=1), pictures(120, seed=2)
    auxiliary[[12, 40]] = train[[7, 3]]
    auxiliary[60] = through_jpeg(train[7])
    message = overlap(auxiliary, train)
    assert message.startswith("--memscan-auxiliary: 3 of 80 images are training images or near-dup")
    assert "(the first: auxiliary#00012 = train#00007)" in message
    assert "remove these from the auxiliary images" in message


@pytest.mark.parametrize("alter", [lambda image: image, through_jpeg], ids=["exact", "JPEG"])
def test_a_single_copy_is_found(alter: object) -> None:
    auxiliary, train = pictures(80, seed=1), pictures(120, seed=2)
    auxiliary[79] = alter(train[119])  # type: ignore[operator]
    message = overlap(auxiliary, train)
    assert "1 of 80 images" in message
    assert "auxiliary#00079 = train#00119" in message


def test_near_duplicates_among_themselves_are_no_overlap() -> None:
    auxiliary, train = pictures(80, seed=1), pictures(120, seed=2)
    auxiliary[1:10] = auxiliary[0]
    train[1:10] = train[0]
    require_disjoint(auxiliary, train)


def test_a_copy_of_what_fills_the_training_set_is_found() -> None:
    """All listed neighbours are as near, so that only the distance of random pairs tells."""
    train = pictures(120, seed=2)
    train[:60] = train[0]
    copy = train[:1] ^ 1
    assert "auxiliary#00000 = train#00000" in overlap(copy, train)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    num_train=st.integers(1, 70),
    num_auxiliary=st.integers(1, 10),
    noise=st.sampled_from([0, 1, 8, 20, 60]),
)
def test_the_images_that_overlap_are_those_of_the_definition(
    seed: int, num_train: int, num_auxiliary: int, noise: int
) -> None:
    """Against the rule written out in plain numbers, image by image."""
    rng = np.random.default_rng(seed)
    train = rng.integers(0, 256, (num_train, 3, 3, 1), dtype=np.uint8)
    auxiliary = rng.integers(0, 256, (num_auxiliary, 3, 3, 1), dtype=np.uint8)
    copied = train[rng.integers(0, num_train)] + rng.integers(-noise, noise + 1, (3, 3, 1))
    auxiliary[-1] = np.clip(copied, 0, 255)
    flat = train.reshape(num_train, -1).astype(float)
    pairs = [np.sum((a - b) ** 2) for a, b in itertools.product(flat, flat)]
    typical = np.sqrt(np.mean(pairs))
    expected = []
    for index, image in enumerate(auxiliary.reshape(num_auxiliary, -1).astype(float)):
        distances = np.sqrt(((flat - image) ** 2).sum(axis=1))
        last = np.sort(distances)[:50][-1]
        if distances.min() <= max(0.25 * last, 0.05 * typical):
            expected.append((index, int(distances.argmin())))
    if not expected:
        require_disjoint(auxiliary, train)
        return
    message = overlap(auxiliary, train)
    assert f" {len(expected)} of {num_auxiliary} images" in message
    assert f"auxiliary#{expected[0][0]:05d} = train#{expected[0][1]:05d}" in message


@pytest.mark.parametrize(
    ("auxiliary", "train"),
    [
        (pictures(3, seed=1), pictures(3, seed=2, size=8)),
        (pictures(3, seed=1)[:0], pictures(3, seed=2)),
        (pictures(3, seed=1), pictures(3, seed=2)[:0]),
    ],
    ids=["sizes", "no auxiliary", "no train"],
)
def test_what_cannot_be_compared_is_a_mistake_of_the_caller(
    auxiliary: NDArray[np.uint8], train: NDArray[np.uint8]
) -> None:
    with pytest.raises(ValueError, match="generated"):
        require_disjoint(auxiliary, train)
