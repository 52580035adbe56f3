"""A fake Hub for the tests of this folder, and `resolve` in a process of its own that uses it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from checkpoint_factory import save_tiny_checkpoint
from hub_server import HubServer, files_of

TOKEN = "hf_" + "S3cretS3cretS3cretS3cret"

_RESOLVE = """
import json, sys
from pytest_memscan.checkpoints.resolve import resolve
from pytest_memscan.errors import MemscanError
try:
    found = resolve(sys.argv[1], offline=sys.argv[2] == "offline")
    answer = {"label": found.label, "folder": str(found.folder), "commit": found.commit}
except MemscanError as error:
    answer = {"error": f"{type(error).__name__}: {error}"}
print("ANSWER" + json.dumps(answer))
"""


@dataclass
class Hub:
    """A fake Hub, and `resolve` in a process of its own: its settings are read at import."""

    token = TOKEN

    server: HubServer
    home: Path
    files: dict[str, bytes]

    def resolve(self, spec: str, *, offline: bool = False, **env: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))}
        settings = {
            "HF_ENDPOINT": self.server.url,
            "HF_HOME": str(self.home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_ETAG_TIMEOUT": "5",
        }
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", _RESOLVE, spec, "offline" if offline else ""],
            env={**kept, **settings, "PYTHONPATH": os.pathsep.join(sys.path), **env},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert "ANSWER" in done.stdout, done.stderr
        assert TOKEN not in done.stdout + done.stderr
        answer: dict[str, str] = json.loads(done.stdout.partition("ANSWER")[2])
        return answer

    def error(self, spec: str, *, offline: bool = False, **env: str) -> str:
        message = self.resolve(spec, offline=offline, **env)["error"]
        assert message.startswith("CheckpointError: ") or message.startswith("NotCachedError: ")
        assert "\n" not in message
        return message


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save_tiny_checkpoint(tmp_path / "ckpt")


@pytest.fixture(scope="module")
def tiny_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return files_of(save_tiny_checkpoint(tmp_path_factory.mktemp("hub") / "ckpt"))


@pytest.fixture
def hub(tmp_path: Path, tiny_files: dict[str, bytes]) -> Iterator[Hub]:
    with HubServer.running() as server:
        yield Hub(server, tmp_path / "hf", dict(tiny_files))
