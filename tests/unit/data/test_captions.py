"""metadata.jsonl and metadata.csv: captions are found, and what they name is not lost."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_factory import save_folder, save_images, some_items

from pytest_memscan.data.conversion import ImageShape
from pytest_memscan.data.images import ImageSet, load_images
from pytest_memscan.data.readers.captions import read_captions
from pytest_memscan.data.sources import DataSource
from pytest_memscan.errors import TrainDataError

SHAPE = ImageShape(height=8, width=8, channels=3)


def load(folder: Path) -> ImageSet:
    source = DataSource(kind="folder", path=folder)
    return load_images(source, SHAPE, cache_dir=folder.parent / "cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """000.png, 001.png and 002.png."""
    return save_images(tmp_path / "images", 3)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_captions_stand_beside_their_images(tmp_path: Path, kind: str) -> None:
    items = some_items()
    images = load(save_folder(tmp_path / "images", items, captions=kind))
    assert images.names == tuple(name for name, _, _ in items)
    assert images.captions == tuple(caption for _, _, caption in items)
    assert images.is_whole
    assert "quoted" not in repr(images)


def test_images_without_captions_have_none(folder: Path) -> None:
    assert load(folder).captions == (None, None, None)


def test_captions_of_a_subfolder_stand_in_it(folder: Path) -> None:
    save_images(folder / "more", 2, seed=1)
    (folder / "more" / "metadata.jsonl").write_text('{"file_name": "001.png", "text": "inner"}\n')
    (folder / "metadata.csv").write_text("file_name,prompt\n./more/000.png,outer\n001.png,top\n")
    images = load(folder)
    assert dict(zip(images.names, images.captions, strict=True)) == {
        "000.png": None,
        "001.png": "top",
        "002.png": None,
        "more/000.png": "outer",
        "more/001.png": "inner",
    }


@pytest.mark.parametrize(
    ("row", "caption"),
    [
        ('{"file_name": "000.png", "text": "a", "caption": "b"}', "a"),
        ('{"file_name": "000.png", "caption": "b", "prompt": "c"}', "b"),
        ('{"prompt": "c", "file_name": "000.png", "other": [1, {}]}', "c"),
        ('{"file_name": "000.png", "text": null}', None),
        ('{"file_name": "000.png", "text": ""}', None),
        ('{"file_name": "000.png"}', None),
        (
            '\ufeff{"file_name": "000.png", "text": "after a byte order mark"}',
            "after a byte order mark",
        ),
        ('\n\n{"file_name": "./000.png", "text": "two\\nlines"}\n\n', "two\nlines"),
    ],
)
def test_the_first_known_column_is_the_caption(folder: Path, row: str, caption: str | None) -> None:
    (folder / "metadata.jsonl").write_text(row, encoding="utf-8")
    assert load(folder).captions[0] == caption


@pytest.mark.parametrize(
    "name", ["gone.png", "../000.png", "/etc/passwd", "more/000.png", "a\x1b[31m.png"]
)
def test_an_image_that_captions_name_and_nobody_finds_is_counted_and_named(
    folder: Path, name: str
) -> None:
    (folder.parent / "000.png").write_bytes((folder / "000.png").read_bytes())
    (folder / "metadata.csv").write_text(f"file_name,text\n{name},lost\n000.png,found\n")
    images = load(folder)
    shown = name.replace("\x1b", r"\x1b")
    assert images.unusable == {"named in metadata.csv but absent": (shown,)}
    assert images.captions == ("found", None, None)
    assert images.num_found == 4
    assert not images.is_whole


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("metadata.jsonl", '{"file_name": "000.png"}\n{"file_name', "line 2 is not JSON"),
        ("metadata.jsonl", "[" * 100_000, "line 1 is not JSON"),
        ("metadata.jsonl", '["000.png", "a caption"]', "line 1 is not a JSON object"),
        ("metadata.jsonl", '\n{"text": "x"}', "line 2: expected the name of an image in"),
        ("metadata.jsonl", '{"file_name": 3}', "line 1: expected the name of an image"),
        ("metadata.jsonl", '{"file_name": "a", "text": ["x"]}', "line 1: 'text' is not a text"),
        ("metadata.jsonl", b'{"file_name": "\xff"}', "line 1 is not UTF-8 text"),
        ("metadata.jsonl", b" " * (2**20 + 2), "line 1 is longer than 1,048,576 bytes"),
        (
            "metadata.jsonl",
            '{"file_name": "000.png", "text": "a"}\n{"file_name": "000.png", "text": "b"}',
            "line 2: 000.png is named again with another caption",
        ),
        (
            "metadata.jsonl",
            '{"file_name": "000.png", "label": 1}\n{"file_name": "./000.png", "label": 2}',
            "line 2: 000.png is named again with another label",
        ),
        (
            "metadata.csv",
            "file_name,text,label\n000.png,a,secret\n000.png,a,\n",
            "line 3: 000.png is named again with another label; keep one",
        ),
        ("metadata.csv", "", "line 1: expected a column 'file_name'"),
        ("metadata.csv", "name,text\na,b\n", "line 1: expected a column 'file_name'"),
        ("metadata.csv", "file_name,text\n000.png\n", "line 2 has not as many columns"),
        ("metadata.csv", "file_name,text\na,b\nc,d,e\n", "line 3 has not as many columns"),
        ("metadata.csv", 'file_name,text\na,"b', "line 2 cannot be read as CSV"),
        ("metadata.csv", b"file_name,text\na,\xe9\n", "line 2 is not UTF-8 text"),
        ("metadata.csv", "file_name,text\n,b\n", "line 2: expected the name of an image"),
    ],
)  # fmt: skip
def test_a_line_that_cannot_be_read_is_an_error_with_its_number(
    folder: Path, name: str, content: str | bytes, words: str
) -> None:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TrainDataError, match=rf"^{name} {re.escape(words)}"):
        load(folder)


def test_labels_stand_beside_their_images(folder: Path) -> None:
    save_images(folder / "more", 2, seed=1)
    (folder / "metadata.csv").write_text(
        "file_name,label,text\n000.png, Ann ,x\n001.png,,y\nmore/001.png,7,\ngone.png,9,\n"
    )
    images = load(folder)
    assert dict(zip(images.names, images.labels, strict=True)) == {
        "000.png": "Ann",
        "001.png": None,
        "002.png": None,
        "more/000.png": None,
        "more/001.png": "7",
    }
    assert "Ann" not in repr(images)


@pytest.mark.parametrize(
    ("value", "label"),
    [('"cat"', "cat"), ("3", "3"), ("-1", "-1"), ('"03"', "03"), ("null", None), ('" "', None)],
)
def test_a_label_is_a_text_or_a_whole_number(folder: Path, value: str, label: str | None) -> None:
    (folder / "metadata.jsonl").write_text(f'{{"file_name": "000.png", "label": {value}}}\n')
    assert load(folder).labels == (label, None, None)


def test_labels_change_no_fingerprint(folder: Path) -> None:
    before = load(folder)
    (folder / "metadata.jsonl").write_text('{"file_name": "000.png", "label": "x"}\n')
    after = load(folder)
    assert after.labels != before.labels
    assert after.fingerprint == before.fingerprint


def test_prompts_do_not_mind_what_is_under_label(folder: Path) -> None:
    (folder / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "a", "label": [1]}\n')
    captions = read_captions(folder, [folder / "metadata.jsonl"])
    assert [caption.text for caption in captions.values()] == ["a"]


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["cat/0.png", "cat/old/1.png", "dog/0.png"], ("cat", "cat", "dog")),
        (["cat/0.png", "cat/1.png"], ("cat", "cat")),
        (["0.png", "cat/0.png", "dog/0.png"], (None, None, None)),
        (["0.png", "1.png"], (None, None)),
    ],
)
def test_subfolders_are_classes_when_every_image_is_in_one(
    tmp_path: Path, names: list[str], labels: tuple[str | None, ...]
) -> None:
    content = (save_images(tmp_path / "made", 1) / "000.png").read_bytes()
    for name in names:
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert load(tmp_path / "images").labels == labels


def test_labels_in_metadata_win_over_subfolders(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        save_images(tmp_path / "images" / name, 1)
    metadata = tmp_path / "images" / "metadata.jsonl"
    metadata.write_text('{"file_name": "cat/000.png", "text": "no label"}\n')
    assert load(tmp_path / "images").labels == ("cat", "dog")
    # A name of a subfolder among labels from elsewhere would be one class more.
    metadata.write_text('{"file_name": "cat/000.png", "label": "tabby"}\n')
    assert load(tmp_path / "images").labels == ("tabby", None)


def test_labels_of_unusable_images_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    for name in ("cat", "dog"):
        save_images(folder / name, 2)
    (folder / "cat" / "000.png").write_bytes(b"")
    assert load(folder).labels == ("cat", "dog", "dog")


def test_the_same_caption_twice_is_no_contradiction(folder: Path) -> None:
    (folder / "metadata.jsonl").write_text('{"file_name": "000.png", "text": "a"}\n' * 2)
    assert load(folder).captions[0] == "a"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_captions_in_a_pipe_are_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "metadata.jsonl")
    with pytest.raises(TrainDataError, match=r"metadata\.jsonl is not a regular file"):
        load(folder)


@given(content=st.binary(max_size=200))
def test_any_bytes_are_captions_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.mktemp("any")
    for name in ("metadata.jsonl", "metadata.csv"):
        (folder / name).write_bytes(content)
        assert refusal(folder, name).startswith((f"{name} line ", "none"))


def refusal(folder: Path, name: str) -> str:
    try:
        read_captions(folder, [folder / name])
    except TrainDataError as error:
        return str(error)
    return "none"
