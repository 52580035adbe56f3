"""Captions of a folder of images: ``metadata.jsonl`` or ``metadata.csv``, as `datasets` reads them.

Each lies beside the images that it names in ``file_name``; the caption is in ``text``, ``caption``
or ``prompt``, the first of these that is there.
"""

from __future__ import annotations

import csv
import json
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_memscan.data.naming import printable
from pytest_memscan.data.opening import open_regular
from pytest_memscan.errors import TrainDataError

CAPTION_KEYS = ("text", "caption", "prompt")
MAX_LINE = 1 << 20  # characters


@dataclass(frozen=True, kw_only=True)
class Caption:
    """What one line says about one image."""

    text: str | None
    named_in: str  # the file of captions, made printable


def read_captions(folder: Path, files: Sequence[Path]) -> dict[str, Caption]:
    """Captions by name of the image, relative to ``folder``.

    Args:
        folder: Of the images.
        files: ``metadata.jsonl`` and ``metadata.csv`` in it and its subfolders.

    Raises:
        TrainDataError: A line cannot be read, names no image, or contradicts another one.
    """
    captions: dict[str, Caption] = {}
    for file in files:
        shown = printable(file.relative_to(folder).as_posix())
        parent = file.parent.relative_to(folder).as_posix()
        rows = _csv_rows(file, shown) if file.suffix == ".csv" else _json_rows(file, shown)
        for number, row in rows:
            where = f"{shown} line {number}"
            name = _file_name(row, where, parent)
            caption = Caption(text=caption_of(row, where), named_in=shown)
            if captions.setdefault(name, caption).text != caption.text:
                raise TrainDataError(
                    f"{where}: {printable(name)} is named again with another caption; keep one"
                )
    return captions


def caption_of(row: Mapping[Any, Any], where: str) -> str | None:
    """The caption in a row of captions.

    Raises:
        TrainDataError: It is not a text.
    """
    for key in CAPTION_KEYS:
        if key in row:
            if row[key] is None or isinstance(row[key], str):
                return row[key] or None
            raise TrainDataError(f"{where}: {key!r} is not a text")
    return None


def _file_name(row: Mapping[Any, Any], where: str, parent: str) -> str:
    name = row.get("file_name")
    if not isinstance(name, str) or not name:
        raise TrainDataError(f"{where}: expected the name of an image in 'file_name'")
    # Only compared with names that were found, never opened: where it points does not matter.
    return posixpath.normpath(posixpath.join(parent, name))


def _lines(file: Path, shown: str) -> Iterator[str]:
    with open_regular(file, shown) as raw:
        number = 0
        while line := raw.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                raise TrainDataError(f"{shown} line {number} is longer than {MAX_LINE:,} bytes")
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise TrainDataError(f"{shown} line {number} is not UTF-8 text") from None


def _json_rows(file: Path, shown: str) -> Iterator[tuple[int, Mapping[Any, Any]]]:
    for number, line in enumerate(_lines(file, shown), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise TrainDataError(
                f"{shown} line {number} is not JSON; expected one object a line, as in "
                '{"file_name": "0001.png", "text": "a caption"}'
            ) from None
        if not isinstance(row, dict):
            raise TrainDataError(f"{shown} line {number} is not a JSON object")
        yield number, row


def _csv_rows(file: Path, shown: str) -> Iterator[tuple[int, Mapping[Any, Any]]]:
    reader = csv.DictReader(_lines(file, shown), strict=True)
    try:
        if "file_name" not in (reader.fieldnames or ()):
            raise TrainDataError(f"{shown} line 1: expected a column 'file_name'")
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
