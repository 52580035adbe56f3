"""The shell steps of the GitHub action, run by bash as GitHub would run them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from action_runner import ActionRun
from checkpoint_factory import save_tiny_checkpoint
from image_factory import save_images

from pytest_memscan.github.scan import OPTIONS, REPORTS
from pytest_memscan.reports.json import to_json
from pytest_memscan.reports.sarif import to_sarif
from pytest_memscan.results import (
    CheckOutcome,
    Estimate,
    Location,
    RunResult,
    ThresholdOutcome,
    Verdict,
)

from .action_place import PIP, Workplace

QUICK = {
    "scans": "carlini",
    "budget": "8img",
    "pytest-args": "--memscan-steps=10 --memscan-batch-size=8 '--memscan-fail=extracted <= 0'",
}
UPLOAD = "actions/upload-artifact"
SARIF = "github/codeql-action/upload-sarif"
HOSTILE = "a b\"c'd $(touch pwned) `touch pwned` && touch pwned; touch pwned | $HOME ${HOME} \\"


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


def result(verdict: Verdict, *checks: CheckOutcome) -> RunResult:
    return RunResult(verdict=verdict, sentence="why, 100%", checkpoint="org/name", checks=checks)


def uploaded(run: ActionRun, workspace: Path) -> list[str]:
    """Names of the files of the artifact, all of which must be there."""
    paths = run.uploads[UPLOAD]["path"].splitlines()
    assert all((workspace / path).is_file() for path in paths)
    return [Path(path).name for path in paths]


def test_a_checkpoint_that_leaks_is_red_and_its_reports_are_kept(place: Workplace) -> None:
    run = place.run(QUICK | {"model": "builtin:leaky", "sarif": "true"})
    assert not run.success
    assert run.outputs | {"model-sha": ""} == {
        "verdict": "fail",
        "exit-code": "1",
        "report-json": "memscan-report/report.json",
        "report-html": "memscan-report/report.html",
        "sarif-file": "memscan-report/report.sarif",
        "summary-file": "memscan-report/report.md",
        "junit-file": "memscan-report/junit.xml",
        "model-sha": "",
        "worst-metric": "extracted 8 > 0",
        "regression": "",
    }
    assert len(run.outputs["model-sha"]) == 64
    names = uploaded(run, place.workspace)
    assert names == [*REPORTS.values(), "junit.xml"]
    assert run.uploads[UPLOAD]["retention-days"] == "7"
    assert run.uploads[SARIF]["sarif_file"] == "memscan-report/report.sarif"
    assert "FAIL" in run.summary
    assert "title=memscan carlini%3A FAIL::extracted is 8, over the limit of 0" in run.log
    assert run.steps["Pass or fail"] == "failure"
    cases = ElementTree.parse(place.workspace / "memscan-report/junit.xml").iter("testcase")  # noqa: S314
    assert "carlini" in {case.get("name") for case in cases}
    assert not [name for name in place.files if not name.startswith("memscan-report/")]


def test_a_pass_is_green_whatever_paths_and_the_callers_own_tests_are_called(
    place: Workplace, tmp_path: Path
) -> None:
    (place.workspace / "conftest.py").write_text("raise RuntimeError('imported')")
    (place.workspace / "torch.py").write_text("raise RuntimeError('imported')")
    (place.workspace / "pyproject.toml").write_text(
        "[tool.pytest.ini_options]\naddopts = '--no-such-option'\n"
    )
    name = HOSTILE.replace("/", "")
    save_tiny_checkpoint(place.workspace / f"model {name}")
    save_images(place.workspace / f"images {name}")
    reports = "out '\"; $(touch pwned)"
    run = place.run(
        QUICK
        | {
            "model": f"./model {name}",
            "train-data": f"./images {name}",
            "report-dir": reports,
            "cache-dir": str(tmp_path / "cache $(touch pwned)"),
            "upload-artifact": "true",
        }
    )
    assert run.success, run.log
    assert run.outputs["verdict"] == "pass"
    assert run.outputs["exit-code"] == "0"
    assert run.outputs["report-json"] == f"{reports}/report.json"
    assert "::error " not in run.log
    assert uploaded(run, place.workspace)
    assert SARIF not in run.uploads
    assert not place.has_been_entered


def test_a_checkpoint_that_is_not_there_is_an_error(place: Workplace) -> None:
    run = place.run({"model": "./no such checkpoint", "sarif": "true"})
    assert not run.success
    assert (run.outputs["verdict"], run.outputs["exit-code"]) == ("not_run", "4")
    assert uploaded(run, place.workspace) == ["report.json"]
    assert SARIF not in run.uploads
    assert "title=memscan%3A NOT RUN::--memscan './no such checkpoint'" in run.log
    assert run.summary.startswith("<pre>memscan: not_run: --memscan ")


@pytest.mark.parametrize(
    ("said", "code", "verdict", "success"),
    [
        (Verdict.PASS, 0, "pass", True),
        (Verdict.PASS, 1, "error", False),
        (Verdict.FAIL, 1, "fail", False),
        (Verdict.FAIL, 0, "fail", False),
        (Verdict.INCONCLUSIVE, 1, "inconclusive", False),
        (Verdict.ERROR, 1, "error", False),
        (Verdict.NOT_RUN, 0, "not_run", False),
    ],
)
def test_only_a_pass_that_pytest_agrees_with_is_green(
    place: Workplace, said: Verdict, code: int, verdict: str, success: bool
) -> None:
    run = place.run_on(to_json(result(said)), code, {"sarif": "true"})
    assert (run.outputs["verdict"], run.success) == (verdict, success)
    assert run.outputs["exit-code"] == str(code)
    assert run.log.count("::error title=") == int(not success)


@pytest.mark.parametrize(
    "report",
    [
        None,
        "",
        '{"verdict": "pass"}',
        to_json(result(Verdict.PASS))[:-20],
        to_json(replace(result(Verdict.PASS), schema_version=99)),
    ],
    ids=["missing", "empty", "bare", "cut off", "newer"],
)
def test_a_report_that_cannot_be_read_is_an_error(place: Workplace, report: str | None) -> None:
    run = place.run_on(report, 0)
    assert not run.success
    assert run.outputs["verdict"] == "error"
    assert "::error title=memscan%3A error::" in run.log
    assert "memscan:" in run.summary


def test_a_report_of_an_earlier_run_is_not_believed(place: Workplace) -> None:
    folder = place.workspace / "memscan-report"
    folder.mkdir()
    for name in REPORTS.values():
        (folder / name).write_text(to_json(result(Verdict.PASS)), encoding="utf-8")
    run = place.run_on(None, 0)
    assert (run.success, run.outputs["verdict"]) == (False, "error")
    assert UPLOAD not in run.uploads
    assert run.outputs["report-json"] == ""


def test_inputs_reach_pytest_as_they_are(place: Workplace) -> None:
    given = {name: f"{name} {HOSTILE}\n::error::x\nverdict=pass" for name in OPTIONS}
    run = place.run_on(
        None, 3, given | {"model": HOSTILE, "revision": "r;touch pwned", "offline": "true"}
    )
    arguments = json.loads(place.seen.read_text(encoding="utf-8"))
    assert {f"--memscan-{name}={value}" for name, value in given.items()} <= set(arguments)
    assert f"--memscan={HOSTILE}@r;touch pwned" in arguments
    assert "--memscan-offline" in arguments
    assert run.outputs["exit-code"] == "3"
    assert run.outputs["verdict"] == "error"
    assert not place.has_been_entered


def test_empty_inputs_are_not_passed_on(place: Workplace) -> None:
    place.run_on(None, 3, {"images": "", "report-dir": ""})
    arguments = json.loads(place.seen.read_text(encoding="utf-8"))
    options = {argument.partition("=")[0] for argument in arguments if "memscan" in argument}
    assert options == {"memscan", "--memscan", "--memscan-only", "--memscan-report", "--junitxml"}


def test_more_arguments_are_split_as_in_a_shell_and_nothing_is_expanded(place: Workplace) -> None:
    place.run_on(None, 3, {"pytest-args": "-v 'a b' \"$(touch pwned)\" ; touch pwned >pwned *"})
    arguments = json.loads(place.seen.read_text(encoding="utf-8"))
    expected = ["-v", "a b", "$(touch pwned)", ";", "touch", "pwned", ">pwned", "*"]
    first = arguments.index("-v")
    assert arguments[first : first + 8] == expected
    assert not place.has_been_entered


def test_no_other_argument_changes_what_an_input_says(place: Workplace) -> None:
    other = "--memscan builtin:clean --memscan-report json:other.json --memscan-budget=1img"
    place.run_on(None, 3, {"model": "org/name", "budget": "9img", "pytest-args": other})
    arguments = json.loads(place.seen.read_text(encoding="utf-8"))
    last = arguments.index("json:other.json")
    for given in ("--memscan=org/name", "--memscan-budget=9img"):
        assert arguments.index(given) > last
    assert arguments.index("--memscan-report=json:memscan-report/report.json") > last


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", " "),
        ("sarif", "True"),
        ("upload-artifact", "yes"),
        ("offline", "1"),
        ("report-dir", "out\n/etc"),
        ("report-dir", "out/**"),
        ("report-dir", "a file"),
        ("baseline", "./memscan-report/report.json"),
        ("pytest-args", "'not closed"),
    ],
)
def test_an_input_that_cannot_be_used_is_an_error_that_names_it(
    place: Workplace, name: str, value: str
) -> None:
    kept = [place.workspace / "a file", place.workspace / "memscan-report" / "report.json"]
    kept[1].parent.mkdir()
    for file in kept:
        file.touch()
    run = place.run_on(to_json(result(Verdict.PASS)), 0, {name: value})
    assert not run.success
    assert (run.outputs["verdict"], run.outputs["exit-code"]) == ("error", "4")
    assert f"memscan: the input {name} " in run.log
    assert name != "baseline" or kept[1].exists()
    assert not place.seen.exists()


def test_what_the_scan_prints_gives_no_commands_to_the_runner(place: Workplace) -> None:
    run = place.run_on(to_json(result(Verdict.PASS)), 0)
    before, _, after = run.log.partition("::error::from a file name")
    token = before.rpartition("::stop-commands::")[2].splitlines()[0]
    assert len(token) == 32
    assert f"::{token}::" in after.splitlines()


def test_annotations_are_escaped_and_few(place: Workplace) -> None:
    limits = tuple(
        ThresholdOutcome(
            expression=f"metric_{number} <= 0",
            source="policy",
            verdict=Verdict.FAIL,
            sentence=f"metric_{number} is 100%\n::error::x",
            estimate=Estimate(value=1, lower=1, upper=1),
            location=Location(file="my, policy: a.toml", line=7, column=2, end_column=9),
        )
        for number in range(14)
    )
    check = CheckOutcome(name="carlini", verdict=Verdict.FAIL, sentence="failed", thresholds=limits)
    (place.workspace / "sub").mkdir()
    report = to_json(result(Verdict.FAIL, check))
    run = place.run_on(report, 1, {"working-directory": "sub"})
    shown = [line for line in run.log.splitlines() if line.startswith("::error ")]
    assert len(shown) == 10
    assert shown[0] == (
        "::error file=sub/my%2C policy%3A a.toml,line=7,col=2,endColumn=9,"
        "title=memscan carlini%3A FAIL::metric_0 is 100%25%0A\\::error::x"
        "%0AThe limit: metric_0 <= 0"
    )
    assert shown[-1].endswith("::and 5 more; the reports list all")
    assert run.outputs["report-json"] == "sub/memscan-report/report.json"
    assert run.outputs["worst-metric"] == "metric_0 1 > 0"


def test_alerts_stand_beside_files_of_the_repository(place: Workplace) -> None:
    line = ThresholdOutcome(
        expression="extracted <= 0",
        source="memscan.toml",
        verdict=Verdict.FAIL,
        sentence="extracted is 1",
        location=Location(file="my policy.toml", line=7, column=2, end_column=9),
    )
    check = CheckOutcome(name="carlini", verdict=Verdict.FAIL, sentence="", thresholds=(line,))
    failed = result(Verdict.FAIL, check)
    (place.reports / "sarif").write_text(to_sarif(failed), encoding="utf-8")
    (place.workspace / "sub").mkdir()
    place.run_on(to_json(failed), 1, {"working-directory": "sub"})
    report = place.workspace / "sub" / "memscan-report" / "report.sarif"
    (alert,) = json.loads(report.read_text(encoding="utf-8"))["runs"][0]["results"]
    (location,) = alert["locations"]
    assert location["physicalLocation"]["artifactLocation"]["uri"] == "sub/my%20policy.toml"


def test_a_summary_that_github_would_refuse_is_not_given_to_it(place: Workplace) -> None:
    (place.reports / "md").write_text("ä" * 600_000, encoding="utf-8")
    run = place.run_on(to_json(result(Verdict.PASS)), 0)
    assert run.success
    assert "too large" in run.summary
    assert "report.md" in uploaded(run, place.workspace)


def test_a_summary_is_only_shown_where_it_is_wanted(place: Workplace) -> None:
    (place.reports / "md").write_text("# pass", encoding="utf-8")
    assert place.run_on(to_json(result(Verdict.PASS)), 0, {"summary": "false"}).summary == ""


def test_a_saved_baseline_is_part_of_the_artifact(place: Workplace) -> None:
    (place.workspace / "base.json").write_text("{}")
    run = place.run_on(to_json(result(Verdict.PASS)), 0, {"save-baseline": "base.json"})
    assert uploaded(run, place.workspace) == ["report.json", "base.json"]


def test_a_python_that_is_not_there_is_an_error(place: Workplace) -> None:
    run = place.run({"model": "builtin:clean", "python": "no-such-python"})
    assert not run.success
    assert (run.outputs["verdict"], run.outputs["exit-code"]) == ("error", "")
    assert run.steps["Scan"] == "skipped"


@pytest.mark.parametrize("wanted", ["", "pytest-memscan==0.1.0"])
def test_what_is_installed_must_leave_torch_as_it_is(place: Workplace, wanted: str) -> None:
    place.stand_in("pip", PIP)
    place.torch("1.0+cu99")
    place.env["PIP_CODE"] = "1"
    run = place.run({"model": "builtin:clean", "install": wanted})
    constraint, target = place.seen.read_text(encoding="utf-8").splitlines()
    assert constraint == "torch==1.0+cu99"
    assert target == wanted or Path(target, "action.yml").is_file()
    assert not run.success
    assert (run.outputs["verdict"], run.outputs["exit-code"]) == ("error", "")
    assert run.steps["Scan"] == "skipped"
    assert "torch 1.0+cu99 was to stay" in run.log


def test_a_pip_that_replaces_torch_is_found_out(place: Workplace) -> None:
    place.stand_in("pip", PIP)
    place.torch("1.0")
    place.env["NEW_TORCH"] = "yes"
    run = place.run({"model": "builtin:clean", "install": ""})
    assert run.outputs["verdict"] == "error"
    assert "pip replaced torch 1.0 by 9.9" in run.log


def test_an_option_of_pip_is_not_something_to_install(place: Workplace) -> None:
    place.stand_in("pip", PIP)
    place.torch("1.0")
    run = place.run({"model": "builtin:clean", "install": "--index-url=http://example.org"})
    assert not run.success
    assert not place.seen.exists()


def test_a_plugin_that_does_not_fit_the_action_is_an_error(place: Workplace) -> None:
    place.stand_in("pytest_memscan", "")
    run = place.run_on(to_json(result(Verdict.PASS)), 0)
    assert (run.success, run.outputs["verdict"]) == (False, "error")
    assert "no pytest-memscan that fits this action" in run.log
