"""Captions and labels of a folder of images, as `datasets` reads them.

``metadata.jsonl`` or ``metadata.csv`` lies beside the images that it names in ``file_name``; the
caption is in ``text``, ``caption`` or ``prompt``, the first of these that is there, and the class
label in ``label``.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_memscan.data.naming import printable
from pytest_memscan.data.readers.labels import label_of
from pytest_memscan.data.readers.rows import csv_rows, json_rows
from pytest_memscan.errors import TrainDataError

CAPTION_KEYS = ("text", "caption", "prompt")
_EXAMPLE = '{"file_name": "0001.png", "text": "a caption"}'


@dataclass(frozen=True, kw_only=True)
class Caption:
    """What one line says about one image."""

    text: str | None
    named_in: str  # the file of captions, made printable
    label: str | None = None


def read_captions(
    folder: Path, files: Sequence[Path], *, with_labels: bool = False
) -> dict[str, Caption]:
    """Captions by name of the image, relative to ``folder``.

    Args:
        folder: Of the images.
        files: ``metadata.jsonl`` and ``metadata.csv`` in it and its subfolders.
        with_labels: Read class labels too; else nothing is asked of them.

    Raises:
        TrainDataError: A line cannot be read, names no image, or contradicts another one.
    """
    captions: dict[str, Caption] = {}
    for file in files:
        shown = printable(file.relative_to(folder).as_posix())
        parent = file.parent.relative_to(folder).as_posix()
        if file.suffix == ".csv":
            rows = csv_rows(file, shown, columns=["file_name"])
        else:
            rows = json_rows(file, shown, example=_EXAMPLE)
        for number, row in rows:
            where = f"{shown} line {number}"
            name = _file_name(row, where, parent)
            label = label_of(row) if with_labels else None
            caption = Caption(text=caption_of(row, where), named_in=shown, label=label)
            before = captions.setdefault(name, caption)
            for what, same in (
                ("caption", before.text == caption.text),
                ("label", before.label == caption.label),
            ):
                if not same:
                    raise TrainDataError(
                        f"{where}: {printable(name)} is named again with another {what}; keep one"
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
