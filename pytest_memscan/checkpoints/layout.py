"""Which files diffusers would load from a checkpoint, and which checkpoints we support.

Works on names only, so that a Hub repository is judged before a byte is fetched. Two layouts
exist: ``unet/`` and ``scheduler/`` folders, and the older flat one with all files at the top.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_memscan.checkpoints.files import shown
from pytest_memscan.errors import CheckpointError

MODEL_INDEX = "model_index.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
WEIGHTS_INDEX = f"{WEIGHTS}.index.json"
SHARD_NAME = re.compile(r"diffusion_pytorch_model-[0-9]{5}-of-[0-9]{5}\.safetensors")
CONFIG_NAMES = {"unet": "config.json", "scheduler": "scheduler_config.json"}

SUPPORTED_PIPELINES = ("DDPMPipeline", "DDIMPipeline")  # unconditional, in pixel space
SUPPORTED_COMPONENTS = {
    "unet": ("UNet2DModel",),
    "scheduler": ("DDPMScheduler", "DDIMScheduler"),
}
WHAT_IS_SUPPORTED = (
    "supported is a diffusers pipeline folder with model_index.json, unet/ and scheduler/, "
    f"of class {' or '.join(SUPPORTED_PIPELINES)}"
)
# They draw noise from the global generator, so that seeds would not decide what is generated.
GENERATOR_IGNORING_SCHEDULERS = ("DPMSolverSDEScheduler", "CosineDPMSolverMultistepScheduler")
PICKLE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle")

_TEXT_TO_IMAGE = re.compile(
    r"StableDiffusion|Flux|PixArt|Sana|Kandinsky|IFPipeline|IFImg2Img|HunyuanDiT|Lumina|AuraFlow|"
    r"Kolors|Kwai|QwenImage|Wuerstchen|StableCascade|LatentConsistency|UniDiffuser|Chroma|CogView|"
    r"LDMTextToImage|VQDiffusion|Amused|Text2Image|TextToImage|ZImage"
)


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of a checkpoint that will be loaded, relative to its folder."""

    scheduler_config: str
    unet_config: str
    unet_prefix: str  # "unet/", or "" in the flat layout
    weights: str  # the safetensors file; if sharded, the JSON index that names the shards
    is_sharded: bool


def check_pipeline(index: dict[str, Any]) -> str:
    """The pipeline class of a model_index.json, if it and its components are supported.

    Raises:
        CheckpointError: Another class, or components that are not plain diffusers classes.
    """
    name = index.get("_class_name")
    if not isinstance(name, str):
        raise CheckpointError(
            f"{MODEL_INDEX} asks to run its own code or is damaged: _class_name is "
            f"{shown(name)}, not the name of a diffusers class"
        )
    if name not in SUPPORTED_PIPELINES:
        raise CheckpointError(_why_unsupported(name, index))
    components = {key: value for key, value in index.items() if not key.startswith("_")}
    for component, origin in components.items():
        _check_component(component, origin)
    for component in SUPPORTED_COMPONENTS:
        if component not in components:
            raise CheckpointError(f"{MODEL_INDEX} names no {component}; {WHAT_IS_SUPPORTED}")
    return name


def _why_unsupported(name: str, index: dict[str, Any]) -> str:
    reads_text = any(key.startswith(("text_encoder", "tokenizer")) for key in index)
    if reads_text or _TEXT_TO_IMAGE.search(name):
        return (
            f"{MODEL_INDEX}: {shown(name)} is a text-to-image checkpoint; the scan available "
            f"today (carlini, for unconditional {' and '.join(SUPPORTED_PIPELINES)}) cannot scan "
            "it, and text-to-image scans are still to come"
        )
    return f"{MODEL_INDEX}: pipeline class {shown(name)} is not supported; {WHAT_IS_SUPPORTED}"


def _check_component(component: str, origin: object) -> None:
    if component not in SUPPORTED_COMPONENTS:
        raise CheckpointError(
            f"{MODEL_INDEX}: component {shown(component)} does not belong to an unconditional "
            f"pipeline; {WHAT_IS_SUPPORTED}"
        )
    if not (isinstance(origin, list) and len(origin) == 2 and origin[0] == "diffusers"):
        raise CheckpointError(
            f"{MODEL_INDEX}: {component} is {shown(origin)}, not a diffusers class; "
            "a checkpoint that brings its own code is refused"
        )
    class_name, accepted = origin[1], SUPPORTED_COMPONENTS[component]
    if class_name in GENERATOR_IGNORING_SCHEDULERS:
        raise CheckpointError(
            f"{MODEL_INDEX}: {class_name} ignores the random generators it is given, so a scan "
            f"with it could not be repeated; save the checkpoint with {' or '.join(accepted)}"
        )
    if class_name not in accepted:
        raise CheckpointError(
            f"{MODEL_INDEX}: {component} class {shown(class_name)} is not supported; "
            f"supported: {', '.join(accepted)}"
        )


def list_names(folder: Path) -> tuple[str, ...]:
    """Files at the top of the folder and in its component folders, as POSIX names, sorted.

    A component folder is listed too ("unet/"): diffusers looks into it even if it is empty.

    Raises:
        CheckpointError: The folder cannot be listed.
    """
    names: list[str] = []
    for prefix in ("", *(f"{component}/" for component in SUPPORTED_COMPONENTS)):
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


def files_to_load(names: Collection[str]) -> Files:
    """What diffusers would load, given the names in the folder or the repository.

    Raises:
        CheckpointError: A configuration or the weights are missing, exist only as pickles or
            variants, are ambiguous, or lie beside Python code.
    """
    prefixes = {
        component: f"{component}/" if any(n.startswith(f"{component}/") for n in names) else ""
        for component in SUPPORTED_COMPONENTS
    }
    configs = {component: prefixes[component] + CONFIG_NAMES[component] for component in prefixes}
    unet = prefixes["unet"]
    _refuse_python_files(names, tuple(prefixes.values()))
    has_weights, has_index = unet + WEIGHTS in names, unet + WEIGHTS_INDEX in names
    if has_weights and has_index:
        raise CheckpointError(
            f"{unet}{WEIGHTS} and {unet}{WEIGHTS_INDEX} both exist, so which weights are loaded "
            "would be a guess; delete one"
        )
    if not (has_weights or has_index):
        raise CheckpointError(_why_no_weights(names, unet))
    for name in configs.values():
        if name not in names:
            raise CheckpointError(f"{name} is missing from the checkpoint; {WHAT_IS_SUPPORTED}")
    return Files(
        scheduler_config=configs["scheduler"],
        unet_config=configs["unet"],
        unet_prefix=unet,
        weights=unet + (WEIGHTS_INDEX if has_index else WEIGHTS),
        is_sharded=has_index,
    )


def _refuse_python_files(names: Collection[str], prefixes: tuple[str, ...]) -> None:
    for name in sorted(names):
        parent = name[: name.rfind("/") + 1]
        if parent in prefixes and name.endswith((".py", ".pyc", ".pyd", ".so")):
            raise CheckpointError(
                f"{shown(name)} is code in a component folder; a checkpoint that brings its own "
                "code is refused (move the file elsewhere if it is only a training script)"
            )


def _why_no_weights(names: Collection[str], prefix: str) -> str:
    beside = sorted(n for n in names if n[: n.rfind("/") + 1] == prefix)
    variants = [n for n in beside if n.endswith(".safetensors")]
    if variants:
        return (
            f"{prefix}{WEIGHTS} is missing; found {shown(variants[0])}, a variant that is not "
            "loaded by default: save the checkpoint again without variant="
        )
    pickles = [n for n in beside if n.endswith(PICKLE_SUFFIXES)]
    if pickles:
        return (
            f"{shown(pickles[0])} is a pickle, which can run code when loaded, and there is no "
            f"{prefix}{WEIGHTS} beside it; convert it to safetensors "
            "(pipeline.save_pretrained(folder) in a sandbox), pickles are never loaded"
        )
    return f"{prefix}{WEIGHTS} is missing from the checkpoint; {WHAT_IS_SUPPORTED}"


def shard_names(index: dict[str, Any], files: Files) -> dict[str, str]:
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
        if not isinstance(shard, str) or not SHARD_NAME.fullmatch(shard):
            raise CheckpointError(
                f"{where}: shard {shown(shard)} is not a plain file name such as "
                "diffusion_pytorch_model-00001-of-00002.safetensors in the same folder"
            )
    return {tensor: files.unet_prefix + shard for tensor, shard in weight_map.items()}


def may_be_loaded(name: str, files: Files) -> bool:
    """Whether a file of the repository is one that diffusers would read; all others stay there."""
    if name in (MODEL_INDEX, files.scheduler_config, files.unet_config, files.weights):
        return True
    is_in_unet = name.startswith(files.unet_prefix)
    is_shard = SHARD_NAME.fullmatch(name.removeprefix(files.unet_prefix)) is not None
    return files.is_sharded and is_in_unet and is_shard


def describe_file(name: str) -> str:
    """Why a file cannot be scanned, as the end of a sentence that starts with its name."""
    if name.endswith(".safetensors"):
        return (
            "is a single .safetensors file; single-file checkpoints are not supported yet, "
            f"{WHAT_IS_SUPPORTED}"
        )
    if name.endswith(PICKLE_SUFFIXES):
        return (
            "is a pickle, which can run code when loaded, and single-file checkpoints are not "
            f"supported; {WHAT_IS_SUPPORTED}"
        )
    return f"is a file; {WHAT_IS_SUPPORTED}"


def describe_without_index(names: Collection[str]) -> str:
    """What a folder without model_index.json seems to be, and what is supported."""
    top = sorted(name for name in names if "/" not in name)
    if {"adapter_config.json", "pytorch_lora_weights.safetensors"} & set(top):
        what = "this is a LoRA, which cannot be scanned yet"
    elif "config.json" in top:
        what = "this is a single model (config.json), not a whole pipeline; save the pipeline"
    elif any(name.endswith((".safetensors", *PICKLE_SUFFIXES)) for name in top):
        first = next(n for n in top if n.endswith((".safetensors", *PICKLE_SUFFIXES)))
        what = f"this holds the single file {shown(first)}, which cannot be scanned yet"
    elif not names:
        what = "the folder is empty"
    else:
        what = "this is not a diffusers pipeline"
    return f"{what}; {WHAT_IS_SUPPORTED}"
