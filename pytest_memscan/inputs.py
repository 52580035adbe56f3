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

from pytest_memscan.checkpoints.integrity import verify_checkpoint
from pytest_memscan.checkpoints.resolve import BASE, FORM_TEXTS, ResolvedCheckpoint, resolve
from pytest_memscan.checks import Situation
from pytest_memscan.config import Config
from pytest_memscan.data.sources import DataSource
from pytest_memscan.errors import CheckpointError, TrainDataError
from pytest_memscan.results import Coverage, Integrity
from pytest_memscan.settings import COPY, PIXELS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pytest_memscan.checkpoints.families import Kind
    from pytest_memscan.checkpoints.finetunes import Finetune
    from pytest_memscan.data.conversion import ImageShape
    from pytest_memscan.data.images import ImageSet
    from pytest_memscan.generation import Pipeline, ProgressCallback
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
class Inputs:
    """Made from the settings of a run.

    Attributes:
        config: What the user asked for.
        cache_dir: Where converted images and descriptors are kept.
        progress: Given a title, returns a context with a callback.
    """

    config: Config
    cache_dir: Path = field(repr=False)
    progress: ProgressDisplay = field(repr=False)
    _pipelines: dict[str, Pipeline] = field(default_factory=dict, repr=False)
    _finetunes: dict[str, Finetune] = field(default_factory=dict, repr=False)

    @cached_property
    def checkpoint(self) -> ResolvedCheckpoint:
        """The checkpoint on disk, vetted.

        Raises:
            CheckpointError: It cannot be found, or must not be loaded.
        """
        checkpoint = resolve(self.config.model, offline=self.config.offline)
        verify_checkpoint(checkpoint)
        return checkpoint

    @cached_property
    def base(self) -> ResolvedCheckpoint | None:
        """What it was fine-tuned from, vetted, where that is known.

        Raises:
            CheckpointError: It cannot be found, must not be loaded, or nothing says what it is
                although the checkpoint cannot be loaded without it.
        """
        spec = self._base_spec
        if spec is None:
            if self.checkpoint.form == "pipeline":
                return None
            raise CheckpointError(
                f"{self.checkpoint.label} is a {FORM_TEXTS[self.checkpoint.form]}, and its files "
                "do not say which checkpoint it belongs to; pass the one it was trained from with "
                "--memscan-base MODEL"
            )
        base = resolve(spec, offline=self.config.offline, option=BASE)
        verify_checkpoint(base)
        return base

    @property
    def base_origin(self) -> str:
        """Where the base was learnt: an option, or a file of the checkpoint."""
        return self.config.base_origin or self.checkpoint.claims.base_origin

    @property
    def _base_spec(self) -> str | None:
        config = self.config
        if config.base is not None:
            return config.base
        asked = self.checkpoint.form != "pipeline" or "finextract" in (config.scans or ())
        return self.checkpoint.claims.base if asked else None

    @cached_property
    def integrity(self) -> Integrity:
        """What was found in the files that are loaded, with those of a base."""
        base = self.base if self.situation.has_base else None
        return verify_checkpoint(self.checkpoint, base)

    @cached_property
    def situation(self) -> Situation:
        """What decides which checks apply, now that the checkpoint is here."""
        if self.config.concepts:
            return self.config.situation
        return self.config.situation.settled(self.kind, has_base=self._base_spec is not None)

    @cached_property
    def device(self) -> str:
        """cpu, cuda or cuda:N."""
        from pytest_memscan.checkpoints.load import resolve_device

        return resolve_device(self.config.device)

    @cached_property
    def kind(self) -> Kind:
        """Whether the checkpoint needs prompts."""
        return self.config.kind or self.checkpoint.kind

    def pipeline(self, dtype: str) -> Pipeline:
        """The checkpoint's pipeline on its device."""
        from pytest_memscan.checkpoints.load import load_text_to_image, load_unconditional

        if self.checkpoint.form != "pipeline":
            pipeline: Pipeline = self.finetune(dtype).pipeline
            return pipeline
        if dtype not in self._pipelines:
            load = load_text_to_image if self.kind == "text-to-image" else load_unconditional
            self._pipelines[dtype] = load(self.checkpoint, device=self.device, dtype=dtype)
        return self._pipelines[dtype]

    def finetune(self, dtype: str) -> Finetune:
        """The checkpoint with its base, both on their device.

        Raises:
            CheckpointError: They do not belong together, or no base is known.
        """
        from pytest_memscan.checkpoints.finetunes import load_finetune

        if dtype not in self._finetunes:
            base = self.base
            if base is None:
                raise CheckpointError(
                    "no base is known; pass the checkpoint it was fine-tuned from with "
                    "--memscan-base MODEL"
                )
            self._finetunes[dtype] = load_finetune(
                self.checkpoint,
                base,
                base_origin=self.base_origin,
                device=self.device,
                dtype=dtype,
            )
        return self._finetunes[dtype]

    def forget_models(self) -> None:
        """Free the memory of loaded models; they are loaded again when asked for."""
        self._pipelines.clear()
        self._finetunes.clear()

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
