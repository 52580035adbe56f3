"""The collected gate: ``memscan::integrity``, ``memscan::carlini`` and the others.

The items come from a virtual file, so that they behave like any other test: they can be
selected, deselected, listed and run again. Each one's outcome travels with its report, through
xdist too; `controller.Controller` turns the outcomes into the verdict.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from typing import Any

import pytest

from pytest_memscan.reports.text import sentence_lines
from pytest_memscan.results import CheckOutcome, Verdict
from pytest_memscan.session import Session

SESSION: pytest.StashKey[Session] = pytest.StashKey()
_OUTCOME: pytest.StashKey[CheckOutcome] = pytest.StashKey()
FILE_NAME = "memscan"


class GateError(Exception):
    """A check that did not pass; its message is all that is shown."""


class MemscanFile(pytest.File):
    """Stands for the gate; there is no such file."""

    def collect(self) -> Iterator[MemscanItem]:
        """One item for each check, or those asked for by id."""
        checks = self.config.stash[SESSION].config.checks
        for name in self.config.option.memscan_selected or checks:
            yield MemscanItem.from_parent(self, name=name)


class MemscanItem(pytest.Item):
    """One check of the gate."""

    def __init__(self, **kwargs: Any) -> None:  # pytest's own signature
        super().__init__(**kwargs)
        self.add_marker("memscan")

    def setup(self) -> None:
        """Do the work, so that what could not be checked is an error and never a failure."""
        session = self.config.stash[SESSION]
        outcome = session.check(self.name)
        self.stash[_OUTCOME] = outcome
        if session.config.outputs.junit_properties:
            self.user_properties += list(_properties(outcome))
        if self.name in session.crashes:
            raise session.crashes[self.name]
        if outcome.verdict in (Verdict.ERROR, Verdict.NOT_RUN):
            raise GateError(_message(outcome))

    def runtest(self) -> None:
        """Pass, or say what was measured."""
        outcome = self.stash[_OUTCOME]
        if outcome.verdict is Verdict.NOT_APPLICABLE:
            pytest.skip(f"not applicable: {outcome.sentence}")
        if outcome.verdict is not Verdict.PASS:
            raise GateError(_message(outcome))

    def repr_failure(
        self,
        excinfo: pytest.ExceptionInfo[BaseException],
        style: Any = None,
    ) -> Any:
        """The sentence alone; a traceback only for what nobody expected, without locals."""
        if isinstance(excinfo.value, GateError):
            return str(excinfo.value)
        return excinfo.getrepr(style="short", showlocals=False)

    def reportinfo(self) -> tuple[Any, int | None, str]:
        """Where the item is, for headlines; pytest needs a line to say why an item is skipped."""
        return self.path, 0, f"memscan {self.name}"


class Collection:
    """Adds the virtual file to the session, in the controller and in every worker."""

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Add the gate behind the user's own tests."""
        report = yield
        if isinstance(collector, pytest.Session) and report.outcome == "passed":
            path = collector.config.rootpath / FILE_NAME
            report.result.append(MemscanFile.from_parent(collector, path=path))
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Let the outcome travel with the report, as text, since workers can only send text."""
        report = yield
        if isinstance(item, MemscanItem) and report.failed and call.excinfo is not None:
            # For an error in setup pytest shows its own frames instead of asking the item.
            report.longrepr = item.repr_failure(call.excinfo)
        outcome = item.stash.get(_OUTCOME, None)
        if outcome is not None:
            from pytest_memscan.reports.json import dump

            report.memscan_outcome = dump(outcome)  # type: ignore[attr-defined]
        return report


class FileCollection:
    """Collects the virtual file itself.

    After a failure in a user's file, ``--lf`` skips every file on disk without failures. Ours is
    not on disk, and must not be skipped: its items are then deselected one by one like others.
    """

    @pytest.hookimpl(tryfirst=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> pytest.CollectReport | None:
        """Collect our file; leave the others to pytest."""
        if not isinstance(collector, MemscanFile):
            return None
        return pytest.CollectReport(collector.nodeid, "passed", None, list(collector.collect()))


def _message(outcome: CheckOutcome) -> str:
    """The verdict and its sentence; names of files in it cannot steer a terminal or a CI log."""
    return f"memscan: {outcome.verdict}: " + "\n".join(sentence_lines(outcome.sentence))


def _properties(outcome: CheckOutcome) -> Iterable[tuple[str, str | float]]:
    """Metrics for JUnit and other reporters."""
    yield "memscan.verdict", str(outcome.verdict)
    for name, estimate in outcome.metrics.items():
        yield f"memscan.{name}", estimate.value
        yield f"memscan.{name}.lower", estimate.lower
        yield f"memscan.{name}.upper", estimate.upper
    if outcome.coverage is not None:
        yield "memscan.images", outcome.coverage.valid
