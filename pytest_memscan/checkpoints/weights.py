"""The tensors of a checkpoint's denoiser, in one file or in shards: names and shapes only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pytest_memscan.checkpoints import layout
from pytest_memscan.checkpoints.files import open_regular, read_json, shown
from pytest_memscan.checkpoints.header import MAX_TENSORS, TensorInfo, read_header
from pytest_memscan.errors import CheckpointError

_MAX_INDEX_BYTES = 8 << 20
_FLOAT_DTYPES = ("F32", "F16", "BF16", "F64")


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """One tensor and the file that holds it."""

    file: str  # relative to the checkpoint
    info: TensorInfo


def read_tensors(folder: Path, files: layout.Files) -> dict[str, StoredTensor]:
    """Tensor name -> file and header entry, for all weight files that will be loaded.

    Raises:
        CheckpointError: A file or header is malformed, a shard is missing, index and shards
            disagree, or weights are not floating point.
    """
    tensors = _read_shards(folder, files) if files.is_sharded else _read_file(folder, files.weights)
    for name, tensor in tensors.items():
        if tensor.info.dtype not in _FLOAT_DTYPES:
            raise CheckpointError(
                f"{tensor.file}: tensor {shown(name)} has dtype {tensor.info.dtype}; quantised "
                "checkpoints are not supported, save it in float32 or bfloat16"
            )
    return tensors


def _read_file(folder: Path, name: str) -> dict[str, StoredTensor]:
    with open_regular(folder, name) as file:
        header = read_header(file, name)
    return {tensor: StoredTensor(file=name, info=info) for tensor, info in header.items()}


def _read_shards(folder: Path, files: layout.Files) -> dict[str, StoredTensor]:
    index = read_json(folder, files.weights, max_bytes=_MAX_INDEX_BYTES)
    promised = layout.shard_names(index, files)
    if len(promised) > MAX_TENSORS:
        raise CheckpointError(
            f"{files.weights}: {len(promised):,} tensors, more than {MAX_TENSORS:,}"
        )
    found: dict[str, StoredTensor] = {}
    for shard in sorted(set(promised.values())):
        for name, tensor in _read_file(folder, shard).items():
            if promised.get(name) != shard:
                raise CheckpointError(
                    f"{shard} holds tensor {shown(name)}, which {files.weights} does not "
                    "place there"
                )
            found[name] = tensor
    for name, shard in promised.items():
        if name not in found:
            raise CheckpointError(
                f"{files.weights} places tensor {shown(name)} in {shard}, which lacks it"
            )
    return found
