"""The files of a descriptor index, and what must hold of them before they are used.

::

    index.json          what the index is, and the sha256 of every other file
    descriptors.npy     (num_images, dimension) float32 unit vectors, in the order of the images
    planted_NAME.npy    (num_planted, dimension) the same of altered copies of some images

An index may come from somebody else, so nothing in it is trusted: only these names are opened,
nothing is unpickled, and every size is known before memory is asked for.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config

from pytest_memscan.errors import TrainDataError, shown_path
from pytest_memscan.reports.text import escape
from pytest_memscan.similarity.planted import ALTERATIONS

VERSION = 1
MANIFEST = "index.json"
DESCRIPTORS = "descriptors.npy"
_FORMAT = "memscan descriptor index"
_MAX_MANIFEST_BYTES = 1 << 20
_READ_AT_ONCE = 1 << 22

_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Id = Annotated[int, Field(ge=0)]
_Size = Annotated[int, Field(ge=1, le=2**48)]
_Count = Annotated[int, Field(ge=0, le=10**8)]


@with_config(ConfigDict(strict=True, extra="forbid"))
@dataclass(frozen=True, kw_only=True)
class Manifest:
    """``index.json``.

    Attributes:
        num_images: Training images.
        dimension: Length of a descriptor.
        fingerprint: Of the training images, as in reports.
        image_shape: "HEIGHTxWIDTHxCHANNELS" of the training images.
        descriptor: Name of the descriptor.
        record: Everything that two descriptors must share to be compared.
        planted: Alteration -> training ids of the altered images.
        num_found: Images in the source, with those that could not be used.
        num_resized: Of those used, larger than ``image_shape``.
        unusable: Reason -> images that could not be used.
        sha256: File -> sha256.
        format: Always the same words.
        version: Of this layout.
    """

    num_images: _Size
    dimension: _Size
    fingerprint: str
    image_shape: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,6}x[1-9][0-9]{0,6}x[1-9][0-9]{0,2}$")]
    descriptor: str
    record: dict[str, str]
    planted: dict[str, Annotated[list[_Id], Field(min_length=1)]]
    num_found: _Count
    num_resized: _Count
    unusable: dict[str, _Count]
    sha256: dict[str, _Sha256]
    format: str = _FORMAT
    version: int = VERSION

    def write(self, folder: Path) -> None:
        """Write ``index.json`` and make sure that it is on the disk."""
        with (folder / MANIFEST).open("w", encoding="utf-8") as file:
            json.dump(asdict(self), file, indent=1, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())


def planted_file(name: str) -> str:
    """File of the altered copies."""
    return f"planted_{name}.npy"


def canonical_hash(content: Mapping[str, object]) -> str:
    """sha256 of the canonical JSON of ``content``, first 32 hex digits."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def file_sha256(path: Path) -> str:
    """sha256 of a file, read a piece at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_READ_AT_ONCE):
            digest.update(piece)
    return digest.hexdigest()


def npy_header(num_rows: int, dimension: int) -> bytes:
    """What stands before the values of a float32 ``(num_rows, dimension)`` in a .npy file."""
    buffer = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (num_rows, dimension)}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


def read_manifest(folder: Path) -> Manifest:
    """``index.json`` of an index.

    Raises:
        TrainDataError: There is none, or it is not one.
    """
    content = _read_regular(folder / MANIFEST, _MAX_MANIFEST_BYTES)
    try:
        raw = json.loads(content)
    except (ValueError, RecursionError):
        raise _damaged(folder, f"{MANIFEST} is not JSON") from None
    if not isinstance(raw, dict) or raw.get("format") != _FORMAT:
        raise TrainDataError(
            f"{shown_path(folder)} is not a descriptor index: its {MANIFEST} is something else"
        )
    if raw.get("version") != VERSION:
        raise TrainDataError(
            f"the index {shown_path(folder)} has version {escape(str(raw.get('version')))[:20]}; "
            f"this memscan reads version {VERSION}: update memscan, or make the index again"
        )
    try:
        manifest = TypeAdapter(Manifest).validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = escape(".".join(str(each) for each in first["loc"]))[:60]
        raise _damaged(folder, f"{MANIFEST}, {where}: {first['msg']}") from None
    if set(manifest.planted) != set(ALTERATIONS):
        raise _damaged(folder, f"{MANIFEST} must name the copies {', '.join(sorted(ALTERATIONS))}")
    wanted = {DESCRIPTORS, *map(planted_file, manifest.planted)}
    if set(manifest.sha256) != wanted:
        raise _damaged(folder, f"{MANIFEST} must list {', '.join(sorted(wanted))}")
    # These two are printed as they are; what is compared, the record, is escaped where it is shown.
    return replace(
        manifest,
        descriptor=escape(manifest.descriptor),
        unusable={escape(why): count for why, count in manifest.unusable.items()},
    )


def read_vectors(
    folder: Path, name: str, *, num_rows: int, manifest: Manifest
) -> NDArray[np.float32]:
    """The vectors of one file, memory-mapped, after its size, header and hash were checked.

    Raises:
        TrainDataError: The file is missing, or not what the manifest says.
    """
    path = folder / name
    expected = npy_header(num_rows, manifest.dimension)
    size = len(expected) + 4 * num_rows * manifest.dimension
    found = _regular_size(path)
    if found != size:
        raise _damaged(folder, f"{name} has {found:,} bytes instead of {size:,}")
    if file_sha256(path) != manifest.sha256[name]:
        raise _damaged(folder, f"{name} was changed after the index was made (its sha256 differs)")
    with path.open("rb") as file:
        header = file.read(len(expected))
    if header != expected:
        raise _damaged(
            folder, f"{name} does not hold float32 of shape ({num_rows}, {manifest.dimension})"
        )
    vectors: NDArray[np.float32] = np.memmap(
        path, dtype="<f4", mode="r", offset=len(expected), shape=(num_rows, manifest.dimension)
    )
    return vectors


def _read_regular(path: Path, most: int) -> bytes:
    size = _regular_size(path)
    if size > most:
        raise _damaged(path.parent, f"{path.name} has {size:,} bytes; at most {most:,} make sense")
    try:
        with path.open("rb") as file:
            return file.read(most)
    except OSError as error:
        raise _unreadable(path, error) from None


def _regular_size(path: Path) -> int:
    """Size of a regular file; a pipe or device would block for ever when opened."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise TrainDataError(
            f"{shown_path(path.parent)} is not a whole descriptor index: {path.name} is missing"
        ) from None
    except OSError as error:
        raise _unreadable(path, error) from None
    if not stat.S_ISREG(status.st_mode):
        raise _damaged(path.parent, f"{path.name} is not a regular file")
    return status.st_size


def _unreadable(path: Path, error: OSError) -> TrainDataError:
    return TrainDataError(
        f"the index {shown_path(path.parent)} cannot be read: {path.name}, {error.strerror}"
    )


def _damaged(folder: Path, what: str) -> TrainDataError:
    return TrainDataError(
        f"the index {shown_path(folder)} is damaged: {what}. Copy it again, or delete it and make "
        "it again from the training images"
    )
