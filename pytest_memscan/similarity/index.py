"""Descriptors of training images on disk: made once, memory-mapped, and good to pass on.

An index holds feature vectors and ids: no pixels, no names, no captions. With it somebody who may
not see the training images can scan a checkpoint for copies of them. Feature vectors of personal
images are personal data all the same.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.errors import StoreError, TrainDataError, shown_path
from pytest_memscan.reports.text import escape
from pytest_memscan.results import SourceCoverage
from pytest_memscan.similarity.descriptors.descriptor import Descriptor
from pytest_memscan.similarity.index_files import (
    DESCRIPTORS,
    MANIFEST,
    VERSION,
    Manifest,
    canonical_hash,
    planted_file,
    read_manifest,
    read_vectors,
)
from pytest_memscan.similarity.matching.quantised import check_vectors
from pytest_memscan.similarity.planted import ALTERATIONS

_CHECKED_AT_ONCE = 4096  # vectors
_UNNAMED = "not named in an index"


@dataclass(frozen=True, kw_only=True)
class DescriptorIndex:
    """Descriptors of training images, vetted.

    Attributes:
        descriptors: ``(num_images, dimension)`` float32 unit vectors, memory-mapped.
        image_shape: Height, width, channels of the training images.
        fingerprint: Of the training images, as in reports.
        descriptor: Name of what described them.
        record: Everything that two descriptors must share to be compared.
        planted: Alteration -> training ids ``(num_planted,)`` and the descriptors
            ``(num_planted, dimension)`` of these images after it, so that a scan without the
            training images can still show that it sees.
        source: What became of the training images, without their names.
    """

    descriptors: NDArray[np.float32] = field(repr=False)
    image_shape: tuple[int, ...]
    fingerprint: str
    descriptor: str
    record: Mapping[str, str]
    planted: Mapping[str, tuple[NDArray[np.int64], NDArray[np.float32]]] = field(repr=False)
    source: SourceCoverage

    @property
    def num_images(self) -> int:
        """Training images."""
        return len(self.descriptors)


def index_key(fingerprint: str, image_shape: tuple[int, ...], record: Mapping[str, str]) -> str:
    """Names the index of these images by this descriptor: 32 hex digits.

    Example:
        >>> index_key("f00", (8, 8, 3), {"preset": "a"}) == index_key("f00", (8, 8, 3), {})
        False
    """
    return canonical_hash(
        {
            "version": VERSION,
            "planted": {name: sentence for name, (sentence, _) in ALTERATIONS.items()},
            "fingerprint": fingerprint,
            "image_shape": list(image_shape),
            "record": dict(record),
        }
    )


def open_index(folder: Path) -> DescriptorIndex:
    """An index from disk, every byte of it checked.

    Cost: every file is read once for its sha256 and once for its vectors' lengths.

    Raises:
        TrainDataError: The folder is no index, is damaged, or was made by a newer version.
    """
    if not folder.is_dir():
        raise TrainDataError(
            f"{shown_path(folder)}: there is no such folder with a descriptor index"
        )
    manifest = read_manifest(folder)
    try:
        descriptors = read_vectors(
            folder, DESCRIPTORS, num_rows=manifest.num_images, manifest=manifest
        )
        planted = {name: _planted(folder, name, manifest) for name in manifest.planted}
    except OSError as error:
        raise TrainDataError(
            f"the index {shown_path(folder)} cannot be read ({error.strerror})"
        ) from None
    _require_unit(descriptors, folder / DESCRIPTORS)
    return DescriptorIndex(
        descriptors=descriptors,
        image_shape=tuple(int(each) for each in manifest.image_shape.split("x")),
        fingerprint=manifest.fingerprint,
        descriptor=manifest.descriptor,
        record=manifest.record,
        planted=planted,
        source=SourceCoverage(
            num_found=manifest.num_found,
            num_used=manifest.num_images,
            num_resized=manifest.num_resized,
            unusable={why: (_UNNAMED,) * count for why, count in manifest.unusable.items()},
        ),
    )


def check_fits(
    index: DescriptorIndex,
    descriptor: Descriptor,
    image_shape: tuple[int, ...],
    *,
    fingerprint: str | None = None,
) -> None:
    """Refuse an index whose similarities would mean something else.

    Args:
        index: What a scan would compare with.
        descriptor: What would describe the generated images.
        image_shape: Height, width, channels of the generated images.
        fingerprint: Of the training images, where they are at hand.

    Raises:
        TrainDataError: Names everything that differs.
    """
    ours, theirs = dict(descriptor.record), dict(index.record)
    ours["image size"], theirs["image size"] = _shape(image_shape), _shape(index.image_shape)
    if fingerprint is not None:
        ours["training images"], theirs["training images"] = fingerprint, index.fingerprint
    differing = sorted(
        name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)
    )
    if not differing:
        return
    named = "; ".join(
        f"{escape(name)} is {_short(theirs.get(name))} in the index, {_short(ours.get(name))} in "
        "this scan"
        for name in differing
    )
    raise TrainDataError(
        f"the index of {escape(index.descriptor)} descriptors cannot be used here: {named}. Scan "
        "with the descriptor and the checkpoint it was made for, or make an index for these"
    )


def copy_index(folder: Path, target: Path) -> None:
    """A copy to pass on: the files of the index, checked, and nothing else in the folder.

    Raises:
        TrainDataError: ``folder`` is not a whole index, or something is at ``target`` already.
        StoreError: The copy cannot be written.
    """
    open_index(folder)
    if target.exists():
        raise TrainDataError(f"{shown_path(target)} exists already; choose another name")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, suffix=".partial") as scratch:
            whole = Path(scratch, "index")
            whole.mkdir()
            names = [MANIFEST, *read_manifest(folder).sha256]
            for name in names:
                shutil.copyfile(folder / name, whole / name)
            os.rename(whole, target)
    except OSError as error:
        raise StoreError(
            f"the index cannot be copied to {shown_path(target)} ({error.strerror})"
        ) from None
    open_index(target)


def _planted(
    folder: Path, name: str, manifest: Manifest
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Training ids and descriptors of the altered copies ``name``."""
    ids = manifest.planted[name]
    if max(ids) >= manifest.num_images:
        raise TrainDataError(
            f"the index {shown_path(folder)} is damaged: {MANIFEST} says that image {max(ids)} "
            f"was altered, of {manifest.num_images}"
        )
    file = planted_file(name)
    vectors = read_vectors(folder, file, num_rows=len(ids), manifest=manifest)
    _require_unit(vectors, folder / file)
    return np.array(ids, dtype=np.int64), vectors


def _require_unit(vectors: NDArray[np.float32], path: Path) -> None:
    for start in range(0, len(vectors), _CHECKED_AT_ONCE):
        try:
            check_vectors(
                vectors[start : start + _CHECKED_AT_ONCE],
                side="the",
                first_row=start,
                metric="cosine",
            )
        except ValueError as error:
            raise TrainDataError(
                f"the index {shown_path(path.parent)} cannot be used: in {path.name} {error}"
            ) from None


def _shape(image_shape: tuple[int, ...]) -> str:
    return "x".join(str(each) for each in image_shape)


def _short(value: str | None) -> str:
    if value is None:
        return "missing"
    return escape(value if len(value) <= 40 else f"{value[:12]}...")
