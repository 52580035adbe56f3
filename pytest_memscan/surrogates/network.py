"""The network that tells surrogate labels of noisy images (SIDE, arXiv:2410.02467, appendix C).

A ResNet whose blocks are told the timestep: right after the first normalisation of every block, a
time module scales and shifts each channel. It starts as the identity, so that what the blocks do
at one noise level is what they do at every other, until training finds that they should not.
"""

from __future__ import annotations

from typing import cast

import torch
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import nn
from transformers import ResNetConfig, ResNetModel
from transformers.models.resnet.modeling_resnet import ResNetBasicLayer, ResNetConvLayer

_NUM_FREQUENCIES = 128  # sines and cosines of a timestep, as denoisers of small images have
_TINY, _LARGE = 20, 128  # pixels


class TimedNorm(nn.Module):
    """A normalisation, then a scale and a shift of each channel that follow the timestep.

    Attributes:
        embedding: ``(batch, num_features)`` of the timesteps of the images under way; set by the
            classifier during a forward only.
    """

    def __init__(self, norm: nn.BatchNorm2d, num_features: int) -> None:
        super().__init__()
        self.norm = norm
        self.projection = nn.Linear(num_features, 2 * norm.num_features)
        nn.init.zeros_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)
        self.embedding: torch.Tensor | None = None

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Of ``(batch, channels, height, width)``, to the same shape."""
        if self.embedding is None:
            raise RuntimeError("a time module runs inside of its classifier only")
        scale, shift = self.projection(self.embedding)[:, :, None, None].chunk(2, dim=1)
        scaled: torch.Tensor = self.norm(features) * (1 + scale) + shift
        return scaled


class SurrogateClassifier(nn.Module):
    """Logits of the surrogate labels of noisy images.

    Attributes:
        is_timed: Whether it is told the timestep.
    """

    def __init__(self, config: ResNetConfig, *, num_classes: int, is_timed: bool) -> None:
        super().__init__()
        self.is_timed = is_timed
        self.resnet = ResNetModel(config)
        self.head = nn.Linear(_widths(config)[-1], num_classes)
        self._timed: list[TimedNorm] = []
        if is_timed:
            self.frequencies = Timesteps(
                _NUM_FREQUENCIES, flip_sin_to_cos=True, downscale_freq_shift=0
            )
            num_features = 2 * _NUM_FREQUENCIES
            self.embedding = TimestepEmbedding(_NUM_FREQUENCIES, num_features, post_act_fn="silu")
            self._timed = [_add_time(block, num_features) for block in self.blocks]
            if not self._timed:
                raise RuntimeError("the ResNet has no block that could be told the timestep")

    @property
    def blocks(self) -> list[ResNetBasicLayer]:
        """Basic blocks, in the order in which images go through them."""
        return [each for each in self.resnet.modules() if isinstance(each, ResNetBasicLayer)]

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Logits.

        Args:
            noisy: ``(batch, channels, height, width)``, what the denoiser is given.
            timesteps: ``(batch,)`` as the scheduler counts; ignored unless it is timed.

        Returns:
            ``(batch, num_classes)``.
        """
        if self.is_timed:
            embedding = self.embedding(self.frequencies(timesteps).to(noisy.dtype))
            for module in self._timed:
                module.embedding = embedding
        features = self.resnet(noisy).pooler_output.flatten(1)
        for module in self._timed:
            module.embedding = None  # which would keep the whole graph of its gradient in memory
        logits: torch.Tensor = self.head(features)
        return logits


def new_classifier(
    *, num_classes: int, channels: int, size: int, is_timed: bool, seed: int
) -> SurrogateClassifier:
    """An untrained classifier, in training mode.

    Below 128 pixels a stem that shrinks the image to a quarter of its width would leave too little
    to look at: images go in at full size, as is usual for CIFAR-10 (He et al. 2016, section 4.2).

    Args:
        num_classes: At least 2.
        channels: Of the images.
        size: Longer side of the images, in pixels.
        is_timed: Whether it is told the timestep.
        seed: Of the weights; the state of torch's own generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        classifier = SurrogateClassifier(
            _config(channels, size), num_classes=num_classes, is_timed=is_timed
        )
        if size < _LARGE:
            _keep_full_size(classifier.resnet)
    return classifier


def describe(network: nn.Module) -> str:
    """What a classifier of `new_classifier` is made of, as part of a sentence."""
    classifier = cast(SurrogateClassifier, network)
    widths = _widths(classifier.resnet.config)
    time = "with" if classifier.is_timed else "without"
    return (
        f"ResNet of {len(classifier.blocks)} blocks, {widths[0]} to {widths[-1]} channels, "
        f"{time} a time module"
    )


def _config(channels: int, size: int) -> ResNetConfig:
    """As deep and wide as the images are worth: from 128 pixels on, the paper's ResNet-34."""
    depths, widths = ([3, 4, 6, 3] if size >= _LARGE else [2, 2, 2, 2]), [64, 128, 256, 512]
    if size <= _TINY:
        depths, widths = [1, 2, 2], [32, 64, 128]
    return ResNetConfig(
        num_channels=channels,
        embedding_size=widths[0],
        hidden_sizes=widths,
        depths=depths,
        layer_type="basic",
    )


def _keep_full_size(resnet: ResNetModel) -> None:
    """A stem of 3x3 with stride 1, and no pooling."""
    config = resnet.config
    stem = ResNetConvLayer(config.num_channels, config.embedding_size, kernel_size=3, stride=1)
    nn.init.kaiming_normal_(stem.convolution.weight, mode="fan_out", nonlinearity="relu")
    resnet.embedder.embedder = stem
    resnet.embedder.set_submodule("pooler", nn.Identity())


def _add_time(block: ResNetBasicLayer, num_features: int) -> TimedNorm:
    """Put a time module after the first normalisation of a block."""
    first = cast(ResNetConvLayer, block.layer[0])
    timed = TimedNorm(first.normalization, num_features)
    first.set_submodule("normalization", timed)
    return timed


def _widths(config: ResNetConfig) -> list[int]:
    """Channels of each stage."""
    return list(cast(list[int], config.hidden_sizes))
