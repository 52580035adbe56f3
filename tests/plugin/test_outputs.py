"""What a run leaves behind: terminal, JUnit, JSON, HTML and exit code tell the same story."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from checkpoint_factory import save_tiny_checkpoint
from image_factory import save_images
from numpy.typing import NDArray
from PIL import Image

from .conftest import Gate, read_report


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[str, ...]:
    """A checkpoint and images that cost next to nothing, with a cache of their own."""
    return (
        str(save_tiny_checkpoint(tmp_path / "model")),
        f"--memscan-train-data={save_images(tmp_path / 'images')}",
        f"--memscan-cache-dir={tmp_path}",
    )


def picture(content: str) -> NDArray[np.int16]:
    """Grey values of an embedded picture, ``(height, width)``."""
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        return np.asarray(image.convert("L"), dtype=np.int16)


def properties(junit: Path) -> dict[str, dict[str, str]]:
    """Name of each check -> its JUnit properties."""
    cases = ElementTree.parse(junit).iter("testcase")  # noqa: S314  # written by pytest
    return {
        str(case.get("name")): {
            str(each.get("name")): str(each.get("value")) for each in case.iter("property")
        }
        for case in cases
    }


@pytest.mark.parametrize(
    ("model", "verdict", "code"), [("builtin:leaky", "fail", 1), ("builtin:clean", "pass", 0)]
)
def test_terminal_junit_json_html_and_exit_code_agree(
    gate: Gate, pytester: pytest.Pytester, model: str, verdict: str, code: int
) -> None:
    result = gate(model, "--junitxml=junit.xml")
    assert result.ret == code
    report = read_report(pytester.path)
    assert report["verdict"] == verdict
    (scan,) = (check["scan"] for check in report["checks"] if check["scan"])
    extracted = scan["metrics"]["extracted"]["value"]
    sign = ">" if verdict == "fail" else "<="
    line = f"memscan: {verdict.upper()} {model} (extracted {extracted:.0f} {sign} 0)"
    result.stdout.fnmatch_lines([line])

    junit = properties(pytester.path / "junit.xml")
    assert set(junit) == {"integrity", "duplicates", "carlini", "status"}
    assert junit["carlini"]["memscan.verdict"] == verdict
    assert junit["status"] == junit["integrity"] == {"memscan.verdict": "pass"}
    assert int(junit["carlini"]["memscan.images"]) == scan["coverage"]["valid"] == 8
    for name, estimate in scan["metrics"].items():
        assert float(junit["carlini"][f"memscan.{name}"]) == estimate["value"]
        assert float(junit["carlini"][f"memscan.{name}.lower"]) == estimate["lower"]
        assert float(junit["carlini"][f"memscan.{name}.upper"]) == estimate["upper"]

    html = (pytester.path / ".memscan" / "report.html").read_text()
    assert verdict.upper() in html
    assert f"{extracted:.0f}" in html


def test_reports_are_where_they_are_said_to_be(gate: Gate, pytester: pytest.Pytester) -> None:
    result = gate("builtin:clean")
    result.stdout.fnmatch_lines(
        ["html report: .memscan/report.html", "json report: .memscan/report.json"]
    )
    assert (pytester.path / ".memscan" / ".gitignore").read_text() == "*\n"

    result = gate("builtin:clean", "--memscan-report=json:out/a.json", "--memscan-report=html")
    result.stdout.fnmatch_lines(["json report: out/a.json"])
    assert json.loads((pytester.path / "out" / "a.json").read_text())["verdict"] == "pass"


def test_html_alone_in_the_default_folder_is_ignored_by_git_too(
    gate: Gate, pytester: pytest.Pytester
) -> None:
    gate("builtin:clean", "--memscan-report=json:a.json", "--memscan-report=html")
    assert sorted(path.name for path in (pytester.path / ".memscan").iterdir()) == [
        ".gitignore",
        "report.html",
    ]


def test_html_is_not_written_when_only_json_is_asked_for(
    gate: Gate, pytester: pytest.Pytester
) -> None:
    gate("builtin:clean", "--memscan-report=json")
    assert not (pytester.path / ".memscan" / "report.html").exists()


def test_the_verdict_file_says_not_run_while_a_run_is_going(
    gate: Gate, pytester: pytest.Pytester
) -> None:
    assert gate("builtin:clean").ret == 0
    pytester.makepyfile(
        """
        import json, pathlib

        def test_own():
            assert not pathlib.Path(".memscan/report.html").exists()
            report = json.loads(pathlib.Path(".memscan/report.json").read_text())
            assert report["verdict"] == "not_run"
            assert report["sentence"] == "the run did not get to its end"
        """
    )
    gate("builtin:clean").assert_outcomes(passed=5)
    assert read_report(pytester.path)["verdict"] == "pass"


@pytest.mark.parametrize("mistake", ["--memscan-fail=x", "--memscan-train-data=none", "none.py"])
def test_a_stale_pass_does_not_survive_a_run_that_could_not_start(
    gate: Gate, pytester: pytest.Pytester, mistake: str
) -> None:
    assert gate("builtin:clean", "--memscan-report=json:a.json").ret == 0
    result = gate("builtin:clean", "--memscan-report=json:a.json", mistake)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    report = json.loads((pytester.path / "a.json").read_text())
    assert (report["verdict"], report["checkpoint"]) == ("not_run", "builtin:clean")


def test_a_pass_without_its_evidence_is_not_a_pass(gate: Gate, pytester: pytest.Pytester) -> None:
    """The HTML report becomes unwritable while the run is going."""
    pytester.makepyfile("import pathlib\ndef test_own(): pathlib.Path('r.html').mkdir()")
    result = gate("builtin:clean", "--memscan-report=html:r.html")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["memscan: the html report could not be written*"])
    assert read_report(pytester.path)["verdict"] == "error"


def test_an_id_can_be_given_back_as_it_was_printed(
    gate: Gate, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeini("[pytest]")
    monkeypatch.chdir(pytester.mkdir("sub"))
    result = gate("builtin:leaky")
    result.stdout.fnmatch_lines(["FAILED ../memscan::carlini*"])
    gate("builtin:leaky", "../memscan::carlini").assert_outcomes(failed=1)


def test_quiet_is_one_line_and_verbose_is_everything(gate: Gate) -> None:
    quiet = gate("builtin:leaky", "-q").outlines
    lines = [line for line in quiet if line.startswith("memscan: ")]
    assert [line for line in lines if "FAIL" in line] == [
        line for line in lines if "over the limit" not in line
    ]
    assert not any("memscan summary" in line or "report:" in line for line in quiet)
    assert not any("images/s" in line for line in quiet)
    normal = gate("builtin:leaky").outlines
    verbose = gate("builtin:leaky", "-v").outlines
    assert not any(line.startswith("rule: ") for line in normal)
    assert any(line.startswith("rule: ") for line in verbose)
    assert any(line.startswith("integrity PASS: ") for line in verbose)


def test_a_log_shows_where_generation_stands(gate: Gate, tiny: tuple[str, ...]) -> None:
    result = gate(*tiny)
    result.stdout.fnmatch_lines(
        [
            "carlini: generating: 0/8 images, starting",
            "carlini: generating: 8/8 images, * images/s",
        ]
    )
    again = gate(*tiny)
    again.stdout.no_fnmatch_line("*generating*")


@pytest.mark.parametrize("mode", ["none", "blurred", "clear"])
def test_reports_show_pictures_as_asked(gate: Gate, pytester: pytest.Pytester, mode: str) -> None:
    gate("builtin:leaky", f"--memscan-images={mode}")
    html = (pytester.path / ".memscan" / "report.html").read_text()
    embedded = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", html)
    assert bool(embedded) is (mode != "none")
    steps = [np.abs(np.diff(picture(each), axis=1)).max() for each in embedded]
    if mode != "none":
        assert bool(max(steps) > 40) is (mode == "clear")
    assert read_report(pytester.path)["policy"]["images"] == [mode, "--memscan-images"]


def test_a_time_budget_becomes_a_number_once(
    gate: Gate, pytester: pytest.Pytester, tiny: tuple[str, ...]
) -> None:
    def planned() -> int:
        gate(*tiny, "--memscan-budget=1s", "--memscan-steps=50")
        (scan,) = (each["scan"] for each in read_report(pytester.path)["checks"] if each["scan"])
        number: int = scan["coverage"]["planned"]
        return number

    first = planned()
    assert first >= 1
    assert planned() == first


def test_a_time_budget_too_small_for_a_rate_is_refused_before_generating(
    gate: Gate, pytester: pytest.Pytester, tmp_path: Path, tiny: tuple[str, ...]
) -> None:
    result = gate(*tiny, "--memscan-budget=1s", "--memscan-fail=leak_rate <= 1e-6")
    result.assert_outcomes(passed=2, errors=2)
    result.stdout.fnmatch_lines(["memscan: error: *cannot be shown with * images*Plan at least*"])
    assert not list(tmp_path.glob("generated/**/*.png"))
    assert read_report(pytester.path)["verdict"] == "error"
