"""Parquet and Arrow shards: the right column, every row, and no path that leads out of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_factory import Items, as_table, save_arrow, save_parquet, some_items
from PIL import Image
from unit.data.pictures import encode, noise

from pytest_memscan.data import conversion
from pytest_memscan.data.conversion import ImageShape
from pytest_memscan.data.images import ImageSet, load_images
from pytest_memscan.data.sources import parse_source
from pytest_memscan.errors import TrainDataError

SHAPE = ImageShape(height=8, width=8, channels=3)
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
GOOD = encode(noise(12, 8))
KINDS = {".parquet": save_parquet, ".arrow": save_arrow}


def load(path: Path) -> ImageSet:
    return load_images(parse_source(str(path), path), SHAPE, cache_dir=path.parent / "cache")


@pytest.fixture(params=KINDS)
def save(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Path]:
    """Write a table or items as the shard ``shard`` of one of the two kinds."""
    kind = request.param
    return lambda table, name="shard": KINDS[kind](tmp_path / f"{name}{kind}", table)


def images_of(*cells: object, kind: pa.DataType = IMAGE, column: str = "image") -> pa.Table:
    return pa.table({column: pa.array(list(cells), kind)})


def why(path: Path) -> str:
    with pytest.raises(TrainDataError) as caught:
        load(path)
    assert "pytest-of" not in str(caught.value)
    return str(caught.value)


def test_rows_are_named_by_shard_and_number(save: Callable[..., Path]) -> None:
    items = some_items(20)
    path = save(items)
    images = load(path)
    assert images.names == tuple(f"{path.name}[{row}]" for row in range(20))
    assert images.captions == tuple(caption for _, _, caption in items)
    assert images.is_whole


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("image", IMAGE),
        ("jpg", IMAGE),
        ("image", pa.binary()),
        ("content", pa.large_binary()),
        ("image", pa.struct([("bytes", pa.large_binary())])),
    ],
    ids=str,
)
def test_images_may_be_stored_in_several_ways(
    save: Callable[..., Path], column: str, kind: pa.DataType
) -> None:
    cell = {"bytes": GOOD} if pa.types.is_struct(kind) else GOOD
    assert load(save(images_of(cell, kind=kind, column=column))).num_found == 1


def test_of_several_image_columns_the_one_called_image_is_used(save: Callable[..., Path]) -> None:
    mask = pa.array([b"no image"], pa.binary())
    assert load(save(images_of({"bytes": GOOD}).append_column("mask", mask))).is_whole
    assert load(save(images_of({"bytes": GOOD}).add_column(0, "mask", mask))).is_whole


def test_several_image_columns_without_that_name_are_refused(save: Callable[..., Path]) -> None:
    table = images_of(GOOD, kind=pa.binary(), column="before").append_column(
        "after", pa.array([GOOD], pa.binary())
    )
    assert "has several columns of images (before, after)" in why(save(table))


def test_a_table_without_images_is_refused_with_its_columns(save: Callable[..., Path]) -> None:
    table = pa.table({"label": [1], "text": ["a"], "bad\x1b[1m": [1.5]})
    path = save(table)
    message = why(path)
    assert f"{path.name} has no column of images" in message
    assert r"its columns are label, text, bad\x1b[1m" in message


@pytest.mark.parametrize("column", ["text", "caption", "prompt"])
def test_the_caption_is_in_a_column_of_text(save: Callable[..., Path], column: str) -> None:
    table = images_of({"bytes": GOOD}).append_column(column, pa.array(["words"]))
    assert load(save(table)).captions == ("words",)


def test_captions_that_are_no_text_are_not_captions(save: Callable[..., Path]) -> None:
    table = images_of({"bytes": GOOD}).append_column("text", pa.array([["two", "words"]]))
    assert load(save(table)).captions == (None,)


def test_a_file_that_a_row_only_names_is_never_opened(
    save: Callable[..., Path], tmp_path: Path
) -> None:
    outside = tmp_path / "outside.png"
    outside.write_bytes(GOOD)
    cells = [
        {"bytes": GOOD, "path": "a.png"},
        {"bytes": None, "path": str(outside)},
        {"bytes": None, "path": None},
        None,
        {"bytes": b"", "path": str(outside)},
    ]
    path = save(images_of(*cells))
    images = load(path)
    assert images.unusable == {
        "names a file outside of its shard, which is not opened": (f"{path.name}[1]",),
        "no image in this row": (f"{path.name}[2]", f"{path.name}[3]"),
        "empty file": (f"{path.name}[4]",),
    }
    assert images.num_found == 5


def test_every_bad_image_is_counted_under_a_reason_and_named(save: Callable[..., Path]) -> None:
    bad = {
        "git-lfs pointer, not the image": b"version https://git-lfs.github.com/spec/v1\n",
        "more than 64 million pixels": encode(Image.new("1", (10_000, 10_000))),
        "not a readable PNG, JPEG or WebP image": GOOD[:100],
        "one flat colour": encode(Image.new("RGB", (8, 8))),
        "smaller than the checkpoint's 8x8": encode(noise(4, 4)),
    }
    path = save(images_of({"bytes": GOOD}, *({"bytes": each} for each in bad.values())))
    images = load(path)
    assert images.unusable == {
        reason: (f"{path.name}[{row}]",) for row, reason in enumerate(bad, start=1)
    }


def test_an_image_over_the_size_limit_is_not_copied(
    save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytest_memscan.data.readers import columns

    assert columns.MAX_FILE_BYTES == conversion.MAX_FILE_BYTES
    monkeypatch.setattr(columns, "MAX_FILE_BYTES", len(GOOD))
    images = load(save(images_of({"bytes": GOOD}, {"bytes": GOOD + b"x"})))
    assert list(images.unusable) == ["larger than 64 MB"]


def test_a_shard_without_rows_is_named(save: Callable[..., Path], tmp_path: Path) -> None:
    items = some_items(3)
    path = save(as_table(items).slice(0, 0), "b")
    save(items, "a")
    assert f"{path.name} holds no rows; a shard without images is broken" in why(path)
    assert f"{path.name} holds no rows" in why(tmp_path)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95, 0.999])
def test_a_truncated_shard_is_named(save: Callable[..., Path], share: float) -> None:
    path = save(some_items(20))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert f"{path.name} cannot be read as " in why(path)


@pytest.mark.parametrize("content", [b"x", b"PAR1", b"ARROW1\0\0" * 9, bytes(5000)], ids=repr)
def test_what_is_no_shard_is_named(save: Callable[..., Path], content: bytes) -> None:
    path = save(some_items(3))
    path.write_bytes(content)
    assert f"{path.name} cannot be read as " in why(path)


def test_a_damaged_page_is_found_by_its_checksum(tmp_path: Path) -> None:
    path = save_parquet(tmp_path / "a.parquet", some_items(20), write_page_checksum=True)
    content = bytearray(path.read_bytes())
    content[200:600] = bytes(400)
    path.write_bytes(content)
    assert "a.parquet cannot be read as Parquet" in why(path)


def test_an_arrow_stream_that_ends_between_two_batches_is_truncated(tmp_path: Path) -> None:
    """Pyarrow itself takes this for the end of a whole file."""
    table = as_table(some_items(6))
    path = tmp_path / "a.arrow"
    sink = pa.BufferOutputStream()
    writer = pa.ipc.new_stream(sink, table.schema)
    for batch in table.to_batches(max_chunksize=3):
        writer.write_batch(batch)
    writer.close()
    whole = sink.getvalue().to_pybytes()
    path.write_bytes(whole)
    assert load(path).num_found == 6
    path.write_bytes(whole[:-8])
    assert pa.ipc.open_stream(path.read_bytes()).read_all().num_rows == 6
    assert "a.arrow cannot be read as Arrow" in why(path)
    path.write_bytes(whole + whole)
    assert "a.arrow cannot be read as Arrow" in why(path)


def test_the_arrow_file_format_is_read_too(tmp_path: Path) -> None:
    path = save_arrow(tmp_path / "a.arrow", some_items(7), stream=False)
    assert load(path).num_found == 7


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 6000), damage=st.binary(min_size=1, max_size=8))
def test_no_damage_loses_a_row_in_silence(
    save: Callable[..., Path], at: int, damage: bytes
) -> None:
    """Nor does it end the process: pyarrow itself follows a damaged offset anywhere."""
    path = save(some_items(9))
    content = bytearray(path.read_bytes())
    at %= len(content)
    content[at : at + len(damage)] = damage
    path.write_bytes(content[: path.stat().st_size])
    assert found_or_refused(path) in (9, None)


def found_or_refused(path: Path) -> int | None:
    try:
        return load(path).num_found
    except TrainDataError:
        return None


def test_an_offset_that_leads_out_of_an_arrow_shard_is_not_followed(tmp_path: Path) -> None:
    path = save_arrow(tmp_path / "a.arrow", some_items(3))
    content = path.read_bytes()
    sizes = [len(item[1]) for item in some_items(3)]
    ends = [0, sizes[0], sizes[0] + sizes[1], sum(sizes)]
    offsets = b"".join(end.to_bytes(4, "little") for end in ends)
    assert content.count(offsets) == 1
    path.write_bytes(content.replace(offsets, offsets[:8] + b"\xff\xff\xff\x7f" + offsets[12:]))
    assert "a.arrow cannot be read as Arrow" in why(path)


def test_shards_are_read_in_name_order_with_names_of_their_own(
    save: Callable[..., Path], tmp_path: Path
) -> None:
    items = some_items(5)
    second, first = save(items[3:], "b"), save(items[:3], "a")
    together = load(tmp_path)
    assert together.names == (
        *(f"{first.name}[{row}]" for row in range(3)),
        *(f"{second.name}[{row}]" for row in range(2)),
    )


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
@pytest.mark.parametrize("row_group_size", [1, 4, 1000])
def test_how_parquet_is_packed_does_not_matter(
    tmp_path: Path, compression: str, row_group_size: int
) -> None:
    items: Items = some_items(9)
    options = {"compression": compression, "row_group_size": row_group_size}
    packed = load(save_parquet(tmp_path / "a.parquet", items, **options))
    plain = load(save_parquet(tmp_path / "plain" / "a.parquet", items))
    assert packed.fingerprint == plain.fingerprint


def test_only_the_columns_that_are_needed_are_read(tmp_path: Path) -> None:
    """A huge other column costs nothing, and one that cannot be read does not matter."""
    table = as_table(some_items(3)).append_column("mask", pa.array([b"m" * 5000] * 3))
    path = save_parquet(tmp_path / "a.parquet", table, compression="none", use_dictionary=False)
    content = path.read_bytes()
    begin = pq.ParquetFile(path).metadata.row_group(0).column(3).data_page_offset
    path.write_bytes(content[:begin] + b"\xff" * 15_000 + content[begin + 15_000 :])
    assert load(path).is_whole


def test_without_pyarrow_the_error_says_how_to_install_it(tmp_path: Path) -> None:
    path = save_parquet(tmp_path / "a.parquet", some_items(3))
    script = f"""
import sys
sys.modules["pyarrow"] = None
from pathlib import Path
from pytest_memscan.data.records import open_source
from pytest_memscan.data.sources import parse_source
for text in ({str(path)!r}, "hub:org/name"):
    try:
        open_source(parse_source(text, Path()), offline=True)
    except Exception as error:
        print(type(error).__name__, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    remedy = "needs pyarrow to be read: pip install 'pytest-memscan[parquet]'"
    assert done.stdout.splitlines() == [
        f"TrainDataError .../a.parquet {remedy}",
        f"TrainDataError hub:org/name {remedy}",
    ]
