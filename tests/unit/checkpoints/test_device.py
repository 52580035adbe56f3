"""A device that was asked for is used or refused, never replaced."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from pytest_memscan.checkpoints.load import resolve_device
from pytest_memscan.errors import OptionError


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def pretend(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return pretend


def test_auto_takes_a_gpu_if_there_is_one(gpus: Callable[[int], None]) -> None:
    gpus(2)
    assert resolve_device("auto") == "cuda"
    assert resolve_device("cuda:1") == "cuda:1"
    assert resolve_device("cpu") == "cpu"


def test_available_without_a_device_is_no_gpu(gpus: Callable[[int], None]) -> None:
    """torch.cuda.is_available() can be true where device_count() is 0."""
    gpus(0)
    assert resolve_device("auto") == "cpu"
    with pytest.raises(OptionError, match="--memscan-device cpu"):
        resolve_device("cuda")


def test_a_gpu_number_that_does_not_exist_is_refused(gpus: Callable[[int], None]) -> None:
    gpus(2)
    with pytest.raises(OptionError, match="there are 2 GPUs, cuda:0 to cuda:1"):
        resolve_device("cuda:2")


@pytest.mark.parametrize("device", ["", "gpu", "cuda:", "cuda:x", "tpu", "meta"])
def test_an_unknown_device_is_refused_with_those_known(device: str) -> None:
    with pytest.raises(OptionError, match="use auto, cpu, cuda or cuda:N"):
        resolve_device(device)
