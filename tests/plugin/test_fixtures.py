"""Assertions of a user's own, beside the gate: one scan, one truth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from checkpoint_factory import save_tiny_checkpoint
from image_factory import save_images
from PIL import Image

from .conftest import QUICK, Gate, read_report

OWN_TEST = """
def test_release_keeps_its_training_set_private(memscan):
    result = memscan.carlini()
    assert result.extracted.upper <= 0
    assert result.ums("high").upper <= 0.5
    assert result.ams("confirmed").upper <= 0.5
"""
# The batch size of every call of the denoiser, noted across the processes of a run.
NOTE_DENOISER_CALLS = """
import diffusers

forward = diffusers.UNet2DModel.forward

def noted(self, sample, *args, **kwargs):
    with open("calls.txt", "a") as file:
        file.write(f"{len(sample)} ")
    return forward(self, sample, *args, **kwargs)

diffusers.UNet2DModel.forward = noted
"""


@pytest.mark.parametrize(("model", "fails"), [("builtin:leaky", 1), ("builtin:clean", 0)])
def test_a_users_assertion_agrees_with_the_gate(
    gate: Gate, pytester: pytest.Pytester, model: str, fails: int
) -> None:
    pytester.makepyfile(OWN_TEST)
    result = gate(model)
    result.assert_outcomes(failed=2 * fails, passed=5 - 2 * fails)
    assert read_report(pytester.path)["verdict"] == ("fail" if fails else "pass")


@pytest.mark.parametrize("arguments", [(), ("-n2",)], ids=["alone", "xdist"])
def test_fixtures_and_gate_share_one_scan(
    pytester: pytest.Pytester, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    pytester.makeconftest(NOTE_DENOISER_CALLS)
    pytester.makepyfile(
        test_one=OWN_TEST,
        test_two="def test_same(memscan, memscan_result):\n"
        "    assert memscan.carlini().scan == memscan_result.scan\n",
    )
    model = save_tiny_checkpoint(tmp_path / "model")
    images = save_images(tmp_path / "images")
    result = pytester.runpytest_subprocess(
        *(f"--memscan={model}", f"--memscan-train-data={images}"),
        *(f"--memscan-cache-dir={tmp_path}", *QUICK, *arguments),
    )
    result.assert_outcomes(passed=6)
    calls = (pytester.path / "calls.txt").read_text().split()
    assert calls.count("8") == 10  # one batch of ten steps; near matches are made again alone
    assert len(list(tmp_path.glob("generated/*/planned/**/*.png"))) == 8


def test_the_result_offers_what_the_report_says(gate: Gate, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import json, pathlib

        def test_numbers(memscan_result):
            r = memscan_result
            numbers = {
                "extracted": r.extracted, "leak_rate": r.leak_rate, "ums_low": r.ums("low"),
                "ams_mid": r.ams("mid"), "ums_high": r.ums(), "ums_confirmed": r.ums("confirmed"),
            }
            assert r.ams("confirmed") == r.leak_rate
            assert [f.train_id for f in r.findings if f.confirmed]
            assert "training images extracted" in repr(r)
            numbers = {name: [n.value, n.lower, n.upper] for name, n in numbers.items()}
            pathlib.Path("numbers.json").write_text(json.dumps(numbers))
        """
    )
    gate("builtin:leaky").assert_outcomes(passed=4, failed=1)
    numbers = json.loads((pytester.path / "numbers.json").read_text())
    (scan,) = (check["scan"] for check in read_report(pytester.path)["checks"] if check["scan"])
    for name, values in numbers.items():
        assert [scan["metrics"][name][key] for key in ("value", "lower", "upper")] == values


def test_the_checkpoint_and_its_training_images_are_fixtures(
    gate: Gate, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(
        """
        def test_them(memscan_checkpoint, memscan_train_data):
            assert (memscan_checkpoint.folder / "model_index.json").is_file()
            assert memscan_checkpoint.label == "builtin:leaky"
            assert memscan_train_data.pixels.shape[0] == len(memscan_train_data.names)
            assert memscan_train_data.is_whole
        """
    )
    result = gate("builtin:leaky", "--deselect=memscan::carlini", "--deselect=memscan::status")
    result.assert_outcomes(passed=3, deselected=2)


def test_a_scan_with_holes_raises_instead_of_giving_numbers(
    gate: Gate, pytester: pytest.Pytester, tmp_path: Path
) -> None:
    """However good the numbers are: an image that was not compared may have leaked."""
    model = save_tiny_checkpoint(tmp_path / "model")
    images = save_images(tmp_path / "images")
    pytester.makepyfile(OWN_TEST)
    arguments = (str(model), f"--memscan-train-data={images}", "--memscan-steps=2")
    gate(*arguments).assert_outcomes(passed=5)

    (images / "broken.png").write_bytes(b"no image")
    result = gate(*arguments)
    result.assert_outcomes(passed=3, failed=1, errors=1)
    result.stdout.fnmatch_lines(["E *MemscanError: memscan: error: not every*broken.png*"])
    assert "fixtures.py" not in result.stdout.str()


def test_a_scan_that_cannot_see_raises_instead_of_giving_numbers(
    gate: Gate, pytester: pytest.Pytester, tmp_path: Path
) -> None:
    """With so few images of noise the planted copies are not recognised."""
    model = save_tiny_checkpoint(tmp_path / "model")
    images = tmp_path / "images"
    images.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    for index, pixels in enumerate(noise):
        Image.fromarray(pixels).save(images / f"{index}.png")
    pytester.makepyfile(OWN_TEST + "\ndef test_result(memscan_result): pass\n")
    result = gate(str(model), f"--memscan-train-data={images}", "--memscan-steps=2")
    result.assert_outcomes(passed=2, failed=1, errors=3)
    result.stdout.fnmatch_lines(["E *MemscanError: memscan: error: the scan cannot be trusted*"])
    assert read_report(pytester.path)["verdict"] == "error"


def test_a_scan_that_does_not_apply_raises_with_the_reason(
    pytester: pytest.Pytester, tmp_path: Path
) -> None:
    model = save_tiny_checkpoint(tmp_path / "model")
    pytester.makepyfile("def test_own(memscan): memscan.splitting()")
    result = pytester.runpytest_inprocess(f"--memscan={model}", "-k", "test_own")
    result.assert_outcomes(failed=1, deselected=3)
    result.stdout.fnmatch_lines(
        ["E *MemscanError: memscan: not_applicable: no training images were given, and it steers*"]
    )


def test_a_fixture_that_cannot_be_had_is_an_error_in_one_line(
    gate: Gate, pytester: pytest.Pytester, tmp_path: Path
) -> None:
    images = save_images(tmp_path / "images", size=4)
    pytester.makepyfile("def test_x(memscan_train_data): pass")
    result = gate("builtin:clean", f"--memscan-train-data={images}", "-l")
    result.assert_outcomes(passed=1, errors=4)
    result.stdout.fnmatch_lines(["E *TrainDataError: *none of the 24 images under .../images*"])
    assert str(images) not in result.stdout.str()


@pytest.mark.parametrize("fixture", ["memscan_checkpoint", "memscan_train_data", "memscan_result"])
def test_every_fixture_skips_without_memscan(pytester: pytest.Pytester, fixture: str) -> None:
    pytester.makepyfile(f"def test_x({fixture}): pass")
    result = pytester.runpytest_inprocess("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*needs --memscan MODEL*"])


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [("samples=3, tier='quick'", "samples=3, tier='quick'"), ("'carlini'", "'carlini'")],
)
@pytest.mark.parametrize("place", ["test", "class", "module"])
def test_the_marker_takes_no_arguments(
    pytester: pytest.Pytester, arguments: str, shown: str, place: str
) -> None:
    marker = f"pytest.mark.memscan({arguments})"
    on = {each: f"@{marker}" if each == place else "" for each in ("test", "class")}
    head = f"pytestmark = {marker}" if place == "module" else ""
    pytester.makepyfile(
        f"import pytest\n{head}\n{on['class']}\nclass TestIt:\n    {on['test']}\n"
        "    def test_x(self): pass\n"
    )
    result = pytester.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines([f"*test_x: @pytest.mark.memscan takes no arguments, got {shown}*"])


def test_the_marker_is_checked_under_xdist_too(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.memscan(x=1)\ndef test_x(): pass")
    result = pytester.runpytest_subprocess("-n2")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*@pytest.mark.memscan takes no arguments, got x=1*"])
    assert "INTERNALERROR" not in result.stdout.str()


def test_the_marker_selects_a_users_own_tests_of_the_scan(
    gate: Gate, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(f"import pytest\npytestmark = pytest.mark.memscan\n{OWN_TEST}")
    gate("builtin:clean", "-m", "memscan", "--strict-markers").assert_outcomes(passed=5)
