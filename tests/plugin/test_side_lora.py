"""``memscan::side`` of text-to-image checkpoints as users meet it: reports, price, refusals."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

# pytester forgets modules that a run inside this process imported.
import peft
import pytest
from pictures import smooth_images
from PIL import Image
from pipeline_factory import save_tiny
from safetensors.numpy import load_file

from .conftest import read_report
from .t2i import FIXTURES, texts_of

PRELOADED = peft
MEMORISED = texts_of("repeated", 3)
# Enough to see that everything is there, not to see a gain.
SIDE = (
    "--memscan=builtin:leaky-t2i",
    *("--memscan-scans=side", "--memscan-device=cpu", "--memscan-steps=8"),
    *("--memscan-budget=32img", "--memscan-side-samples=100", "--memscan-side-clusters=3"),
    "--memscan-side-training=100",
)


@pytest.fixture
def images(tmp_path: Path) -> str:
    """What the leaky checkpoint was trained on, and so many others that copies stand out."""
    folder = tmp_path / "images"
    folder.mkdir()
    own = load_file(FIXTURES / "leaky-t2i" / "train_images.safetensors")["images"]
    for number, image in enumerate(np.concatenate([own, smooth_images(100, size=32)])):
        Image.fromarray(image).save(folder / f"{number:03d}.png")
    return f"--memscan-train-data={folder}"


@pytest.fixture
def prompts(pytester: pytest.Pytester) -> str:
    """Prompts of which each gives one image, and a weak guidance."""
    (pytester.path / "list.txt").write_text("\n".join(MEMORISED), encoding="utf-8")
    (pytester.path / "memscan.toml").write_text("guidance_scale = 3\n", encoding="utf-8")
    return "--memscan-prompts=list.txt"


def side_of(folder: Path) -> dict[str, Any]:
    checks = read_report(folder)["checks"]
    found: dict[str, Any] = next(each for each in checks if each["name"] == "side")
    return found


def kept(pattern: str) -> dict[Path, int]:
    """Files in the cache, and when they were written."""
    cache = Path(os.environ["MEMSCAN_CACHE_DIR"])
    return {file: file.stat().st_mtime_ns for file in cache.glob(pattern)}


def test_clusters_are_learnt_asked_for_and_reported_and_nothing_is_made_twice(
    pytester: pytest.Pytester, images: str, prompts: str
) -> None:
    command = (*SIDE, images, prompts, "--memscan-report=json", "--memscan-report=html", "-v")
    first = pytester.runpytest_inprocess(*command)
    assert first.ret == 1
    first.stdout.fnmatch_lines(
        [
            "side: 0/164 images, and 100 steps of training a LoRA of rank 8 (at most 800 denoiser "
            "forwards with their gradient and 160 without, * parameters, * MiB of latents)*",
            "side: 100/100 steps of training side_lora: 800 denoiser forwards *",
            "SIDE-LoRA: a learned token for each cluster",
        ]
    )
    check = side_of(pytester.path)
    assert check["verdict"] == "fail"
    scan = check["side"]
    (variant,) = scan["variants"]
    assert (variant["name"], variant["is_control"], scan["left_out"]) == ("side_lora", False, {})
    assert variant["labels"]["num_classes"] == 3
    (setting,) = variant["settings"]
    assert (setting["scale"], setting["num_images"], scan["plain"]["num_images"]) == (3.0, 32, 32)
    assert variant["training"]["accuracies"] == []
    assert "LoRA of rank 8 on the denoiser" in variant["training"]["network"]
    assert (scan["classifier_calls"], scan["denoiser_calls"]) == (0, 2 * 8 * (32 + 100 + 32))
    assert scan["provenance"]["guidance scales of tokens"] == "3"
    assert scan["plain"]["num_copied"] == 3  # one image of each prompt

    made, trained, report = (
        kept("generated/**/*.png"),
        kept("loras/*/*"),
        read_report(pytester.path),
    )
    assert len(made) >= 164
    assert trained
    second = pytester.runpytest_inprocess(*command)
    second.stdout.fnmatch_lines(["side: 100/100 steps of training *, 100 kept from before"])
    again = read_report(pytester.path)
    del report["timings"], again["timings"]
    assert again == report
    assert (kept("generated/**/*.png"), kept("loras/*/*")) == (made, trained)

    html = (pytester.path / ".memscan" / "report.html").read_text(encoding="utf-8")
    assert "SIDE-LoRA: a learned token for each cluster" in html
    for text in MEMORISED:
        assert not any(text in each for each in (first.stdout.str(), html, str(report)))


def test_tokens_that_mean_nothing_are_an_error(pytester: pytest.Pytester) -> None:
    # Of the empty prompt, which this checkpoint memorised nothing for.
    result = pytester.runpytest_inprocess(
        *SIDE, "--memscan-side-training=10", "--memscan-side-cohesion=0"
    )
    assert result.ret == 1
    check = side_of(pytester.path)
    assert check["verdict"] == "error"
    assert "the LoRA of side_lora learnt nothing" in check["sentence"]


@pytest.mark.parametrize(
    ("model", "variant", "said"),
    [
        ("leaky-t2i", "side_c", "side_c is not for a text-to-image checkpoint*side_lora*"),
        ("leaky", "side_lora", "side_lora is not for an unconditional checkpoint*side_c*"),
    ],
)
def test_variants_of_the_other_kind_of_checkpoint_are_refused(
    pytester: pytest.Pytester, tmp_path: Path, model: str, variant: str, said: str
) -> None:
    options = (f"--memscan-side-variants={variant}", f"--memscan-cache-dir={tmp_path}")
    result = pytester.runpytest_inprocess(*SIDE, f"--memscan=builtin:{model}", *options)
    assert result.ret in (1, pytest.ExitCode.USAGE_ERROR)
    told = [*result.outlines, *result.errlines]
    pytest.LineMatcher(told).fnmatch_lines([f"*memscan*: *--memscan-side-variants: {said}"])
    assert not [*tmp_path.glob("generated/**/*.png")]


@pytest.fixture(scope="module")
def other_family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saved before any test: pytester forgets the modules that were imported in one."""
    return save_tiny("sdxl", tmp_path_factory.mktemp("models") / "sdxl")


def test_a_family_that_cannot_be_taught_is_an_error_and_never_a_pass(
    pytester: pytest.Pytester, other_family: Path, images: str
) -> None:
    result = pytester.runpytest_subprocess(*SIDE, f"--memscan={other_family}", images)
    assert result.ret == 1
    check = side_of(pytester.path)
    assert check["verdict"] == "error"
    assert "works on Stable Diffusion 1.x and 2.x" in check["sentence"]


def test_it_is_for_who_asks(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_inprocess(
        "--memscan=builtin:leaky-t2i", "--memscan-side-training=40"
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result = pytester.runpytest_inprocess("--memscan=builtin:leaky-t2i", "--collect-only", "-q")
    result.stdout.no_fnmatch_line("memscan::side*")
