"""LoRA files for tests, written from the naming conventions of each layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

Array = NDArray[Any]
# (part, module) -> down and up
Layers = dict[tuple[str, str], tuple[Array, Array]]

FIXTURES = Path(__file__).parents[1] / "fixtures"
DIFFUSERS_WEIGHTS = "pytorch_lora_weights.safetensors"
_SUFFIXES = {
    ".lora.down.weight": ".lora.up.weight",
    ".lora_linear_layer.down.weight": ".lora_linear_layer.up.weight",
    ".lora_A.weight": ".lora_B.weight",
}
KOHYA_PREFIXES = {
    "unet": "lora_unet_",
    "text_encoder": "lora_te_text_model_",
}


def layers_of_fixture() -> Layers:
    """The layers of fixtures/leaky-t2i-lora, float32."""
    tensors = load_file(FIXTURES / "leaky-t2i-lora" / DIFFUSERS_WEIGHTS)
    found: Layers = {}
    for key in tensors:
        for suffix, other in _SUFFIXES.items():
            if key.endswith(suffix):
                name = key.removesuffix(suffix)
                part, _, module = name.partition(".")
                pair = (tensors[key], tensors[name + other])
                found[part, module] = (pair[0].astype(np.float32), pair[1].astype(np.float32))
    return found


def write_diffusers(path: Path, layers: Layers) -> Path:
    """Today's names; without an alpha, so with scale 1."""
    tensors = {}
    for (part, module), (down, up) in layers.items():
        tensors[f"{part}.{module}.lora_A.weight"] = down
        tensors[f"{part}.{module}.lora_B.weight"] = up
    return _save(tensors, path)


def write_old_diffusers(path: Path, layers: Layers) -> Path:
    """Names of attention processors, as diffusers wrote them in 2023."""
    old = {"to_out.0": "to_out", "q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v"}
    tensors = {}
    for (part, module), (down, up) in layers.items():
        block, _, layer = module.replace("to_out.0", "to_out").rpartition(".")
        layer = old.get(layer, "to_out" if layer == "out_proj" else layer)
        processor = f"{block}.processor" if part == "unet" else f"text_model.{block}"
        tensors[f"{part}.{processor}.{layer}_lora.down.weight"] = down
        tensors[f"{part}.{processor}.{layer}_lora.up.weight"] = up
    return _save(tensors, path)


def write_peft(folder: Path, layers: Layers, **settings: Any) -> Path:
    """One folder for each part, as the DreamBooth example of peft writes them."""
    for part in dict.fromkeys(part for part, _ in layers):
        tensors = {}
        for (other, module), (down, up) in layers.items():
            if other == part:
                tensors[f"base_model.model.{module}.lora_A.weight"] = down
                tensors[f"base_model.model.{module}.lora_B.weight"] = up
        _save(tensors, folder / part / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": len(down), "lora_alpha": 8, **settings}
        (folder / part / "adapter_config.json").write_text(json.dumps(config))
    return folder


def write_kohya(
    path: Path, layers: Layers, alphas: Mapping[str, float] | None = None, **prefixes: str
) -> Path:
    """sd-scripts' names: dots become underscores, and each layer has its alpha (by module)."""
    tensors = {}
    for (part, module), (down, up) in layers.items():
        name = {**KOHYA_PREFIXES, **prefixes}[part] + module.replace(".", "_")
        tensors[f"{name}.lora_down.weight"] = down
        tensors[f"{name}.lora_up.weight"] = up
        if alphas is not None:
            tensors[f"{name}.alpha"] = np.array(alphas[module], dtype=np.float32)
    return _save(tensors, path)


def _save(tensors: dict[str, Array], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, path)
    return path
