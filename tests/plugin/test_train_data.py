"""Training images of every kind through the whole gate, and what is wrong with some of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
from checkpoint_factory import save_tiny_checkpoint
from hub_server import HubServer
from image_factory import (
    Items,
    as_members,
    save_arrow,
    save_folder,
    save_images,
    save_parquet,
    save_tar,
)
from PIL import Image

from .conftest import Gate, read_report

USAGE, FAILED = pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.TESTS_FAILED
SMALL = ("--memscan-steps=2", "--memscan-budget=8img")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_tiny_checkpoint(tmp_path / "model")


@pytest.fixture
def items(tmp_path: Path) -> Items:
    """24 captioned images that a scan can tell apart."""
    made = sorted(save_images(tmp_path / "made", 24).iterdir())
    return [(path.name, path.read_bytes(), f"caption {path.stem}") for path in made]


def one_line(result: pytest.RunResult, *words: str) -> str:
    """The line of the output that holds all words; there is no traceback."""
    text = result.stdout.str() + result.stderr.str()
    assert "Traceback" not in text
    assert "INTERNALERROR" not in text
    lines = [line for line in text.splitlines() if all(word in line for word in words)]
    assert lines, f"{words} not on one line of:\n{text}"
    return lines[0]


def coverage_of(report: dict[str, Any]) -> dict[str, Any]:
    (scan,) = [check["scan"] for check in report["checks"] if check.get("scan")]
    coverage: dict[str, Any] = scan["coverage"]
    return coverage


def _save_npz(path: Path, items: Items) -> Path:
    folder = save_folder(path.parent / "unpacked", items)
    images = np.stack([np.asarray(Image.open(folder / name)) for name, _, _ in items])
    np.savez_compressed(path, images=images)
    return path


KINDS: dict[str, Callable[[Path, Items], Path]] = {
    "folder": save_folder,
    "parquet": lambda path, items: save_parquet(path.with_suffix(".parquet"), items),
    "arrow": lambda path, items: save_arrow(path.with_suffix(".arrow"), items),
    "tar": lambda path, items: save_tar(path.with_suffix(".tar"), as_members(items)),
    "npz": lambda path, items: _save_npz(path.with_suffix(".npz"), items),
}


@pytest.mark.parametrize("kind", KINDS)
def test_training_images_of_every_kind_are_scanned(
    gate: Gate, pytester: pytest.Pytester, model: Path, items: Items, tmp_path: Path, kind: str
) -> None:
    path = KINDS[kind](tmp_path / "people", items)
    result = gate(str(model), f"--memscan-train-data={path}", *SMALL)
    assert result.ret == pytest.ExitCode.OK, result.stdout.str()
    report = read_report(pytester.path)
    coverage = coverage_of(report)
    assert (coverage["train_found"], coverage["train_used"]) == (24, 24)
    assert coverage["train_unusable"] == {}
    assert str(tmp_path) not in str(report)
    assert "caption 001" not in str(report) + result.stdout.str()


@pytest.mark.parametrize("option", ["train-data", "holdout"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none.parquet", (".../none.parquet: there is no such file",)),
        ("empty.tar", (".../empty.tar is empty (0 bytes)",)),
        ("empty.npz", (".../empty.npz is empty (0 bytes)",)),
        ("pipe.arrow", (".../pipe.arrow is not a regular file",)),
        ("mixed", (".../mixed holds ", "only one of them would be read")),
        ("parts", (".../parts lacks x-00001-of-00002.tar",)),
        ("s-{0..3}.tar", (".../s-0.tar: there is no such file",)),
    ],
)
def test_shards_that_are_not_there_are_found_before_anything_runs(
    gate: Gate,
    pytester: pytest.Pytester,
    tmp_path: Path,
    option: str,
    name: str,
    words: tuple[str, ...],
) -> None:
    for file in (
        "empty.tar",
        "empty.npz",
        "mixed/a.png",
        "mixed/b.tar",
        "parts/x-00000-of-00002.tar",
    ):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(b"" if file.startswith("empty") else b"x")
    os.mkfifo(tmp_path / "pipe.arrow")
    result = gate("builtin:clean", f"--memscan-{option}={tmp_path / name}")
    assert result.ret == USAGE
    one_line(result, f"--memscan-{option}: ", *words)
    assert read_report(pytester.path)["verdict"] == "not_run"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hub:faces", ("'hub:faces' is not a dataset on the Hub", "hub:ORG/NAME")),
        ("https://example.org/a.tar", ("is a URL; download the files first",)),
        ("index:none", ("index:none: there is no such folder",)),
    ],
)
def test_what_names_no_images_is_a_usage_error(
    gate: Gate, pytester: pytest.Pytester, text: str, words: tuple[str, ...]
) -> None:
    result = gate("builtin:clean", f"--memscan-train-data={text}")
    assert result.ret == USAGE
    one_line(result, "--memscan-train-data: ", *words)
    assert read_report(pytester.path)["verdict"] == "not_run"


def test_a_shard_that_is_cut_off_is_an_error_in_one_line(
    gate: Gate, pytester: pytest.Pytester, model: Path, items: Items, tmp_path: Path
) -> None:
    path = save_tar(tmp_path / "people.tar", as_members(items))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    result = gate(str(model), f"--memscan-train-data={path}", *SMALL)
    assert result.ret == FAILED
    one_line(result, "memscan: error: people.tar cannot be read to its end as a tar archive")
    assert read_report(pytester.path)["verdict"] == "error"


@pytest.mark.parametrize(
    ("count", "verdict"), [(24, "error"), (1000, "inconclusive")], ids=["few", "many"]
)
def test_bad_images_in_a_shard_are_named_and_never_pass(
    gate: Gate,
    pytester: pytest.Pytester,
    model: Path,
    tmp_path: Path,
    count: int,
    verdict: str,
) -> None:
    made = sorted(save_images(tmp_path / "made", count - 1).iterdir())
    items = [(path.name, path.read_bytes(), None) for path in made]
    items.insert(7, ("bad.png", items[0][1][:50], None))
    path = save_parquet(tmp_path / "people.parquet", items)
    result = gate(str(model), f"--memscan-train-data={path}", *SMALL)
    assert result.ret == FAILED
    one_line(result, f"memscan: {verdict}: ", "(people.parquet[7])", "Mend or remove these images")
    assert read_report(pytester.path)["verdict"] == verdict


def test_an_image_that_captions_name_and_nobody_finds_is_an_error(
    gate: Gate, pytester: pytest.Pytester, model: Path, items: Items, tmp_path: Path
) -> None:
    folder = save_folder(tmp_path / "people", items)
    (folder / "007.png").unlink()
    result = gate(str(model), f"--memscan-train-data={folder}", *SMALL)
    assert result.ret == FAILED
    one_line(result, "memscan: error: ", "1 named in metadata.jsonl but absent (007.png)")
    assert coverage_of(read_report(pytester.path))["train_found"] == 24


@pytest.mark.parametrize("option", ["train-data", "holdout"])
def test_a_folder_that_changes_during_the_run_is_an_error(
    gate: Gate,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    model: Path,
    tmp_path: Path,
    option: str,
) -> None:
    """The pipeline that generates stands for somebody who writes meanwhile."""
    train = save_images(tmp_path / "people", 24)
    others = save_images(tmp_path / "others", 24, seed=1)
    changed = train if option == "train-data" else others

    class Writing(diffusers.DDIMPipeline):
        def __call__(self, *args: object, **kwargs: object) -> object:
            (changed / "new.png").write_bytes(b"x")
            return super().__call__(*args, **kwargs)

    Writing.__name__ = "DDIMPipeline"
    monkeypatch.setattr(diffusers, "DDIMPipeline", Writing)
    options = (f"--memscan-train-data={train}", f"--memscan-holdout={others}")
    result = gate(str(model), *options, *SMALL, "--memscan-no-cache")
    assert result.ret == FAILED
    one_line(
        result,
        f"memscan: error: .../{changed.name} changed while it was scanned",
        "24 files before, 25 now",
    )
    assert read_report(pytester.path)["verdict"] == "error"


def test_a_dataset_on_the_hub_is_scanned_and_found_again_offline(
    gate: Gate,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    model: Path,
    items: Items,
    tmp_path: Path,
) -> None:
    shard = save_parquet(tmp_path / "made.parquet", items).read_bytes()
    options = ("--memscan-train-data=hub:org/people@main", *SMALL)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with HubServer.running() as hub:
        hub.add_dataset("org/people", {"data/train-00000-of-00001.parquet": shard})
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        first = gate(str(model), *options, subprocess=True)
        assert first.ret == pytest.ExitCode.OK, first.stdout.str()
        report = read_report(pytester.path)
    assert coverage_of(report)["train_used"] == 24
    assert report["policy"]["train_data"] == ["hub:org/people@main", "--memscan-train-data"]
    again = gate(str(model), *options, "--memscan-offline", subprocess=True)
    assert again.ret == pytest.ExitCode.OK
