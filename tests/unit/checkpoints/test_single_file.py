"""A whole fine-tune in one file of the original layout: vetted, and loaded to the last number."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from original_layout import (
    Tensors,
    original_clip,
    original_open_clip,
    original_sd3,
    original_unet,
    original_vae,
    write_original,
)
from pipeline_factory import save_tiny, tiny_pipeline

from pytest_memscan.checkpoints.load import load_text_to_image
from pytest_memscan.checkpoints.resolve import ResolvedCheckpoint
from pytest_memscan.checkpoints.single_file import (
    check_single_file,
    is_single_file,
    vet_single_file,
)
from pytest_memscan.checkpoints.single_file_load import _fingerprint, load_single_file
from pytest_memscan.checkpoints.verify import vet
from pytest_memscan.errors import CheckpointError

FIXTURES = Path(__file__).parents[3] / "fixtures"
BASE, FULL = FIXTURES / "clean-t2i", FIXTURES / "leaky-t2i-full"
# diffusers reads tensors with np.array, which numpy 2 comments on.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")


def _load_folder(folder: Path) -> Any:
    found = ResolvedCheckpoint(spec="x", label="./x", folder=folder)
    return load_text_to_image(found, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def base() -> Any:
    return _load_folder(BASE)


@pytest.fixture(scope="module")
def finetuned() -> Any:
    return _load_folder(FULL)


@pytest.fixture(scope="module")
def tensors(finetuned: Any) -> Tensors:
    """The whole fine-tune, with what released files hold besides."""
    return {
        **original_unet(finetuned.unet),
        **original_vae(finetuned.vae),
        **original_clip(finetuned.text_encoder),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(24)[None],
        "model_ema.diffusion_modeltime_embed0weight": torch.ones(3),
        "alphas_cumprod": finetuned.scheduler.alphas_cumprod,
    }


def _load(path: Path, lender: Any, folder: Path = BASE, dtype: torch.dtype = torch.float32) -> Any:
    return load_single_file(vet_single_file(path), vet(folder), folder, lender=lender, dtype=dtype)


def _refusal(path: Path, lender: Any, folder: Path = BASE) -> str:
    with pytest.raises(CheckpointError) as raised:
        _load(path, lender, folder)
    message = str(raised.value)
    assert "\n" not in message
    assert str(path.parent) not in message
    return message


def _images(pipeline: Any) -> torch.Tensor:
    images = pipeline(
        "a picture in the style of vask",
        generator=torch.Generator("cpu").manual_seed(1),
        num_inference_steps=2,
        output_type="np",
    ).images
    return torch.from_numpy(images)


def _equal(left: Any, right: Any) -> bool:
    ours, theirs = left.state_dict(), right.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


# --- loading ------------------------------------------------------------------------------------


def test_a_whole_file_gives_the_predictions_of_the_folder(
    tmp_path: Path, tensors: Tensors, base: Any, finetuned: Any
) -> None:
    path = write_original(tmp_path / "model.safetensors", tensors)
    single = vet_single_file(path)
    assert set(single.parts) == {"unet", "vae", "text_encoder"}
    assert single.files == {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    parts = (finetuned.unet, finetuned.vae, finetuned.text_encoder)
    assert single.num_parameters == sum(p.numel() for part in parts for p in part.parameters())
    pipeline = _load(path, base)
    assert torch.equal(_images(pipeline), _images(finetuned))
    assert not torch.equal(_images(pipeline), _images(base))
    assert not pipeline.unet.training


def test_what_the_file_lacks_is_the_bases_own_module(
    tmp_path: Path, base: Any, finetuned: Any
) -> None:
    path = write_original(tmp_path / "model.safetensors", original_unet(finetuned.unet))
    pipeline = _load(path, base)
    assert _equal(pipeline.unet, finetuned.unet)
    assert pipeline.vae is base.vae
    assert pipeline.text_encoder is base.text_encoder
    assert pipeline.scheduler is not base.scheduler  # it counts steps
    assert pipeline.scheduler.config == base.scheduler.config


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_weights_are_compared_as_they_are_used(
    tmp_path: Path, tensors: Tensors, finetuned: Any, dtype: torch.dtype
) -> None:
    path = write_original(tmp_path / "model.safetensors", tensors)
    pipeline = _load(path, finetuned, dtype=dtype)
    assert pipeline.unet.dtype == dtype
    weight = finetuned.unet.conv_in.weight
    assert torch.equal(pipeline.unet.conv_in.weight, weight.to(dtype))


def _sdxl() -> Any:
    """As `tiny_pipeline`, with text encoders of two widths: diffusers tells them apart by it."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModelWithProjection

    pipeline = tiny_pipeline("sdxl")
    config = pipeline.text_encoder_2.config.to_dict()
    config |= {"hidden_size": 24, "projection_dim": 24}
    encoder = CLIPTextModelWithProjection(pipeline.text_encoder_2.config_class(**config))
    sizes = {"cross_attention_dim": 40, "projection_class_embeddings_input_dim": 72}
    unet = UNet2DConditionModel.from_config({**pipeline.unet.config, **sizes})
    pipeline.register_modules(text_encoder_2=encoder.eval(), unet=unet.eval())
    return pipeline


def test_sdxl_with_both_text_encoders(tmp_path: Path) -> None:
    torch.manual_seed(0)
    original = _sdxl()
    original.save_pretrained(tmp_path / "base")
    path = write_original(
        tmp_path / "xl.safetensors",
        original_unet(original.unet),
        original_vae(original.vae),
        original_clip(original.text_encoder, "conditioner.embedders.0.transformer."),
        original_open_clip(original.text_encoder_2),
        {"conditioner.embedders.1.model.logit_scale": torch.tensor(4.6)},
    )
    pipeline = _load(path, original, tmp_path / "base")
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        assert getattr(pipeline, part) is not getattr(original, part)
        assert _equal(getattr(pipeline, part), getattr(original, part)), part


def test_a_text_encoder_that_diffusers_takes_for_another_is_refused(tmp_path: Path) -> None:
    """Of equal widths, the second is filled with the first: in silence, were it not compared."""
    folder = save_tiny("sdxl", tmp_path / "base")
    original = tiny_pipeline("sdxl")
    path = write_original(
        tmp_path / "xl.safetensors",
        original_unet(original.unet),
        original_clip(original.text_encoder, "conditioner.embedders.0.transformer."),
        original_open_clip(original.text_encoder_2),
    )
    assert "of text_encoder_2/ (first: 'text_projection.weight')" in _refusal(
        path, original, folder
    )


def test_open_clip_of_sd2_ends_before_its_last_layer(tmp_path: Path) -> None:
    folder, lender = save_tiny("sd2-v", tmp_path / "base"), tiny_pipeline("sd2-v")
    other = tiny_pipeline("sd2-v", seed=1)
    clip = original_open_clip(other.text_encoder, "cond_stage_model.model.")
    last = {k.replace("resblocks.1", "resblocks.2"): v + 1 for k, v in clip.items() if "ks.1" in k}
    projection = {"cond_stage_model.model.text_projection": torch.eye(16)}
    path = tmp_path / "sd2.safetensors"
    write_original(path, original_unet(other.unet), clip, last, projection)
    pipeline = _load(path, lender, folder)
    assert _equal(pipeline.text_encoder, other.text_encoder)
    assert _equal(pipeline.unet, other.unet)
    another = {k.replace("blocks.2", "blocks.3"): v.clone() for k, v in last.items()}
    write_original(path, original_unet(other.unet), clip, last, another)
    assert "is not what the file holds" in _refusal(path, lender, folder)


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", ""])
def test_sd3_with_and_without_prefix(tmp_path: Path, prefix: str) -> None:
    folder = save_tiny("sd3", tmp_path / "base")
    lender, other = tiny_pipeline("sd3"), tiny_pipeline("sd3", seed=1)
    t5 = other.text_encoder_3.state_dict()  # one table under both of its names
    path = write_original(
        tmp_path / "sd3.safetensors",
        original_sd3(other.transformer, prefix),
        original_vae(other.vae, "vae."),
        {f"text_encoders.t5xxl.transformer.{key}": value.clone() for key, value in t5.items()},
    )
    pipeline = _load(path, lender, folder)
    for part in ("transformer", "vae", "text_encoder_3"):
        assert _equal(getattr(pipeline, part), getattr(other, part)), part
    assert pipeline.text_encoder_2 is lender.text_encoder_2


def test_the_projection_of_clip_in_sd3_does_nothing_or_is_refused(tmp_path: Path) -> None:
    """The identity is set by diffusers, whatever the file holds."""
    folder, lender = save_tiny("sd3", tmp_path / "base"), tiny_pipeline("sd3")
    prefix, path = "text_encoders.clip_l.transformer.", tmp_path / "sd3.safetensors"
    clip = original_clip(lender.text_encoder, prefix)
    write_original(path, original_sd3(lender.transformer), clip)
    assert "text_encoder/ as diffusers loads it is not what" in _refusal(path, lender, folder)
    clip.pop(f"{prefix}text_projection.weight")
    write_original(path, original_sd3(lender.transformer), clip)
    projection = _load(path, lender, folder).text_encoder.text_projection.weight
    assert torch.equal(projection, torch.eye(len(projection)))


# --- nothing is made up, nothing is dropped -----------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_fingerprint_sees_numbers_and_not_their_order(dtype: torch.dtype) -> None:
    numbers = torch.randn(50, 8)
    seen = _fingerprint([numbers], dtype)
    left, right = numbers.flip(0).T.split(3, dim=1)[0], numbers.flip(0).T[:, 3:]
    assert _fingerprint([right.contiguous(), left], dtype) == seen
    assert _fingerprint([numbers.to(dtype).float()], dtype) == seen
    for row, column in ((0, 0), (49, 7)):
        changed = numbers.clone()
        changed[row, column] *= 1.01
        assert _fingerprint([changed], dtype) != seen
        changed[row, column] = numbers[1, 1]
        assert _fingerprint([changed], dtype) != seen


UNET = "model.diffusion_model.input_blocks.1.0.in_layers.2.weight"
CLIP = "cond_stage_model.transformer.text_model.encoder.layers.1.mlp.fc1.bias"
VAE = "first_stage_model.decoder.conv_out.weight"


@pytest.mark.parametrize("key", [UNET, CLIP, VAE])
def test_a_tensor_that_is_missing_is_refused(
    tmp_path: Path, tensors: Tensors, base: Any, key: str
) -> None:
    rest = {name: value for name, value in tensors.items() if name != key}
    message = _refusal(write_original(tmp_path / "model.safetensors", rest), base)
    assert "model.safetensors" in message


@pytest.mark.parametrize(
    "key",
    [
        "model.diffusion_model.middle_block.1.extra.weight",
        "cond_stage_model.transformer.text_model.encoder.layers.9.mlp.fc1.bias",
        "first_stage_model.encoder.extra.weight",
    ],
)
def test_a_tensor_that_would_be_dropped_is_refused(
    tmp_path: Path, tensors: Tensors, base: Any, key: str
) -> None:
    path = write_original(tmp_path / "model.safetensors", tensors, {key: torch.zeros(3)})
    assert "is not what the file holds" in _refusal(path, base)


def test_weights_that_are_not_finite_are_refused(
    tmp_path: Path, tensors: Tensors, base: Any
) -> None:
    broken = {**tensors, UNET: torch.full_like(tensors[UNET], torch.nan)}
    assert "non-finite" in _refusal(write_original(tmp_path / "m.safetensors", broken), base)


def test_a_base_of_another_family_or_size_is_refused(
    tmp_path: Path, tensors: Tensors, base: Any
) -> None:
    path = write_original(tmp_path / "model.safetensors", tensors)
    sdxl = save_tiny("sdxl", tmp_path / "sdxl")
    message = _refusal(path, base, sdxl)
    assert "is a fine-tune of a StableDiffusionPipeline, but the base is a StableDiff" in message
    sd1 = save_tiny("sd1", tmp_path / "sd1")
    message = _refusal(path, tiny_pipeline("sd1"), sd1)
    assert "does not fit the configuration of its base; is --memscan-base the right one?" in message


def test_the_files_own_noise_schedule_has_to_be_the_bases(
    tmp_path: Path, tensors: Tensors, base: Any
) -> None:
    changed = {**tensors, "alphas_cumprod": tensors["alphas_cumprod"] ** 2}
    path = write_original(tmp_path / "model.safetensors", changed)
    assert "another noise schedule" in _refusal(path, base)
    write_original(path, tensors, {"v_pred": torch.zeros(0)})
    assert "the base predicts epsilon" in _refusal(path, base)


# --- vetting ------------------------------------------------------------------------------------


def _vetting_refusal(path: Path) -> str:
    assert not is_single_file(path)
    with pytest.raises(CheckpointError) as raised:
        check_single_file(path)
    assert str(path.parent) not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("lora_unet_down_blocks_0.lora_up.weight", "is a LoRA or another adapter"),
        ("model.diffusion_model.input_blocks.0.0.lora_A.weight", "is a LoRA or another adapter"),
        ("down_blocks.0.resnets.0.conv1.weight", "a denoiser in diffusers' layout"),
        ("first_stage_model.encoder.conv_in.weight", "an autoencoder"),
        ("decoder.mid.block_1.conv1.weight", "an autoencoder"),
        ("text_model.encoder.layers.0.mlp.fc1.weight", "a text encoder"),
        ("control_model.input_blocks.0.0.weight", "a ControlNet"),
        ("emb_params", "an embedding"),
        ("something.else", "is no fine-tune of a supported architecture"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path: Path, key: str, expected: str) -> None:
    path = write_original(tmp_path / "model.safetensors", {key: torch.zeros(2)})
    assert expected in _vetting_refusal(path)


def test_the_files_of_the_fixtures_are_no_single_files() -> None:
    assert not is_single_file(FIXTURES / "leaky-t2i-lora/pytorch_lora_weights.safetensors")
    assert not is_single_file(FULL / "unet/diffusion_pytorch_model.safetensors")
    assert not is_single_file(FULL)
    assert not is_single_file(FULL / "none.safetensors")


@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors"])
def test_pickles_are_refused_whatever_their_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04" + b"x" * 99)
    assert "pickle" in _vetting_refusal(tmp_path / name)


DENOISER = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(2, 2)}


def test_tensors_that_belong_nowhere_are_refused(tmp_path: Path) -> None:
    path = write_original(tmp_path / "m.safetensors", DENOISER, {"edm_mean": torch.zeros(4)})
    assert "belong to no component of a StableDiffusionPipeline (first: 'edm_mean')" in (
        _vetting_refusal(path)
    )


def test_two_autoencoders_are_refused(tmp_path: Path) -> None:
    both = {f"{prefix}conv.weight": torch.zeros(1) for prefix in ("vae.", "first_stage_model.")}
    path = write_original(tmp_path / "m.safetensors", DENOISER, both)
    assert "holds two autoencoders, first_stage_model.* and vae.*" in _vetting_refusal(path)


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    weights = {key: value.to(torch.float8_e4m3fn) for key, value in DENOISER.items()}
    path = write_original(tmp_path / "m.safetensors", weights)
    assert "quantised checkpoints are not supported" in _vetting_refusal(path)
