"""Act as somebody who may not read or write everything, also when tests run as root."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NOBODY = 65534


@contextmanager
def readable_folder() -> Iterator[Path]:
    """A folder that everybody may enter, unlike ``tmp_path``."""
    folder = Path(tempfile.mkdtemp(prefix="memscan-test-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Give up root's rights for a while; without them, nothing changes."""
    if not hasattr(os, "seteuid"):
        pytest.skip("file permissions of POSIX are needed")
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)
