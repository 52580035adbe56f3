"""The generated images of one checkpoint, made when first asked for, read back in blocks.

Memory: one block of images and, while something is missing, the pipeline. Nothing is loaded
when the store already holds every image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.errors import StoreError, shown_path
from pytest_memscan.generation import (
    ALONE,
    PLANNED,
    Guided,
    Pipeline,
    ProgressCallback,
    Prompting,
    generate,
    plan_rows,
    unguided,
)
from pytest_memscan.store import ImageStore, StoredImage

BLOCK = 4096  # images read at a time


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """How images are drawn from a checkpoint, and where they are kept.

    Attributes:
        load_pipeline: dtype -> pipeline on its device; called only when images are missing.
        store: Keeps what was generated.
        num_images: Planned images; with prompts, the rows of all of them.
        seed: Seed of row 0.
        batch_size: Images in every denoiser call.
        steps: Denoiser calls per image.
        dtype: Of the planned images.
        prompting: Prompts of the rows, for a text-to-image checkpoint.
        attached: Given the pipeline, a context in which its denoiser answers as it should.
        guided: Given the pipeline and the rows of a batch, a context in which its denoiser
            answers as it should for these rows; opened within `attached`.
        progress: Told after every batch.
    """

    load_pipeline: Callable[[str], Pipeline]
    store: ImageStore
    num_images: int
    seed: int
    batch_size: int
    steps: int
    dtype: str
    prompting: Prompting | None = None
    attached: Callable[[Pipeline], AbstractContextManager[None]] = field(
        default=lambda _: nullcontext()
    )
    guided: Guided = unguided
    progress: ProgressCallback = field(default=lambda _: None)

    def blocks(
        self, invalid: Counter[str]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
        """Valid images in the order of the plan; those that are not are counted in ``invalid``.

        Yields:
            ``sample_ids`` ``(block,)`` and ``pixels`` ``(block, height, width, channels)``.
        """
        self._make(range(self.num_images), kind=PLANNED)
        for start in range(0, self.num_images, BLOCK):
            images = self._read(range(start, min(start + BLOCK, self.num_images)), kind=PLANNED)
            invalid.update(image.invalid for image in images if image.invalid)
            valid = [image for image in images if not image.invalid]
            if valid:
                ids = np.array([image.sample_id for image in valid], dtype=np.int64)
                yield ids, np.stack([image.pixels for image in valid])

    def images(self, sample_ids: Sequence[int]) -> list[StoredImage]:
        """Some planned images, made if need be, in the order asked for; some may be invalid."""
        self._make(sample_ids, kind=PLANNED)
        return self._read(sample_ids, kind=PLANNED)

    def alone(self, sample_ids: Sequence[int]) -> list[StoredImage]:
        """The same rows again, one image a batch in float32; some may be invalid there."""
        self._make(sample_ids, kind=ALONE)
        return self._read(sample_ids, kind=ALONE)

    def pixels_of(self, sample_id: int) -> NDArray[np.uint8]:
        """One planned image, ``(height, width, channels)``."""
        return self._read([sample_id], kind=PLANNED)[0].pixels

    def _read(self, sample_ids: Sequence[int], *, kind: str) -> list[StoredImage]:
        images = list(self.store.read(kind, sample_ids))
        if len(images) < len(sample_ids):
            # Images that were lost or changed on disk are made again from the same rows.
            self._make(sample_ids, kind=kind)
            images = list(self.store.read(kind, sample_ids))
        if len(images) < len(sample_ids):
            raise StoreError(
                f"generated images in {shown_path(self.store.folder)} change or vanish as soon as "
                "they are written; choose another folder with --memscan-cache-dir"
            )
        return images

    def _make(self, sample_ids: Sequence[int], *, kind: str) -> None:
        missing = sorted(set(sample_ids) - self.store.ids(kind))
        if not missing:
            return
        alone = kind == ALONE
        pipeline = self.load_pipeline("float32" if alone else self.dtype)
        with self.attached(pipeline):
            generate(
                pipeline,
                [plan_rows(1, seed=self.seed, start=sample_id)[0] for sample_id in sample_ids],
                store=self.store,
                kind=kind,
                batch_size=1 if alone else self.batch_size,
                steps=self.steps,
                plan_seed=self.seed,
                prompting=self.prompting,
                guided=self.guided,
                progress=(lambda _: None) if alone else self.progress,
            )
