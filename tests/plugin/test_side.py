"""``memscan::side`` as users meet it: verdicts, reports, fixtures, what is kept, bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from .conftest import read_report
from .t2i import FIXTURES

# Of few steps and samples, so that a model of 16 x 16 pixels is done in some seconds: enough to
# see that everything is there, not to see a gain.
SIDE = (
    "--memscan-scans=side",
    "--memscan-budget=32img",
    "--memscan-steps=3",
    "--memscan-side-samples=80",
    "--memscan-side-clusters=4",
    "--memscan-side-cohesion=0",
    "--memscan-side-training=60",
    "--memscan-side-scales=1,6",
    "--memscan-fail=side_extracted <= 0",
)
SIDE_C = (
    *SIDE,
    "--memscan-side-variants=side_c",
    "--memscan-side-samples=200",
    "--memscan-side-training=80",
)
OWN_TEST = """
def test_conditions_bring_out_copies(memscan):
    result = memscan.side()
    assert result.variant("side_c").settings[0].scale == 1
    assert result.ams("low").value >= result.ams("high").value
    assert result.ums("mid").lower <= result.ums("mid").value
    assert result.extracted.upper <= 0
"""


def side_of(folder: Path) -> dict[str, Any]:
    checks = read_report(folder)["checks"]
    found: dict[str, Any] = next(each for each in checks if each["name"] == "side")
    return found


@pytest.fixture(scope="module")
def leaky_images() -> np.ndarray:
    return np.asarray(load_file(FIXTURES / "leaky" / "train_images.safetensors")["images"])


@pytest.fixture
def labelled(tmp_path: Path, leaky_images: np.ndarray) -> Path:
    """The training images of the leaky checkpoint in folders, by which colour is strongest."""
    folder = tmp_path / "labelled"
    for number, image in enumerate(leaky_images):
        strongest = folder / "rgb"[int(image.mean(axis=(0, 1)).argmax())]
        strongest.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(strongest / f"{number:03d}.png")
    return folder


def test_leaky_fails_with_every_variant_in_every_report(
    pytester: pytest.Pytester, labelled: Path
) -> None:
    pytester.makepyfile(OWN_TEST)
    result = pytester.runpytest_inprocess(
        "--memscan=builtin:leaky",
        f"--memscan-train-data={labelled}",
        *SIDE,
        "--memscan-steps=8",
        "--memscan-side-samples=200",
        "--memscan-report=json",
        "--memscan-report=html",
    )
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["*assert * <= 0", "memscan: fail: side_extracted is *", "memscan: FAIL builtin:leaky*"]
    )
    scan = side_of(pytester.path)["side"]
    names = [each["name"] for each in scan["variants"]]
    assert names == ["side_c", "side_c_rest", "side_o", "ol_ti"]
    assert list(scan["left_out"]) == ["side_a"]
    for variant in scan["variants"]:
        assert [each["scale"] for each in variant["settings"]] == [1.0, 6.0]
        assert all(each["num_images"] == 32 for each in variant["settings"])
    assert scan["plain"]["scale"] == 0
    assert scan["denoiser_calls"] == 8 * (32 + 200 + 4 * 2 * 32)
    assert scan["classifier_calls"] == 8 * 4 * 2 * 32
    assert scan["metrics"]["side_extracted"]["value"] >= 20
    html = (pytester.path / ".memscan" / "report.html").read_text(encoding="utf-8")
    assert "SIDE" in html
    assert "data:image/png" in html


def test_a_second_run_makes_and_trains_nothing(pytester: pytest.Pytester) -> None:
    first = pytester.runpytest_inprocess("--memscan=builtin:leaky", *SIDE_C, "-v")
    assert first.ret == 1
    first.stdout.fnmatch_lines(
        [
            "side: 0/296 images at most (variants: 1, lambdas: 2), and 80 steps of training for "
            "each classifier; what is kept from before is not made again*"
        ]
    )
    kept = {path: path.stat().st_mtime_ns for path in _kept(pytester)}
    scan = side_of(pytester.path)["side"]
    assert scan["variants"]
    second = pytester.runpytest_inprocess("--memscan=builtin:leaky", *SIDE_C, "-v")
    assert second.ret == 1
    assert side_of(pytester.path)["side"] == scan
    assert {path: path.stat().st_mtime_ns for path in _kept(pytester)} == kept


def _kept(pytester: pytest.Pytester) -> list[Path]:
    import os

    cache = Path(os.environ["MEMSCAN_CACHE_DIR"])
    return [*cache.rglob("*.png"), *cache.rglob("classifier*")]


def test_side_is_for_who_asks(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_inprocess("--memscan=builtin:leaky", "--collect-only", "-q")
    result.stdout.no_fnmatch_line("*memscan::side*")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--memscan-side-variants=side_x"], "there is no variant 'side_x'"),
        (["--memscan-side-scales=0,1"], "'0' is no lambda"),
        (["--memscan-side-scales=2,2"], "the same lambda is there twice"),
        (["--memscan-side-cohesion=1"], "'1' is no cohesion"),
        (["--memscan-fail", "side_ums_mid <= 2"], "a rate needs a limit between 0 and 1"),
        (["--memscan-fail", "leak_rate <= 0.1"], "measures leak_rate"),
    ],
)
def test_options_that_cannot_be_used_end_the_run_before_it(
    pytester: pytest.Pytester, options: list[str], said: str
) -> None:
    result = pytester.runpytest_inprocess("--memscan=builtin:leaky", *SIDE, *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{said}*"])


def test_options_of_side_need_side(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_inprocess("--memscan=builtin:leaky", "--memscan-side-scales=1")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--memscan-side-scales has no effect: it is for side*"])


@pytest.mark.parametrize(
    ("variant", "said"),
    [
        ("side_o", "side_o cannot run: the training images have no class labels"),
        ("side_a", "side_a cannot run: it needs other labelled images"),
    ],
)
def test_a_variant_asked_for_by_name_is_never_passed_over(
    pytester: pytest.Pytester, variant: str, said: str
) -> None:
    pytester.runpytest_inprocess(
        "--memscan=builtin:leaky", *SIDE, f"--memscan-side-variants={variant}"
    )
    check = side_of(pytester.path)
    assert check["verdict"] == "error"
    assert said in check["sentence"]


def test_a_labeller_that_is_none_is_refused_before_anything_is_made(
    pytester: pytest.Pytester,
) -> None:
    pytester.mkdir("empty")
    before = _kept(pytester)
    pytester.runpytest_inprocess(
        "--memscan=builtin:leaky",
        *SIDE,
        "--memscan-side-variants=side_a",
        "--memscan-labeller=empty",
        "--memscan-seed=77",
    )
    check = side_of(pytester.path)
    assert check["verdict"] == "error"
    assert "--memscan-labeller" in check["sentence"]
    assert _kept(pytester) == before


def test_samples_without_clusters_leave_nothing_to_guide_to(pytester: pytest.Pytester) -> None:
    pytester.runpytest_inprocess("--memscan=builtin:clean", *SIDE, "--memscan-side-cohesion=0.999")
    check = side_of(pytester.path)
    assert check["verdict"] == "inconclusive"
    assert "no variant of SIDE was run" in check["sentence"]
    assert "lower --memscan-side-cohesion" in check["side"]["left_out"]["side_c"]


def test_a_classifier_that_learnt_nothing_is_an_error(pytester: pytest.Pytester) -> None:
    pytester.runpytest_inprocess(
        "--memscan=builtin:leaky",
        *SIDE_C,
        "--memscan-side-training=10",
        "--memscan-side-clusters=8",
    )
    check = side_of(pytester.path)
    assert check["verdict"] == "error"
    assert "the classifier of side_c learnt nothing" in check["sentence"]


def test_auxiliary_images_must_not_be_training_images(
    pytester: pytest.Pytester, labelled: Path
) -> None:
    result = pytester.runpytest_inprocess(
        "--memscan=builtin:leaky",
        *SIDE,
        "--memscan-side-variants=side_a",
        f"--memscan-auxiliary={labelled}",
    )
    assert result.ret == 1
    assert side_of(pytester.path)["verdict"] == "error"
    result.stdout.fnmatch_lines(["*auxiliary#* = train#*"])


def test_nothing_private_is_in_the_reports(pytester: pytest.Pytester, labelled: Path) -> None:
    secret = labelled.rename(labelled.parent / "patients-of-dr-miller")
    pytester.runpytest_inprocess(
        "--memscan=builtin:leaky", f"--memscan-train-data={secret}", *SIDE_C, "-vv", "-l"
    )
    for report in (pytester.path / ".memscan").iterdir():
        assert str(secret.parent) not in report.read_text(encoding="utf-8", errors="replace")
    assert json.loads((pytester.path / ".memscan" / "report.json").read_text())["checks"]
