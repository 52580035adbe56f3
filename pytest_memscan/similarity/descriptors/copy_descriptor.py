"""The built-in copy descriptor ``builtin:copy``: a small network trained with SSCD's recipe.

It is *not* SSCD, whose weights somebody else published and whose levels do not hold here. It is
for demonstrations, for images too small for a large encoder, and for machines without network.
Recipe: contrastive learning on strong edits with an entropy regulariser (Pizzi et al., CVPR 2022,
arXiv:2202.10261), on generated pictures only; `fixtures/copy_descriptor` holds the scripts, the
weights and their licence, `docs/copy-detection.md` the measurements.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import nn
from torch.nn import functional

from pytest_memscan.errors import OptionError
from pytest_memscan.metrics import Level, similarity_levels
from pytest_memscan.similarity.descriptors.descriptor import Descriptor
from pytest_memscan.similarity.descriptors.preprocess import Preprocessing
from pytest_memscan.similarity.descriptors.sscd import gem

NAME = "builtin:copy"
WEIGHTS = "weights.safetensors"
LEVELS = "levels.json"
INPUT_SIZE = 64  # pixels, both sides
DIMENSION = 128
PREPROCESSING = Preprocessing(
    size=INPUT_SIZE, square=True, crop=None, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
)
_FOLDER = "copy_descriptor"


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016, figure 2)."""

    def __init__(self, width: int, new_width: int, stride: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, new_width, 3, stride, 1)
        self.second = nn.Conv2d(new_width, new_width, 3, 1, 1)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or width != new_width:
            self.shortcut = nn.Conv2d(width, new_width, 1, stride)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """``(batch, width, h, w)`` -> ``(batch, new_width, h / stride, w / stride)``."""
        inner = functional.relu(self.first(features))
        return functional.relu(self.second(inner) + self.shortcut(features))


class CopyNetwork(nn.Module):
    """Residual network, generalised-mean pooling, linear projection; batch norms are folded in.

    1.6 million parameters, 90 million multiply-adds an image.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU()
        )
        self.blocks = nn.Sequential(
            ResidualBlock(64, 64),
            ResidualBlock(64, 64),
            ResidualBlock(64, 128, stride=2),
            ResidualBlock(128, 128),
            ResidualBlock(128, 256, stride=2),
        )
        self.projection = nn.Linear(256, DIMENSION)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``(batch, 3, 64, 64)`` normalised pixels -> ``(batch, 128)``, not of unit length."""
        features = self.blocks(self.stem(images))
        projected: torch.Tensor = self.projection(gem(features.float()))
        return projected


def load_copy_descriptor(device: str = "cpu", *, folder: Path | None = None) -> Descriptor:
    """The built-in copy descriptor with its levels.

    Its levels are calibrated on pictures that are no copies of each other, by the rule in
    `fixtures/copy_descriptor/levels.py`. The weights are kept in float16 and used in float32.

    Args:
        device: Where the network runs.
        folder: Holds the weights and the levels; None takes those of this installation.

    Raises:
        OptionError: The weights or the levels are missing from this installation, or damaged.
    """
    folder = folder or builtin_folder()
    try:
        weights = (folder / WEIGHTS).read_bytes()
        network = read_network(weights)
        sha256 = hashlib.sha256(weights).hexdigest()
        levels = _levels((folder / LEVELS).read_text(encoding="utf-8"), sha256)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError):
        raise OptionError(
            f"--memscan-descriptor {NAME}: its files {WEIGHTS} and {LEVELS} are missing from this "
            "installation of pytest-memscan, or damaged; install it again, or choose another "
            "descriptor"
        ) from None
    return Descriptor(
        name=NAME,
        network=network.to(device),
        preprocess=PREPROCESSING,
        dimension=DIMENSION,
        levels=levels,
        levels_origin="measured on pictures that are no copies",
        record={
            "preset": f"{NAME} (copy descriptor trained with SSCD's recipe; not SSCD)",
            "preprocessing": PREPROCESSING.text,
            "weights_sha256": sha256,
        },
        device=device,
    )


def builtin_folder() -> Path:
    """Where the weights are: in the wheel, or in the repository of an editable install."""
    package = Path(__file__).resolve().parents[2]
    homes = (package / "builtin" / _FOLDER, package.parent / "fixtures" / _FOLDER)
    return next((home for home in homes if (home / WEIGHTS).is_file()), homes[0])


def read_network(weights: bytes) -> CopyNetwork:
    """The network with the weights of a safetensors file, in evaluation mode.

    Raises:
        SafetensorError: The bytes are no safetensors file.
        RuntimeError: Its tensors are not those of a `CopyNetwork`.
    """
    network = CopyNetwork()
    network.load_state_dict({name: tensor.float() for name, tensor in load(weights).items()})
    return network.eval().requires_grad_(False)


def _levels(text: str, weights_sha256: str) -> tuple[Level, ...]:
    """The levels, if they were measured with these weights.

    Raises:
        ValueError: They belong to other weights, or are no levels.
    """
    stored = json.loads(text)
    if stored["weights_sha256"] != weights_sha256:
        raise ValueError("the levels were measured with other weights")
    return similarity_levels(**stored["levels"])
