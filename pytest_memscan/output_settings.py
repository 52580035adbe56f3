"""What a run leaves behind: reports, their pictures, evidence, a baseline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_memscan.errors import OptionError, is_special, shown_path
from pytest_memscan.settings import (
    IMAGE_MODES,
    Given,
    ImageMode,
    as_list,
    parse_boolean,
    parse_one_of,
    parse_path,
)

FILE_NAMES = {
    "json": "report.json",
    "html": "report.html",
    "sarif": "report.sarif",
    "md": "report.md",
    "model-card": "model-card.yml",
}
REPORT_FORMATS = tuple(FILE_NAMES)
DEFAULT_FORMATS = ("json", "html")  # written unless told otherwise


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What is written, where, and what it may show.

    Attributes:
        reports: Format and path of each; JSON, the verdict file, is always among them.
        images: What reports may show of images.
        show_prompts: Whether they may show the text of memorised prompts.
        evidence: Private folder for clear images of what was found; None for none.
        save_baseline: File that a passing run is saved to, for later ones to compare with.
        junit_properties: Whether metrics go into JUnit files; some readers refuse them.
    """

    reports: tuple[tuple[str, Path], ...]
    images: ImageMode
    show_prompts: bool
    evidence: Path | None
    save_baseline: Path | None
    junit_properties: bool


def output_settings(
    take: Callable[[str, Callable[[Given], Any], Any], Any], rootdir: Path
) -> Outputs:
    """All of them, each as given or by default.

    Args:
        take: Given the name of a setting, its parser and its default, returns its value.
        rootdir: Where reports go by default.
    """
    reports = default_reports(rootdir)
    return Outputs(
        reports=take("report", lambda given: parse_reports(given, rootdir), reports),
        images=take("images", parse_one_of(IMAGE_MODES), "blurred"),
        show_prompts=take("show_prompts", parse_boolean, False),
        evidence=take("evidence", parse_path, None),
        save_baseline=take("save_baseline", parse_path, None),
        junit_properties=take("junit_properties", parse_boolean, True),
    )


def default_reports(rootdir: Path) -> tuple[tuple[str, Path], ...]:
    """Where reports go unless told otherwise."""
    return tuple((kind, rootdir / ".memscan" / FILE_NAMES[kind]) for kind in DEFAULT_FORMATS)


def parse_reports(given: Given, rootdir: Path) -> tuple[tuple[str, Path], ...]:
    """Format and path of each report; JSON, the verdict file, is always among them."""
    targets = {kind: rootdir / ".memscan" / name for kind, name in FILE_NAMES.items()}
    for text in as_list(given):
        kind, _, path = text.partition(":")
        if kind not in REPORT_FORMATS:
            raise OptionError(
                f"{given.where}: {kind!r} is not a report format; "
                f"available: {', '.join(REPORT_FORMATS)}"
            )
        if path:
            targets[kind] = parse_path(replace(given, value=path))
        if targets[kind].is_dir():
            raise OptionError(
                f"{given.where}: {shown_path(targets[kind])} is a folder; name a file in it, "
                f"as in {kind}:{targets[kind].name}/{FILE_NAMES[kind]}"
            )
        if is_special(targets[kind]):  # a device would be replaced by a file, for everybody
            raise OptionError(
                f"{given.where}: {shown_path(targets[kind])} is a device or a pipe, and a report "
                "is a file; name one, or leave that format out"
            )
    # The JSON report is the verdict file: it is always written, whatever else is asked for.
    asked = {"json", *(text.partition(":")[0] for text in as_list(given))}
    reports = tuple((kind, path) for kind, path in targets.items() if kind in asked)
    if len({path for _, path in reports}) < len(reports):
        raise OptionError(f"{given.where}: two reports cannot be written to the same file")
    return reports
