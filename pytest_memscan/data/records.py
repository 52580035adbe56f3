"""What every reader gives: records, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.data.sources import DataSource


@dataclass(frozen=True, kw_only=True)
class Record:
    """One image as it was found.

    Attributes:
        name: Of the file, member or row, unique in its source. Private.
        content: An encoded image, or pixels ``(height, width[, 1, 3 or 4])`` uint8.
        caption: What it was captioned with, when that is known. Private.
        label: Class of the image: its name, or its number as text; None where unknown. Private.
        problem: Why it cannot be used, when that is known before it is decoded.
    """

    name: str
    content: bytes | NDArray[np.uint8]
    caption: str | None = None
    label: str | None = None
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A source that has been opened.

    Attributes:
        records: In an order that depends on names only.
        total: How many there will be, when that can be told beforehand.
        origin: What is read, for people: ``hub:org/faces@1a2b3c4 (train split, 3 files)``.
    """

    records: Iterator[Record]
    total: int | None
    origin: str


def open_source(source: DataSource, *, offline: bool) -> Reading:
    """Open a source of any kind but ``packed`` and ``index``.

    Args:
        source: Where the images are.
        offline: Use the local Hub cache only.

    Raises:
        TrainDataError: It cannot be read; also raised by the records.
        NotCachedError: Offline, and not in the cache.
    """
    if source.kind == "hub":
        from pytest_memscan.data.readers.hub import open_hub

        return open_hub(source, offline=offline)
    return _local_reader(source)(source)


def _local_reader(source: DataSource) -> Callable[[DataSource], Reading]:
    from pytest_memscan.data.readers.arrow import open_arrow
    from pytest_memscan.data.readers.folder import open_folder
    from pytest_memscan.data.readers.npz import open_npz
    from pytest_memscan.data.readers.parquet import open_parquet
    from pytest_memscan.data.readers.webdataset import open_webdataset

    return {
        "folder": open_folder,
        "parquet": open_parquet,
        "arrow": open_arrow,
        "webdataset": open_webdataset,
        "npz": open_npz,
    }[source.kind]
