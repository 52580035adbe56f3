"""Pictures with what is known of them, in a folder of files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.reports.json import dump, load

P = TypeVar("P")


def keep(folder: Path, pictures: Iterable[Any]) -> None:
    """Write one file for each; a field that is None is left out, a finding becomes JSON.

    Args:
        folder: Made where there is none; nobody but its owner can read it.
        pictures: Dataclasses; their fields are pictures, findings, whole numbers and tuples of
            them.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for position, picture in enumerate(pictures):
        values = ((field.name, getattr(picture, field.name)) for field in fields(picture))
        arrays: dict[str, Any] = {
            name: np.asarray(dump(value) if is_dataclass(value) else value)
            for name, value in values
            if value is not None
        }
        # A process that is killed meanwhile must not leave half a file that a report trips over.
        partial = folder / "partial"
        with partial.open("wb") as file:
            np.savez(file, **arrays)
        partial.replace(folder / f"{position:04d}.npz")


def kept(folder: Path, kind: type[P]) -> list[P]:
    """What `keep` wrote, in the same order; nothing where there is no such folder."""
    hints, pictures = get_type_hints(kind), []
    for file in sorted(folder.glob("*.npz")):
        with np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        values: dict[str, Any] = {
            name: _value(arrays[name], hint) if name in arrays else None
            for name, hint in hints.items()
        }
        pictures.append(kind(**values))
    return pictures


def _value(array: NDArray[Any], hint: Any) -> Any:
    if isinstance(hint, type) and is_dataclass(hint):
        return load(str(array), hint)
    if array.ndim == 0:
        return int(array)
    return tuple(array.tolist()) if array.ndim == 1 else array
