"""What the tensors of a LoRA are called: diffusers, peft and kohya, new names and old.

Works on names only. A LoRA changes the weight of a layer by ``scale * up @ down``; every tensor of
a file must be the down, the up or the alpha of some layer, or the file is refused: an adapter that
is read in part would be another one than the one released.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from pytest_memscan.checkpoints.files import shown
from pytest_memscan.errors import CheckpointError

Role = Literal["down", "up", "alpha"]
Layout = Literal["diffusers", "peft", "kohya"]

PARTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
DENOISER = "denoiser"  # where a name does not tell whether it is a unet or a transformer

# diffusers/utils/state_dict_utils.py has all but kohya's (networks/lora.py of sd-scripts).
_SUFFIXES: dict[str, Role] = {
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".alpha": "alpha",
}
_OLD_ATTENTION = re.compile(
    r"(?P<block>.+)\.to_(?P<layer>q|k|v|out)_lora\.(?P<role>down|up)\.weight"
)
_OLD_DENOISER_LAYERS = {"q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0"}
_OLD_TEXT_LAYERS = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "out_proj"}
_PEFT_PREFIX = "base_model.model."

_KOHYA_PARTS = {
    "lora_unet_": DENOISER,
    "lora_transformer_": DENOISER,
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te3_": "text_encoder_3",
}
_UNET_BLOCK = re.compile(r"(down|up|mid|input|output|middle)[._]blocks?")

# What only names of other methods hold: adapters that are no plain LoRA.
_OTHER_METHODS = {
    "LoHa": re.compile(r"hada_"),
    "LoKr": re.compile(r"lokr_"),
    "LyCORIS with a third matrix": re.compile(r"lora_mid\."),
    "DoRA": re.compile(r"dora_scale|lora_magnitude_vector"),
    "IA3": re.compile(r"\.ia3_"),
    "OFT": re.compile(r"\.b?oft_"),
    "VeRA": re.compile(r"vera_lambda"),
    "LyCORIS with full differences": re.compile(r"\.diff(_b)?$"),
}
WHAT_IS_SUPPORTED = (
    "supported is plain LoRA: pairs of matrices in the layout of diffusers, peft or kohya, for the "
    "denoiser and the text encoders"
)


@dataclass(frozen=True, kw_only=True)
class Place:
    """What one tensor is."""

    part: str  # one of PARTS, or DENOISER
    module: str  # layer; in kohya's layout with underscores for dots
    role: Role


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The tensors of one layer, by their names in the file."""

    part: str  # one of PARTS
    module: str
    down: str
    up: str
    alpha: str | None = None


def looks_like_adapter(keys: Iterable[str]) -> bool:
    """Whether these are the tensor names of an adapter, supported or not, and of no whole model."""
    return any("lora" in key or "lycoris" in key or _other_method(key) for key in keys)


def _other_method(key: str) -> str | None:
    return next((method for method, mark in _OTHER_METHODS.items() if mark.search(key)), None)


def layout_of(keys: Collection[str], name: str) -> Layout:
    """The layout of a file that is no peft folder's.

    Args:
        keys: Tensor names.
        name: File, for messages.

    Raises:
        CheckpointError: Another method than LoRA (LoHa, LoKr, DoRA, ...).
    """
    for key in keys:
        method = _other_method(key)
        if method is not None:
            raise CheckpointError(
                f"{name} holds {shown(key)}, which belongs to {method}; {WHAT_IS_SUPPORTED}. "
                "Merge such an adapter into its base and scan the whole fine-tune"
            )
    return "kohya" if any(key.startswith(tuple(_KOHYA_PARTS)) for key in keys) else "diffusers"


def place_of(key: str, *, part: str | None = None) -> Place | None:
    """What a tensor is, by its name in the layout of diffusers or peft.

    Args:
        key: As in the file, or as diffusers converted it.
        part: Part that the whole file belongs to; default: the name says it.

    Returns:
        None for a name of no LoRA layer.
    """
    rest = key.removeprefix(_PEFT_PREFIX)
    head, _, tail = rest.partition(".")
    if part is None:
        part, rest = (head, tail) if head in PARTS else (DENOISER, rest)
    rest = rest.replace(".processor.", ".")
    old = _OLD_ATTENTION.fullmatch(rest)
    if old is not None:
        layers = _OLD_TEXT_LAYERS if part.startswith("text_encoder") else _OLD_DENOISER_LAYERS
        module = f"{old['block']}.{layers[old['layer']]}"
        return Place(part=part, module=module, role="down" if old["role"] == "down" else "up")
    for suffix, role in _SUFFIXES.items():
        if rest.endswith(suffix) and rest != suffix:
            return Place(part=part, module=rest.removesuffix(suffix), role=role)
    return None


def _kohya_place(key: str) -> Place | None:
    for prefix, part in _KOHYA_PARTS.items():
        if not key.startswith(prefix):
            continue
        flat, _, suffix = key.partition(".")
        role = _SUFFIXES.get(f".{suffix}")
        return None if role is None else Place(part=part, module=flat, role=role)
    return None


def pairs_of(
    keys: Iterable[str], *, layout: Layout, name: str, part: str | None = None
) -> tuple[Pair, ...]:
    """The layers that a file changes, in the order of their names.

    Args:
        keys: Tensor names.
        layout: Of the file.
        name: File, for messages.
        part: Part that the whole file belongs to; default: names say it.

    Raises:
        CheckpointError: A name that is none of a LoRA layer, two tensors for one place, or a layer
            with one of its two matrices missing.
    """
    found: dict[tuple[str, str], dict[Role, str]] = {}
    for key in sorted(keys):
        place = _kohya_place(key) if layout == "kohya" else place_of(key, part=part)
        if place is None:
            raise CheckpointError(
                f"{name}: tensor {shown(key)} is no part of a LoRA layer in the {layout} layout, "
                f"so it would be left out of the scan; {WHAT_IS_SUPPORTED}"
            )
        of_layer = found.setdefault((place.part, place.module), {})
        if place.role in of_layer:
            raise CheckpointError(
                f"{name}: tensors {shown(of_layer[place.role])} and {shown(key)} are both the "
                f"{place.role} matrix of one layer; remove one"
            )
        of_layer[place.role] = key
    for of_layer in found.values():
        if not {"down", "up"} <= set(of_layer):
            raise CheckpointError(
                f"{name}: tensor {shown(next(iter(of_layer.values())))} has no partner: a LoRA "
                "layer is a down and an up matrix; fetch or save the adapter again"
            )
    denoiser = _denoiser(module for part, module in found if part == DENOISER)
    return tuple(
        Pair(
            part=denoiser if p == DENOISER else p,
            module=m,
            down=each["down"],
            up=each["up"],
            alpha=each.get("alpha"),
        )
        for (p, m), each in found.items()
    )


def _denoiser(modules: Iterable[str]) -> str:
    """What pipelines call the denoiser that has these layers."""
    return "unet" if any(_UNET_BLOCK.search(module) for module in modules) else "transformer"


def parts_of(pairs: Iterable[Pair]) -> tuple[str, ...]:
    """The parts of a pipeline that are changed, denoiser first."""
    found = {pair.part for pair in pairs}
    return tuple(part for part in PARTS if part in found)
