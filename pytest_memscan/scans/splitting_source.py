"""What trajectories of a splitting scan are made with, and what they are compared with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pytest_memscan.errors import StoreError, shown_path
from pytest_memscan.generation import PLANNED, PlanRow, Progress, ProgressCallback, as_stored
from pytest_memscan.similarity.reference import NearestTrain, Reference
from pytest_memscan.splitting.chain import Chain
from pytest_memscan.splitting.island import Arrived
from pytest_memscan.store import ImageStore, StoredImage

POPULATION = 2048  # trajectories that are made together, at most
LATENT_BYTES = 2**29  # what they may write to disk, or leave in memory
BLOCK = 1024  # training images that are read at a time


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A prompt that trajectories are made with.

    Attributes:
        prompt_id: Its place in the list that was given.
        text: Private.
        place: Where it was found, "line 7"; "" where that is private.
    """

    prompt_id: int
    text: str = field(repr=False)
    place: str = ""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A checkpoint as a source of trajectories, all of one prompt where it reads any.

    Attributes:
        load_pipeline: dtype -> stock pipeline with a ``DDIMScheduler``, on its device.
        store: Keeps images.
        seed: Of the first ordinary image; the others follow.
        batch_size: Images in every denoiser call.
        steps: Denoiser calls for an image.
        dtype: Of the images.
        progress: Told as images are made.
        prompt: Of every image; None for an unconditional checkpoint.
        settings: More arguments of a text-to-image pipeline's call.
    """

    load_pipeline: Callable[[str], Any]
    store: ImageStore
    seed: int
    batch_size: int
    steps: int
    dtype: str
    progress: ProgressCallback
    prompt: Prompt | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def chain(self) -> Chain:
        """The stochastic reverse process."""
        return self._chain(self.dtype, self.batch_size)

    @cached_property
    def chain_alone(self) -> Chain:
        """The same with one image a batch, in float32."""
        return self._chain("float32", 1)

    @cached_property
    def wide_chain(self) -> Chain:
        """In float32."""
        return self._chain("float32", self.batch_size)

    def _chain(self, dtype: str, batch_size: int) -> Chain:
        return Chain(
            pipeline=self.load_pipeline(dtype),
            num_steps=self.steps,
            batch_size=batch_size,
            prompt=None if self.prompt is None else self.prompt.text,
            settings=self.settings,
        )

    @property
    def plain_kind(self) -> str:
        """Under which images that were never steered are stored."""
        return PLANNED if self.prompt is None else f"{PLANNED}-{self.prompt.prompt_id}"

    def seeds(self, ids: Sequence[int]) -> list[int]:
        """Seeds are enumerated: ordinary images, islands, then screening."""
        return [(self.seed + row) % 2**32 for row in ids]

    def keep(
        self, kind: str, ids: Sequence[int], images: torch.Tensor, finite: NDArray[np.bool_]
    ) -> list[StoredImage]:
        """Store images ``(num, channels, height, width)`` in [0, 1]."""
        rows = [PlanRow(sample_id=i, seed=s) for i, s in zip(ids, self.seeds(ids), strict=True)]
        stored = as_stored(images, rows, finite=finite)
        self.store.add(kind, stored)
        return stored

    def image(self, kind: str, sample_id: int) -> StoredImage:
        """A stored image.

        Raises:
            StoreError: It is gone.
        """
        found = list(self.store.read(kind, [sample_id]))
        if not found:
            raise self.lost()
        return found[0]

    def lost(self) -> StoreError:
        """What is said when images do not stay where they were put."""
        return StoreError(
            f"generated images in {shown_path(self.store.folder)} change or vanish as soon as "
            "they are written; choose another folder with --memscan-cache-dir"
        )

    def report(self, done: int, total: int, *, resumed: int = 0, unit: str = "images") -> None:
        """Tell how far it is."""
        self.progress(Progress(done=done, total=total, resumed=resumed, unit=unit))


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Training images that can be steered to: one for each group of near-duplicates.

    A *row* is a place among them.

    Attributes:
        reference: Training images, near-duplicates merged.
        pixels: ``(num_train, height, width, channels)`` uint8; may be a memory map.
        latents: ``(num_targets, ...)`` float32 clean latents, for a checkpoint with an
            autoencoder; may be a memory map.
    """

    reference: Reference
    pixels: NDArray[np.uint8] = field(repr=False)
    latents: NDArray[np.float32] | None = field(repr=False, default=None)

    @property
    def ids(self) -> NDArray[np.int64]:
        """Training id of each, ``(num_targets,)``, ascending."""
        return self.reference.groups.representatives

    @property
    def values(self) -> int:
        """Numbers that the latents of an image consist of."""
        each = self.pixels if self.latents is None else self.latents
        return int(np.prod(each.shape[1:]))

    @property
    def num_pixels(self) -> int:
        """Of an image, all channels."""
        return int(np.prod(self.pixels.shape[1:]))

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of which they are and what they look like."""
        hashed = hashlib.sha256(self.ids.tobytes())
        for start in range(0, len(self.ids), BLOCK):
            hashed.update(self.pixels[self.ids[start : start + BLOCK]].tobytes())
        return hashed.hexdigest()

    def clean(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """As the denoiser sees them, ``(num_rows, channels, height, width)``."""
        if self.latents is not None:
            return torch.from_numpy(np.ascontiguousarray(self.latents[rows]))
        pixels = np.ascontiguousarray(self.pixels[self.ids[rows]].transpose(0, 3, 1, 2))
        return torch.from_numpy(pixels).float() / 127.5 - 1

    def nearest(self, arrived: Arrived) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """As `match`, of an island's images."""
        rows = [PlanRow(sample_id=0, seed=0)] * len(arrived.images)
        return self.match(as_stored(arrived.images, rows, finite=arrived.finite))

    def match(self, images: Sequence[StoredImage]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Row of the nearest and dissimilarity from it; infinity for images that show nothing."""
        nearest = np.zeros(len(images), dtype=np.int64)
        dissimilarities = np.full(len(images), np.inf)
        valid = [row for row, image in enumerate(images) if not image.invalid]
        if valid:
            near = self.near([images[row] for row in valid])
            nearest[valid] = np.searchsorted(self.ids, near.train_ids[:, 0])
            dissimilarities[valid] = near.dissimilarities[:, 0]
        return nearest, dissimilarities

    def near(self, images: Sequence[StoredImage]) -> NearestTrain:
        """All that is known about the nearest of each."""
        return self.reference.nearest(np.stack([image.pixels for image in images]))
