"""What is left behind when something cannot be written: never a pass that was taken back."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from unit.baseline_samples import carlini, run

from pytest_memscan.output_settings import Outputs
from pytest_memscan.publishing import Publisher
from pytest_memscan.reports.json import from_json
from pytest_memscan.results import Verdict


class FullDisk:
    """Has room for so many files. Stands where private texts are taken out before writing."""

    def __init__(self, room: int) -> None:
        self.room = room

    def __call__(self, text: str) -> str:
        self.room -= 1
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/home/somebody/report.json")
        return text


def publisher(folder: Path, disk: FullDisk, *kinds: str) -> Publisher:
    outputs = Outputs(
        reports=tuple((kind, folder / f"report.{kind}") for kind in ("json", *kinds)),
        images="none",
        show_prompts=False,
        evidence=None,
        save_baseline=folder / "baseline.json",
        junit_properties=True,
    )
    session: Any = SimpleNamespace(
        config=SimpleNamespace(outputs=outputs), work_dir=folder / "work", session_id="a"
    )
    return Publisher(session, scrub=disk, only_collects=False)


@pytest.mark.parametrize("room", [0, 1, 2, 3])
def test_a_disk_that_fills_up_leaves_no_pass_behind(tmp_path: Path, room: int) -> None:
    published = publisher(tmp_path, FullDisk(room), "md")
    result = published.write(run(carlini()))
    kept = {path.name: path.read_text() for path in tmp_path.glob("report.*")}
    if room == 3:  # Markdown, JSON and the baseline
        assert (result.verdict, published.trouble) == (Verdict.PASS, "")
        assert from_json(kept["report.json"]) == result
        return
    assert result.verdict is Verdict.ERROR
    assert "No space left on device" in published.trouble
    assert "/home/somebody" not in published.trouble
    assert kept == {}
