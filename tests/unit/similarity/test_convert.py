"""Published files become safetensors that describe images alike; nothing unconfirmed is opened."""

from __future__ import annotations

import hashlib
import io
import pickle
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from descriptor_factory import (
    RESNET50,
    RESNEXT101_32X4D,
    Reference,
    random_reference,
    state_dict,
    torchscript,
    torchvision_state,
)
from safetensors.torch import save

from pytest_memscan.errors import DescriptorError
from pytest_memscan.similarity.convert import convert, main
from pytest_memscan.similarity.descriptors.layouts import torchvision_names
from pytest_memscan.similarity.descriptors.presets import load_descriptor
from pytest_memscan.similarity.descriptors.weights import PUBLISHED, read_weights

FLOAT32 = 1e-5  # of a value below 1 after fifty or a hundred layers of float32 sums
MIXUP, LARGE = PUBLISHED["sscd_disc_mixup"], PUBLISHED["sscd_disc_large"]


@pytest.fixture(scope="module")
def mixup() -> Reference:
    return random_reference(*RESNET50)


@pytest.fixture(scope="module")
def mixup_script(mixup: Reference) -> bytes:
    return torchscript(mixup)


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


def published(images: np.ndarray, model: Reference, size: int) -> np.ndarray:
    """Descriptors as SSCD's README makes them; images have the size already, so none resizes."""
    assert images.shape[1:] == (size, size, 3)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    tensor = torch.from_numpy((images / 255 - mean) / std).permute(0, 3, 1, 2).float()
    return model(tensor).numpy()


def pictures(count: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    return rng.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8).repeat(80, 1).repeat(80, 2)


def test_a_torchscript_describes_images_as_before(
    mixup: Reference, mixup_script: bytes, tmp_path: Path
) -> None:
    source = tmp_path / "sscd_disc_mixup.torchscript.pt"
    source.write_bytes(mixup_script)
    assert main([str(source), "--sha256", digest(mixup_script).upper()]) == 0
    images = pictures(2)
    described = replace(load_descriptor("sscd"), batch_size=2).describe(images)
    np.testing.assert_allclose(described, published(images, mixup, 320), atol=FLOAT32)


def test_the_large_network_describes_images_as_before(tmp_path: Path, folder: Path) -> None:
    model = random_reference(*RESNEXT101_32X4D)
    data = torchscript(model, how="script")
    source = tmp_path / "sscd_disc_large.torchscript.pt"
    source.write_bytes(data)
    assert main([str(source), "--sha256", digest(data)]) == 0
    images = pictures(1)
    described = replace(load_descriptor("sscd-large"), batch_size=1).describe(images)
    np.testing.assert_allclose(described, published(images, model, 320), atol=FLOAT32)
    origin = read_weights(folder / LARGE.file_name, LARGE).origin
    assert origin == {
        "model": "sscd_disc_large",
        "architecture": "resnext101_32x4d",
        "source": source.name,
        "source_sha256": digest(data),
        "source_kind": "TorchScript",
        "converter": "1",
    }


def test_every_published_format_gives_the_same_weights(
    mixup: Reference, mixup_script: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torchvision = io.BytesIO()
    torch.save(torchvision_state(mixup), torchvision)
    sources = {
        "sscd_disc_mixup.torchscript.pt": mixup_script,
        "sscd_disc_mixup.classy.pt": state_dict(mixup),
        "sscd_disc_mixup.torchvision.pt": torchvision.getvalue(),
        "sscd_disc_mixup.safetensors": save(dict(mixup.state_dict())),
    }
    printed = set()
    for name, data in sources.items():
        (tmp_path / name).write_bytes(data)
        assert main([str(tmp_path / name), "--sha256", digest(data)]) == 0
        printed.add(capsys.readouterr().out.partition("sha256 of the weights: ")[2])
    assert len(printed) == 1


def test_every_tensor_goes_to_its_place(mixup: Reference) -> None:
    wanted = torchvision_state(mixup)
    renamed = torchvision_names(mixup.state_dict())
    assert renamed.keys() == {name for name in wanted if "num_batches" not in name}
    assert all(torch.equal(renamed[name], wanted[name]) for name in renamed)
    assert torchvision_names({f"module.{k}": v for k, v in wanted.items()}).keys() == renamed.keys()


def test_names_from_before_classy_vision_named_its_blocks_are_understood(mixup: Reference) -> None:
    def older(name: str) -> str:
        head, found, rest = name.rpartition(".block")
        if not found:
            return name
        block, _, rest = rest.partition(".")
        return f"{head}.{block.partition('-')[2]}._module.{rest}"

    state = {older(name): tensor for name, tensor in mixup.state_dict().items()}
    assert "backbone.blocks.2.5._module.bn.weight" in state
    assert torchvision_names(state).keys() == torchvision_names(mixup.state_dict()).keys()


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"archive/{name}.pkl", data)
    return buffer.getvalue()


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "neither a safetensors file nor a PyTorch archive"),
        (b"<!DOCTYPE html><html>", "neither a safetensors file nor a PyTorch archive"),
        (pickle.dumps({"a": 1}), "neither a safetensors file nor a PyTorch archive"),
        (zipped(constants=b"no", data=b"no"), "cannot be opened"),
        (zipped(other=b""), "cannot be opened"),
        (b"\xff" * 8 + b"{", "not a whole safetensors file"),
        (saved([torch.zeros(1)]), "not a state dict"),
        (saved({"state_dict": {}}), "not a state dict"),
        (saved({"a": torch.zeros(1)}), "does not hold a resnet50 as sscd_disc_mixup is"),
    ],
    ids=["empty", "web page", "bare pickle", "torn script", "other zip", "torn safetensors",
         "list", "nested", "other tensors"],
)  # fmt: skip
def test_what_cannot_be_converted_is_named(data: bytes, expected: str) -> None:
    with pytest.raises(DescriptorError, match=expected) as raised:
        convert(data, MIXUP, name="sscd.pt")
    assert "\n" not in str(raised.value)


def test_a_file_that_is_cut_off_is_refused(mixup_script: bytes) -> None:
    with pytest.raises(DescriptorError, match="or it is cut off"):
        convert(mixup_script[:-1000], MIXUP, name="sscd.pt")


def test_the_file_of_another_model_is_refused(mixup: Reference) -> None:
    with pytest.raises(DescriptorError, match="does not hold a resnext101_32x4d"):
        convert(state_dict(mixup), LARGE, name="sscd_disc_large.classy.pt")


def test_a_torchscript_that_computes_something_else_is_refused() -> None:
    other_pooling = random_reference(*RESNET50, pool_param=2.9)
    with pytest.raises(DescriptorError, match=r"differ from this package's by up to 0\.00"):
        convert(torchscript(other_pooling), MIXUP, name="sscd.pt")


def test_a_frozen_torchscript_is_refused_with_the_remedy(mixup: Reference) -> None:
    with pytest.raises(DescriptorError, match=r"convert sscd_disc_mixup\.classy\.pt or"):
        convert(torchscript(mixup, how="freeze"), MIXUP, name="sscd.pt")
