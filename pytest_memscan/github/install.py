"""First step of the GitHub action: install the plugin, and never another torch.

The workflow chose a build of torch for its machine. pip would replace it in silence wherever the
plugin asks for a newer one.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

NOTHING = "none"


def main() -> int:
    """Install what the input ``install`` names; 0 when it is there and torch as it was."""
    wanted = os.environ["INPUT_INSTALL"].strip()
    if wanted == NOTHING:
        return 0
    before = _torch()
    if before is None:
        return _refuse(
            "this Python has no torch, and which build fits this machine is for the workflow to "
            "say. Install torch in a step before this one"
        )
    if wanted.startswith("-"):
        return _refuse(f"{wanted!r} is an option of pip, not something to install")
    code = _pip_install(wanted or os.environ["GITHUB_ACTION_PATH"], f"torch=={before}")
    if code:
        return _refuse(
            f"pip ended with exit code {code} and says why above; torch {before} was to stay as it "
            "is. Install pytest-memscan in a step before this one, and set `install: none`"
        )
    importlib.invalidate_caches()
    after = _torch()
    if after != before:
        return _refuse(f"pip replaced torch {before} by {after or 'nothing'}")
    return 0


def _torch() -> str | None:
    try:
        return version("torch")
    except PackageNotFoundError:
        return None


def _pip_install(wanted: str, constraint: str) -> int:
    with tempfile.TemporaryDirectory(dir=os.environ.get("RUNNER_TEMP")) as folder:
        file = Path(folder) / "constraints.txt"
        file.write_text(constraint + "\n", encoding="utf-8")
        quiet = ("--disable-pip-version-check", "--no-input")
        command = [sys.executable, "-m", "pip", "install", *quiet, "--constraint", str(file)]
        return subprocess.call([*command, wanted])  # noqa: S603  # no shell


def _refuse(reason: str) -> int:
    print(f"memscan: nothing can be scanned: {reason}.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
