"""Fine-tunes of which it is known which training images they copy, as images of a few pixels.

The images of every method lie in its store beforehand, so no model is ever loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from descriptor_factory import tiny_descriptor
from numpy.typing import NDArray

from pytest_memscan.generation import NON_FINITE, PLANNED
from pytest_memscan.results import Coverage, Fit, SourceCoverage
from pytest_memscan.sampler import Sampler
from pytest_memscan.scans.finetune_plan import Method, Stopping, Target
from pytest_memscan.similarity.described import DescriptorReference, prepare_described
from pytest_memscan.similarity.index_build import build_index
from pytest_memscan.store import ImageStore, StoredImage

SIDE, CELL = 16, 4
HIGH = 0.95  # level of the tiny descriptor
DESCRIPTOR = tiny_descriptor()
FIT = Fit(kind="full", base="./base", base_origin="--memscan-base", parts=("unet",), distance=0.01)
Pixels = NDArray[np.uint8]
INVALID = None  # in a list of images


def pictures(count: int, seed: int) -> Pixels:
    """``(count, 16, 16, 3)``, unrelated, of cells that a descriptor and a JPEG both keep."""
    cells = np.random.default_rng(seed).integers(
        0, 256, (count, SIDE // CELL, SIDE // CELL, 3), dtype=np.uint8
    )
    return cells.repeat(CELL, axis=1).repeat(CELL, axis=2)


def noisy(picture: Pixels, seed: int) -> Pixels:
    """The same picture with a little noise."""
    noise = np.random.default_rng(seed).integers(-3, 4, picture.shape)
    return np.clip(picture.astype(int) + noise, 0, 255).astype(np.uint8)


def copies(train: Pixels, ids: Sequence[int], seed: int = 0) -> list[Pixels]:
    """One copy for each id."""
    return [noisy(train[each], 1000 * seed + place) for place, each in enumerate(ids)]


def never_loaded(_: str) -> NoReturn:
    raise AssertionError("more images were asked for than there are")


@dataclass(kw_only=True)
class Worlds:
    """Makes targets; close `opened` when they are done with.

    Attributes:
        folder: Of stores and indices.
        described: How many images were described so far.
    """

    folder: Path
    opened: ExitStack = field(default_factory=ExitStack)
    described: int = 0

    def reference(self, train: Pixels) -> DescriptorReference:
        """As in a scan: described, near-duplicates merged."""
        index = build_index(
            train,
            DESCRIPTOR,
            fingerprint="f" * 64,
            folder=self.folder / f"index{len(list(self.folder.glob('index*')))}",
            source=SourceCoverage(num_found=len(train), num_used=len(train)),
        )
        return prepare_described(index, DESCRIPTOR)

    def method(
        self,
        name: str,
        images: Sequence[Pixels | None],
        *,
        order: Sequence[int] | None = None,
        settings: str = "",
        calls: int = 1,
    ) -> Method:
        """A method that makes these images one after the other, in the order of its rows."""
        place = len(list(self.folder.glob("store*")))
        store = ImageStore(self.folder / f"store{place}", spec={"method": name})
        self.opened.callback(store.close)
        blank = np.zeros((SIDE, SIDE, 3), np.uint8)
        store.add(
            PLANNED,
            [
                StoredImage(
                    sample_id=sample_id,
                    seed=sample_id,
                    invalid="" if image is not None else NON_FINITE,
                    pixels=blank if image is None else image,
                )
                for sample_id, image in zip(order or range(len(images)), images, strict=True)
            ],
        )
        sampler = Sampler(
            load_pipeline=never_loaded,
            store=store,
            num_images=0,
            seed=0,
            batch_size=1,
            steps=1,
            dtype="float32",
        )
        return Method(name=name, settings=settings, sampler=sampler, calls_per_image=calls)

    def target(self, train: Pixels | None, planned: int, **changes: Any) -> Target:
        """A fine-tune; ``guided``, ``baselines`` and ``base`` have to be given."""
        settings: dict[str, Any] = {
            "name": "./finetune",
            "fit": FIT,
            "captions": ("instance prompt", "captions.txt", ""),
            "order": range(planned),
            "describe": self._describe,
            "reference": None if train is None else self.reference(train),
            "high_level": HIGH,
            "holdout": None,
            "source": None if train is None else Coverage(planned=0, generated=0, valid=0),
            "stopping": Stopping(planned=planned, limit=None),
        }
        return Target(**{**settings, **changes})

    def _describe(self, images: Pixels) -> NDArray[np.float32]:
        self.described += len(images)
        return DESCRIPTOR.describe(images)


def cosines(train: Pixels, images: Sequence[Pixels]) -> NDArray[np.float64]:
    """``(num_train, num_images)`` from the definition, in double precision."""
    one, other = (
        DESCRIPTOR.describe(np.stack(list(each))).astype(np.float64) for each in (train, images)
    )
    similarity: NDArray[np.float64] = one @ other.T
    return similarity


def between(first: Pixels, second: Pixels, low: float, high: float) -> Pixels:
    """A mixture of two pictures that is so similar to the first."""
    for share in np.linspace(0, 1, 201):
        mixed = (first * (1 - share) + second * share).astype(np.uint8)
        if low < cosines(first[None], [mixed])[0, 0] < high:
            return mixed
    raise AssertionError


# A fine-tune that leaks, its base, and the other ways of asking it.
TRAIN = pictures(8, seed=1)
TRAIN[5] = noisy(TRAIN[2], seed=2)  # the same picture again
DISTINCT = [0, 1, 2, 3, 4, 6, 7]
OTHERS = list(pictures(120, seed=3))  # which nobody was trained on
NUM_PLANNED = 30  # images of each method
# Image 0 nine times, 2 (and so 5) four times, 6 once: found, but no evidence on its own.
GUIDED = copies(TRAIN, [0] * 9 + [2] * 4 + [6], seed=1) + OTHERS[:16]
CFG = copies(TRAIN, [0] * 5 + [4] * 3, seed=2) + OTHERS[20:42]
DIRECT = copies(TRAIN, [0], seed=3) + OTHERS[50:79]
BASE = OTHERS[80:110]
