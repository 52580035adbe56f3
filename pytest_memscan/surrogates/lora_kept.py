"""What LoRA training keeps on disk: where it stands, and how it ended.

Every file is written beside its name, synced and renamed, so that what is there is whole. What is
damaged all the same is made again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from pytest_memscan.errors import StoreError, shown_path

Tensors = dict[str, torch.Tensor]
_SPEC = "spec"


@dataclass(frozen=True, kw_only=True)
class KeptLora:
    """Files of one training.

    Attributes:
        folder: Where they are; None where nothing is kept.
        spec: What is trained, on what and how; a folder of another training is refused.
    """

    folder: Path | None
    spec: str

    def state(self) -> Tensors | None:
        """Where training stands, or None.

        Raises:
            StoreError: It is of another training, or cannot be read.
        """
        path = self._path("state.safetensors")
        data = None if path is None else _read(path)
        if data is None:
            return None
        try:
            tensors: Tensors = load(data)
            self._require_same(bytes(tensors.pop(_SPEC).tolist()).decode())
        except (SafetensorError, KeyError, ValueError):
            return None
        return tensors

    def save_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Remember where training stands; tensors of names other than ``spec``."""
        path = self._path("state.safetensors")
        if path is not None:
            spec = torch.tensor(list(self.spec.encode()), dtype=torch.uint8)
            _write(path, save({**_on_cpu(tensors), _SPEC: spec}))

    def result(self) -> tuple[Tensors, dict[str, Any]] | None:
        """Trained values and their record, or None where training did not end.

        Raises:
            StoreError: It is of another training, or cannot be read.
        """
        described, weights = self._path("record.json"), self._path("weights.safetensors")
        if described is None or weights is None:
            return None
        text, data = _read(described), _read(weights)
        if text is None or data is None:
            return None
        try:
            content = json.loads(text)
            self._require_same(content[_SPEC])
            if content["sha256"] != hashlib.sha256(data).hexdigest():
                return None
            return load(data), dict(content["record"])
        except (SafetensorError, KeyError, TypeError, ValueError):
            return None

    def finish(self, tensors: Mapping[str, torch.Tensor], record: Mapping[str, Any]) -> None:
        """Remember how training ended; what was needed to go on is forgotten."""
        described, weights = self._path("record.json"), self._path("weights.safetensors")
        state = self._path("state.safetensors")
        if described is None or weights is None or state is None:
            return
        data = save(_on_cpu(tensors))
        content = {
            _SPEC: self.spec,
            "sha256": hashlib.sha256(data).hexdigest(),
            "record": dict(record),
        }
        _write(weights, data)
        _write(described, json.dumps(content, indent=1, sort_keys=True).encode())
        with _explained(state.parent):
            state.unlink(missing_ok=True)

    def _path(self, name: str) -> Path | None:
        return None if self.folder is None else self.folder / name

    def _require_same(self, spec: str) -> None:
        if spec != self.spec:
            assert self.folder is not None  # noqa: S101  # it was read from there
            raise StoreError(
                f"{shown_path(self.folder)} holds a LoRA of other samples, labels or settings; "
                "delete that folder, or choose another with --memscan-cache-dir"
            )


def _on_cpu(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    return {name: each.detach().cpu().contiguous() for name, each in tensors.items()}


def _read(path: Path) -> bytes | None:
    with _explained(path.parent):
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(f"{path.name}.partial")
    with _explained(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """What is wrong with a folder, without where on this machine it is."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"the LoRA of SIDE cannot be kept in {shown_path(folder)} ({error.strerror}); free "
            "some space, or choose another folder with --memscan-cache-dir"
        ) from None
