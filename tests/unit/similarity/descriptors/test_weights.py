"""SSCD's weights on this machine: found, whole and the right ones, or what to do is said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pytest_memscan.errors import DescriptorError
from pytest_memscan.similarity.descriptors.sscd import ARCHITECTURES, expected_shapes
from pytest_memscan.similarity.descriptors.weights import (
    FOLDER_VARIABLE,
    PUBLISHED,
    default_cache_dir,
    find_weights,
    how_to_get,
    read_weights,
    tensors_sha256,
    weights_folder,
    write_weights,
)

MIXUP, LARGE = PUBLISHED["sscd_disc_mixup"], PUBLISHED["sscd_disc_large"]
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    generator = torch.Generator().manual_seed(0)
    shapes = expected_shapes(ARCHITECTURES["resnet50"])
    return {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def written(tensors: Tensors, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("weights") / MIXUP.file_name
    write_weights(path, tensors, origin={"model": MIXUP.name, "source_sha256": "ab" * 32})
    yield path
    path.unlink()


def refusal(path: Path, tensors: Tensors | None = None) -> str:
    if tensors is not None:
        save_file(tensors, path)
    with pytest.raises(DescriptorError) as raised:
        read_weights(path, MIXUP)
    path.unlink(missing_ok=True)
    message = str(raised.value)
    assert "\n" not in message
    assert str(path.parent) not in message
    return message


def test_what_was_written_is_read_back(written: Path, tensors: Tensors) -> None:
    weights = read_weights(written, MIXUP)
    assert weights.origin == {"model": MIXUP.name, "source_sha256": "ab" * 32}
    assert weights.sha256 == tensors_sha256(tensors)
    assert weights.tensors.keys() == tensors.keys()
    assert all(torch.equal(weights.tensors[name], tensors[name]) for name in tensors)
    assert [path.name for path in written.parent.iterdir()] == [MIXUP.file_name]


def test_equal_weights_make_equal_files(written: Path, tensors: Tensors, tmp_path: Path) -> None:
    again = tmp_path / "again.safetensors"
    origin = {"source_sha256": "ab" * 32, "model": MIXUP.name}
    write_weights(again, dict(reversed(tensors.items())), origin=origin)
    assert again.read_bytes() == written.read_bytes()
    again.unlink()


def test_one_bit_changes_the_hash(written: Path, tmp_path: Path) -> None:
    data = bytearray(written.read_bytes())
    data[-12_345] ^= 1
    changed = tmp_path / MIXUP.file_name
    changed.write_bytes(data)
    assert read_weights(changed, MIXUP).sha256 != read_weights(written, MIXUP).sha256
    changed.unlink()


def test_name_shape_and_value_all_count_in_the_hash() -> None:
    one = {"a": torch.zeros(2, 3), "b": torch.ones(2)}
    others: list[Tensors] = [
        {"a": torch.zeros(3, 2), "b": torch.ones(2)},
        {"a": torch.zeros(2, 3), "c": torch.ones(2)},
        {"a": -torch.zeros(2, 3), "b": torch.ones(2)},
    ]
    hashes = [tensors_sha256(each) for each in [one, *others]]
    assert len(set(hashes)) == 4
    assert tensors_sha256(dict(reversed(one.items()))) == hashes[0]


def test_a_file_that_is_cut_off_is_refused(written: Path, tmp_path: Path) -> None:
    path = tmp_path / MIXUP.file_name
    for size in (0, 7, 100, 50_000, 90_000_000):
        path.write_bytes(written.read_bytes()[:size])
        assert "not a whole safetensors file" in refusal(path)


@pytest.mark.parametrize("data", [b"PK\x03\x04" * 10, b"\xff" * 64, b"<html>", b"\x80\x04."])
def test_what_is_no_safetensors_file_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / MIXUP.file_name
    path.write_bytes(data)
    assert "python -m pytest_memscan.similarity.convert" in refusal(path)


def test_a_missing_tensor_is_named(tensors: Tensors, tmp_path: Path) -> None:
    kept = {name: each for name, each in tensors.items() if name != "backbone.fc.bias"}
    message = refusal(tmp_path / MIXUP.file_name, kept)
    assert "it lacks backbone.fc.bias (1 tensors missing, 0 too many)" in message


def test_a_surplus_tensor_is_named_harmlessly(tensors: Tensors, tmp_path: Path) -> None:
    message = refusal(tmp_path / MIXUP.file_name, {**tensors, "\x1b[2J": torch.zeros(1)})
    assert r"also holds '\x1b[2J'" in message


@pytest.mark.parametrize("other", [torch.zeros(512, 1024), torch.zeros(512, 2048).half()])
def test_another_shape_or_type_is_refused(
    other: torch.Tensor, tensors: Tensors, tmp_path: Path
) -> None:
    message = refusal(tmp_path / MIXUP.file_name, {**tensors, "backbone.fc.weight": other})
    assert "backbone.fc.weight is" in message
    assert "not float32 (512, 2048)" in message


def test_values_that_are_not_finite_are_refused(tensors: Tensors, tmp_path: Path) -> None:
    spoilt = tensors["backbone.layer3.2.conv2.weight"].clone()
    spoilt[0, 0, 0, 0] = float("nan")
    path = tmp_path / MIXUP.file_name
    message = refusal(path, {**tensors, "backbone.layer3.2.conv2.weight": spoilt})
    assert "backbone.layer3.2.conv2.weight holds values that are not finite" in message


def test_the_weights_of_another_model_are_refused(tensors: Tensors, tmp_path: Path) -> None:
    path = tmp_path / MIXUP.file_name
    write_weights(path, tensors, origin={"model": LARGE.name})
    assert "holds the weights of 'sscd_disc_large', not of sscd_disc_mixup" in refusal(path)
    write_weights(path, tensors, origin={})
    with pytest.raises(DescriptorError, match="does not hold a resnext101_32x4d"):
        read_weights(path, LARGE)
    path.unlink()


def test_metadata_that_is_not_ours_is_no_reason_to_crash(tmp_path: Path) -> None:
    path = tmp_path / MIXUP.file_name
    for noted in ("[1]", "{", "null"):
        save_file({"a": torch.zeros(1)}, path, metadata={"memscan": noted})
        assert "not a whole safetensors file" in refusal(path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / MIXUP.file_name
    with pytest.raises(DescriptorError, match="cannot be written"):
        write_weights(target, {"a": torch.zeros(1)}, origin={})


def test_weights_are_looked_for_in_the_cache_or_where_the_variable_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, own = tmp_path / "cache", tmp_path / "own"
    (cache / "descriptors").mkdir(parents=True)
    own.mkdir()
    (cache / "descriptors" / MIXUP.file_name).touch()
    assert find_weights(MIXUP, cache) == cache / "descriptors" / MIXUP.file_name
    assert find_weights(LARGE, cache) is None
    monkeypatch.setenv("MEMSCAN_CACHE_DIR", str(cache))
    assert find_weights(MIXUP, None) == cache / "descriptors" / MIXUP.file_name
    monkeypatch.setenv(FOLDER_VARIABLE, str(own))
    assert find_weights(MIXUP, cache) is None
    (own / MIXUP.file_name).touch()
    assert find_weights(MIXUP, cache) == own / MIXUP.file_name


def test_the_default_cache_is_that_of_the_configuration(tmp_path: Path) -> None:
    assert default_cache_dir({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "pytest-memscan"
    assert default_cache_dir({"MEMSCAN_CACHE_DIR": str(tmp_path)}) == tmp_path
    assert default_cache_dir({}) == Path.home().resolve() / ".cache" / "pytest-memscan"
    assert weights_folder(None, {"MEMSCAN_CACHE_DIR": str(tmp_path)}) == tmp_path / "descriptors"


def test_what_is_missing_comes_with_the_commands_that_fetch_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMSCAN_CACHE_DIR", str(tmp_path))
    message = how_to_get(MIXUP, None)
    command = "python -m pytest_memscan.similarity.convert"
    assert f"`{command} --download sscd_disc_mixup`" in message
    assert f"`{command} sscd_disc_mixup.torchscript.pt`" in message
    assert "https://dl.fbaipublicfiles.com/sscd-copy-detection/sscd_disc_mixup.torchscript.pt" in (
        message
    )
    assert FOLDER_VARIABLE in message
    assert str(tmp_path) not in message
    assert f"`{command} --download sscd_disc_large --sha256 HASH`" in how_to_get(LARGE, None)


def test_the_commands_name_a_cache_folder_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = how_to_get(MIXUP, tmp_path)
    assert "--to CACHE/descriptors`, CACHE being the folder of --memscan-cache-dir" in elsewhere
    assert str(tmp_path) not in elsewhere
    monkeypatch.chdir(tmp_path)
    assert "--to cache/descriptors`" in how_to_get(MIXUP, tmp_path / "cache")


def test_hashes_that_are_documented_are_hashes() -> None:
    assert all(m.sha256 is None or len(bytes.fromhex(m.sha256)) == 32 for m in PUBLISHED.values())
    assert json.dumps(sorted(PUBLISHED)) == '["sscd_disc_large", "sscd_disc_mixup"]'
