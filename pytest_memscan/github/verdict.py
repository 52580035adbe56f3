"""Third step of the GitHub action: what the scan came to, from its report.

A report that is missing or cannot be read is an error, and so is one that says pass while pytest
did not end with 0.
"""

from __future__ import annotations

import html
import json
import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

if TYPE_CHECKING:
    from pytest_memscan.results import RunResult

ERROR = "error"
MOST_SUMMARY_BYTES = 1_000_000  # GitHub refuses a summary of more than 1 MiB
# Output -> file in the folder of reports.
FILES = {
    "report-json": "report.json",
    "report-html": "report.html",
    "sarif-file": "report.sarif",
    "summary-file": "report.md",
    "junit-file": "junit.xml",
}
# A report of a scan that did not get to its end would close alerts that are still true.
FINISHED = ("pass", "fail", "inconclusive")


def main() -> int:
    """Write outputs, annotations and summary; always 0, since the last step is what fails."""
    folder = Path(os.environ.get("INPUT_REPORT_DIR", "").strip() or "memscan-report")
    result, trouble = _read(folder / FILES["report-json"], os.environ["EXIT_CODE"])
    verdict = ERROR if result is None or trouble else str(result.verdict)
    _write_outputs(folder, verdict, result)
    if verdict in FINISHED:
        _anchor(folder / FILES["sarif-file"])
    print(f"memscan: the verdict is {verdict}")
    if trouble:
        print(_command(trouble, {"title": f"memscan: {ERROR}"}))
    elif result is not None:
        _annotate(result)
    if os.environ.get("INPUT_SUMMARY", "").strip() == "true":
        _summarise(folder / FILES["summary-file"], trouble, result)
    return 0


def _read(report: Path, exit_code: str) -> tuple[RunResult | None, str]:
    """The report, and why it is no verdict."""
    if not exit_code:
        return None, "the scan was not started; the log of the step before says why"
    if not report.is_file():
        return None, f"pytest ended with exit code {exit_code} and left no report; its log says why"
    try:
        from pytest_memscan.errors import MemscanError
        from pytest_memscan.reports.json import from_json
    except ImportError as error:
        return None, f"this Python has no pytest-memscan that fits this action ({error.name})"
    try:
        result = from_json(report.read_text(encoding="utf-8"))
    except (MemscanError, OSError, UnicodeDecodeError) as error:
        return None, f"the report cannot be read: {error}"
    if result.verdict == "pass" and exit_code != "0":
        return result, f"the report says pass, but pytest ended with exit code {exit_code}"
    return result, ""


def _write_outputs(folder: Path, verdict: str, result: RunResult | None) -> None:
    found = {key: folder / name for key, name in FILES.items() if (folder / name).is_file()}
    values = {key: _from_workspace(found[key]) if key in found else "" for key in FILES}
    baseline = Path(os.environ.get("INPUT_SAVE_BASELINE", "").strip() or os.devnull)
    kept = [*values.values(), _from_workspace(baseline) if baseline.is_file() else ""]
    values["files"] = "\n".join(path for path in kept if path)
    values["verdict"] = verdict
    can_upload = verdict in FINISHED and "sarif-file" in found
    values["sarif-is-final"] = str(can_upload).lower()
    if result is not None:
        from pytest_memscan.reports.github import checkpoint_hash, decisive_metric, regression_word

        values["model-sha"] = checkpoint_hash(result)
        values["worst-metric"] = decisive_metric(result)
        values["regression"] = regression_word(result)
    with Path(os.environ["GITHUB_OUTPUT"]).open("a", encoding="utf-8") as file:
        for name, value in values.items():
            # A value can have several lines, and must not end where it says so itself.
            end = secrets.token_hex(16)
            file.write(f"{name}<<{end}\n{value}\n{end}\n")


def _anchor(report: Path) -> None:
    """Let alerts stand beside files of the repository, where the scan ran in a folder of it."""
    if not report.is_file() or _from_workspace(Path.cwd()) in (".", str(Path.cwd().resolve())):
        return
    sarif = json.loads(report.read_text(encoding="utf-8"))
    for result in (each for run in sarif["runs"] for each in run["results"]):
        for location in result["locations"]:
            file = location["physicalLocation"]["artifactLocation"]
            file["uri"] = quote(_from_workspace(Path(unquote(file["uri"]))))
    report.write_text(json.dumps(sarif, indent=2) + "\n", encoding="utf-8")


def _annotate(result: RunResult) -> None:
    from pytest_memscan.reports.github import to_annotations

    for each in to_annotations(result):
        properties = {"title": each.title}
        if each.location is not None:
            here = each.location
            place = {"file": _from_workspace(Path(here.file)), "line": str(here.line)}
            columns = {"col": str(here.column), "endColumn": str(here.end_column)}
            properties = {**place, **columns, **properties}
        print(_command(each.message, properties))


def _command(message: str, properties: dict[str, str]) -> str:
    """A workflow command, escaped as the runner's own toolkit does."""
    shown = ",".join(
        f"{name}={_escape(value).replace(':', '%3A').replace(',', '%2C')}"
        for name, value in properties.items()
    )
    return f"::error {shown}::{_escape(message)}"


def _escape(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _summarise(report: Path, trouble: str, result: RunResult | None) -> None:
    """Append to the page of the job what the Markdown report says, if GitHub takes that much."""
    first = trouble
    if not (trouble or report.is_file() or result is None):
        first = f"{result.verdict}: {result.sentence}"
    shown = f"<pre>memscan: {html.escape(first)}</pre>\n\n" if first else ""
    if report.is_file():
        text = report.read_text(encoding="utf-8", errors="replace")
        if len((shown + text).encode("utf-8")) > MOST_SUMMARY_BYTES:
            text = f"The summary is too large to be shown here; it is in `{report.name}`.\n"
        shown += text
    with Path(os.environ["GITHUB_STEP_SUMMARY"]).open("a", encoding="utf-8") as file:
        file.write(shown)


def _from_workspace(path: Path) -> str:
    """Relative to the workspace, as later steps and annotations name files."""
    try:
        workspace = Path(os.environ["GITHUB_WORKSPACE"]).resolve()
        return path.resolve().relative_to(workspace).as_posix()
    except ValueError:
        return str(path.resolve())


if __name__ == "__main__":
    sys.exit(main())
