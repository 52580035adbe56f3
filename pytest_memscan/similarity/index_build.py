"""Making a descriptor index: resumable after any kill, with the same bytes whatever happened.

Descriptors are appended to ``descriptors.npy`` in a ``.partial`` folder, one block at a time. A
block counts once its bytes are on the disk *and* a line with their sha256 is in the file
``.progress``; whatever else a kill left behind is cut off and made again. Blocks begin at
multiples of the batch size, so that every image is described in the same batch as in an
uninterrupted run. The finished folder is renamed to its name in one step. A lock beside it makes a
second process wait for the first, and then find the index ready.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from pytest_memscan.errors import StoreError, TrainDataError, shown_path
from pytest_memscan.results import SourceCoverage
from pytest_memscan.similarity.descriptors.descriptor import Descriptor
from pytest_memscan.similarity.index import (
    DescriptorIndex,
    check_fits,
    index_key,
    open_index,
)
from pytest_memscan.similarity.index_files import (
    DESCRIPTORS,
    MANIFEST,
    Manifest,
    canonical_hash,
    file_sha256,
    npy_header,
    planted_file,
)
from pytest_memscan.similarity.planted import ALTERATIONS, altered, planted_rows

BLOCK_IMAGES = 512  # described between two commits, at least one batch
_SPARE_BYTES = 2**24  # of the disk, left for the small files and everybody else


def index_folder(
    parent: Path, pixels: NDArray[np.uint8], descriptor: Descriptor, fingerprint: str
) -> Path:
    """Where the index of these images by this descriptor is kept."""
    return parent / index_key(fingerprint, pixels.shape[1:], descriptor.record)


def build_index(
    pixels: NDArray[np.uint8],
    descriptor: Descriptor,
    *,
    fingerprint: str,
    folder: Path,
    source: SourceCoverage,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> DescriptorIndex:
    """Describe all training images into ``folder``, or open it where that was done before.

    Args:
        pixels: ``(num_images, height, width, channels)`` uint8; may be a memory map.
        descriptor: What describes them.
        fingerprint: Of the training images.
        folder: As from `index_folder`. A damaged index there is made again.
        source: What became of the training images; their names are not kept.
        progress: Called with (images described, images in all), at first with what an
            interrupted run left.

    Memory: one block of images and descriptors.

    Raises:
        StoreError: The index cannot be written.
        TrainDataError: The descriptor gives no usable vector for an image, or the folder holds
            something else.
    """
    build = _Build(
        pixels=pixels,
        descriptor=descriptor,
        fingerprint=fingerprint,
        folder=folder,
        partial=folder.with_name(f"{folder.name}.partial"),
        log=folder.with_name(f"{folder.name}.progress"),
    )
    with _explained(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            index = build.existing()
            if index is None:
                build.describe_all(progress)
                build.finish(source)
                index = open_index(folder)
            build.log.unlink(missing_ok=True)
    return index


@dataclass(frozen=True, kw_only=True)
class _Build:
    pixels: NDArray[np.uint8] = field(repr=False)
    descriptor: Descriptor
    fingerprint: str
    folder: Path
    partial: Path
    log: Path

    @property
    def image_shape(self) -> tuple[int, ...]:
        return tuple(int(each) for each in self.pixels.shape[1:])

    @property
    def block(self) -> int:
        batch = self.descriptor.batch_size
        return max(1, BLOCK_IMAGES // batch) * batch

    @property
    def recipe(self) -> str:
        """Everything that may change a byte of the descriptors."""
        return canonical_hash(
            {
                "fingerprint": self.fingerprint,
                "shape": list(self.pixels.shape),
                "record": dict(self.descriptor.record),
                "batch_size": self.descriptor.batch_size,
                "device": self.descriptor.device,
                "block": self.block,
            }
        )

    def existing(self) -> DescriptorIndex | None:
        """The finished index, if there is a whole one; a damaged one is deleted."""
        if not self.folder.exists():
            return None
        try:
            index = open_index(self.folder)
        except TrainDataError:
            if not _is_ours(self.folder):
                raise
            shutil.rmtree(self.folder)
            return None
        check_fits(index, self.descriptor, self.image_shape, fingerprint=self.fingerprint)
        return index

    def describe_all(self, progress: Callable[[int, int], None]) -> None:
        """Append the blocks that are missing."""
        total, header = len(self.pixels), npy_header(len(self.pixels), self.descriptor.dimension)
        self.partial.mkdir(exist_ok=True)
        with (
            (self.partial / DESCRIPTORS).open("a+b") as data,
            self.log.open("a+b") as log,
        ):
            done = self._resume(data, log, header)
            self._require_space(len(header) + 4 * total * self.descriptor.dimension - data.tell())
            progress(done, total)
            while done < total:
                block = np.asarray(self.pixels[done : done + self.block])
                content = self._describe(block).tobytes()
                _append(data, content)
                done += len(block)
                _append(log, _line(done, content))
                progress(done, total)

    def finish(self, source: SourceCoverage) -> None:
        """Describe altered copies of some images, write the manifest, name the folder."""
        rows = planted_rows(len(self.pixels))
        originals = np.stack([self.pixels[row] for row in rows])
        sha256 = {DESCRIPTORS: file_sha256(self.partial / DESCRIPTORS)}
        for name in ALTERATIONS:
            described = self._describe(altered(name, originals))
            path = self.partial / planted_file(name)
            with path.open("wb") as file:
                _append(file, npy_header(*described.shape) + described.tobytes())
            sha256[path.name] = file_sha256(path)
        Manifest(
            num_images=len(self.pixels),
            dimension=self.descriptor.dimension,
            fingerprint=self.fingerprint,
            image_shape="x".join(str(each) for each in self.image_shape),
            descriptor=self.descriptor.name,
            record=dict(self.descriptor.record),
            planted={name: rows.tolist() for name in ALTERATIONS},
            num_found=source.num_found,
            num_resized=source.num_resized,
            unusable={why: len(names) for why, names in source.unusable.items()},
            sha256=sha256,
        ).write(self.partial)
        os.rename(self.partial, self.folder)

    def _resume(self, data: BinaryIO, log: BinaryIO, header: bytes) -> int:
        """Cut both files back to the last whole block; images described so far."""
        data.seek(0)
        log.seek(0)
        recipe = f"{self.recipe}\n".encode()
        if log.readline() != recipe or data.read(len(header)) != header:
            for file, start in ((data, header), (log, recipe)):
                _cut(file, 0)
                _append(file, start)
            return 0
        done, kept, kept_lines = 0, data.tell(), log.tell()
        while done < len(self.pixels):
            end = min(done + self.block, len(self.pixels))
            content = data.read(4 * (end - done) * self.descriptor.dimension)
            if log.readline() != _line(end, content):
                break
            done, kept, kept_lines = end, data.tell(), log.tell()
        for file, size in ((data, kept), (log, kept_lines)):
            _cut(file, size)
        return done

    def _describe(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        try:
            return self.descriptor.describe(images)
        except ValueError as error:
            raise TrainDataError(
                f"the training images cannot be described: {error}; choose another descriptor "
                "with --memscan-descriptor"
            ) from None

    def _require_space(self, needed: int) -> None:
        free = shutil.disk_usage(self.partial).free
        if needed + _SPARE_BYTES > free:
            raise StoreError(
                f"the index of {len(self.pixels):,} training images needs {needed / 1e6:,.0f} MB "
                f"in {shown_path(self.folder.parent)}, where {free / 1e6:,.0f} MB are free; make "
                "room, or choose another folder with --memscan-cache-dir"
            )


def _line(done: int, content: bytes) -> bytes:
    return json.dumps([done, hashlib.sha256(content).hexdigest()]).encode() + b"\n"


def _cut(file: BinaryIO, size: int) -> None:
    file.seek(size)
    file.truncate()


def _append(file: BinaryIO, content: bytes) -> None:
    """Write at the end, and return when it is on the disk."""
    file.write(content)
    file.flush()
    os.fsync(file.fileno())


def _is_ours(folder: Path) -> bool:
    """Whether only files of an index are in the folder, so that it may be deleted."""
    return folder.is_dir() and all(
        each.name in (MANIFEST, DESCRIPTORS) or each.match("planted_*.npy")
        for each in folder.iterdir()
    )


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"the index of training images cannot be written to {shown_path(folder.parent)} "
            f"({error.strerror}); what was described is kept. Make room, or choose another folder "
            "with --memscan-cache-dir"
        ) from None
