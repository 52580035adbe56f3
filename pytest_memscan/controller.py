"""What the process in charge does: gather outcomes, decide the verdict, write the reports."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pytest

from pytest_memscan.checks import not_scanned
from pytest_memscan.config import Config
from pytest_memscan.gate import judge_run, waived_ids
from pytest_memscan.gate.verdicts import worst
from pytest_memscan.privacy.hooks import SCRUBBER
from pytest_memscan.publishing import Publisher
from pytest_memscan.results import CheckOutcome, RunResult, Verdict
from pytest_memscan.session import Session
from pytest_memscan.waivers import states, utc_today

if TYPE_CHECKING:
    pass


class Controller:
    """Registered with ``--memscan`` in every process but xdist workers."""

    def __init__(self, config: pytest.Config, session: Session) -> None:
        self._config = config
        self._session = session
        self._settings = session.config
        self._outcomes: dict[str, CheckOutcome] = {}
        self._seconds: dict[str, float] = {}
        self._selected: set[str] = set()
        self._result: RunResult | None = None
        self._publisher = Publisher(
            session,
            scrub=config.stash[SCRUBBER].scrub,
            only_collects=config.option.collectonly,
        )

    def pytest_report_header(self) -> list[str]:
        """What will be scanned, and at what cost."""
        from pytest_memscan.reports.terminal import header_lines

        settings = self._settings
        shown = settings.sources
        cost = {
            **({} if settings.base is None else {"base": shown["base"][0]}),
            "images": f"{shown['budget'][0]} x {settings.steps} steps",
            "policy": f"{shown['fail'][0]} ({shown['fail'][1]})",
            "similarity": settings.descriptor,
            "device": settings.device,
            "dtype": settings.dtype,
            "seed": str(settings.seed),
        }
        return header_lines(settings.label, {"checks": ", ".join(settings.checks), **cost})

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Remember which checks were selected."""
        self._select([item.nodeid for item in session.items])

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: object, ids: Sequence[str]) -> None:
        """The same for xdist, where only workers collect."""
        self._select(ids)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell an xdist worker which run it belongs to."""
        node.workerinput["memscan_session"] = self._session.session_id

    def _select(self, ids: Sequence[str]) -> None:
        self._selected |= {name for name in self._settings.checks if f"memscan::{name}" in ids}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the outcome that came with an item's report."""
        text = getattr(report, "memscan_outcome", None)
        if text is None:
            return
        from pytest_memscan.reports.json import load

        outcome = load(text, CheckOutcome)
        other = self._outcomes.get(outcome.name)
        # With xdist's --dist each, every worker runs the check.
        if other is None or worst((other.verdict, outcome.verdict)) is outcome.verdict:
            self._outcomes[outcome.name] = outcome
        seconds = self._seconds.get(outcome.name, 0.0) + report.duration
        self._seconds[outcome.name] = seconds

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> object:
        """Decide, write, and make the exit code agree with the verdict."""
        self._result = self._publisher.write(self._judge())
        if self._is_red(self._result) and session.exitstatus in (
            pytest.ExitCode.OK,
            pytest.ExitCode.NO_TESTS_COLLECTED,
        ):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        self._session.close()
        return (yield)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The table, where the reports are, and the verdict as the last line."""
        if self._result is None:
            return
        from pytest_memscan.reports.terminal import summary_lines

        config = self._config
        verbosity = config.get_verbosity()
        width = terminalreporter._tw.fullwidth  # no public way to the width
        *lines, verdict = summary_lines(self._result, verbosity=verbosity, width=width)
        if verbosity >= 0:
            terminalreporter.ensure_newline()
            terminalreporter.section("memscan summary")
        for line in [*lines, *(self._publisher.written.values() if verbosity >= 0 else ())]:
            terminalreporter.write_line(line)
        for text in self._publisher.tracebacks:
            terminalreporter.write(text)
        if self._publisher.trouble:
            terminalreporter.write_line(f"memscan: {self._publisher.trouble}", red=True)
        colour = {Verdict.PASS: "green", Verdict.NOT_RUN: "yellow"}.get(self._result.verdict, "red")
        asked = config.option.collectonly or self._is_red(self._result)
        if self._result.verdict is Verdict.NOT_RUN and not asked:
            verdict += "; --memscan-strict makes this a failure"
        terminalreporter.write_line(verdict, **{colour: True, "bold": True})

    def _judge(self) -> RunResult:
        from pytest_memscan.policy_files import with_locations

        settings, today = self._settings, utc_today()
        checks = list(self._outcomes.values())
        found = [each for check in checks for each in waived_ids(check, settings.waivers, today)]
        return judge_run(
            [
                with_locations(check, policy_file=settings.policy_file, root=settings.rootdir)
                for check in checks
            ],
            required=settings.checks,
            checkpoint=_name(settings, checks),
            policy=dict(settings.sources),
            versions=_versions(),
            timings={name: round(seconds, 3) for name, seconds in self._seconds.items()},
            reason_not_run=self._reason_not_run(),
            not_scanned=not_scanned(settings.situation),
            waivers=states(settings.waivers, found, today),
        )

    def _reason_not_run(self) -> str:
        if self._config.option.collectonly:
            return "the checks were only collected"
        if self._selected - set(self._outcomes):
            return "the check was selected, but skipped or stopped before it ran"
        return "the check was deselected"

    def _is_red(self, result: RunResult) -> bool:
        """Whether the exit code must not be 0.

        A gate that was deselected on purpose is red only where that is asked for; one that was
        selected and did not run (skipped by somebody's conftest, say) always is.
        """
        if self._publisher.trouble:
            return True
        if result.verdict is not Verdict.NOT_RUN:
            return result.verdict is not Verdict.PASS
        if self._config.option.collectonly:
            return False
        return self._settings.strict or bool(self._selected - set(self._outcomes))


def _name(settings: Config, checks: Iterable[CheckOutcome]) -> str:
    """The checkpoint as people name it, with its commit once that is known."""
    for check in () if settings.concepts else checks:  # a set is named after its file
        if "checkpoint" in check.provenance:
            return check.provenance["checkpoint"]
    return settings.label


def _versions() -> dict[str, str]:
    """Versions that a reader of a report may ask for."""
    packages = ("pytest-memscan", "pytest", "torch", "diffusers", "transformers", "numpy", "pillow")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
