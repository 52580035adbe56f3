"""``memscan::splitting`` as users meet it: verdicts, reports, fixtures, interruptions."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_factory import WEIGHTS, save_tiny_checkpoint
from pictures import smooth_images
from PIL import Image
from safetensors.numpy import load_file as load_images
from safetensors.torch import load_file, save_file

from pytest_memscan.store import exclusive

from .conftest import read_report
from .t2i import FIXTURES

# Of few steps, so that a model of 16 x 16 pixels is done in a few seconds; enough to screen 150
# training images and to have unsteered images to learn from.
SPLITTING = ("--memscan-scans=splitting", "--memscan-budget=110img", "--memscan-steps=4")
OWN_TEST = """
def test_rare_copies(memscan):
    result = memscan.splitting()
    assert result.copies
    first = result.copies[0]
    assert result.price(first.finding.train_id) == first.rate
    assert result.leak_rate.lower <= result.plain_rate.value <= result.leak_rate.upper
    assert result.expected_copies(1000).value == 1000 * result.leak_rate.value
    assert result.extractable.upper <= 0
"""


def splitting_of(folder: Path) -> dict[str, Any]:
    checks = read_report(folder)["checks"]
    found: dict[str, Any] = next(each for each in checks if each["name"] == "splitting")
    return found


@pytest.fixture
def clean_images(tmp_path: Path) -> Path:
    """The first training images of the clean checkpoint: as many as a small budget can screen."""
    folder = tmp_path / "images"
    folder.mkdir()
    pixels = load_images(FIXTURES / "clean" / "train_images.safetensors")["images"]
    for number, image in enumerate(np.asarray(pixels)[:150]):
        Image.fromarray(image).save(folder / f"{number:03d}.png")
    return folder


def test_leaky_fails_with_its_copies_in_every_report(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(OWN_TEST)
    result = pytester.runpytest_inprocess(
        "--memscan=builtin:leaky", *SPLITTING, "--memscan-report=json", "--memscan-report=html"
    )
    result.assert_outcomes(passed=3, failed=2)
    result.stdout.fnmatch_lines(
        ["*assert * <= 0", "memscan: fail: extractable_images is *", "memscan: FAIL builtin:leaky*"]
    )
    scan = splitting_of(pytester.path)["splitting"]
    assert len(scan["copies"]) == scan["num_copies_total"] >= 20
    assert scan["metrics"]["extractable_images"]["lower"] >= 1
    assert all(copy["finding"]["confirmed"] for copy in scan["copies"])
    assert scan["leak_rate"]["lower"] <= scan["plain_rate"]["value"] <= scan["leak_rate"]["upper"]
    assert scan["num_screened"] == scan["num_targets"] == 150
    assert scan["denoiser_calls"] <= 110 * 4
    assert {"checkpoint", "steps", "training images", "sampler"} <= set(scan["provenance"])
    assert scan["provenance"]["eta"] == "1.0"
    html = (pytester.path / ".memscan" / "report.html").read_text(encoding="utf-8")
    assert "data:image/png" in html
    likeliest = scan["copies"][0]["finding"]
    assert f"#{likeliest['train_id']:05d}" in html


def test_a_clean_checkpoint_passes_and_says_what_was_excluded(
    pytester: pytest.Pytester, clean_images: Path
) -> None:
    result = pytester.runpytest_inprocess(
        "--memscan=builtin:clean", f"--memscan-train-data={clean_images}", *SPLITTING
    )
    result.assert_outcomes(passed=4)
    check = splitting_of(pytester.path)
    assert check["verdict"] == "pass"
    assert "no training image is expected to be copied within 1,000,000 images" in check["sentence"]
    scan = check["splitting"]
    assert (scan["num_copies_total"], scan["num_plain_copies"]) == (0, 0)
    assert scan["metrics"]["extractable_images"]["upper"] == 0
    assert scan["plain_rate"]["upper"] == pytest.approx(1 - 0.05 ** (1 / scan["num_plain"]))


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[str, str]:
    """A checkpoint that knows nothing, and some training images."""
    model, images = save_tiny_checkpoint(tmp_path / "model", size=16), tmp_path / "images"
    images.mkdir()
    for number, image in enumerate(smooth_images(60)):
        Image.fromarray(image).save(images / f"{number:02d}.png")
    return f"--memscan={model}", f"--memscan-train-data={images}"


def test_too_small_a_budget_is_inconclusive_with_the_remedy(
    pytester: pytest.Pytester, tiny: tuple[str, str]
) -> None:
    budget = ("--memscan-budget=20img", "--memscan-steps=2", "--memscan-scans=splitting")
    result = pytester.runpytest_inprocess(*tiny, *budget)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["memscan: inconclusive: *only 20 of 60 training images were screened*--memscan-budget*"]
    )
    result.stdout.no_fnmatch_line("*Traceback*")
    assert read_report(pytester.path)["verdict"] == "inconclusive"


def test_a_budget_of_one_image_is_an_error_in_one_line(
    pytester: pytest.Pytester, tiny: tuple[str, str]
) -> None:
    result = pytester.runpytest_inprocess(*tiny, *SPLITTING, "--memscan-budget=1img")
    result.assert_outcomes(passed=2, errors=2)
    result.stdout.fnmatch_lines(["memscan: error: --memscan-budget: 1img is too little for *"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_weights_that_are_no_numbers_are_an_error_in_one_line(
    pytester: pytest.Pytester, tmp_path: Path, tiny: tuple[str, str]
) -> None:
    file = tmp_path / "model" / WEIGHTS
    weights = load_file(file)
    next(iter(weights.values())).view(-1)[0] = torch.nan
    save_file(weights, file)
    result = pytester.runpytest_inprocess(*tiny, *SPLITTING)
    assert splitting_of(pytester.path)["verdict"] == "error"
    assert "non-finite (NaN or infinite)" in splitting_of(pytester.path)["sentence"]
    result.stdout.no_fnmatch_line("*Traceback*")


def test_training_images_that_are_all_the_same_are_an_error_in_one_line(
    pytester: pytest.Pytester, tmp_path: Path
) -> None:
    model, images = save_tiny_checkpoint(tmp_path / "model", size=16), tmp_path / "same"
    images.mkdir()
    for number in range(20):
        Image.fromarray(smooth_images(1)[0]).save(images / f"{number}.png")
    pytester.runpytest_inprocess(
        f"--memscan={model}", f"--memscan-train-data={images}", *SPLITTING
    ).stdout.no_fnmatch_line("*Traceback*")
    check = splitting_of(pytester.path)
    assert check["verdict"] == "error"
    assert "all 20 training images are near-duplicates of one" in check["sentence"]


def test_two_runs_at_once_do_not_share_a_folder(
    pytester: pytest.Pytester, tmp_path: Path, tiny: tuple[str, str]
) -> None:
    cache = tmp_path / "cache"
    command = (*tiny, *SPLITTING, "--memscan-budget=8img", f"--memscan-cache-dir={cache}")
    pytester.runpytest_inprocess(*command)
    (islands,) = cache.glob("generated/*/islands")
    with exclusive(islands.parent, session="another"):
        result = pytester.runpytest_inprocess(*command)
    result.stdout.fnmatch_lines(["memscan: error: another memscan run is using *"])
    assert read_report(pytester.path)["verdict"] == "error"


def test_a_run_that_is_killed_between_islands_ends_with_the_same_report(
    pytester: pytest.Pytester, tmp_path: Path, tiny: tuple[str, str]
) -> None:
    options = (*tiny, SPLITTING[0], "--memscan-budget=160img", "--memscan-steps=10")
    killed, whole = (f"--memscan-cache-dir={tmp_path / name}" for name in ("killed", "whole"))

    def finished() -> list[Path]:
        return sorted((tmp_path / "killed").rglob("island-*.result.npz"))

    def report() -> str:
        content = read_report(pytester.path)
        del content["timings"]
        return json.dumps(content, sort_keys=True)

    run = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", *options, killed],
        cwd=pytester.path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + 120
    while run.poll() is None and not finished():
        assert time.monotonic() < end
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    assert run.wait(60) == -signal.SIGKILL
    assert read_report(pytester.path)["verdict"] == "not_run"
    first = finished()[0]
    made = first.stat().st_mtime_ns
    pytester.runpytest_inprocess(*options, killed)
    gone_on = report()
    assert first.stat().st_mtime_ns == made
    assert len(finished()) == splitting_of(pytester.path)["splitting"]["num_islands"] == 2
    pytester.runpytest_inprocess(*options, whole)
    assert report() == gone_on
