"""A denoiser's arguments, sorted by what they depend on: the prompt, the row, or neither."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

LATENTS = ("sample", "hidden_states")
# One row for each image, made from its prompt.
_PROMPT_ROWS = {
    "encoder_hidden_states",
    "encoder_attention_mask",
    "pooled_projections",
    "text_embeds",
}
# One for the whole batch, by the prompt's length.
_PROMPT_SHARED = {"txt_ids"}
# One row for each image, whatever its prompt; a timestep may be one for all.
_ROWS = {
    *LATENTS,
    "timestep",
    "guidance",
    "timestep_cond",
    "time_ids",
    "resolution",
    "aspect_ratio",
}
# One for the whole batch, whatever its prompts.
_SHARED = {"img_ids"}
_NESTED = {"added_cond_kwargs"}


def named(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """All arguments of a call by their names."""
    return dict(signature.bind(*args, **kwargs).arguments)


def latents_in(call: Mapping[str, Any]) -> torch.Tensor:
    """Noisy latents, ``(batch, ...)``."""
    latents: torch.Tensor = next(call[name] for name in LATENTS if name in call)
    return latents


def with_empty_prompt(call: Mapping[str, Any], empty: Mapping[str, Any]) -> dict[str, Any]:
    """What to ask the base, about the same latents at the same time.

    Args:
        call: By name, with one row for each image.
        empty: Of a call of the base with one image and the empty prompt.

    Returns:
        `call` with everything that depends on the prompt taken from `empty`.

    Raises:
        ValueError: An argument that is not understood, or that only one of the two has.
    """
    rows = len(latents_in(call))
    return _with_empty_prompt(call, empty, rows)


def _with_empty_prompt(
    call: Mapping[str, Any], empty: Mapping[str, Any], rows: int
) -> dict[str, Any]:
    if unpaired := sorted(_given(call) ^ _given(empty)):
        raise ValueError(
            f"the denoisers of fine-tune and base are not called alike: only one of them is "
            f"given {', '.join(unpaired)}"
        )
    asked = dict(call)
    for name, value in call.items():
        if value is None:
            continue
        if name in _NESTED:
            asked[name] = _with_empty_prompt(value, empty[name], rows)
        elif name in _PROMPT_ROWS:
            asked[name] = _repeated(name, empty[name], rows)
        elif name in _PROMPT_SHARED:
            asked[name] = empty[name]
        elif name not in _ROWS | _SHARED and not _is_plain(value):
            raise ValueError(f"the denoiser's argument {name} is not understood")
    return asked


def stacked(call: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """One call for both: the rows of `call`, then those of `other`.

    Raises:
        ValueError: Rows that do not fit together, or something that is one for the whole batch
            and differs.
    """
    return _stacked(call, other, len(latents_in(call)))


def _stacked(call: Mapping[str, Any], other: Mapping[str, Any], rows: int) -> dict[str, Any]:
    both = dict(call)
    for name, value in call.items():
        if value is None:
            continue
        if name in _NESTED:
            both[name] = _stacked(value, other[name], rows)
        elif not torch.is_tensor(value):
            continue
        elif name in _PROMPT_ROWS | _ROWS and value.dim():
            both[name] = _joined(name, value, other[name], rows)
        elif value.shape != other[name].shape or not torch.equal(value, other[name]):
            raise ValueError(
                f"{name} of the prompt and of the empty prompt differ; both must fit in one batch"
            )
    return both


def _joined(name: str, value: torch.Tensor, other: torch.Tensor, rows: int) -> torch.Tensor:
    if value.shape != other.shape or len(value) != rows:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}, and {tuple(other.shape)} for the base; "
            f"expected the same, with {rows} rows"
        )
    return torch.cat([value, other])


def _repeated(name: str, value: torch.Tensor, rows: int) -> torch.Tensor:
    if len(value) != 1:
        raise ValueError(f"{name} of one empty prompt has {len(value)} rows; expected 1")
    return value.repeat(rows, *[1] * (value.dim() - 1))


def _given(call: Mapping[str, Any]) -> set[str]:
    """Names of the tensors, and of the dictionaries of tensors."""
    return {name for name, value in call.items() if value is not None and not _is_plain(value)}


def _is_plain(value: Any) -> bool:
    """Whether an argument is a setting, equal for all rows."""
    if isinstance(value, Mapping):
        return all(_is_plain(each) for each in value.values())
    if isinstance(value, list | tuple):
        return all(_is_plain(each) for each in value)
    return value is None or isinstance(value, bool | int | float | str)
