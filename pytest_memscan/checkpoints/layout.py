"""Which files diffusers would load from a checkpoint.

Works on names and model_index.json only, so that a Hub repository is judged before anything
large is fetched. Components lie in folders of their own (``unet/``, ``scheduler/``); unconditional
checkpoints may have the older flat layout with all files at the top.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_memscan.checkpoints.components import Parts
from pytest_memscan.checkpoints.families import (
    COMPONENT_NAMES,
    MODEL_INDEX,
    WHAT_IS_SUPPORTED,
    Library,
    describe,
)
from pytest_memscan.checkpoints.files import shown
from pytest_memscan.errors import CheckpointError

PICKLE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle")
CODE_SUFFIXES = (".py", ".pyc", ".pyd", ".so")
WEIGHTS_STEMS: dict[Library, str] = {
    "diffusers": "diffusion_pytorch_model",
    "transformers": "model",
}
# What tokenizers are read from; the first alternative that is complete is enough.
VOCABULARY_FILES = {
    "CLIPTokenizer": (("tokenizer.json",), ("vocab.json", "merges.txt")),
    "T5Tokenizer": (("tokenizer.json",), ("spiece.model",)),
}
TOKENIZER_FILES = (
    "tokenizer.json", "vocab.json", "merges.txt", "spiece.model",
    "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PartFiles:
    """The files of one component that will be loaded, relative to the checkpoint."""

    part: str  # "unet", "text_encoder_2", ...
    library: Library
    class_name: str
    prefix: str  # "unet/", or "" in the flat layout
    config: str
    weights: str | None = None  # the safetensors file; if sharded, the JSON index of the shards
    is_sharded: bool = False
    vocabulary: tuple[str, ...] = ()  # of a tokenizer

    @property
    def shard_name(self) -> re.Pattern[str]:
        """What a shard is called, without the folder."""
        stem = WEIGHTS_STEMS[self.library]
        return re.compile(rf"{stem}-[0-9]{{5}}-of-[0-9]{{5}}\.safetensors")


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of a checkpoint that will be loaded."""

    parts: Parts
    of_part: dict[str, PartFiles]

    def names(self) -> list[str]:
        """All of them but shards, relative to the checkpoint, model_index.json first."""
        names = [MODEL_INDEX]
        for files in self.of_part.values():
            names += [files.config, *files.vocabulary, *filter(None, [files.weights])]
        return names


def list_names(folder: Path) -> tuple[str, ...]:
    """Files at the top of the folder and in its component folders, as POSIX names, sorted.

    A component folder is listed too ("unet/"): diffusers looks into it even if it is empty.

    Raises:
        CheckpointError: The folder cannot be listed.
    """
    names: list[str] = []
    for prefix in ("", *(f"{component}/" for component in COMPONENT_NAMES)):
        try:
            with os.scandir(folder / prefix) as entries:
                names += [prefix, *(prefix + e.name for e in entries if not _is_folder(e))]
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            where = prefix or "the checkpoint folder"
            raise CheckpointError(f"{where} cannot be listed: {error.strerror}") from None
    return tuple(sorted(name for name in names if name))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a loop; opening it gives the error that names it
        return False


def files_to_load(names: Collection[str], parts: Parts) -> Files:
    """What diffusers would load, given the names in the folder or the repository.

    Args:
        names: As from `list_names`.
        parts: What model_index.json names.

    Raises:
        CheckpointError: A configuration, weights or a vocabulary are missing, weights exist only
            as pickles or variants, are ambiguous, or lie beside Python code or an adapter.
    """
    may_be_flat = parts.family.kind == "unconditional"
    prefixes = {
        part: "" if may_be_flat and not any(n.startswith(f"{part}/") for n in names) else f"{part}/"
        for part in parts.classes
    }
    _refuse_code_and_adapters(names, tuple(prefixes.values()))
    remedy = describe(parts.family)
    return Files(
        parts=parts,
        of_part={
            part: _files_of(part, parts, prefix, names, remedy) for part, prefix in prefixes.items()
        },
    )


def _files_of(
    part: str, parts: Parts, prefix: str, names: Collection[str], remedy: str
) -> PartFiles:
    library = parts.family.components[part].library
    config, weights = "config.json", None
    vocabulary: tuple[str, ...] = ()
    if part == "scheduler":
        config = "scheduler_config.json"
    elif part.startswith("tokenizer"):
        config = "tokenizer_config.json"
        vocabulary = _vocabulary(parts.classes[part], prefix, names)
    else:
        weights = _weights(prefix, WEIGHTS_STEMS[library], names, remedy)
    if prefix + config not in names:
        raise CheckpointError(f"{prefix}{config} is missing from the checkpoint; {remedy}")
    return PartFiles(
        part=part,
        library=library,
        class_name=parts.classes[part],
        prefix=prefix,
        config=prefix + config,
        weights=weights,
        is_sharded=weights is not None and weights.endswith(".index.json"),
        vocabulary=vocabulary,
    )


def _weights(prefix: str, stem: str, names: Collection[str], remedy: str) -> str:
    weights = f"{prefix}{stem}.safetensors"
    index = f"{weights}.index.json"
    if weights in names and index in names:
        raise CheckpointError(
            f"{weights} and {index} both exist, so which weights are loaded "
            "would be a guess; delete one"
        )
    if weights not in names and index not in names:
        raise CheckpointError(_why_no_weights(names, prefix, weights, remedy))
    return index if index in names else weights


def _vocabulary(class_name: str, prefix: str, names: Collection[str]) -> tuple[str, ...]:
    alternatives = VOCABULARY_FILES[class_name.removesuffix("Fast")]
    if not any(all(prefix + n in names for n in each) for each in alternatives):
        expected = " or ".join(" with ".join(each) for each in alternatives)
        raise CheckpointError(
            f"{prefix} holds no vocabulary; expected {expected}, as written by "
            "pipeline.save_pretrained(folder)"
        )
    return tuple(prefix + name for name in TOKENIZER_FILES if prefix + name in names)


def _refuse_code_and_adapters(names: Collection[str], prefixes: tuple[str, ...]) -> None:
    for name in sorted(names):
        parent = name[: name.rfind("/") + 1]
        if parent not in prefixes:
            continue
        if name.endswith(CODE_SUFFIXES):
            raise CheckpointError(
                f"{shown(name)} is code in a component folder; a checkpoint that brings its own "
                "code is refused (move the file elsewhere if it is only a training script)"
            )
        if parent and name == f"{parent}adapter_config.json":
            raise CheckpointError(
                f"{name} belongs to an adapter (LoRA), which names other weights to load; merge "
                "it into the weights and save the pipeline again"
            )


def _why_no_weights(names: Collection[str], prefix: str, weights: str, remedy: str) -> str:
    beside = sorted(n for n in names if n[: n.rfind("/") + 1] == prefix)
    variants = [n for n in beside if n.endswith(".safetensors")]
    if variants:
        return (
            f"{weights} is missing; found {shown(variants[0])}, a variant that is not "
            "loaded by default: save the checkpoint again without variant="
        )
    pickles = [n for n in beside if n.endswith(PICKLE_SUFFIXES)]
    if pickles:
        return (
            f"{shown(pickles[0])} is a pickle, which can run code when loaded, and there is no "
            f"{weights} beside it; convert it to safetensors "
            "(pipeline.save_pretrained(folder) in a sandbox), pickles are never loaded"
        )
    return f"{weights} is missing from the checkpoint; {remedy}"


def shard_names(index: dict[str, Any], files: PartFiles) -> dict[str, str]:
    """Tensor name -> shard file (relative to the checkpoint) of a weights index.

    Raises:
        CheckpointError: No map from tensor names to plain file names in the same folder.
    """
    weight_map = index.get("weight_map")
    where = files.weights
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{where}: weight_map does not map tensor names to files")
    if not isinstance(index.get("metadata"), dict):
        raise CheckpointError(f"{where}: metadata is missing; save the checkpoint again")
    for shard in weight_map.values():
        if not isinstance(shard, str) or not files.shard_name.fullmatch(shard):
            raise CheckpointError(
                f"{where}: shard {shown(shard)} is not a plain file name such as "
                f"{WEIGHTS_STEMS[files.library]}-00001-of-00002.safetensors in the same folder"
            )
    return {tensor: files.prefix + shard for tensor, shard in weight_map.items()}


def may_be_loaded(name: str, files: Files) -> bool:
    """Whether a file of the repository is one that diffusers would read; all others stay there."""
    return name in files.names() or any(
        part.is_sharded
        and name.startswith(part.prefix)
        and part.shard_name.fullmatch(name.removeprefix(part.prefix)) is not None
        for part in files.of_part.values()
    )


def describe_file(name: str) -> str:
    """Why a file cannot be scanned, as the end of a sentence that starts with its name."""
    if name.endswith(PICKLE_SUFFIXES):
        return (
            "is a pickle, which can run code when loaded, and single-file checkpoints are not "
            f"supported; {WHAT_IS_SUPPORTED}"
        )
    return f"is a file; {WHAT_IS_SUPPORTED}"


def describe_without_index(names: Collection[str]) -> str:
    """What a folder without model_index.json seems to be, and what is supported."""
    top = sorted(name for name in names if "/" not in name)
    if "config.json" in top:
        what = "this is a single model (config.json), not a whole pipeline; save the pipeline"
    elif any(name.endswith((".safetensors", *PICKLE_SUFFIXES)) for name in top):
        first = next(n for n in top if n.endswith((".safetensors", *PICKLE_SUFFIXES)))
        what = f"this holds the single file {shown(first)}; give that file instead of its folder"
    elif not names:
        what = "the folder is empty"
    else:
        what = "this is not a diffusers pipeline"
    return f"{what}; {WHAT_IS_SUPPORTED}"
