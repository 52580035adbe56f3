"""The tensors of a component, in one file or in shards: names and shapes only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pytest_memscan.checkpoints import layout
from pytest_memscan.checkpoints.files import open_regular, read_json, shown
from pytest_memscan.checkpoints.header import MAX_TENSORS, TensorInfo, read_header
from pytest_memscan.errors import CheckpointError

MAX_INDEX_BYTES = 8 << 20
_FLOAT_DTYPES = ("F32", "F16", "BF16", "F64")
# Older transformers stored the numbers 0, 1, 2, ... with the weights, and made a buffer of them.
_HARMLESS_BUFFERS = ("embeddings.position_ids", "text_model.embeddings.position_ids")


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """One tensor and the file that holds it."""

    file: str  # relative to the checkpoint
    key: str  # its name in that file
    info: TensorInfo


def read_tensors(folder: Path, files: layout.PartFiles) -> dict[str, StoredTensor]:
    """Tensor name -> file and header entry, for all weight files of one component.

    A text encoder's ``position_ids`` are left out: they are no weights, and nothing loads them.

    Raises:
        CheckpointError: A file or header is malformed, a shard is missing, index and shards
            disagree, or weights are not floating point.
    """
    if files.weights is None:
        return {}
    tensors = (
        _read_shards(folder, files, files.weights)
        if files.is_sharded
        else _read_file(folder, files.weights)
    )
    if files.library == "transformers":
        tensors = {key: tensors[key] for key in tensors if key not in _HARMLESS_BUFFERS}
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
    return {key: StoredTensor(file=name, key=key, info=info) for key, info in header.items()}


def _read_shards(folder: Path, files: layout.PartFiles, index_name: str) -> dict[str, StoredTensor]:
    index = read_json(folder, index_name, max_bytes=MAX_INDEX_BYTES)
    promised = layout.shard_names(index, files)
    if len(promised) > MAX_TENSORS:
        raise CheckpointError(f"{index_name}: {len(promised):,} tensors, more than {MAX_TENSORS:,}")
    found: dict[str, StoredTensor] = {}
    for shard in sorted(set(promised.values())):
        for name, tensor in _read_file(folder, shard).items():
            if promised.get(name) != shard:
                raise CheckpointError(
                    f"{shard} holds tensor {shown(name)}, which {index_name} does not place there"
                )
            found[name] = tensor
    for name, shard in promised.items():
        if name not in found:
            raise CheckpointError(
                f"{index_name} places tensor {shown(name)} in {shard}, which lacks it"
            )
    return found
