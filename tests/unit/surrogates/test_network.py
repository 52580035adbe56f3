"""The classifier: where the time modules sit, what they start as, and how it is sized."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch import nn
from torch.nn import functional
from transformers import ResNetConfig, ResNetForImageClassification
from transformers.models.resnet.modeling_resnet import ResNetBasicLayer, ResNetShortCut

from pytest_memscan.surrogates.network import (
    SurrogateClassifier,
    TimedNorm,
    describe,
    new_classifier,
)


def classifier_of(
    *, size: int = 12, channels: int = 3, is_timed: bool = True, seed: int = 0
) -> SurrogateClassifier:
    return new_classifier(num_classes=5, channels=channels, size=size, is_timed=is_timed, seed=seed)


def noisy_images(size: int = 12, channels: int = 3) -> torch.Tensor:
    return torch.randn((4, channels, size, size), generator=torch.Generator().manual_seed(1))


def with_time(classifier: SurrogateClassifier) -> SurrogateClassifier:
    """The same, with time modules that say something."""
    generator = torch.Generator().manual_seed(2)
    for module in classifier.modules():
        if isinstance(module, TimedNorm):
            for weights in module.projection.parameters():
                weights.data = 0.3 * torch.randn(weights.shape, generator=generator)
    return classifier


@pytest.mark.parametrize("is_timed", [True, False])
@pytest.mark.parametrize(
    ("size", "depths", "widths", "num_parts"),
    [
        (12, (1, 2, 2), (32, 64, 128), 1),
        (20, (1, 2, 2), (32, 64, 128), 1),
        (21, (2, 2, 2, 2), (64, 128, 256, 512), 1),
        (64, (2, 2, 2, 2), (64, 128, 256, 512), 1),
        (128, (3, 4, 6, 3), (64, 128, 256, 512), 4),
    ],
)
def test_it_is_as_large_as_the_images_are_worth(
    size: int, depths: tuple[int, ...], widths: tuple[int, ...], num_parts: int, is_timed: bool
) -> None:
    classifier = classifier_of(size=size, is_timed=is_timed)
    stages = classifier.resnet.encoder.stages
    assert tuple(len(stage.layers) for stage in stages) == depths
    out = tuple(stage.layers[-1].layer[-1].convolution.out_channels for stage in stages)
    assert out == widths
    with torch.no_grad():
        stem = classifier.resnet.embedder(noisy_images(size))
    assert stem.shape == (4, widths[0], size // num_parts, size // num_parts)
    assert describe(classifier) == (
        f"ResNet of {sum(depths)} blocks, {widths[0]} to {widths[-1]} channels, "
        f"{'with' if is_timed else 'without'} a time module"
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_images_and_timesteps_become_logits(channels: int) -> None:
    classifier = classifier_of(channels=channels).eval()
    logits = classifier(noisy_images(channels=channels), torch.tensor([0.0, 1.5, 500.0, 999.0]))
    assert logits.shape == (4, 5)
    assert logits.isfinite().all()


def test_a_time_module_follows_the_first_normalisation_of_every_block_and_no_other() -> None:
    classifier = classifier_of()
    timed = [each for each in classifier.modules() if isinstance(each, TimedNorm)]
    assert [block.layer[0].normalization for block in classifier.blocks] == timed
    assert all(
        isinstance(block.layer[1].normalization, nn.BatchNorm2d) for block in classifier.blocks
    )
    shortcuts = [each for each in classifier.modules() if isinstance(each, ResNetShortCut)]
    assert shortcuts
    assert all(isinstance(each.normalization, nn.BatchNorm2d) for each in shortcuts)
    assert isinstance(classifier.resnet.embedder.embedder.normalization, nn.BatchNorm2d)


@pytest.mark.parametrize("is_training", [True, False])
def test_time_modules_start_as_the_identity(is_training: bool) -> None:
    timed, untimed = classifier_of(), classifier_of(is_timed=False)
    shared = {name.replace(".norm.", "."): w for name, w in timed.resnet.state_dict().items()}
    untimed.resnet.load_state_dict({n: w for n, w in shared.items() if "projection" not in n})
    untimed.head.load_state_dict(timed.head.state_dict())
    for each in (timed, untimed):
        each.train(is_training)
    timesteps = torch.tensor([0.0, 10.0, 500.0, 999.0])
    found, expected = (each(noisy_images(), timesteps) for each in (timed, untimed))
    assert torch.equal(found, expected)


def test_untimed_it_is_the_stock_network_of_transformers() -> None:
    """From 128 pixels on, where the stem is stock too."""
    classifier = classifier_of(size=128, is_timed=False).eval()
    config = ResNetConfig(
        hidden_sizes=[64, 128, 256, 512], depths=[3, 4, 6, 3], layer_type="basic", num_labels=5
    )
    stock = ResNetForImageClassification(config).eval()
    stock.resnet.load_state_dict(classifier.resnet.state_dict())
    stock.classifier[1].load_state_dict(classifier.head.state_dict())
    images = noisy_images(128)[:1]
    with torch.no_grad():
        assert torch.equal(classifier(images, torch.zeros(1)), stock(images).logits)


def test_without_time_modules_the_timestep_changes_nothing() -> None:
    classifier = classifier_of(is_timed=False).eval()
    early, late = (classifier(noisy_images(), torch.full((4,), at)) for at in (0.0, 999.0))
    assert torch.equal(early, late)


def test_each_image_is_told_its_own_timestep() -> None:
    classifier = with_time(classifier_of()).eval()
    timesteps = torch.tensor([0.0, 10.0, 500.0, 999.0])
    images = noisy_images()
    together = classifier(images, timesteps)
    alone = torch.cat([classifier(images[[at]], timesteps[[at]]) for at in range(4)])
    torch.testing.assert_close(together, alone)
    assert not torch.allclose(together, classifier(images, timesteps.flip(0)))


def test_a_block_scales_and_shifts_as_the_definition_says() -> None:
    """The first block, written out."""
    classifier = with_time(classifier_of()).eval()
    seen: list[torch.Tensor] = []
    block = classifier.blocks[0]
    block.register_forward_hook(lambda _, args, out: seen.extend((args[0].clone(), out)))
    timesteps = torch.tensor([3.0, 40.0, 500.0, 999.0])
    classifier(noisy_images(), timesteps)
    given, found = seen

    features = get_timestep_embedding(timesteps, 128, True, 0)
    for linear in (classifier.embedding.linear_1, classifier.embedding.linear_2):
        features = functional.silu(features @ linear.weight.T + linear.bias)
    timed = block.layer[0].normalization
    scale, shift = (features @ timed.projection.weight.T + timed.projection.bias).chunk(2, 1)
    first = timed.norm(block.layer[0].convolution(given))
    first = functional.relu(first * (1 + scale[..., None, None]) + shift[..., None, None])
    second = block.layer[1].normalization(block.layer[1].convolution(first))
    torch.testing.assert_close(found, functional.relu(second + given))


def test_the_gradient_reaches_the_images_and_the_time_modules() -> None:
    classifier = classifier_of()
    images = noisy_images().requires_grad_()
    classifier(images, torch.tensor([0.0, 10.0, 500.0, 999.0]))[:, 0].sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    for module in classifier.modules():
        if isinstance(module, TimedNorm):
            assert module.projection.weight.grad.abs().sum() > 0


def test_the_seed_decides_the_weights_and_nothing_else_is_drawn() -> None:
    before = torch.default_generator.get_state()
    first, again, other = (classifier_of(seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.default_generator.get_state(), before)
    names = first.state_dict()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in names.items())
    assert not torch.equal(first.head.weight, other.head.weight)
    assert isinstance(first.blocks[0], ResNetBasicLayer)


def test_a_copy_is_told_the_time_too() -> None:
    """The time modules that a classifier tells the timestep to are its own."""
    original = with_time(classifier_of()).eval()
    timesteps = torch.tensor([0.0, 10.0, 500.0, 999.0])
    expected = original(noisy_images(), timesteps)
    copied = copy.deepcopy(original)
    original(noisy_images(), timesteps.flip(0))
    assert torch.equal(copied(noisy_images(), timesteps), expected)
