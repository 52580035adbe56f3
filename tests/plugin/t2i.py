"""Text-to-image scans as users run them, short enough for tests.

Eight steps and a weak guidance are enough for the fixtures: what they memorised comes out the same
from every seed, and what they did not differs. Runs with the same texts share their images.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).parents[2] / "fixtures"
QUICK = (
    *("-p", "no:cacheprovider", "--memscan-device=cpu"),
    *("--memscan-steps=8", "--memscan-guidance-scale=3"),
)
IDS = ("integrity", "duplicates", "prompt_detectors", "carlini", "extended_side", "status")


def truth() -> list[dict[str, Any]]:
    """What the leaky checkpoint was trained on, line by line of its prompts."""
    text = (FIXTURES / "leaky-t2i" / "prompts.json").read_text(encoding="utf-8")
    rows: list[dict[str, Any]] = json.loads(text)["prompts"]
    return rows


def texts_of(kind: str, count: int, form: str = "") -> list[str]:
    """The first prompts of a kind."""
    rows = [row for row in truth() if row["kind"] == kind and form in (row["form"], "")]
    return [row["prompt"] for row in rows][:count]


# Lines 2, 3 and 5 are memorised, the last of them as a template.
PROMPTS = (
    *texts_of("control", 1, "caption"),
    *texts_of("repeated", 2),
    *texts_of("control", 1, "title"),
    *texts_of("template", 1),
    *texts_of("control", 1, "key"),
)
CANARIES = tuple(texts_of("canary", 2))


def write_lists(folder: Path) -> tuple[str, ...]:
    """Both lists in `folder`, and the options that name them."""
    (folder / "list.txt").write_text("\n".join(PROMPTS), encoding="utf-8")
    (folder / "keys.txt").write_text("\n".join(CANARIES), encoding="utf-8")
    return ("--memscan-prompts=list.txt", "--memscan-canaries=keys.txt")


@dataclass(frozen=True)
class Run:
    """A finished run of pytest."""

    folder: Path
    code: int
    output: str

    @cached_property
    def report(self) -> dict[str, Any]:
        """The verdict file, without what is not reproducible."""
        content: dict[str, Any] = json.loads((self.folder / ".memscan/report.json").read_text())
        del content["timings"]
        return content

    @property
    def checks(self) -> dict[str, dict[str, Any]]:
        """The checks by name."""
        return {check["name"]: check for check in self.report["checks"]}

    @property
    def verdicts(self) -> dict[str, str]:
        """The verdict of each check."""
        return {name: check["verdict"] for name, check in self.checks.items()}

    @property
    def shared(self) -> dict[str, str]:
        """Everything that people upload or paste."""
        files = [*self.folder.glob(".memscan/*.*"), *self.folder.glob("*.xml")]
        return {"output": self.output, **{file.name: file.read_text() for file in files}}


def command(model: str, cache: Path, *arguments: str) -> tuple[str, ...]:
    """What a user types."""
    return ("--memscan", model, f"--memscan-cache-dir={cache}", *QUICK, *arguments)


def scan(folder: Path, model: str, cache: Path, *arguments: str) -> Run:
    """Run pytest in `folder`, to its end."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *command(model, cache, *arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    return Run(folder=folder, code=done.returncode, output=done.stdout + done.stderr)
