"""What a user gets from the wheel."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


@pytest.mark.parametrize("name", ["leaky", "clean", "partial"])
def test_the_wheel_carries_the_builtin_checkpoints(wheel: zipfile.ZipFile, name: str) -> None:
    names = set(wheel.namelist())
    home = f"pytest_memscan/builtin/{name}"
    for file in (
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "train_images.safetensors",
        "training.json",
    ):
        assert f"{home}/{file}" in names
    weights = wheel.getinfo(f"{home}/unet/diffusion_pytorch_model.safetensors")
    assert weights.file_size < 4_000_000


@pytest.mark.parametrize("name", ["clean-t2i", "leaky-t2i", "leaky-t2i-full"])
def test_the_wheel_carries_the_builtin_text_to_image_checkpoints(
    wheel: zipfile.ZipFile, name: str
) -> None:
    home = f"pytest_memscan/builtin/{name}/"
    carried = {each.removeprefix(home) for each in wheel.namelist() if each.startswith(home)}
    folder = ROOT / "fixtures" / name
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert carried == files >= {"model_index.json", "prompts.txt", "tokenizer/vocab.json"}


def test_the_wheel_carries_the_lora_and_the_probe_list(wheel: zipfile.ZipFile) -> None:
    lora = "pytest_memscan/builtin/leaky-t2i-lora/"
    for name in ("pytorch_lora_weights.safetensors", "train_images.safetensors", "prompts.txt"):
        assert lora + name in wheel.namelist()
    assert "pytest_memscan/data/probe_prompts.txt" in wheel.namelist()


@pytest.mark.parametrize("name", ["weights.safetensors", "levels.json"])
def test_the_wheel_carries_the_copy_descriptor(wheel: zipfile.ZipFile, name: str) -> None:
    original = ROOT / "fixtures" / "copy_descriptor" / name
    assert wheel.read(f"pytest_memscan/builtin/copy_descriptor/{name}") == original.read_bytes()
    assert original.stat().st_size <= 4_000_000


def test_the_wheel_is_typed_and_holds_templates_and_no_start_up_hook(
    wheel: zipfile.ZipFile,
) -> None:
    names = set(wheel.namelist())
    assert "pytest_memscan/py.typed" in names
    assert "pytest_memscan/reports/report.html.j2" in names
    assert "pytest_memscan/reports/report.css" in names
    assert not [name for name in names if name.endswith(".pth")]
    assert not [name for name in names if name.startswith("tests")]


def test_the_entry_point_and_marker_of_pytest_plugins_are_there(wheel: zipfile.ZipFile) -> None:
    info = "pytest_memscan-0.1.0.dist-info"
    entry_points = wheel.read(f"{info}/entry_points.txt").decode()
    assert "memscan = pytest_memscan.plugin" in entry_points
    assert "Framework :: Pytest" in wheel.read(f"{info}/METADATA").decode()


def test_no_requirement_brings_torchvision(wheel: zipfile.ZipFile) -> None:
    metadata = wheel.read("pytest_memscan-0.1.0.dist-info/METADATA").decode()
    assert "torchvision" not in metadata
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pins = [line for line in constraints.splitlines() if line and not line.startswith("#")]
    assert "torch==2.13.0" in pins
    assert all("==" in line for line in pins)
    assert not [line for line in pins if line.startswith(("torchvision", "nvidia", "triton"))]
