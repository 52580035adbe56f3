"""The header of a safetensors file, read without the safetensors library.

Ours is stricter: the library accepts a tensor name twice and headers of 100 MB.
Format: 8 bytes little-endian header length, header JSON, tensor bytes without gaps.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import BinaryIO, TypeGuard

from pytest_memscan.checkpoints.files import parse_json, shown
from pytest_memscan.errors import CheckpointError

MAX_HEADER_BYTES = 8 << 20
MAX_TENSORS = 20_000
_MAX_DIMENSIONS = 16
_DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """What the header says about one tensor."""

    dtype: str  # as in the file: "F32", "BF16", ...
    shape: tuple[int, ...]
    begin: int  # bytes after the header
    end: int

    @property
    def num_elements(self) -> int:
        """Product of the shape; 1 for a scalar."""
        return math.prod(self.shape)


def read_header(file: BinaryIO, name: str) -> dict[str, TensorInfo]:
    """Tensor name -> dtype, shape and place, of a safetensors file that adds up.

    Args:
        file: Open file; its position is changed.
        name: File to name in messages.

    Raises:
        CheckpointError: Not a safetensors file (says what it looks like instead), too large a
            header, a duplicate name, an unknown dtype, or bytes that overlap, leave gaps or do
            not fill the file exactly.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    start = file.read(64)
    if size == 0:
        raise CheckpointError(f"{name} is empty (0 bytes); fetch or save it again")
    length = int.from_bytes(start[:8], "little")
    if size < 10 or start[8:9] != b"{":
        raise CheckpointError(f"{name} is not a safetensors file: {_looks_like(start)}")
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"{name}: header of {length:,} bytes, more than the {MAX_HEADER_BYTES:,} accepted"
        )
    if 8 + length > size:
        raise CheckpointError(f"{name} is truncated: it ends inside its header; fetch it again")
    file.seek(8)
    entries = parse_json(file.read(length), name, keys_are="tensor name")
    _check_metadata(entries.pop("__metadata__", {}), name)
    if not entries:
        raise CheckpointError(f"{name} holds no tensors")
    if len(entries) > MAX_TENSORS:
        raise CheckpointError(f"{name}: {len(entries):,} tensors, more than {MAX_TENSORS:,}")
    tensors = {key: _tensor_info(key, entry, name) for key, entry in entries.items()}
    _check_coverage(tensors, size - 8 - length, name)
    return tensors


def _looks_like(start: bytes) -> str:
    """What the first bytes of the file suggest, with the remedy."""
    text = start.lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return "it is a git-lfs pointer; fetch the real file with `git lfs pull` or `hf download`"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page, probably a failed download; fetch it again"
    if start.startswith(b"PK"):
        return "it is a zip archive, probably a PyTorch pickle with another name; convert it"
    if start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05":
        return "it is a pickle with another name, which can run code when loaded; convert it"
    if not start.strip(b"\x00"):
        return "it starts with zero bytes, probably an interrupted download; fetch it again"
    return "its first bytes are not a safetensors header"


def _check_metadata(metadata: object, name: str) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(f"{name}: __metadata__ is not a map from text to text")


def _tensor_info(key: str, entry: object, name: str) -> TensorInfo:
    where = f"{name}: tensor {shown(key)}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{where} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPE_BYTES:
        raise CheckpointError(f"{where} has the unknown dtype {shown(dtype)}")
    if not _are_counts(shape) or len(shape) > _MAX_DIMENSIONS:
        raise CheckpointError(f"{where} has the impossible shape {shown(shape)}")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise CheckpointError(f"{where} has impossible data_offsets {shown(offsets)}")
    begin, end = offsets
    num_bytes = math.prod(shape) * _DTYPE_BYTES[dtype]
    if end - begin != num_bytes:
        raise CheckpointError(
            f"{where} needs {num_bytes:,} bytes for its shape but is given {end - begin:,}"
        )
    return TensorInfo(dtype=dtype, shape=tuple(shape), begin=begin, end=end)


def _are_counts(values: object) -> TypeGuard[list[int]]:
    # type(), not isinstance(): True is an int, and JSON can say [true].
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**63 for v in values)


def _check_coverage(tensors: dict[str, TensorInfo], num_bytes: int, name: str) -> None:
    """Each byte after the header belongs to exactly one tensor."""
    position = 0
    for key, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin < position:
            raise CheckpointError(f"{name}: tensor {shown(key)} overlaps the one before it")
        if tensor.begin > position:
            raise CheckpointError(
                f"{name}: {tensor.begin - position:,} bytes before tensor {shown(key)} "
                "belong to no tensor"
            )
        position = tensor.end
    if position > num_bytes:
        raise CheckpointError(
            f"{name} is truncated: its tensors need {position:,} bytes, it holds {num_bytes:,}; "
            "fetch it again"
        )
    if position < num_bytes:
        raise CheckpointError(f"{name}: {num_bytes - position:,} extra bytes after the last tensor")
