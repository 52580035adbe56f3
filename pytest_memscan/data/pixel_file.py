"""The file in the cache that holds converted images, one after the other.

Written beside its final place under a name of its own, and moved there when it is whole: many
processes may convert the same images at once, and a killed one leaves nothing that is trusted.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.data.conversion import ImageShape
from pytest_memscan.errors import StoreError, shown_path


@dataclass(frozen=True, kw_only=True)
class PixelFile:
    """A file that is being written; made by `pixel_file`."""

    cache_dir: Path
    shape: ImageShape
    path: Path
    file: BinaryIO

    def require_space(self, num_images: int) -> None:
        """Find out before hours of reading whether the result can be written.

        Raises:
            StoreError: The disk has not enough room; names the bytes needed.
        """
        shape = self.shape
        needed = num_images * shape.height * shape.width * shape.channels
        free = shutil.disk_usage(self.cache_dir).free
        if needed > free:
            raise StoreError(
                f"the converted images need {_gigabytes(needed)} ({num_images:,} of {shape}) in "
                f"{shown_path(self.cache_dir)}, where {_gigabytes(free)} are free; choose another "
                "folder with --memscan-cache-dir"
            )

    def append(self, pixels: NDArray[np.uint8]) -> None:
        """Write one image ``(height, width, channels)``.

        Raises:
            StoreError: It cannot be written.
        """
        with _explained(self.cache_dir):
            self.file.write(pixels.tobytes())

    def keep(self, fingerprint: str) -> NDArray[np.uint8]:
        """The images ``(num_images, height, width, channels)``, mapped from their final place.

        Raises:
            StoreError: They cannot be written.
        """
        shape = self.shape
        name = f"{fingerprint[:32]}-{shape.height}x{shape.width}x{shape.channels}.u8"
        target = self.cache_dir / name
        with _explained(self.cache_dir):
            self.file.close()
            os.replace(self.path, target)
            flat = np.memmap(target, dtype=np.uint8, mode="r")
        return flat.reshape(-1, shape.height, shape.width, shape.channels)


@contextmanager
def pixel_file(cache_dir: Path, shape: ImageShape) -> Iterator[PixelFile]:
    """A new file of this call alone; gone at the end unless it was kept.

    Raises:
        StoreError: It cannot be written.
    """
    with _explained(cache_dir):
        cache_dir.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=cache_dir, suffix=".partial")
    with scratch as folder:
        path = Path(folder, "pixels")
        with _explained(cache_dir):
            file = path.open("wb")
        try:
            yield PixelFile(cache_dir=cache_dir, shape=shape, path=path, file=file)
        finally:
            with _explained(cache_dir):
                file.close()  # writes what is still buffered


@contextmanager
def _explained(cache_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"the converted training images cannot be written to {shown_path(cache_dir)} "
            f"({error.strerror}); choose another folder with --memscan-cache-dir"
        ) from None


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.1f} GB"
