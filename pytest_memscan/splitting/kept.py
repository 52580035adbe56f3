"""What a splitting scan keeps on disk: where an island stands, and how finished ones ended.

Every file is written beside its name, synced and renamed, so that what is there is whole. A folder
belongs to one plan; the same plan goes on from what it finds.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.errors import StoreError, shown_path

Arrays = dict[str, NDArray[Any]]
_NAMES = "names"  # of all arrays of a file: an archive may lose some and still be read


@dataclass(frozen=True, kw_only=True)
class KeptIsland:
    """Files of one island.

    Attributes:
        folder: Of the plan; exists.
        name: Of the island.
    """

    folder: Path
    name: str

    def state(self) -> Arrays | None:
        """After the last selection, or None where there is none to go on from."""
        return read_arrays(self._path("state")) if self._steps.exists() else None

    def save_state(self, **arrays: Any) -> None:
        """Remember where the island stands."""
        with explained(self.folder):
            if self._steps.exists():  # what the state goes on from must not be lost before it is
                with self._steps.open("r+b") as file:
                    os.fsync(file.fileno())
        write_arrays(self._path("state"), arrays)

    def result(self) -> Arrays | None:
        """How the island ended, or None."""
        return read_arrays(self._path("result"))

    def finish(self, **arrays: Any) -> None:
        """Remember how the island ended; what was needed to go on is forgotten."""
        write_arrays(self._path("result"), arrays)
        for path in (self._path("state"), self._steps):
            path.unlink(missing_ok=True)

    def keep_step(
        self, number: int, noise: NDArray[np.float32], clean: NDArray[np.float32]
    ) -> None:
        """Write what happened at a step: ``(num, ...)`` noise and clean predictions."""
        both = np.stack([noise, clean])
        with explained(self.folder), self._steps.open("r+b" if number else "w+b") as file:
            file.seek(number * both.nbytes)
            file.write(both.tobytes())

    def steps_of(
        self, lineage: NDArray[np.int64], shape: tuple[int, ...]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What some trajectories went through, until the island is finished.

        Args:
            lineage: ``(num_chosen, num_steps)`` places whose noise each step used.
            shape: ``(num, ...)`` of the latents of the island.

        Returns:
            Noise and clean predictions, each ``(num_steps, num_chosen, ...)``.
        """
        num_steps = lineage.shape[1]
        with explained(self.folder):
            kept = np.memmap(self._steps, dtype=np.float32, mode="r", shape=(num_steps, 2, *shape))
            chosen = [kept[number][:, lineage[:, number]] for number in range(num_steps)]
        noise, clean = np.stack(chosen, axis=1)
        return noise, clean

    @property
    def _steps(self) -> Path:
        return self.folder / f"{self.name}.steps"

    def _path(self, what: str) -> Path:
        return self.folder / f"{self.name}.{what}.npz"


def read_arrays(path: Path) -> Arrays | None:
    """Arrays of a file; None where it is missing or damaged, and would be made again."""
    try:
        # A file that `np.load` opens itself stays open where it is damaged.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            names = arrays[_NAMES].tolist()
            return {name: arrays[name] for name in names}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile):
        # RuntimeError: a damaged header that asks for a password, or for another kind of archive.
        path.unlink(missing_ok=True)
        return None


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Write arrays to a file, whole or not at all.

    Raises:
        StoreError: The folder cannot be written.
    """
    partial = path.with_suffix(".partial")
    with explained(path.parent):
        with partial.open("wb") as file:
            named: Arrays = arrays | {_NAMES: np.array(list(arrays), dtype=str)}
            np.savez(file, **named)  # type: ignore[arg-type]  # its stub means allow_pickle
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """What is wrong with a folder, without where on this machine it is."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"the splitting scan cannot keep its trajectories in {shown_path(folder)} "
            f"({error.strerror}); free some space, or choose another folder with "
            "--memscan-cache-dir"
        ) from None
