"""Lines of text, JSON Lines and CSV, one row in memory at a time.

Errors name the file and the line, and never what stands in it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pytest_memscan.data.opening import open_regular
from pytest_memscan.errors import TrainDataError

MAX_LINE = 1 << 20  # bytes
# "surrogateescape": a byte that is not UTF-8 becomes a lone surrogate, for the caller to find.
Undecodable = Literal["strict", "surrogateescape"]


def one_of(names: Sequence[str]) -> str:
    """Names in a message.

    Example:
        >>> one_of(["text", "caption", "prompt"])
        "'text', 'caption' or 'prompt'"
    """
    *others, last = map(repr, names)
    return f"{', '.join(others)} or {last}" if others else last


def text_lines(file: Path, shown: str, *, errors: Undecodable = "strict") -> Iterator[str]:
    """The lines of a text with their line ends, without a byte order mark.

    Args:
        file: Where it is.
        shown: Its name in messages, printable.
        errors: What to do with bytes that are not UTF-8.

    Raises:
        TrainDataError: It cannot be read, a line has more than `MAX_LINE` bytes, or is not UTF-8.
    """
    with open_regular(file, shown) as raw:
        number = 0
        while line := raw.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                raise TrainDataError(f"{shown} line {number} is longer than {MAX_LINE:,} bytes")
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8", errors)
            except UnicodeDecodeError:
                raise TrainDataError(f"{shown} line {number} is not UTF-8 text") from None


def json_rows(
    file: Path, shown: str, *, example: str, errors: Undecodable = "strict"
) -> Iterator[tuple[int, Mapping[Any, Any]]]:
    """Line numbers and objects of a file of JSON Lines; empty lines are passed over.

    Args:
        file: Where it is.
        shown: Its name in messages, printable.
        example: A line as it should be, for the message.
        errors: What to do with bytes that are not UTF-8.

    Raises:
        TrainDataError: As `text_lines`, or a line is not a JSON object.
    """
    for number, line in enumerate(text_lines(file, shown, errors=errors), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise TrainDataError(
                f"{shown} line {number} is not JSON; expected one object a line, as in {example}"
            ) from None
        if not isinstance(row, dict):
            raise TrainDataError(f"{shown} line {number} is not a JSON object")
        yield number, row


def csv_rows(
    file: Path, shown: str, *, columns: Sequence[str], errors: Undecodable = "strict"
) -> Iterator[tuple[int, Mapping[Any, Any]]]:
    """Line numbers and rows of a CSV file with a header; empty lines are passed over.

    Args:
        file: Where it is.
        shown: Its name in messages, printable.
        columns: One of them must be there.
        errors: What to do with bytes that are not UTF-8.

    Raises:
        TrainDataError: As `text_lines`, or the header or the number of columns is wrong.
    """
    reader = csv.DictReader(text_lines(file, shown, errors=errors), strict=True)
    try:
        if not set(columns) & set(reader.fieldnames or ()):
            raise TrainDataError(f"{shown} line 1: expected a column {one_of(columns)}")
        for row in reader:
            if None in row or None in row.values():
                raise TrainDataError(
                    f"{shown} line {reader.line_num} has not as many columns as line 1"
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise TrainDataError(
            f"{shown} line {reader.reader.line_num} cannot be read as CSV: {error}"
        ) from None
