"""Only the files that diffusers would load are taken, and none from outside the checkpoint."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from checkpoint_factory import WEIGHTS
from safetensors.numpy import load_file, save_file
from vetting import INDEX, SCHEDULER, UNET, refusal

from pytest_memscan.checkpoints.verify import verify


@pytest.mark.parametrize("name", ["unet/my_unet.py", "scheduler/__init__.py", "unet/x.so"])
def test_code_in_a_component_folder_is_refused(checkpoint: Path, name: str) -> None:
    (checkpoint / name).write_text("raise SystemExit")
    message = refusal(checkpoint)
    assert name in message
    assert "is code in a component folder" in message


@pytest.mark.parametrize("name", [INDEX, UNET, SCHEDULER, WEIGHTS])
def test_a_missing_file_is_named(checkpoint: Path, name: str) -> None:
    (checkpoint / name).unlink()
    assert f"{name} is missing" in refusal(checkpoint)


def test_a_variant_alone_is_not_taken_for_the_weights(checkpoint: Path) -> None:
    (checkpoint / WEIGHTS).rename(checkpoint / "unet/diffusion_pytorch_model.fp16.safetensors")
    message = refusal(checkpoint)
    assert "diffusion_pytorch_model.fp16.safetensors', a variant" in message
    assert "without variant=" in message


def test_pickles_alone_are_refused(checkpoint: Path) -> None:
    (checkpoint / WEIGHTS).rename(checkpoint / "unet/diffusion_pytorch_model.bin")
    assert "is a pickle, which can run code when loaded" in refusal(checkpoint)


def _shard(folder: Path, weight_map: dict[str, str] | None = None) -> dict[str, str]:
    """Split the weights in two files; returns the weight map that was written."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = [f"diffusion_pytorch_model-{i}-of-00002.safetensors" for i in ("00001", "00002")]
    truth = {key: names[number % 2] for number, key in enumerate(sorted(tensors))}
    for name in names:
        shard = {key: tensors[key] for key in tensors if truth[key] == name}
        save_file(shard, folder / "unet" / name)
    written = {"metadata": {"total_size": 1}, "weight_map": weight_map or truth}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(written))
    return truth


def test_a_sharded_checkpoint_is_vetted_shard_by_shard(checkpoint: Path) -> None:
    whole = verify(checkpoint)
    _shard(checkpoint)
    integrity = verify(checkpoint)
    assert integrity.num_tensors == whole.num_tensors
    assert integrity.num_parameters == whole.num_parameters
    assert len(integrity.files) == 6


@pytest.mark.parametrize(
    "name",
    [
        "../x.safetensors",
        "/etc/x.safetensors",
        "sub/diffusion_pytorch_model-00001-of-00002.safetensors",
        "C:\\x.safetensors",
        "\\\\host\\x.safetensors",
        "diffusion_pytorch_model-00001-of-00002.bin",
        "x\x00.safetensors",
        "",
    ],
)
def test_a_shard_name_that_leaves_the_folder_is_refused(checkpoint: Path, name: str) -> None:
    _shard(checkpoint, {"conv_in.weight": name})
    message = refusal(checkpoint)
    assert message.startswith(f"{WEIGHTS}.index.json: shard")
    assert "not a plain file name" in message


def test_a_shard_that_is_missing_is_named(checkpoint: Path) -> None:
    _shard(checkpoint)
    shard = "unet/diffusion_pytorch_model-00002-of-00002.safetensors"
    (checkpoint / shard).unlink()
    assert f"{shard} is missing" in refusal(checkpoint)


def test_an_index_that_disagrees_with_its_shards_is_refused(checkpoint: Path) -> None:
    truth = _shard(checkpoint)
    index = checkpoint / f"{WEIGHTS}.index.json"
    extra = {**truth, "conv_in.other": truth["conv_in.weight"]}
    index.write_text(json.dumps({"metadata": {}, "weight_map": extra}))
    assert "'conv_in.other'" in refusal(checkpoint)
    fewer = {key: shard for key, shard in truth.items() if key != "conv_in.weight"}
    index.write_text(json.dumps({"metadata": {}, "weight_map": fewer}))
    assert "'conv_in.weight', which" in refusal(checkpoint)


def test_whole_and_sharded_weights_together_are_ambiguous(checkpoint: Path) -> None:
    whole = (checkpoint / WEIGHTS).read_bytes()
    _shard(checkpoint)
    (checkpoint / WEIGHTS).write_bytes(whole)
    assert "both exist" in refusal(checkpoint)


# --- links and special files --------------------------------------------------------------------


def test_a_link_that_leaves_the_checkpoint_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    outside = (checkpoint / WEIGHTS).rename(tmp_path / "outside.safetensors")
    (checkpoint / WEIGHTS).symlink_to(outside)
    assert f"{WEIGHTS} is a link to a file outside the checkpoint" in refusal(checkpoint)


def test_a_link_inside_the_checkpoint_is_accepted(checkpoint: Path) -> None:
    (checkpoint / WEIGHTS).rename(checkpoint / "weights")
    (checkpoint / WEIGHTS).symlink_to("../weights")
    verify(checkpoint)


def test_a_component_folder_that_is_a_link_outside_is_refused(
    checkpoint: Path, tmp_path: Path
) -> None:
    outside = (checkpoint / "unet").rename(tmp_path / "outside")
    (checkpoint / "unet").symlink_to(outside)
    assert "is a link to a file outside the checkpoint" in refusal(checkpoint)


@pytest.mark.parametrize(
    ("target", "words"), [("nowhere", "does not exist"), ("../" + WEIGHTS, "link in a loop")]
)
def test_a_link_to_nowhere_or_to_itself_is_refused(
    checkpoint: Path, target: str, words: str
) -> None:
    (checkpoint / WEIGHTS).unlink()
    (checkpoint / WEIGHTS).symlink_to(target)
    assert words in refusal(checkpoint)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
@pytest.mark.parametrize("name", [INDEX, UNET, WEIGHTS])
def test_a_fifo_is_refused_without_waiting_for_a_writer(checkpoint: Path, name: str) -> None:
    (checkpoint / name).unlink()
    os.mkfifo(checkpoint / name)
    assert f"{name} is not a regular file" in refusal(checkpoint)
