"""JSONL, CSV, Parquet and folders of captioned images as lists of prompts."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_factory import save_images, save_parquet

from pytest_memscan.data.prompts import (
    PromptSet,
    check_prompt_source,
    parse_prompt_source,
    read_prompts,
)
from pytest_memscan.errors import OptionError, PromptError


def read(path: Path) -> PromptSet:
    source = parse_prompt_source(str(path), path.parent)
    check_prompt_source(source)
    return read_prompts(source, offline=True)


def refusal(path: Path) -> str:
    """The sentence, which is the same at start-up and later."""
    source = parse_prompt_source(str(path), path.parent)
    with pytest.raises(OptionError) as now:
        check_prompt_source(source)
    with pytest.raises(PromptError) as later:
        read_prompts(source, offline=True)
    assert str(now.value) == str(later.value)
    assert "\n" not in str(now.value)
    assert str(path.parent) not in str(now.value)
    assert "secret" not in str(now.value)
    return str(now.value)


def write(file: Path, content: str | bytes) -> Path:
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def test_json_lines_are_read_by_the_first_known_key(tmp_path: Path) -> None:
    rows = [
        {"text": " a ", "caption": "no", "prompt": "no"},
        {"caption": "b", "prompt": "no", "id": 7},
        {"prompt": "two\nlines"},
        {"text": None},
        {"text": ""},
        {"text": "a"},
    ]
    lines = "\n\n".join(map(json.dumps, rows))
    found = read(write(tmp_path / "list.jsonl", "\ufeff" + lines))
    assert found.prompts == ("a", "b", "two\nlines")
    assert found.places == ("line 1", "line 3", "line 5")
    assert found.coverage.dropped == {"empty": 2, "duplicate": 1}
    assert found.coverage.num_found == 6


def test_json_rows_without_a_text_are_named(tmp_path: Path) -> None:
    lines = [
        b'{"text": "good"}',
        b'{"title": "secret"}',
        b'{"text": 3}',
        b'{"caption": ["secret", "secret"]}',
        b'{"text": "caf\xe9"}',
        b'{"text": "\\ud800"}',
        b'{"text": "a\\u0000b"}',
        b'{"text": "a\\u0007b"}',
    ]
    found = read(write(tmp_path / "list.jsonl", b"\n".join(lines)))
    assert found.prompts == ("good",)
    assert found.coverage.unusable == {
        "without 'text', 'caption' or 'prompt'": ("line 2",),
        "not a text": ("line 3", "line 4"),
        "not UTF-8 text": ("line 5", "line 6"),
        "with a NUL character": ("line 7",),
        "with a control character": ("line 8",),
    }


@pytest.mark.parametrize("column", ["text", "caption", "prompt"])
def test_a_csv_file_is_read_by_its_header(tmp_path: Path, column: str) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerows([["id", column], [1, 'a "quoted", one'], [2, "two\nlines"], [3, " "]])
    found = read(write(tmp_path / "list.csv", "\ufeff" + buffer.getvalue()))
    assert found.prompts == ('a "quoted", one', "two\nlines")
    assert found.places == ("line 2", "line 4")
    assert found.coverage.dropped == {"empty": 1}


def test_csv_fields_that_are_not_utf_8_are_named(tmp_path: Path) -> None:
    found = read(write(tmp_path / "list.csv", b"text\ngood\ncaf\xe9\n"))
    assert found.prompts == ("good",)
    assert found.coverage.unusable == {"not UTF-8 text": ("line 3",)}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text', "a.jsonl line 2 is not JSON; expected one object a "
         'line, as in {"text": "a prompt"}'),
        ("a.jsonl", '["secret"]', "a.jsonl line 1 is not a JSON object"),
        ("a.jsonl", '"secret"', "a.jsonl line 1 is not a JSON object"),
        ("a.jsonl", "[" * 100_000, "a.jsonl line 1 is not JSON; expected one object a line, as in "
         '{"text": "a prompt"}'),
        ("a.jsonl", "", "a.jsonl holds no prompts"),
        ("a.jsonl", b" " * (2**20 + 2), "a.jsonl line 1 is longer than 1,048,576 bytes"),
        ("a.csv", "", "a.csv line 1: expected a column 'text', 'caption' or 'prompt'"),
        ("a.csv", "secret\n", "a.csv line 1: expected a column 'text', 'caption' or 'prompt'"),
        ("a.csv", "text\nsecret, more\n", "a.csv line 2 has not as many columns as line 1"),
        ("a.csv", 'text\n"secret', "a.csv line 2 cannot be read as CSV: unexpected end of data"),
        ("a.csv", "text\n", "a.csv holds no prompts"),
        ("a.csv", "text\n" + "x" * 2**18, "a.csv line 2 cannot be read as CSV: field larger than "
         "field limit (131072)"),
    ],
)  # fmt: skip
def test_a_broken_table_is_one_sentence(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    assert refusal(write(tmp_path / name, content)) == f".../{message}"


@pytest.mark.parametrize("suffix", ["txt", "jsonl", "csv"])
@pytest.mark.parametrize("kind", ["png", "utf-16", "utf-16-le", "npz", "parquet"])
def test_a_file_that_is_no_text_is_called_so(tmp_path: Path, kind: str, suffix: str) -> None:
    if kind == "png":
        content = (save_images(tmp_path / "images", 1) / "000.png").read_bytes()
    elif kind == "npz":
        content = b"PK\x03\x04\x14\x00\x00\x00\x00\x00secret\xff\xff\n"
    elif kind == "parquet":
        import pyarrow as pa

        table = pa.table({"text": ["secret"] * 3})
        content = save_parquet(tmp_path / "made.parquet", table).read_bytes()
    else:
        content = "text\nsecret\n".encode(kind)
    message = refusal(write(tmp_path / f"list.{suffix}", content))
    assert message.startswith(f".../list.{suffix} is not UTF-8 text: it is UTF-16 or a binary file")


def test_a_long_text_in_which_a_character_is_cut_in_two_is_text(tmp_path: Path) -> None:
    for shift in range(4):
        found = read(write(tmp_path / "list.txt", "a" * shift + "\0猫" * 2000 + "\ngood"))
        assert found.prompts == ("good",)


def test_a_single_nul_is_found_with_its_line(tmp_path: Path) -> None:
    content = b"".join(b"prompt %d\n" % n for n in range(6)) + b"nul \0 here\n"
    found = read(write(tmp_path / "list.txt", content))
    assert found.coverage.unusable == {"with a NUL character": ("line 7",)}


def test_what_is_not_there_or_no_file_is_said(tmp_path: Path) -> None:
    assert refusal(tmp_path / "gone.txt").startswith(
        ".../gone.txt: there is no such file or folder; expected a list of prompts"
    )
    assert ".../gone: there is no such file or folder" in refusal(tmp_path / "gone")
    assert "is a file without a suffix; expected" in refusal(write(tmp_path / "plain", "a"))
    (tmp_path / "loose.txt").symlink_to(tmp_path / "nowhere")
    assert "nowhere: there is no such file" in refusal(tmp_path / "loose.txt")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.txt")
        assert refusal(tmp_path / "pipe.txt") == ".../pipe.txt is not a regular file"


def _arrays() -> dict[str, Callable[[], object]]:
    import pyarrow as pa

    texts = [" a ", None, "b", "a", "\0"]
    return {
        "string": lambda: pa.array(texts),
        "large_string": lambda: pa.array(texts, pa.large_string()),
        "string_view": lambda: pa.array(texts, pa.string_view()),
        "dictionary": lambda: pa.array(texts).dictionary_encode(),
    }


@pytest.mark.parametrize("kind", list(_arrays()))
def test_a_parquet_file_is_read_by_its_column_of_texts(tmp_path: Path, kind: str) -> None:
    import pyarrow as pa

    table = pa.table({"text": [1, 2, 3, 4, 5], "caption": _arrays()[kind](), "other": ["c"] * 5})
    found = read(save_parquet(tmp_path / "list.parquet", table, row_group_size=2))
    assert found.prompts == ("a", "b")
    assert found.places == ("row 1", "row 3")
    assert found.coverage.dropped == {"empty": 1, "duplicate": 1}
    assert found.coverage.unusable == {"with a NUL character": ("row 5",)}


def test_parquet_texts_that_are_not_utf_8_are_named_by_row(tmp_path: Path) -> None:
    import pyarrow as pa

    bytes_ = pa.array([b"good", b"caf\xe9"])
    texts = pa.Array.from_buffers(pa.string(), 2, bytes_.buffers())
    found = read(save_parquet(tmp_path / "list.parquet", pa.table({"text": texts})))
    assert found.prompts == ("good",)
    assert found.coverage.unusable == {"not UTF-8 text": ("row 2",)}


def test_a_parquet_file_without_texts_or_damaged_is_one_sentence(tmp_path: Path) -> None:
    import pyarrow as pa

    file = save_parquet(tmp_path / "a.parquet", pa.table({"image": [b""], "text": [1]}))
    assert refusal(file) == (
        ".../a.parquet has no column of texts called 'text', 'caption' or 'prompt'; its columns "
        "are image, text"
    )
    assert refusal(save_parquet(file, pa.table({"text": pa.array([], pa.string())}))) == (
        ".../a.parquet holds no prompts"
    )
    for content in (b"", b"PAR1 secret", b"\x89PNG\r\n"):
        assert refusal(write(file, content)).startswith(".../a.parquet cannot be read as Parquet: ")


def test_without_pyarrow_the_remedy_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    message = refusal(write(tmp_path / "a.parquet", b"PAR1"))
    assert message.endswith("needs pyarrow to be read: pip install 'pytest-memscan[parquet]'")


def test_captions_of_a_folder_stand_in_its_metadata(tmp_path: Path) -> None:
    folder = save_images(tmp_path / "images", 4)
    rows = [("001.png", "b"), ("000.png", "a"), ("gone.png", "of an image that is not there")]
    lines = [json.dumps({"file_name": name, "text": text}) for name, text in rows]
    write(folder / "metadata.jsonl", "\n".join(lines))
    found = read(folder)
    assert found.prompts == ("a", "b", "of an image that is not there")
    assert found.places == ("000.png", "001.png", "gone.png")
    assert found.coverage.dropped == {"empty": 2}
    assert found.coverage.origin == ".../images"


def test_captions_of_a_folder_stand_in_texts_beside_the_images(tmp_path: Path) -> None:
    folder = save_images(tmp_path / "images", 5)
    save_images(folder / "10_concept", 1, seed=1)
    write(folder / "000.txt", "\ufeffa sks cat\n")
    write(folder / "001.txt", "a sks dog\n\nits other caption")
    write(folder / "002.txt", "")
    write(folder / "003.caption", "a sks bird")
    write(folder / "10_concept" / "000.txt", "below")
    write(folder / "notes.txt", "beside no image")
    write(folder / "metadata.csv", "file_name,text\n000.png,in both\n001.png,\n")
    found = read(folder)
    assert list(zip(found.places, found.prompts, strict=True)) == [
        ("000.png", "in both"),
        ("000.txt line 1", "a sks cat"),
        ("001.txt line 1", "a sks dog"),
        ("001.txt line 3", "its other caption"),
        ("003.caption line 1", "a sks bird"),
        ("10_concept/000.txt line 1", "below"),
    ]
    assert found.coverage.dropped == {"empty": 3}  # a line of 001.txt, 002.txt, and 004.png
    assert found.coverage.num_found == 9


def test_a_folder_without_captions_or_images_is_one_sentence(tmp_path: Path) -> None:
    folder = save_images(tmp_path / "images", 2)
    assert refusal(folder) == (
        ".../images holds 2 images and no captions, which are read from metadata.jsonl, "
        "metadata.csv or a .txt file beside each image"
    )
    write(folder / "000.txt", " \n")
    assert refusal(folder) == "no prompt in .../images can be used: 2 empty"
    write(folder / "000.txt", b"\xff\n")
    assert refusal(folder) == (
        "no prompt in .../images can be used: 1 empty; 1 not UTF-8 text (000.txt line 1)"
    )
    (tmp_path / "empty").mkdir()
    assert ".../empty holds no images" in refusal(tmp_path / "empty")


def test_captions_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    folder = save_images(tmp_path / "images", 2)
    write(folder / "000.txt", (folder / "000.png").read_bytes())
    assert refusal(folder).startswith("000.txt is not UTF-8 text: it is UTF-16 or a binary file")
    (folder / "000.txt").unlink()
    (folder / "000.txt").symlink_to("gone.txt")
    assert refusal(folder).startswith("000.txt cannot be read (")
    (folder / "000.txt").unlink()
    write(folder / "metadata.jsonl", '{"file_name": "000.png", "text": "secret"')
    assert refusal(folder).startswith("metadata.jsonl line 1 is not JSON")


def test_a_link_to_a_folder_elsewhere_may_hold_captions_that_are_not_read(tmp_path: Path) -> None:
    folder = save_images(tmp_path / "images", 1)
    write(folder / "000.txt", "a")
    (folder / "more").symlink_to(save_images(tmp_path / "elsewhere", 1))
    found = read(folder)
    assert found.coverage.unusable == {"link to another folder, which is not followed": ("more",)}


@given(content=st.binary(max_size=200))
@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_any_bytes_are_prompts_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, content: bytes
) -> None:
    file = write(tmp_path_factory.mktemp("any") / f"list.{suffix}", content)
    message = sentence_about(file)
    assert message.startswith(("none", f".../list.{suffix} ", f"no prompt in .../list.{suffix} "))


def sentence_about(file: Path) -> str:
    try:
        assert read(file).prompts
    except OptionError as error:
        return str(error)
    return "none"


_WITHOUT_CONTROLS = st.characters(exclude_categories=["Cc", "Cs"])


@given(st.lists(st.text(_WITHOUT_CONTROLS, min_size=1, max_size=20), min_size=1, max_size=8))
def test_one_list_is_the_same_in_every_format(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    import pyarrow as pa

    folder = tmp_path_factory.mktemp("formats")
    texts = ["first", *texts]
    write(folder / "a.txt", "".join(f"{text}\n" for text in texts))
    write(folder / "a.jsonl", "".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    with (folder / "a.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["text"], *([text] for text in texts)])
    save_parquet(folder / "a.parquet", pa.table({"caption": texts}))
    found = [read(folder / f"a.{suffix}") for suffix in ("txt", "jsonl", "csv", "parquet")]
    assert len({each.prompts for each in found}) == 1
    assert len({each.fingerprint for each in found}) == 1
    assert all(each.coverage.num_found == len(texts) for each in found)
