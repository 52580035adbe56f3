"""Images in Arrow shards, as ``Dataset.save_to_disk`` leaves them, mapped instead of loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_memscan.data.listing import list_shards
from pytest_memscan.data.naming import printable
from pytest_memscan.data.readers.columns import (
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
    import pyarrow as pa

_FILE_MAGIC = b"ARROW1\0\0"
_STREAM_END = b"\xff\xff\xff\xff\0\0\0\0"


def open_arrow(source: DataSource) -> Reading:
    """Every row of every shard, of the stream format and of the file format.

    Raises:
        TrainDataError: pyarrow is missing, or a shard is empty, damaged or without images.
    """
    require_pyarrow(source.label)
    shards = list_shards(source)
    root = source.local if source.local.is_dir() else source.local.parent
    files = {shard.relative_to(root).as_posix(): shard for shard in shards}
    total, columns = 0, {}
    for name, shard in files.items():
        shown = printable(name)
        with _batches(shard, shown) as (schema, batches):
            columns[name] = find_columns(schema, shown)
            num_rows = sum(batch.num_rows for batch in batches)
        if not num_rows:
            raise TrainDataError(f"{shown} holds no rows; a shard without images is broken")
        total += num_rows
    records = _records(files, of_one_set(columns))
    return Reading(records=records, total=total, origin=source.label)


def _records(files: Mapping[str, Path], columns: Mapping[str, Columns]) -> Iterator[Record]:
    for name, shard in files.items():
        with _batches(shard, printable(name)) as (_, batches):
            first = 0
            for batch in batches:
                yield from rows_of(batch, columns[name], name, first)
                first += batch.num_rows


@contextmanager
def _batches(path: Path, shown: str) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    """Schema and batches of a shard; whatever pyarrow raises becomes a sentence."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as mapped:
            is_file = mapped.read(len(_FILE_MAGIC)) == _FILE_MAGIC
            # A file is a stream between two magic words, with an index of its batches at the end.
            expected = pa.ipc.open_file(mapped).num_record_batches if is_file else None
            mapped.seek(len(_FILE_MAGIC) if is_file else 0)
            stream = pa.ipc.open_stream(mapped)
            yield stream.schema, _to_the_end(stream, mapped, expected)
    except (pa.ArrowException, OSError, ValueError):
        raise TrainDataError(
            f"{shown} cannot be read as Arrow: it is damaged, truncated or of another kind"
        ) from None


def _to_the_end(
    stream: pa.RecordBatchStreamReader, mapped: pa.MemoryMappedFile, expected: int | None
) -> Iterator[pa.RecordBatch]:
    """The batches, with proof that they are all.

    pyarrow takes a stream that was cut between two batches for a whole one, and believes a damaged
    index.
    """
    num_batches = 0
    for batch in stream:
        yield batch
        num_batches += 1
    if expected is not None:
        if num_batches != expected:
            raise ValueError("the index does not fit")
        return
    end = mapped.tell()
    mapped.seek(max(0, end - len(_STREAM_END)))
    if mapped.read() != _STREAM_END:
        raise ValueError("no end mark, or data after it")
