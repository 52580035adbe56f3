"""Runs ``action.yml`` as GitHub would, but for the steps that other actions do.

Expressions are evaluated where the action has them (``env:``, ``with:``, ``if:``, outputs), its
shell steps are run by bash with the files and variables that the runner gives them.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
_EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
_TOKEN = re.compile(r"\s*(?:('(?:[^']|'')*')|(==|!=|&&|\|\||\(\)|\(|\))|([\w.-]+))")


@dataclass(kw_only=True)
class ActionRun:
    """What a run of the action left behind.

    Attributes:
        success: Whether every step that was not skipped succeeded.
        outputs: Of the action.
        steps: Outcome of each shell step, by its name.
        uploads: Inputs of the other actions that were to be run, by the action's name.
        log: What the shell steps wrote.
        summary: What they appended to the page of the job.
    """

    success: bool = True
    outputs: dict[str, str] = field(default_factory=dict)
    steps: dict[str, str] = field(default_factory=dict)
    uploads: dict[str, dict[str, str]] = field(default_factory=dict)
    log: str = ""
    summary: str = ""


def load_action() -> dict[str, Any]:
    """The action as it is written."""
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    return loaded


def run_action(
    workspace: Path,
    temporary: Path,
    inputs: Mapping[str, str],
    env: Mapping[str, str] | None = None,
) -> ActionRun:
    """Run every step in ``workspace``; unknown inputs are a mistake of the test."""
    action = load_action()
    assert set(inputs) <= set(action["inputs"])
    given = {name: str(each.get("default", "")) for name, each in action["inputs"].items()}
    context: dict[str, Any] = {"inputs": given | dict(inputs), "steps": {}}
    run = ActionRun()
    temporary.mkdir(parents=True, exist_ok=True)
    for number, step in enumerate(action["runs"]["steps"]):
        condition = step.get("if", "success()")
        if not _evaluate(condition, context, success=run.success):
            run.steps[step["name"]] = "skipped"
        elif "uses" in step:
            name = step["uses"].partition("@")[0]
            run.uploads[name] = _filled(step["with"], context)
        else:
            folder = temporary / str(number)
            folder.mkdir()
            ended = _shell_step(step, context, workspace, folder, dict(env or {}))
            run.log += ended.stdout
            run.summary += (folder / "summary").read_text(encoding="utf-8")
            outputs = read_outputs((folder / "output").read_text(encoding="utf-8"))
            context["steps"][step.get("id", str(number))] = {"outputs": outputs}
            run.steps[step["name"]] = "success" if ended.returncode == 0 else "failure"
            run.success = run.success and ended.returncode == 0
    shown = {name: each["value"] for name, each in action["outputs"].items()}
    run.outputs = _filled(shown, context)
    return run


def _shell_step(
    step: Mapping[str, Any],
    context: Mapping[str, Any],
    workspace: Path,
    folder: Path,
    env: dict[str, str],
) -> subprocess.CompletedProcess[str]:
    assert step["shell"] == "bash"
    script = folder / "step.sh"
    script.write_text(
        step["run"], encoding="utf-8"
    )  # expressions in here would be left as they are
    files = {"GITHUB_OUTPUT": folder / "output", "GITHUB_STEP_SUMMARY": folder / "summary"}
    for file in files.values():
        file.touch()
    place = {
        "GITHUB_ACTION_PATH": str(ROOT),
        "GITHUB_WORKSPACE": str(workspace),
        "RUNNER_TEMP": str(folder),
        "CI": "true",
    }
    own = _filled(step.get("env", {}), context)
    at = _filled({"at": step.get("working-directory", ".")}, context)["at"]
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", str(script)],
        cwd=workspace / at,
        env={
            **os.environ,
            **place,
            **{key: str(file) for key, file in files.items()},
            **env,
            **own,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def read_outputs(text: str) -> dict[str, str]:
    """``GITHUB_OUTPUT`` as the runner reads it: ``name=value``, or lines up to a delimiter."""
    outputs: dict[str, str] = {}
    lines = iter(text.splitlines())
    for line in lines:
        single = re.match(r"([^=<]+)=(.*)$", line)
        if single is not None:
            outputs[single[1]] = single[2]
            continue
        name, _, end = line.partition("<<")
        assert end, f"not a line of GITHUB_OUTPUT: {line!r}"
        outputs[name] = "\n".join(iter(lambda: next(lines), end))
    return outputs


def _filled(texts: Mapping[str, Any], context: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: _EXPRESSION.sub(lambda found: str(_evaluate(found[1], context)), str(text))
        for name, text in texts.items()
    }


def _evaluate(expression: str, context: Mapping[str, Any], *, success: bool = True) -> Any:
    """Values, ``==``, ``!=``, ``&&`` and ``||``, without brackets; status functions."""
    tokens = [found.group().strip() for found in _TOKEN.finditer(expression)]
    assert "".join(tokens) == re.sub(r"\s(?=(?:[^']*'[^']*')*[^']*$)", "", expression)
    return _either(tokens, context, success)


def _either(tokens: list[str], context: Mapping[str, Any], success: bool) -> Any:
    for operator, wins in (("||", True), ("&&", False)):
        if operator in tokens:
            at = tokens.index(operator)
            left = _either(tokens[:at], context, success)
            return left if bool(left) is wins else _either(tokens[at + 1 :], context, success)
    if len(tokens) == 3:
        left, right = _value(tokens[0], context), _value(tokens[2], context)
        return (left == right) is (tokens[1] == "==")
    if tokens[1:] == ["()"]:
        return {"always": True, "success": success}[tokens[0]]
    (token,) = tokens
    return _value(token, context)


def _value(token: str, context: Mapping[str, Any]) -> str:
    if token.startswith("'"):
        return token[1:-1].replace("''", "'")
    value: Any = context
    for name in token.split("."):
        # What a step that did not run would have said is empty.
        value = value.get(name, {} if token.startswith("steps.") else None)
        assert value is not None, f"there is no {token}"
    return value if isinstance(value, str) else ""
