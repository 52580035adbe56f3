"""Class labels of images: what the class of an image is called, or its number as text.

A label is a text without white space around it, and only ever compared with others of its source.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_memscan.errors import TrainDataError

if TYPE_CHECKING:
    import pyarrow as pa

LABEL_COLUMNS = ("label", "labels", "class")  # of a table; the first that can be one is taken
NO_CLASS = -1  # what `datasets` stores in a column of named classes for an image without one


@dataclass(frozen=True, kw_only=True)
class LabelColumn:
    """The column of a table that holds class labels.

    Attributes:
        name: Of the column.
        class_names: Of the classes 0, 1, ...; None where the column itself says all. Private.
        is_numbers: Whether the labels are bare numbers, so neither texts nor named.
    """

    name: str
    class_names: tuple[str, ...] | None = field(default=None, repr=False)
    is_numbers: bool = False


def label_of(row: Mapping[Any, Any]) -> str | None:
    """The class label under ``label`` in a line of metadata; None where it is empty or absent.

    What is neither a text nor a whole number, such as the target of a regression, names no class.
    """
    value = row.get("label")
    if value is None or isinstance(value, str):
        return (value or "").strip() or None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return None


def decode_label(content: bytes, where: str, encoding: str = "utf-8") -> str | None:
    """The class label that some bytes spell.

    Args:
        content: A whole file, or a cell padded with zeros as NumPy does.
        where: It was found, printable.
        encoding: UTF-8, or another that NumPy uses.

    Raises:
        TrainDataError: They are no text.
    """
    try:
        return content.decode(encoding).rstrip("\0").strip() or None
    except UnicodeDecodeError:
        raise TrainDataError(
            f"{where} is not {encoding.upper()} text, so the class label of its image is lost"
        ) from None


def find_label_column(schema: pa.Schema) -> LabelColumn | None:
    """The first of `LABEL_COLUMNS` that holds whole numbers or texts, if any does."""
    import pyarrow as pa

    for name in LABEL_COLUMNS:
        # Of two columns with one name nobody can say which is meant.
        if schema.names.count(name) != 1:
            continue
        kind = schema.field(name).type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if pa.types.is_integer(kind):
            class_names = _class_names(schema, name)
            return LabelColumn(name=name, class_names=class_names, is_numbers=class_names is None)
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            return LabelColumn(name=name)
    return None


def _class_names(schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    """What `datasets` wrote into the schema about a column of the type ``ClassLabel``."""
    try:
        found: Any = json.loads((schema.metadata or {})[b"huggingface"])
        for key in ("info", "features", column, "names"):
            found = found[key]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    if not isinstance(found, list) or not all(isinstance(each, str) and each for each in found):
        return None
    return tuple(found) if len(set(found)) == len(found) else None


def label_in(cell: pa.Scalar[Any], column: LabelColumn, where: str) -> str | None:
    """The class label in a cell.

    Args:
        cell: Of the column.
        column: As found.
        where: The row, printable.

    Raises:
        TrainDataError: A number that is not among the named classes.
    """
    value = cell.as_py()
    if value is None:
        return None
    if column.class_names is None:
        return str(value).strip() or None
    if value == NO_CLASS:
        return None
    if not 0 <= value < len(column.class_names):
        raise TrainDataError(
            f"{where}: its class is number {value}, and only {len(column.class_names)} classes "
            "have names (0 is the first)"
        )
    name: str = column.class_names[value]
    return name


def of_one_kind(columns: Mapping[str, LabelColumn | None]) -> dict[str, LabelColumn | None]:
    """Columns of the shards of one set; bare numbers are left out where other shards have names.

    Number 3 and the class that other shards call by name may be the same: taken together they
    would be two classes.
    """
    found = [each for each in columns.values() if each is not None]
    if all(each.is_numbers for each in found):
        return dict(columns)
    return {
        shard: None if each is None or each.is_numbers else each for shard, each in columns.items()
    }
