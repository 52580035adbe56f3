"""The converter's command: which file, whose hash, and that nothing unconfirmed is opened."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from descriptor_factory import RESNET50, file_server, random_reference, torchscript

from pytest_memscan.similarity.convert import NOT_CONFIRMED, main
from pytest_memscan.similarity.descriptors.weights import PUBLISHED, read_weights

MIXUP, LARGE = PUBLISHED["sscd_disc_mixup"], PUBLISHED["sscd_disc_large"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache of this test's own; its large files do not stay."""
    monkeypatch.setenv("MEMSCAN_CACHE_DIR", str(tmp_path / "cache"))
    yield tmp_path / "cache" / "descriptors"
    for path in tmp_path.rglob("*.*"):
        if path.is_file():
            path.unlink()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def bomb(path: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save({"backbone.conv1.weight": Bomb(path)}, buffer)
    return buffer.getvalue()


def test_without_a_hash_nothing_is_opened_and_the_hash_is_shown(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bomb(tmp_path / "exploded")
    source = tmp_path / "sscd_disc_mixup.classy.pt"
    source.write_bytes(data)
    assert main([str(source)]) == NOT_CONFIRMED
    shown = capsys.readouterr().err
    assert digest(data) in shown
    assert "Nothing was opened" in shown
    assert not folder.exists()
    assert not (tmp_path / "exploded").exists()


def test_another_hash_is_refused_before_opening(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "sscd_disc_mixup.classy.pt"
    source.write_bytes(bomb(tmp_path / "exploded"))
    assert main([str(source), "--sha256", "0" * 64]) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: sscd_disc_mixup.classy.pt has sha256 ")
    assert "it was not opened" in message
    assert source.exists()
    assert not folder.exists()
    assert not (tmp_path / "exploded").exists()


def test_the_documented_hash_is_compared_without_being_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "sscd_disc_mixup.torchscript.pt"
    source.write_bytes(b"something else")
    assert main([str(source)]) == 1
    assert f"not {MIXUP.sha256} (the documented one; " in capsys.readouterr().err


def test_a_pickle_that_runs_code_runs_none_even_when_confirmed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bomb(tmp_path / "exploded")
    source = tmp_path / "sscd_disc_mixup.classy.pt"
    source.write_bytes(data)
    assert main([str(source), "--sha256", digest(data)]) == 1
    assert "cannot be opened as a TorchScript or as a state dict" in capsys.readouterr().err
    assert not (tmp_path / "exploded").exists()


def test_a_file_of_another_name_needs_to_be_told_what_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "copy.pt"
    source.write_bytes(b"x")
    assert main([str(source)]) == 1
    assert "add --model sscd_disc_large or --model sscd_disc_mixup" in capsys.readouterr().err
    assert main([str(source), "--model", "sscd_disc_mixup"]) == NOT_CONFIRMED


def test_a_file_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "sscd_disc_mixup.classy.pt")]) == 1
    assert "No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["file", "--download", "sscd_disc_mixup"], ["file", "--sha256", "abc"]]
)
def test_wrong_usage_exits_with_two(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2


def test_a_file_is_fetched_confirmed_and_converted(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixup_script = torchscript(random_reference(*RESNET50))
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "sscd_disc_mixup.torchscript.pt").write_bytes(mixup_script)
    with file_server(tmp_path / "mirror") as url:
        fetch = ["--download", "sscd_disc_mixup", "--base-url", url]
        assert main([*fetch, "--sha256", digest(mixup_script)]) == 0
    assert (folder / MIXUP.file_name).is_file()
    assert str(tmp_path) not in capsys.readouterr().out
    read_weights(folder / MIXUP.file_name, MIXUP)


def test_what_was_fetched_but_not_confirmed_is_not_fetched_again(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "sscd_disc_large.torchscript.pt").write_bytes(b"weights")
    with file_server(tmp_path / "mirror") as url:
        assert main(["--download", "sscd_disc_large", "--base-url", url]) == NOT_CONFIRMED
    assert digest(b"weights") in capsys.readouterr().err
    # The mirror is gone now; the file is judged by its content.
    assert main(["--download", "sscd_disc_large", "--sha256", digest(b"weights")]) == 1
    assert "neither a safetensors file nor a PyTorch archive" in capsys.readouterr().err
    assert (folder / LARGE.download_name).is_file()


def test_a_fetched_file_with_another_hash_is_deleted_unopened(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / MIXUP.download_name).write_bytes(bomb(tmp_path / "exploded"))
    with file_server(tmp_path / "mirror") as url:
        assert main(["--download", "sscd_disc_mixup", "--base-url", url]) == 1
    assert "was deleted, so that the next try fetches it again" in capsys.readouterr().err
    assert list(folder.iterdir()) == []
    assert not (tmp_path / "exploded").exists()
