"""A vetted checkpoint, loaded as a diffusers pipeline on a device.

Imports torch and diffusers; configuration and collection never come here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pytest_memscan.checkpoints.families import Kind
from pytest_memscan.checkpoints.files import shown
from pytest_memscan.checkpoints.fitting import require_finite, require_fit, require_loaded
from pytest_memscan.checkpoints.libraries import library, one_line, quiet
from pytest_memscan.checkpoints.resolve import ResolvedCheckpoint
from pytest_memscan.checkpoints.staging import vetted_folder
from pytest_memscan.checkpoints.tokenizers import require_readable
from pytest_memscan.checkpoints.verify import Vetted, vet
from pytest_memscan.checkpoints.weights import StoredTensor
from pytest_memscan.errors import CheckpointError, OptionError

if TYPE_CHECKING:
    from typing import Any, TypeAlias

    # Type checkers only see diffusers' placeholders for a missing torch, without attributes.
    DDIMPipeline: TypeAlias = Any
    DDIMScheduler: TypeAlias = Any
    DDPMScheduler: TypeAlias = Any
    DiffusionPipeline: TypeAlias = Any

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def load_unconditional(checkpoint: ResolvedCheckpoint, *, device: str, dtype: str) -> DDIMPipeline:
    """The checkpoint as a stock ``DDIMPipeline``: eval mode, no gradients, no progress bar.

    The denoiser is loaded as saved; the scheduler becomes ``DDIMScheduler`` with the noise
    schedule that the checkpoint was trained with.

    Args:
        checkpoint: From `resolve`, vetted with `verify`.
        device: "auto", "cpu", "cuda" or "cuda:N".
        dtype: "float32", "float16" or "bfloat16".

    Raises:
        OptionError: Unknown dtype or device, or a GPU was asked for and there is none.
        CheckpointError: The files do not fit together: tensors missing, unexpected or mis-shaped,
            weights that are not finite, or a checkpoint that DDIM cannot sample.
    """
    target = resolve_device(device)
    weight_dtype = resolve_dtype(dtype)
    vetted = _vet(checkpoint, "unconditional")
    _require_sound_weights(checkpoint.folder, vetted, weight_dtype, dtype)
    pipeline = _load(checkpoint.folder, weight_dtype, low_cpu_mem_usage=False)
    return _as_ddim(pipeline, vetted.files.of_part["scheduler"].config, target)


def load_text_to_image(
    checkpoint: ResolvedCheckpoint, *, device: str, dtype: str
) -> DiffusionPipeline:
    """The checkpoint as the stock pipeline of its own class, with the scheduler as saved.

    Eval mode, no gradients, no progress bar. A safety checker is left out, as anyone who has the
    weights can do, and so are image encoders.

    Args:
        checkpoint: From `resolve`, vetted with `verify`.
        device: "auto", "cpu", "cuda" or "cuda:N".
        dtype: "float32", "float16" or "bfloat16".

    Raises:
        OptionError: Unknown dtype or device, or a GPU was asked for and there is none.
        CheckpointError: The files do not fit together: tensors missing, unexpected or mis-shaped,
            weights that are not finite, or a tokenizer with more tokens than its text encoder.
    """
    target = resolve_device(device)
    weight_dtype = resolve_dtype(dtype)
    folder, vetted = checkpoint.folder, _vet(checkpoint, "text-to-image")
    for of_part in vetted.files.of_part.values():
        require_readable(of_part)
    fitted = _require_sound_weights(folder, vetted, weight_dtype, dtype)
    # Without accelerate, diffusers would warn and do as if it were False.
    saves_memory = bool(library("diffusers").utils.is_accelerate_available())
    with vetted_folder(folder, vetted) as staged, quiet():
        pipeline = _load(staged, weight_dtype, low_cpu_mem_usage=saves_memory, **_left_out(vetted))
    for part, files in vetted.files.of_part.items():
        if part in fitted and files.library == "transformers":
            require_loaded(folder, getattr(pipeline, part), fitted[part], part)
    _require_tokenizers_fit(pipeline, vetted)
    with quiet():
        return ready(pipeline, target)


def resolve_device(device: str) -> str:
    """The torch device that `--memscan-device` stands for; "auto" prefers a GPU.

    Raises:
        OptionError: Unknown, or a GPU that is not there. Never falls back silently: a scan that
            was planned for a GPU may take days on a CPU.
    """
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return "cuda" if num_gpus else "cpu"
    if device == "cpu":
        return device
    kind, colon, ordinal = device.partition(":")
    if kind != "cuda" or (colon and not (ordinal.isascii() and ordinal.isdigit())):
        raise OptionError(
            f"--memscan-device {shown(device)} is unknown; use auto, cpu, cuda or cuda:N"
        )
    if not num_gpus:
        raise OptionError(
            f"--memscan-device {device}, but torch {torch.__version__} sees no CUDA GPU here; "
            "use --memscan-device cpu if that is on purpose"
        )
    if colon and int(ordinal) >= num_gpus:
        raise OptionError(
            f"--memscan-device {device}, but there are {num_gpus} GPUs, cuda:0 to "
            f"cuda:{num_gpus - 1}"
        )
    return device


def resolve_dtype(dtype: str) -> torch.dtype:
    """The torch dtype of a `--memscan-dtype`.

    Raises:
        OptionError: Unknown.
    """
    if dtype not in _DTYPES:
        raise OptionError(f"--memscan-dtype {shown(dtype)} is unknown; use {', '.join(_DTYPES)}")
    return _DTYPES[dtype]


def _vet(checkpoint: ResolvedCheckpoint, kind: Kind) -> Vetted:
    vetted = vet(checkpoint.folder)
    family = vetted.files.parts.family
    if family.kind != kind:
        raise CheckpointError(
            f"{checkpoint.label} is {family.kind} ({family.pipeline}), not {kind}"
        )
    return vetted


def _require_sound_weights(
    folder: Path, vetted: Vetted, dtype: torch.dtype, dtype_name: str
) -> dict[str, dict[str, StoredTensor]]:
    """Component -> its tensors under today's names, all of them expected and finite."""
    fitted = {
        part: require_fit(vetted.configs[part], tensors, vetted.files.of_part[part])
        for part, tensors in vetted.tensors.items()
    }
    for tensors in vetted.tensors.values():
        require_finite(folder, tensors, dtype, dtype_name)
    return fitted


def _left_out(vetted: Vetted) -> dict[str, Any]:
    """Arguments that keep diffusers from what was not vetted, and from saying so."""
    parts = vetted.files.parts
    absent = [part for part in parts.family.components if part not in parts.classes]
    arguments: dict[str, Any] = {**parts.settings, **{part: None for part in absent}}
    if "requires_safety_checker" in parts.family.settings:
        arguments["requires_safety_checker"] = False
    if "add_watermarker" in parts.family.settings:
        # The watermark changes pixels; its default depends on whether another package is installed.
        arguments["add_watermarker"] = False
    return arguments


def _load(
    folder: Path, dtype: torch.dtype, *, low_cpu_mem_usage: bool, **arguments: object
) -> DiffusionPipeline:
    """The pipeline, as its own class, from this folder and nowhere else."""
    diffusers = library("diffusers")
    logging = diffusers.utils.logging
    had_progress_bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # for two components it only clutters the log
    try:
        pipeline: DiffusionPipeline = diffusers.DiffusionPipeline.from_pretrained(
            str(folder),
            use_safetensors=True,
            local_files_only=True,
            low_cpu_mem_usage=low_cpu_mem_usage,  # True needs accelerate, and warns without it
            dtype=dtype,
            **arguments,
        )
    except Exception as error:
        raise CheckpointError(
            f"diffusers could not load the checkpoint: {one_line(error)}"
        ) from error
    finally:
        if had_progress_bar:
            logging.enable_progress_bar()
    return pipeline


def _require_tokenizers_fit(pipeline: DiffusionPipeline, vetted: Vetted) -> None:
    """No prompt gives a token, or a place of a token, that the text encoder has no row for."""
    for part in vetted.files.of_part:
        if not part.startswith("tokenizer"):
            continue
        encoder = part.replace("tokenizer", "text_encoder")
        tokenizer, config = getattr(pipeline, part), getattr(pipeline, encoder).config
        highest = max(tokenizer.get_vocab().values(), default=-1)
        if highest >= config.vocab_size:
            raise CheckpointError(
                f"{part}/ numbers its tokens up to {highest:,}, but {encoder}/ knows "
                f"{config.vocab_size:,}; they are of different checkpoints"
            )
        num_places = getattr(config, "max_position_embeddings", None)
        if num_places is not None and tokenizer.model_max_length > num_places:
            raise CheckpointError(
                f"{part}/tokenizer_config.json allows prompts of {tokenizer.model_max_length:.6g} "
                f"tokens, but {encoder}/ reads {num_places}; set model_max_length to {num_places}"
            )


def ready(pipeline: DiffusionPipeline, device: str) -> DiffusionPipeline:
    """The pipeline on its device: eval mode, no gradients, no progress bar."""
    pipeline = pipeline.to(device)
    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            component.eval()
            component.requires_grad_(False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _as_ddim(pipeline: DiffusionPipeline, scheduler_config: str, device: str) -> DDIMPipeline:
    diffusers = library("diffusers")
    scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)
    _require_same_schedule(pipeline.scheduler, scheduler, scheduler_config)
    return ready(diffusers.DDIMPipeline(unet=pipeline.unet, scheduler=scheduler), device)


def _require_same_schedule(
    original: DDPMScheduler | DDIMScheduler, ddim: DDIMScheduler, name: str
) -> None:
    """What both schedulers know by the same name has the same value after the conversion."""
    changed = [
        key
        for key, value in original.config.items()
        if not key.startswith("_") and key in ddim.config and ddim.config[key] != value
    ]
    if changed or not torch.equal(original.alphas_cumprod, ddim.alphas_cumprod):
        raise CheckpointError(
            f"{name}: DDIM sampling would change {', '.join(changed) or 'the noise schedule'}, "
            "so its images would not be this checkpoint's"
        )
