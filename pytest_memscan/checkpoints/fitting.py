"""Whether the weights of a component are the ones that its configuration describes, all finite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open

from pytest_memscan.checkpoints import layout
from pytest_memscan.checkpoints.files import shown
from pytest_memscan.checkpoints.libraries import library, one_line
from pytest_memscan.checkpoints.weights import StoredTensor
from pytest_memscan.errors import CheckpointError

if TYPE_CHECKING:
    from typing import Any

# Attention layers were renamed in diffusers 0.15; it still reads the old names of unsharded files.
_OLD_ATTENTION_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
# transformers 5 dropped this prefix from CLIPTextModel; released files have it.
_OLD_TEXT_PREFIX = "text_model."


@dataclass(frozen=True, kw_only=True)
class Description:
    """The tensors that a configuration describes."""

    shapes: Mapping[str, tuple[int, ...]]
    tied: Mapping[str, str]  # names of one and the same tensor; one of them is enough


def require_fit(
    config: dict[str, Any], tensors: dict[str, StoredTensor], files: layout.PartFiles
) -> dict[str, StoredTensor]:
    """The tensors under the names that the library gives them today, exactly those described.

    Raises:
        CheckpointError: The configuration describes no such class, or tensors are missing,
            unexpected or mis-shaped. diffusers would only warn, and fill them with noise.
    """
    described = _describe(config, files)
    expected = described.shapes
    found = {_current_name(key, tensors, expected, files): tensors[key] for key in tensors}
    missing = [
        key
        for key in expected
        if key not in found and not any(other in found for other in _others(key, described.tied))
    ]
    unexpected = [key for key in found if key not in expected]
    mis_shaped = [
        key for key in expected if key in found and found[key].info.shape != expected[key]
    ]
    problems = []
    if missing:
        problems.append(f"{len(missing)} missing (first: {missing[0]})")
    if unexpected:
        problems.append(f"{len(unexpected)} unexpected (first: {shown(unexpected[0])})")
    if mis_shaped:
        first = mis_shaped[0]
        problems.append(
            f"{len(mis_shaped)} mis-shaped (first: {first} is {list(found[first].info.shape)}, "
            f"expected {list(expected[first])})"
        )
    if problems:
        raise CheckpointError(
            f"{files.weights} does not fit {files.config}, tensors: {', '.join(problems)}; "
            "a scan of other weights than the released ones would prove nothing"
        )
    return found


def _describe(config: dict[str, Any], files: layout.PartFiles) -> Description:
    """What the configuration describes.

    Built on the meta device: a configuration that asks for 64 GiB costs no memory here.
    """
    try:
        wanted = getattr(library(files.library), files.class_name)
        with torch.device("meta"):
            if files.library == "diffusers":
                model = wanted.from_config(config)
            else:
                model = wanted(wanted.config_class.from_dict(config))
    except Exception as error:
        raise CheckpointError(
            f"{files.config} describes no {files.class_name}: {one_line(error)}"
        ) from error
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    return Description(shapes=shapes, tied=getattr(model, "all_tied_weights_keys", {}))


def _others(key: str, tied: Mapping[str, str]) -> list[str]:
    """Other names of the same tensor."""
    return [tied[key]] if key in tied else [name for name, source in tied.items() if source == key]


def _current_name(
    key: str,
    tensors: Mapping[str, StoredTensor],
    expected: Mapping[str, tuple[int, ...]],
    files: layout.PartFiles,
) -> str:
    """The name under which the library loads this tensor today."""
    if files.library == "transformers":
        renamed = key.removeprefix(_OLD_TEXT_PREFIX) if key not in expected else key
    else:
        module, _, parameter = key.rpartition(".")
        parent, _, layer = module.rpartition(".")
        if layer not in _OLD_ATTENTION_NAMES or files.is_sharded:
            return key
        renamed = f"{parent}.{_OLD_ATTENTION_NAMES[layer]}.{parameter}"
    return renamed if renamed in expected and renamed not in tensors else key


def require_finite(
    folder: Path, tensors: dict[str, StoredTensor], dtype: torch.dtype, dtype_name: str
) -> None:
    """Check that every weight is a finite number, as stored and in the dtype it will be used in.

    Raises:
        CheckpointError: Some are not.
    """
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


def require_loaded(
    folder: Path, model: torch.nn.Module, tensors: Mapping[str, StoredTensor], name: str
) -> None:
    """Check that a text encoder holds the stored weights, in its own dtype.

    transformers renames tensors while it loads and fills what it cannot place with noise.

    Args:
        folder: Checkpoint.
        model: As loaded, on the CPU.
        tensors: Of this component, from `require_fit`.
        name: Component, for the message.

    Raises:
        CheckpointError: Some weights are others.
    """
    loaded = model.state_dict()
    for file in sorted({tensor.file for tensor in tensors.values()}):
        with safe_open(folder / file, framework="pt") as opened:
            for key, tensor in tensors.items():
                if tensor.file != file:
                    continue
                weights = opened.get_tensor(tensor.key).to(loaded[key].dtype)
                if not torch.equal(loaded[key], weights):
                    raise CheckpointError(
                        f"{name}: transformers did not load {shown(key)} as it is stored; save "
                        "the checkpoint again with pipeline.save_pretrained(folder)"
                    )
