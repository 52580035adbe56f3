"""Nothing of the developer's or the CI machine's settings reaches a run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before any fixture runs: those of a module or session come before the one below.
_SETTINGS = ("CI", "GITHUB_WORKSPACE", "PYTEST_ADDOPTS")
for _name in list(os.environ):
    if _name in _SETTINGS or _name.startswith(("HF_", "MEMSCAN_")):
        del os.environ[_name]


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated images that tests may share; plan rows make the same images for all."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, shared_cache: Path) -> None:
    monkeypatch.setenv("MEMSCAN_CACHE_DIR", str(shared_cache))
