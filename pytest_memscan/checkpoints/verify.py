"""Static vetting of a checkpoint: every file that will be loaded, before anything loads it.

Reads bytes only; imports neither torch nor diffusers, so nothing in the files can run.
"""

from __future__ import annotations

from pathlib import Path

from pytest_memscan.checkpoints import configs, layout
from pytest_memscan.checkpoints.files import open_regular, read_json
from pytest_memscan.checkpoints.weights import read_tensors
from pytest_memscan.hub.snapshot import sha256
from pytest_memscan.results import Integrity


def verify(folder: Path) -> Integrity:
    """What was found in the files that will be loaded, all of it well-formed and supported.

    Args:
        folder: Checkpoint folder, local or a snapshot in the Hub cache.

    Raises:
        CheckpointError: Something is missing, malformed, not supported or asks to run code. One
            line that names the file relative to `folder`.
    """
    index = read_json(folder, layout.MODEL_INDEX)
    configs.refuse_code(index, layout.MODEL_INDEX)
    pipeline = layout.check_pipeline(index)
    files = layout.files_to_load(layout.list_names(folder))
    scheduler_config = read_json(folder, files.scheduler_config)
    configs.check_scheduler_config(scheduler_config, files.scheduler_config)
    unet_config = read_json(folder, files.unet_config)
    configs.check_unet_config(unet_config, files.unet_config)
    tensors = read_tensors(folder, files)

    loaded = {layout.MODEL_INDEX, files.scheduler_config, files.unet_config, files.weights}
    loaded |= {tensor.file for tensor in tensors.values()}
    return Integrity(
        pipeline=pipeline,
        files={name: _hash(folder, name) for name in sorted(loaded)},
        num_tensors=len(tensors),
        num_parameters=sum(tensor.info.num_elements for tensor in tensors.values()),
    )


def _hash(folder: Path, name: str) -> str:
    with open_regular(folder, name) as file:
        return sha256(file)
