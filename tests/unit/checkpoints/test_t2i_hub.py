"""What is fetched of a text-to-image repository: the files that are loaded, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hub_server import files_of
from pipeline_factory import save_tiny

if TYPE_CHECKING:
    from conftest import Hub

TEXT = "text_encoder/model.safetensors"


@pytest.fixture(scope="module")
def sd1_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """As released: with a safety checker."""
    folder = save_tiny("sd1", tmp_path_factory.mktemp("hub") / "sd1")
    path = folder / "model_index.json"
    safety = {
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "requires_safety_checker": True,
    }
    path.write_text(json.dumps({**json.loads(path.read_text()), **safety}))
    return files_of(folder)


def test_only_the_files_that_are_loaded_are_fetched(hub: Hub, sd1_files: dict[str, bytes]) -> None:
    extra = {
        "safety_checker/config.json": b"{}",
        "safety_checker/model.safetensors": b"x",
        "safety_checker/pytorch_model.bin": b"pickle",
        "feature_extractor/preprocessor_config.json": b"{}",
        "text_encoder/pytorch_model.bin": b"pickle",
        "text_encoder/model.fp16.safetensors": b"variant",
        "text_encoder/model-00001-of-00002.safetensors": b"of other weights",
        "unet/diffusion_pytorch_model.bin": b"pickle",
        "tokenizer/README.md": b"x",
        "v1-5-pruned-emaonly.ckpt": b"pickle",
        "v1-5-pruned-emaonly.safetensors": b"x",
        "README.md": b"# model",
    }
    hub.server.add("org/sd", {**sd1_files, **extra})
    found = hub.resolve("org/sd")
    wanted = {**sd1_files, "README.md": extra["README.md"]}  # the card may name a base
    assert hub.server.fetched() == sorted(wanted)
    assert files_of(Path(found["folder"])) == wanted
    assert hub.resolve("org/sd", offline=True) == found


def test_shards_of_a_text_encoder_are_fetched(
    hub: Hub, sd1_files: dict[str, bytes], tmp_path: Path
) -> None:
    from transformers import CLIPTextModel

    folder = save_tiny("sd1", tmp_path / "sd1")
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder")
    (folder / TEXT).unlink()
    encoder.save_pretrained(folder / "text_encoder", max_shard_size="10KB")
    files = files_of(folder)
    hub.server.add("org/sd", files)
    found = hub.resolve("org/sd")
    assert hub.server.fetched() == sorted(files)
    shard = next(name for name in files if "-00001-of-" in name)
    (Path(found["folder"]) / shard).unlink()
    message = hub.error("org/sd", offline=True)
    assert f"{shard} is missing" in message


def test_a_pickled_text_encoder_costs_one_small_download(
    hub: Hub, sd1_files: dict[str, bytes]
) -> None:
    files = {name: data for name, data in sd1_files.items() if name != TEXT}
    hub.server.add("org/sd", {**files, "text_encoder/pytorch_model.bin": b"pickle"})
    assert "is a pickle, which can run code when loaded" in hub.error("org/sd")
    assert hub.server.fetched() == ["model_index.json"]
