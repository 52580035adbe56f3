"""What ``--memscan-descriptor`` may say: known names, folders, Hub models; the rest is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from descriptor_factory import RESNET50, random_reference, save_encoder, torchvision_state

from pytest_memscan.errors import OptionError
from pytest_memscan.similarity.descriptors.presets import NAMES, check_descriptor, load_descriptor
from pytest_memscan.similarity.descriptors.weights import FOLDER_VARIABLE, PUBLISHED, write_weights

MIXUP = PUBLISHED["sscd_disc_mixup"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with random weights for `sscd`."""
    folder = tmp_path_factory.mktemp("cache")
    tensors = torchvision_state(random_reference(*RESNET50))
    kept = {name: tensor for name, tensor in tensors.items() if "num_batches" not in name}
    write_weights(folder / "descriptors" / MIXUP.file_name, kept, origin={"model": MIXUP.name})
    return folder


@pytest.fixture(autouse=True)
def _no_weights_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMSCAN_CACHE_DIR", str(tmp_path / "empty"))
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)


def refusal(spec: str, cache_dir: Path | None = None) -> str:
    with pytest.raises(OptionError) as raised:
        check_descriptor(spec, cache_dir=cache_dir)
    message = str(raised.value)
    assert message.startswith("--memscan-descriptor")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("spec", ["pixels", "builtin:copy", "facebook/dinov2-base", "a/b@v1.0/x"])
def test_what_needs_nothing_on_this_machine_passes(spec: str) -> None:
    check_descriptor(spec)


@pytest.mark.parametrize(
    "spec", ["", "SSCD", "sscd_disc_mixup", "builtin:other", "a/b/c", "a/b@", "../none", "x\0y",
             "\x1b[2J", "a" * 5000]
)  # fmt: skip
def test_an_unknown_name_is_refused_with_the_list(spec: str) -> None:
    message = refusal(spec)
    assert f"it is one of {', '.join(NAMES)}, or an image encoder" in message
    assert message.isprintable()
    assert len(message) < 500


@pytest.mark.parametrize(
    ("spec", "model"),
    [("sscd", "sscd_disc_mixup"), ("sscd-crop224", "sscd_disc_mixup"),
     ("sscd-large", "sscd_disc_large"), ("sscd-large-crop224", "sscd_disc_large")],
)  # fmt: skip
def test_missing_weights_are_refused_with_the_command(spec: str, model: str) -> None:
    message = refusal(spec)
    assert f"--memscan-descriptor {spec}: the weights of {model} are not in" in message
    assert f"`python -m pytest_memscan.similarity.convert --download {model}" in message
    with pytest.raises(OptionError, match=model):
        load_descriptor(spec)


def test_weights_that_are_there_pass(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_descriptor("sscd", cache_dir=cache)
    monkeypatch.setenv(FOLDER_VARIABLE, str(cache / "descriptors"))
    check_descriptor("sscd")


def test_a_folder_without_an_encoder_is_refused_without_its_path(tmp_path: Path) -> None:
    message = refusal(str(tmp_path))
    assert f".../{tmp_path.name} has no config.json" in message
    assert str(tmp_path) not in message


def test_a_folder_with_an_encoder_passes_and_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_encoder("dinov2", tmp_path / "org" / "tiny")
    check_descriptor(str(tmp_path / "org" / "tiny"))
    assert load_descriptor(str(tmp_path / "org" / "tiny")).name == ".../tiny"
    # A folder that exists wins over a Hub model of the same name; no network is asked.
    monkeypatch.chdir(tmp_path)
    assert load_descriptor("org/tiny").name == "org/tiny"


def test_presets_of_one_model_differ_in_record_and_numbers(cache: Path) -> None:
    square = load_descriptor("sscd", cache_dir=cache)
    cropped = load_descriptor("sscd-crop224", cache_dir=cache)
    assert square.dimension == cropped.dimension == 512
    differing = {key for key in square.record if square.record[key] != cropped.record[key]}
    assert differing == {"preset", "preprocessing"}
    assert square.record.keys() == {
        "descriptor", "preset", "architecture", "preprocessing", "weights_sha256",
    }  # fmt: skip
    images = np.random.default_rng(0).integers(0, 256, (1, 40, 60, 3), dtype=np.uint8)
    assert float((square.describe(images) * cropped.describe(images)).sum()) < 0.999


def test_levels_are_those_of_the_papers_and_none_ends_below_an_exact_copy(cache: Path) -> None:
    levels = load_descriptor("sscd", cache_dir=cache).levels
    assert levels is not None
    cuts = [(level.name, level.cut, level.band_lower) for level in levels]
    assert cuts == [
        ("low", pytest.approx(0.6), pytest.approx(0.5)),
        ("mid", pytest.approx(0.5), pytest.approx(0.4)),
        ("high", pytest.approx(0.4), 0.0),
    ]


def test_one_bit_of_the_weights_changes_the_record(cache: Path, tmp_path: Path) -> None:
    before = load_descriptor("sscd", cache_dir=cache).record
    data = bytearray((cache / "descriptors" / MIXUP.file_name).read_bytes())
    data[-1000] ^= 1
    (tmp_path / "descriptors").mkdir()
    (tmp_path / "descriptors" / MIXUP.file_name).write_bytes(data)
    after = load_descriptor("sscd", cache_dir=tmp_path).record
    (tmp_path / "descriptors" / MIXUP.file_name).unlink()
    assert {key for key in before if before[key] != after[key]} == {"weights_sha256"}


def test_pixels_are_no_descriptor() -> None:
    with pytest.raises(ValueError, match="without a descriptor"):
        load_descriptor("pixels")


def test_checking_imports_nothing_heavy() -> None:
    script = (
        "import sys; from pytest_memscan.similarity.descriptors.presets import check_descriptor; "
        "check_descriptor('org/name'); check_descriptor('builtin:copy'); "
        "heavy = {'torch', 'numpy', 'transformers', 'huggingface_hub', 'safetensors', 'PIL'}; "
        "sys.exit(' '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stderr.strip() == ""
    assert done.returncode == 0
