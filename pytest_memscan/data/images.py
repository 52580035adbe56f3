"""A folder of training images as one memory-mapped array, with every bad file named.

Memory: one image at a time; the converted pixels live in a file in the cache
(``num_images * height * width * channels`` bytes), keyed by the content of the whole set.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.data.conversion import ImageShape, UnusableImageError, decode, read_file
from pytest_memscan.errors import StoreError, TrainDataError, shown_path
from pytest_memscan.results import FLAT_IMAGE

READ_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp")
UNREAD_SUFFIXES = (".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif", ".jxl", ".jp2")


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Training (or held-out) images at the checkpoint's size.

    Attributes:
        pixels: ``(num_images, height, width, channels)`` uint8, memory-mapped, in name order.
        names: File of each image, relative to the folder. Private: reports use ids.
        fingerprint: sha256 over the names and contents of all files, usable or not.
        num_found: Image files in the folder.
        unusable: Reason -> files that could not be used, their names made printable.
        num_resized: Images that were larger than the checkpoint's.
    """

    pixels: NDArray[np.uint8] = field(repr=False)  # a failing test must not print these
    names: tuple[str, ...] = field(repr=False)
    fingerprint: str
    num_found: int
    unusable: dict[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    num_resized: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether no file was lost that could have leaked."""
        return not set(self.unusable) - {FLAT_IMAGE}


def list_images(folder: Path) -> list[Path]:
    """Image files below ``folder`` by suffix, sorted by relative name.

    Links to folders are not followed; one that leads out of ``folder`` is listed like a file, so
    that what is behind it is not lost in silence.

    Raises:
        TrainDataError: No such folder, one that cannot be read, or no image in it.
    """
    if not os.path.exists(folder):  # unlike Path.exists, also where nobody may look
        raise TrainDataError(f"{shown_path(folder)}: there is no such folder of images")
    if not os.path.isdir(folder):
        raise TrainDataError(
            f"{shown_path(folder)} is a file; expected a folder of PNG, JPEG or WebP images"
        )
    root = folder.resolve()
    found = []
    for parent, folders, names in os.walk(folder, onerror=_refuse):
        links = [Path(parent, name) for name in folders if Path(parent, name).is_symlink()]
        found += [link for link in links if not link.resolve().is_relative_to(root)]
        found += [
            Path(parent, name)
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
        StoreError: The converted pixels cannot be written.
    """
    files = list_images(folder)
    digest = hashlib.sha256()
    names: list[str] = []
    unusable: dict[str, list[str]] = defaultdict(list)
    num_resized = 0
    with _scratch_file(cache_dir) as scratch:
        with scratch.open("wb") as output:
            for done, file in enumerate(files, start=1):
                name = file.relative_to(folder).as_posix()
                content = b""
                try:
                    content = read_file(file)
                    if file.suffix.lower() in UNREAD_SUFFIXES:
                        raise UnusableImageError(f"{file.suffix.lower()} files are not read")
                    pixels, resized = decode(content, shape)
                except UnusableImageError as reason:
                    unusable[str(reason)].append(printable(name))
                else:
                    output.write(pixels.tobytes())
                    names.append(name)
                    num_resized += resized
                # Hashes, since they are of one length: no name can look like a content.
                digest.update(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest())
                digest.update(hashlib.sha256(content).digest())
                progress(done, len(files))
        reasons = {reason: tuple(named) for reason, named in unusable.items()}
        if not names:
            raise TrainDataError(_nothing_usable(folder, len(files), reasons, shape))
        fingerprint = digest.hexdigest()
        pixels = _keep(scratch, cache_dir / _cache_name(fingerprint, shape), shape)
    return ImageSet(
        pixels=pixels,
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


def printable(name: str) -> str:
    r"""A file name that can be printed: anything else of it escaped.

    Example:
        >>> printable("caf\udce9\n.png")
        'caf\\udce9\\n.png'
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in name
    )


def name_some(names: Sequence[str], most: int = 3) -> str:
    """``a.png, b.png, c.png and 5 more``."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def describe_unusable(unusable: Iterable[tuple[str, Sequence[str]]]) -> str:
    """One line: ``2 not a readable image (a.png, b.png); 1 empty file (c.png)``."""
    return "; ".join(f"{len(names)} {why} ({name_some(names)})" for why, names in unusable)


def _refuse(error: OSError) -> None:
    where = shown_path(Path(error.filename))
    raise TrainDataError(
        f"{printable(where)} cannot be read ({error.strerror}), so its images would be left out"
    ) from None


def _nothing_usable(
    folder: Path, num_files: int, reasons: dict[str, tuple[str, ...]], shape: ImageShape
) -> str:
    return (
        f"none of the {num_files} images under {shown_path(folder)} can be compared with a "
        f"checkpoint that makes {shape}: {describe_unusable(reasons.items())}"
    )


def _cache_name(fingerprint: str, shape: ImageShape) -> str:
    return f"{fingerprint[:32]}-{shape.height}x{shape.width}x{shape.channels}.u8"


@contextmanager
def _scratch_file(cache_dir: Path) -> Iterator[Path]:
    """A file of this call alone, beside its final place; gone at the end unless moved there."""
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_dir, suffix=".partial") as scratch:
            yield Path(scratch, "pixels")
    except OSError as error:
        raise StoreError(
            f"the converted training images cannot be written to {shown_path(cache_dir)} "
            f"({error.strerror}); choose another folder with --memscan-cache-dir"
        ) from None


def _keep(scratch: Path, target: Path, shape: ImageShape) -> NDArray[np.uint8]:
    os.replace(scratch, target)
    flat = np.memmap(target, dtype=np.uint8, mode="r")
    return flat.reshape(-1, shape.height, shape.width, shape.channels)
