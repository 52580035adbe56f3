"""Describing images: unit vectors that depend on the image and on nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_memscan.similarity.descriptors.descriptor import Descriptor


class Projection(torch.nn.Module):
    """A small network that notes how many images each call had."""

    def __init__(self, dimension: int = 5) -> None:
        super().__init__()
        self.weight = torch.randn(12, dimension, generator=torch.Generator().manual_seed(0))
        self.calls: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls.append(len(images))
        return images.flatten(1) @ self.weight


def ready(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - 0.5


def descriptor(network: torch.nn.Module | None = None, **changes: object) -> Descriptor:
    fields: dict[str, object] = {
        "name": "small",
        "network": network or Projection(),
        "preprocess": ready,
        "dimension": 5,
        "levels": None,
        "record": {},
        "batch_size": 4,
    }
    return Descriptor(**{**fields, **changes})  # type: ignore[arg-type]


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 2, 2, 3), dtype=np.uint8)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 9])
def test_each_image_gets_its_unit_vector(count: int) -> None:
    network = Projection()
    images = pictures(count)
    described = descriptor(network).describe(images)
    assert described.shape == (count, 5)
    assert described.dtype == np.float32
    for image, vector in zip(images, described, strict=True):
        raw = (image.transpose(2, 0, 1).reshape(-1) / 255 - 0.5) @ network.weight.numpy()
        np.testing.assert_allclose(vector, raw / np.linalg.norm(raw), atol=1e-5)


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 7), st.integers(0, 9))
def test_vectors_have_unit_length_and_equal_images_similarity_one(
    count: int, batch_size: int, seed: int
) -> None:
    images = pictures(count, seed)
    described = descriptor(batch_size=batch_size).describe(np.concatenate([images, images]))
    np.testing.assert_allclose(np.linalg.norm(described, axis=1), 1, atol=1e-6)
    similarities = (described[:count] * described[count:]).sum(axis=1)
    np.testing.assert_allclose(similarities, 1, atol=1e-6)


def test_every_call_of_the_network_has_the_same_number_of_images() -> None:
    network = Projection()
    descriptor(network).describe(pictures(9))
    assert network.calls == [4, 4, 4]


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_how_many_others_there_are_changes_no_bit(count: int) -> None:
    images = pictures(9)
    np.testing.assert_array_equal(
        descriptor().describe(images)[:count], descriptor().describe(images[:count])
    )


class Constant(torch.nn.Module):
    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = torch.tensor([values])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.values.expand(len(images), -1)


@pytest.mark.parametrize("values", [[0.0] * 5, [float("nan")] * 5, [1.0, float("inf"), 0, 0, 0]])
def test_a_descriptor_without_direction_is_an_error(values: list[float]) -> None:
    with pytest.raises(ValueError, match="zero or not finite"):
        descriptor(Constant(values)).describe(pictures(1))


def test_a_network_of_another_dimension_is_an_error() -> None:
    with pytest.raises(ValueError, match="not 5 each"):
        descriptor(Constant([1.0, 2.0])).describe(pictures(1))


def test_large_values_do_not_overflow() -> None:
    described = descriptor(Constant([3e30, 4e30, 0, 0, 0])).describe(pictures(1))
    np.testing.assert_allclose(described, [[0.6, 0.8, 0, 0, 0]], atol=1e-7)
