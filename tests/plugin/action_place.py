"""A repository that the GitHub action is run in, and stand-ins for the programs it starts."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from action_runner import ActionRun, run_action

HERE = {"python": sys.executable, "install": "none"}
# Speaks the interface of `python -m pytest` as far as the action knows it.
PYTEST = """
import json, os, pathlib, sys

pathlib.Path(os.environ["SEEN"]).write_text(json.dumps(sys.argv[1:]), encoding="utf-8")
print("::error::from a file name")
for argument in sys.argv[1:]:
    option, _, value = argument.partition("=")
    kind, _, path = value.partition(":")
    written = pathlib.Path(os.environ["REPORTS"], kind)
    if option == "--memscan-report" and written.is_file():
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(path).write_bytes(written.read_bytes())
sys.exit(int(os.environ["CODE"]))
"""
# The same of `python -m pip install`.
PIP = """
import os, pathlib, sys

arguments = sys.argv[1:]
constraints = pathlib.Path(arguments[arguments.index("--constraint") + 1])
seen = constraints.read_text(encoding="utf-8") + arguments[-1]
pathlib.Path(os.environ["SEEN"]).write_text(seen, encoding="utf-8")
if "NEW_TORCH" in os.environ:
    here = pathlib.Path(__file__).parent
    (here / "torch-1.0.dist-info").rename(here / "torch-9.9.dist-info")
    (here / "torch-9.9.dist-info" / "METADATA").write_text("Name: torch\\nVersion: 9.9\\n")
sys.exit(int(os.environ.get("PIP_CODE", "0")))
"""


class Workplace:
    """A checked-out repository, with stand-ins for programs where a test asks for them."""

    def __init__(self, home: Path) -> None:
        self.workspace = home / "work space"
        self.workspace.mkdir()
        self.home = home
        self.seen = home / "seen"
        self._stubs = home / "stubs"
        self._stubs.mkdir()
        self.reports = home / "reports"  # by format, that the stand-in for pytest writes
        self.reports.mkdir()
        self.env = {
            "SEEN": str(self.seen),
            "REPORTS": str(self.reports),
            "PYTHONPATH": str(self._stubs),
        }

    def stand_in(self, name: str, code: str) -> None:
        """Put a module before the installed one of the same name."""
        (self._stubs / f"{name}.py").write_text(code, encoding="utf-8")

    def torch(self, version: str) -> None:
        """Make pip and the action believe in a torch of this version."""
        folder = self._stubs / f"torch-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Name: torch\nVersion: {version}\n", encoding="utf-8")

    def run(self, inputs: Mapping[str, str]) -> ActionRun:
        """Every step of the action."""
        return run_action(self.workspace, self.home / "runner", HERE | dict(inputs), self.env)

    def run_on(self, report: str | None, code: int, inputs: Mapping[str, str] = {}) -> ActionRun:
        """The same where pytest writes this report and ends with this exit code."""
        self.stand_in("pytest", PYTEST)
        self.env["CODE"] = str(code)
        if report is not None:
            (self.reports / "json").write_text(report, encoding="utf-8")
        return self.run({"model": "org/name"} | dict(inputs))

    @property
    def files(self) -> list[str]:
        """What there is in the repository."""
        found = (path for path in self.workspace.rglob("*") if path.is_file())
        return sorted(path.relative_to(self.workspace).as_posix() for path in found)

    @property
    def has_been_entered(self) -> bool:
        """Whether something from an input was run as a command."""
        return bool(list(self.home.rglob("pwned*"))) or Path("pwned").exists()
