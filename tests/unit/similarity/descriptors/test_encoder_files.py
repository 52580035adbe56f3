"""Which files of an encoder are needed, and how they come from the Hub: by commit, checked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from descriptor_factory import save_encoder
from hub_server import HubServer, Repo, files_of

from pytest_memscan.errors import DescriptorError
from pytest_memscan.similarity.descriptors.encoder_files import (
    INDEX,
    SINGLE,
    choose_files,
    file_hashes,
    joint_hash,
    names_in,
)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder") / "model"
    save_encoder("dinov2", folder)
    return folder


def flipped(data: bytes) -> bytes:
    """The same with one bit of the last number changed."""
    return data[:-4] + bytes([data[-4] ^ 1]) + data[-3:]


def hashes_of(folder: Path) -> dict[str, str]:
    return file_hashes(folder, choose_files(names_in(folder, label="x"), label="x"), label="x")


def test_one_file_wins_over_several_as_in_transformers() -> None:
    names = ["config.json", "preprocessor_config.json", SINGLE, INDEX,
             "model-00001-of-00001.safetensors", "pytorch_model.bin"]  # fmt: skip
    assert choose_files(names, label="x").weights == (SINGLE,)
    assert choose_files(set(names) - {SINGLE}, label="x").weights == (
        "model-00001-of-00001.safetensors",
    )


def test_the_hash_of_several_files_depends_on_each() -> None:
    assert joint_hash({"a": "1" * 64}) == "1" * 64
    hashes = {joint_hash({"a": "1" * 64, "b": each * 64}) for each in "234"}
    assert len(hashes) == 3
    assert joint_hash({"b": "2", "a": "1"}) == joint_hash({"a": "1", "b": "2"})


_FETCH = """
import json, sys
from pytest_memscan.errors import MemscanError
from pytest_memscan.similarity.descriptors.encoder_files import fetch
try:
    folder, commit = fetch(sys.argv[1], sys.argv[2] or None, offline=sys.argv[3] == "offline")
    answer = {"folder": str(folder), "commit": commit}
except MemscanError as error:
    answer = {"error": f"{type(error).__name__}: {error}"}
print("ANSWER" + json.dumps(answer))
"""


class Hub:
    """A fake Hub, and `fetch` in a process of its own: its settings are read at import."""

    def __init__(self, server: HubServer, home: Path) -> None:
        self.server, self.home = server, home

    def fetch(self, repo: str, revision: str = "", *, offline: bool = False) -> dict[str, str]:
        return self.run(_FETCH, repo, revision, "offline" * offline)

    def run(self, script: str, repo: str, revision: str = "", offline: str = "") -> dict[str, Any]:
        settings = {
            "HF_ENDPOINT": self.server.url,
            "HF_HOME": str(self.home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", script, repo, revision, offline],
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert "ANSWER" in done.stdout, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout.partition("ANSWER")[2])
        assert "\n" not in answer.get("error", "")
        return answer


@pytest.fixture
def files(encoder: Path) -> dict[str, bytes]:
    return files_of(encoder)


def hub_repo(server: HubServer, files: dict[str, bytes]) -> Repo:
    return server.add("org/encoder", files)


def test_a_hub_model_is_fetched_by_commit_without_code_or_pickles(
    files: dict[str, bytes], encoder: Path, tmp_path: Path
) -> None:
    extra = {"pytorch_model.bin": b"pickle", "modeling.py": b"raise SystemExit", "README.md": b""}
    with HubServer.running() as server:
        commit = hub_repo(server, {**files, **extra}).branches["main"]
        hub = Hub(server, tmp_path / "hf")
        found = hub.fetch("org/encoder")
        assert server.fetched() == sorted(files)
        asked = [r.path for r in server.requests if "/resolve/" in r.path]
        assert all(path.split("/")[4] == commit for path in asked)
        server.requests.clear()
        assert hub.fetch("org/encoder", commit) == found
        assert hub.fetch("org/encoder", offline=True) == found
        assert server.requests == []
    assert found["commit"] == commit
    assert hashes_of(Path(found["folder"])) == hashes_of(encoder)
    blob = (Path(found["folder"]) / SINGLE).resolve()
    blob.write_bytes(flipped(blob.read_bytes()))
    with pytest.raises(DescriptorError, match="is not the file on the Hub"):
        hashes_of(Path(found["folder"]))


def test_what_the_hub_cannot_give_is_told(files: dict[str, bytes], tmp_path: Path) -> None:
    pickled = {"pytorch_model.bin": b"", **{k: v for k, v in files.items() if k != SINGLE}}
    with HubServer.running() as server:
        hub = Hub(server, tmp_path / "hf")
        server.add("org/pickled", pickled)
        lying = hub_repo(server, files)
        lying.served[SINGLE] = flipped(files[SINGLE])
        missing = hub.fetch("org/none")["error"]
        only_pickles = hub.fetch("org/pickled")["error"]
        no_revision = hub.fetch("org/pickled", "v9")["error"]
        other_bytes = hub.fetch("org/encoder")["error"]
        not_cached = hub.fetch("org/never", offline=True)["error"]
        assert not any(name.endswith(".bin") for name in server.fetched())
    assert missing.startswith("DescriptorError: no model org/none on the Hub")
    assert "only pytorch_model.bin, which can run code when loaded" in only_pickles
    assert "has no revision v9" in no_revision
    assert "is not the file on the Hub" in other_bytes or "huggingface_hub failed" in other_bytes
    assert "cannot be used offline" in not_cached
    assert "hf download org/never" in not_cached


_LOAD = """
import json, sys
import numpy as np
from pytest_memscan.similarity.descriptors.presets import load_descriptor
found = load_descriptor(sys.argv[1], device="cpu", offline=sys.argv[3] == "offline", cache_dir=None)
described = found.describe(np.zeros((1, 9, 9, 3), dtype=np.uint8))
answer = {"name": found.name, "dimension": described.shape[1], **found.record}
print("ANSWER" + json.dumps(answer))
"""


def test_a_hub_model_becomes_a_descriptor_named_with_its_commit(
    files: dict[str, bytes], encoder: Path, tmp_path: Path
) -> None:
    with HubServer.running() as server:
        commit = hub_repo(server, files).branches["main"]
        loaded = Hub(server, tmp_path / "hf").run(_LOAD, "org/encoder@main")
    assert loaded["name"] == f"org/encoder@{commit[:7]}"
    assert loaded["dimension"] == 16
    assert loaded["weights_sha256"] == hashes_of(encoder)[SINGLE]
