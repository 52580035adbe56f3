"""A LoRA that does not fit the base, or changes nothing, is an error and leaves no trace."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapter_factory import FIXTURES, layers_of_fixture, write_diffusers, write_kohya
from attaching import base_of_fixture, loaded_base, random_values, refused, vetted_adapter
from pipeline_factory import tiny_pipeline
from safetensors.numpy import load_file, save_file

from pytest_memscan.checkpoints.adapters import attach_adapter
from pytest_memscan.errors import CheckpointError

NUM_LAYERS = len(layers_of_fixture())

# --- adapters that do not fit -------------------------------------------------------------------


def test_an_adapter_of_another_size_is_refused() -> None:
    message = refused(tiny_pipeline("sd1"), FIXTURES / "leaky-t2i-lora")
    assert f"does not fit the StableDiffusionPipeline of the base, of {NUM_LAYERS} LoRA" in message
    assert "4 match no layer (first: 'text_encoder.encoder.layers.2." in message
    assert (
        f"{NUM_LAYERS - 4} mis-shaped (first: 'text_encoder.encoder.layers.0.self_attn.k_proj"
        in message
    )
    assert "give the base it was trained from with --memscan-base" in message


def test_one_layer_of_another_size_is_enough(tmp_path: Path) -> None:
    layers = layers_of_fixture()
    key = next(key for key in layers if key[0] == "unet")
    down, up = layers[key]
    layers[key] = (down[:, 1:], up)
    message = refused(base_of_fixture(), write_diffusers(tmp_path / "x.safetensors", layers))
    rank, *of_down = down.shape
    cut = [rank, of_down[0] - 1, *of_down[1:]]
    shapes = f"is {cut} by {list(up.shape)}, expected {[rank, *of_down]} by"
    assert f"1 mis-shaped (first: '{'.'.join(key)}.lora_A.weight' {shapes}" in message


def test_an_adapter_whose_names_match_nothing_is_refused(tmp_path: Path) -> None:
    key = ("unet", "transformer_blocks.0.attn.to_q")
    layers = {key: (random_values((2, 8), 0), random_values((8, 2), 1))}
    for path in (
        write_diffusers(tmp_path / "a.safetensors", layers),
        write_kohya(tmp_path / "b.safetensors", layers, unet="lora_unet_double_"),
    ):
        message = refused(base_of_fixture(), path)
        assert "transformer_blocks" in message
        assert "--memscan-base" in message


def test_parts_that_the_base_lacks_are_named(tmp_path: Path) -> None:
    values = (random_values((2, 8), 0), random_values((8, 2), 1))
    for part in ("transformer", "text_encoder_2"):
        layers = {**layers_of_fixture(), (part, "encoder.layers.0.mlp.fc1"): values}
        message = refused(base_of_fixture(), write_diffusers(tmp_path / "x.safetensors", layers))
        assert (
            f"1 of {NUM_LAYERS + 1} LoRA layers are of {part} (first: '{part}.encoder.layers.0"
            in message
        )
        assert "which the StableDiffusionPipeline of the base does not have" in message


def test_kohya_names_without_a_known_meaning_are_refused(tmp_path: Path) -> None:
    path = write_kohya(tmp_path / "x.safetensors", layers_of_fixture())
    message = refused(tiny_pipeline("sd3"), path)
    assert "which diffusers does not read for StableDiffusion3Pipeline" in message


# --- values -------------------------------------------------------------------------------------


def _with(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    write_diffusers(path, layers_of_fixture())
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    return path


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    sizes = []

    def spoil(tensors: dict[str, Any]) -> None:
        sizes.append(tensors[max(tensors)].size)
        tensors[max(tensors)][0, 0] = np.nan

    message = refused(base_of_fixture(), _with(tmp_path / "x.safetensors", spoil))
    assert f"lora_B.weight' is {100 / sizes[0]:.3g}% non-finite" in message
    assert "its training diverged" in message


def test_weights_too_large_for_the_dtype_are_refused(tmp_path: Path) -> None:
    def enlarge(tensors: dict[str, Any]) -> None:
        tensors[max(tensors)][0, 0] = 1e6

    pipeline = base_of_fixture()
    pipeline.unet.half()
    message = refused(pipeline, _with(tmp_path / "x.safetensors", enlarge))
    assert "is too large for torch.float16; use --memscan-dtype float32" in message


def test_an_adapter_that_changes_nothing_is_refused(tmp_path: Path) -> None:
    def reset(tensors: dict[str, Any]) -> None:
        for key in tensors:
            if "lora_B" in key:
                tensors[key] = np.zeros_like(tensors[key])

    message = refused(base_of_fixture(), _with(tmp_path / "x.safetensors", reset))
    assert message.startswith("x.safetensors changes nothing")
    alphas = {module: 0.0 for _, module in layers_of_fixture()}
    path = write_kohya(tmp_path / "y.safetensors", layers_of_fixture(), alphas)
    assert "y.safetensors changes nothing" in refused(base_of_fixture(), path)


def test_a_file_that_changed_after_it_was_vetted_is_refused(tmp_path: Path) -> None:
    path = write_diffusers(tmp_path / "x.safetensors", layers_of_fixture())
    adapter = vetted_adapter(path)
    _with(path, lambda tensors: tensors.update({min(tensors): 2 * tensors[min(tensors)]}))
    assert "x.safetensors changed while it was read" in refused(base_of_fixture(), adapter)


def test_two_names_for_one_layer_are_refused(tmp_path: Path) -> None:
    layers = layers_of_fixture()
    part, module = next(key for key in layers if key[0] == "text_encoder")
    layers[part, f"text_model.{module}"] = layers[part, module]
    message = refused(base_of_fixture(), write_diffusers(tmp_path / "x.safetensors", layers))
    assert "2 times, under several names" in message


def test_without_peft_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = vetted_adapter(FIXTURES / "leaky-t2i-lora")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(CheckpointError, match="not installed here; pip install peft"):
        attach_adapter(loaded_base(), adapter, label="./style")
