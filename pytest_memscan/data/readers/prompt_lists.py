"""Lists of prompts in files, a folder of captioned images, or a dataset -> one entry after another.

What is wrong with one entry is said in it; what is wrong with a whole file is raised.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_memscan.data.listing import walk_folder
from pytest_memscan.data.naming import printable
from pytest_memscan.data.opening import open_regular
from pytest_memscan.data.prompt_rules import CONTROL_CHARACTER, Entry
from pytest_memscan.data.readers.captions import CAPTION_KEYS, Caption, read_captions
from pytest_memscan.data.readers.hub_files import Wanted, fetch_files, of_training_split
from pytest_memscan.data.readers.rows import csv_rows, json_rows, one_of, text_lines
from pytest_memscan.errors import TrainDataError

MAX_FILE_BYTES = 1 << 30  # of a list in text form
SIDECAR_SUFFIXES = (".txt", ".caption")  # beside an image: what trainers of LoRA adapters read
_EXAMPLE = '{"text": "a prompt"}'
_FORMATS = {".parquet": "Parquet", ".jsonl": "JSONL", ".csv": "CSV", ".txt": "text"}
# Text files that lie in many repositories and are not lists of prompts.
_NOT_PROMPTS = ("requirements", "license", "licence", "readme", "notice", "copying")
_HEAD = 4096  # bytes by which a binary file is told
_BINARY = (b"\xff\xfe", b"\xfe\xff", b"\x89PNG", b"\xff\xd8", b"PK\x03\x04", b"\x1f\x8b")
_CONTROLS = bytes({*range(32), 127} - set(b"\t\n\f\r"))


def list_entries(path: Path, shown: str, *, prefix: str = "") -> Iterator[Entry]:
    """The entries of one list.

    Args:
        path: A ``.txt``, ``.jsonl``, ``.csv`` or ``.parquet`` file.
        shown: Its name in messages, printable.
        prefix: What places start with, where there are several files.

    Raises:
        TrainDataError: It cannot be read, is too large, or is of another kind than its suffix.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        from pytest_memscan.data.readers.prompt_table import parquet_texts  # numpy: not at start-up

        for number, text in enumerate(parquet_texts(path, shown), start=1):
            yield Entry(f"{prefix}row {number}", text)
        return
    _require_text(path, shown)
    readers = {".jsonl": _json_entries, ".csv": _csv_entries}
    yield from readers.get(suffix, _line_entries)(path, shown, prefix)


def folder_entries(folder: Path, shown: str) -> Iterator[Entry]:
    """The captions of a folder of images; an image without one is an entry without text.

    Captions of images that are not there count too: the checkpoint may have seen them.

    Args:
        folder: Of images with ``metadata.jsonl``, ``metadata.csv`` or a text beside each.
        shown: Its name in messages, printable.

    Raises:
        TrainDataError: No images, no captions, or captions that cannot be read.
    """
    found = walk_folder(folder)
    captions = read_captions(folder, found.captions)
    has_captions = False
    for entry in _captions_of(found.images, folder, captions):
        has_captions = has_captions or entry.text is not None or entry.problem is not None
        yield entry
    if not has_captions:
        raise TrainDataError(
            f"{shown} holds {len(found.images)} images and no captions, which are read from "
            "metadata.jsonl, metadata.csv or a .txt file beside each image"
        )


def _captions_of(
    images: Iterable[Path], folder: Path, captions: dict[str, Caption]
) -> Iterator[Entry]:
    for image in images:
        name = image.relative_to(folder).as_posix()
        if image.is_dir():
            yield Entry(printable(name), None, "link to another folder, which is not followed")
            continue
        caption = captions.pop(name, None)
        beside = _beside(image, folder, Entry(printable(name), None))
        if caption is None or caption.text is None:
            yield from beside
        else:
            yield Entry(printable(name), caption.text)
            yield from (entry for entry in beside if entry.text is not None)
    for name, caption in sorted(captions.items()):
        yield Entry(printable(name), caption.text)


def hub_entries(repo: str, revision: str | None, *, offline: bool) -> tuple[Iterator[Entry], str]:
    """The entries of the lists of a dataset on the Hub, and what was read, for people.

    Raises:
        TrainDataError: Not found, no access, not reachable, no lists, or other bytes than the Hub
            announced.
        NotCachedError: Offline, and not or not completely in the cache.
    """
    wanted = Wanted(
        choose=lambda names: of_training_split(_of_one_format(names)),
        noun="lists of prompts (.parquet, .jsonl, .csv or .txt files)",
        remedy=f"the Hub converts many datasets itself: try hub:{repo}@refs/convert/parquet, or "
        "download it and name a file",
    )
    fetched = fetch_files(repo, revision, wanted, offline=offline)
    available = len(_of_one_format(fetched.listed))
    split = "all" if len(fetched.files) == available else f"training split, {len(fetched.files)} of"
    kind = _FORMATS[Path(fetched.files[0]).suffix.lower()]
    origin = f"hub:{repo}@{fetched.commit[:7]} ({split} {available} {kind} files)"
    return _entries_of_files(fetched.folder, fetched.files), origin


def _entries_of_files(folder: Path, names: Iterable[str]) -> Iterator[Entry]:
    for name in names:
        shown = printable(name)
        yield from list_entries(folder / name, shown, prefix=f"{shown} ")


def _of_one_format(names: Iterable[str]) -> list[str]:
    """The lists among the files of a dataset: of the first format that it has."""
    lists = [name for name in names if Path(name).stem.lower() not in _NOT_PROMPTS]
    for suffix in _FORMATS:
        if files := [name for name in lists if name.lower().endswith(suffix)]:
            return files
    return []


def _beside(image: Path, folder: Path, nothing: Entry) -> Iterator[Entry]:
    """The lines of the text file beside an image; ``nothing`` where there are none."""
    for suffix in SIDECAR_SUFFIXES:
        sidecar = image.with_suffix(suffix)
        if os.path.lexists(sidecar):
            name = printable(sidecar.relative_to(folder).as_posix())
            _require_text(sidecar, name)
            lines = _line_entries(sidecar, name, f"{name} ")
            yield next(lines, nothing)
            yield from lines
            return
    yield nothing


def _line_entries(path: Path, shown: str, prefix: str) -> Iterator[Entry]:
    for number, line in enumerate(text_lines(path, shown, errors="surrogateescape"), start=1):
        text = line.rstrip("\r\n")
        # Lines that end in a carriage return alone would otherwise be one long prompt.
        problem = CONTROL_CHARACTER if "\r" in text else None
        yield Entry(f"{prefix}line {number}", text, problem)


def _json_entries(path: Path, shown: str, prefix: str) -> Iterator[Entry]:
    for number, row in json_rows(path, shown, example=_EXAMPLE, errors="surrogateescape"):
        yield _row_entry(row, f"{prefix}line {number}")


def _csv_entries(path: Path, shown: str, prefix: str) -> Iterator[Entry]:
    for number, row in csv_rows(path, shown, columns=CAPTION_KEYS, errors="surrogateescape"):
        yield _row_entry(row, f"{prefix}line {number}")


def _row_entry(row: Mapping[Any, Any], place: str) -> Entry:
    key = next((key for key in CAPTION_KEYS if key in row), None)
    if key is None:
        return Entry(place, None, f"without {one_of(CAPTION_KEYS)}")
    if row[key] is None or isinstance(row[key], str):
        return Entry(place, row[key])
    return Entry(place, None, "not a text")


def _require_text(path: Path, shown: str) -> None:
    """Fail, in one sentence, on a file that is none of the lists that are read.

    Raises:
        TrainDataError: It is binary, or larger than `MAX_FILE_BYTES`.
    """
    with open_regular(path, shown) as file:
        head = file.read(_HEAD)
        size = os.fstat(file.fileno()).st_size
    if _is_binary(head):
        raise TrainDataError(
            f"{shown} is not UTF-8 text: it is UTF-16 or a binary file, such as an image"
        )
    if size > MAX_FILE_BYTES:
        raise TrainDataError(
            f"{shown} has {size / 1e9:.1f} GB, and a list of prompts may have 1 GB; name a shorter "
            "one"
        )


def _is_binary(head: bytes) -> bool:
    """Bytes that no text starts with; a few bad ones in a text are left to be found by line."""
    num_control = len(head) - len(head.translate(None, _CONTROLS))
    if head.startswith(_BINARY) or head.count(0) > len(head) / 4:
        return True
    try:
        # The last character may be cut in two.
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return num_control > len(head) / 20  # of compressed data they are more than a tenth
    return False
