"""Small sets of training images, in every format that is read."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import pyarrow as pa


def save_images(
    folder: Path, count: int = 24, *, size: int = 8, colour: bool = True, seed: int = 0
) -> Path:
    """Write `count` PNG images, all different and smooth, into `folder` and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    shape = (count, 3, 3, 3) if colour else (count, 3, 3)
    for index, pixels in enumerate(rng.integers(0, 256, size=shape, dtype=np.uint8)):
        # A finer picture would not survive the JPEG control of a scan at this size.
        picture = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
        picture.save(folder / f"{index:03d}.png")
    return folder


Items = Sequence[tuple[str, bytes, str | None]]  # name, encoded image, caption


def some_items(count: int = 5, *, size: int = 12) -> Items:
    """Encoded images of every format that is read, all different, every other one captioned."""
    rng = np.random.default_rng(1)
    items = []
    for index in range(count):
        kind = ("PNG", "JPEG", "WEBP")[index % 3]
        buffer = io.BytesIO()
        pixels = rng.integers(0, 256, size=(size, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(buffer, kind)
        caption = f"caption of {index}, „quoted“" if index % 2 else None
        items.append((f"{index:05d}.{kind.lower()}", buffer.getvalue(), caption))
    return items


def save_folder(folder: Path, items: Items, *, captions: str = "jsonl") -> Path:
    """One file an image, and metadata.jsonl or metadata.csv."""
    folder.mkdir(parents=True)
    rows = []
    for name, content, caption in items:
        (folder / name).write_bytes(content)
        rows.append({"file_name": name, "text": caption})
    metadata = folder / f"metadata.{captions}"
    if captions == "jsonl":
        metadata.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with metadata.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["file_name", "text"])
            writer.writeheader()
            writer.writerows(rows)
    return folder


def as_table(items: Items) -> pa.Table:
    """A table as `datasets` stores images."""
    import pyarrow as pa

    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.table(
        {
            "image": pa.array(
                [{"bytes": content, "path": name} for name, content, _ in items], image
            ),
            "text": pa.array([caption for _, _, caption in items], pa.string()),
        }
    )


def save_parquet(file: Path, table: pa.Table | Items, **options: object) -> Path:
    """One Parquet shard."""
    import pyarrow.parquet as pq

    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(as_table(table) if isinstance(table, list) else table, file, **options)
    return file


def save_arrow(file: Path, table: pa.Table | Items, *, stream: bool = True) -> Path:
    """One Arrow shard, of the stream format as `datasets` saves it, or of the file format."""
    import pyarrow as pa

    table = as_table(table) if isinstance(table, list) else table
    file.parent.mkdir(parents=True, exist_ok=True)
    new = pa.ipc.new_stream if stream else pa.ipc.new_file
    with file.open("wb") as sink, new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    return file


def save_tar(file: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """An archive of plain files."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file


def as_members(items: Items, *, captions: str = "txt") -> list[tuple[str, bytes]]:
    """The members of a WebDataset shard: each image with its caption beside it."""
    members = []
    for name, content, caption in items:
        stem = name.partition(".")[0]
        text = json.dumps({"caption": caption}) if captions == "json" else caption
        members.append((name, content))
        if caption is not None:
            members.append((f"{stem}.{captions}", str(text).encode()))
    return members
