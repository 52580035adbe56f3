"""Which files a LoRA is, and whether they can be trusted.

Reads names, headers and configurations; imports neither torch nor diffusers nor peft, so nothing
in the files can run. A whole pipeline (model_index.json) is never a LoRA.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pytest_memscan.checkpoints.adapter_configs import Scaling, scaling_of, scalings_in
from pytest_memscan.checkpoints.adapter_keys import (
    DENOISER,
    WHAT_IS_SUPPORTED,
    Layout,
    Pair,
    layout_of,
    looks_like_adapter,
    pairs_of,
    parts_of,
)
from pytest_memscan.checkpoints.adapter_names import (
    DIFFUSERS_WEIGHTS,
    PEFT_CONFIG,
    PEFT_WEIGHTS,
    PICKLES,
    adapter_names,
    by_names,
    other_weights,
    pickled,
    several,
)
from pytest_memscan.checkpoints.files import (
    MAX_JSON_BYTES,
    open_regular,
    parse_json,
    read_bytes,
    read_json,
    shown,
)
from pytest_memscan.checkpoints.header import TensorInfo, read_header
from pytest_memscan.checkpoints.layout import PICKLE_SUFFIXES, list_names
from pytest_memscan.errors import CheckpointError
from pytest_memscan.hub.snapshot import sha256

__all__ = [
    "Adapter",
    "AdapterFiles",
    "adapter_names",
    "find_adapter",
    "part_of_file",
    "vet_adapter",
]

_FLOAT_DTYPES = ("F32", "F16", "BF16", "F64")
_ALPHA_DTYPES = (*_FLOAT_DTYPES, "I64", "I32", "I16", "I8", "U8")  # diffusers writes integers


@dataclass(frozen=True, kw_only=True)
class AdapterFiles:
    """The files of a LoRA that has been found."""

    path: Path = field(repr=False)  # a folder, or a .safetensors file
    weights: tuple[str, ...]  # names relative to `folder`
    configs: tuple[str, ...] = ()  # peft: one for each file of weights, in the same order
    layout: Layout

    @property
    def folder(self) -> Path:
        """Where the files lie."""
        return self.path if self.path.is_dir() else self.path.parent


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A LoRA whose files were read and vetted; values of weights were not looked at."""

    source: AdapterFiles
    files: Mapping[str, str]  # name -> SHA-256, weights and configurations
    num_tensors: int
    num_parameters: int  # without alphas
    parts: tuple[str, ...]  # that it changes: ("unet", "text_encoder")
    ranks: tuple[int, ...]  # distinct, ascending
    metadata: Mapping[str, str]  # of the safetensors header; peft's files rarely have any
    scalings: Mapping[str, Scaling]  # part -> what its configuration says, where there is one

    @property
    def layout(self) -> Layout:
        """How its tensors are named."""
        return self.source.layout

    @property
    def description(self) -> str:
        """In a few words, such as "diffusers layout, rank 8, unet and text_encoder"."""
        low, high = self.ranks[0], self.ranks[-1]
        rank = f"rank {low}" if low == high else f"ranks {low} to {high}"
        *others, last = self.parts
        parts = f"{', '.join(others)} and {last}" if others else last
        return f"{self.layout} layout, {rank}, {parts}"


# --- finding ------------------------------------------------------------------------------------


def find_adapter(path: Path) -> AdapterFiles | None:
    """The LoRA in a folder or a file.

    Args:
        path: As the user gave it, or a snapshot in the Hub cache.

    Returns:
        None where there is no LoRA at all: no such path, a pipeline, a whole model, an empty
        folder.

    Raises:
        CheckpointError: An adapter that cannot be read (pickled, incomplete, of another method
            than LoRA), or several of which one would have to be guessed.
    """
    if os.path.isdir(path):
        return _find_in_folder(path)
    if not os.path.isfile(path):
        return None
    name = path.name
    if name.endswith(PICKLE_SUFFIXES) and (name in PICKLES or "lora" in name.lower()):
        raise CheckpointError(pickled(name))
    return _if_adapter(path, path.parent, name) if name.endswith(".safetensors") else None


def _find_in_folder(folder: Path) -> AdapterFiles | None:
    names = list_names(folder)
    named = by_names(names)
    if named is not None:
        if DIFFUSERS_WEIGHTS in named:
            keys = _keys(folder, DIFFUSERS_WEIGHTS)
            layout = layout_of(keys, DIFFUSERS_WEIGHTS)
            return AdapterFiles(path=folder, weights=named, layout=layout)
        configs = tuple(name for name in named if name.endswith(".json"))
        for config in configs:
            scaling_of(read_json(folder, config), config)
        weights = tuple(name for name in named if name not in configs)
        return AdapterFiles(path=folder, weights=weights, configs=configs, layout="peft")
    others = other_weights(names)
    found = [each for name in others if (each := _if_adapter(folder, folder, name)) is not None]
    if len(found) > 1:
        raise CheckpointError(several([each.weights[0] for each in found]))
    return found[0] if found else None


def _if_adapter(path: Path, folder: Path, name: str) -> AdapterFiles | None:
    if not name.isprintable():
        raise CheckpointError(f"{shown(name)} cannot be printed as it is; rename the file")
    keys = _keys(folder, name)
    if not looks_like_adapter(keys):
        return None
    layout = layout_of(keys, name)
    if name == PEFT_WEIGHTS and path != folder and (folder / PEFT_CONFIG).is_file():
        raise CheckpointError(f"{name} is read together with {PEFT_CONFIG}; give their folder")
    if all(key.startswith("base_model.model.") for key in keys):
        raise CheckpointError(
            f"{name} is in the layout of peft, and {PEFT_CONFIG}, which says how strong the "
            "adapter is, is not beside it; fetch or save both files"
        )
    return AdapterFiles(path=path, weights=(name,), layout=layout)


# --- vetting ------------------------------------------------------------------------------------


def vet_adapter(files: AdapterFiles) -> Adapter:
    """Read and check everything but the values of the weights.

    Raises:
        CheckpointError: A file is missing, malformed or a link that leads away, a tensor is none
            of a LoRA layer or not floating point, the two matrices of a layer do not fit each
            other, or a configuration asks for what a scan cannot honour. One line that names the
            file relative to the folder.
    """
    hashes: dict[str, str] = {}
    metadata: dict[str, str] = {}
    scalings: dict[str, Scaling] = {}
    pairs: list[Pair] = []
    infos: list[TensorInfo] = []
    ranks: set[int] = set()
    for index, name in enumerate(files.weights):
        part = part_of_file(files, name)
        with open_regular(files.folder, name) as file:
            header = read_header(file, name)
            of_file = _metadata(file, name)
            hashes[name] = sha256(file)
        layout_of(header, name)
        found = pairs_of(header, layout=files.layout, name=name, part=part)
        ranks |= {_check_pair(pair, header, name) for pair in found}
        if files.layout == "peft":
            config = files.configs[index]
            data = read_bytes(files.folder, config, max_bytes=MAX_JSON_BYTES)
            hashes[config] = hashlib.sha256(data).hexdigest()
            scalings[found[0].part] = scaling_of(parse_json(data, config), config)
        elif files.layout == "diffusers":
            scalings |= _by_part(scalings_in(of_file, name), found)
        _check_scalings(found, scalings, header, name)
        pairs += found
        infos += header.values()
        metadata |= of_file
    return Adapter(
        source=files,
        files=hashes,
        num_tensors=len(infos),
        num_parameters=sum(info.num_elements for info in infos if info.shape not in ((), (1,))),
        parts=parts_of(pairs),
        ranks=tuple(sorted(ranks)),
        metadata=metadata,
        scalings=scalings,
    )


def _by_part(scalings: Mapping[str, Scaling], pairs: Collection[Pair]) -> dict[str, Scaling]:
    """The same, where it is known what the denoiser is called."""
    denoisers = [pair.part for pair in pairs if not pair.part.startswith("text_encoder")]
    return {
        denoisers[0] if part == DENOISER and denoisers else part: scaling
        for part, scaling in scalings.items()
    }


def part_of_file(files: AdapterFiles, name: str) -> str | None:
    """The part that a file of peft's layout belongs to; None in layouts that name it by tensor."""
    if files.layout != "peft":
        return None
    return name.split("/")[0] if "/" in name else DENOISER


def _keys(folder: Path, name: str) -> tuple[str, ...]:
    with open_regular(folder, name) as file:
        return tuple(read_header(file, name))


def _metadata(file: BinaryIO, name: str) -> dict[str, str]:
    """``__metadata__`` of a file whose header `read_header` accepted."""
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    found = parse_json(file.read(length), name).get("__metadata__", {})
    return {str(key): str(value) for key, value in found.items()}


def _check_pair(pair: Pair, header: Mapping[str, TensorInfo], name: str) -> int:
    """The rank of a layer."""
    down, up = header[pair.down], header[pair.up]
    for key, info in ((pair.down, down), (pair.up, up)):
        if info.dtype not in _FLOAT_DTYPES:
            raise CheckpointError(
                f"{name}: tensor {shown(key)} has dtype {info.dtype}; quantised adapters are not "
                "supported, save it in float32 or bfloat16"
            )
        if len(info.shape) not in (2, 4) or 0 in info.shape:
            raise CheckpointError(
                f"{name}: tensor {shown(key)} has shape {list(info.shape)}; expected the matrix "
                f"of a linear layer or a convolution; {WHAT_IS_SUPPORTED}"
            )
    if down.shape[0] != up.shape[1] or len(down.shape) != len(up.shape):
        raise CheckpointError(
            f"{name}: {shown(pair.down)} {list(down.shape)} and {shown(pair.up)} "
            f"{list(up.shape)} have no rank in common; they are of different adapters"
        )
    if pair.alpha is not None:
        alpha = header[pair.alpha]
        if math.prod(alpha.shape) != 1 or alpha.dtype not in _ALPHA_DTYPES:
            raise CheckpointError(
                f"{name}: tensor {shown(pair.alpha)} is no single number, as an alpha must be"
            )
    return down.shape[0]


def _check_scalings(
    pairs: Collection[Pair],
    scalings: Mapping[str, Scaling],
    header: Mapping[str, TensorInfo],
    name: str,
) -> None:
    for pair in pairs:
        scaling = scalings.get(pair.part)
        if scaling is None:
            continue
        if pair.alpha is not None:
            raise CheckpointError(
                f"{name}: both {shown(pair.alpha)} and a configuration say how strong this layer "
                "is; remove one"
            )
        rank = header[pair.down].shape[0]
        if scaling.rank_of(pair.module) != rank:
            raise CheckpointError(
                f"{name}: {shown(pair.down)} has rank {rank}, but the configuration says "
                f"{scaling.rank_of(pair.module)}; they are of different adapters"
            )
