"""Settings as a test wants them, and nothing of the machine it runs on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_memscan.config import Config, resolve_config


class Resolve:
    """`resolve_config` in two folders of its own, with nothing set unless a test sets it."""

    def __init__(self, folder: Path) -> None:
        self.rootdir = folder / "project"
        self.invocation_dir = self.rootdir / "sub"
        self.invocation_dir.mkdir(parents=True)

    def __call__(
        self,
        *,
        toml: str | None = None,
        ini: dict[str, Any] | None = None,
        environ: dict[str, str] | None = None,
        **options: Any,
    ) -> Config:
        if toml is not None:
            (self.rootdir / "memscan.toml").write_text(toml, encoding="utf-8")
        return resolve_config(
            {"model": "builtin:clean", **options},
            ini=ini or {},
            rootdir=self.rootdir,
            invocation_dir=self.invocation_dir,
            environ=environ or {},
        )


@pytest.fixture
def resolve(tmp_path: Path) -> Resolve:
    """`resolve_config` with its own folders."""
    return Resolve(tmp_path)
