"""Every test has its own settings: nothing of the developer's machine reaches a run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated images that tests may share; plan rows make the same images for all."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _isolated_environment(monkeypatch: pytest.MonkeyPatch, shared_cache: Path) -> None:
    for name in list(os.environ):
        if name in ("CI", "PYTEST_ADDOPTS") or name.startswith(("HF_", "MEMSCAN_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MEMSCAN_CACHE_DIR", str(shared_cache))
