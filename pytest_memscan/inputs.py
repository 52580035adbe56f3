"""What a run works with: the checkpoint, the training images, and what they are compared by.

Everything is made when first asked for, and once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_memscan.data.sources import DataSource
from pytest_memscan.errors import TrainDataError
from pytest_memscan.models import Models
from pytest_memscan.results import Coverage
from pytest_memscan.settings import COPY, PIXELS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pytest_memscan.data.conversion import ImageShape
    from pytest_memscan.data.images import ImageSet
    from pytest_memscan.generation import ProgressCallback
    from pytest_memscan.similarity.described import DescriptorReference
    from pytest_memscan.similarity.descriptors.descriptor import Descriptor
    from pytest_memscan.similarity.index import DescriptorIndex
    from pytest_memscan.similarity.reference import Reference

NO_TRAIN_DATA = (
    "no training images to compare with; pass --memscan-train-data with a folder of images, shards "
    "or hub:ORG/NAME (docs/training-images.md)"
)
SECONDS_BEFORE_PROGRESS = 3.0  # what is done sooner needs no bar
ProgressDisplay = Callable[[str], AbstractContextManager["ProgressCallback"]]


@dataclass(frozen=True, kw_only=True)
class Inputs(Models):
    """Made from the settings of a run.

    Attributes:
        cache_dir: Where converted images and descriptors are kept.
        progress: Given a title, returns a context with a callback.
    """

    cache_dir: Path = field(repr=False)
    progress: ProgressDisplay = field(repr=False)

    @cached_property
    def shape(self) -> ImageShape:
        """What the checkpoint makes."""
        from pytest_memscan.data.conversion import ImageShape
        from pytest_memscan.generation import image_shape

        height, width, channels = image_shape(self.pipeline(self.config.dtype))
        if channels not in (1, 3):
            raise TrainDataError(
                f"the checkpoint makes images of {channels} channels; training images can be "
                "compared with 1 (grey) or 3 (RGB)"
            )
        return ImageShape(height=height, width=width, channels=channels)

    @cached_property
    def train_data(self) -> ImageSet:
        """Training images at the checkpoint's size.

        Raises:
            TrainDataError: None given, or none usable.
        """
        if self.config.train_source is not None:
            return self._images(self.config.train_source, "reading training images")
        if self.checkpoint.train_data is None:
            raise TrainDataError(NO_TRAIN_DATA)
        source = DataSource(kind="packed", path=self.checkpoint.train_data)
        return self._images(source, "reading training images")

    @cached_property
    def holdout(self) -> ImageSet | None:
        """Held-out images, when given."""
        source = self.config.holdout_source
        return None if source is None else self._images(source, "reading held-out images")

    @cached_property
    def auxiliary(self) -> ImageSet | None:
        """Labelled images that were not trained on, when given."""
        source = self.config.side.auxiliary
        return None if source is None else self._images(source, "reading auxiliary images")

    @cached_property
    def descriptor(self) -> Descriptor:
        """What describes images where not their pixels are compared; the built-in one if not given.

        Raises:
            MemscanError: Its weights are missing, or not what they should be.
        """
        from pytest_memscan.similarity.descriptors.presets import load_descriptor

        given = self.config.descriptor
        return load_descriptor(
            COPY if given == PIXELS else given,
            device=self.device,
            offline=self.config.offline,
            cache_dir=self.config.cache_dir,
        )

    @property
    def train_is_index(self) -> bool:
        """Whether the training images are known by their descriptors alone."""
        return self.config.train_source is not None and self.config.train_source.kind == "index"

    @cached_property
    def index(self) -> DescriptorIndex:
        """Descriptors of the training images, as given or made from them.

        Raises:
            MemscanError: The index given does not fit, or none can be made.
        """
        from pytest_memscan.similarity.index import check_fits, open_index
        from pytest_memscan.similarity.index_build import build_index, index_folder

        if self.config.train_source is not None and self.train_is_index:
            index = open_index(self.config.train_source.local)
            check_fits(index, self.descriptor, self.shape.as_tuple)
            return index
        train = self.train_data
        with self._patient("describing training images") as report:
            return build_index(
                train.pixels,
                self.descriptor,
                fingerprint=train.fingerprint,
                folder=index_folder(
                    self.cache_dir / "index", train.pixels, self.descriptor, train.fingerprint
                ),
                source=train.coverage,
                progress=report,
            )

    @cached_property
    def reference(self) -> Reference:
        """Training images made ready to be compared with.

        Raises:
            MemscanError: They cannot be read, or the descriptor cannot be had.
        """
        if self.config.descriptor != PIXELS:
            return self.described
        from pytest_memscan.similarity.reference import prepare

        self._require_two()
        return prepare(self.train_data.pixels, device=self.device)

    @cached_property
    def described(self) -> DescriptorReference:
        """Training images made ready to be compared with by their descriptors.

        Raises:
            MemscanError: As `reference`.
        """
        from pytest_memscan.similarity.described import prepare_described

        self._require_two()
        return prepare_described(self.index, self.descriptor)

    def _require_two(self) -> None:
        source = self.index.source if self.train_is_index else self.train_data.coverage
        if source.num_used < 2:
            raise TrainDataError(
                "there is one training image, and how close different ones come to each other "
                "cannot be measured; pass more with --memscan-train-data"
            )

    @property
    def train_pixels(self) -> NDArray[np.uint8] | None:
        """``(num_train, height, width, channels)``; None where only descriptors are known."""
        return None if self.train_is_index else self.train_data.pixels

    @property
    def fingerprints(self) -> dict[str, str]:
        """Which real images were compared with."""
        if not self.config.has_train_data:
            return {"training images": "none"}
        train = self.index if self.train_is_index else self.train_data
        return {
            "training images": train.fingerprint,
            "held-out images": "none" if self.holdout is None else self.holdout.fingerprint,
        }

    def coverage(self) -> Coverage:
        """What is known about the real images; nothing has been generated yet."""
        source = self.index.source if self.train_is_index else self.train_data.coverage
        unusable = dict(source.unusable)
        if self.holdout is not None:
            held_out = self.holdout.unusable
            unusable |= {f"held-out: {why}": names for why, names in held_out.items()}
        return Coverage(
            planned=0,
            generated=0,
            valid=0,
            train_origin=self._train_origin,
            train_found=source.num_found,
            train_used=source.num_used,
            train_resized=source.num_resized,
            train_unusable=unusable,
        )

    @property
    def _train_origin(self) -> str:
        if self.config.train_source is not None and self.train_is_index:
            return self.config.train_source.label
        return self.train_data.origin

    def require_unchanged(self) -> None:
        """Look at the files of the real images again, at the end of a scan.

        Raises:
            TrainDataError: They changed while they were scanned.
        """
        if not self.train_is_index:
            self.train_data.require_unchanged()
        if self.holdout is not None:
            self.holdout.require_unchanged()

    def _images(self, source: DataSource, title: str) -> ImageSet:
        from pytest_memscan.data.images import load_images

        with self._patient(title) as report:
            return load_images(
                source,
                self.shape,
                cache_dir=self.cache_dir / "train",
                offline=self.config.offline,
                progress=report,
            )

    @contextmanager
    def _patient(self, title: str) -> Iterator[Callable[[int, int | None], None]]:
        """Progress that shows itself only when there is time to look at it."""
        from pytest_memscan.generation import Progress

        started, resumed = time.monotonic(), 0
        show: ProgressCallback | None = None
        with ExitStack() as shown:

            def report(done: int, total: int | None) -> None:
                nonlocal show, resumed
                if total is None:
                    return
                if show is None:
                    if time.monotonic() - started < SECONDS_BEFORE_PROGRESS:
                        return
                    show, resumed = shown.enter_context(self.progress(title)), done
                show(Progress(done=done, total=total, resumed=resumed))

            yield report
