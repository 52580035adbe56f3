"""Generated images that come up again and again, without any training image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from numpy.typing import NDArray
from pictures import smooth_images
from safetensors.numpy import load_file

from pytest_memscan.checkpoints.load import load_unconditional
from pytest_memscan.checkpoints.resolve import resolve
from pytest_memscan.errors import CheckpointError
from pytest_memscan.generation import FLAT, PLANNED, Pipeline, plan_rows
from pytest_memscan.results import Repeats
from pytest_memscan.sampler import Sampler
from pytest_memscan.scans.repeats import repeats
from pytest_memscan.similarity.descriptors.copy_descriptor import load_copy_descriptor
from pytest_memscan.similarity.descriptors.descriptor import Descriptor
from pytest_memscan.similarity.matching.pixels import nearest_neighbours
from pytest_memscan.store import ImageStore, StoredImage

Images = NDArray[np.uint8]
# Fewer than the default's 50, which changes no answer here: what is copied is copied in ten.
STEPS = 10


def noisy(images: Images, amount: int, *, seed: int = 7) -> Images:
    noise = np.random.default_rng(seed).integers(-amount, amount + 1, images.shape)
    return np.clip(images.astype(int) + noise, 0, 255).astype(np.uint8)


def no_model(dtype: str) -> NoReturn:
    raise AssertionError("everything is in the store")


def scan(
    folder: Path,
    generated: Images,
    *,
    invalid: Sequence[int] = (),
    descriptor: Descriptor | None = None,
) -> Repeats:
    store = ImageStore(folder / "store", spec={})
    stored = [
        StoredImage(
            sample_id=row.sample_id,
            seed=row.seed,
            invalid=FLAT if row.sample_id in invalid else "",
            pixels=generated[row.sample_id],
        )
        for row in plan_rows(len(generated), seed=0)
    ]
    store.add(PLANNED, stored)
    sampler = Sampler(
        load_pipeline=no_model,
        store=store,
        num_images=len(generated),
        seed=0,
        batch_size=8,
        steps=50,
        dtype="float32",
    )
    result = repeats(sampler, descriptor=descriptor, provenance={"a": "b"})
    store.close()
    return result


def with_repeats(count: int = 200) -> Images:
    """Images 3, 30, 100 are one picture, 10 to 14 another; 50 and 51 are alike, but only two."""
    images = smooth_images(count, seed=1)
    images[[30, 100]] = images[3]
    images[11:15] = images[10]
    images[51] = images[50]
    return noisy(images, 6)


def test_repeated_images_are_counted_and_named(tmp_path: Path) -> None:
    result = scan(tmp_path, with_repeats())
    assert result.largest == ((10, 11, 12, 13, 14), (3, 30, 100))
    assert (result.num_groups, result.num_repeating, result.group_size) == (2, 8, 3)
    metric = result.metrics["repeated_groups"]
    assert (metric.value, metric.lower, metric.upper) == (2, 2, 2)
    assert result.widest is not None
    assert 0 < result.widest < 0.04
    assert result.denoiser_calls == 200 * 50
    assert result.provenance["a"] == "b"
    assert result.sentence.startswith("2 groups of 3 or more near-identical images, 8 of 200")


def test_different_images_are_no_group_and_no_proof(tmp_path: Path) -> None:
    result = scan(tmp_path, smooth_images(300, seed=1))
    assert (result.num_groups, result.largest, result.widest) == (0, (), None)
    assert result.metrics["repeated_groups"].upper == 0
    assert result.expected_by_chance is not None
    assert result.expected_by_chance < 0.05
    assert "cannot show that there are none" in result.sentence
    # an image of this share comes up at most twice in one of twenty scans
    rate = result.shown_rate
    few = sum(
        comb * rate**hits * (1 - rate) ** (300 - hits)
        for hits, comb in enumerate([1, 300, 300 * 299 / 2])
    )
    assert few == pytest.approx(0.05)


def test_descriptors_find_repeats_that_pixels_do_not(tmp_path: Path) -> None:
    images = smooth_images(60, seed=1, size=32)
    for darker, shade in ((7, 0.8), (8, 0.6)):
        images[darker] = (images[6] * shade).astype(np.uint8)
    descriptor = load_copy_descriptor()
    assert scan(tmp_path / "pixels", images).num_groups == 0
    result = scan(tmp_path / "described", images, descriptor=descriptor)
    assert result.largest == ((6, 7, 8),)
    assert "descriptor weights_sha256" in result.provenance
    assert descriptor.name in result.measure


@pytest.mark.parametrize("described", [False, True])
def test_a_model_that_makes_one_image_only_is_seen(tmp_path: Path, described: bool) -> None:
    images = noisy(np.repeat(smooth_images(1), 80, axis=0), 4)
    result = scan(tmp_path, images, descriptor=load_copy_descriptor() if described else None)
    assert (result.num_groups, result.num_repeating) == (1, 80)
    assert result.dimension is None
    assert "too few different images" in result.rule


def test_a_copy_half_way_does_not_hide_what_fewer_images_showed(tmp_path: Path) -> None:
    images = smooth_images(600, seed=1)
    images[[20, 40, 60]] = noisy(images[:1].repeat(3, axis=0), 10)
    for step in range(1, 60):  # from one picture to another, after the first half
        images[300 + step] = (images[0] * (1 - step / 60) + images[1] * (step / 60)).astype(
            np.uint8
        )
    result = scan(tmp_path, images)
    assert result.largest == ((0, 20, 40, 60),)
    assert (result.num_searched, result.num_images) == (300, 600)
    assert "4 of 300 generated images" in result.sentence


def test_images_of_few_free_numbers_must_repeat_more_often(tmp_path: Path) -> None:
    """Two free numbers an image: three of 300 come close by chance, eight do not."""
    shades = np.random.default_rng(0).integers(0, 256, (300, 1, 2, 1), dtype=np.uint8)
    images = np.tile(shades.repeat(4, axis=2), (1, 8, 1, 3))
    images[:12] = images[0]
    images = np.concatenate([images, np.repeat(images[200:201], 2, axis=0)])
    result = scan(tmp_path, images)
    assert result.group_size > 3
    assert result.largest == (tuple(range(12)),)


def test_invalid_images_are_counted_and_never_in_a_group(tmp_path: Path) -> None:
    result = scan(tmp_path, with_repeats(), invalid=[3, 10, 77])
    assert result.largest == ((11, 12, 13, 14),)
    assert result.num_images == result.images.valid == 197
    assert result.images.generated == result.images.planned == 200
    assert result.images.invalid == {FLAT: 3}


def test_no_valid_image_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="none of the 5 generated images is valid"):
        scan(tmp_path, smooth_images(5), invalid=range(5))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_images_are_judged_too(tmp_path: Path, count: int) -> None:
    result = scan(tmp_path, smooth_images(count))
    assert (result.num_groups, result.num_images) == (0, count)


def test_leaky_repeats_its_training_images_and_nothing_else(tmp_path: Path) -> None:
    result, copied = scan_checkpoint(tmp_path, "leaky")
    assert 40 <= result.num_groups <= 80
    assert all(len(train_ids) == 1 for train_ids in copied)  # every group is one training image
    assert len(set().union(*copied)) == len(copied)


def test_clean_repeats_nothing(tmp_path: Path) -> None:
    result, _ = scan_checkpoint(tmp_path, "clean")
    assert result.num_groups == 0
    assert 0.015 < result.shown_rate < 0.025


def test_partial_may_or_may_not_show_at_320_images(tmp_path: Path) -> None:
    """Each of its ten copied images is some 0.5 % of what it makes, and 2 % would have shown.

    What does show is right: copies of one of the ten.
    """
    result, copied = scan_checkpoint(tmp_path, "partial", seed=100_000)
    assert result.num_groups <= 5
    assert all(len(train_ids) == 1 for train_ids in copied)
    assert set().union(*copied) <= set(range(10))


def scan_checkpoint(folder: Path, name: str, *, seed: int = 0) -> tuple[Repeats, list[set[int]]]:
    """The result, and the training images that the images of each group are nearest to."""

    def load(dtype: str) -> Pipeline:
        pipeline: Pipeline = load_unconditional(checkpoint, device="cpu", dtype=dtype)
        return pipeline

    checkpoint = resolve(f"builtin:{name}", offline=True)
    store = ImageStore(folder / "store", spec={})
    sampler = Sampler(
        load_pipeline=load,
        store=store,
        num_images=320,
        seed=seed,
        batch_size=64,
        steps=STEPS,
        dtype="float32",
    )
    result = repeats(sampler, provenance={})
    train = load_file(checkpoint.folder / "train_images.safetensors")["images"]
    copied = []
    for group in result.largest:
        images = np.stack([sampler.pixels_of(sample_id) for sample_id in group])
        copied.append(set(nearest_neighbours(images, train, k=1).train_ids[:, 0].tolist()))
    store.close()
    return result, copied
