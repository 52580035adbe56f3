"""The same images give the same pixels whatever they are packed in, and one at a time."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_factory import (
    Items,
    as_members,
    as_table,
    save_arrow,
    save_folder,
    save_parquet,
    save_tar,
    some_items,
)
from PIL import Image
from unit.data.pictures import encode, noise, with_orientation

from pytest_memscan.data.conversion import ImageShape, decode
from pytest_memscan.data.images import ImageSet, load_images
from pytest_memscan.data.records import open_source
from pytest_memscan.data.sources import parse_source

SHAPE = ImageShape(height=8, width=8, channels=3)


def _tars(folder: Path, items: Items) -> Path:
    save_tar(folder / "0.tar", as_members(items[:2]))
    save_tar(folder / "1.tar", as_members(items[2:], captions="json"))
    return folder


def _parquets(folder: Path, items: Items) -> Path:
    save_parquet(folder / "train-00000-of-00002.parquet", items[:2])
    save_parquet(folder / "train-00001-of-00002.parquet", items[2:])
    return folder


def _arrow_file(folder: Path, items: Items) -> Path:
    return save_arrow(folder / "a.arrow", items, stream=False)


FORMATS: dict[str, Callable[[Path, Items], Path]] = {
    "folder": save_folder,
    "folder with csv": lambda path, items: save_folder(path, items, captions="csv"),
    "parquet": lambda path, items: save_parquet(path / "a.parquet", items),
    "parquet shards": _parquets,
    "arrow stream": lambda path, items: save_arrow(path / "a.arrow", items),
    "arrow file": _arrow_file,
    "tar": lambda path, items: save_tar(path / "a.tar", as_members(items)),
    "tar shards": _tars,
}


def load(path: Path, cache: Path) -> ImageSet:
    return load_images(parse_source(str(path), path), SHAPE, cache_dir=cache)


def odd_items() -> Items:
    """One image of every mode that conversion knows, and some that it cannot use."""
    picture = Image.fromarray(noise(12, 8))
    deep = Image.fromarray(np.arange(96, dtype=np.uint16).reshape(12, 8) * 600)
    second = Image.fromarray(noise(12, 8, seed=2))
    animated = encode(picture, "WEBP", lossless=True, save_all=True, append_images=[second])
    contents = [
        ("jpg", encode(picture.convert("CMYK"), "JPEG")),
        ("png", encode(picture.convert("L"))),
        ("png", encode(deep)),
        ("png", encode(picture.convert("RGBA"))),
        ("png", encode(picture.convert("P"))),
        ("webp", animated),
        ("png", encode(Image.fromarray(noise(8, 12)), exif=with_orientation(6))),
        ("png", encode(Image.fromarray(noise(40, 30)))),
        ("png", encode(picture)[:90]),
        ("png", b""),
        ("png", b"version https://git-lfs.github.com/spec/v1\n"),
        ("jpg", encode(Image.new("1", (9000, 9000)))),
        ("png", encode(Image.new("RGB", (8, 8)))),
        ("png", encode(noise(4, 4))),
    ]
    return [(f"{i:03}.{kind}", content, f"c{i}") for i, (kind, content) in enumerate(contents)]


@pytest.mark.parametrize("packing", FORMATS)
@pytest.mark.parametrize("items", [some_items(7), odd_items()], ids=["plain", "odd"])
def test_every_format_gives_the_same_images(tmp_path: Path, packing: str, items: Items) -> None:
    """Against each image decoded on its own."""
    images = load(FORMATS[packing](tmp_path / "data", items), tmp_path / "cache")
    plain = load(save_folder(tmp_path / "plain", items), tmp_path / "cache")
    usable = set(plain.names)
    expected = [(content, caption) for name, content, caption in items if name in usable]
    assert images.captions == tuple(caption for _, caption in expected)
    for pixels, (content, _) in zip(images.pixels, expected, strict=True):
        np.testing.assert_array_equal(pixels, decode(content, SHAPE)[0])
    counts = {reason: len(names) for reason, names in images.unusable.items()}
    assert counts == {reason: len(names) for reason, names in plain.unusable.items()}
    assert images.num_found == len(items)
    assert images.num_resized == plain.num_resized


@pytest.mark.parametrize("packing", FORMATS)
def test_reading_twice_gives_the_same_fingerprint(tmp_path: Path, packing: str) -> None:
    path = FORMATS[packing](tmp_path / "data", some_items(5))
    first, second = (load(path, tmp_path / "cache") for _ in range(2))
    assert first.fingerprint == second.fingerprint
    assert len(list((tmp_path / "cache").iterdir())) == 1
    first.require_unchanged()


@pytest.mark.parametrize("packing", FORMATS)
def test_any_changed_image_changes_the_fingerprint(tmp_path: Path, packing: str) -> None:
    items = some_items(5)
    prints = set()
    for changed in range(6):
        new = [
            (name, encode(noise(12, 8, seed=99)) if index == changed else content, caption)
            for index, (name, content, caption) in enumerate(items)
        ]
        path = FORMATS[packing](tmp_path / str(changed) / "data", new)
        prints.add(load(path, tmp_path / "cache").fingerprint)
    assert len(prints) == 6


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(6)))
def test_the_order_on_disk_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, order: list[int]
) -> None:
    items = some_items(6)
    tmp_path = tmp_path_factory.mktemp("order")
    for index in order:
        save_parquet(tmp_path / "parquet" / f"{index}.parquet", [items[index]])
        save_tar(tmp_path / "tar" / f"{index}.tar", as_members([items[index]]))
    save_folder(tmp_path / "folder", [items[index] for index in order])
    expected = load(save_folder(tmp_path / "sorted", items), tmp_path / "cache")
    for kind in ("parquet", "tar", "folder"):
        images = load(tmp_path / kind, tmp_path / "cache")
        np.testing.assert_array_equal(images.pixels, expected.pixels)
        assert images.captions == expected.captions
    assert load(tmp_path / "folder", tmp_path / "cache").fingerprint == expected.fingerprint


@pytest.mark.parametrize("packing", ["folder", "parquet", "arrow stream", "arrow file", "tar"])
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path, packing: str) -> None:
    """Ten times as many images of 20 kB: the peak stays below a fifth of what was added."""
    import pyarrow as pa

    content = encode(noise(80, 80))
    peaks = []
    for count in (60, 600):
        items = [(f"{index:04}.png", content, None) for index in range(count)]
        path = FORMATS[packing](tmp_path / str(count) / "data", items)
        del items
        reading = open_source(parse_source(str(path), path), offline=True)
        begin = pa.total_allocated_bytes()
        most = 0
        tracemalloc.start()
        for record in reading.records:
            most = max(most, pa.total_allocated_bytes() - begin)
            assert record.problem is None
        peaks.append(tracemalloc.get_traced_memory()[1] + most)
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 540 * len(content) / 5


def test_a_table_of_one_row_group_is_read_in_small_batches(tmp_path: Path) -> None:
    content = encode(noise(80, 80))
    table = as_table([("a.png", content, None)] * 400)
    path = save_parquet(
        tmp_path / "a.parquet",
        table,
        row_group_size=400,
        use_dictionary=False,
        write_batch_size=10,  # rows in a page, and a page is what Parquet reads at once
        data_page_size=1,
    )
    import pyarrow as pa

    reading = open_source(parse_source(str(path), path), offline=True)
    before = pa.total_allocated_bytes()
    most = max(pa.total_allocated_bytes() - before for _ in reading.records)
    assert most < 400 * len(content) / 4
