"""The SSCD network: a residual network, GeM pooling, a linear projection, L2 norm.

Parameters carry the names of the published ``*.torchvision.pt`` files (torchvision's ResNet, its
``fc`` being the projection), so that a state dict of that layout loads as it is; `convert` renames
the Classy Vision layout.

References:
    Pizzi et al., "A Self-Supervised Descriptor for Image Copy Detection", CVPR 2022,
    arXiv:2202.10261; code: facebookresearch/sscd-copy-detection, ``sscd/models``. ResNeXt: Xie et
    al., arXiv:1611.05431.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

GEM_POWER = 3.0  # default of the published training code; every published model has it
GEM_FLOOR = 1e-6
NUM_FEATURES = 2048  # channels of the last stage
_COUNTER = "num_batches_tracked"  # of batch norms; counts training steps, unused afterwards


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Sizes of a residual network of bottleneck blocks.

    Attributes:
        layers: Blocks in each of the four stages.
        groups: Groups of the 3x3 convolutions (cardinality).
        width_per_group: Channels of a group in the first stage; doubles with every stage.
        dimension: Length of the descriptor.
    """

    layers: tuple[int, int, int, int]
    groups: int
    width_per_group: int
    dimension: int


ARCHITECTURES: Mapping[str, Architecture] = {
    "resnet50": Architecture(layers=(3, 4, 6, 3), groups=1, width_per_group=64, dimension=512),
    "resnext101_32x4d": Architecture(
        layers=(3, 4, 23, 3), groups=32, width_per_group=4, dimension=1024
    ),
}


class Sscd(nn.Module):
    """``(batch, 3, height, width)`` -> unit vectors ``(batch, dimension)``."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.backbone = ResNet(architecture)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Descriptors of normalised images of any size from 32 pixels up."""
        return nn.functional.normalize(self.backbone(images))


class ResNet(nn.Module):
    """Bottleneck residual network with GeM in place of average pooling."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        stages = []
        in_channels = 64
        for stage, num_blocks in enumerate(architecture.layers):
            stages.append(_stage(architecture, stage, num_blocks, in_channels))
            in_channels = 256 * 2**stage
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nn.Linear(NUM_FEATURES, architecture.dimension)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``(batch, 3, height, width)`` -> ``(batch, dimension)``."""
        features = self.bn1(self.conv1(images)).relu_()
        features = nn.functional.max_pool2d(features, kernel_size=3, stride=2, padding=1)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            features = stage(features)
        descriptors: torch.Tensor = self.fc(gem(features))
        return descriptors


class Bottleneck(nn.Module):
    """1x1, 3x3 (which holds the stride and the groups) and 1x1 convolutions beside a shortcut."""

    def __init__(
        self, in_channels: int, width: int, out_channels: int, *, stride: int, groups: int
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(
            width, width, kernel_size=3, stride=stride, padding=1, groups=groups, bias=False
        )
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """``(batch, in_channels, height, width)`` -> ``(batch, out_channels, ...)``."""
        shortcut = features if self.downsample is None else self.downsample(features)
        out = self.bn1(self.conv1(features)).relu_()
        out = self.bn2(self.conv2(out)).relu_()
        summed: torch.Tensor = self.bn3(self.conv3(out)) + shortcut
        return summed.relu_()


def gem(features: torch.Tensor) -> torch.Tensor:
    """Generalised mean over positions: ``mean(x ** p) ** (1 / p)`` with p = 3.

    Args:
        features: ``(batch, channels, height, width)``, not negative after the last ReLU; values
            below 1e-6 count as 1e-6, as in the published code.

    Returns:
        ``(batch, channels)``.

    References:
        Radenovic et al., arXiv:1711.02512, eq. (3); SSCD ``gem_pooling.py``.

    Example:
        >>> round(gem(torch.tensor([[[[1.0, 3.0]]]])).item() ** 3, 4)  # (1 + 27) / 2
        14.0
    """
    powers = features.flatten(2).clamp(min=GEM_FLOOR).pow(GEM_POWER)
    return powers.mean(dim=2).pow(1.0 / GEM_POWER)


def expected_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that a weight file must hold."""
    with torch.device("meta"):
        network = Sscd(architecture)
    return {
        name: tuple(tensor.shape)
        for name, tensor in network.state_dict().items()
        if not name.endswith(_COUNTER)
    }


def build(architecture: Architecture, tensors: Mapping[str, torch.Tensor]) -> Sscd:
    """The network with these weights, in evaluation mode.

    Args:
        architecture: Its sizes.
        tensors: float32, exactly those of `expected_shapes`.
    """
    with torch.device("meta"):
        network = Sscd(architecture)
    counters = {
        name: torch.zeros((), dtype=torch.int64)
        for name in network.state_dict()
        if name.endswith(_COUNTER)
    }
    network.load_state_dict({**tensors, **counters}, strict=True, assign=True)
    return network.eval().requires_grad_(False)


def _stage(
    architecture: Architecture, stage: int, num_blocks: int, in_channels: int
) -> nn.Sequential:
    width = architecture.width_per_group * architecture.groups * 2**stage
    out_channels = 256 * 2**stage
    blocks = [
        Bottleneck(
            in_channels if block == 0 else out_channels,
            width,
            out_channels,
            stride=2 if stage > 0 and block == 0 else 1,
            groups=architecture.groups,
        )
        for block in range(num_blocks)
    ]
    return nn.Sequential(*blocks)
