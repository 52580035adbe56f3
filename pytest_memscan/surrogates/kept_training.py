"""Where the training of a classifier is kept: whole or not at all, and never pickled.

Every file says which training it is of, and by a digest what it should hold: one that is damaged
or foreign is as good as missing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from pytest_memscan.errors import StoreError, shown_path
from pytest_memscan.results import SurrogateTraining

CLASSIFIER, RECORD, STATE = "classifier.safetensors", "classifier.json", "training.safetensors"
_Tensors = dict[str, torch.Tensor]


class KeptTraining:
    """Files of one training.

    Attributes:
        folder: Of this training alone.
        fingerprint: Of everything that the weights depend on.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder, self.fingerprint = folder, fingerprint

    def finished(self, network: nn.Module) -> SurrogateTraining | None:
        """Load the finished classifier into a network; None, and nothing loaded, without one."""
        found = self._read(CLASSIFIER)
        if found is None:
            return None
        weights, said = found
        try:
            text = (self.folder / RECORD).read_bytes()
            if said.get("record") != hashlib.sha256(text).hexdigest():
                return None
            record = TypeAdapter(SurrogateTraining).validate_json(text)
        except (OSError, ValidationError):
            return None
        if not _fits(network, weights):
            return None
        network.load_state_dict(weights)
        return record

    def finish(self, network: nn.Module, record: SurrogateTraining) -> None:
        """Keep a finished classifier; what was needed to go on is forgotten."""
        text = json.dumps(asdict(record), indent=1).encode()
        self._replace(RECORD, lambda partial: partial.write_bytes(text))
        # Last, because it vouches for the record too.
        self._write(CLASSIFIER, network.state_dict(), record=hashlib.sha256(text).hexdigest())
        with self._explained():
            (self.folder / STATE).unlink(missing_ok=True)

    def save(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        rate: torch.optim.lr_scheduler.LRScheduler,
        generator: torch.Generator,
        step: int,
    ) -> None:
        """Keep where the training stands after a step."""
        tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
        optimized = optimizer.state_dict()
        for number, state in optimized["state"].items():
            tensors |= {f"optimizer.{number}.{name}": value for name, value in state.items()}
        tensors["generator"] = generator.get_state()
        schedule = {"groups": optimized["param_groups"], "rate": rate.state_dict()}
        self._write(STATE, tensors, step=str(step), schedule=json.dumps(schedule))

    def go_on(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        rate: torch.optim.lr_scheduler.LRScheduler,
        generator: torch.Generator,
    ) -> int:
        """Set everything to where the training stood.

        Returns:
            Steps that were done; 0, and nothing set, without a state to go on from.
        """
        found = self._read(STATE)
        if found is None:
            return 0
        tensors, said = found
        weights = _below("network", tensors)
        if not _fits(network, weights):
            return 0
        network.load_state_dict(weights)
        schedule = json.loads(said["schedule"])
        state: dict[int, _Tensors] = {}
        for name, value in _below("optimizer", tensors).items():
            number, _, what = name.partition(".")
            state.setdefault(int(number), {})[what] = value
        optimizer.load_state_dict({"state": state, "param_groups": schedule["groups"]})
        rate.load_state_dict(schedule["rate"])
        generator.set_state(tensors["generator"])
        return int(said["step"])

    def _read(self, name: str) -> tuple[_Tensors, dict[str, str]] | None:
        """Tensors of a file and what else it says; None unless it is whole and of this training."""
        try:
            with safe_open(self.folder / name, framework="pt") as file:
                said: dict[str, str] = file.metadata() or {}
                if said.pop("fingerprint", None) != self.fingerprint:
                    return None
                tensors: _Tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (OSError, ValueError, SafetensorError):
            return None
        digest = said.pop("digest", None)
        return (tensors, said) if digest == _digest(tensors, said) else None

    def _write(self, name: str, tensors: _Tensors, **said: str) -> None:
        held = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        says = {**said, "fingerprint": self.fingerprint, "digest": _digest(held, said)}
        self._replace(name, lambda partial: save_file(held, partial, says))

    def _replace(self, name: str, write: Callable[[Path], Any]) -> None:
        """Write a file, whole or not at all.

        Raises:
            StoreError: The folder cannot be written.
        """
        partial = self.folder / f"{name}.partial"
        with self._explained():
            self.folder.mkdir(parents=True, exist_ok=True)
            write(partial)
            with partial.open("r+b") as file:
                os.fsync(file.fileno())
            os.replace(partial, self.folder / name)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What is wrong with the folder, without where on this machine it is."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or "it cannot be written"
            raise StoreError(
                f"the classifier of surrogate labels cannot be kept in {shown_path(self.folder)} "
                f"({reason}); free some space, or choose another folder with --memscan-cache-dir"
            ) from None


def _fits(network: nn.Module, weights: _Tensors) -> bool:
    """Whether weights are of this network: a newer library may have named or shaped it anew."""
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    return shapes == {name: value.shape for name, value in weights.items()}


def _below(prefix: str, tensors: _Tensors) -> _Tensors:
    start = f"{prefix}."
    return {
        name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)
    }


def _digest(tensors: _Tensors, said: dict[str, str]) -> str:
    """SHA-256 of everything that a file holds."""
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
