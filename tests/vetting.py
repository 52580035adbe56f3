"""What tests of checkpoint vetting share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_memscan.checkpoints.verify import verify
from pytest_memscan.errors import CheckpointError

UNET = "unet/config.json"
SCHEDULER = "scheduler/scheduler_config.json"
INDEX = "model_index.json"


def edit(folder: Path, name: str, **changes: object) -> None:
    """Change keys of a JSON file of a checkpoint."""
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refusal(folder: Path) -> str:
    """The one line with which the checkpoint is refused; it tells no private path."""
    with pytest.raises(CheckpointError) as raised:
        verify(folder)
    message = str(raised.value)
    assert "\n" not in message
    assert str(folder) not in message
    return message
