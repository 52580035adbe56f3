"""Descriptor networks with random weights, in the formats that published ones come in.

SSCD's network is written again here in the layout of Classy Vision. It follows
``sscd/models/model.py`` and Classy Vision's ``resnext.py`` as published, not our module: files made
from it stand in for the published ones, which no test may download.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pytest_memscan.metrics import similarity_levels
from pytest_memscan.similarity.descriptors.descriptor import Descriptor

# Stages, base width and cardinality, dimension; as in Classy Vision's registry.
RESNET50 = ([3, 4, 6, 3], None, 512)
RESNEXT101_32X4D = ([3, 4, 23, 3], (4, 32), 1024)


class Layer(nn.Module):
    def __init__(
        self, in_planes: int, out_planes: int, stride: int, mid: tuple[int, int] | None
    ) -> None:
        super().__init__()
        planes, cardinality = out_planes // 4, 1
        if mid is not None:
            planes, cardinality = mid[0] * mid[1], mid[1]
        self.convolutional_block = nn.Sequential(
            nn.Conv2d(in_planes, planes, 1, bias=False),
            nn.BatchNorm2d(planes),
            nn.ReLU(inplace=True),
            nn.Conv2d(planes, planes, 3, stride, padding=1, groups=cardinality, bias=False),
            nn.BatchNorm2d(planes),
            nn.ReLU(inplace=True),
            nn.Conv2d(planes, out_planes, 1, bias=False),
        )
        self.bn = nn.BatchNorm2d(out_planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or in_planes != out_planes:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_planes, out_planes, 1, stride, bias=False), nn.BatchNorm2d(out_planes)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = x if self.downsample is None else self.downsample(x)
        return self.relu(self.bn(self.convolutional_block(x)) + residual)


class InitialBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self._module = nn.Sequential(
            nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._module(x)


class Trunk(nn.Module):
    def __init__(self, num_blocks: list[int], base: tuple[int, int] | None) -> None:
        super().__init__()
        self._heads = nn.ModuleDict()
        self.initial_block = InitialBlock()
        stages = []
        in_planes = 64
        for stage, count in enumerate(num_blocks):
            mid = None if base is None else (base[0] * 2**stage, base[1])
            layers = OrderedDict()
            for block in range(count):
                stride = 2 if stage and not block else 1
                layers[f"block{stage}-{block}"] = Layer(in_planes, 256 * 2**stage, stride, mid)
                in_planes = 256 * 2**stage
            stages.append(nn.Sequential(layers))
        self.blocks = nn.Sequential(*stages)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.initial_block(x))


class GlobalGeMPool2d(nn.Module):
    def __init__(self, pooling_param: float) -> None:
        super().__init__()
        self.pooling_param = pooling_param

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.size()
        x = x.reshape(n, c, h * w)
        mean = x.clamp(min=1e-6).pow(self.pooling_param).mean(dim=2)
        return mean.pow(1.0 / self.pooling_param)


class L2Norm(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(x)


class Reference(nn.Module):
    """``Model("CV_...", dims, pool_param)`` of SSCD's code."""

    def __init__(
        self,
        num_blocks: list[int],
        base: tuple[int, int] | None,
        dims: int,
        *,
        pool_param: float = 3.0,
    ) -> None:
        super().__init__()
        self.backbone = Trunk(num_blocks, base)
        self.embeddings = nn.Sequential(
            GlobalGeMPool2d(pool_param), nn.Linear(2048, dims), L2Norm()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.embeddings(self.backbone(x))


def random_reference(
    num_blocks: list[int],
    base: tuple[int, int] | None,
    dims: int,
    *,
    seed: int = 0,
    pool_param: float = 3.0,
) -> Reference:
    """With weights and batch norm statistics that differ everywhere, so that no mix-up hides.

    The statistics are those of pictures, or the signal would drown on its way through.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Reference(num_blocks, base, dims, pool_param=pool_param)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.data.uniform_(0.7, 1.3)
                module.bias.data.uniform_(-0.2, 0.2)
                module.momentum = 1.0
        model.train()(coarse_pictures(8, seed=seed))
    return model.eval().requires_grad_(False)


def coarse_pictures(count: int, *, seed: int, side: int = 64) -> torch.Tensor:
    """``(count, 3, side, side)`` blurred noise of unit variance or so."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 6, 6, generator=generator) * 2
    return nn.functional.interpolate(coarse, size=side, mode="bilinear", align_corners=False)


def torchscript(model: nn.Module, *, how: str = "trace") -> bytes:
    """As ``torch.jit.save`` writes it."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        if how == "trace":
            made = torch.jit.trace(model, torch.rand(1, 3, 64, 64), check_trace=False)
        else:
            made = torch.jit.script(model)
        if how == "freeze":
            made = torch.jit.freeze(made)
        torch.jit.save(made, buffer)
    return buffer.getvalue()


def state_dict(model: nn.Module) -> bytes:
    """As ``torch.save`` writes a ``*.classy.pt`` file."""
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.getvalue()


def torchvision_state(model: Reference) -> dict[str, torch.Tensor]:
    """What a ``*.torchvision.pt`` file holds: the tensors by place, named as torchvision does."""
    stem = model.backbone.initial_block._module
    named = {"conv1": stem[0], "bn1": stem[1]}
    for stage, blocks in enumerate(model.backbone.blocks, start=1):
        for position, layer in enumerate(blocks):
            chain = layer.convolutional_block
            parts = dict(zip(("conv1", "bn1", "conv2", "bn2", "conv3"), chain[0:2], strict=False))
            parts |= {"conv2": chain[3], "bn2": chain[4], "conv3": chain[6], "bn3": layer.bn}
            if layer.downsample is not None:
                parts |= {"downsample.0": layer.downsample[0], "downsample.1": layer.downsample[1]}
            named |= {f"layer{stage}.{position}.{key}": part for key, part in parts.items()}
    named["fc"] = model.embeddings[1]
    return {
        f"backbone.{name}.{key}": tensor
        for name, module in named.items()
        for key, tensor in module.state_dict().items()
    }


def save_encoder(kind: str, folder: Path, *, seed: int = 0) -> nn.Module:
    """Write a tiny transformers model with random weights, and return it.

    Its folder holds configuration, safetensors weights and image processor.
    """
    import transformers

    vision = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    text = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2,
        "pad_token_id": 1, "projection_dim": 8,
    }  # fmt: skip
    pair = {"text_config": text, "vision_config": {**vision, "projection_dim": 8}}
    model_name, settings = {
        "dinov2": ("Dinov2Model", {**vision, "mlp_ratio": 2}),
        "registers": ("Dinov2WithRegistersModel", {**vision, "num_register_tokens": 3}),
        "vit": ("ViTModel", vision),
        "vit classifier": ("ViTForImageClassification", {**vision, "num_labels": 3}),
        "clip": ("CLIPModel", {**pair, "projection_dim": 8}),
        "clip vision": ("CLIPVisionModel", vision),
        "clip projection": ("CLIPVisionModelWithProjection", {**vision, "projection_dim": 8}),
        "siglip": ("SiglipModel", {**pair, "vision_config": vision}),
        "siglip vision": ("SiglipVisionModel", vision),
        "convnext": ("ConvNextModel", {"depths": [1, 1], "hidden_sizes": [8, 16], "num_stages": 2}),
        "swin": ("SwinModel", {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2],
                               "image_size": 28, "patch_size": 7, "window_size": 2}),
        "masked": ("ViTMAEModel", vision),
        "bert": ("BertModel", text),
    }[kind]  # fmt: skip
    model_class = getattr(transformers, model_name)
    with torch.random.fork_rng(devices=[]), silent_transformers():
        torch.manual_seed(seed)
        model = model_class(model_class.config_class(**settings)).eval()
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter), alpha=0.1)  # no zero biases
        model.save_pretrained(folder)
        encoder_processor(kind).save_pretrained(folder)
    return model


def encoder_processor(kind: str) -> Any:
    """The image processor that is saved with a model of this kind."""
    import transformers

    if kind in ("dinov2", "registers"):
        return transformers.BitImageProcessorPil(
            size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28}
        )
    if kind.startswith("clip"):
        return transformers.CLIPImageProcessorPil(
            size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
        )
    if kind.startswith("siglip"):
        return transformers.SiglipImageProcessorPil(size={"height": 28, "width": 28})
    return transformers.ViTImageProcessorPil(size={"height": 28, "width": 28})


@contextmanager
def silent_transformers() -> Iterator[None]:
    """Without progress bars and remarks about tiny configurations."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    yield
    logging.set_verbosity_warning()
    logging.enable_progress_bar()


@contextmanager
def file_server(folder: Path) -> Iterator[str]:
    """The address of a server of the folder's files."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}/"
    http.shutdown()
    http.server_close()
    thread.join()


def tiny_descriptor(seed: int = 0) -> Descriptor:
    """Small pictures through a random linear map: quick, and copies stay close."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 24))
    return Descriptor(
        name="tiny",
        network=network.eval(),
        preprocess=lambda images: as_rgb_tensor(images) - 0.5,
        dimension=24,
        levels=similarity_levels(0.6, 0.8, 0.95),
        record={"preset": "tiny", "weights_sha256": f"{seed:064x}"},
    )


def as_rgb_tensor(images: NDArray[np.uint8]) -> torch.Tensor:
    """``(num, height, width, 1 or 3)`` -> ``(num, 3, height, width)`` in [0, 1]."""
    colour = np.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images
    return torch.from_numpy(colour.astype(np.float32) / 255).permute(0, 3, 1, 2)
