"""Pipelines of other families go through a whole scan, from the folder to the report.

Their weights are random, so that every image is as good as any other: only the scan's own control
may object.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from pipeline_factory import save_tiny

from .conftest import read_report

PROMPTS = tuple(f"a {colour} {what}" for colour in ("red", "blue") for what in ("cat", "boat"))


FAMILIES = ("sdxl", "sd3")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saved before any test: pytester forgets the modules that were imported in one."""
    folder = tmp_path_factory.mktemp("models")
    for family in FAMILIES:
        save_tiny(family, folder / family)
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_scanned_to_its_end(
    models: Path, pytester: pytest.Pytester, family: str
) -> None:
    (pytester.path / "list.txt").write_text("\n".join(PROMPTS), encoding="utf-8")
    pytester.runpytest_subprocess(
        *("--memscan", str(models / family), "--memscan-prompts=list.txt", "--memscan-steps=4"),
        "--memscan-no-cache",
    )
    checks = {check["name"]: check for check in read_report(pytester.path)["checks"]}
    scan = checks["carlini"]["prompt_scan"]
    assert scan["screening"]["num_screened"] == len(PROMPTS)
    assert {each["name"] for each in scan["screening"]["detectors"] if each["decides"]} == {
        "early_noise_magnitude"
    }
    assert scan["images"]["invalid"] == {}
    assert scan["num_unsettled"] == 0
    assert checks["extended_side"]["keys"]["num_keys"] == len(scan["findings"])
