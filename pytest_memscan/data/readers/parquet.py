"""Images in Parquet shards, one small batch of rows in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_memscan.data.listing import list_shards
from pytest_memscan.data.naming import printable
from pytest_memscan.data.readers.columns import (
    ROWS_AT_ONCE,
    Columns,
    find_columns,
    of_one_set,
    require_pyarrow,
    rows_of,
)
from pytest_memscan.data.records import Reading, Record
from pytest_memscan.data.sources import DataSource
from pytest_memscan.errors import TrainDataError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_BUFFER = 1 << 20  # bytes read ahead of a column


def open_parquet(source: DataSource) -> Reading:
    """Every row of every shard.

    Raises:
        TrainDataError: pyarrow is missing, or a shard is empty, damaged or without images.
    """
    require_pyarrow(source.label)
    shards = list_shards(source)
    root = source.local if source.local.is_dir() else source.local.parent
    files = {shard.relative_to(root).as_posix(): shard for shard in shards}
    return read_shards(files, origin=source.label)


def read_shards(files: Mapping[str, Path], *, origin: str) -> Reading:
    """Every row of some Parquet files.

    Args:
        files: By the name that messages give them.
        origin: What they are, for people.

    Raises:
        TrainDataError: A file is empty, damaged or without images.
    """
    total, columns = 0, {}
    for name, path in files.items():
        shown = printable(name)
        with _opened(path, shown) as shard:
            if not shard.metadata.num_rows:
                raise TrainDataError(f"{shown} holds no rows; a shard without images is broken")
            columns[name] = find_columns(shard.schema_arrow, shown)
            total += shard.metadata.num_rows
    return Reading(records=_records(files, of_one_set(columns)), total=total, origin=origin)


def _records(files: Mapping[str, Path], columns: Mapping[str, Columns]) -> Iterator[Record]:
    for name, path in files.items():
        with _opened(path, printable(name)) as shard:
            first = 0
            for batch in shard.iter_batches(
                ROWS_AT_ONCE, columns=columns[name].names, use_threads=False
            ):
                yield from rows_of(batch, columns[name], name, first)
                first += batch.num_rows


@contextmanager
def _opened(path: Path, shown: str) -> Iterator[pq.ParquetFile]:
    """An open shard; whatever pyarrow raises becomes a sentence."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Without a buffer a whole column of a row group would be read, which may be gigabytes.
        with pq.ParquetFile(
            path, buffer_size=_BUFFER, pre_buffer=False, page_checksum_verification=True
        ) as shard:
            yield shard
    except (pa.ArrowException, OSError, ValueError):
        raise TrainDataError(
            f"{shown} cannot be read as Parquet: it is damaged, truncated or of another kind"
        ) from None
