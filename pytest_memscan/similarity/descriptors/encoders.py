"""Any image encoder that transformers can load safely, as a descriptor.

Which of its outputs is the descriptor is a fixed rule for each model type (`FAMILIES`; all others
take the mean over positions), part of the record, because another output of the same network
gives other similarities. Images are prepared by the model's own image processor in its PIL form.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pytest_memscan.errors import DescriptorError
from pytest_memscan.reports.text import escape
from pytest_memscan.similarity.descriptors.descriptor import Descriptor
from pytest_memscan.similarity.descriptors.encoder_files import (
    CONFIG,
    EncoderFiles,
    choose_files,
    file_hashes,
    joint_hash,
    names_in,
    read_config,
)
from pytest_memscan.similarity.descriptors.preprocess import as_rgb

CPU_BATCH_SIZE = 4
GPU_BATCH_SIZE = 64
PROBE_COPIES = 4  # and twice: whatever is drawn at random would have to come out the same 8 times


@dataclass(frozen=True, kw_only=True)
class Family:
    """How models of one type are loaded and read.

    Attributes:
        loader: Class in transformers.
        pooling: "projection": the image embedding that is compared with texts. "pooler": the
            trained pooled output. "class token": the first token after the last normalisation.
            "mean": the mean over all positions of the last hidden state.
        options: For the constructor.
    """

    loader: str
    pooling: str
    options: Mapping[str, object]


_WITHOUT_POOLER = {"add_pooling_layer": False}  # often untrained, and not used
_CLIP = Family(loader="CLIPVisionModelWithProjection", pooling="projection", options={})
_SIGLIP = Family(loader="SiglipVisionModel", pooling="pooler", options={})
_OTHERS = Family(loader="AutoModel", pooling="mean", options={})
FAMILIES: Mapping[str, Family] = {
    "clip": _CLIP,
    "clip_vision_model": Family(loader="CLIPVisionModel", pooling="pooler", options={}),
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
    "vit": Family(loader="AutoModel", pooling="class token", options=_WITHOUT_POOLER),
    "deit": Family(loader="AutoModel", pooling="class token", options=_WITHOUT_POOLER),
    "dinov2": Family(loader="AutoModel", pooling="class token", options={}),
    "dinov2_with_registers": Family(loader="AutoModel", pooling="class token", options={}),
}


class Encoder(torch.nn.Module):
    """``(batch, 3, height, width)`` -> ``(batch, dimension)``, pooled by one rule."""

    def __init__(self, model: torch.nn.Module, pooling: str) -> None:
        super().__init__()
        self.model = model
        self.pooling = pooling

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Descriptors, not normalised."""
        output = self.model(pixel_values=pixel_values)
        pooled: torch.Tensor
        if self.pooling == "projection":
            pooled = output.image_embeds
        elif self.pooling == "pooler":
            pooled = output.pooler_output
        elif self.pooling == "class token":
            pooled = output.last_hidden_state[:, 0]
        else:
            states = output.last_hidden_state
            # Maps are (batch, channels, height, width), tokens (batch, tokens, channels).
            pooled = states.mean(dim=(2, 3)) if states.ndim == 4 else states.mean(dim=1)
        return pooled


@dataclass(frozen=True, kw_only=True)
class ProcessorPreprocessing:
    """Images as a transformers image processor makes them ready."""

    processor: Any

    def __call__(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """``(batch, height, width, channels)`` uint8 -> ``(batch, 3, side, side)`` float32."""
        pictures = [Image.fromarray(image) for image in as_rgb(images)]
        with quiet():
            ready = self.processor(images=pictures, return_tensors="pt")
        if set(ready) != {"pixel_values"} or ready["pixel_values"].ndim != 4:
            raise ValueError("the image processor does not make one tensor of equal images")
        pixels: torch.Tensor = ready["pixel_values"].to(torch.float32)
        return pixels


def load_encoder(folder: Path, *, label: str, device: str = "cpu") -> Descriptor:
    """The descriptor that an encoder in a local folder or Hub snapshot makes.

    Args:
        folder: Holds ``config.json``, ``preprocessor_config.json`` and safetensors weights.
        label: As people name it.
        device: Where it runs.

    Raises:
        DescriptorError: It lacks files, needs code of its own, is no image encoder, lacks trained
            weights, or transformers cannot load or run it.
    """
    files = choose_files(names_in(folder, label=label), label=label)
    config = read_config(folder, label=label)
    family = _family(config, label)
    hashes = file_hashes(folder, files, label=label)
    with quiet():
        network = Encoder(_load_model(folder, family, label), family.pooling)
        preprocess = ProcessorPreprocessing(processor=load_processor(folder, label))
    network.to(device).eval().requires_grad_(False)
    return Descriptor(
        name=label,
        network=network,
        preprocess=preprocess,
        dimension=_dimension(network, preprocess, label=label, device=device),
        levels=None,
        record=_record(str(config["model_type"]), family, files, hashes),
        device=device,
        batch_size=CPU_BATCH_SIZE if device == "cpu" else GPU_BATCH_SIZE,
    )


def _record(
    model_type: str, family: Family, files: EncoderFiles, hashes: Mapping[str, str]
) -> dict[str, str]:
    """Equal for equal files, wherever they came from."""
    return {
        "descriptor": "encoder",
        "model_type": model_type,
        "pooling": family.pooling,
        "config_sha256": hashes[CONFIG],
        "preprocessing_sha256": hashes[files.processor],
        "weights_sha256": joint_hash({name: hashes[name] for name in files.weights}),
    }


def _family(config: Mapping[str, Any], label: str) -> Family:
    """How to load and read this model, if it is an image encoder that transformers knows."""
    from transformers import CONFIG_MAPPING, MODEL_MAPPING

    model_type = config["model_type"]
    if model_type not in CONFIG_MAPPING:
        why = (
            "needs code from its own repository, which is never run"
            if "auto_map" in config
            else "is of a type that the installed transformers does not know"
        )
        raise DescriptorError(f"{label} ({escape(model_type)}) {why}; use another image encoder")
    if model_type == "clip_vision_model" and "Projection" in str(config.get("architectures")):
        return _CLIP
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    try:
        model_class: Any = MODEL_MAPPING[CONFIG_MAPPING[model_type]]
        takes = model_class.main_input_name
    except (KeyError, AttributeError):  # no plain model of that type, or several
        takes = "something else"
    if takes != "pixel_values":
        raise DescriptorError(
            f"{label} is a {model_type} model, which takes {takes}, not an image encoder; use one "
            "such as facebook/dinov2-base or openai/clip-vit-base-patch32"
        )
    return _OTHERS


def _load_model(folder: Path, family: Family, label: str) -> torch.nn.Module:
    """The network with trained weights everywhere that the descriptor depends on."""
    import transformers

    loader: Any = getattr(transformers, family.loader)
    try:
        model, report = loader.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            attn_implementation="eager",  # the one that every model has
            output_loading_info=True,
            **family.options,
        )
    except Exception as error:
        raise DescriptorError(
            f"transformers cannot load {label} ({type(error).__name__}); its files are damaged or "
            "belong to another version or model"
        ) from None
    unset = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    if family.pooling != "pooler":
        unset = {key for key in unset if not key.startswith("pooler.")}
    if unset:
        raise DescriptorError(
            f"the weights of {label} lack {len(unset)} tensors of its network, such as "
            f"{escape(min(unset))}, or give them another shape; they are not the weights of this "
            "model"
        )
    network: torch.nn.Module = model
    return network


def load_processor(folder: Path, label: str) -> Any:
    """What makes images ready for the model of a folder, in its PIL form.

    Raises:
        DescriptorError: It cannot be loaded.
    """
    from transformers import AutoImageProcessor

    loader: Any = AutoImageProcessor
    try:
        return loader.from_pretrained(
            folder, backend="pil", local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        raise DescriptorError(
            f"the image processor of {label} cannot be loaded ({type(error).__name__}): its "
            "configuration is damaged, or it exists only for torchvision or as code of the model"
        ) from None


def _dimension(
    network: Encoder, preprocess: ProcessorPreprocessing, *, label: str, device: str
) -> int:
    """Length of a descriptor, from two runs on copies of one picture, which must all agree."""
    probe = np.random.default_rng(0).integers(0, 256, (1, 48, 64, 3), dtype=np.uint8)
    try:
        pixels = preprocess(np.repeat(probe, PROBE_COPIES, axis=0)).to(device)
        with torch.inference_mode():
            described = torch.cat([network(pixels), network(pixels)])
    except Exception as error:
        raise DescriptorError(
            f"{label} gives no descriptor of an image ({type(error).__name__}); use an image "
            "encoder such as facebook/dinov2-base"
        ) from None
    if described.ndim != 2 or not torch.isfinite(described).all():
        raise DescriptorError(f"{label} gives no descriptor of finite values of an image")
    if not torch.allclose(described, described[:1], rtol=1e-3, atol=1e-5):
        raise DescriptorError(
            f"{label} describes the same image differently each time (it hides parts at random); "
            "use another image encoder"
        )
    return int(described.shape[1])


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, reports or deprecations of transformers: what matters is checked here."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    verbosity, had_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bar:
            logging.enable_progress_bar()
