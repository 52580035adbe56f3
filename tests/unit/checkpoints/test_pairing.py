"""Whether a base fits a fine-tune: by configuration, then by weights."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapter_factory import DIFFUSERS_WEIGHTS, layers_of_fixture, write_diffusers
from pipeline_factory import save_tiny, tiny_pipeline
from safetensors.numpy import load_file
from vetting import SCHEDULER, UNET, edit

from pytest_memscan.checkpoints.load import load_text_to_image
from pytest_memscan.checkpoints.pairing import (
    check_configs,
    compare,
    compare_adapter,
    share_identical,
)
from pytest_memscan.checkpoints.resolve import ResolvedCheckpoint
from pytest_memscan.checkpoints.verify import vet
from pytest_memscan.checkpoints.weight_sums import WeightSums
from pytest_memscan.errors import CheckpointError

FIXTURES = Path(__file__).parents[3] / "fixtures"
VAE = "vae/config.json"
# diffusers reads tensors with np.array, which numpy 2 comments on.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")


def _load(name: str) -> Any:
    found = ResolvedCheckpoint(spec="x", label="./x", folder=FIXTURES / name)
    return load_text_to_image(found, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def base() -> Any:
    return _load("clean-t2i")


@pytest.fixture
def other(base: Any) -> Any:
    """The base once more, with modules of its own."""
    parts = {k: copy.deepcopy(v) for k, v in base.components.items()}
    return type(base)(**parts, requires_safety_checker=False)


def _refusal(finetuned: Any, base: Any) -> str:
    with pytest.raises(CheckpointError) as raised:
        compare(finetuned, base)
    return str(raised.value)


# --- configurations -----------------------------------------------------------------------------


def _misfit(finetuned: Path, base: Path) -> str:
    with pytest.raises(CheckpointError) as raised:
        check_configs(vet(finetuned), vet(base), base_label="org/base")
    message = str(raised.value)
    assert "org/base" in message
    assert message.endswith("give the checkpoint that it was fine-tuned from as --memscan-base")
    return message


def test_the_fixtures_and_their_base_fit() -> None:
    base = vet(FIXTURES / "clean-t2i")
    for name in ("leaky-t2i-full", "leaky-t2i", "clean-t2i"):
        check_configs(vet(FIXTURES / name), base, base_label="base")


@pytest.mark.parametrize("family", ["sd1", "sdxl", "sd3", "flux-dev", "pixart-sigma"])
def test_what_does_not_matter_is_ignored(tmp_path: Path, family: str) -> None:
    base, finetuned = (save_tiny(family, tmp_path / each) for each in ("base", "finetuned"))
    name = UNET if family.startswith("sd") and family != "sd3" else "transformer/config.json"
    edit(finetuned, name, sample_size=64, _name_or_path="/home/alice", _diffusers_version="0.1")
    edit(finetuned, VAE, sample_size=999, force_upcast=True)
    check_configs(vet(finetuned), vet(base), base_label="base")
    check_configs(vet(base), vet(finetuned), base_label="base")


def test_another_sampler_and_defaults_left_out_are_no_difference(tmp_path: Path) -> None:
    base, finetuned = (save_tiny("sd1", tmp_path / each) for each in ("base", "finetuned"))
    edit(finetuned, "model_index.json", scheduler=["diffusers", "EulerDiscreteScheduler"])
    edit(finetuned, SCHEDULER, _class_name="EulerDiscreteScheduler")
    schedule = json.loads((finetuned / SCHEDULER).read_text())
    del schedule["prediction_type"], schedule["trained_betas"]
    (finetuned / SCHEDULER).write_text(json.dumps(schedule))
    edit(finetuned, VAE, scaling_factor=None, shift_factor=None)
    edit(finetuned, UNET, attention_head_dim=[2, 2], dropout=0.1)
    check_configs(vet(finetuned), vet(base), base_label="base")


@pytest.mark.parametrize(
    ("name", "key", "value", "shown"),
    [
        (SCHEDULER, "prediction_type", "v_prediction", "'v_prediction'"),
        (SCHEDULER, "beta_end", 0.02, "'0.02'"),
        (SCHEDULER, "num_train_timesteps", 500, "'500'"),
        (SCHEDULER, "rescale_betas_zero_snr", True, "'True'"),
        (VAE, "scaling_factor", 0.13025, "'0.13025'"),
        (VAE, "shift_factor", 0.1, "'0.1'"),
        (UNET, "cross_attention_dim", 32, "'32'"),
        (UNET, "attention_head_dim", 4, "'4'"),
    ],
)
def test_what_matters_is_named_with_both_values(
    tmp_path: Path, name: str, key: str, value: object, shown: str
) -> None:
    base, finetuned = (save_tiny("sd1", tmp_path / each) for each in ("base", "finetuned"))
    edit(finetuned, name, **{key: value})
    assert f"{key} is {shown} in the fine-tune and '" in _misfit(finetuned, base)
    assert f" and {shown} in the base; " in _misfit(base, finetuned)


def test_families_and_shapes_have_to_be_the_same(tmp_path: Path) -> None:
    sd1, sdxl = save_tiny("sd1", tmp_path / "sd1"), save_tiny("sdxl", tmp_path / "sdxl")
    assert "pipeline class is 'StableDiffusionPipeline' in" in _misfit(sd1, sdxl)
    other = save_tiny("sd1", tmp_path / "other")
    unet = tiny_pipeline("sd1").unet
    type(unet).from_config({**unet.config, "cross_attention_dim": 32}).save_pretrained(
        other / "unet"
    )
    edit(other, UNET, cross_attention_dim=16)
    assert "to_k.weight' is '[16, 32]' in the fine-tune and '[16, 16]'" in _misfit(other, sd1)


# --- weights ------------------------------------------------------------------------------------


def _flat(name: str, *, matrices: bool) -> np.ndarray:
    tensors = load_file(FIXTURES / name / "unet/diffusion_pytorch_model.safetensors")
    kept = [tensors[k].ravel() for k in sorted(tensors) if not matrices or tensors[k].ndim > 1]
    return np.concatenate(kept).astype(np.float64)


@pytest.mark.parametrize(
    ("name", "parts"), [("leaky-t2i-full", ("unet",)), ("leaky-t2i", ("text_encoder", "unet"))]
)
def test_full_fine_tunes_are_measured_and_raise_no_warning(
    base: Any, name: str, parts: tuple[str, ...]
) -> None:
    found = compare(_load(name), base)
    theta, tuned = (_flat(each, matrices=False) for each in ("clean-t2i", name))
    distance = np.linalg.norm(tuned - theta) / np.linalg.norm(theta)
    assert found.distance == pytest.approx(distance, rel=1e-6)
    theta, tuned = (_flat(each, matrices=True) for each in ("clean-t2i", name))
    cosine = tuned @ theta / np.linalg.norm(theta) / np.linalg.norm(tuned)
    assert found.cosine == pytest.approx(cosine, rel=1e-6)
    assert found.cosine > 0.9
    assert found.parts == parts
    assert {*found.parts, *found.identical} == {"vae", "text_encoder", "unet"}
    assert found.warning == ""


def test_a_network_of_another_seed_raises_a_warning(base: Any, other: Any) -> None:
    torch.manual_seed(1)
    other.register_modules(unet=type(base.unet).from_config(base.unet.config))
    found = compare(other, base)
    assert abs(found.cosine) < 0.02
    assert found.distance > 0.9
    assert "unrelated to the base's (cosine " in found.warning


def test_equal_checkpoints_have_nothing_to_extract(base: Any, other: Any) -> None:
    assert "the fine-tune equals its base: there is nothing to extract" in _refusal(other, base)
    other.unet.half().float()
    assert other.unet.conv_in.weight.dtype == torch.float32
    for part in (other.unet, other.text_encoder):
        part.bfloat16().float()
    message = _refusal(other, base)
    assert message.startswith("the fine-tune equals its base but for rounding: there is nothing")


def test_one_weight_that_moved_is_a_difference(base: Any, other: Any) -> None:
    with torch.no_grad():
        other.text_encoder.get_input_embeddings().weight[3, 5] += 0.1
    found = compare(other, base)
    assert (found.parts, found.distance) == (("text_encoder",), 0.0)
    assert found.warning == ""


@pytest.mark.parametrize("dtypes", [("half", "float"), ("bfloat16", "half"), ("half", "bfloat16")])
def test_rounding_is_told_from_training(dtypes: tuple[str, str]) -> None:
    weights = torch.randn(10_000, dtype=torch.float32) * torch.logspace(-9, 1, 10_000)
    left, right = (getattr(weights, each)().float() for each in dtypes)
    sums = WeightSums()
    sums.add(left, right)
    assert sums.is_rounding
    assert not sums.is_identical
    sums.add(right * 1.01, right)
    assert not sums.is_rounding


def test_only_the_encoder_of_the_autoencoder_has_to_be_the_same(base: Any, other: Any) -> None:
    with torch.no_grad():
        other.unet.conv_in.bias += 0.1
        other.vae.decoder.conv_out.bias += 0.1
    other.vae.encoder.bfloat16().float()
    assert compare(other, base).parts == ("vae", "unet")
    with torch.no_grad():
        other.vae.encoder.conv_out.bias += 0.1
    assert "have different autoencoders (vae/)" in _refusal(other, base)


def test_other_shapes_are_refused(base: Any, other: Any) -> None:
    small = {**base.unet.config, "block_out_channels": (16, 32)}
    other.register_modules(unet=type(base.unet).from_config(small))
    assert "the weights of unet/ have other shapes" in _refusal(other, base)


def test_tokens_may_be_added_but_not_renumbered(base: Any, other: Any) -> None:
    with torch.no_grad():
        other.unet.conv_in.bias += 0.1
    other.tokenizer.add_tokens(["<sks>"])
    other.text_encoder.resize_token_embeddings(len(other.tokenizer))
    assert compare(other, base).parts == ("text_encoder", "unet")
    with pytest.raises(CheckpointError, match="token '<sks>' is unknown in the fine-tune"):
        compare(base, other)


# --- LoRA ---------------------------------------------------------------------------------------


def test_a_lora_is_as_far_as_the_pipeline_it_is_merged_into(
    base: Any, other: Any, tmp_path: Path
) -> None:
    other.load_lora_weights(
        write_diffusers(tmp_path / DIFFUSERS_WEIGHTS, layers_of_fixture()).parent
    )
    found = compare_adapter(other)
    assert found.parts == ("text_encoder", "unet")
    assert found.identical == ("vae",)
    other.fuse_lora()
    other.unload_lora_weights()
    merged = compare(other, base)
    assert found.distance == pytest.approx(merged.distance, rel=1e-5)
    assert found.cosine == pytest.approx(merged.cosine, rel=1e-6)
    assert 0.01 < found.distance < 1


def test_a_lora_that_changes_nothing_is_refused(other: Any, tmp_path: Path) -> None:
    other.load_lora_weights(
        write_diffusers(tmp_path / DIFFUSERS_WEIGHTS, layers_of_fixture()).parent
    )
    with torch.no_grad():
        for part in (other.unet, other.text_encoder):
            for name, weight in part.named_parameters():
                if "lora_B" in name:
                    weight.zero_()
    with pytest.raises(CheckpointError, match="the LoRA changes no weight of its base"):
        compare_adapter(other)


# --- sharing ------------------------------------------------------------------------------------


def test_what_is_identical_is_in_memory_once(base: Any, other: Any) -> None:
    expected = _image(base)
    with torch.no_grad():
        base_again, other.unet.conv_in.bias[0] = copy.copy(base), 1.0
    assert share_identical(other, base_again) == ("vae", "text_encoder")
    assert base_again.vae is other.vae
    assert base_again.text_encoder is other.text_encoder
    assert base_again.unet is base.unet
    assert torch.equal(_image(base_again), expected)
    assert not torch.equal(_image(other), expected)


def test_modules_of_another_dtype_or_setting_are_not_shared(base: Any, other: Any) -> None:
    other.text_encoder.half()
    other.vae.register_to_config(scaling_factor=1.0)
    assert share_identical(other, copy.copy(base)) == ("unet",)


def _image(pipeline: Any) -> torch.Tensor:
    generator = torch.Generator("cpu").manual_seed(1)
    made = pipeline("a", generator=generator, num_inference_steps=1, output_type="np")
    return torch.from_numpy(made.images)
