"""Scans that compare descriptors, with and without the training images at hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from .conftest import Gate, read_report

FIXTURES = Path(__file__).parents[2] / "fixtures"
COPY = "--memscan-descriptor=builtin:copy"


def carlini(report: dict[str, Any]) -> dict[str, Any]:
    """What the scan measured."""
    (scan,) = (check["scan"] for check in report["checks"] if check["scan"])
    return dict(scan)


@pytest.fixture(scope="module")
def leaky_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training images of builtin:leaky as files, one of them twice."""
    folder = tmp_path_factory.mktemp("leaky")
    pixels = load_file(FIXTURES / "leaky" / "train_images.safetensors")["images"]
    for index, image in enumerate([*pixels, pixels[5]]):
        Image.fromarray(image).save(folder / f"{index:03d}.png")
    return folder


def make_index(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest_memscan.index", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def index(leaky_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    made = make_index(
        str(leaky_images),
        "--descriptor=builtin:copy",
        "--size=16x16",
        f"--output={folder / 'leaky.index'}",
        f"--cache-dir={folder / 'cache'}",
    )
    assert made.returncode == 0, made.stderr
    assert made.stdout.endswith("leaky.index: 151 images described by builtin:copy\n")
    return folder / "leaky.index"


def test_copies_are_found_by_descriptor(gate: Gate, pytester: pytest.Pytester) -> None:
    result = gate("builtin:leaky", COPY)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["*similarity builtin:copy*", "  train#* <- generated#*  similarity *(high, confirmed*"]
    )
    report = read_report(pytester.path)
    assert report["verdict"] == "fail"
    scan = carlini(report)
    assert scan["measure"]["higher_is_closer"] is True
    assert scan["metrics"]["extracted"]["value"] == 8
    assert all(finding["distance"] is None for finding in scan["findings"])
    assert all(finding["score"] > 0.9 for finding in scan["findings"])
    assert [level["cut"] for level in scan["levels"]] == sorted(
        level["cut"] for level in scan["levels"]
    )
    assert len(scan["provenance"]["descriptor weights_sha256"]) == 64


def test_a_checkpoint_that_copies_nothing_passes_by_descriptor(
    gate: Gate, pytester: pytest.Pytester
) -> None:
    assert gate("builtin:clean", COPY).ret == pytest.ExitCode.OK
    assert carlini(read_report(pytester.path))["metrics"]["extracted"]["value"] == 0


def test_an_index_gives_the_same_verdict_without_the_images(
    gate: Gate, pytester: pytest.Pytester, leaky_images: Path, index: Path
) -> None:
    gate("builtin:leaky", COPY, f"--memscan-train-data={leaky_images}")
    with_images = read_report(pytester.path)
    result = gate("builtin:leaky", COPY, f"--memscan-train-data=index:{index}")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    with_index = read_report(pytester.path)
    one, other = carlini(with_images), carlini(with_index)
    for part in ("metrics", "levels", "calibration", "controls", "findings", "histogram"):
        assert one[part] == other[part], part
    assert one["provenance"] == other["provenance"]
    assert one["coverage"]["train_found"] == other["coverage"]["train_found"] == 151
    found = [check["duplicates"] for check in with_index["checks"] if check["duplicates"]]
    assert found[0]["largest"] == [[5, 150]]
    html = (pytester.path / ".memscan" / "report.html").read_text()
    assert "data:image" not in html
    assert str(index) not in result.stdout.str() + html


def test_an_index_keeps_names_and_pixels_to_itself(index: Path, leaky_images: Path) -> None:
    kept = b"".join(file.read_bytes() for file in index.iterdir())
    assert b".png" not in kept
    assert str(leaky_images).encode() not in kept
    assert np.asarray(Image.open(leaky_images / "000.png")).tobytes() not in kept


def test_an_index_has_the_checks_that_need_no_images(gate: Gate, index: Path) -> None:
    options = (COPY, f"--memscan-train-data=index:{index}", "--collect-only", "-q")
    result = gate("builtin:leaky", *options, every_scan=True)
    ids = [f"memscan::{name}" for name in ("integrity", "duplicates", "carlini", "status")]
    assert [line for line in result.outlines if line.startswith("memscan::")] == ids


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--memscan-descriptor=sscdd",), "there is no descriptor 'sscdd'*pixels*sscd*"),
        (("--memscan-descriptor=",), "--memscan-descriptor is empty*"),
        (("--memscan-descriptor=sscd",), "python -m pytest_memscan*convert*"),
        (("--memscan-train-data=index:nowhere",), "nowhere: there is no such folder*"),
        (("--memscan-holdout=index:{index}",), "--memscan-holdout takes images, not an index*"),
        (("--memscan-train-data=index:{index}",), "add --memscan-descriptor builtin:copy*"),
        (
            ("--memscan-train-data=index:{index}", COPY, "--memscan-scans=splitting"),
            "splitting cannot scan builtin:clean: an index holds descriptors only*",
        ),
    ],
)
def test_what_cannot_be_compared_is_a_usage_error(
    gate: Gate, pytester: pytest.Pytester, index: Path, arguments: tuple[str, ...], words: str
) -> None:
    result = gate("builtin:clean", *(argument.format(index=index) for argument in arguments))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: memscan: *{words}"])
    assert read_report(pytester.path)["verdict"] == "not_run"


def test_an_index_of_something_else_is_an_error_that_says_what(
    gate: Gate, pytester: pytest.Pytester, index: Path, tmp_path: Path
) -> None:
    changed = tmp_path / "changed.index"
    changed.mkdir()
    for file in index.iterdir():
        (changed / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((changed / "index.json").read_text())
    manifest["image_shape"] = "32x32x3"
    (changed / "index.json").write_text(json.dumps(manifest))
    result = gate("builtin:clean", COPY, f"--memscan-train-data=index:{changed}")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*image size is 32x32x3 in the index, 16x16x3 in this scan*"])
    damaged = bytearray((changed / "descriptors.npy").read_bytes())
    damaged[-1] ^= 1
    (changed / "descriptors.npy").write_bytes(damaged)
    result = gate("builtin:clean", COPY, f"--memscan-train-data=index:{changed}")
    result.stdout.fnmatch_lines(["*changed.index*damaged*"])
    assert read_report(pytester.path)["verdict"] == "error"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("{images}", "--size=16", "--output=x"), "--size: '16' is not a size"),
        (("{images}", "--size=16x16", "--output={images}"), "exists already"),
        (("{images}/none", "--size=16x16", "--output=x"), "there is no such folder"),
    ],
)
def test_an_index_that_cannot_be_made_says_why(
    leaky_images: Path, arguments: tuple[str, ...], words: str
) -> None:
    given = (argument.format(images=leaky_images) for argument in arguments)
    made = make_index(*given, "--descriptor=builtin:copy")
    assert made.returncode == 2
    assert made.stderr.startswith("error: ")
    assert words in made.stderr
    assert "Traceback" not in made.stderr


def test_duplicates_can_fail_the_gate(
    gate: Gate, pytester: pytest.Pytester, leaky_images: Path
) -> None:
    result = gate(
        "builtin:clean",
        f"--memscan-train-data={leaky_images}",
        "--memscan-fail=duplicate_images <= 0",
        "--memscan-images=clear",
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "memscan: fail: *1 groups; 1 images could go (1 of them identical*",
            "duplicate_images*1*exact*<= 0*FAIL",
            "duplicates: 1 group, 1 of 151 training images could go (1 identical)",
            "memscan: FAIL builtin:clean (duplicate_images 1 > 0)",
        ]
    )
    html = (pytester.path / ".memscan" / "report.html").read_text()
    assert html.count('alt="Training image train#00005"') == 1
    assert html.count('alt="Training image train#00150"') == 1


def test_a_test_of_ones_own_can_ask_for_duplicates(
    gate: Gate, pytester: pytest.Pytester, leaky_images: Path
) -> None:
    pytester.makepyfile("def test_own(memscan): assert memscan.duplicates().largest == ((5, 150),)")
    result = gate("builtin:clean", f"--memscan-train-data={leaky_images}")
    result.assert_outcomes(passed=5)


@pytest.mark.parametrize("descriptor", ["pixels", "builtin:copy"])
def test_one_training_image_is_an_error_of_one_line(
    gate: Gate, pytester: pytest.Pytester, leaky_images: Path, tmp_path: Path, descriptor: str
) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.png").write_bytes((leaky_images / "000.png").read_bytes())
    result = gate(
        "builtin:clean",
        f"--memscan-descriptor={descriptor}",
        f"--memscan-train-data={tmp_path / 'one'}",
    )
    result.stdout.fnmatch_lines(["memscan: error: there is one training image*"])
    assert read_report(pytester.path)["verdict"] == "error"
    assert "Traceback" not in result.stdout.str()
