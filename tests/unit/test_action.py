"""The GitHub action and the example workflows as they are written."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from action_runner import ROOT, load_action

from pytest_memscan.github import install, scan, verdict
from pytest_memscan.plugin import _FLAGS, _OPTIONS

ACTION = load_action()
STEPS = {step["name"]: step for step in ACTION["runs"]["steps"]}
SHELL_STEPS = [step for step in STEPS.values() if "run" in step]
WORKFLOWS = sorted((ROOT / "docs" / "examples" / "workflows").glob("*.yml"))
FILES = [ROOT / "action.yml", *WORKFLOWS]
DOCS = (ROOT / "docs" / "github-actions.md").read_text(encoding="utf-8")
PROGRAMS = "".join(
    Path(module.__file__ or "").read_text(encoding="utf-8") for module in (install, scan, verdict)
)


def steps_of(file: Path) -> Iterator[Mapping[str, Any]]:
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    if "runs" in content:
        yield from content["runs"]["steps"]
    for job in content.get("jobs", {}).values():
        yield from job["steps"]


def table(heading: str) -> dict[str, list[str]]:
    """First cell of each row of the table under a heading -> its other cells."""
    section = DOCS.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]
    return {first.strip("`"): rest for first, *rest in cells}


def identifier(path: Path) -> str:
    return path.name


@pytest.mark.parametrize("file", FILES, ids=identifier)
def test_nothing_is_interpolated_into_a_shell(file: Path) -> None:
    runs = [step["run"] for step in steps_of(file) if "run" in step]
    assert not [run for run in runs if "${{" in run]


@pytest.mark.parametrize("file", FILES, ids=identifier)
def test_other_peoples_actions_are_pinned_by_commit_with_their_version(file: Path) -> None:
    lines = [line for line in file.read_text("utf-8").splitlines() if "uses:" in line]
    assert lines
    for line in lines:
        assert re.search(r"uses: [\w./-]+@[0-9a-f]{40} # (v\d+\.\d+\.\d+|put a release's)", line)


def test_the_same_action_is_pinned_to_one_version_everywhere() -> None:
    pins = {step["uses"] for file in FILES for step in steps_of(file) if "uses" in step}
    assert len({pin.partition("@")[0] for pin in pins}) == len(pins)


def test_every_shell_is_bash_and_variables_are_quoted() -> None:
    for step in SHELL_STEPS:
        assert step["shell"] == "bash"
        unquoted = re.sub(r'"[^"]*"|\[\[.*?\]\]', "", step["run"])
        assert "$" not in unquoted.replace("code=$?", "")


def test_nothing_reaches_the_environment_of_later_steps_and_no_token_is_taken() -> None:
    text = (ROOT / "action.yml").read_text(encoding="utf-8") + PROGRAMS
    assert not [name for name in ("GITHUB_ENV", "GITHUB_PATH", "set-output") if name in text]
    assert not [name for name in ACTION["inputs"] if "token" in name or "secret" in name]


def test_every_input_is_described_and_has_a_default_unless_it_is_required() -> None:
    for name, each in ACTION["inputs"].items():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", name)
        assert each["description"]
        assert each.get("required", False) is ("default" not in each)


def test_every_input_is_used_and_every_used_one_exists() -> None:
    used = set(re.findall(r"inputs\.([\w-]+)", (ROOT / "action.yml").read_text(encoding="utf-8")))
    assert used == set(ACTION["inputs"])


def test_every_variable_of_a_step_carries_the_input_it_is_named_after() -> None:
    for step in SHELL_STEPS:
        for name, value in step.get("env", {}).items():
            if name.startswith("INPUT_"):
                assert value == f"${{{{ inputs.{name[6:].lower().replace('_', '-')} }}}}"


def test_every_input_is_read_by_a_program_or_a_step() -> None:
    given = {name for step in SHELL_STEPS for name in step.get("env", {})}
    read = set(re.findall(r"INPUT_[A-Z_]*[A-Z]", PROGRAMS))
    names = set(re.findall(r'_input\("([\w-]+)"\)', PROGRAMS)) | {*scan.OPTIONS, *scan.SWITCHES}
    read |= {f"INPUT_{name.upper().replace('-', '_')}" for name in names}
    read |= {"INPUT_PYTHON", "EXIT_CODE", "VERDICT", "PYTHONIOENCODING"}
    assert given <= read


def test_inputs_that_are_options_are_options_of_the_plugin() -> None:
    options = {name for name, _ in (*_OPTIONS, *_FLAGS)}
    assert {*scan.OPTIONS, "config", "offline", "only", "report"} <= options


def test_the_programs_agree_about_the_files() -> None:
    assert {*scan.REPORTS.values(), scan.JUNIT} == set(verdict.FILES.values())


def test_every_output_comes_from_a_step_that_writes_it() -> None:
    for each in ACTION["outputs"].values():
        source = re.fullmatch(
            r"\$\{\{ steps\.(\w+)\.outputs\.([\w-]+)( \|\| 'error')? \}\}", each["value"]
        )
        assert source is not None
        assert each["description"]
        step = next(step for step in SHELL_STEPS if step.get("id") == source[1])
        written = step["run"] if source[1] == "scan" else PROGRAMS
        assert f'"{source[2]}' in written


def test_the_verdict_is_an_error_where_no_step_gave_one() -> None:
    assert ACTION["outputs"]["verdict"]["value"].endswith("|| 'error' }}")


def test_the_last_step_always_decides_and_the_reports_are_kept_before() -> None:
    *_, upload, sarif, last = ACTION["runs"]["steps"]
    assert last["if"] == "always()"
    assert last["run"].rstrip().endswith('[[ "$VERDICT" == pass && "$EXIT_CODE" == 0 ]]')
    assert upload["if"].startswith("always() && ")
    assert sarif["if"].startswith("always() && ")


def test_the_documentation_lists_every_input_with_its_default() -> None:
    documented = {name: cells[-1].strip("`") for name, cells in table("Inputs").items()}
    assert documented == {
        name: "required" if each.get("required") else each["default"]
        for name, each in ACTION["inputs"].items()
    }


def test_the_documentation_lists_every_output_and_every_workflow() -> None:
    assert list(table("Outputs")) == list(ACTION["outputs"])
    for file in WORKFLOWS:
        assert f"(examples/workflows/{file.name})" in DOCS


@pytest.mark.parametrize("file", WORKFLOWS, ids=identifier)
def test_an_example_asks_for_no_more_than_it_needs(file: Path) -> None:
    workflow = yaml.safe_load(file.read_text(encoding="utf-8"))
    (job,) = workflow["jobs"].values()
    assert workflow["permissions"] == {"contents": "read"}
    (ours,) = (step for step in job["steps"] if "memscan" in step.get("uses", ""))
    more = {"security-events": "write"} if ours["with"].get("sarif") == "true" else {}
    assert job.get("permissions", {"contents": "read"}) == {"contents": "read", **more}
    assert job["timeout-minutes"]
    assert workflow["concurrency"]["group"].startswith("memscan")
    assert "pull_request_target" not in workflow[True]  # YAML reads `on` as true
    for step in job["steps"]:
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("file", WORKFLOWS, ids=identifier)
def test_an_example_uses_the_action_as_it_is(file: Path) -> None:
    (ours,) = (step for step in steps_of(file) if "memscan" in step.get("uses", ""))
    given = ours["with"]
    assert set(given) <= set(ACTION["inputs"])
    required = {name for name, each in ACTION["inputs"].items() if each.get("required")}
    assert required <= set(given)
    assert given["budget"]
    # The runner makes text of everything; what YAML makes of a bare `true` is its own affair.
    assert all(isinstance(value, str) for value in given.values())


def test_the_example_of_the_documentation_uses_the_action_as_it_is() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", DOCS, re.DOTALL)
    *_, ours = yaml.safe_load(block)
    assert set(ours["with"]) <= set(ACTION["inputs"])
    assert ours["uses"] in (ROOT / WORKFLOWS[0]).read_text(encoding="utf-8")


def test_a_pull_request_needs_no_secret_and_no_cache_holds_a_token() -> None:
    for file in WORKFLOWS:
        text = file.read_text(encoding="utf-8")
        assert not ("pull_request:" in text and "secrets." in text)
        for step in steps_of(file):
            if step.get("uses", "").startswith("actions/cache@"):
                assert "huggingface" not in step["with"]["path"]


def test_zizmor_finds_nothing() -> None:
    program = shutil.which("zizmor", path=f"{Path(sys.executable).parent}") or shutil.which(
        "zizmor"
    )
    if program is None:
        pytest.skip("zizmor is not installed; it is one of the dev requirements")
    command = [program, "--offline", "--no-progress", *map(str, FILES)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
