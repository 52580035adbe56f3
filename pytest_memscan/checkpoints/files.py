"""Opening files that may be hostile: links, FIFOs, oversized or malformed JSON.

Names are POSIX paths relative to the checkpoint folder; messages show them, never the folder.
"""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from pytest_memscan.errors import CheckpointError

MAX_JSON_BYTES = 1 << 20
MAX_JSON_DEPTH = 16


def shown(text: object, limit: int = 120) -> str:
    """The text as a quoted literal without control characters, cut to `limit` characters.

    Names inside a checkpoint are somebody else's text: printed raw, a newline or an escape
    sequence could forge lines of a CI log.
    """
    literal = ascii(str(text))
    return literal if len(literal) <= limit else f"{literal[: limit - 4]}...{literal[0]}"


def open_regular(folder: Path, name: str) -> BinaryIO:
    """The file `name` of the checkpoint, opened for reading.

    Raises:
        CheckpointError: The file is missing, is not a regular file, or is a link that leaves
            the checkpoint (links into the Hub cache's own ``blobs`` folder are how the cache
            is built, and allowed).
    """
    path = folder / name
    try:
        real = path.resolve(strict=True)
    except FileNotFoundError:
        if path.is_symlink():
            raise CheckpointError(f"{name} is a link to a file that does not exist") from None
        raise CheckpointError(f"{name} is missing from the checkpoint") from None
    except (OSError, RuntimeError) as error:  # RuntimeError: a link loop, before Python 3.13
        if isinstance(error, OSError) and error.errno != errno.ELOOP:
            raise CheckpointError(f"{name} cannot be read: {error.strerror}") from None
        raise CheckpointError(f"{name} cannot be followed: it is a link in a loop") from None
    if not any(real.is_relative_to(root) for root in _allowed_roots(folder)):
        raise CheckpointError(
            f"{name} is a link to a file outside the checkpoint; copy the file into the folder"
        )
    return _open_without_waiting(real, name)


def _allowed_roots(folder: Path) -> list[Path]:
    """Where a file of the checkpoint may really lie."""
    root = folder.resolve()
    repo = root.parent.parent
    is_hub_snapshot = root.parent.name == "snapshots" and repo.name.startswith("models--")
    return [root, (repo / "blobs").resolve()] if is_hub_snapshot else [root]


def _open_without_waiting(path: Path, name: str) -> BinaryIO:
    # O_NONBLOCK: opening a FIFO that nobody writes to would otherwise wait for ever.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise CheckpointError(f"{name} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CheckpointError(f"{name} is not a regular file (a folder, FIFO, socket or device)")
    return os.fdopen(descriptor, "rb")


def read_bytes(folder: Path, name: str, *, max_bytes: int) -> bytes:
    """The content of a small file.

    Raises:
        CheckpointError: As `open_regular`, or the file is larger than `max_bytes`.
    """
    with open_regular(folder, name) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise CheckpointError(f"{name} is larger than {max_bytes:,} bytes; refused unread")
    return data


def read_json(
    folder: Path,
    name: str,
    *,
    max_bytes: int = MAX_JSON_BYTES,
    unbounded: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """The JSON object in a file of the checkpoint.

    Raises:
        CheckpointError: As `read_bytes` and `parse_json`.
    """
    data = read_bytes(folder, name, max_bytes=max_bytes)
    return parse_json(data, name, unbounded=unbounded)


def parse_json(
    data: bytes, name: str, *, keys_are: str = "key", unbounded: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """A JSON object: UTF-8, finite numbers, no key twice, at most `MAX_JSON_DEPTH` levels.

    Args:
        data: The text.
        name: File to name in messages.
        keys_are: What a key is, for the message about duplicates ("tensor name").
        unbounded: Keys of the object that may be ``-Infinity``, as Python writes it.

    Raises:
        CheckpointError: The text breaks one of these rules.
    """

    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise CheckpointError(f"{name}: duplicate {keys_are} {shown(key)}")
            found[key] = value
        return found

    def refuse_constant(constant: str) -> float:
        if unbounded and constant == "-Infinity":
            return -math.inf
        raise CheckpointError(f"{name} holds {constant}, which is not a JSON number")

    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=without_duplicates,
            parse_constant=refuse_constant,
        )
    except RecursionError:
        raise CheckpointError(f"{name}: nested deeper than {MAX_JSON_DEPTH} levels") from None
    except UnicodeDecodeError:
        raise CheckpointError(f"{name} is not JSON: it is not UTF-8 text") from None
    except ValueError as error:  # also integers of thousands of digits
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "a number is too long"
        raise CheckpointError(f"{name} is not JSON: {reason}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{name} is not a JSON object but {type(value).__name__}")
    bounded = {
        key: child for key, child in value.items() if key not in unbounded or child != -math.inf
    }
    _refuse_deep_or_infinite(bounded, name)
    return value


def _refuse_deep_or_infinite(root: dict[str, Any], name: str) -> None:
    stack: list[tuple[Any, int]] = [(root, 1)]
    while stack:
        value, depth = stack.pop()
        if isinstance(value, (dict, list)):
            if depth > MAX_JSON_DEPTH:
                raise CheckpointError(f"{name}: nested deeper than {MAX_JSON_DEPTH} levels")
            children = value.values() if isinstance(value, dict) else value
            stack.extend((child, depth + 1) for child in children)
        elif isinstance(value, float) and not math.isfinite(value):  # 1e999
            raise CheckpointError(f"{name} holds a number that is too large")
