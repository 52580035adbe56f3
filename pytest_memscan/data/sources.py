"""What the user typed after ``--memscan-train-data`` -> which files or repository.

Imported when pytest starts: nothing heavy, and nothing is opened. Whether the files are there is
asked by `listing.check_source`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pytest_memscan.data.naming import printable
from pytest_memscan.errors import OptionError, shown_path

Kind = Literal["folder", "parquet", "arrow", "webdataset", "npz", "packed", "hub", "index"]
READ_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp")
UNREAD_SUFFIXES = (".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif", ".jxl", ".jp2")
IMAGE_SUFFIXES = READ_SUFFIXES + UNREAD_SUFFIXES
SHARD_KINDS: dict[str, Kind] = {".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset"}
_FILE_KINDS: dict[str, Kind] = {**SHARD_KINDS, ".npz": "npz", ".safetensors": "packed"}
_HUB_PREFIX = "hub:"
_INDEX_PREFIX = "index:"
_HUB_ID = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(@(?P<revision>[\w][\w./-]*))?",
    re.ASCII,
)
BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """Where training or held-out images come from.

    Attributes:
        kind: How they are stored.
        path: File, folder or pattern of shards (``shards-{000..003}.tar``), absolute and private;
            None on the Hub.
        repo: "ORG/NAME" of a dataset on the Hub, else None.
        revision: Its branch, tag or commit; None for the main branch.
    """

    kind: Kind
    path: Path | None = field(default=None, repr=False)
    repo: str | None = None
    revision: str | None = None

    @property
    def label(self) -> str:
        """The source as messages and reports may show it: without a private folder."""
        if self.path is None:
            return f"{_HUB_PREFIX}{self.repo}" + (f"@{self.revision}" if self.revision else "")
        shown = printable(shown_path(self.path))
        return f"{_INDEX_PREFIX}{shown}" if self.kind == "index" else shown

    @property
    def local(self) -> Path:
        """The path of a source that is not on the Hub."""
        if self.path is None:
            raise ValueError(f"{self.label} has no path")
        return self.path


def parse_source(text: str, base: Path) -> DataSource:
    """Read a path, ``hub:ORG/NAME[@REVISION]`` or ``index:FOLDER``.

    Args:
        text: As typed.
        base: What a relative path starts from.

    Raises:
        OptionError: Neither a usable path nor a Hub id. A missing file is found later, so that
            ``--collect-only`` needs none.

    Example:
        >>> parse_source("hub:org/faces@v1", Path("."))
        DataSource(kind='hub', repo='org/faces', revision='v1')
    """
    if text.startswith(_HUB_PREFIX):
        return _parse_hub(text)
    if text.startswith(_INDEX_PREFIX):
        return DataSource(kind="index", path=_parse_path(text.removeprefix(_INDEX_PREFIX), base))
    path = _parse_path(text, base)
    return DataSource(kind=_kind_of(path), path=path)


def _parse_hub(text: str) -> DataSource:
    found = _HUB_ID.fullmatch(text.removeprefix(_HUB_PREFIX))
    if found is None or ".." in text or "--" in found["repo"]:
        raise OptionError(
            f"{text!r} is not a dataset on the Hub; expected hub:ORG/NAME or hub:ORG/NAME@REVISION"
        )
    return DataSource(kind="hub", repo=found["repo"], revision=found["revision"])


def _parse_path(text: str, base: Path) -> Path:
    if not text.strip():
        raise OptionError(f"expected a path, got {text!r}")
    if "://" in text:
        raise OptionError(
            f"{text!r} is a URL; download the files first, or name a dataset on the Hub as "
            "hub:ORG/NAME"
        )
    try:
        return (base / Path(text).expanduser()).resolve()
    except (RuntimeError, ValueError, OSError):  # ~nobody, a NUL character, a link in a loop
        raise OptionError(f"{text!r} is not a usable path") from None


def _kind_of(path: Path) -> Kind:
    """By suffix; a folder by the first image or shard in it. Anything else counts as a folder."""
    if not os.path.isdir(path):
        return _FILE_KINDS.get(path.suffix.lower(), "folder")
    for _, _, names in os.walk(path):
        for name in names:
            suffix = Path(name).suffix.lower()
            if suffix in IMAGE_SUFFIXES:
                return "folder"
            if is_shard(name):
                return SHARD_KINDS[suffix]
    return "folder"


def is_shard(name: str) -> bool:
    """Whether a file in a folder holds images in another format than one file an image."""
    # `metadata.parquet` is a table of captions beside images, which is not read.
    return Path(name).suffix.lower() in SHARD_KINDS and Path(name).stem != "metadata"
