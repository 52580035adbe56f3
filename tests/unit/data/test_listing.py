"""Files are found without being opened, missing ones are named, and changes are noticed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_factory import save_images

from pytest_memscan.data.listing import (
    check_source,
    list_images,
    list_shards,
    require_whole,
    take_manifest,
)
from pytest_memscan.data.sources import DataSource, parse_source
from pytest_memscan.errors import TrainDataError


def source_of(path: Path | str) -> DataSource:
    return parse_source(str(path), Path.cwd())


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def why(path: Path | str) -> str:
    """The one line that says what is wrong; it tells no private folder."""
    with pytest.raises(TrainDataError) as caught:
        check_source(source_of(path))
    message = str(caught.value)
    assert "\n" not in message
    assert "pytest-of" not in message
    return message


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none", "there is no such folder of images"),
        ("none.parquet", "there is no such file"),
        ("none.tar", "there is no such file"),
        ("none.npz", "there is no such file"),
        ("index:none", "there is no such folder; an index is a folder"),
    ],
)
def test_what_is_not_there_is_said_to_be_missing(tmp_path: Path, name: str, words: str) -> None:
    prefix, _, rest = name.rpartition(":")
    assert words in why(f"{prefix}:{tmp_path / rest}" if prefix else tmp_path / rest)


def test_a_file_of_an_unknown_kind_is_refused_with_what_is_known(tmp_path: Path) -> None:
    touch(tmp_path, "images.zip")
    message = why(tmp_path / "images.zip")
    assert ".../images.zip is a file; expected a folder of PNG, JPEG or WebP images" in message
    assert "hub:ORG/NAME" in message


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.tar", "a.npz", "a.safetensors"])
def test_an_empty_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert f".../{name} is empty (0 bytes)" in why(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("name", ["a.parquet", "a.tar", "a.npz"])
def test_a_pipe_is_never_opened(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    assert f".../{name} is not a regular file" in why(tmp_path / name)


def test_links_in_a_loop_are_an_error_and_not_a_hang(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "a.tar").symlink_to("a.tar")
    assert "a.tar cannot be read" in why(tmp_path / "shards")


def test_shards_are_found_in_subfolders_in_name_order(tmp_path: Path) -> None:
    touch(tmp_path, "b.tar", "a/z.tar", "c.TAR", "notes.txt")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    names = [path.relative_to(tmp_path).as_posix() for path in list_shards(source_of(tmp_path))]
    assert names == ["a/z.tar", "b.tar", "c.TAR"]


def test_a_link_to_shards_elsewhere_is_named_because_it_is_not_followed(tmp_path: Path) -> None:
    touch(tmp_path, "shards/a.tar", "elsewhere/b.tar")
    (tmp_path / "shards" / "more").symlink_to(tmp_path / "elsewhere")
    assert "more in .../shards is a link to another folder" in why(tmp_path / "shards")


@pytest.mark.parametrize(
    "names", [["a.png", "b.tar"], ["a.tar", "b.parquet"], ["x/a.arrow", "y/b.jpg"]], ids=str
)
def test_a_mixed_folder_is_refused_because_half_of_it_would_be_left_out(
    tmp_path: Path, names: list[str]
) -> None:
    message = why(touch(tmp_path / "mixed", *names))
    assert ".../mixed holds " in message
    assert "only one of them would be read" in message
    assert names[0] in message or names[1] in message


def test_a_range_in_braces_names_its_shards(tmp_path: Path) -> None:
    touch(tmp_path, *(f"s-{number:03}.tar" for number in range(8, 12)), "s-012.tar")
    found = list_shards(source_of(tmp_path / "s-{008..011}.tar"))
    assert [path.name for path in found] == ["s-008.tar", "s-009.tar", "s-010.tar", "s-011.tar"]
    (tmp_path / "s-010.tar").unlink()
    assert ".../s-010.tar: there is no such file" in why(tmp_path / "s-{008..011}.tar")


def test_two_ranges_multiply(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{a}-{b}.tar" for a in (0, 1) for b in (4, 5, 6)))
    assert len(list_shards(source_of(tmp_path / "{0..1}-{4..6}.tar"))) == 6


@pytest.mark.parametrize("braces", ["{3..1}", "{0..999999999}"])
def test_a_range_that_is_none_is_refused(tmp_path: Path, braces: str) -> None:
    assert f"{braces} is not a range of shards" in why(tmp_path / f"s-{braces}.tar")


def test_a_file_with_braces_in_its_name_is_itself(tmp_path: Path) -> None:
    touch(tmp_path, "s-{0..1}.tar")
    assert [path.name for path in list_shards(source_of(tmp_path / "s-{0..1}.tar"))] == [
        "s-{0..1}.tar"
    ]


@pytest.mark.parametrize("missing", range(4))
@pytest.mark.parametrize("first", [0, 1])
def test_of_numbered_shards_the_missing_one_is_named(
    tmp_path: Path, missing: int, first: int
) -> None:
    names = [f"train-{first + index:05}-of-00004.parquet" for index in range(4)]
    lost = names.pop(missing)
    touch(tmp_path / "d", *names, "test-00000-of-00001.parquet")
    message = why(tmp_path / "d")
    if first == 1 and missing == 3:  # as if counted from 0, and the first one were missing
        assert "lacks train-00000-of-00004" in message
    else:
        assert f".../d lacks {lost}; what is in it would not be compared" in message


@given(st.lists(st.integers(1, 6), min_size=1, max_size=3), st.data())
def test_numbered_shards_are_whole_or_refused(counts: list[int], data: st.DataObject) -> None:
    sets = [
        [f"d{number}/x-{index:05}-of-{count:05}.tar" for index in range(count)]
        for number, count in enumerate(counts)
    ]
    require_whole((name for names in sets for name in names), "it")
    lost = data.draw(st.sampled_from(sets))
    lost.remove(data.draw(st.sampled_from(lost)))
    if lost:
        with pytest.raises(TrainDataError, match=r"it lacks d\d/x-"):
            require_whole((name for names in sets for name in names), "it")


def test_a_whole_set_is_found_in_any_folder(tmp_path: Path) -> None:
    touch(tmp_path, "a/x-0-of-2.tar", "a/x-1-of-2.tar", "b/x-0-of-1.tar")
    assert len(list_shards(source_of(tmp_path))) == 3


def _write(folder: Path) -> None:
    (folder / "000.png").write_bytes((folder / "001.png").read_bytes())


def _touch(folder: Path) -> None:
    os.utime(folder / "000.png", ns=(0, 0))


def _add(folder: Path) -> None:
    (folder / "new.png").write_bytes(b"x")


def _remove(folder: Path) -> None:
    (folder / "000.png").unlink()


def _rename(folder: Path) -> None:
    (folder / "000.png").rename(folder / "a.png")


def _caption(folder: Path) -> None:
    (folder / "metadata.jsonl").write_text("")


def _empty(folder: Path) -> None:
    for file in folder.glob("*.png"):
        file.unlink()


def _to_pipe(folder: Path) -> None:
    (folder / "000.png").unlink()
    os.mkfifo(folder / "000.png")


@pytest.mark.parametrize(
    "change", [_write, _touch, _add, _remove, _rename, _caption, _empty, _to_pipe]
)
def test_a_folder_that_changes_is_noticed(tmp_path: Path, change: object) -> None:
    folder = save_images(tmp_path / "images", 5)
    manifest = take_manifest(source_of(folder))
    assert manifest is not None
    manifest.require_unchanged()
    change(folder)  # type: ignore[operator]
    with pytest.raises(TrainDataError, match=r"^\.\.\./images changed while it was scanned"):
        manifest.require_unchanged()


def test_what_is_not_read_may_change(tmp_path: Path) -> None:
    folder = save_images(tmp_path / "images", 5)
    manifest = take_manifest(source_of(folder))
    assert manifest is not None
    touch(folder, "notes.txt", "logs/today.log")
    (folder / "000.png").read_bytes()
    manifest.require_unchanged()


@pytest.mark.parametrize("name", ["a.tar", "a.npz", "shards"])
def test_a_shard_that_changes_is_noticed(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "a.tar", "a.npz", "shards/1.parquet")
    manifest = take_manifest(source_of(tmp_path / name))
    assert manifest is not None
    file = tmp_path / name if name != "shards" else tmp_path / "shards" / "1.parquet"
    file.write_bytes(b"xy")
    with pytest.raises(TrainDataError, match="changed while it was scanned"):
        manifest.require_unchanged()


def test_a_dataset_on_the_hub_cannot_change() -> None:
    assert take_manifest(source_of("hub:org/name")) is None


def test_images_are_listed_in_name_order(tmp_path: Path) -> None:
    touch(tmp_path, "b.png", "a/z.JPG", "c.gif", "d.txt")
    assert [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)] == [
        "a/z.JPG", "b.png", "c.gif",
    ]  # fmt: skip
