"""``python -m pytest_memscan.reports`` renders a stored report, and says what is wrong with one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from unit.reports import kinds, samples

from pytest_memscan.reports.__main__ import main
from pytest_memscan.reports.json import to_json
from pytest_memscan.reports.render import FORMATS, render


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "report.json").write_text(to_json(kinds.whole()), encoding="utf-8")
    return Path("report.json")


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_goes_to_standard_output_or_a_file(
    kind: str, report: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    expected = render(kind, kinds.whole()).encode()
    assert main([str(report), "--format", kind]) == 0
    assert capsysbinary.readouterr().out == expected
    assert main([str(report), "--format", kind, "--output", "new/place"]) == 0
    assert Path("new/place").read_bytes() == expected
    assert capsysbinary.readouterr() == (b"", b"")


@pytest.mark.parametrize("result", samples.every_verdict(), ids=lambda r: r.verdict.value)
def test_it_succeeds_whatever_the_verdict(
    result: kinds.RunResult, report: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    report.write_text(to_json(result), encoding="utf-8")
    assert main([str(report), "--format", "md"]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give a report.json, or --schema alone"),
        (["report.json", "--schema"], "give a report.json, or --schema alone"),
        (["report.json"], "--format json|html|sarif|md|model-card"),
        (["report.json", "--format", "pdf"], "invalid choice: 'pdf'"),
        (["--schema", "--format", "md"], "--schema has one format only"),
    ],
)
def test_wrong_usage_is_explained(
    arguments: list[str], words: str, report: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot read the report gone.json: No such file or directory"),
        (b"\xff\xfe", "gone.json is not UTF-8 text"),
        (b"{", "gone.json: this memscan report is not valid JSON"),
        (b"[]", "gone.json: this is not a memscan report"),
        (b'{"schema_version": 99}', "gone.json: this memscan report has schema_version 99"),
    ],
)
def test_a_file_that_cannot_be_used_is_explained(
    content: bytes | None, words: str, report: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        Path("gone.json").write_bytes(content)
    assert main(["gone.json", "--format", "md"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"memscan: {words}")
    assert shown.err.count("\n") == 1


def test_a_place_that_cannot_be_written_is_explained(
    report: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(report), "--format", "md", "--output", "report.json/x.md"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("memscan: cannot write ")
    assert "--output FILE" in shown
    assert "--memscan-report" not in shown


@pytest.mark.parametrize("place", [".", ""])
def test_a_folder_as_the_output_is_explained(
    place: str, report: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(report), "--format", "md", "--output", place]) == 2
    assert "Is a directory" in capsys.readouterr().err


def test_a_closed_standard_output_is_explained(
    report: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main([str(report), "--format", "md"]) == 2
    assert capsys.readouterr().err.startswith("memscan: standard output is closed")


def test_a_full_standard_output_is_explained(report: Path) -> None:
    command = [sys.executable, "-m", "pytest_memscan.reports", str(report), "--format", "md"]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("memscan: cannot write to standard output: No space left")
    assert done.stderr.count("\n") == 1


def test_a_byte_order_mark_of_an_editor_is_read_over(
    report: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    report.write_bytes(b"\xef\xbb\xbf" + report.read_bytes())
    assert main([str(report), "--format", "json"]) == 0
    assert capsysbinary.readouterr().out.decode() == to_json(kinds.whole())


def test_it_needs_no_model(report: Path) -> None:
    script = (
        "import sys\n"
        "from pytest_memscan.reports.__main__ import main\n"
        "from pytest_memscan.reports.render import FORMATS\n"
        "for kind in FORMATS:\n"
        "    assert main(['report.json', '--format', kind, '--output', 'out.' + kind]) == 0\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'peft', 'sklearn', 'pytest'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]\n"
    assert sorted(path.name for path in Path().glob("out.*")) == sorted(f"out.{k}" for k in FORMATS)


def test_help_says_what_the_exit_status_means(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "whatever the verdict" in " ".join(capsys.readouterr().out.split())


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="kind must be one of json, html"):
        render("pdf", samples.passed())
