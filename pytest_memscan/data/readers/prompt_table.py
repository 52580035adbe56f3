"""The column of texts of a Parquet file; its images and other columns are never loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_memscan.data.naming import printable
from pytest_memscan.data.readers.captions import CAPTION_KEYS
from pytest_memscan.data.readers.columns import require_pyarrow
from pytest_memscan.data.readers.rows import one_of
from pytest_memscan.errors import TrainDataError

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS_AT_ONCE = 1024
_BUFFER = 1 << 20  # bytes read ahead of a column


def parquet_texts(path: Path, shown: str) -> Iterator[str | None]:
    """The texts of the first of the columns ``text``, ``caption`` and ``prompt`` that has texts.

    Args:
        path: The file.
        shown: Its name in messages, printable.

    Yields:
        One text a row, None where there is none. Bytes that are not UTF-8 are lone surrogates.

    Raises:
        TrainDataError: pyarrow is missing, or the file is damaged or has no such column.
    """
    require_pyarrow(shown)
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(
            path, buffer_size=_BUFFER, pre_buffer=False, page_checksum_verification=True
        ) as file:
            column = _text_column(file.schema_arrow, shown)
            for batch in file.iter_batches(_ROWS_AT_ONCE, columns=[column], use_threads=False):
                for cell in _as_bytes(batch.column(0)).to_pylist():
                    yield None if cell is None else cell.decode("utf-8", "surrogateescape")
    except (pa.ArrowException, OSError, ValueError):
        raise TrainDataError(
            f"{shown} cannot be read as Parquet: it is damaged, truncated or of another kind"
        ) from None


def _text_column(schema: pa.Schema, shown: str) -> str:
    for key in CAPTION_KEYS:
        if key in schema.names and _is_text(schema.field(key).type):
            return key
    names = ", ".join(printable(name) for name in schema.names[:10])
    raise TrainDataError(
        f"{shown} has no column of texts called {one_of(CAPTION_KEYS)}; its columns are "
        f"{names or 'none'}"
    )


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    return any((types.is_string(kind), types.is_large_string(kind), types.is_string_view(kind)))


def _as_bytes(texts: pa.Array) -> pa.Array:
    """As bytes, which pyarrow hands over as they are: decoding would stop at the first bad row."""
    import pyarrow as pa

    if pa.types.is_dictionary(texts.type):
        texts = texts.dictionary_decode()
    if pa.types.is_string_view(texts.type):
        return texts.cast(pa.binary_view())
    return texts.cast(pa.binary() if pa.types.is_string(texts.type) else pa.large_binary())
