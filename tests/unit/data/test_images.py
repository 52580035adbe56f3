"""Folders of training images: nothing is lost in silence, and nothing half-written is trusted."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from unit.data.pictures import encode, noise
from unprivileged import readable_folder, unprivileged

from pytest_memscan.data.conversion import ImageShape, decode
from pytest_memscan.data.images import ImageSet, load_images
from pytest_memscan.data.listing import list_images
from pytest_memscan.data.naming import describe_unusable, name_some, printable
from pytest_memscan.data.sources import DataSource
from pytest_memscan.errors import StoreError, TrainDataError
from pytest_memscan.results import FLAT_IMAGE

SHAPE = ImageShape(height=8, width=8, channels=3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four images, one of them in a subfolder."""
    folder = tmp_path / "images"
    (folder / "b").mkdir(parents=True)
    for seed, name in enumerate(["c.png", "a.webp", "b/z.PNG", "d.jpeg"]):
        kind = {".png": "PNG", ".webp": "WEBP", ".jpeg": "JPEG"}[Path(name).suffix.lower()]
        (folder / name).write_bytes(encode(noise(12, 8, seed=seed), kind))
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def load(folder: Path, cache: Path) -> ImageSet:
    return load_images(DataSource(kind="folder", path=folder), SHAPE, cache_dir=cache)


def test_ids_follow_the_sorted_names(folder: Path, cache: Path) -> None:
    images = load(folder, cache)
    assert images.names == ("a.webp", "b/z.PNG", "c.png", "d.jpeg")
    assert images.num_found == images.num_resized == len(images.pixels) == 4
    assert images.is_whole


def test_memory_mapped_pixels_equal_direct_conversion(folder: Path, cache: Path) -> None:
    images = load(folder, cache)
    assert images.pixels.shape == (4, 8, 8, 3)
    for name, pixels in zip(images.names, images.pixels, strict=True):
        np.testing.assert_array_equal(pixels, decode((folder / name).read_bytes(), SHAPE)[0])


def test_progress_counts_files_that_were_read(folder: Path, cache: Path) -> None:
    told: list[tuple[int, int | None]] = []
    source = DataSource(kind="folder", path=folder)
    load_images(source, SHAPE, cache_dir=cache, progress=lambda *counts: told.append(counts))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_every_bad_file_is_counted_under_a_reason_and_named(folder: Path, cache: Path) -> None:
    good = encode(noise(12, 8))
    bad = {
        "empty.png": b"",
        "truncated.png": good[:100],
        "truncated.jpg": encode(noise(64, 64), "JPEG")[:900],
        "pointer.webp": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "page.png": b"<html></html>",
        "really_gif.png": encode(noise(12, 8), "GIF"),
        "really_eps.png": encode(noise(12, 8), "EPS"),
        "really_psd.png": b"8BPS\0\1" + bytes(50),
        "bomb.png": encode(Image.new("1", (10_000, 10_000))),
        "flat.png": encode(Image.new("RGB", (8, 8))),
        "small.png": encode(noise(4, 4)),
        "animation.gif": encode(noise(12, 8), "GIF"),
        "scan.TIFF": encode(noise(12, 8), "TIFF"),
    }
    for name, content in bad.items():
        (folder / name).write_bytes(content)
    (folder / "dangling.png").symlink_to("gone")
    (folder / "loop.png").symlink_to("loop.png")
    images = load(folder, cache)
    assert images.unusable == {
        ".gif files are not read": ("animation.gif",),
        ".tiff files are not read": ("scan.TIFF",),
        "cannot be opened": ("dangling.png", "loop.png"),
        "empty file": ("empty.png",),
        "git-lfs pointer, not the image": ("pointer.webp",),
        "more than 64 million pixels": ("bomb.png",),
        "not a readable PNG, JPEG or WebP image": (
            "page.png",
            "really_eps.png",
            "really_gif.png",
            "really_psd.png",
            "truncated.jpg",
            "truncated.png",
        ),
        "one flat colour": ("flat.png",),
        "smaller than the checkpoint's 8x8": ("small.png",),
    }
    assert len(images.names) == len(images.pixels) == 4
    assert images.num_found == 4 + sum(map(len, images.unusable.values()))
    assert not images.is_whole


def test_a_flat_image_hides_nothing_that_could_leak(folder: Path, cache: Path) -> None:
    (folder / "flat.png").write_bytes(encode(Image.new("RGB", (8, 8))))
    images = load(folder, cache)
    assert set(images.unusable) == {FLAT_IMAGE}
    assert images.is_whole


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux only")
def test_a_name_that_cannot_be_printed_is_made_printable(folder: Path, cache: Path) -> None:
    for name, content in ((b"ok\xff.png", encode(noise(12, 8))), (b"\x1b[2J\xe9\n.png", b"")):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(content)
    images = load(folder, cache)
    assert len(images.names) == 5
    assert images.unusable == {"empty file": (r"\x1b[2J\udce9\n.png",)}
    describe_unusable(images.unusable.items()).encode("ascii")


def test_printable_leaves_ordinary_names_alone() -> None:
    assert printable("Größe 1/图像.png") == "Größe 1/图像.png"


def test_many_names_are_cut_to_a_few() -> None:
    assert name_some(["a", "b", "c"]) == "a, b, c"
    assert name_some(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


def test_files_of_other_kinds_are_not_images(folder: Path, cache: Path) -> None:
    (folder / "notes.jsonl").write_text("{}")
    (folder / "c.txt").write_text("a caption")
    assert load(folder, cache).num_found == 4


def test_a_link_to_a_folder_elsewhere_is_named_because_it_is_not_followed(
    folder: Path, cache: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "x.png").write_bytes(encode(noise()))
    (folder / "more").symlink_to(elsewhere)
    images = load(folder, cache)
    assert images.unusable == {"link to another folder, which is not followed": ("more",)}
    assert not images.is_whole


def test_a_link_that_stays_in_the_folder_loses_nothing(folder: Path, cache: Path) -> None:
    (folder / "b" / "again").symlink_to(folder)
    images = load(folder, cache)
    assert images.num_found == 4
    assert images.is_whole


def test_a_subfolder_that_may_not_be_read_is_refused() -> None:
    with readable_folder() as folder:
        (folder / "a.png").write_bytes(encode(noise()))
        (folder / "secret").mkdir(mode=0o700)
        (folder / "secret").chmod(0)
        with unprivileged(), pytest.raises(TrainDataError, match=r"\.\.\./secret cannot be read"):
            list_images(folder)
        (folder / "secret").chmod(0o700)


def test_a_file_that_may_not_be_read_is_counted(cache: Path) -> None:
    with readable_folder() as folder:
        for seed, name in enumerate(["a.png", "b.png"]):
            (folder / name).write_bytes(encode(noise(seed=seed)))
        (folder / "b.png").chmod(0)
        (folder / "cache").mkdir(mode=0o777)
        (folder / "cache").chmod(0o777)
        with unprivileged():
            images = load(folder, folder / "cache")
        assert images.unusable == {"cannot be opened": ("b.png",)}


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({}, "holds no images .*a scan against nothing cannot pass"),
        ({"a.txt": b"x", "b.txt": b"y"}, "holds no images .*a scan against nothing cannot pass"),
        (
            {"a.png": b"", "b.png": b"x"},
            "none of the 2 images under .* can be compared with a checkpoint that makes 8x8, RGB: "
            r"1 empty file \(a.png\); 1 not a readable PNG, JPEG or WebP image \(b.png\)",
        ),
        ({"a.gif": b"GIF89a"}, r"none of the 1 images .*: 1 .gif files are not read \(a.gif\)"),
    ],
    ids=["empty", "texts", "all bad", "only gifs"],
)
def test_a_folder_without_a_usable_image_is_an_error(
    tmp_path: Path, cache: Path, files: dict[str, bytes], sentence: str
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    with pytest.raises(TrainDataError, match=sentence) as caught:
        load(folder, cache)
    assert str(tmp_path) not in str(caught.value)
    assert not list(cache.glob("*"))


def test_a_missing_folder_and_a_file_in_its_place_are_errors(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(TrainDataError, match="there is no such folder of images"):
        load(tmp_path / "missing", cache)
    (tmp_path / "images.zip").write_bytes(b"PK")
    with pytest.raises(TrainDataError, match=r"images\.zip is a file; expected a folder of PNG"):
        load(tmp_path / "images.zip", cache)


def test_a_folder_behind_one_that_may_not_be_entered_is_an_error(tmp_path: Path) -> None:
    with readable_folder() as folder:
        (folder / "secret" / "images").mkdir(parents=True)
        (folder / "secret").chmod(0)
        with unprivileged(), pytest.raises(TrainDataError, match="there is no such folder"):
            list_images(folder / "secret" / "images")


def test_the_fingerprint_changes_with_any_byte_and_any_name(folder: Path, cache: Path) -> None:
    for name, content in (("broken.png", b"abc"), ("empty.png", b""), ("unread.gif", b"GIF89a")):
        (folder / name).write_bytes(content)
    (folder / "pointer.png").write_bytes(b"version https://git-lfs 1")
    seen = {load(folder, cache).fingerprint}
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if content else b"x")
        seen.add(load(folder, cache).fingerprint)
        path.write_bytes(content)
        renamed = path.rename(path.with_stem(path.stem + "_"))
        seen.add(load(folder, cache).fingerprint)
        renamed.rename(path)
    assert len(seen) == 1 + 2 * 8
    assert load(folder, cache).fingerprint in seen


def test_the_fingerprint_is_independent_of_the_order_on_disk(folder: Path, cache: Path) -> None:
    copy = folder.parent / "copy"
    (copy / "b").mkdir(parents=True)
    for path in sorted((each for each in folder.rglob("*") if each.is_file()), reverse=True):
        (copy / path.relative_to(folder)).write_bytes(path.read_bytes())
    assert load(copy, cache).fingerprint == load(folder, cache).fingerprint


def test_many_loaders_of_one_folder_do_not_disturb_each_other(folder: Path, cache: Path) -> None:
    for seed in range(40):
        (folder / f"{seed}.png").write_bytes(encode(noise(seed=seed)))
    expected = np.array(load(folder, cache).pixels)
    with ThreadPoolExecutor(8) as pool:
        for images in pool.map(lambda _: load(folder, cache), range(16)):
            np.testing.assert_array_equal(images.pixels, expected)
    assert len(list(cache.iterdir())) == 1


@contextmanager
def _little_space(num_bytes: int) -> Iterator[None]:
    resource = pytest.importorskip("resource", reason="file size limits of POSIX are needed")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_pixels_that_do_not_fit_on_the_disk_are_an_error_and_leave_nothing(
    folder: Path, cache: Path
) -> None:
    with _little_space(500), pytest.raises(StoreError, match=r"cannot be written to .*/cache"):
        load(folder, cache)
    assert not list(cache.iterdir())
    assert len(load(folder, cache).pixels) == 4


def test_a_damaged_file_in_the_cache_is_not_trusted(folder: Path, cache: Path) -> None:
    expected = np.array(load(folder, cache).pixels)
    (kept,) = cache.iterdir()
    kept.write_bytes(b"half")
    np.testing.assert_array_equal(load(folder, cache).pixels, expected)


def test_room_for_the_pixels_is_asked_for_before_anything_is_read(
    folder: Path, cache: Path
) -> None:
    side = 2**24  # 4 images of this size are 3.4 petabytes
    source = DataSource(kind="folder", path=folder)
    read: list[int] = []
    with pytest.raises(StoreError, match=r"need 3,377,699\.7 GB \(4 of .*--memscan-cache-dir"):
        load_images(
            source,
            ImageShape(height=side, width=side, channels=3),
            cache_dir=cache,
            progress=lambda done, total: read.append(done),
        )
    assert not read
    assert not list(cache.iterdir())


def test_packed_images_of_a_builtin_checkpoint_are_read(tmp_path: Path, cache: Path) -> None:
    pixels = np.stack([noise(seed=seed) for seed in range(3)])
    file = tmp_path / "train_images.safetensors"
    source = DataSource(kind="packed", path=file)
    save_file({"images": pixels}, file)
    images = load_images(source, SHAPE, cache_dir=cache)
    np.testing.assert_array_equal(images.pixels, pixels)
    assert images.names == ("00000", "00001", "00002")
    assert images.captions == (None, None, None)
    assert images.labels == (None, None, None)
    with pytest.raises(TrainDataError, match="holds images of"):
        load_images(source, ImageShape(height=4, width=8, channels=3), cache_dir=cache)


@pytest.mark.parametrize(
    "content", [b"", b"x", b"version https://git-lfs", b"\xff" * 8 + b"{}"], ids=repr
)
def test_packed_images_that_are_damaged_are_an_error(
    tmp_path: Path, cache: Path, content: bytes
) -> None:
    file = tmp_path / "images.safetensors"
    file.write_bytes(content)
    with pytest.raises(TrainDataError, match=r"\.\.\./images\.safetensors "):
        load_images(DataSource(kind="packed", path=file), SHAPE, cache_dir=cache)


def test_packed_arrays_of_another_name_or_type_are_an_error(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "images.safetensors"
    for arrays in (
        {"pixels": np.zeros((1, 8, 8, 3), np.uint8)},
        {"images": np.zeros((1, 8, 8, 3), np.float32)},
        {"images": np.zeros((0, 8, 8, 3), np.uint8)},
    ):
        save_file(arrays, file)
        with pytest.raises(TrainDataError, match=r"\.\.\./images\.safetensors "):
            load_images(DataSource(kind="packed", path=file), SHAPE, cache_dir=cache)


def test_an_index_holds_no_images(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(TrainDataError, match=r"index:\.\.\./saved holds descriptors and no images"):
        load_images(DataSource(kind="index", path=tmp_path / "saved"), SHAPE, cache_dir=cache)
