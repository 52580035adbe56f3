"""The process in charge: what it makes of outcomes that several processes send."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from unit.conftest import Resolve

from pytest_memscan.controller import Controller
from pytest_memscan.privacy.hooks import SCRUBBER
from pytest_memscan.privacy.values import of_environment
from pytest_memscan.reports.json import dump, from_json
from pytest_memscan.results import CheckOutcome, Verdict
from pytest_memscan.session import Session


@pytest.mark.parametrize("verdicts", [("error", "pass"), ("pass", "error")])
def test_of_workers_that_run_the_same_check_the_worst_counts(
    resolve: Resolve, tmp_path: Path, verdicts: tuple[str, str]
) -> None:
    settings = resolve(scans="carlini", cache_dir=str(tmp_path / "cache"))
    config: Any = SimpleNamespace(
        stash={SCRUBBER: of_environment()}, option=SimpleNamespace(collectonly=False)
    )
    session = Session(config=settings, session_id="a")
    controller = Controller(config, session)
    sent = [(name, "pass") for name in settings.checks if name != "carlini"]
    for name, verdict in (*sent, *(("carlini", each) for each in verdicts)):
        outcome = CheckOutcome(name=name, verdict=Verdict(verdict), sentence=verdict)
        report: Any = SimpleNamespace(memscan_outcome=dump(outcome), duration=1.0)
        controller.pytest_runtest_logreport(report)
    run: Any = SimpleNamespace(exitstatus=pytest.ExitCode.OK)
    next(iter(controller.pytest_sessionfinish(run)))  # type: ignore[call-overload]
    assert run.exitstatus == pytest.ExitCode.TESTS_FAILED
    written = from_json(dict(settings.outputs.reports)["json"].read_text())
    assert (written.verdict, written.timings["carlini"]) == (Verdict.ERROR, 2.0)
