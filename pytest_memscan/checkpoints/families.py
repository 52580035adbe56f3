"""Which checkpoints can be scanned: the one support table, as data.

Error messages and docs/checkpoints.md show it. No torch, no diffusers, no files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pytest_memscan.checkpoints.files import shown
from pytest_memscan.errors import CheckpointError

MODEL_INDEX = "model_index.json"

Kind = Literal["unconditional", "text-to-image"]
Guidance = Literal["classifier-free", "embedded", "none"]
Support = Literal["tested", "partly", "untested", "not applicable"]
Library = Literal["diffusers", "transformers"]

# Schedulers of diffusers that draw all their noise from the generators they are given: with one
# generator for each image, an image does not depend on what else is in its batch.
DIFFUSION_SCHEDULERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "PNDMScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "LMSDiscreteScheduler",
    "HeunDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "LCMScheduler",
)
FLOW_SCHEDULERS = ("FlowMatchEulerDiscreteScheduler",)
# They draw noise from the global generator, so that seeds would not decide what is generated.
GENERATOR_IGNORING_SCHEDULERS = ("DPMSolverSDEScheduler", "CosineDPMSolverMultistepScheduler")


@dataclass(frozen=True, kw_only=True)
class Component:
    """One part of a pipeline, and the library classes it may be."""

    library: Library
    classes: tuple[str, ...]
    is_optional: bool = False  # [null, null] in model_index.json is accepted


@dataclass(frozen=True, kw_only=True)
class Family:
    """What checkpoints of one pipeline class are made of, and what can be done with them."""

    name: str  # for people
    pipeline: str  # class named by model_index.json
    kind: Kind
    denoiser: Literal["unet", "transformer"]
    components: Mapping[str, Component]
    left_out: tuple[str, ...] = ()  # may be named by model_index.json; never loaded
    settings: tuple[str, ...] = ()  # of model_index.json that are no components
    guidance: Guidance
    images: Support
    detectors: Support
    note: str = ""


_SAFETY = ("safety_checker", "feature_extractor", "image_encoder")
_CLIP = Component(library="transformers", classes=("CLIPTextModel",))
_CLIP_PROJECTED = Component(library="transformers", classes=("CLIPTextModelWithProjection",))
_CLIP_TOKENIZER = Component(library="transformers", classes=("CLIPTokenizer", "CLIPTokenizerFast"))
_T5 = Component(library="transformers", classes=("T5EncoderModel",))
_T5_TOKENIZER = Component(library="transformers", classes=("T5Tokenizer", "T5TokenizerFast"))
_VAE = Component(library="diffusers", classes=("AutoencoderKL",))
_UNET = Component(library="diffusers", classes=("UNet2DConditionModel",))
_DIFFUSION = Component(library="diffusers", classes=DIFFUSION_SCHEDULERS)
_FLOW = Component(library="diffusers", classes=FLOW_SCHEDULERS)
_UNCONDITIONAL: Mapping[str, Component] = {
    "unet": Component(library="diffusers", classes=("UNet2DModel",)),
    "scheduler": Component(library="diffusers", classes=("DDPMScheduler", "DDIMScheduler")),
}


def _transformer(*classes: str) -> Component:
    return Component(library="diffusers", classes=classes)


def _optional(component: Component) -> Component:
    return Component(library=component.library, classes=component.classes, is_optional=True)


FAMILIES: tuple[Family, ...] = (
    Family(
        name="DDPM",
        pipeline="DDPMPipeline",
        kind="unconditional",
        denoiser="unet",
        components=_UNCONDITIONAL,
        guidance="none",
        images="tested",
        detectors="not applicable",
        note="pixel space, 1 or 3 channels, sampled with DDIM",
    ),
    Family(
        name="DDIM",
        pipeline="DDIMPipeline",
        kind="unconditional",
        denoiser="unet",
        components=_UNCONDITIONAL,
        guidance="none",
        images="tested",
        detectors="not applicable",
        note="pixel space, 1 or 3 channels",
    ),
    Family(
        name="Stable Diffusion 1.x, 2.x",
        pipeline="StableDiffusionPipeline",
        kind="text-to-image",
        denoiser="unet",
        components={
            "vae": _VAE,
            "text_encoder": _CLIP,
            "tokenizer": _CLIP_TOKENIZER,
            "unet": _UNET,
            "scheduler": _DIFFUSION,
        },
        left_out=_SAFETY,
        settings=("requires_safety_checker",),
        guidance="classifier-free",
        images="tested",
        detectors="tested",
        note="epsilon and v prediction",
    ),
    Family(
        name="Stable Diffusion XL",
        pipeline="StableDiffusionXLPipeline",
        kind="text-to-image",
        denoiser="unet",
        components={
            "vae": _VAE,
            "text_encoder": _CLIP,
            "text_encoder_2": _CLIP_PROJECTED,
            "tokenizer": _CLIP_TOKENIZER,
            "tokenizer_2": _CLIP_TOKENIZER,
            "unet": _UNET,
            "scheduler": _DIFFUSION,
        },
        left_out=("feature_extractor", "image_encoder"),
        settings=("force_zeros_for_empty_prompt", "add_watermarker"),
        guidance="classifier-free",
        images="tested",
        detectors="tested",
        note="the base model; the refiner needs an input image",
    ),
    Family(
        name="Stable Diffusion 3.x",
        pipeline="StableDiffusion3Pipeline",
        kind="text-to-image",
        denoiser="transformer",
        components={
            "vae": _VAE,
            "text_encoder": _CLIP_PROJECTED,
            "text_encoder_2": _CLIP_PROJECTED,
            "text_encoder_3": _optional(_T5),
            "tokenizer": _CLIP_TOKENIZER,
            "tokenizer_2": _CLIP_TOKENIZER,
            "tokenizer_3": _optional(_T5_TOKENIZER),
            "transformer": _transformer("SD3Transformer2DModel"),
            "scheduler": _FLOW,
        },
        left_out=("feature_extractor", "image_encoder"),
        guidance="classifier-free",
        images="tested",
        detectors="tested",
        note="flow prediction; with or without the T5 encoder",
    ),
    Family(
        name="Flux.1",
        pipeline="FluxPipeline",
        kind="text-to-image",
        denoiser="transformer",
        components={
            "vae": _VAE,
            "text_encoder": _CLIP,
            "text_encoder_2": _T5,
            "tokenizer": _CLIP_TOKENIZER,
            "tokenizer_2": _T5_TOKENIZER,
            "transformer": _transformer("FluxTransformer2DModel"),
            "scheduler": _FLOW,
        },
        left_out=("feature_extractor", "image_encoder"),
        guidance="embedded",
        images="tested",
        detectors="partly",
        note="flow prediction, distilled: dev takes the guidance scale as input, schnell none",
    ),
    Family(
        name="PixArt-Sigma",
        pipeline="PixArtSigmaPipeline",
        kind="text-to-image",
        denoiser="transformer",
        components={
            "vae": _VAE,
            "text_encoder": _T5,
            "tokenizer": _T5_TOKENIZER,
            "transformer": _transformer("PixArtTransformer2DModel", "Transformer2DModel"),
            "scheduler": _DIFFUSION,
        },
        guidance="classifier-free",
        images="tested",
        detectors="tested",
        note="epsilon prediction",
    ),
)

_BY_PIPELINE = {family.pipeline: family for family in FAMILIES}
COMPONENT_NAMES = tuple(dict.fromkeys(part for family in FAMILIES for part in family.components))

_NEEDS_IMAGE = re.compile(
    r"Img2Img|Inpaint|ImageVariation|Upscale|SuperResolution|Pix2Pix|ControlN[eE]t|Controlnet|"
    r"Control(?=Pipeline)|Adapter(?=Pipeline)|Depth2Img|Fill(?=Pipeline)|Redux|Kontext|(?<!Model)Edit|I2I|"
    r"PaintByExample|RePaint|CycleDiffusion|Marigold|Refiner|KarrasVe|ImageToImage"
)
_MAKES_VIDEO_OR_AUDIO = re.compile(
    r"Video|AnimateDiff|CogVideo|I2V|T2V|ToWorld|SkyReels|Wan(?=[A-Z0-9]|Pipeline)|LTX|Mochi|Latte|"
    r"Allegro|PIAPipeline|HunyuanSky|Audio|Music|Spectrogram|DanceDiffusion|AceStep"
)
_NEEDS_CLASS_LABEL = ("DiTPipeline",)


def family_of(index: Mapping[str, Any]) -> Family:
    """The family of a model_index.json, by the pipeline class that it names.

    Raises:
        CheckpointError: No class name, or a class that cannot be scanned: with the reason and the
            classes that can.
    """
    name = index.get("_class_name")
    if not isinstance(name, str):
        raise CheckpointError(
            f"{MODEL_INDEX} asks to run its own code or is damaged: _class_name is "
            f"{shown(name)}, not the name of a diffusers class"
        )
    if name not in _BY_PIPELINE:
        raise CheckpointError(f"{MODEL_INDEX}: {_why_unsupported(name)}; {supported_classes()}")
    return _BY_PIPELINE[name]


def _why_unsupported(name: str) -> str:
    which = f"pipeline class {shown(name)}"
    if _MAKES_VIDEO_OR_AUDIO.search(name):
        return f"{which} makes video or audio: neither text-to-image nor unconditional"
    if _NEEDS_IMAGE.search(name):
        return f"{which} needs an input image: neither text-to-image nor unconditional"
    if name in _NEEDS_CLASS_LABEL:
        return f"{which} needs a class label; class-conditional checkpoints are not supported"
    return f"{which} is not supported"


def supported_classes(kind: Kind | None = None) -> str:
    """The support table in one clause, for messages: the classes of one kind, or of both."""
    lists = [
        f"{each}: {' or '.join(f.pipeline for f in FAMILIES if f.kind == each)}"
        for each in ("unconditional", "text-to-image")
        if kind in (None, each)
    ]
    return f"supported are {'; '.join(lists)} (docs/checkpoints.md)"


def support_table() -> str:
    """The support table in Markdown, as docs/checkpoints.md shows it."""
    head = ("Family", "Pipeline class", "Kind", "Guidance", "Images", "Prompt detectors", "Notes")
    rows = [head, ("---",) * len(head)]
    for family in FAMILIES:
        pipeline = f"`{family.pipeline}`"
        support = (family.images, family.detectors)
        rows.append((family.name, pipeline, family.kind, family.guidance, *support, family.note))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def describe(family: Family) -> str:
    """What a checkpoint of this family holds, as the end of a message about a missing part."""
    needed = [name for name, part in family.components.items() if not part.is_optional]
    return (
        f"supported is a diffusers pipeline folder with {MODEL_INDEX}, "
        f"{', '.join(f'{name}/' for name in needed[:-1])} and {needed[-1]}/, "
        f"of class {family.pipeline}"
    )


WHAT_IS_SUPPORTED = (
    f"supported is a diffusers pipeline folder with {MODEL_INDEX}, of class "
    f"{', '.join(family.pipeline for family in FAMILIES[:-1])} or {FAMILIES[-1].pipeline}"
)
