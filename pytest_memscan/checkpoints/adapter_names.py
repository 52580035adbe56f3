"""Which files of a folder or a repository are a LoRA, judged by their names alone."""

from __future__ import annotations

from collections.abc import Collection

from pytest_memscan.checkpoints.adapter_keys import PARTS
from pytest_memscan.checkpoints.families import MODEL_INDEX
from pytest_memscan.checkpoints.files import shown
from pytest_memscan.errors import CheckpointError

DIFFUSERS_WEIGHTS = "pytorch_lora_weights.safetensors"
PEFT_WEIGHTS = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
PICKLES = ("pytorch_lora_weights.bin", "adapter_model.bin")
_PEFT_FOLDERS = ("", *(f"{part}/" for part in PARTS))


def adapter_names(names: Collection[str]) -> tuple[str, ...] | None:
    """The files of a repository that must be fetched to read the LoRA in it.

    Args:
        names: All files, POSIX.

    Returns:
        None where names say that this is no LoRA. A single .safetensors file under any other name
        than diffusers' is taken for one; only its header can tell (`find_adapter`).

    Raises:
        CheckpointError: An adapter whose weights are pickled or missing, or several candidates.
    """
    named = by_names(names)
    if named is not None:
        return named
    others = other_weights(names)
    if len(others) > 1:
        raise CheckpointError(several(others))
    return others or None


def by_names(names: Collection[str]) -> tuple[str, ...] | None:
    """The files of an adapter whose names say what it is; each file of peft after its config."""
    if MODEL_INDEX in names:
        return None
    peft = [folder for folder in _PEFT_FOLDERS if folder + PEFT_CONFIG in names]
    if DIFFUSERS_WEIGHTS in names:
        if peft:
            raise CheckpointError(several((DIFFUSERS_WEIGHTS, peft[0] + PEFT_CONFIG)))
        return (DIFFUSERS_WEIGHTS,)
    if not peft:
        pickle = next((name for name in PICKLES if name in names), None)
        if pickle is not None and not other_weights(names):
            raise CheckpointError(pickled(pickle))
        return None
    denoisers = [f for f in peft if not f.startswith("text_encoder")]
    if len(denoisers) > 1:
        raise CheckpointError(several([folder + PEFT_CONFIG for folder in denoisers]))
    found: list[str] = []
    for folder in peft:
        if folder + PEFT_WEIGHTS not in names:
            pickle = folder + PICKLES[1]
            raise CheckpointError(
                pickled(pickle)
                if pickle in names
                else f"{folder}{PEFT_WEIGHTS} is missing beside {folder}{PEFT_CONFIG}; fetch or "
                "save the adapter again"
            )
        found += [folder + PEFT_CONFIG, folder + PEFT_WEIGHTS]
    return tuple(found)


def other_weights(names: Collection[str]) -> tuple[str, ...]:
    """Files at the top that may be a LoRA: none beside the config.json of a whole model."""
    if MODEL_INDEX in names or "config.json" in names:
        return ()
    return tuple(sorted(n for n in names if n.endswith(".safetensors") and "/" not in n))


def several(names: Collection[str]) -> str:
    """Why none of several files is taken."""
    listed = ", ".join(shown(name) for name in list(names)[:3])
    return (
        f"{len(names)} files may be the adapter ({listed}), and which one is meant would be a "
        f"guess; give the file itself (of a Hub repository: download it first), or a folder where "
        f"it alone is called {DIFFUSERS_WEIGHTS}"
    )


def pickled(name: str) -> str:
    """Why a file is not opened."""
    return (
        f"{shown(name)} is a pickle, which can run code when loaded; save the adapter as "
        "safetensors (pickles are never loaded)"
    )
