"""Opening files that may be pipes, devices or links that lead nowhere."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from pytest_memscan.errors import TrainDataError


def open_regular(path: Path, shown: str) -> BinaryIO:
    """A regular file, opened for reading.

    Args:
        path: The file; links are followed.
        shown: Its name in messages, printable.

    Raises:
        TrainDataError: Not there, not readable, or not a regular file.
    """
    # O_NONBLOCK: opening a pipe that nobody writes to would otherwise wait for ever.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise TrainDataError(f"{shown} cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise TrainDataError(f"{shown} is not a regular file")
    return os.fdopen(descriptor, "rb")
