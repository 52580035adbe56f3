"""A single .safetensors file with a whole fine-tune in the original layout; no torch.

The layout of the research code that diffusers' folders were converted from, and of most files that
people share: ``model.diffusion_model.*`` for the denoiser, with or without autoencoder and text
encoders. Files of SD3 and Flux may hold the bare transformer, without a prefix.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pytest_memscan.checkpoints import layout
from pytest_memscan.checkpoints.files import open_regular, shown
from pytest_memscan.checkpoints.header import TensorInfo, read_header
from pytest_memscan.errors import CheckpointError
from pytest_memscan.hub.snapshot import sha256

SUFFIX = ".safetensors"
PREFIX = "model.diffusion_model."  # of the denoiser
VAE_PREFIXES = ("first_stage_model.", "vae.")
V_PREDICTION, ZERO_SNR = "v_pred", "ztsnr"  # empty tensors with which some trainers mark it
_FLOAT_DTYPES = ("F32", "F16", "BF16", "F64")

# Pipeline class -> what only its denoisers have. In this order: XL is a UNet, too.
_MARKS = {
    "StableDiffusionXLPipeline": ("input_blocks.0.0.weight", "label_emb.0.0.weight"),
    "StableDiffusionPipeline": ("input_blocks.0.0.weight",),
    "StableDiffusion3Pipeline": ("joint_blocks.0.x_block.attn.qkv.weight",),
    "FluxPipeline": ("double_blocks.0.img_attn.qkv.weight",),
}
_BARE_ROOTS = {
    "StableDiffusion3Pipeline": (
        "joint_blocks", "x_embedder", "t_embedder", "y_embedder", "context_embedder", "final_layer",
        "pos_embed",
    ),
    "FluxPipeline": (
        "double_blocks", "single_blocks", "img_in", "txt_in", "time_in", "vector_in",
        "guidance_in", "final_layer",
    ),
}  # fmt: skip
_TEXT_PREFIXES = {
    "StableDiffusionPipeline": {"cond_stage_model.": "text_encoder"},
    "StableDiffusionXLPipeline": {
        "conditioner.embedders.0.": "text_encoder",
        "conditioner.embedders.1.": "text_encoder_2",
    },
    "StableDiffusion3Pipeline": {
        "text_encoders.clip_l.": "text_encoder",
        "text_encoders.clip_g.": "text_encoder_2",
        "text_encoders.t5xxl.": "text_encoder_3",
    },
    "FluxPipeline": {
        "text_encoders.clip_l.": "text_encoder",
        "text_encoders.t5xxl.": "text_encoder_2",
    },
}
# What no pipeline loads: averages kept by training, the noise schedule, positions 0, 1, 2, ...
_HARMLESS = re.compile(
    r"(first_stage_model\.)?model_ema\..*|.*\.(position_ids|logit_scale|attn_mask)|"
    r"(sqrt_(one_minus_|recip_|recipm1_)?)?alphas_cumprod(_prev)?|log_one_minus_alphas_cumprod|"
    r"betas|posterior_(variance|log_variance_clipped|mean_coef[12])|logvar|lvlb_weights|"
    r"scale_factor|global_step|denoiser\.sigmas|v_pred|ztsnr"
)
_LORA = re.compile(r"lora_|\.lora\.|(^|[._])(hada|lokr|oft|boft|glora)_|\.dora_scale$")
_COMPONENTS = {
    r"down_blocks\.|up_blocks\.|(single_)?transformer_blocks\.": "a denoiser in diffusers' layout",
    r"(en|de)coder\.(down_blocks|up_blocks|mid_block|down|up|mid)\b|first_stage_model\.": (
        "an autoencoder"
    ),
    r"(text_model\.)?(encoder\.layers|embeddings\.token_embedding|encoder\.block)\b": (
        "a text encoder"
    ),
    r"control_model\.|controlnet_": "a ControlNet",
    r"(emb_params|string_to_param|clip_[lg]$|<)": "an embedding (textual inversion)",
}
_EXPECTED = (
    f"expected is a whole fine-tune in the original layout ({PREFIX}...) of Stable Diffusion 1, 2, "
    "XL, 3 or Flux, or a diffusers pipeline folder"
)


@dataclass(frozen=True, kw_only=True)
class SingleFile:
    """A file that was vetted.

    Attributes:
        path: The file.
        sha256: Of the file, in hexadecimal digits.
        pipeline: Class of the diffusers pipeline that its denoiser is of.
        tensors: Component of that pipeline -> tensor name in the file -> shape and place; the
            denoiser is always there.
        ignored: Tensors that no pipeline loads.
    """

    path: Path = field(repr=False)
    sha256: str
    pipeline: str
    tensors: Mapping[str, Mapping[str, TensorInfo]]
    ignored: tuple[str, ...]

    @property
    def parts(self) -> tuple[str, ...]:
        """The components that it holds, as "unet" and "vae"."""
        return tuple(self.tensors)

    @property
    def files(self) -> dict[str, str]:
        """Name -> SHA-256."""
        return {self.path.name: self.sha256}

    @property
    def num_tensors(self) -> int:
        """Those that are loaded."""
        return sum(len(tensors) for tensors in self.tensors.values())

    @property
    def num_parameters(self) -> int:
        """Those that are loaded."""
        return sum(t.num_elements for tensors in self.tensors.values() for t in tensors.values())


def is_single_file(path: Path) -> bool:
    """Whether this is a safetensors file with a denoiser in the original layout; never raises."""
    if not path.name.lower().endswith(SUFFIX) or not os.path.isfile(path):
        return False
    try:
        check_single_file(path)
    except CheckpointError:
        return False
    return True


def check_single_file(path: Path) -> None:
    """Check the header only: milliseconds, whatever the size of the file.

    Raises:
        CheckpointError: As `vet_single_file`.
    """
    _sort(_header(path), shown(path.name))


def vet_single_file(path: Path) -> SingleFile:
    """Read and check everything but the values of the weights.

    Args:
        path: A ``.safetensors`` file.

    Raises:
        CheckpointError: Not such a file, malformed, quantised, tensors that belong to no
            component, or no fine-tune in the original layout: with what it looks like instead.
    """
    pipeline, tensors, ignored = _sort(_header(path), shown(path.name))
    with open_regular(path.parent, path.name) as file:
        digest = sha256(file)
    return SingleFile(path=path, sha256=digest, pipeline=pipeline, tensors=tensors, ignored=ignored)


def _header(path: Path) -> dict[str, TensorInfo]:
    name = shown(path.name)
    if not path.name.lower().endswith(SUFFIX):
        raise CheckpointError(f"{name} {layout.describe_file(path.name)}")
    with open_regular(path.parent, path.name) as file:
        return read_header(file, name)


def _sort(
    header: Mapping[str, TensorInfo], name: str
) -> tuple[str, dict[str, dict[str, TensorInfo]], tuple[str, ...]]:
    """Pipeline class, component -> its tensors, and what is loaded by nothing."""
    if any(_LORA.search(key) for key in header):
        raise CheckpointError(
            f"{name} is a LoRA or another adapter, not a whole fine-tune; give it as --memscan, "
            "with the model that it was trained on as --memscan-base"
        )
    pipeline = _pipeline_of(header)
    if pipeline is None:
        raise CheckpointError(f"{name} {_looks_like(header)}; {_EXPECTED}")
    tensors: dict[str, dict[str, TensorInfo]] = {_denoiser_part(pipeline): {}}
    ignored, unknown = [], []
    for key, info in header.items():
        part = _part_of(key, pipeline)
        if _HARMLESS.fullmatch(key):
            ignored.append(key)
        elif part is None:
            unknown.append(key)
        elif info.dtype not in _FLOAT_DTYPES:
            raise CheckpointError(
                f"{name}: tensor {shown(key)} has dtype {info.dtype}; quantised checkpoints are "
                "not supported, save it in float32, float16 or bfloat16"
            )
        else:
            tensors.setdefault(part, {})[key] = info
    if unknown:
        raise CheckpointError(
            f"{name}: {len(unknown)} tensors belong to no component of a {pipeline} "
            f"(first: {shown(unknown[0])}), so what the file does could not be reproduced"
        )
    _refuse_two_layouts(header, pipeline, name)
    return pipeline, tensors, tuple(ignored)


def _pipeline_of(keys: Collection[str]) -> str | None:
    for pipeline, marks in _MARKS.items():
        prefixes = (PREFIX, "") if pipeline in _BARE_ROOTS else (PREFIX,)
        if any(all(prefix + mark in keys for mark in marks) for prefix in prefixes):
            return pipeline
    return None


def _denoiser_part(pipeline: str) -> str:
    return "transformer" if pipeline in _BARE_ROOTS else "unet"


def _part_of(key: str, pipeline: str) -> str | None:
    """The component that a tensor belongs to, by its name."""
    if key.startswith(PREFIX) or key.partition(".")[0] in _BARE_ROOTS.get(pipeline, ()):
        return _denoiser_part(pipeline)
    if key.startswith(VAE_PREFIXES):
        return "vae"
    parts = _TEXT_PREFIXES[pipeline]
    return next((part for prefix, part in parts.items() if key.startswith(prefix)), None)


def _refuse_two_layouts(keys: Collection[str], pipeline: str, name: str) -> None:
    """Of two denoisers or autoencoders, diffusers would silently take one."""
    roots = {key.partition(".")[0] for key in keys}
    bare = [root for root in _BARE_ROOTS.get(pipeline, ()) if root in roots]
    autoencoders = [prefix for prefix in VAE_PREFIXES if prefix[:-1] in roots]
    for what, found in (
        ("denoisers", [PREFIX, *bare] if "model" in roots else []),
        ("autoencoders", autoencoders),
    ):
        if len(found) > 1:
            raise CheckpointError(
                f"{name} holds two {what}, {found[0]}* and {found[1]}*, so which one is loaded "
                "would be a guess; save it again with one"
            )


def _looks_like(keys: Collection[str]) -> str:
    """What a file without a denoiser in the original layout is, as the end of a sentence."""
    for pattern, what in _COMPONENTS.items():
        if any(re.match(pattern, key) for key in keys):
            return f"looks like {what}, not like a whole fine-tune"
    first = shown(next(iter(keys)))
    return f"is no fine-tune of a supported architecture (its first tensor is {first})"
