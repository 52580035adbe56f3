"""The pictures and the list of what they show.

Every run has a folder of its own, so that two runs never mix, and what was found before stays::

    DIR/run-20260102-030405-1f2e3d4c/
        manifest.json
        carlini-train-00013-1f2e3d4c.png     generated beside training image
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pytest_memscan.errors import OptionError
from pytest_memscan.evidence.names import Names
from pytest_memscan.evidence.shown import Shown, everything_drawn
from pytest_memscan.reports.picture_files import Pictures
from pytest_memscan.results import RunResult

Pixels = NDArray[np.uint8]
WARNING = (
    "These pictures and names may be somebody's training images. Keep them to people who have a "
    "right to see them, encrypt them before they leave this machine, and delete them when done."
)
_GAP = 4  # white pixels between two pictures


def write_evidence(
    folder: Path,
    result: RunResult,
    pictures: Pictures,
    names: Names,
    *,
    session_id: str,
) -> Path | None:
    """Write a picture of everything that the HTML report draws, clear and beside its original.

    Args:
        folder: As `place.check_evidence_dir` made it.
        result: What was measured.
        pictures: Kept by the run.
        names: Likewise.
        session_id: Of the run.

    Returns:
        The folder of this run; None where there is nothing to show.

    Raises:
        OptionError: It cannot be written.
    """
    everything = list(everything_drawn(result, pictures, names))
    if not everything:
        return None
    now = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
    own = folder / f"run-{now}-{session_id[:8]}"
    try:
        own.mkdir(mode=0o700)
        entries = [_written(own, number, each) for number, each in enumerate(everything)]
        _write(own / "manifest.json", _manifest(result, entries))
    except OSError as error:
        raise OptionError(
            f"--memscan-evidence: the pictures cannot be written ({error.strerror}); make room, or "
            "choose another folder"
        ) from None
    return own


def _written(folder: Path, number: int, shown: Shown) -> dict[str, Any]:
    """Write one picture; returns what the manifest says of it."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", shown.id).strip("-")
    file = folder / f"{shown.check}-{plain}.png"
    if file.exists():  # several images of one fine-tune may be near one training image
        file = folder / f"{shown.check}-{plain}-{number:03d}.png"
    with _opened(file) as opened:
        side_by_side(shown.pictures).save(opened, format="PNG")
    return {"file": file.name, "finding": shown.id, "check": shown.check, **shown.record}


def side_by_side(pictures: Iterable[Pixels]) -> Image.Image:
    """Pictures in a row, with white between them, as large as they are.

    Args:
        pictures: Each ``(height, width, channels)`` uint8 with 1, 3 or 4 channels; the fourth is
            left out.
    """
    drawn = [Image.fromarray(_as_rgb(each)) for each in pictures]
    width = sum(each.width for each in drawn) + _GAP * (len(drawn) - 1)
    row = Image.new("RGB", (width, max(each.height for each in drawn)), "white")
    left = 0
    for each in drawn:
        row.paste(each, (left, 0))
        left += each.width + _GAP
    return row


def _as_rgb(picture: Pixels) -> Pixels:
    if picture.shape[2] == 1:
        return np.repeat(picture, 3, axis=2)
    return np.ascontiguousarray(picture[:, :, :3])


def _manifest(result: RunResult, entries: list[dict[str, Any]]) -> bytes:
    content = {
        "warning": WARNING,
        "checkpoint": result.checkpoint,
        "verdict": result.verdict.value,
        "pictures": "generated images from the left, the training image last",
        "findings": entries,
    }
    return (json.dumps(content, indent=2) + "\n").encode()


def _write(file: Path, content: bytes) -> None:
    with _opened(file) as opened:
        opened.write(content)


def _opened(file: Path) -> Any:
    """A new file that its owner alone can read."""
    return os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
