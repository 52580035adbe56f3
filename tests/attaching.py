"""What tests of attached LoRAs share: the base of the fixture, and refusals."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pytest_memscan.checkpoints.adapter_files import Adapter, find_adapter, vet_adapter
from pytest_memscan.checkpoints.adapters import attach_adapter
from pytest_memscan.checkpoints.load import load_text_to_image
from pytest_memscan.checkpoints.resolve import resolve
from pytest_memscan.errors import CheckpointError

TOLERANCE = 1e-5  # of predictions and embeddings


@cache
def loaded_base() -> Any:
    """fixtures/clean-t2i, loaded once; not to be changed."""
    found = resolve("builtin:clean-t2i", offline=True)
    return load_text_to_image(found, device="cpu", dtype="float32")


def base_of_fixture() -> Any:
    """The base of the fixture: denoiser and text encoder are the test's own."""
    pipeline = copy.copy(loaded_base())
    parts = {name: copy.deepcopy(getattr(pipeline, name)) for name in ("unet", "text_encoder")}
    return type(pipeline)(**{**pipeline.components, **parts}, requires_safety_checker=False)


def vetted_adapter(path: Path) -> Adapter:
    """The adapter in a folder or a file."""
    files = find_adapter(path)
    assert files is not None
    return vet_adapter(files)


def attach(pipeline: Any, path: Path) -> tuple[str, ...]:
    """Attach what lies there; the parts that it changes."""
    return attach_adapter(pipeline, vetted_adapter(path), label="./style")


def refused(pipeline: Any, adapter: Adapter | Path) -> str:
    """The one line with which an adapter is refused; the pipeline is as it was."""
    adapter = vetted_adapter(adapter) if isinstance(adapter, Path) else adapter
    with pytest.raises(CheckpointError) as raised:
        attach_adapter(pipeline, adapter, label="./style")
    parts = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    assert not any("lora" in name for part in parts for name, _ in part.named_modules())
    message = str(raised.value)
    assert "\n" not in message
    assert str(adapter.source.folder) not in message
    return message


def random_values(shape: tuple[int, ...], seed: int) -> Any:
    """Normal values of deviation 0.2."""
    return np.random.default_rng(seed).normal(0, 0.2, shape).astype(np.float32)
