"""Nothing of the developer's or the CI machine's settings reaches a run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

# Before any fixture runs: those of a module or session come before the one below.
_SETTINGS = ("CI", "GITHUB_WORKSPACE", "PYTEST_ADDOPTS")
for _name in list(os.environ):
    if _name in _SETTINGS or _name.startswith(("HF_", "MEMSCAN_")):
        del os.environ[_name]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Fill a folder once, in whichever process of the run needs it first.

    A fixture of a module is made again by every worker of xdist, and by one that was given tests of
    another module in between; a scan of half a minute should not be.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def filled(name: str, fill: Callable[[Path], None]) -> Path:
        folder = root / f"once-{name}"
        with FileLock(f"{folder}.lock"):
            if not (folder / "filled").exists():
                folder.mkdir(exist_ok=True)
                fill(folder)
                (folder / "filled").touch()
        return folder

    return filled


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated images that tests may share; plan rows make the same images for all."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, shared_cache: Path) -> None:
    monkeypatch.setenv("MEMSCAN_CACHE_DIR", str(shared_cache))
