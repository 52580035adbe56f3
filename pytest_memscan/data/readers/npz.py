"""Images in one array of an .npz file, read row by row; object arrays are never opened.

An .npz file is a zip archive with one .npy file an array. `numpy.load` would hold the whole array
in memory, so the rows are taken from the archive directly.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from typing import IO

import numpy as np

from pytest_memscan.data.conversion import MAX_PIXELS
from pytest_memscan.data.naming import printable
from pytest_memscan.data.opening import open_regular
from pytest_memscan.data.readers.labels import decode_label
from pytest_memscan.data.records import Reading, Record
from pytest_memscan.data.sources import DataSource
from pytest_memscan.errors import TrainDataError

_DEFAULT_KEY = "images"
_LABEL_KEYS = ("labels", "label", "y")
_MAX_LABEL_BYTES = 4096
_EXPECTED = "expected 'images' (number, height, width[, 1, 3 or 4]) of type uint8"
_BROKEN = (zipfile.BadZipFile, zlib.error, OSError, ValueError, EOFError, NotImplementedError)


@dataclass(frozen=True, kw_only=True)
class _Array:
    """What the header of one array says."""

    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    is_fortran: bool
    is_whole: bool  # the file has as many bytes as its header says

    @property
    def is_images(self) -> bool:
        """Whether it can only be a stack of images."""
        return self.dtype == np.uint8 and len(self.shape) == 4 and self.shape[3] in (1, 3, 4)

    def can_label(self, num_images: int) -> bool:
        """Whether it can hold one class label an image: ``(num_images[, 1])``, numbers or texts."""
        return (
            self.dtype.kind in "iuUS"
            and self.shape in ((num_images,), (num_images, 1))
            and 0 < self.dtype.itemsize <= _MAX_LABEL_BYTES
        )

    def __str__(self) -> str:
        return f"{printable(self.key)} {self.shape} {self.dtype}"


def open_npz(source: DataSource) -> Reading:
    """Every image of ``images``, or of the only array that can be a stack of images.

    Raises:
        TrainDataError: There is no such array, or the file is damaged.
    """
    label = source.label
    with _opened(source) as archive:
        arrays = _arrays(archive, label)
        array = _choose(arrays, label)
        classes = _choose_labels(arrays, array.shape[0], label)
    return Reading(records=_records(source, array, classes), total=array.shape[0], origin=label)


def _records(source: DataSource, array: _Array, classes: _Array | None) -> Iterator[Record]:
    shape = array.shape[1:]
    num_bytes = math.prod(shape)
    try:
        with _opened(source) as archive, archive.open(f"{array.key}.npy") as file:
            _read_header(file)
            labels = repeat(None) if classes is None else _labels(archive, classes, source.label)
            for row, label in zip(range(array.shape[0]), labels, strict=False):
                content = file.read(num_bytes)
                if len(content) != num_bytes:
                    raise EOFError
                pixels = np.frombuffer(content, dtype=np.uint8).reshape(shape)
                yield Record(name=f"{array.key}[{row}]", content=pixels, label=label)
            file.read(1)  # the checksum is compared at the end
            next(labels, None)  # and theirs
    except _BROKEN:
        raise TrainDataError(f"{source.label} is damaged or truncated") from None


def _labels(archive: zipfile.ZipFile, array: _Array, shown: str) -> Iterator[str | None]:
    """The class labels, one after the other."""
    # NumPy would make texts of code points that are none.
    wide = "utf-32-be" if array.dtype.str.startswith(">") else "utf-32-le"
    encoding = {"S": "utf-8", "U": wide}.get(array.dtype.kind)
    with archive.open(f"{array.key}.npy") as file:
        _read_header(file)
        for row in range(array.shape[0]):
            content = file.read(array.dtype.itemsize)
            if len(content) != array.dtype.itemsize:
                raise EOFError
            if encoding is None:
                yield str(np.frombuffer(content, dtype=array.dtype)[0])
            else:
                yield decode_label(content, f"{shown}: {array.key}[{row}]", encoding)
        file.read(1)


@contextmanager
def _opened(source: DataSource) -> Iterator[zipfile.ZipFile]:
    with open_regular(source.local, source.label) as file:
        try:
            archive = zipfile.ZipFile(file)
        except _BROKEN:
            raise TrainDataError(
                f"{source.label} cannot be read as .npz: it is damaged, truncated or of another "
                "kind"
            ) from None
        with archive:
            yield archive


def _arrays(archive: zipfile.ZipFile, label: str) -> list[_Array]:
    arrays = []
    for info in archive.infolist():
        if info.filename.endswith(".npy"):
            try:
                with archive.open(info) as file:
                    shape, is_fortran, dtype = _read_header(file)
                    rest = info.file_size - file.tell()
            except Exception:  # numpy's parser and zipfile raise anything on hostile bytes
                name = printable(info.filename)
                raise TrainDataError(
                    f"{label}: {name} in it cannot be read: it is damaged, encrypted or no array"
                ) from None
            arrays.append(
                _Array(
                    key=info.filename.removesuffix(".npy"),
                    shape=shape,
                    dtype=dtype,
                    is_fortran=is_fortran,
                    is_whole=rest == math.prod(shape) * dtype.itemsize,
                )
            )
    return arrays


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    """Shape, Fortran order and type; numpy reads them as literals and builds nothing from them."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError(f"version {version}")


def _choose(arrays: list[_Array], label: str) -> _Array:
    named = [array for array in arrays if array.key == _DEFAULT_KEY]
    fitting = named or [array for array in arrays if array.is_images]
    listed = ", ".join(map(str, arrays[:10])) or "none"
    if len(fitting) != 1:
        raise TrainDataError(f"{label}: {_EXPECTED}; its arrays are {listed}")
    array = fitting[0]
    is_grey = len(array.shape) == 3
    if array.dtype != np.uint8 or not (array.is_images or is_grey):
        raise TrainDataError(f"{label}: {_EXPECTED}, found {array}")
    if array.is_fortran:
        raise TrainDataError(
            f"{label}: {array} is in Fortran order; save it with numpy.ascontiguousarray"
        )
    if not array.is_whole:
        raise TrainDataError(f"{label}: {array} is damaged: its size is not what its header says")
    if min(array.shape) < 1:
        raise TrainDataError(
            f"{label}: {array} holds no images; a scan against nothing cannot pass"
        )
    if math.prod(array.shape[1:3]) > MAX_PIXELS:
        raise TrainDataError(f"{label}: {array} holds images of more than 64 million pixels")
    return array


def _choose_labels(arrays: list[_Array], num_images: int, label: str) -> _Array | None:
    fitting = {each.key: each for each in arrays if each.can_label(num_images)}
    found = next((fitting[key] for key in _LABEL_KEYS if key in fitting), None)
    if found is not None and not found.is_whole:
        raise TrainDataError(f"{label}: {found} is damaged: its size is not what its header says")
    return found
