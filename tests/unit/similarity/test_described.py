"""Comparing by descriptors: groups, nulls, levels, and what a scan makes of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from descriptor_factory import tiny_descriptor
from numpy.typing import NDArray
from pictures import smooth_images

from pytest_memscan.errors import DescriptorError, TrainDataError
from pytest_memscan.metrics import level_scores, similarity_levels
from pytest_memscan.results import SourceCoverage
from pytest_memscan.scans.controls import run_controls
from pytest_memscan.similarity import duplicates
from pytest_memscan.similarity.described import DescriptorReference, prepare_described
from pytest_memscan.similarity.descriptors.descriptor import Descriptor
from pytest_memscan.similarity.index import DescriptorIndex
from pytest_memscan.similarity.planted import ALTERATIONS, altered, planted_rows

Images = NDArray[np.uint8]
Vectors = NDArray[np.float32]


def index_of(images: Images, descriptor: Descriptor) -> DescriptorIndex:
    rows = planted_rows(len(images))
    return DescriptorIndex(
        descriptors=descriptor.describe(images),
        image_shape=images.shape[1:],
        fingerprint="0" * 64,
        descriptor=descriptor.name,
        record=descriptor.record,
        planted={
            name: (rows, descriptor.describe(altered(name, images[rows]))) for name in ALTERATIONS
        },
        source=SourceCoverage(num_found=len(images), num_used=len(images)),
    )


def reference_of(images: Images, descriptor: Descriptor | None = None) -> DescriptorReference:
    descriptor = descriptor or tiny_descriptor()
    return prepare_described(index_of(images, descriptor), descriptor)


def cosines(one: Vectors, other: Vectors) -> NDArray[np.float64]:
    """Written from the definition."""
    left, right = one.astype(np.float64), other.astype(np.float64)
    norms = np.outer(np.linalg.norm(left, axis=1), np.linalg.norm(right, axis=1))
    return left @ right.T / norms


def test_the_nearest_are_those_of_the_definition() -> None:
    train, generated = smooth_images(120), smooth_images(9, seed=5)
    descriptor = tiny_descriptor()
    reference = reference_of(train, descriptor)
    assert len(reference.groups.redundant) == 0
    near = reference.nearest(generated)
    similar = cosines(descriptor.describe(generated), descriptor.describe(train))
    order = np.argsort(-similar, axis=1)
    for row in range(9):
        k = int(np.isfinite(near.dissimilarities[row]).sum())
        assert near.train_ids[row, :k].tolist() == order[row, :k].tolist()
        np.testing.assert_allclose(
            1 - near.dissimilarities[row, :k], similar[row, order[row, :k]], atol=1e-6
        )


def test_every_image_within_level_low_is_listed() -> None:
    """UMS counts all of them, and more than the usual fifty may lie there."""
    train, generated = smooth_images(150), smooth_images(6, seed=5)
    descriptor = replace(tiny_descriptor(), levels=similarity_levels(-0.9, 0.0, 0.5))
    near = reference_of(train, descriptor).nearest(generated)
    similar = cosines(descriptor.describe(generated), descriptor.describe(train))
    for row in range(6):
        assert (near.dissimilarities[row] <= 1.9).sum() == (similar[row] >= -0.9).sum()
    scores = level_scores(
        near.dissimilarities,
        near.train_ids,
        levels=descriptor.levels or (),
        null_probability=lambda _: 0.0,
    )
    distinct = (similar >= -0.9).any(axis=0).sum()
    assert scores[0].ums.value == pytest.approx(distinct / 6)


def test_copies_of_one_image_are_one_group_and_one_match() -> None:
    train = smooth_images(100)
    train[[40, 70]] = train[7]
    reference = reference_of(train)
    assert reference.groups.largest(1) == ((7, 40, 70),)
    near = reference.nearest(train[40:41])
    assert near.train_ids[0, 0] == 7
    assert near.dissimilarities[0, 0] == pytest.approx(0, abs=1e-7)
    assert not {40, 70} & set(near.train_ids[0].tolist())


def test_an_exact_copy_is_in_the_top_band_whatever_the_rounding() -> None:
    train = smooth_images(100)
    near = reference_of(train).nearest(train)
    assert (near.dissimilarities[:, 0] >= 0).all()
    scores = level_scores(
        near.dissimilarities,
        near.train_ids,
        levels=similarity_levels(0.4, 0.5, 0.6),
        null_probability=lambda _: 0.0,
    )
    assert scores[2].ams.value == scores[2].ams_band == 1.0
    assert scores[2].ums.value >= 1.0


def test_the_null_is_the_similarity_to_the_nearest_other_image() -> None:
    train = smooth_images(60)
    descriptor = tiny_descriptor()
    reference = reference_of(train, descriptor)
    similar = cosines(descriptor.describe(train), descriptor.describe(train))
    np.fill_diagonal(similar, -1)
    np.testing.assert_allclose(1 - reference.null, similar.max(axis=1), atol=1e-6)


def test_levels_that_nobody_published_follow_from_the_null() -> None:
    reference = reference_of(smooth_images(200), replace(tiny_descriptor(), levels=None))
    low, mid, high = (level.cut for level in reference.levels)
    assert low > mid > high > 0
    assert (reference.null <= low).mean() == pytest.approx(0.1, abs=0.05)
    assert "from the leave-one-out null" in reference.record["levels"]


def test_too_few_images_cannot_set_levels() -> None:
    with pytest.raises(TrainDataError, match="no published levels"):
        reference_of(smooth_images(8), replace(tiny_descriptor(), levels=None))


def test_a_descriptor_that_cannot_tell_images_apart_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(duplicates, "MAX_WITHIN", 50)
    descriptor = replace(tiny_descriptor(), levels=similarity_levels(-0.9999, 0.0, 0.5))
    reference = reference_of(smooth_images(120), descriptor)
    with pytest.raises(TrainDataError, match="cannot tell these images apart"):
        reference.nearest(smooth_images(3, seed=5))


def test_planted_copies_travel_with_the_index() -> None:
    """A scan with an index alone has no pixels to alter."""
    train = smooth_images(100)
    reference = reference_of(train)
    made = {c.name: c for c in run_controls(reference, confirmed_cut=reference.levels[-1].cut)}
    assert made["jpeg"].num_images == made["crop"].num_images == 59
    assert made["jpeg"].num_found >= 1


def test_permuting_the_training_images_changes_nothing_but_ids() -> None:
    train, generated = smooth_images(90), smooth_images(5, seed=5)
    train[[20, 60]] = train[4]
    shuffle = np.random.default_rng(3).permutation(90)
    one, other = reference_of(train), reference_of(train[shuffle])
    near, moved = one.nearest(generated), other.nearest(generated)
    np.testing.assert_array_equal(near.dissimilarities, moved.dissimilarities)
    group = one.groups.group_of
    for row in range(5):
        named = shuffle[moved.train_ids[row]]
        np.testing.assert_array_equal(group[named], group[near.train_ids[row]])
    np.testing.assert_array_equal(np.sort(one.null), np.sort(other.null))


def test_a_descriptor_that_fails_on_an_image_is_an_error_of_one_line() -> None:
    reference = reference_of(smooth_images(60))
    broken = replace(
        reference.descriptor, preprocess=lambda images: torch.full((len(images), 3, 8, 8), np.nan)
    )
    with pytest.raises(DescriptorError, match="choose another with --memscan-descriptor"):
        replace(reference, descriptor=broken).nearest(smooth_images(3, seed=5))
