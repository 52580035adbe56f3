"""Nothing is loaded from a checkpoint whose files were not vetted, and each refusal says why."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from checkpoint_factory import WEIGHTS, save_tiny_checkpoint
from safetensors.numpy import load_file
from vetting import INDEX, SCHEDULER, UNET, edit, refusal

from pytest_memscan.checkpoints.verify import verify

# --- what is accepted ---------------------------------------------------------------------------


def test_a_sound_checkpoint_is_described_by_its_files_and_size(checkpoint: Path) -> None:
    integrity = verify(checkpoint)
    assert integrity.pipeline == "DDPMPipeline"
    assert sorted(integrity.files) == [INDEX, SCHEDULER, UNET, WEIGHTS]
    for name, digest in integrity.files.items():
        assert digest == hashlib.sha256((checkpoint / name).read_bytes()).hexdigest()
    tensors = load_file(checkpoint / WEIGHTS)  # the library's own reading of the file
    assert integrity.num_tensors == len(tensors)
    assert integrity.num_parameters == sum(tensor.size for tensor in tensors.values())


def test_files_that_are_not_loaded_are_not_hashed(checkpoint: Path) -> None:
    (checkpoint / "README.md").write_text("# model")
    (checkpoint / "unet/diffusion_pytorch_model.bin").write_bytes(b"pickle")
    (checkpoint / "train.py").write_text("training script beside the pipeline")
    assert sorted(verify(checkpoint).files) == [INDEX, SCHEDULER, UNET, WEIGHTS]


def test_the_flat_layout_of_older_repositories_is_accepted(checkpoint: Path) -> None:
    for name in (UNET, SCHEDULER, WEIGHTS):
        (checkpoint / name).rename(checkpoint / Path(name).name)
    (checkpoint / "unet").rmdir()
    (checkpoint / "scheduler").rmdir()
    assert sorted(verify(checkpoint).files) == sorted(
        [INDEX, "config.json", "scheduler_config.json", "diffusion_pytorch_model.safetensors"]
    )


def test_a_hub_snapshot_of_links_into_its_blobs_is_accepted(tmp_path: Path) -> None:
    source = save_tiny_checkpoint(tmp_path / "source")
    repo = tmp_path / "models--org--name"
    snapshot = repo / "snapshots" / ("a" * 40)
    (repo / "blobs").mkdir(parents=True)
    for number, name in enumerate((INDEX, SCHEDULER, UNET, WEIGHTS)):
        blob = repo / "blobs" / str(number)
        blob.write_bytes((source / name).read_bytes())
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(os.path.relpath(blob, (snapshot / name).parent))
    assert verify(snapshot) == verify(source)


# --- model_index.json ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", [["module", "EvilPipeline"], None, 3])
def test_a_pipeline_class_that_is_not_a_name_is_refused(checkpoint: Path, name: object) -> None:
    edit(checkpoint, INDEX, _class_name=name)
    message = refusal(checkpoint)
    assert message.startswith(INDEX)
    assert "own code" in message


@pytest.mark.parametrize(
    "origin",
    [["my_unet", "UNet2DModel"], ["os", "system"], "UNet2DModel", ["diffusers"], [None, None], 1],
)
def test_a_component_that_is_not_from_diffusers_is_refused(
    checkpoint: Path, origin: object
) -> None:
    edit(checkpoint, INDEX, unet=origin)
    message = refusal(checkpoint)
    assert "unet is" in message
    assert "own code is refused" in message


def test_a_denoiser_of_another_class_is_refused_with_those_supported(checkpoint: Path) -> None:
    edit(checkpoint, INDEX, unet=["diffusers", "UNet2DConditionModel"])
    assert "supported: UNet2DModel" in refusal(checkpoint)


def test_an_unexpected_component_is_refused(checkpoint: Path) -> None:
    edit(checkpoint, INDEX, **{"../vae": ["diffusers", "AutoencoderKL"]})
    assert "component '../vae' does not belong to an unconditional pipeline" in refusal(checkpoint)


def test_a_missing_component_is_named(checkpoint: Path) -> None:
    index = json.loads((checkpoint / INDEX).read_text())
    del index["scheduler"]
    (checkpoint / INDEX).write_text(json.dumps(index))
    assert "names no scheduler" in refusal(checkpoint)


@pytest.mark.parametrize("name", ["DPMSolverSDEScheduler", "CosineDPMSolverMultistepScheduler"])
def test_a_scheduler_that_ignores_generators_is_refused_by_name(
    checkpoint: Path, name: str
) -> None:
    edit(checkpoint, INDEX, scheduler=["diffusers", name])
    message = refusal(checkpoint)
    assert f"{name} ignores the random generators" in message
    assert "could not be repeated" in message


def test_another_scheduler_is_refused_with_those_supported(checkpoint: Path) -> None:
    edit(checkpoint, INDEX, scheduler=["diffusers", "PNDMScheduler"])
    assert "supported: DDPMScheduler, DDIMScheduler" in refusal(checkpoint)


# --- JSON ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not JSON"),
        (b"[]", "not a JSON object but list"),
        (b'{"a": 1, "a": 2}', "duplicate key 'a'"),
        (b'{"a": {"b": 1, "b": 2}}', "duplicate key 'b'"),
        (b'{"a": NaN}', "NaN, which is not a JSON number"),
        (b'{"a": -Infinity}', "-Infinity"),
        (b'{"a": 1e999}', "number that is too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b'{"a": ' + b"[" * 16 + b"]" * 16 + b"}", "deeper than 16 levels"),
        (b'{"a": ' + b"[" * 100_000, "deeper than 16 levels"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        ("\ufeff{}".encode(), "is not JSON"),
        (b'{"a": "' + b"x" * (1 << 20) + b'"}', "larger than 1,048,576 bytes"),
    ],
    ids=lambda value: str(value[:12]),
)
@pytest.mark.parametrize("name", [INDEX, UNET, SCHEDULER])
def test_malformed_json_is_refused_with_the_file_and_the_reason(
    checkpoint: Path, name: str, content: bytes, words: str
) -> None:
    (checkpoint / name).write_bytes(content)
    message = refusal(checkpoint)
    assert message.startswith(name)
    assert words in message


@pytest.mark.parametrize(
    "key",
    [
        "auto_map",
        "trust_remote_code",
        "custom_pipelines",
        "_attn_implementation",
        "_attn_implementation_internal",
        "anything_internal",
    ],
)
@pytest.mark.parametrize("name", [INDEX, UNET, SCHEDULER])
def test_keys_that_ask_to_run_code_are_refused_at_any_depth(
    checkpoint: Path, name: str, key: str
) -> None:
    for value in ({key: True}, {"_x": {"y": [{key: "z"}]}}):
        edit(checkpoint, name, **value)
        message = refusal(checkpoint)
        assert message.startswith(f"{name} holds the key '{key}'")
        assert "run its own code" in message
        path = checkpoint / name
        kept = {k: v for k, v in json.loads(path.read_text()).items() if k not in value}
        path.write_text(json.dumps(kept))


# --- configurations -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"block_out_channels": [65536, 65536]}, "block_out_channels is '65536'"),
        ({"block_out_channels": [8, -8]}, "block_out_channels is '-8'"),
        ({"block_out_channels": "8"}, "block_out_channels is '8'"),
        ({"block_out_channels": [8] * 17}, "expected 1 to 16 integers"),
        ({"block_out_channels": [8, True]}, "block_out_channels is 'True'"),
        ({"layers_per_block": 20_000}, "layers_per_block is '20000'"),
        ({"layers_per_block": "2"}, "expected an integer from 1 to 64"),
        ({"in_channels": 0}, "in_channels is '0'"),
        ({"norm_num_groups": 2.5}, "norm_num_groups is '2.5'"),
        ({"down_block_types": ["DownBlock2D"]}, "expected one block name for each of the 2"),
        ({"up_block_types": [1, 2]}, "up_block_types"),
        ({"sample_size": None}, "sample_size is 'None'"),
        ({"sample_size": 2**20}, "sample_size is '1048576'"),
        ({"sample_size": [8, 8, 8]}, "sample_size"),
        ({"anything": [2**24 + 1]}, "makes no sense"),
        ({"_class_name": "UNet3DConditionModel"}, "supported: UNet2DModel"),
        ({"num_class_embeds": 10}, "only unconditional checkpoints"),
        ({"class_embed_type": "timestep"}, "only unconditional checkpoints"),
        ({"out_channels": 6}, "predicts its variance"),
    ],
)
def test_a_denoiser_that_makes_no_sense_is_refused_before_it_is_built(
    checkpoint: Path, changes: dict[str, object], words: str
) -> None:
    edit(checkpoint, UNET, **changes)
    message = refusal(checkpoint)
    assert message.startswith(UNET)
    assert words in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"_class_name": "DPMSolverSDEScheduler"}, "ignores the random generators"),
        ({"_class_name": "EulerDiscreteScheduler"}, "supported: DDPMScheduler, DDIMScheduler"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule 'sigmoid' is unknown to DDIM sampling"),
        ({"prediction_type": "score"}, "supported: epsilon, sample, v_prediction"),
        ({"timestep_spacing": ["x"]}, "timestep_spacing"),
        ({"num_train_timesteps": 10**6}, "num_train_timesteps is '1000000'"),
        ({"num_train_timesteps": 0}, "num_train_timesteps is '0'"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas must be 1,000 numbers"),
        ({"trained_betas": "x"}, "trained_betas must be 1,000 numbers"),
        ({"trained_betas": [2] * 1000}, "from 0 to 1"),
    ],
)
def test_a_noise_schedule_that_ddim_would_change_is_refused(
    checkpoint: Path, changes: dict[str, object], words: str
) -> None:
    edit(checkpoint, SCHEDULER, **changes)
    message = refusal(checkpoint)
    assert message.startswith(SCHEDULER)
    assert words in message
