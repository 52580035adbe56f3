"""The network against SSCD's published layout, written again in `descriptor_factory`."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from descriptor_factory import coarse_pictures, random_reference, torchvision_state
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pytest_memscan.similarity.descriptors.sscd import (
    ARCHITECTURES,
    Architecture,
    Sscd,
    build,
    expected_shapes,
    gem,
)

# Parameters of the ImageNet classifiers as torchvision's and Classy Vision's documentation give
# them, of which a classifier of 1000 classes is replaced by the projection.
PARAMETERS = {"resnet50": 25_557_032, "resnext101_32x4d": 44_177_704}
SMALL = {
    "plain": (
        Architecture(layers=(1, 1, 1, 1), groups=1, width_per_group=64, dimension=16),
        ([1, 1, 1, 1], None, 16),
    ),
    "grouped": (
        Architecture(layers=(2, 1, 1, 1), groups=32, width_per_group=4, dimension=16),
        ([2, 1, 1, 1], (4, 32), 16),
    ),
}


def without_counters(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in state.items() if "num_batches" not in name}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_sizes_are_those_of_the_published_networks(name: str) -> None:
    architecture = ARCHITECTURES[name]
    shapes = expected_shapes(architecture)
    parameters = sum(math.prod(shape) for key, shape in shapes.items() if "running" not in key)
    projection = 2048 * architecture.dimension + architecture.dimension
    assert parameters - projection == PARAMETERS[name] - (2048 * 1000 + 1000)


def test_tensors_are_named_as_in_torchvision() -> None:
    names = set(expected_shapes(ARCHITECTURES["resnet50"]))
    assert {
        "backbone.conv1.weight",
        "backbone.bn1.running_var",
        "backbone.layer1.0.conv1.weight",
        "backbone.layer1.0.downsample.0.weight",
        "backbone.layer1.0.downsample.1.running_mean",
        "backbone.layer3.5.bn3.bias",
        "backbone.layer4.2.conv3.weight",
        "backbone.fc.weight",
        "backbone.fc.bias",
    } <= names
    assert not any("layer1.1.downsample" in name or "layer3.6" in name for name in names)


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("side", [32, 65, 96])
def test_same_weights_give_the_descriptors_of_the_published_network(kind: str, side: int) -> None:
    architecture, reference = SMALL[kind]
    model = random_reference(*reference)
    ours = build(architecture, without_counters(torchvision_state(model)))
    images = coarse_pictures(2, seed=side, side=side)
    torch.testing.assert_close(ours(images), model(images), rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def small() -> Sscd:
    architecture, reference = SMALL["plain"]
    return build(architecture, without_counters(torchvision_state(random_reference(*reference))))


def test_descriptors_have_unit_length_and_repeat(small: Sscd) -> None:
    images = coarse_pictures(3, seed=1)
    described = small(images)
    torch.testing.assert_close(described.norm(dim=1), torch.ones(3))
    assert torch.equal(described, small(images))
    assert (described @ described.T)[~torch.eye(3, dtype=torch.bool)].max() < 0.99


def test_an_image_is_described_alike_alone_and_in_a_batch(small: Sscd) -> None:
    images = coarse_pictures(4, seed=2)
    alone = torch.cat([small(image[None]) for image in images])
    torch.testing.assert_close(small(images), alone, rtol=0, atol=1e-5)


def test_inputs_stay_as_they_were(small: Sscd) -> None:
    images = torch.randn(1, 3, 64, 64)
    kept = images.clone()
    small(images)
    assert torch.equal(images, kept)


def test_a_network_lacks_nothing_and_takes_nothing_else(small: Sscd) -> None:
    tensors = without_counters(dict(small.state_dict()))
    architecture = SMALL["plain"][0]
    with pytest.raises(RuntimeError, match=r"fc\.bias"):
        build(architecture, {key: t for key, t in tensors.items() if key != "backbone.fc.bias"})
    with pytest.raises(RuntimeError, match="surplus"):
        build(architecture, {**tensors, "surplus": torch.zeros(1)})


@given(arrays(np.float64, (2, 3, 2, 4), elements=st.floats(-1, 50, width=32)))
def test_gem_is_the_cube_root_of_the_mean_cube(features: np.ndarray) -> None:
    pooled = gem(torch.from_numpy(features)).numpy()
    for image in range(2):
        for channel in range(3):
            values = [max(float(v), 1e-6) for v in features[image, channel].ravel()]
            expected = (sum(v**3 for v in values) / len(values)) ** (1 / 3)
            assert pooled[image, channel] == pytest.approx(expected, rel=1e-9)


def test_gem_of_equal_values_is_that_value() -> None:
    torch.testing.assert_close(gem(torch.full((1, 2, 5, 5), 1.7)), torch.full((1, 2), 1.7))
