"""Images in WebDataset shards: tar archives in which files of one sample stand side by side.

``0001.jpg``, ``0001.txt``, ``0001.json`` and ``0001.cls`` are one sample: their name up to the
first dot is the same. Nothing is unpacked to the disk, so it does not matter where a name or a link
would lead.
"""

from __future__ import annotations

import json
import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, cast

from pytest_memscan.data.conversion import MAX_FILE_BYTES
from pytest_memscan.data.listing import list_shards
from pytest_memscan.data.naming import printable
from pytest_memscan.data.opening import open_regular
from pytest_memscan.data.readers.captions import CAPTION_KEYS
from pytest_memscan.data.readers.labels import decode_label
from pytest_memscan.data.records import Reading, Record
from pytest_memscan.data.sources import IMAGE_SUFFIXES, UNREAD_SUFFIXES, DataSource
from pytest_memscan.errors import TrainDataError

_MAX_TEXT_BYTES = 1 << 20
_TEXT_SUFFIXES = (".txt", ".json", ".cls")
_ZEROS = bytes(tarfile.BLOCKSIZE)


def open_webdataset(source: DataSource) -> Reading:
    """Every image of every shard; how many there are is only known at the end.

    Raises:
        TrainDataError: A shard is missing; from the records, one is damaged or holds no image.
    """
    shards = list_shards(source)
    root = source.local if source.local.is_dir() else source.local.parent
    files = {shard.relative_to(root).as_posix(): shard for shard in shards}
    return Reading(records=_records(files), total=None, origin=source.label)


def _records(files: dict[str, Path]) -> Iterator[Record]:
    for name, path in files.items():
        is_empty = True
        for record in _read_shard(path, name):
            is_empty = False
            yield record
        if is_empty:
            raise TrainDataError(
                f"{printable(name)} holds no images; a shard without images is broken"
            )


@dataclass(kw_only=True)
class _Sample:
    """Files with the same key that have been read so far."""

    key: str
    images: list[Record] = field(default_factory=list)
    captions: dict[str, str | None] = field(default_factory=dict)
    label: str | None = None
    num_bytes: int = 0

    def records(self) -> Iterator[Record]:
        """The images, each with the sample's label and caption; plain text wins over JSON."""
        caption = self.captions.get(".txt") or self.captions.get(".json")
        for each in self.images:
            yield replace(each, caption=caption, label=self.label)


def _read_shard(path: Path, shard: str) -> Iterator[Record]:
    sample = _Sample(key="")
    for member, content in _members(path, printable(shard)):
        key = _key(member.name)
        # A sample of many images is passed on in parts, so that memory stays bounded.
        if key != sample.key or sample.num_bytes > MAX_FILE_BYTES:
            yield from sample.records()
            sample = _Sample(key=key)
        _add(sample, member, content, shard)
    yield from sample.records()


def _add(sample: _Sample, member: tarfile.TarInfo, content: bytes, shard: str) -> None:
    suffix = posixpath.splitext(member.name)[1].lower()
    if member.isreg() and suffix in _TEXT_SUFFIXES:
        _add_text(sample, member, content, suffix, printable(f"{shard}/{member.name}"))
        return
    if member.isreg() and suffix not in IMAGE_SUFFIXES:
        return
    problem = None
    if not member.isreg():
        problem = "not a regular file in its archive"
    elif member.size > MAX_FILE_BYTES:
        problem = "larger than 64 MB"
    elif suffix in UNREAD_SUFFIXES:
        problem = f"{suffix} files are not read"
    sample.images.append(Record(name=f"{shard}/{member.name}", content=content, problem=problem))
    sample.num_bytes += len(content)


def _add_text(
    sample: _Sample, member: tarfile.TarInfo, content: bytes, suffix: str, where: str
) -> None:
    is_label = suffix == ".cls"
    if member.size > _MAX_TEXT_BYTES:
        kind = "class label" if is_label else "caption"
        raise TrainDataError(f"{where} is larger than 1 MB, which is no {kind}")
    if not is_label:
        sample.captions[suffix] = _caption(content, suffix, where)
        return
    label = decode_label(content, where)
    if sample.label not in (None, label):
        raise TrainDataError(f"{where} gives its image another class label; keep one")
    sample.label = label


def _key(name: str) -> str:
    folder, base = posixpath.split(name)
    return f"{folder}/{base.partition('.')[0]}"


def _caption(content: bytes, suffix: str, where: str) -> str | None:
    try:
        text = content.decode("utf-8")
        if suffix == ".txt":
            return text.strip() or None
        row = json.loads(text)
    except (ValueError, RecursionError):
        kind = "UTF-8 text" if suffix == ".txt" else "JSON"
        raise TrainDataError(
            f"{where} is not {kind}, so the caption of its image is lost"
        ) from None
    if not isinstance(row, dict):
        return None
    # Anything else may stand there too: lists of captions, or what has nothing to do with one.
    found = next((row[key] for key in CAPTION_KEYS if key in row), None)
    return found or None if isinstance(found, str) else None


def _members(path: Path, shown: str) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Members with their content, folders left out; content over the limit is not read."""
    with open_regular(path, shown) as file:
        try:
            with tarfile.open(fileobj=cast(BinaryIO, _Bounded(file)), mode="r:") as archive:
                yield from _walk(archive)
                _require_end(file, archive.offset)
        except Exception:  # tarfile raises anything on hostile bytes
            raise TrainDataError(
                f"{shown} cannot be read to its end as a tar archive: it is damaged or truncated"
            ) from None


def _walk(archive: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    before = -1
    while (member := archive.next()) is not None:
        archive.members = []  # type: ignore[attr-defined]  # else it remembers every member
        if archive.offset <= before:
            raise tarfile.ReadError("a member that leads back")
        before = archive.offset
        if member.isdir():
            continue
        suffix = posixpath.splitext(member.name)[1].lower()
        limit = MAX_FILE_BYTES if suffix in IMAGE_SUFFIXES else _MAX_TEXT_BYTES
        is_wanted = suffix in (*IMAGE_SUFFIXES, *_TEXT_SUFFIXES)
        content = b""
        if member.isreg() and is_wanted and member.size <= limit:
            file = archive.extractfile(member)
            content = b"" if file is None else file.read()
            if len(content) != member.size:
                raise tarfile.ReadError("unexpected end of data")
        yield member, content


def _require_end(file: BinaryIO, offset: int) -> None:
    """After the last member there is an end mark, and nothing else.

    tarfile takes a damaged header, or a file cut between two members, for the end.
    """
    file.seek(offset)
    if file.read(tarfile.BLOCKSIZE) != _ZEROS:
        raise tarfile.ReadError("no end mark")
    while block := file.read(1 << 20):
        if block.strip(b"\0"):
            raise tarfile.ReadError("data after the end mark")


class _Bounded:
    """A file of which no single read may be huge: headers, too, can ask for gigabytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        """As of any file.

        Raises:
            tarfile.ReadError: More than the largest image is asked for.
        """
        if not 0 <= size <= MAX_FILE_BYTES + tarfile.BLOCKSIZE:
            raise tarfile.ReadError("a header of that size")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        """As of any file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As of any file."""
        return self._file.tell()

    def close(self) -> None:
        """The file is closed by who opened it."""
