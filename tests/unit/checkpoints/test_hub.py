"""What is fetched from the Hub: one commit, the files that are loaded, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from checkpoint_factory import WEIGHTS
from hub_server import files_of

if TYPE_CHECKING:
    from conftest import Hub


def test_only_the_files_that_are_loaded_are_fetched_and_by_commit(hub: Hub) -> None:
    extra = {
        "unet/diffusion_pytorch_model.bin": b"pickle",
        "unet/diffusion_pytorch_model.fp16.safetensors": b"variant",
        "unet/README.md": b"x",
        "pipeline.py": b"raise SystemExit",
        "checkpoint-500/unet/diffusion_pytorch_model.safetensors": b"older",
        "README.md": b"# model",
        ".gitattributes": b"",
    }
    repo = hub.server.add("org/name", {**hub.files, **extra})
    commit = repo.branches["main"]
    found = hub.resolve("org/name")
    assert found["commit"] == commit
    assert found["label"] == f"org/name@{commit[:7]}"
    assert hub.server.fetched() == sorted([*hub.files, "README.md"])  # the card names a base
    card = {"README.md": extra["README.md"]}
    assert files_of(Path(found["folder"])) == {**hub.files, **card}
    downloads = [r.path for r in hub.server.requests if "/resolve/" in r.path]
    assert all(path.split("/")[4] == commit for path in downloads)


def test_a_branch_that_moves_during_the_run_changes_nothing(hub: Hub) -> None:
    repo = hub.server.add("org/name", hub.files)
    first = repo.branches["main"]
    moved = {**hub.files, "model_index.json": b'{"_class_name": "Evil"}'}

    def move() -> None:
        if len(repo.commits) == 1:
            repo.commit({**moved, "new.txt": b""})

    repo.after_info = move
    found = hub.resolve("org/name@main")
    assert repo.branches["main"] != first
    assert found["commit"] == first
    assert files_of(Path(found["folder"])) == hub.files


def test_a_tag_is_resolved_to_its_commit(hub: Hub) -> None:
    repo = hub.server.add("org/name", {})
    tagged = repo.commit(hub.files, branch="v1.0")
    assert hub.resolve("org/name@v1.0")["commit"] == tagged


def test_a_commit_that_is_cached_needs_no_network(hub: Hub) -> None:
    commit = hub.server.add("org/name", hub.files).branches["main"]
    hub.resolve("org/name")
    hub.server.requests.clear()
    assert hub.resolve(f"org/name@{commit}")["commit"] == commit
    assert hub.server.requests == []


def test_a_commit_that_is_partly_cached_is_completed(hub: Hub) -> None:
    commit = hub.server.add("org/name", hub.files).branches["main"]
    folder = Path(hub.resolve("org/name")["folder"])
    (folder / WEIGHTS).resolve().unlink()
    (folder / WEIGHTS).unlink()
    assert hub.resolve(f"org/name@{commit}")["commit"] == commit
    assert files_of(folder) == hub.files


@pytest.mark.parametrize("how", ["option", "HF_HUB_OFFLINE"])
def test_offline_uses_the_cached_branch_without_a_request(hub: Hub, how: str) -> None:
    commit = hub.server.add("org/name", hub.files).branches["main"]
    # A download by branch writes the reference that offline mode needs.
    subprocess.run(
        [sys.executable, "-c", "import huggingface_hub as h; h.snapshot_download('org/name')"],
        env={**os.environ, "HF_ENDPOINT": hub.server.url, "HF_HOME": str(hub.home)},
        check=True,
        capture_output=True,
    )
    hub.server.requests.clear()
    if how == "option":
        found = hub.resolve("org/name", offline=True)
    else:
        found = hub.resolve("org/name", HF_HUB_OFFLINE="1")
    assert found["commit"] == commit
    assert hub.server.requests == []


def test_a_run_online_makes_the_same_spec_work_offline(hub: Hub) -> None:
    hub.server.add("org/name", hub.files)
    online = hub.resolve("org/name")
    assert hub.resolve("org/name", offline=True) == online


@pytest.mark.parametrize("spec", ["org/name", "org/name@" + "0" * 40])
def test_an_offline_miss_gives_the_command_that_prefetches(hub: Hub, spec: str) -> None:
    message = hub.error(spec, offline=True)
    revision = spec.partition("@")[2] or "main"
    assert f"hf download org/name --revision {revision}" in message
    assert hub.server.requests == []


def test_an_incomplete_cache_is_an_offline_miss_that_names_the_file(hub: Hub) -> None:
    hub.server.add("org/name", hub.files)
    (Path(hub.resolve("org/name")["folder"]) / WEIGHTS).unlink()
    message = hub.error("org/name", offline=True)
    assert WEIGHTS in message
    assert "hf download org/name" in message


def test_a_cached_file_that_changed_on_disk_is_refused(hub: Hub) -> None:
    hub.server.add("org/name", hub.files)
    blob = (Path(hub.resolve("org/name")["folder"]) / WEIGHTS).resolve()
    blob.chmod(0o600)
    blob.write_bytes(blob.read_bytes()[:-1] + b"\x01")
    for offline in (True, False):
        message = hub.error("org/name", offline=offline)
        assert "is not the file on the Hub" in message
        assert "Hub cache" in message


def test_a_download_that_differs_from_the_announced_hash_is_refused(hub: Hub) -> None:
    repo = hub.server.add("org/name", hub.files)
    repo.served[WEIGHTS] = hub.files[WEIGHTS][:-1] + b"\x01"
    message = hub.error("org/name")
    assert f"{WEIGHTS} of org/name is not the file on the Hub" in message


def test_a_repository_with_only_pickles_costs_one_small_download(hub: Hub) -> None:
    files = {k: v for k, v in hub.files.items() if k != WEIGHTS}
    hub.server.add("org/pickles", {**files, "unet/diffusion_pytorch_model.bin": b"evil"})
    message = hub.error("org/pickles")
    assert "is a pickle, which can run code when loaded" in message
    assert hub.server.fetched() == ["model_index.json"]


def test_a_repository_without_model_index_is_refused_before_anything_is_fetched(hub: Hub) -> None:
    hub.server.add("org/part", {"config.json": b"{}", "model.safetensors": b"x"})
    message = hub.error("org/part")
    assert "has no model_index.json: this is a single model" in message
    assert hub.server.fetched() == []


def test_an_unsupported_repository_costs_one_small_download(hub: Hub) -> None:
    index = json.dumps({"_class_name": "StableDiffusionInpaintPipeline"}).encode()
    hub.server.add("org/sd", {**hub.files, "model_index.json": index})
    assert "needs an input image" in hub.error("org/sd")
    assert hub.server.fetched() == ["model_index.json"]


@pytest.mark.parametrize("name", ["../../evil.json", "/etc/x.json", "a\\b.json", "C:x", "a//b"])
def test_a_listing_with_a_name_that_leaves_the_cache_is_refused(hub: Hub, name: str) -> None:
    hub.server.add("org/evil", {**hub.files, name: b"{}"})
    message = hub.error("org/evil")
    assert "could leave the cache folder" in message
    assert hub.server.fetched() == []


def test_code_in_a_component_folder_of_a_repository_is_refused_unfetched(hub: Hub) -> None:
    hub.server.add("org/code", {**hub.files, "unet/my_unet.py": b"raise SystemExit"})
    assert "is code in a component folder" in hub.error("org/code")
    assert hub.server.fetched() == ["model_index.json"]


def test_the_flat_layout_of_older_repositories_is_fetched(hub: Hub) -> None:
    flat = {name.rpartition("/")[2]: data for name, data in hub.files.items()}
    hub.server.add("org/flat", {**flat, "diffusion_pytorch_model.bin": b"pickle"})
    assert files_of(Path(hub.resolve("org/flat")["folder"])) == flat
