"""Static vetting of a checkpoint: every file that will be loaded, before anything loads it.

Reads bytes only; imports neither torch nor diffusers, so nothing in the files can run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_memscan.checkpoints import configs, layout, model_configs
from pytest_memscan.checkpoints.components import read_parts
from pytest_memscan.checkpoints.families import Family
from pytest_memscan.checkpoints.files import open_regular, read_json
from pytest_memscan.checkpoints.tokenizers import check_tokenizer
from pytest_memscan.checkpoints.weights import StoredTensor, read_tensors
from pytest_memscan.hub.snapshot import sha256
from pytest_memscan.results import Integrity


@dataclass(frozen=True, kw_only=True)
class Vetted:
    """What was read from a checkpoint, all of it well-formed and supported."""

    files: layout.Files
    configs: dict[str, dict[str, Any]]  # component -> its JSON; not of tokenizers
    tensors: dict[str, dict[str, StoredTensor]]  # component -> tensors; only those with weights

    def names(self) -> list[str]:
        """All files that will be loaded, shards too, sorted."""
        stored = {t.file for tensors in self.tensors.values() for t in tensors.values()}
        return sorted({*self.files.names(), *stored})


def verify(folder: Path) -> Integrity:
    """What was found in the files that will be loaded, all of it well-formed and supported.

    Args:
        folder: Checkpoint folder, local or a snapshot in the Hub cache.

    Raises:
        CheckpointError: Something is missing, malformed, not supported or asks to run code. One
            line that names the file relative to `folder`.
    """
    vetted = vet(folder)
    stored = [tensor for tensors in vetted.tensors.values() for tensor in tensors.values()]
    return Integrity(
        pipeline=vetted.files.parts.family.pipeline,
        files={name: _hash(folder, name) for name in vetted.names()},
        num_tensors=len(stored),
        num_parameters=sum(tensor.info.num_elements for tensor in stored),
    )


def vet(folder: Path) -> Vetted:
    """Read and check everything but the values of the weights.

    Raises:
        CheckpointError: As `verify`.
    """
    parts = read_parts(folder)
    files = layout.files_to_load(layout.list_names(folder), parts)
    found: dict[str, dict[str, Any]] = {}
    # The scheduler first: it is small, and most often what is not supported.
    for part in sorted(files.of_part, key=lambda part: part != "scheduler"):
        of_part = files.of_part[part]
        if part.startswith("tokenizer"):
            check_tokenizer(folder, of_part)
        else:
            is_sampled_as_saved = part == "scheduler" and parts.family.kind == "text-to-image"
            found[part] = read_json(
                folder,
                of_part.config,
                unbounded=model_configs.UNBOUNDED if is_sampled_as_saved else frozenset(),
            )
            _check_config(found[part], parts.family, part, of_part.config)
    if parts.family.kind == "text-to-image":
        denoiser = parts.family.denoiser
        name = files.of_part[denoiser].config
        model_configs.check_channels(found[denoiser], found["vae"], parts.family, name)
    tensors = {
        part: read_tensors(folder, of_part)
        for part, of_part in files.of_part.items()
        if of_part.weights is not None
    }
    return Vetted(files=files, configs=found, tensors=tensors)


def _check_config(config: dict[str, Any], family: Family, part: str, name: str) -> None:
    if family.kind == "unconditional":
        if part == "scheduler":
            configs.check_scheduler_config(config, name)
        else:
            configs.check_unet_config(config, name)
    elif part == "scheduler":
        model_configs.check_sampling_config(config, family, name)
    else:
        model_configs.check_model_config(config, family, part, name)


def _hash(folder: Path, name: str) -> str:
    with open_regular(folder, name) as file:
        return sha256(file)
