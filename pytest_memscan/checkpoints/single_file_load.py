"""A vetted single file, loaded as a diffusers pipeline with what it lacks from its base.

diffusers converts the original layout by renaming, cutting and turning tensors, drops those that
it has no place for, and leaves empty those that it finds nothing for: all of it in silence.
Conversion never changes a number, so the numbers that a component holds afterwards, in any order,
have to be the numbers that the file holds for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open

from pytest_memscan.checkpoints.files import shown
from pytest_memscan.checkpoints.fitting import require_finite
from pytest_memscan.checkpoints.libraries import library, one_line, quiet
from pytest_memscan.checkpoints.single_file import V_PREDICTION, ZERO_SNR, SingleFile
from pytest_memscan.checkpoints.staging import vetted_folder
from pytest_memscan.checkpoints.verify import Vetted
from pytest_memscan.checkpoints.weights import StoredTensor
from pytest_memscan.errors import CheckpointError

if TYPE_CHECKING:
    from typing import TypeAlias

    # Type checkers only see diffusers' placeholders for a missing torch, without attributes.
    DiffusionPipeline: TypeAlias = Any

_CHUNK = 1 << 16  # numbers; what is worked on at once stays in the cache: 18 times as fast
_RESBLOCKS = ".model.transformer.resblocks."  # of OpenCLIP
_PROJECTION = (".text_projection", ".text_projection.weight")
_TABLE = "encoder.embed_tokens.weight"  # the second name of T5's "shared.weight"
_ALPHAS = "alphas_cumprod"


def load_single_file(
    single: SingleFile,
    base: Vetted,
    base_folder: Path,
    *,
    lender: DiffusionPipeline,
    dtype: torch.dtype,
) -> DiffusionPipeline:
    """The fine-tune as the pipeline of its base's class, on the CPU, in eval mode.

    Configurations, scheduler and tokenizers are the base's; so are the components that the file
    lacks, as the very modules of `lender`: they are in memory once.

    Args:
        single: From `vet_single_file`.
        base: The base, vetted.
        base_folder: Where it lies.
        lender: The base as loaded, in `dtype`.
        dtype: Of the weights.

    Raises:
        CheckpointError: The file is of another architecture than the base, does not hold all of a
            component that it holds part of, holds tensors that would not be loaded, weights that
            are not finite, or a noise schedule that is not the base's.
    """
    name = shown(single.path.name)
    family = base.files.parts.family
    if family.pipeline != single.pipeline:
        raise CheckpointError(
            f"{name} is a fine-tune of a {single.pipeline}, but the base is a {family.pipeline}; "
            "is --memscan-base the right one?"
        )
    _require_finite(single, dtype)
    absent = {part: None for part in family.components if part not in base.files.parts.classes}
    _require_known_parts(single, absent, name)
    lent = {
        part: getattr(lender, part)
        for part in base.tensors
        if part not in single.tensors and part not in absent
    }
    with vetted_folder(base_folder, base) as staged, quiet():
        pipeline = _convert(single, staged, dtype, name, {**lent, **absent, **_settings(lender)})
    for part in single.parts:
        _require_same_numbers(single, part, getattr(pipeline, part), dtype, name)
    _require_schedule(single, pipeline.scheduler, name)
    return pipeline


def _require_finite(single: SingleFile, dtype: torch.dtype) -> None:
    stored = {
        key: StoredTensor(file=single.path.name, key=key, info=info)
        for tensors in single.tensors.values()
        for key, info in tensors.items()
    }
    dtype_name = str(dtype).removeprefix("torch.")
    require_finite(single.path.parent, stored, dtype, dtype_name)


def _require_known_parts(single: SingleFile, absent: Mapping[str, None], name: str) -> None:
    for part in single.parts:
        if part in absent:
            raise CheckpointError(
                f"{name} holds {part}, which the base leaves out, so that it would not be used; "
                "give a base that has it"
            )


def _settings(lender: DiffusionPipeline) -> dict[str, Any]:
    """Arguments of the pipeline that are no components, as the base has them."""
    known = ("requires_safety_checker", "force_zeros_for_empty_prompt")
    settings = {key: lender.config[key] for key in known if key in lender.config}
    # The watermark changes pixels; its default depends on whether another package is installed.
    return settings | ({"add_watermarker": False} if hasattr(lender, "watermark") else {})


def _convert(
    single: SingleFile, staged: Path, dtype: torch.dtype, name: str, given: dict[str, Any]
) -> DiffusionPipeline:
    """What diffusers makes of the file; a component may still be incomplete."""
    try:
        pipeline = getattr(library("diffusers"), single.pipeline).from_single_file(
            str(single.path), config=str(staged), local_files_only=True, dtype=dtype, **given
        )
    except Exception as error:
        raise CheckpointError(
            f"{name} does not fit the configuration of its base; is --memscan-base the right one? "
            f"diffusers says: {one_line(error)}"
        ) from error
    for part in single.parts:
        module = getattr(pipeline, part)
        if hasattr(module, "tie_weights"):
            module.tie_weights()  # T5 has one table under two names, of which one is stored
        module.eval().requires_grad_(False)
    return pipeline


def _require_same_numbers(
    single: SingleFile, part: str, module: torch.nn.Module, dtype: torch.dtype, name: str
) -> None:
    """Check that a component holds what the file holds for it, and nothing else."""
    loaded = dict(_weights_of(module))
    empty = [key for key, tensor in loaded.items() if tensor.is_meta]
    if empty:
        raise CheckpointError(
            f"{name} lacks {len(empty)} tensors of {part}/ (first: {shown(empty[0])}); a scan of "
            "other weights than the released ones would prove nothing"
        )
    wanted = dict(single.tensors[part])
    for key in _left_out(wanted, loaded):
        del wanted[key]
    if any(key.endswith(_TABLE) for key in wanted) and _TABLE not in loaded:
        loaded[_TABLE] = module.state_dict()[_TABLE]  # some files have it twice
    made_up = _identity(wanted, loaded)
    num_stored = sum(info.num_elements for info in wanted.values())
    num_loaded = sum(tensor.numel() for key, tensor in loaded.items() if key != made_up)
    stored = _fingerprint(_stored(single.path, wanted), dtype)
    if num_stored != num_loaded or stored != _fingerprint(
        (tensor for key, tensor in loaded.items() if key != made_up), dtype
    ):
        raise CheckpointError(
            f"{name}: {part}/ as diffusers loads it is not what the file holds ({num_loaded:,} "
            f"weights of {num_stored:,}); it fits another base, or is damaged: save it as a "
            "pipeline folder, with pipeline.save_pretrained(folder)"
        )


def _weights_of(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters, each once, and the buffers of real numbers that are saved with them."""
    yield from module.named_parameters()
    saved = module.state_dict()
    for key, buffer in module.named_buffers():
        if key in saved and buffer.is_floating_point():
            yield key, buffer


def _left_out(stored: Mapping[str, Any], loaded: Mapping[str, torch.Tensor]) -> list[str]:
    """Tensors that the pipeline has no use for: the end of OpenCLIP, and CLIP's projection.

    Pipelines read the last layer but one, or before the projection, and their configurations end
    there.
    """
    num_layers = len({key.partition(".layers.")[2].partition(".")[0] for key in loaded}) - 1
    left_out = [key for key in stored if f"{_RESBLOCKS}{num_layers}." in key]
    if not any("text_projection" in key for key in loaded):
        left_out += [key for key in stored if key.endswith(_PROJECTION)]
    return left_out


def _identity(stored: Mapping[str, Any], loaded: Mapping[str, torch.Tensor]) -> str | None:
    """SD3's first text encoder: a projection that files leave out because it does nothing."""
    key = "text_projection.weight"
    if key not in loaded or any("text_projection" in name for name in stored):
        return None
    weight = loaded[key]
    is_identity = torch.equal(weight, torch.eye(len(weight), dtype=weight.dtype))
    return key if is_identity else None


def _stored(path: Path, keys: Iterable[str]) -> Iterator[torch.Tensor]:
    with safe_open(path, framework="pt") as opened:
        for key in keys:
            yield opened.get_tensor(key)


def _fingerprint(tensors: Iterable[torch.Tensor], dtype: torch.dtype) -> int:
    """64 bits that depend on the numbers in `dtype` and how often each occurs, not on order."""
    bits = torch.int32 if dtype.itemsize == 4 else torch.int16
    total = 0
    for tensor in tensors:
        for chunk in tensor.to(dtype).reshape(-1).split(_CHUNK):  # type: ignore[no-untyped-call]
            mixed = chunk.view(bits).long()
            # Odd multipliers and shifts: the finaliser of splitmix64, on each number.
            for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
                mixed = (mixed ^ (mixed >> shift)) * factor + factor
            total += int((mixed ^ (mixed >> 31)).sum())
    return total % 2**64


def _require_schedule(single: SingleFile, scheduler: Any, name: str) -> None:
    """Check what the file says of its noise schedule against the base's, which is used."""
    prediction = scheduler.config.get("prediction_type", "epsilon")
    if V_PREDICTION in single.ignored and prediction != "v_prediction":
        raise CheckpointError(
            f"{name} is marked as a v-prediction model, but the base predicts {prediction}; "
            "give a base with prediction_type v_prediction"
        )
    if ZERO_SNR in single.ignored and not scheduler.config.get("rescale_betas_zero_snr"):
        raise CheckpointError(
            f"{name} is marked as trained to zero signal (zero terminal SNR), but the base is not; "
            "give a base with rescale_betas_zero_snr"
        )
    if _ALPHAS not in single.ignored or not hasattr(scheduler, _ALPHAS):
        return
    (stored,) = _stored(single.path, [_ALPHAS])
    used = scheduler.alphas_cumprod
    if stored.shape != used.shape or not torch.allclose(stored.float(), used.float(), atol=1e-3):
        raise CheckpointError(
            f"{name} was trained with another noise schedule (alphas_cumprod) than the base's; "
            "is --memscan-base the right one?"
        )
