"""What may stand after --memscan-train-data, and what is wrong with the rest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_memscan.data.sources import DataSource, parse_source
from pytest_memscan.errors import OptionError


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("images", "folder"),
        ("images.zip", "folder"),  # refused when it is looked at
        ("a.parquet", "parquet"),
        ("a.PARQUET", "parquet"),
        ("a.arrow", "arrow"),
        ("a.tar", "webdataset"),
        ("shards-{000..003}.tar", "webdataset"),
        ("a.tar.gz", "folder"),
        ("cifar.npz", "npz"),
        ("train_images.safetensors", "packed"),
        ("index:saved", "index"),
    ],
)
def test_a_file_is_known_by_its_suffix(tmp_path: Path, text: str, kind: str) -> None:
    source = parse_source(text, tmp_path)
    assert source.kind == kind
    assert source.path == tmp_path / text.removeprefix("index:")
    assert source.repo is None


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        ([], "folder"),
        (["a.png", "metadata.parquet"], "folder"),
        (["metadata.parquet", "b/c.jpg"], "folder"),
        (["only.gif"], "folder"),
        (["dataset_info.json", "data-00000-of-00001.arrow"], "arrow"),
        (["b/train.parquet", "README.md"], "parquet"),
        (["0.tar", "1.tar"], "webdataset"),
    ],
    ids=lambda value: str(value),
)
def test_a_folder_is_known_by_what_is_in_it(tmp_path: Path, names: list[str], kind: str) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert parse_source(str(tmp_path), Path("/elsewhere")).kind == kind


@pytest.mark.parametrize(
    ("text", "repo", "revision"),
    [
        ("hub:org/name", "org/name", None),
        ("hub:org/name@main", "org/name", "main"),
        ("hub:o-r.g/n_a.me@refs/convert/parquet", "o-r.g/n_a.me", "refs/convert/parquet"),
        ("hub:org/name@" + "0" * 40, "org/name", "0" * 40),
    ],
)
def test_a_dataset_on_the_hub(text: str, repo: str, revision: str | None) -> None:
    source = parse_source(text, Path("/base"))
    assert source == DataSource(kind="hub", repo=repo, revision=revision)
    assert source.label == text


@pytest.mark.parametrize(
    "text",
    [
        "hub:",
        "hub:name",
        "hub:org/name/config",
        "hub:org/name@",
        "hub:org/../name",
        "hub:org/na..me@x",
        "hub:org/a--b",
        "hub:org/name@../../etc",
        "hub:org/name@v1\n",
        "hub:https://huggingface.co/datasets/org/name",
    ],
)
def test_a_malformed_hub_id_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match=r"not a dataset on the Hub; expected hub:ORG/NAME"):
        parse_source(text, Path("/base"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected a path"),
        (" ", "expected a path"),
        ("index:", "expected a path"),
        ("a\0b", "is not a usable path"),
        ("~nobody-here/images", "is not a usable path"),
        ("https://example.org/images.tar", "is a URL; download the files first"),
    ],
)
def test_what_is_no_path_is_refused(text: str, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        parse_source(text, Path("/base"))


def test_a_missing_path_is_not_looked_for_yet(tmp_path: Path) -> None:
    assert parse_source("none", tmp_path).path == tmp_path / "none"


def test_labels_tell_no_private_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_source("data/a.tar", tmp_path).label == "data/a.tar"
    assert parse_source("/secret/person/a.npz", tmp_path).label == ".../a.npz"
    assert parse_source("index:/secret/person/saved", tmp_path).label == "index:.../saved"
    assert "secret" not in repr(parse_source("/secret/person/a.npz", tmp_path))
    assert parse_source("/secret/a\x1b[31m.npz", tmp_path).label == r".../a\x1b[31m.npz"


@given(text=st.text(max_size=40))
def test_any_text_is_a_source_or_an_option_error(text: str) -> None:
    for prefix in ("hub:", "index:", "x/"):  # a folder that exists would be looked into
        assert label_or_refusal(prefix + text).isprintable()


def label_or_refusal(text: str) -> str:
    try:
        return parse_source(text, Path("/base")).label
    except OptionError as error:
        return str(error)


def test_parsing_imports_nothing_heavy() -> None:
    script = (
        "import sys; from pytest_memscan.data.sources import parse_source;"
        "import pytest_memscan.data.listing;"
        "print(sorted({'numpy', 'torch', 'pyarrow', 'PIL', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
