"""Generated images on disk: what is committed survives any kill, and is never made twice.

One folder for each generation recipe: ``images.sqlite`` (one row an image, committed batch by
batch) and the images as PNG, written beside their final name, synced and renamed before their
row is committed. So a row always has its image, and an image without a row is made again.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from PIL import Image

from pytest_memscan.errors import StoreError, shown_path

_GOES_ON = "what was committed is kept, and the same command goes on from there"
_SCHEMA = """
create table if not exists images (
    kind text not null, sample_id integer not null, seed integer not null,
    invalid text not null, sha256 text not null, primary key (kind, sample_id)
);
create table if not exists notes (name text primary key, value text not null);
"""


@dataclass(frozen=True, kw_only=True)
class StoredImage:
    """One generated image. ``invalid`` is empty, or the reason why it must not be counted."""

    sample_id: int
    seed: int
    invalid: str
    pixels: NDArray[np.uint8]  # (height, width, channels)


def canonical_hash(content: Mapping[str, object]) -> str:
    """sha256 of the canonical JSON of ``content``, first 32 hex digits."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@contextmanager
def exclusive(folder: Path, *, session: str) -> Iterator[None]:
    """Hold ``folder`` for one pytest session; its own workers wait for each other.

    Raises:
        StoreError: Another session is using the folder.
    """
    with ExitStack() as held:
        with _explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            ours = folder / f"{session}.lock"  # the workers of one session queue up here
            held.enter_context(FileLock(ours))
            try:
                held.enter_context(FileLock(folder / "lock", timeout=0))
            except Timeout:
                raise StoreError(
                    "another memscan run is using the same generated images. Wait for it to end, "
                    "or give this run its own with --memscan-cache-dir DIR or --memscan-no-cache"
                ) from None
            for left_behind in set(folder.glob("*.lock")) - {ours}:
                with suppress(OSError):
                    left_behind.unlink()
        yield


@contextmanager
def _explained(
    folder: Path, remedy: str = "delete that folder, or choose another with --memscan-cache-dir"
) -> Iterator[None]:
    """What is wrong with a folder, without where on this machine it is."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        cause = error.strerror if isinstance(error, OSError) else error
        raise StoreError(
            f"the generated images in {shown_path(folder)} cannot be used ({cause}); {remedy}"
        ) from None


class ImageStore:
    """The generated images of one recipe. Use under `exclusive`.

    Args:
        folder: Where they are kept; created.
        spec: The generation recipe; a folder made for another recipe is refused.

    Raises:
        StoreError: The folder cannot be written, is damaged, or belongs to another recipe.
    """

    def __init__(self, folder: Path, *, spec: Mapping[str, object]) -> None:
        self.folder = folder
        self.damaged = 0  # images found missing or changed, and forgotten
        wanted = json.dumps(spec, sort_keys=True)
        with ExitStack() as opened:
            with _explained(folder):
                folder.mkdir(parents=True, exist_ok=True)
                self._database = sqlite3.connect(folder / "images.sqlite")
                opened.callback(self._database.close)
                (health,) = self._database.execute("pragma integrity_check(1)").fetchone()
                if health != "ok":
                    raise sqlite3.DatabaseError("the database is damaged")
                self._database.executescript(_SCHEMA)
            if self.note("spec") is None:
                self.set_note("spec", wanted)
            if self.note("spec") != wanted:
                raise StoreError(
                    f"{shown_path(folder)} holds images of another recipe; delete that folder"
                )
            opened.pop_all()

    def close(self) -> None:
        """Close the database; committed images stay."""
        self._database.close()

    def note(self, name: str) -> str | None:
        """A remembered text, or None."""
        rows = self._rows("select value from notes where name = ?", name)
        return str(rows[0][0]) if rows else None

    def set_note(self, name: str, value: str) -> None:
        """Remember a text."""
        with self._writing():
            self._database.execute("insert or replace into notes values (?, ?)", (name, value))

    def ids(self, kind: str) -> set[int]:
        """Sample ids whose rows are committed."""
        return {row[0] for row in self._rows("select sample_id from images where kind = ?", kind)}

    def add(self, kind: str, images: Sequence[StoredImage]) -> None:
        """Write the images, then commit their rows in one transaction.

        Raises:
            StoreError: No space, or the folder is not writable.
        """
        with _explained(self.folder, _GOES_ON):
            rows = [
                (kind, image.sample_id, image.seed, image.invalid, self._write(kind, image))
                for image in images
            ]
        with self._writing():
            self._database.executemany("insert or replace into images values (?, ?, ?, ?, ?)", rows)

    def read(self, kind: str, sample_ids: Sequence[int]) -> Iterator[StoredImage]:
        """Stored images in the order asked for.

        An image whose file is missing or has changed is not yielded: its row is forgotten and
        counted in ``damaged``.
        """
        for sample_id in sample_ids:
            rows = self._rows(
                "select seed, invalid, sha256 from images where kind = ? and sample_id = ?",
                kind,
                sample_id,
            )
            if not rows:
                continue
            seed, invalid, sha256 = rows[0]
            content = self._content(kind, sample_id)
            if hashlib.sha256(content).hexdigest() != sha256:
                self._forget(kind, sample_id)
                continue
            with Image.open(io.BytesIO(content), formats=("PNG",)) as picture:
                pixels = np.asarray(picture)
            yield StoredImage(
                sample_id=sample_id,
                seed=seed,
                invalid=invalid,
                pixels=pixels.reshape(*pixels.shape[:2], -1),
            )

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with _explained(self.folder):
            return self._database.execute(query, values).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with _explained(self.folder, _GOES_ON), self._database:
            yield

    def _forget(self, kind: str, sample_id: int) -> None:
        self.damaged += 1
        with self._writing():
            self._database.execute(
                "delete from images where kind = ? and sample_id = ?", (kind, sample_id)
            )

    def _path(self, kind: str, sample_id: int) -> Path:
        return self.folder / kind / f"{sample_id // 1000:07d}" / f"{sample_id:010d}.png"

    def _content(self, kind: str, sample_id: int) -> bytes:
        try:
            return self._path(kind, sample_id).read_bytes()
        except OSError:
            return b""

    def _write(self, kind: str, image: StoredImage) -> str:
        buffer = io.BytesIO()
        pixels = image.pixels[..., 0] if image.pixels.shape[-1] == 1 else image.pixels
        Image.fromarray(pixels).save(buffer, format="PNG")
        target = self._path(kind, image.sample_id)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".partial")
        with partial.open("wb") as file:
            file.write(buffer.getvalue())
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
        return hashlib.sha256(buffer.getvalue()).hexdigest()
