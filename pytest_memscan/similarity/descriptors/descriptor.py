"""A descriptor turns an image into a unit vector; the cosine of two says how alike they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from pytest_memscan.metrics import Level

BATCH_SIZE = 32


@dataclass(frozen=True, kw_only=True)
class Descriptor:
    """A network with the one preprocessing that its numbers belong to.

    Attributes:
        name: As given to ``--memscan-descriptor``, without a private path; of a Hub model also
            the commit.
        network: ``(batch, 3, height, width)`` float32 -> ``(batch, dimension)``, on `device`, in
            evaluation mode. Need not be normalised.
        preprocess: ``(batch, height, width, channels)`` uint8, 1 or 3 channels -> what the network
            takes, on the CPU.
        dimension: Length of a descriptor.
        levels: Cuts on ``1 - cosine``; None where nobody published any, so that they follow from
            the scan's own negatives.
        levels_origin: Where the levels come from.
        record: Everything two results must share before their similarities may be compared:
            preset, preprocessing, sha256 of the weights.
        device: Where the network runs.
        batch_size: Images in every call of the network; the last batch is padded, so that an
            image's descriptor does not depend on how many others there are.
    """

    name: str
    network: torch.nn.Module = field(repr=False)
    preprocess: Callable[[NDArray[np.uint8]], torch.Tensor] = field(repr=False)
    dimension: int
    levels: tuple[Level, ...] | None
    record: Mapping[str, str]
    levels_origin: str = "published"
    device: str = "cpu"
    batch_size: int = BATCH_SIZE

    def describe(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Unit vectors ``(num_images, dimension)`` of ``(num_images, height, width, channels)``.

        Memory: one batch besides the input and the result.

        Raises:
            ValueError: The network gives a descriptor that is zero or not finite, or not of
                `dimension` values.
        """
        described = np.empty((len(images), self.dimension), dtype=np.float32)
        for start in range(0, len(images), self.batch_size):
            ready = self.preprocess(images[start : start + self.batch_size])
            padding = ready[:1].expand(self.batch_size - len(ready), *ready.shape[1:])
            with torch.inference_mode(), _full_precision(self.device):
                raw = self.network(torch.cat([ready, padding]).to(self.device))[: len(ready)]
            if raw.shape != (len(ready), self.dimension):
                raise ValueError(
                    f"descriptor {self.name} gives {tuple(raw.shape)} values for {len(ready)} "
                    f"images, not {self.dimension} each"
                )
            vectors = raw.to("cpu", torch.float64)
            norms = vectors.norm(dim=1, keepdim=True)
            if not torch.isfinite(norms).all() or not (norms > 0).all():
                raise ValueError(f"descriptor {self.name} is zero or not finite for some images")
            described[start : start + len(ready)] = (vectors / norms).to(torch.float32).numpy()
        return described


@contextmanager
def _full_precision(device: str) -> Iterator[None]:
    """Convolutions in float32: cuDNN's default, TF32, keeps 10 bits of each factor."""
    if not device.startswith("cuda"):
        yield
        return
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield
