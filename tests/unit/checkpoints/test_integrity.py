"""What is found in the files of a checkpoint of any form, and of the base it is loaded with."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from adapter_factory import (
    DIFFUSERS_WEIGHTS,
    FIXTURES,
    layers_of_fixture,
    write_diffusers,
    write_peft,
)
from original_layout import original_clip, original_unet, write_original
from safetensors.numpy import load_file

from pytest_memscan.checkpoints.integrity import joined, verify_checkpoint
from pytest_memscan.checkpoints.load import load_text_to_image
from pytest_memscan.checkpoints.resolve import BASE, ResolvedCheckpoint, resolve
from pytest_memscan.checkpoints.verify import verify
from pytest_memscan.errors import CheckpointError
from pytest_memscan.results import Integrity


@pytest.fixture(scope="module")
def base() -> ResolvedCheckpoint:
    return resolve("builtin:clean-t2i", offline=True, option=BASE)


@pytest.fixture(scope="module")
def of_base(base: ResolvedCheckpoint) -> Integrity:
    return verify(base.folder)


def numbers_in(*paths: Path) -> int:
    return sum(tensor.size for path in paths for tensor in load_file(path).values())


def test_a_pipeline_and_its_base_are_listed_side_by_side(
    base: ResolvedCheckpoint, of_base: Integrity
) -> None:
    full = resolve("builtin:leaky-t2i-full", offline=True)
    own = verify(full.folder)
    assert verify_checkpoint(full) == own
    both = verify_checkpoint(full, base)
    assert both.pipeline == "StableDiffusionPipeline"
    assert set(both.files) == {*own.files, *(f"base: {name}" for name in of_base.files)}
    assert both.files["base: unet/config.json"] == of_base.files["unet/config.json"]
    assert both.num_tensors == own.num_tensors + of_base.num_tensors
    assert both.num_parameters == own.num_parameters + of_base.num_parameters


def test_a_lora_says_what_it_is_and_every_file_that_is_read_is_hashed(
    base: ResolvedCheckpoint, of_base: Integrity, tmp_path: Path
) -> None:
    lora = resolve("builtin:leaky-t2i-lora", offline=True)
    weights = FIXTURES / "leaky-t2i-lora" / DIFFUSERS_WEIGHTS
    found = verify_checkpoint(lora, base)
    rank = {len(down) for down, _ in layers_of_fixture().values()}
    assert found.pipeline.startswith(f"LoRA, diffusers layout, rank {rank.pop()}, ")
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert found.files[DIFFUSERS_WEIGHTS] == digest
    assert found.num_parameters == numbers_in(weights) + of_base.num_parameters

    peft = write_peft(tmp_path / "peft", layers_of_fixture())
    alone = verify_checkpoint(resolve(str(peft), offline=True))
    names = {f"{part}/adapter_{rest}" for part in ("unet", "text_encoder") for rest in FILES}
    assert set(alone.files) == names
    assert alone.num_parameters == numbers_in(*peft.glob("*/*.safetensors"))


FILES = ("config.json", "model.safetensors")


def test_a_single_file_is_one_file_beside_those_of_its_base(
    base: ResolvedCheckpoint, of_base: Integrity, tmp_path: Path
) -> None:
    loaded = load_text_to_image(base, device="cpu", dtype="float32")
    parts = (original_unet(loaded.unet), original_clip(loaded.text_encoder))
    path = write_original(tmp_path / "model.safetensors", *parts)
    checkpoint = resolve(str(path), offline=True)
    assert (checkpoint.form, checkpoint.kind) == ("single file", "text-to-image")
    alone = verify_checkpoint(checkpoint)
    assert alone.pipeline == "single file"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert alone.files == {"model.safetensors": digest}
    assert alone.num_tensors == sum(len(part) for part in parts)
    assert len(verify_checkpoint(checkpoint, base).files) == 1 + len(of_base.files)


def test_a_set_lists_every_concept(base: ResolvedCheckpoint) -> None:
    found = [
        verify_checkpoint(resolve(f"builtin:leaky-t2i-{name}", offline=True))
        for name in ("full", "lora")
    ]
    assert joined(found[:1]) is found[0]
    both = joined(found)
    assert both.pipeline == "2 fine-tunes"
    assert both.num_tensors == found[0].num_tensors + found[1].num_tensors
    assert both.num_parameters == found[0].num_parameters + found[1].num_parameters
    assert len(both.files) == len(found[0].files) + len(found[1].files)
    assert both.files[f"concept 2: {DIFFUSERS_WEIGHTS}"] == found[1].files[DIFFUSERS_WEIGHTS]


def test_a_lora_that_is_gone_since_it_was_found_is_an_error(tmp_path: Path) -> None:
    path = write_diffusers(tmp_path / "lora" / DIFFUSERS_WEIGHTS, layers_of_fixture())
    lora = resolve(str(path.parent), offline=True)
    path.unlink()
    with pytest.raises(CheckpointError, match="changed: it was a LoRA a moment ago"):
        verify_checkpoint(lora)
