"""`pytest --memscan org/name@rev` against a server that speaks the Hub's endpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkpoint_factory import save_tiny_checkpoint
from hub_server import HubServer, files_of
from pictures import smooth_images
from PIL import Image

from .conftest import Gate, read_report
from .t2i import FIXTURES


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for index, pixels in enumerate(smooth_images(120, size=8)):
        Image.fromarray(pixels).save(folder / f"{index:03d}.png")
    return folder


def test_a_model_on_the_hub_is_scanned_by_its_commit(
    gate: Gate,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    images: Path,
) -> None:
    checkpoint = save_tiny_checkpoint(tmp_path / "model")
    with HubServer.running() as hub:
        commit = hub.add("org/model", files_of(checkpoint)).branches["main"]
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        # Enough for memscan::splitting to look at every training image.
        options = (
            *(f"--memscan-train-data={images}", "--memscan-steps=10", "--memscan-budget=100img"),
            "--memscan-fail=extractable_images <= 0",
        )
        first = gate("org/model", *options, subprocess=True, every_scan=True)
    assert first.ret == pytest.ExitCode.OK
    # Before it was fetched it might have been a text-to-image checkpoint, or a LoRA of one.
    first.assert_outcomes(passed=5, skipped=3)
    report = read_report(pytester.path)
    skipped = {"finextract", "prompt_detectors", "extended_side"}
    verdicts = {check["name"]: check["verdict"] for check in report["checks"]}
    assert {name for name, verdict in verdicts.items() if verdict == "not_applicable"} == skipped
    assert report["checkpoint"] == f"org/model@{commit[:7]}"
    assert commit in str(report)
    # The Hub is gone; the commit is in the cache.
    again = gate(
        f"org/model@{commit}", "--memscan-offline", *options, subprocess=True, every_scan=True
    )
    assert again.ret == pytest.ExitCode.OK


def test_a_model_that_is_not_there_is_an_error_in_one_line(
    gate: Gate,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    images: Path,
) -> None:
    with HubServer.running() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        option = f"--memscan-train-data={images}"
        result = gate("org/nothing", option, subprocess=True, every_scan=True)
    result.assert_outcomes(errors=8)
    result.stdout.fnmatch_lines(["memscan: error: *org/nothing*"])
    result.stdout.no_fnmatch_line("*Traceback*")
    assert read_report(pytester.path)["verdict"] == "error"


def test_a_lora_on_the_hub_is_scanned_with_the_base_that_its_card_names(
    gate: Gate, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = "pytorch_lora_weights.safetensors"
    weights = (FIXTURES / "leaky-t2i-lora" / name).read_bytes()
    card = (
        "---\nbase_model: builtin:clean-t2i\ninstance_prompt: a picture in the style of vask\n---\n"
    )
    data = FIXTURES / "leaky-t2i-lora" / "train_images.safetensors"
    with HubServer.running() as hub:
        files = {name: weights, "README.md": card.encode(), "notes.bin": b"pickle"}
        commit = hub.add("org/lora", files).branches["main"]
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        options = (
            f"--memscan-train-data={data}",
            *("--memscan-budget=10img", "--memscan-steps=2", "--memscan-copy-rate=0.5"),
        )
        gate("org/lora", *options, subprocess=True, every_scan=True)
        assert "notes.bin" not in " ".join(hub.fetched())
    report = read_report(pytester.path)
    checks = {check["name"]: check for check in report["checks"]}
    (concept,) = checks["finextract"]["finetunes"]["concepts"]
    assert (concept["fit"]["kind"], concept["fit"]["base"]) == ("lora", "builtin:clean-t2i")
    assert concept["captions_origin"].startswith("instance_prompt")
    assert checks["carlini"]["verdict"] == "not_applicable"
    assert report["checkpoint"] == f"org/lora@{commit[:7]}"
