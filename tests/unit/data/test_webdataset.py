"""Tar shards: samples keep their captions, and nothing is lost behind a broken header."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_factory import as_members, save_tar, some_items
from unit.data.pictures import encode, noise

from pytest_memscan.data.conversion import MAX_FILE_BYTES, ImageShape
from pytest_memscan.data.images import ImageSet, load_images
from pytest_memscan.data.readers import webdataset
from pytest_memscan.data.sources import parse_source
from pytest_memscan.errors import TrainDataError

SHAPE = ImageShape(height=8, width=8, channels=3)
GOOD = encode(noise(12, 8))


def load(path: Path) -> ImageSet:
    return load_images(parse_source(str(path), path), SHAPE, cache_dir=path.parent / "cache")


def why(path: Path) -> str:
    with pytest.raises(TrainDataError) as caught:
        load(path)
    assert "pytest-of" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("captions", ["txt", "json"])
def test_members_of_a_sample_stand_side_by_side(tmp_path: Path, captions: str) -> None:
    items = some_items(7)
    images = load(save_tar(tmp_path / "a.tar", as_members(items, captions=captions)))
    assert images.names == tuple(f"a.tar/{name}" for name, _, _ in items)
    assert images.captions == tuple(caption for _, _, caption in items)
    assert images.is_whole


def test_a_caption_may_come_before_its_image_and_text_wins_over_json(tmp_path: Path) -> None:
    members = [
        ("x/1.txt", b" first \n"),
        ("x/1.json", b'{"caption": "not this"}'),
        ("x/1.jpg", GOOD),
        ("x/2.png", GOOD),
        ("x/2.json", b'{"text": null, "prompt": "p"}'),
        ("y/2.webp", GOOD),
        ("y/3.cls", b"7"),
        ("y/3.json", b'{"caption": ["two", "captions"]}'),
        ("y/3.seg.png", GOOD),
    ]
    images = load(save_tar(tmp_path / "a.tar", members))
    assert images.names == ("a.tar/x/1.jpg", "a.tar/x/2.png", "a.tar/y/2.webp", "a.tar/y/3.seg.png")
    assert images.captions == ("first", None, None, None)
    assert images.labels == (None, None, None, "7")


@pytest.mark.parametrize(
    "name", ["../../evil.png", "/etc/evil.png", "a/../../b.png", "x\\y.png", "a\x1b[31m.png"]
)
def test_a_name_that_leads_elsewhere_is_only_a_name(tmp_path: Path, name: str) -> None:
    before = set(tmp_path.rglob("*"))
    images = load(save_tar(tmp_path / "shards" / "a.tar", [(name, GOOD), ("bad" + name, b"")]))
    assert images.names == (f"a.tar/{name}",)
    shown = f"a.tar/bad{name}".replace("\x1b", r"\x1b")
    assert images.unusable == {"empty file": (shown,)}
    written = {path.name for path in set(tmp_path.rglob("*")) - before}
    assert not [name for name in written if "evil" in name]


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
def test_a_member_that_is_no_plain_file_is_counted_and_never_followed(
    tmp_path: Path, kind: bytes
) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        folder = tarfile.TarInfo("photos")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name in ("0.png", "photos/odd.png"):
            member = tarfile.TarInfo(name)
            if name == "0.png":
                member.size = len(GOOD)
            else:
                member.type, member.linkname = kind, "0.png"
            archive.addfile(member, io.BytesIO(GOOD))
    images = load(path)
    assert images.num_found == 2
    assert images.unusable == {"not a regular file in its archive": ("a.tar/photos/odd.png",)}


def test_bad_images_and_formats_that_are_not_read_are_counted(tmp_path: Path) -> None:
    members = [("0.png", GOOD), ("1.png", GOOD[:99]), ("2.gif", b"GIF89a"), ("3.jpg", b"")]
    images = load(save_tar(tmp_path / "a.tar", members))
    assert images.unusable == {
        "not a readable PNG, JPEG or WebP image": ("a.tar/1.png",),
        ".gif files are not read": ("a.tar/2.gif",),
        "empty file": ("a.tar/3.jpg",),
    }


def test_a_member_over_the_size_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        huge = tarfile.TarInfo("0.png")
        huge.size = MAX_FILE_BYTES + 1
        archive.addfile(huge, io.BytesIO(bytes(huge.size)))
        good = tarfile.TarInfo("1.png")
        good.size = len(GOOD)
        archive.addfile(good, io.BytesIO(GOOD))
    images = load(path)
    assert images.unusable == {"larger than 64 MB": ("a.tar/0.png",)}
    assert images.names == ("a.tar/1.png",)


def test_a_sample_of_very_many_images_is_passed_on_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webdataset, "MAX_FILE_BYTES", 3 * len(GOOD))
    members = [(f"same.{index}.png", GOOD) for index in range(20)]
    assert load(save_tar(tmp_path / "a.tar", members)).num_found == 20


@pytest.mark.parametrize("members", [[], [("a.txt", b"x"), ("b.cls", b"1")]], ids=["none", "texts"])
def test_a_shard_without_images_is_named(tmp_path: Path, members: list[tuple[str, bytes]]) -> None:
    save_tar(tmp_path / "shards" / "0.tar", [("0.png", GOOD)])
    save_tar(tmp_path / "shards" / "1.tar", members)
    assert "1.tar holds no images; a shard without images is broken" in why(tmp_path / "shards")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("0.json", b"{", "a.tar/0.json is not JSON"),
        ("0.json", b"[" * 100_000, "a.tar/0.json is not JSON"),
        ("0.json", b" " * (2**20 + 1), "a.tar/0.json is larger than 1 MB"),
        ("0.txt", b" " * (2**20 + 1), "a.tar/0.txt is larger than 1 MB"),
        ("0.txt", b"\xff", "a.tar/0.txt is not UTF-8 text"),
        ("0.cls", b"\xff", "a.tar/0.cls is not UTF-8 text, so the class label of its image"),
        ("0.cls", b" " * (2**20 + 1), "a.tar/0.cls is larger than 1 MB, which is no class label"),
    ],
)
def test_a_caption_that_cannot_be_read_is_an_error(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    assert words in why(save_tar(tmp_path / "a.tar", [("0.png", GOOD), (name, content)]))


def test_labels_stand_beside_their_images(tmp_path: Path) -> None:
    members = [
        ("0.cls", b"3\n"),
        ("0.jpg", GOOD),
        ("1.jpg", GOOD),
        ("1.CLS", " Größe ".encode()),
        ("2.jpg", GOOD),
        ("2.cls", b"\n"),
        ("3.jpg", GOOD),
        ("3.seg.jpg", GOOD),
        ("3.cls", b"4"),
        ("3.seg.cls", b"4"),
    ]
    images = load(save_tar(tmp_path / "a.tar", members))
    assert images.labels == ("3", "Größe", None, "4", "4")
    plain = [member for member in members if not member[0].lower().endswith(".cls")]
    assert load(save_tar(tmp_path / "b" / "a.tar", plain)).fingerprint == images.fingerprint


def test_two_labels_for_one_sample_are_an_error(tmp_path: Path) -> None:
    members = [("0.cls", b"3"), ("0.jpg", GOOD), ("0.x.cls", b"secret")]
    message = why(save_tar(tmp_path / "a.tar", members))
    assert message == "a.tar/0.x.cls gives its image another class label; keep one"


def _third(content: bytes) -> tarfile.TarInfo:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return archive.getmembers()[2]


def _cut_between_members(content: bytes) -> bytes:
    """As a copy that was interrupted: tarfile takes this for the end of the archive."""
    return content[: _third(content).offset]


def _cut_in_a_member(content: bytes) -> bytes:
    return content[: _third(content).offset_data + 10]


def _cut_in_a_header(content: bytes) -> bytes:
    return content[: _third(content).offset + 100]


def _damaged_header(content: bytes) -> bytes:
    """Tarfile takes a header that is no header for the end, too."""
    offset = _third(content).offset
    return content[: offset + 148] + b"XXXXXXXX" + content[offset + 156 :]


def _glued(content: bytes) -> bytes:
    return content + content


def _not_a_tar(_: bytes) -> bytes:
    return b"no archive at all" * 100


def _gzipped(content: bytes) -> bytes:
    return gzip.compress(content)


@pytest.mark.parametrize(
    "damage",
    [
        _cut_between_members,
        _cut_in_a_member,
        _cut_in_a_header,
        _damaged_header,
        _glued,
        _not_a_tar,
        _gzipped,
    ],
)
def test_a_shard_that_is_not_whole_is_named(tmp_path: Path, damage: object) -> None:
    path = save_tar(tmp_path / "a.tar", as_members(some_items(6)))
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    assert "a.tar cannot be read to its end as a tar archive" in why(path)


def test_a_header_that_asks_for_gigabytes_does_not_get_them(tmp_path: Path) -> None:
    """A pax header is read into memory as a whole, whatever size it gives."""
    header = tarfile.TarInfo("pax")
    header.type = tarfile.XHDTYPE
    header.size = 2**33
    path = tmp_path / "a.tar"
    with path.open("wb") as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT))
        file.truncate(2**33 + 4096)
    assert "a.tar cannot be read to its end" in why(path)


def test_long_and_foreign_names_are_kept(tmp_path: Path) -> None:
    names = ["long/" * 60 + "a.png", "Größe/图像.png", "caf\udce9.png"]
    images = load(save_tar(tmp_path / "a.tar", [(name, GOOD) for name in names]))
    assert images.names == tuple(f"a.tar/{name}" for name in names)


@settings(max_examples=30)
@given(cut=st.integers(0, 10_000))
def test_no_cut_loses_an_image_in_silence(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    path = save_tar(folder / "a.tar", as_members(some_items(3)))
    content = path.read_bytes()
    path.write_bytes(content[: min(cut, len(content))])
    assert found_or_refused(path) in (3, None)


def found_or_refused(path: Path) -> int | None:
    try:
        return load(path).num_found
    except TrainDataError:
        return None


def test_captions_in_json_may_hold_more_than_a_caption(tmp_path: Path) -> None:
    row = json.dumps({"caption": "c", "url": "http://x", "similarity": 0.3}).encode()
    images = load(save_tar(tmp_path / "a.tar", [("0.jpg", GOOD), ("0.json", row)]))
    assert images.captions == ("c",)
