"""Second step of the GitHub action: the scan, as its inputs ask for it.

Ends with the exit code of pytest, or as pytest would for a usage error.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import subprocess
import sys
from pathlib import Path

USAGE_ERROR = 4  # of pytest
# Inputs that are options of the same name.
OPTIONS = (
    "base",
    "train-data",
    "prompts",
    "baseline",
    "save-baseline",
    "scans",
    "budget",
    "seed",
    "device",
    "dtype",
    "cache-dir",
    "images",
)
SWITCHES = ("offline", "sarif", "summary", "upload-artifact")
REPORTS = {
    "json": "report.json",
    "html": "report.html",
    "sarif": "report.sarif",
    "md": "report.md",
}
JUNIT = "junit.xml"
# The caller's own tests are not what is run, so neither are their options, conftest and cache.
ALONE = ("-o", "addopts=", "-p", "no:cacheprovider", "-p", "memscan", "--noconftest")


class InputError(Exception):
    """An input of the action that cannot be used."""


def main() -> int:
    """Scan, and return the exit code of pytest."""
    try:
        folder = report_dir()
        _remove_reports(folder)
        command = pytest_command(folder)
    except InputError as error:
        print(f"memscan: {error}.", file=sys.stderr)
        return USAGE_ERROR
    return _run(command)


def report_dir() -> Path:
    """Where the reports go.

    Raises:
        InputError: The name means something to the step that uploads what is in there.
    """
    folder = _input("report-dir") or "memscan-report"
    if re.search(r"[\x00-\x1f*?\[\]!#]", folder):
        raise InputError(f"the input report-dir must be a plain name, not {folder!r}")
    return Path(folder)


def _remove_reports(folder: Path) -> None:
    """What an earlier run left there, or somebody committed, is not what this run says."""
    baseline = _input("baseline")
    for name in (*REPORTS.values(), JUNIT):
        if baseline and (folder / name).resolve() == Path(baseline).resolve():
            raise InputError(
                f"the input baseline is {folder / name}, which every run replaces; keep it in "
                "another folder"
            )
        try:
            (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise InputError(
                f"the input report-dir cannot be used: {folder / name} cannot be removed "
                f"({error.strerror})"
            ) from None


def pytest_command(folder: Path) -> list[str]:
    """The command line for the inputs, which are in the environment; reports go to ``folder``.

    Raises:
        InputError: One of them cannot be used.
    """
    for name in SWITCHES:
        if _input(name) not in ("true", "false", ""):
            raise InputError(f"the input {name} must be true or false, not {_input(name)!r}")
    return [
        # The last one of an option counts: what is scanned is what the input model names.
        *(sys.executable, "-m", "pytest", *ALONE, *_pytest_args()),
        *("--memscan-only", f"--memscan={_model()}"),
        *(f"--memscan-{name}={_input(name)}" for name in OPTIONS if _input(name)),
        *([f"--memscan-config={_input('policy')}"] if _input("policy") else []),
        *(["--memscan-offline"] if _input("offline") == "true" else []),
        *(f"--memscan-report={kind}:{folder / name}" for kind, name in REPORTS.items()),
        f"--junitxml={folder / JUNIT}",
    ]


def _input(name: str) -> str:
    return os.environ.get(f"INPUT_{name.upper().replace('-', '_')}", "").strip()


def _model() -> str:
    model, revision = _input("model"), _input("revision")
    if not model:
        raise InputError("the input model is empty; name the checkpoint to scan")
    return f"{model}@{revision}" if revision else model


def _pytest_args() -> list[str]:
    try:
        return shlex.split(_input("pytest-args"))
    except ValueError as error:
        raise InputError(f"the input pytest-args cannot be split: {error}") from None


def _run(command: list[str]) -> int:
    # A name in a checkpoint must not speak to the runner.
    token = secrets.token_hex(16)
    print(f"::stop-commands::{token}", flush=True)
    try:
        # A folder of the caller's repository may be called like a package.
        environment = {**os.environ, "PYTHONSAFEPATH": "1"}
        return subprocess.call(command, env=environment)  # noqa: S603  # no shell
    finally:
        print(f"\n::{token}::", flush=True)


if __name__ == "__main__":
    sys.exit(main())
