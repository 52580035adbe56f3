"""What is fetched of a repository that holds a LoRA or a single file, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from adapter_factory import DIFFUSERS_WEIGHTS, layers_of_fixture, write_diffusers, write_peft
from hub_server import files_of
from original_layout import original_unet, write_original
from pipeline_factory import tiny_pipeline
from safetensors.numpy import save

if TYPE_CHECKING:
    from conftest import Hub

CARD = b"---\nbase_model: org/base\n---\n"
EXTRA = {
    "README.md": CARD,
    ".gitattributes": b"",
    "image_0.png": b"x",
    "train.py": b"raise SystemExit",
    "optimizer.bin": b"pickle",
    "checkpoint-500/pytorch_lora_weights.safetensors": b"older",
}


@pytest.fixture(scope="module")
def lora_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("lora")
    write_diffusers(folder / DIFFUSERS_WEIGHTS, layers_of_fixture())
    return files_of(folder)


@pytest.fixture(scope="module")
def single_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("single") / "model.safetensors"
    return write_original(path, original_unet(tiny_pipeline("sd1").unet)).read_bytes()


def test_of_a_lora_its_weights_and_its_card_are_fetched(
    hub: Hub, lora_files: dict[str, bytes]
) -> None:
    commit = hub.server.add("org/lora", {**lora_files, **EXTRA}).branches["main"]
    found = hub.resolve("org/lora")
    assert (found["commit"], found["label"]) == (commit, f"org/lora@{commit[:7]}")
    assert hub.server.fetched() == sorted([DIFFUSERS_WEIGHTS, "README.md"])
    assert files_of(Path(found["folder"])) == {**lora_files, "README.md": CARD}
    hub.server.requests.clear()
    assert hub.resolve("org/lora", offline=True) == found
    assert hub.server.requests == []


def test_of_an_adapter_of_peft_every_part_is_fetched_with_its_configuration(
    hub: Hub, tmp_path: Path
) -> None:
    files = files_of(write_peft(tmp_path / "peft", layers_of_fixture()))
    assert len(files) == 4
    files["unet/adapter_config.json"] += b"\n"  # of two files of the same bytes one is fetched
    hub.server.add("org/peft", {**files, **EXTRA})
    found = hub.resolve("org/peft")
    assert hub.server.fetched() == sorted([*files, "README.md"])
    assert hub.resolve("org/peft", offline=True) == found
    (Path(found["folder"]) / "text_encoder" / "adapter_model.safetensors").unlink()
    assert "text_encoder/adapter_model.safetensors" in hub.error("org/peft", offline=True)


def test_a_lora_that_changed_in_the_cache_is_refused(
    hub: Hub, lora_files: dict[str, bytes]
) -> None:
    hub.server.add("org/lora", lora_files)
    blob = (Path(hub.resolve("org/lora")["folder"]) / DIFFUSERS_WEIGHTS).resolve()
    blob.chmod(0o600)
    blob.write_bytes(blob.read_bytes()[:-1] + b"\x01")
    for offline in (True, False):
        assert "is not the file on the Hub" in hub.error("org/lora", offline=offline)


@pytest.mark.parametrize(
    "files",
    [
        {"pytorch_lora_weights.bin": b"pickle"},
        {"adapter_config.json": b"{}", "adapter_model.bin": b"pickle"},
    ],
)
def test_an_adapter_that_is_a_pickle_is_refused_unfetched(
    hub: Hub, files: dict[str, bytes]
) -> None:
    hub.server.add("org/pickled", {**files, **EXTRA})
    assert "is a pickle, which can run code when loaded" in hub.error("org/pickled")
    assert hub.server.fetched() == []


def test_of_several_files_that_may_be_the_adapter_none_is_guessed(
    hub: Hub, lora_files: dict[str, bytes]
) -> None:
    content = lora_files[DIFFUSERS_WEIGHTS]
    hub.server.add("org/two", {"a.safetensors": content, "b.safetensors": content})
    message = hub.error("org/two")
    assert "2 files may be the adapter ('a.safetensors', 'b.safetensors')" in message
    assert hub.server.fetched() == []


def test_a_lora_under_any_name_is_recognised_by_its_header(
    hub: Hub, lora_files: dict[str, bytes]
) -> None:
    hub.server.add("org/named", {"vask.safetensors": lora_files[DIFFUSERS_WEIGHTS], **EXTRA})
    found = hub.resolve("org/named")
    assert hub.server.fetched() == ["README.md", "vask.safetensors"]
    assert hub.resolve("org/named", offline=True) == found


def test_a_repository_with_one_file_of_the_original_layout_is_that_file(
    hub: Hub, single_file: bytes
) -> None:
    hub.server.add("org/single", {"model.safetensors": single_file, **EXTRA})
    found = hub.resolve("org/single")
    assert Path(found["folder"]).name == "model.safetensors"
    assert Path(found["folder"]).read_bytes() == single_file
    assert hub.server.fetched() == ["README.md", "model.safetensors"]
    assert hub.resolve("org/single", offline=True) == found


def test_a_repository_with_one_file_that_is_neither_says_what_it_is(hub: Hub) -> None:
    hub.server.add("org/other", {"model.safetensors": save({"a.weight": np.ones(3)})})
    message = hub.error("org/other")
    assert "model.safetensors" in message
