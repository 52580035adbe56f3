"""A vetted text-to-image checkpoint becomes the stock pipeline of its own class."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_factory import save_tiny_checkpoint
from pipeline_factory import FAMILIES, SIDE, call_settings, save_tiny, tiny_pipeline
from safetensors.torch import load_file, save_file
from vetting import INDEX, edit

from pytest_memscan.checkpoints.load import load_text_to_image, load_unconditional
from pytest_memscan.checkpoints.resolve import ResolvedCheckpoint, resolve
from pytest_memscan.checkpoints.verify import verify
from pytest_memscan.errors import CheckpointError, OptionError

TEXT = "text_encoder/model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
UNET = "unet/diffusion_pytorch_model.safetensors"
# diffusers reads tensors with np.array, which numpy 2 comments on.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")


@pytest.fixture
def sd1(tmp_path: Path) -> Path:
    return save_tiny("sd1", tmp_path / "sd1")


def _found(folder: Path) -> ResolvedCheckpoint:
    return ResolvedCheckpoint(spec=str(folder), label="./ckpt", folder=folder)


def _load(folder: Path, *, dtype: str = "float32") -> Any:
    return load_text_to_image(_found(folder), device="cpu", dtype=dtype)


def _refusal(folder: Path, **options: str) -> str:
    with pytest.raises(CheckpointError) as raised:
        _load(folder, **options)
    message = str(raised.value)
    assert "\n" not in message
    assert str(folder) not in message
    return message


def _change(folder: Path, name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / name)
    change(tensors)
    save_file(tensors, folder / name, metadata={"format": "pt"})


def _images(pipeline: Any, family: str = "sd1") -> torch.Tensor:
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in (1, 2)]
    images = pipeline(
        ["a red cat", "the house"],
        generator=generators,
        num_inference_steps=2,
        output_type="np",
        **call_settings(family),
    ).images
    return torch.from_numpy(images)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_loaded_as_saved_and_generates(tmp_path: Path, family: str) -> None:
    pipeline = _load(save_tiny(family, tmp_path / family))
    original = tiny_pipeline(family)
    assert type(pipeline) is type(original)
    assert type(pipeline.scheduler) is type(original.scheduler)
    # Which class saved it, and that a tokenizer was read from files, is no setting.
    assert _settings(pipeline.scheduler) == _settings(original.scheduler)
    for name, part in original.components.items():
        if isinstance(part, torch.nn.Module):
            loaded = pipeline.components[name]
            assert not loaded.training
            assert not any(p.requires_grad for p in loaded.parameters())
            for key, tensor in part.state_dict().items():
                assert torch.equal(loaded.state_dict()[key], tensor)
    images = _images(pipeline, family)
    assert images.shape == (2, SIDE, SIDE, 3)
    assert torch.isfinite(images).all()
    assert torch.allclose(images, _images(original, family), atol=1e-5)


def _settings(scheduler: Any) -> dict[str, object]:
    return {key: value for key, value in scheduler.config.items() if not key.startswith("_")}


@pytest.mark.parametrize("name", ["clean-t2i", "leaky-t2i"])
def test_a_builtin_checkpoint_is_loaded_and_generates(name: str) -> None:
    found = resolve(f"builtin:{name}", offline=True)
    verify(found.folder)
    pipeline = load_text_to_image(found, device="cpu", dtype="float32")
    assert type(pipeline).__name__ == "StableDiffusionPipeline"
    images = pipeline("a red circle", num_inference_steps=2, output_type="np").images
    assert images.shape == (1, 32, 32, 3)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_weights_have_the_dtype_that_was_asked_for(sd1: Path, dtype: str) -> None:
    pipeline = _load(sd1, dtype=dtype)
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        assert part.dtype == getattr(torch, dtype)


def test_sd3_is_loaded_without_its_third_encoder(tmp_path: Path) -> None:
    folder = save_tiny("sd3", tmp_path / "sd3")
    edit(folder, INDEX, text_encoder_3=[None, None], tokenizer_3=[None, None])
    pipeline = _load(folder)
    assert pipeline.text_encoder_3 is None
    assert _images(pipeline, "sd3").shape == (2, SIDE, SIDE, 3)


def test_the_safety_checker_is_left_out_and_its_files_are_not_read(sd1: Path) -> None:
    safety = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    edit(sd1, INDEX, safety_checker=safety, requires_safety_checker=True)
    (sd1 / "safety_checker").mkdir()
    (sd1 / "safety_checker/config.json").write_text("not even JSON")
    pipeline = _load(sd1)
    assert pipeline.safety_checker is None
    assert pipeline.feature_extractor is None
    assert torch.isfinite(_images(pipeline)).all()


def test_nothing_but_the_vetted_files_is_loaded(sd1: Path) -> None:
    """A template, a variant or an older format beside the files changes nothing."""
    expected = _images(_load(sd1))
    (sd1 / "unet/diffusion_pytorch_model.fp16.safetensors").write_bytes(b"broken")
    (sd1 / "text_encoder/pytorch_model.bin").write_bytes(b"\x80\x04")
    (sd1 / "text_encoder/generation_config.json").write_text("{broken")
    (sd1 / "tokenizer/chat_template.jinja").write_text("{{ broken")
    assert torch.equal(_images(_load(sd1)), expected)


def test_loading_prints_nothing_forbids_remote_code_and_warns_of_nothing(sd1: Path) -> None:
    code = (
        "import sys\n"
        "from pytest_memscan.checkpoints.load import load_text_to_image\n"
        "from pytest_memscan.checkpoints.resolve import resolve\n"
        "checkpoint = resolve(sys.argv[1], offline=True)\n"
        "load_text_to_image(checkpoint, device='cpu', dtype='float16')\n"
        "from diffusers.utils.constants import DIFFUSERS_DISABLE_REMOTE_CODE\n"
        "assert DIFFUSERS_DISABLE_REMOTE_CODE\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    env.pop("DIFFUSERS_DISABLE_REMOTE_CODE", None)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(sd1)],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# --- older ways of saving -----------------------------------------------------------------------


def test_the_text_encoder_of_released_checkpoints_is_loaded(sd1: Path) -> None:
    """As saved by transformers 4: with a prefix, and with the numbers of the positions."""
    expected = _images(_load(sd1))

    def as_released(tensors: dict[str, torch.Tensor]) -> None:
        for key in list(tensors):
            tensors[f"text_model.{key}"] = tensors.pop(key)
        tensors["text_model.embeddings.position_ids"] = torch.arange(24)[None]

    _change(sd1, TEXT, as_released)
    assert torch.equal(_images(_load(sd1)), expected)


def test_other_extra_buffers_are_refused(sd1: Path) -> None:
    _change(sd1, TEXT, lambda t: t.update({"embeddings.other_ids": torch.zeros(1)}))
    assert "1 unexpected (first: 'embeddings.other_ids')" in _refusal(sd1)


def test_the_autoencoder_with_old_attention_names_is_loaded(sd1: Path) -> None:
    """As in Stable Diffusion 1."""
    expected = _images(_load(sd1))
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def use_old_names(tensors: dict[str, torch.Tensor]) -> None:
        for key in list(tensors):
            for current, name in old.items():
                if f".{current}." in key:
                    tensors[key.replace(f".{current}.", f".{name}.")] = tensors.pop(key)

    _change(sd1, VAE, use_old_names)
    assert torch.equal(_images(_load(sd1)), expected)


@pytest.mark.parametrize("kept", ["shared.weight", "encoder.embed_tokens.weight"])
def test_either_name_of_the_tied_embedding_of_t5_is_enough(tmp_path: Path, kept: str) -> None:
    folder = save_tiny("pixart-sigma", tmp_path / "pixart")
    expected = _images(_load(folder), "pixart-sigma")
    _change(folder, TEXT, lambda t: t.update({kept: t.pop("shared.weight")}))
    assert torch.equal(_images(_load(folder), "pixart-sigma"), expected)
    _change(folder, TEXT, lambda t: t.pop(kept))
    assert "missing (first: shared.weight)" in _refusal(folder)


def test_the_vocabulary_files_of_older_tokenizers_are_enough(sd1: Path) -> None:
    expected = _images(_load(sd1))
    (sd1 / "tokenizer/tokenizer.json").unlink()
    assert torch.equal(_images(_load(sd1)), expected)


@pytest.mark.skipif(find_spec("sentencepiece") is not None, reason="sentencepiece is installed")
def test_a_vocabulary_that_needs_other_packages_names_them(tmp_path: Path) -> None:
    folder = save_tiny("pixart-sigma", tmp_path / "pixart")
    (folder / "tokenizer/tokenizer.json").rename(folder / "tokenizer/spiece.model")
    message = _refusal(folder)
    assert message.startswith("tokenizer/spiece.model can be read with sentencepiece and protobuf")
    assert "pip install sentencepiece" in message


def test_the_transformer_of_pixart_may_have_its_older_class(tmp_path: Path) -> None:
    folder = save_tiny("pixart-sigma", tmp_path / "pixart")
    expected = _images(_load(folder), "pixart-sigma")
    edit(folder, INDEX, transformer=["diffusers", "Transformer2DModel"])
    edit(folder, "transformer/config.json", _class_name="Transformer2DModel")
    assert torch.equal(_images(_load(folder), "pixart-sigma"), expected)


# --- files that do not fit together -------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (TEXT, "embeddings.token_embedding.weight"),
        (VAE, "decoder.conv_in.weight"),
        (UNET, "conv_in.weight"),
    ],
)
def test_missing_tensors_of_any_component_are_named(sd1: Path, name: str, key: str) -> None:
    _change(sd1, name, lambda tensors: tensors.pop(key))
    message = _refusal(sd1)
    assert message.startswith(f"{name} does not fit {name.partition('/')[0]}/config.json")
    assert f"1 missing (first: {key})" in message


def test_mis_shaped_tensors_are_shown_with_both_shapes(sd1: Path) -> None:
    _change(sd1, VAE, lambda t: t.update({"decoder.conv_in.bias": torch.zeros(9)}))
    assert "first: decoder.conv_in.bias is [9], expected [8]" in _refusal(sd1)


@pytest.mark.parametrize("name", [TEXT, VAE, UNET])
def test_weights_that_are_not_finite_are_refused(sd1: Path, name: str) -> None:
    _change(sd1, name, lambda t: next(iter(t.values())).fill_(torch.nan))
    message = _refusal(sd1)
    assert message.startswith(name)
    assert "is 100% non-finite (NaN or infinite)" in message


def test_weights_too_large_for_float16_are_refused_with_the_remedy(sd1: Path) -> None:
    _change(sd1, VAE, lambda t: t["decoder.conv_in.bias"].fill_(1e6))
    _load(sd1)
    assert "in float16; use --memscan-dtype float32" in _refusal(sd1, dtype="float16")


def test_a_config_that_describes_no_text_encoder_is_refused(sd1: Path) -> None:
    edit(sd1, "text_encoder/config.json", num_attention_heads=3)
    message = _refusal(sd1)
    assert message.startswith("text_encoder/config.json describes no CLIPTextModel: ")
    assert "not a multiple of the number of attention heads (3)" in message


def test_a_tokenizer_of_another_checkpoint_is_refused(sd1: Path) -> None:
    tokenizer = json.loads((sd1 / "tokenizer/tokenizer.json").read_text())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": 9999, "content": "<x>"})
    for number in range(len(tokenizer["model"]["vocab"]), 9999):
        tokenizer["model"]["vocab"][f"<filler{number}>"] = number
    (sd1 / "tokenizer/tokenizer.json").write_text(json.dumps(tokenizer))
    assert "tokenizer/ numbers its tokens up to 9,999" in _refusal(sd1)


def test_a_tokenizer_that_allows_prompts_too_long_for_its_encoder_is_refused(sd1: Path) -> None:
    edit(sd1, "tokenizer/tokenizer_config.json", model_max_length=77)
    message = _refusal(sd1)
    assert "allows prompts of 77 tokens, but text_encoder/ reads 24" in message


# --- asked for the wrong way --------------------------------------------------------------------


def test_a_checkpoint_of_the_other_kind_is_refused(tmp_path: Path, sd1: Path) -> None:
    unconditional = save_tiny_checkpoint(tmp_path / "ddpm")
    assert "./ckpt is unconditional (DDPMPipeline), not text-to-image" in _refusal(unconditional)
    with pytest.raises(CheckpointError, match="is text-to-image"):
        load_unconditional(_found(sd1), device="cpu", dtype="float32")


def test_an_unknown_dtype_is_refused(sd1: Path) -> None:
    with pytest.raises(OptionError, match="use float32, float16, bfloat16"):
        _load(sd1, dtype="fp8")


def test_the_pipeline_of_a_resolved_folder_is_loaded(sd1: Path) -> None:
    found = resolve(str(sd1), offline=True)
    assert found.kind == "text-to-image"
    assert load_text_to_image(found, device="auto", dtype="float32").unet is not None
