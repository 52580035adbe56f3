"""Which columns of a table hold images, captions and class labels, and what is in a row.

An image is stored as `datasets` does, ``struct<bytes: binary, path: string>``, or as plain
``binary``. A path is never opened: it belongs to the machine on which the table was made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pytest_memscan.data.conversion import MAX_FILE_BYTES
from pytest_memscan.data.naming import printable
from pytest_memscan.data.readers.captions import CAPTION_KEYS
from pytest_memscan.data.readers.labels import (
    LabelColumn,
    find_label_column,
    label_in,
    of_one_kind,
)
from pytest_memscan.data.records import Record
from pytest_memscan.errors import TrainDataError

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_AT_ONCE = 8  # an image may have 64 MB


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns that are read."""

    image: str
    caption: str | None
    label: LabelColumn | None = None

    @property
    def names(self) -> list[str]:
        """The columns to load."""
        label = None if self.label is None else self.label.name
        return [name for name in (self.image, self.caption, label) if name is not None]


def require_pyarrow(what: str) -> None:
    """Fail as a sentence where pyarrow is not installed.

    Raises:
        TrainDataError: Says how to install it.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise TrainDataError(
            f"{what} needs pyarrow to be read: pip install 'pytest-memscan[parquet]'"
        ) from None


def find_columns(schema: pa.Schema, shard: str) -> Columns:
    """The columns of a table: ``image``, or the only one that holds images.

    Raises:
        TrainDataError: No column of images, or several with none called ``image``.
    """
    import pyarrow as pa

    images = [each.name for each in schema if _holds_images(each.type)]
    texts = [
        each.name
        for each in schema
        if pa.types.is_string(each.type) or pa.types.is_large_string(each.type)
    ]
    if not images:
        names = ", ".join(printable(name) for name in schema.names[:10])
        raise TrainDataError(
            f"{shard} has no column of images (encoded files, as `datasets` stores them); its "
            f"columns are {names or 'none'}"
        )
    if len(images) > 1 and "image" not in images:
        names = ", ".join(map(printable, images))
        raise TrainDataError(
            f"{shard} has several columns of images ({names}); call the one to compare with 'image'"
        )
    caption = next((key for key in CAPTION_KEYS if key in texts), None)
    return Columns(
        image="image" if "image" in images else images[0],
        caption=caption,
        label=find_label_column(schema),
    )


def of_one_set(columns: Mapping[str, Columns]) -> dict[str, Columns]:
    """The columns of every shard, with labels only where they can be compared with each other."""
    labels = of_one_kind({shard: each.label for shard, each in columns.items()})
    return {shard: replace(each, label=labels[shard]) for shard, each in columns.items()}


def rows_of(batch: pa.RecordBatch, columns: Columns, shard: str, first: int) -> Iterator[Record]:
    """The rows of one batch, numbered from ``first`` in their shard.

    Raises:
        pyarrow.ArrowInvalid: The batch is damaged.
        TrainDataError: A class label is none.
    """
    batch = batch.select(columns.names)
    # pyarrow trusts the offsets in an Arrow file; a damaged one would end this process.
    batch.validate(full=True)
    for start in range(0, batch.num_rows, ROWS_AT_ONCE):
        part = batch.slice(start, ROWS_AT_ONCE)
        images = part.column(columns.image)
        texts = None if columns.caption is None else part.column(columns.caption)
        labels = None if columns.label is None else part.column(columns.label.name)
        for row in range(part.num_rows):
            content, problem = _content(images[row])
            name = f"{shard}[{first + start + row}]"
            label = None
            if labels is not None and columns.label is not None:
                label = label_in(labels[row], columns.label, printable(name))
            yield Record(
                name=name,
                content=content,
                caption=None if texts is None else texts[row].as_py() or None,
                label=label,
                problem=problem,
            )


def _content(cell: Any) -> tuple[bytes, str | None]:
    import pyarrow as pa

    path = None
    if pa.types.is_struct(cell.type):
        if not cell.is_valid:
            return b"", "no image in this row"
        path = cell["path"].as_py() if "path" in cell else None
        cell = cell["bytes"]
    if not cell.is_valid:
        if path:
            return b"", "names a file outside of its shard, which is not opened"
        return b"", "no image in this row"
    buffer = cell.as_buffer()
    if buffer.size > MAX_FILE_BYTES:
        return b"", "larger than 64 MB"
    return buffer.to_pybytes(), None


def _holds_images(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _is_binary(kind.field(index).type)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
