"""Training images from any source as one memory-mapped array, with every bad one named.

Memory: one image at a time, and the names; the converted pixels live in a file in the cache
(``num_images * height * width * channels`` bytes), keyed by the content of the whole set.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.data.conversion import ImageShape, UnusableImageError, decode
from pytest_memscan.data.listing import Manifest, take_manifest
from pytest_memscan.data.naming import describe_unusable, printable
from pytest_memscan.data.pixel_file import pixel_file
from pytest_memscan.data.records import Reading, Record, open_source
from pytest_memscan.data.sources import DataSource
from pytest_memscan.errors import TrainDataError
from pytest_memscan.results import FLAT_IMAGE, SourceCoverage

Progress = Callable[[int, int | None], None]  # images read, and in all where that is known


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Training (or held-out) images at the checkpoint's size.

    Attributes:
        pixels: ``(num_images, height, width, channels)`` uint8, memory-mapped, in source order.
        names: File, member or row of each image. Private: reports use ids.
        captions: Caption of each image, None where there is none. Private.
        labels: Class of each image, its name or its number as text; None where there is none.
            Private.
        fingerprint: sha256 over the names and contents of all images, usable or not.
        num_found: Images in the source, with those that could not be used.
        unusable: Reason -> images that could not be used, their names made printable.
        num_resized: Images that were larger than the checkpoint's.
        origin: Where they come from, for people: holds no private folder.
        manifest: The files as they were before they were read; None where they cannot change.
    """

    pixels: NDArray[np.uint8] = field(repr=False)  # a failing test must not print these
    names: tuple[str, ...] = field(repr=False)
    captions: tuple[str | None, ...] = field(repr=False)
    labels: tuple[str | None, ...] = field(repr=False)
    fingerprint: str
    num_found: int
    unusable: dict[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    num_resized: int = 0
    origin: str = ""
    manifest: Manifest | None = field(default=None, repr=False)

    @property
    def is_whole(self) -> bool:
        """Whether no image was lost that could have leaked."""
        return not set(self.unusable) - {FLAT_IMAGE}

    @property
    def coverage(self) -> SourceCoverage:
        """What became of the images, as results tell it."""
        return SourceCoverage(
            num_found=self.num_found,
            num_used=len(self.names),
            num_resized=self.num_resized,
            unusable=self.unusable,
        )

    def require_unchanged(self) -> None:
        """Look at the files again; call it when everything was compared.

        Raises:
            TrainDataError: A file came, went, or was written since they were read.
        """
        if self.manifest is not None:
            self.manifest.require_unchanged()


def load_images(
    source: DataSource,
    shape: ImageShape,
    *,
    cache_dir: Path,
    offline: bool = False,
    progress: Progress = lambda done, total: None,
) -> ImageSet:
    """Read, convert and fingerprint every image of a source.

    Args:
        source: Where the images are.
        shape: What the checkpoint makes.
        cache_dir: Converted pixels are kept here.
        offline: Use the local Hub cache only.
        progress: Called with (images read, images in all or None).

    Raises:
        TrainDataError: The source cannot be read, or nothing in it can be used.
        NotCachedError: Offline, and not in the Hub cache.
        StoreError: The converted pixels cannot be written.
    """
    if source.kind == "packed":
        return load_packed(source, shape)
    if source.kind == "index":
        raise TrainDataError(
            f"{source.label} holds descriptors and no images, and this scan compares images; pass "
            "the images themselves"
        )
    manifest = take_manifest(source)
    reading = open_source(source, offline=offline)
    tally = _Tally()
    with pixel_file(cache_dir, shape) as file:
        if reading.total is not None:
            file.require_space(reading.total)
        for done, record in enumerate(reading.records, start=1):
            pixels = tally.count(record, shape)
            if pixels is not None:
                file.append(pixels)
            progress(done, reading.total)
        reasons = {reason: tuple(names) for reason, names in tally.unusable.items()}
        if not tally.names:
            raise TrainDataError(_nothing_usable(reading, tally.num_found, reasons, shape))
        fingerprint = tally.digest.hexdigest()
        kept = file.keep(fingerprint)
    return ImageSet(
        pixels=kept,
        names=tuple(tally.names),
        captions=tuple(tally.captions),
        labels=tuple(tally.labels),
        fingerprint=fingerprint,
        num_found=tally.num_found,
        unusable=reasons,
        num_resized=tally.num_resized,
        origin=reading.origin,
        manifest=manifest,
    )


class _Tally:
    """What has been read so far."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.names: list[str] = []
        self.captions: list[str | None] = []
        self.labels: list[str | None] = []
        self.unusable: dict[str, list[str]] = defaultdict(list)
        self.num_found = 0
        self.num_resized = 0

    def count(self, record: Record, shape: ImageShape) -> NDArray[np.uint8] | None:
        """The record's pixels, if it can be used."""
        self.num_found += 1
        # Hashes, since they are of one length: no name can look like a content.
        self.digest.update(hashlib.sha256(record.name.encode("utf-8", "surrogatepass")).digest())
        self.digest.update(hashlib.sha256(_as_bytes(record.content)).digest())
        try:
            if record.problem is not None:
                raise UnusableImageError(record.problem)
            pixels, resized = decode(record.content, shape)
        except UnusableImageError as reason:
            self.unusable[str(reason)].append(printable(record.name))
            return None
        self.names.append(record.name)
        self.captions.append(record.caption)
        self.labels.append(record.label)
        self.num_resized += resized
        return pixels


def _as_bytes(content: bytes | NDArray[np.uint8]) -> bytes:
    if isinstance(content, bytes):
        return content
    return f"{content.shape}".encode() + content.tobytes()


def load_packed(source: DataSource, shape: ImageShape) -> ImageSet:
    """Training images that come with a built-in checkpoint: ``images`` ``(n, h, w, c)`` uint8.

    Raises:
        TrainDataError: Not such a file, or its images are not of the checkpoint's size.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    manifest = take_manifest(source)
    try:
        content = source.local.read_bytes()
        pixels = load(content)["images"]
    except (SafetensorError, OSError, KeyError, ValueError):
        raise TrainDataError(f"{source.label} cannot be read as packed images") from None
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (shape.height, shape.width, shape.channels):
        raise TrainDataError(
            f"{source.label} holds images of {pixels.shape[1:]} {pixels.dtype}, expected {shape}"
        )
    if not len(pixels):
        raise TrainDataError(f"{source.label} holds no images; a scan against nothing cannot pass")
    return ImageSet(
        pixels=pixels,
        names=tuple(f"{index:05d}" for index in range(len(pixels))),
        captions=(None,) * len(pixels),
        labels=(None,) * len(pixels),
        fingerprint=hashlib.sha256(content).hexdigest(),
        num_found=len(pixels),
        origin=source.label,
        manifest=manifest,
    )


def _nothing_usable(
    reading: Reading, num_found: int, reasons: dict[str, tuple[str, ...]], shape: ImageShape
) -> str:
    return (
        f"none of the {num_found} images under {reading.origin} can be compared with a "
        f"checkpoint that makes {shape}: {describe_unusable(reasons.items())}"
    )
