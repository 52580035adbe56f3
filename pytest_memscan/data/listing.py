"""The files behind a source, found without opening them, and whether they stay the same.

Imported when pytest starts: nothing heavy. Links to folders are not followed, so a loop of links
ends, and one that leads elsewhere is told: what is behind it must not be lost in silence.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_memscan.data.naming import name_some, printable
from pytest_memscan.data.sources import (
    BRACES,
    IMAGE_SUFFIXES,
    READ_SUFFIXES,
    SHARD_KINDS,
    DataSource,
    is_shard,
)
from pytest_memscan.errors import TrainDataError, shown_path

CAPTION_FILES = ("metadata.jsonl", "metadata.csv")
MAX_SHARDS = 100_000
_NUMBERED = re.compile(r"(?P<head>.*)-(?P<index>\d{1,9})-of-(?P<count>\d{1,9})(?P<tail>\.\w+)")
_EXPECTED = (
    "expected a folder of PNG, JPEG or WebP images, shards (.parquet, .arrow, .tar), an .npz file, "
    "or hub:ORG/NAME"
)


@dataclass(frozen=True, kw_only=True)
class FolderFiles:
    """What a folder of images holds, by relative name."""

    images: tuple[Path, ...]  # in name order; also links to folders elsewhere
    captions: tuple[Path, ...]  # metadata.jsonl and metadata.csv


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Names, sizes and times of all files of a source at one moment."""

    source: DataSource
    num_files: int
    digest: str

    def require_unchanged(self) -> None:
        """Look again.

        Raises:
            TrainDataError: A file came, went, or was written since.
        """
        try:
            now = take_manifest(self.source)
        except TrainDataError as error:
            raise TrainDataError(
                f"{self.source.label} changed while it was scanned: {error}"
            ) from None
        if now is None or now.digest == self.digest:
            return
        counts = f"{self.num_files} files before, {now.num_files} now"
        raise TrainDataError(
            f"{self.source.label} changed while it was scanned ({counts}), so what was compared is "
            "not what is there; run it again when nothing writes to it"
        )


def take_manifest(source: DataSource) -> Manifest | None:
    """The files of a local source as they are now; None on the Hub, where a commit never changes.

    Raises:
        TrainDataError: As `list_files`.
    """
    if source.path is None:
        return None
    digest = hashlib.sha256()
    num_files = 0
    for path in list_files(source):
        digest.update(hashlib.sha256(os.fsencode(path)).digest())
        try:
            status = path.stat()
            digest.update(f"{status.st_mode} {status.st_size} {status.st_mtime_ns};".encode())
        except OSError:
            digest.update(b"unreadable;")
        num_files += 1
    return Manifest(source=source, num_files=num_files, digest=digest.hexdigest())


def check_source(source: DataSource) -> None:
    """Find out, without opening a file, whether there is something to read.

    Raises:
        TrainDataError: Nothing there, or not what its name says.
    """
    if source.path is not None:
        list_files(source)


def list_files(source: DataSource) -> list[Path]:
    """Every file that reading a local source opens, in name order.

    Raises:
        TrainDataError: Missing, unreadable, or without images.
    """
    path = source.local
    if source.kind == "folder":
        found = walk_folder(path)
        return [*found.images, *found.captions]
    if source.kind in SHARD_KINDS.values():
        return list_shards(source)
    if source.kind == "index":
        if not os.path.isdir(path):
            raise TrainDataError(
                f"{source.label}: there is no such folder; an index is a folder of descriptors "
                "that pytest-memscan saved"
            )
        return [path]
    _require_file(path)
    return [path]


def list_images(folder: Path) -> list[Path]:
    """Image files below ``folder`` by suffix, sorted by relative name.

    Raises:
        TrainDataError: As `walk_folder`.
    """
    return list(walk_folder(folder).images)


def walk_folder(folder: Path) -> FolderFiles:
    """Images and captions below ``folder``.

    Raises:
        TrainDataError: No such folder, one that cannot be read, no image in it, or shards too.
    """
    if not os.path.exists(folder):  # unlike Path.exists, also where nobody may look
        raise TrainDataError(f"{_shown(folder)}: there is no such folder of images")
    if not os.path.isdir(folder):
        raise TrainDataError(f"{_shown(folder)} is a file; {_EXPECTED}")
    images, captions, shards = [], [], []
    for path, is_link in _walk(folder):
        if is_link or path.suffix.lower() in IMAGE_SUFFIXES:
            images.append(path)
        elif path.name in CAPTION_FILES:
            captions.append(path)
        elif is_shard(path.name):
            shards.append(path)
    if images and shards:
        raise TrainDataError(
            f"{_shown(folder)} holds images as well as shards ({_named(shards, folder)}), and only "
            "one of them would be read; put them into folders of their own and name one"
        )
    if not images:
        kinds = ", ".join(READ_SUFFIXES)
        raise TrainDataError(
            f"{_shown(folder)} holds no images ({kinds}); a scan against nothing cannot pass"
        )
    return FolderFiles(images=_sorted(images, folder), captions=_sorted(captions, folder))


def list_shards(source: DataSource) -> list[Path]:
    """The shards of a source, in name order.

    Raises:
        TrainDataError: Missing, empty, not a regular file, of another kind, or one of a numbered
            set is not there.
    """
    path = source.local
    is_folder = os.path.isdir(path)
    if is_folder:
        shards = _shards_in(path, source)
    else:
        shards = [path] if os.path.exists(path) else _expand(path)
    for shard in shards:
        _require_file(shard)
    root = path if is_folder else path.parent
    require_whole([shard.relative_to(root).as_posix() for shard in shards], source.label)
    return shards


def require_whole(names: Iterable[str], label: str) -> None:
    """Of shards that are numbered ``-00001-of-00004`` all are there.

    Raises:
        TrainDataError: Names the first that is missing.
    """
    seen: dict[tuple[str, int, int, str], set[int]] = defaultdict(set)
    for name in names:
        if found := _NUMBERED.fullmatch(name):
            digits = len(found["index"])
            key = (found["head"], digits, int(found["count"]), found["tail"])
            seen[key].add(int(found["index"]))
    for (head, digits, count, tail), indices in seen.items():
        first = 1 if count in indices else 0  # some writers count from 1
        missing = next((i for i in range(first, first + count) if i not in indices), None)
        if missing is not None:
            name = f"{head}-{missing:0{digits}}-of-{count:0{digits}}{tail}"
            raise TrainDataError(
                f"{label} lacks {printable(name)}; what is in it would not be compared"
            )


def _shards_in(folder: Path, source: DataSource) -> list[Path]:
    shards: list[Path] = []
    others: list[Path] = []
    for path, is_link in _walk(folder):
        if is_link:
            raise TrainDataError(
                f"{_named([path], folder)} in {source.label} is a link to another folder, which "
                "is not followed; name that folder instead"
            )
        if is_shard(path.name):
            ours = SHARD_KINDS[path.suffix.lower()] == source.kind
            (shards if ours else others).append(path)
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            others.append(path)
    if others:
        raise TrainDataError(
            f"{source.label} holds {source.kind} shards as well as other images "
            f"({_named(others, folder)}), and only one of them would be read; put them into "
            "folders of their own and name one"
        )
    if not shards:
        raise TrainDataError(f"{source.label} holds no {source.kind} shards any more")
    return list(_sorted(shards, folder))


def _expand(pattern: Path) -> list[Path]:
    """The files of ``shards-{000..003}.tar``; the path itself where there are no braces."""
    found = BRACES.search(pattern.name)
    if found is None:
        return [pattern]
    first, last = int(found[1]), int(found[2])
    if not 0 <= last - first < MAX_SHARDS:
        raise TrainDataError(f"{_shown(pattern)}: {found[0]} is not a range of shards")
    names = [
        f"{pattern.name[: found.start()]}{number:0{len(found[1])}}{pattern.name[found.end() :]}"
        for number in range(first, last + 1)
    ]
    return [each for name in names for each in _expand(pattern.with_name(name))]


def _walk(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Every file below ``folder``; with True, a link to a folder outside of it."""
    root = folder.resolve()
    for parent, folders, names in os.walk(folder, onerror=_refuse):
        for name in folders:
            link = Path(parent, name)
            if link.is_symlink() and not link.resolve().is_relative_to(root):
                yield link, True
        for name in names:
            yield Path(parent, name), False


def _refuse(error: OSError) -> None:
    raise TrainDataError(
        f"{_shown(Path(error.filename))} cannot be read ({error.strerror}), so its images would be "
        "left out"
    ) from None


def _require_file(path: Path) -> None:
    # A pipe or device would block for ever, so look before opening.
    try:
        status = path.stat()
    except OSError as error:
        if not os.path.exists(path) and not path.is_symlink():
            raise TrainDataError(f"{_shown(path)}: there is no such file") from None
        raise TrainDataError(f"{_shown(path)} cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(status.st_mode):
        raise TrainDataError(f"{_shown(path)} is not a regular file")
    if not status.st_size:
        raise TrainDataError(f"{_shown(path)} is empty (0 bytes); a shard without images is broken")


def _sorted(paths: list[Path], folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(paths, key=lambda path: path.relative_to(folder).as_posix()))


def _named(paths: list[Path], folder: Path) -> str:
    return name_some([printable(path.relative_to(folder).as_posix()) for path in paths])


def _shown(path: Path) -> str:
    return printable(shown_path(path))
