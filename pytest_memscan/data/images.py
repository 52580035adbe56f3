"""A folder of training images as one memory-mapped array, with every bad file named.

Memory: one image at a time; the converted pixels live in a file in the cache
(``num_images * height * width * channels`` bytes), keyed by the content of the whole set.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.data.conversion import ImageShape, UnusableImageError, decode, read_file
from pytest_memscan.errors import TrainDataError, shown_path

READ_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
UNREAD_SUFFIXES = (".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".jxl")
FLAT = "one flat colour"  # left out of matching, but hides nothing that could leak


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Training (or held-out) images at the checkpoint's size.

    Attributes:
        pixels: ``(num_images, height, width, channels)`` uint8, memory-mapped, in name order.
        names: File of each image, relative to the folder. Private: reports use ids.
        fingerprint: sha256 over the names and contents of all files, usable or not.
        num_found: Image files in the folder.
        unusable: Reason -> files that could not be used.
        num_resized: Images that were larger than the checkpoint's.
    """

    pixels: NDArray[np.uint8]
    names: tuple[str, ...]
    fingerprint: str
    num_found: int
    unusable: dict[str, tuple[str, ...]] = field(default_factory=dict)
    num_resized: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether no file was lost that could have leaked."""
        return not set(self.unusable) - {FLAT}


def list_images(folder: Path) -> list[Path]:
    """Image files below ``folder`` by suffix, sorted by relative name.

    Links to folders are not followed.

    Raises:
        TrainDataError: No such folder, or no image in it.
    """
    if not folder.exists():
        raise TrainDataError(f"{shown_path(folder)}: there is no such folder of images")
    if not folder.is_dir():
        raise TrainDataError(
            f"{shown_path(folder)} is a file; expected a folder of PNG, JPEG or WebP images"
        )
    found = [
        Path(parent, name)
        for parent, _, names in os.walk(folder)
        for name in names
        if Path(name).suffix.lower() in READ_SUFFIXES + UNREAD_SUFFIXES
    ]
    if not found:
        kinds = ", ".join(READ_SUFFIXES)
        raise TrainDataError(
            f"{shown_path(folder)} holds no images ({kinds}); a scan against nothing cannot pass"
        )
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def load_folder(
    folder: Path,
    shape: ImageShape,
    *,
    cache_dir: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ImageSet:
    """Read, convert and fingerprint every image below ``folder``.

    Args:
        folder: Searched in all its subfolders.
        shape: What the checkpoint makes.
        cache_dir: Converted pixels are kept here.
        progress: Called with (files read, files in all).

    Raises:
        TrainDataError: Nothing in the folder can be used.
    """
    files = list_images(folder)
    digest = hashlib.sha256()
    names: list[str] = []
    unusable: dict[str, list[str]] = defaultdict(list)
    num_resized = 0
    cache_dir.mkdir(parents=True, exist_ok=True)
    scratch = cache_dir / f"{os.getpid()}.partial"
    with scratch.open("wb") as output:
        for done, file in enumerate(files, start=1):
            name = file.relative_to(folder).as_posix()
            try:
                if file.suffix.lower() in UNREAD_SUFFIXES:
                    raise UnusableImageError(f"{file.suffix.lower()} files are not read")
                content = read_file(file)
                digest.update(hashlib.sha256(content).digest())
                pixels, resized = decode(content, shape)
            except UnusableImageError as reason:
                unusable[str(reason)].append(name)
            else:
                output.write(pixels.tobytes())
                names.append(name)
                num_resized += resized
            digest.update(name.encode("utf-8", "surrogateescape") + b"\n")
            progress(done, len(files))
    reasons = {reason: tuple(named) for reason, named in unusable.items()}
    if not names:
        scratch.unlink()
        raise TrainDataError(_nothing_usable(folder, len(files), reasons, shape))
    fingerprint = digest.hexdigest()
    return ImageSet(
        pixels=_keep(scratch, cache_dir / _cache_name(fingerprint, shape), shape),
        names=tuple(names),
        fingerprint=fingerprint,
        num_found=len(files),
        unusable=reasons,
        num_resized=num_resized,
    )


def load_packed(file: Path, shape: ImageShape) -> ImageSet:
    """Training images that come with a built-in checkpoint: ``images`` ``(n, h, w, c)`` uint8.

    Raises:
        TrainDataError: The images are not of the checkpoint's size.
    """
    from safetensors.numpy import load_file

    pixels = load_file(file)["images"]
    if pixels.shape[1:] != (shape.height, shape.width, shape.channels):
        raise TrainDataError(f"{file.name} holds images of {pixels.shape[1:]}, expected {shape}")
    return ImageSet(
        pixels=pixels,
        names=tuple(f"{index:05d}" for index in range(len(pixels))),
        fingerprint=hashlib.sha256(file.read_bytes()).hexdigest(),
        num_found=len(pixels),
    )


def load_images(path: Path, shape: ImageShape, *, cache_dir: Path) -> ImageSet:
    """A folder, or the packed images of a built-in checkpoint.

    Raises:
        TrainDataError: Nothing there can be used.
    """
    if path.is_file() and path.suffix == ".safetensors":
        return load_packed(path, shape)
    return load_folder(path, shape, cache_dir=cache_dir)


def name_some(names: Sequence[str], most: int = 3) -> str:
    """``a.png, b.png, c.png and 5 more``."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def describe_unusable(unusable: Iterable[tuple[str, Sequence[str]]]) -> str:
    """One line: ``2 not a readable image (a.png, b.png); 1 empty file (c.png)``."""
    return "; ".join(f"{len(names)} {why} ({name_some(names)})" for why, names in unusable)


def _nothing_usable(
    folder: Path, num_files: int, reasons: dict[str, tuple[str, ...]], shape: ImageShape
) -> str:
    return (
        f"none of the {num_files} images under {shown_path(folder)} can be compared with a "
        f"checkpoint that makes {shape}: {describe_unusable(reasons.items())}"
    )


def _cache_name(fingerprint: str, shape: ImageShape) -> str:
    return f"{fingerprint[:32]}-{shape.height}x{shape.width}x{shape.channels}.u8"


def _keep(scratch: Path, target: Path, shape: ImageShape) -> NDArray[np.uint8]:
    os.replace(scratch, target)
    flat = np.memmap(target, dtype=np.uint8, mode="r")
    return flat.reshape(-1, shape.height, shape.width, shape.channels)
