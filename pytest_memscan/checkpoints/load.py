"""A vetted checkpoint, loaded: the only module of this room that imports torch and diffusers.

Imported lazily; configuration and collection never come here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open

from pytest_memscan.checkpoints import configs, layout
from pytest_memscan.checkpoints.files import read_json, shown
from pytest_memscan.checkpoints.resolve import ResolvedCheckpoint
from pytest_memscan.checkpoints.weights import StoredTensor, read_tensors
from pytest_memscan.errors import CheckpointError, OptionError

if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any, TypeAlias

    # Type checkers only see diffusers' placeholders for a missing torch, without attributes.
    DDIMPipeline: TypeAlias = Any
    DDIMScheduler: TypeAlias = Any
    DDPMScheduler: TypeAlias = Any
    DiffusionPipeline: TypeAlias = Any

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# Attention layers were renamed in diffusers 0.15; it still reads the old names of unsharded files.
_OLD_ATTENTION_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


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
    weight_dtype = _resolve_dtype(dtype)
    folder = checkpoint.folder
    files = layout.files_to_load(layout.list_names(folder))
    layout.check_pipeline(read_json(folder, layout.MODEL_INDEX))
    configs.check_scheduler_config(
        read_json(folder, files.scheduler_config), files.scheduler_config
    )
    unet_config = read_json(folder, files.unet_config)
    configs.check_unet_config(unet_config, files.unet_config)

    tensors = read_tensors(folder, files)
    _compare_tensors(tensors, _expected_shapes(unet_config, files.unet_config), files)
    _require_finite(folder, tensors, weight_dtype, dtype)
    return _as_ddim(_load(folder, weight_dtype), files.scheduler_config, target)


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


def _resolve_dtype(dtype: str) -> torch.dtype:
    if dtype not in _DTYPES:
        raise OptionError(f"--memscan-dtype {shown(dtype)} is unknown; use {', '.join(_DTYPES)}")
    return _DTYPES[dtype]


def _diffusers() -> ModuleType:
    """The diffusers module, with its remote code switched off before it is first imported."""
    os.environ["DIFFUSERS_DISABLE_REMOTE_CODE"] = "1"  # read once, at import
    import diffusers

    return diffusers


def _expected_shapes(config: dict[str, Any], name: str) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape of the denoiser that the configuration describes.

    Built on the meta device: a configuration that asks for 64 GiB costs no memory here.
    """
    try:
        with torch.device("meta"):
            unet = _diffusers().UNet2DModel.from_config(config)
    except Exception as error:
        raise CheckpointError(f"{name} describes no UNet2DModel: {_one_line(error)}") from error
    return {key: tuple(tensor.shape) for key, tensor in unet.state_dict().items()}


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {shown(text, 300)}"


def _compare_tensors(
    tensors: dict[str, StoredTensor], expected: dict[str, tuple[int, ...]], files: layout.Files
) -> None:
    """The files hold exactly the tensors of the denoiser; diffusers would only warn."""
    found = {
        _current_name(key, tensors, expected, files): tensor.info.shape
        for key, tensor in tensors.items()
    }
    missing = [key for key in expected if key not in found]
    unexpected = [key for key in found if key not in expected]
    mis_shaped = [key for key in expected if key in found and found[key] != expected[key]]
    problems = []
    if missing:
        problems.append(f"{len(missing)} missing (first: {missing[0]})")
    if unexpected:
        problems.append(f"{len(unexpected)} unexpected (first: {shown(unexpected[0])})")
    if mis_shaped:
        first = mis_shaped[0]
        problems.append(
            f"{len(mis_shaped)} mis-shaped (first: {first} is {list(found[first])}, "
            f"expected {list(expected[first])})"
        )
    if problems:
        raise CheckpointError(
            f"{files.weights} does not fit {files.unet_config}, tensors: {', '.join(problems)}; "
            "a scan of other weights than the released ones would prove nothing"
        )


def _current_name(
    key: str,
    tensors: dict[str, StoredTensor],
    expected: dict[str, tuple[int, ...]],
    files: layout.Files,
) -> str:
    """The name under which diffusers loads this tensor today."""
    module, _, parameter = key.rpartition(".")
    parent, _, layer = module.rpartition(".")
    if layer not in _OLD_ATTENTION_NAMES or files.is_sharded:
        return key
    renamed = f"{parent}.{_OLD_ATTENTION_NAMES[layer]}.{parameter}"
    return renamed if renamed in expected and renamed not in tensors else key


def _require_finite(
    folder: Path, tensors: dict[str, StoredTensor], dtype: torch.dtype, dtype_name: str
) -> None:
    """Every weight is a finite number, as stored and in the dtype it will be used in."""
    for file in sorted({tensor.file for tensor in tensors.values()}):
        with safe_open(folder / file, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118 - a safe_open handle, not a dict
                weights = opened.get_tensor(key)
                where = f"{file}: {shown(key)}"
                damaged = "; the checkpoint is damaged or its training diverged"
                _require_finite_tensor(weights, where, damaged)
                too_narrow = f" in {dtype_name}; use --memscan-dtype float32"
                _require_finite_tensor(weights.to(dtype), where, too_narrow)


def _require_finite_tensor(weights: torch.Tensor, where: str, remedy: str) -> None:
    num_bad = int((~torch.isfinite(weights)).sum())
    if num_bad:
        share = 100 * num_bad / weights.numel()
        raise CheckpointError(f"{where} is {share:.3g}% non-finite (NaN or infinite){remedy}")


def _load(folder: Path, dtype: torch.dtype) -> DiffusionPipeline:
    """The pipeline, as its own class, from this folder and nowhere else."""
    diffusers = _diffusers()
    logging = diffusers.utils.logging
    had_progress_bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # for two components it only clutters the log
    try:
        pipeline: DiffusionPipeline = diffusers.DiffusionPipeline.from_pretrained(
            str(folder),
            use_safetensors=True,
            local_files_only=True,
            low_cpu_mem_usage=False,  # True needs accelerate, and warns without it
            dtype=dtype,
        )
    except Exception as error:
        raise CheckpointError(
            f"diffusers could not load the checkpoint: {_one_line(error)}"
        ) from error
    finally:
        if had_progress_bar:
            logging.enable_progress_bar()
    return pipeline


def _as_ddim(pipeline: DiffusionPipeline, scheduler_config: str, device: str) -> DDIMPipeline:
    diffusers = _diffusers()
    scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)
    _require_same_schedule(pipeline.scheduler, scheduler, scheduler_config)
    ddim: DDIMPipeline = diffusers.DDIMPipeline(unet=pipeline.unet, scheduler=scheduler)
    ddim = ddim.to(device)
    ddim.unet.eval()
    ddim.unet.requires_grad_(False)
    ddim.set_progress_bar_config(disable=True)
    return ddim


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
