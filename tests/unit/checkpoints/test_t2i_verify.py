"""Every file of a text-to-image checkpoint is vetted before anything is loaded."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from pipeline_factory import FAMILIES, save_tiny
from safetensors.numpy import load_file
from vetting import SCHEDULER, UNET, edit, refusal

from pytest_memscan.checkpoints.verify import verify

TEXT = "text_encoder/model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture
def sd1(tmp_path: Path) -> Path:
    return save_tiny("sd1", tmp_path / "sd1")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sound_checkpoint_is_described_by_all_its_files(tmp_path: Path, family: str) -> None:
    folder = save_tiny(family, tmp_path / family)
    integrity = verify(folder)
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert set(integrity.files) == present
    for name, digest in integrity.files.items():
        assert digest == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    tensors = [
        tensor
        for name in present
        if name.endswith(".safetensors")
        for tensor in load_file(folder / name).values()
    ]
    assert integrity.num_tensors == len(tensors)
    assert integrity.num_parameters == sum(tensor.size for tensor in tensors)


def test_files_that_are_not_loaded_are_not_hashed(sd1: Path) -> None:
    before = verify(sd1)
    for name in (
        "README.md",
        "v1-5-pruned.ckpt",
        "text_encoder/pytorch_model.bin",
        "text_encoder/model.fp16.safetensors",
        "tokenizer/chat_template.jinja",
    ):
        (sd1 / name).write_bytes(b"x")
    assert verify(sd1) == before


# --- files that are missing, or that could run code ---------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (VAE, f"{VAE} is missing"),
        (TEXT, f"{TEXT} is missing"),
        ("vae/config.json", "vae/config.json is missing"),
        ("text_encoder/config.json", "text_encoder/config.json is missing"),
        ("tokenizer/tokenizer_config.json", "tokenizer/tokenizer_config.json is missing"),
        (SCHEDULER, f"{SCHEDULER} is missing"),
    ],
)
def test_a_missing_file_is_named(sd1: Path, name: str, words: str) -> None:
    (sd1 / name).unlink()
    assert words in refusal(sd1)


def test_a_tokenizer_without_a_vocabulary_is_refused(sd1: Path) -> None:
    (sd1 / "tokenizer/tokenizer.json").unlink()
    verify(sd1)
    (sd1 / "tokenizer/merges.txt").unlink()
    message = refusal(sd1)
    assert "tokenizer/ holds no vocabulary" in message
    assert "vocab.json with merges.txt" in message


def test_a_pickled_text_encoder_is_refused(sd1: Path) -> None:
    (sd1 / TEXT).rename(sd1 / "text_encoder/pytorch_model.bin")
    message = refusal(sd1)
    assert "'text_encoder/pytorch_model.bin' is a pickle, which can run code" in message
    assert TEXT in message


def test_a_pickle_with_the_name_of_weights_is_refused(sd1: Path) -> None:
    (sd1 / TEXT).write_bytes(b"\x80\x04\x95" + b"x" * 100)
    assert f"{TEXT} is not a safetensors file" in refusal(sd1)


@pytest.mark.parametrize("part", ["vae", "text_encoder", "tokenizer", "unet", "scheduler"])
def test_code_in_a_component_folder_is_refused(sd1: Path, part: str) -> None:
    (sd1 / part / "modeling.py").write_text("raise SystemExit")
    assert f"'{part}/modeling.py' is code in a component folder" in refusal(sd1)


@pytest.mark.parametrize("part", ["text_encoder", "unet"])
def test_an_adapter_that_the_library_would_load_too_is_refused(sd1: Path, part: str) -> None:
    (sd1 / part / "adapter_config.json").write_text('{"base_model_name_or_path": "evil/model"}')
    assert f"{part}/adapter_config.json belongs to an adapter" in refusal(sd1)


@pytest.mark.parametrize(
    "name",
    [
        "text_encoder/config.json",
        "vae/config.json",
        UNET,
        SCHEDULER,
        "tokenizer/tokenizer_config.json",
    ],
)
@pytest.mark.parametrize("key", ["auto_map", "_attn_implementation", "attn_implementation"])
def test_keys_that_ask_to_run_code_are_refused_in_every_config(
    sd1: Path, name: str, key: str
) -> None:
    edit(sd1, name, x=[{key: "evil--module.Class"}])
    assert refusal(sd1).startswith(f"{name} holds the key '{key}'")


def test_a_remark_of_transformers_about_attention_is_accepted(sd1: Path) -> None:
    edit(sd1, "text_encoder/config.json", _attn_implementation_autoset=True)
    verify(sd1)
    edit(sd1, "text_encoder/config.json", _attn_implementation_autoset="org/kernel")
    assert "run its own code" in refusal(sd1)


# --- weights ------------------------------------------------------------------------------------


def test_truncated_text_encoder_weights_are_refused(sd1: Path) -> None:
    data = (sd1 / TEXT).read_bytes()
    (sd1 / TEXT).write_bytes(data[:-100])
    assert f"{TEXT} is truncated" in refusal(sd1)


def _shard(folder: Path) -> Path:
    """Cut the text encoder into shards; its index."""
    from transformers import CLIPTextModel

    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder")
    (folder / TEXT).unlink()
    encoder.save_pretrained(folder / "text_encoder", max_shard_size="10KB")
    return folder / f"{TEXT}.index.json"


def test_sharded_weights_of_a_text_encoder_are_vetted_one_by_one(sd1: Path) -> None:
    whole = verify(sd1)
    index = _shard(sd1)
    shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    assert len(shards) > 1
    assert verify(sd1).num_parameters == whole.num_parameters
    assert {f"text_encoder/{shard}" for shard in shards} <= set(verify(sd1).files)
    (sd1 / "text_encoder" / shards[0]).unlink()
    assert f"text_encoder/{shards[0]} is missing" in refusal(sd1)


@pytest.mark.parametrize("shard", ["../../evil.safetensors", "model.safetensors", "x/y"])
def test_a_shard_that_is_no_plain_file_name_is_refused(sd1: Path, shard: str) -> None:
    index = _shard(sd1)
    content = json.loads(index.read_text())
    content["weight_map"]["embeddings.position_embedding.weight"] = shard
    index.write_text(json.dumps(content))
    assert "is not a plain file name such as model-00001-of-00002.safetensors" in refusal(sd1)


# --- configurations -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        (UNET, {"_class_name": "UNet2DModel"}, "supported: UNet2DConditionModel"),
        (UNET, {"in_channels": 9}, "this denoiser needs an input image"),
        (UNET, {"class_embed_type": "timestep"}, "needs more than a prompt"),
        (UNET, {"num_class_embeds": 1000}, "needs more than a prompt"),
        (UNET, {"block_out_channels": [8] * 17}, "expected a short list"),
        (UNET, {"block_out_channels": "8"}, "block_out_channels is '8'"),
        (UNET, {"layers_per_block": [1, [20_000]]}, "layers_per_block is '20000'"),
        (UNET, {"sample_size": 2**20}, "sample_size is '1048576'"),
        (UNET, {"anything": [2**24 + 1]}, "makes no sense"),
        ("vae/config.json", {"latent_channels": 0}, "latent_channels is '0'"),
        ("vae/config.json", {"_class_name": "VQModel"}, "supported: AutoencoderKL"),
        ("text_encoder/config.json", {"num_hidden_layers": 10**6}, "expected an integer from 1"),
        ("text_encoder/config.json", {"vocab_size": True}, "vocab_size is 'True'"),
        ("text_encoder/config.json", {"hidden_size": 2**22}, "hidden_size is '4194304'"),
        (SCHEDULER, {"_class_name": "DPMSolverSDEScheduler"}, "ignores the random generators"),
        (SCHEDULER, {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "supported: DDIM"),
        (SCHEDULER, {"prediction_type": "score"}, "prediction_type 'score' is unknown"),
        (SCHEDULER, {"num_train_timesteps": 10**6}, "num_train_timesteps is '1000000'"),
        (SCHEDULER, {"trained_betas": [2]}, "trained_betas must be 1,000 numbers"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(
    sd1: Path, name: str, changes: dict[str, object], words: str
) -> None:
    edit(sd1, name, **changes)
    message = refusal(sd1)
    assert message.startswith(name)
    assert words in message


def test_minus_infinity_is_accepted_where_diffusers_writes_it_and_nowhere_else(
    tmp_path: Path,
) -> None:
    folder = save_tiny("pixart-sigma", tmp_path / "pixart")
    assert '"lambda_min_clipped": -Infinity' in (folder / SCHEDULER).read_text()
    edit(folder, SCHEDULER, beta_start=float("-inf"))
    assert "number that is too large" in refusal(folder)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("vocab.json", b'{"a": -1}', "token 'a' has the number '-1'"),
        ("vocab.json", b'{"a": 1, "a": 2}', "duplicate key 'a'"),
        ("vocab.json", b"[]", "not a JSON object but list"),
        ("tokenizer.json", b"{", "is not JSON"),
        ("merges.txt", b"\xff\xfe", "is not UTF-8 text"),
        ("special_tokens_map.json", b'{"auto_map": 1}', "run its own code"),
    ],
)
def test_a_malformed_tokenizer_file_is_refused(
    sd1: Path, name: str, content: bytes, words: str
) -> None:
    (sd1 / "tokenizer" / name).write_bytes(content)
    message = refusal(sd1)
    assert message.startswith(f"tokenizer/{name}")
    assert words in message
