"""What the process in charge does: gather outcomes, decide the verdict, write the reports."""

from __future__ import annotations

import platform
import tempfile
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_memscan.checks import not_scanned
from pytest_memscan.config import Config
from pytest_memscan.errors import MemscanError, shown_path
from pytest_memscan.gate import judge_run, waived_ids
from pytest_memscan.privacy.hooks import SCRUBBER
from pytest_memscan.results import CheckOutcome, RunResult, Verdict
from pytest_memscan.session import Session
from pytest_memscan.waivers import states, utc_today

if TYPE_CHECKING:
    from pytest_memscan.evidence.names import Names


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
        self._written: dict[str, str] = {}  # what was -> where
        self._unwritable: set[str] = set()
        self._trouble = ""
        self._tracebacks: list[str] = []

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
        self._outcomes[outcome.name] = outcome
        seconds = self._seconds.get(outcome.name, 0.0) + report.duration
        self._seconds[outcome.name] = seconds

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> object:
        """Decide, write, and make the exit code agree with the verdict."""
        self._result = self._write(self._judge())
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
        for line in [*lines, *(self._written.values() if verbosity >= 0 else ())]:
            terminalreporter.write_line(line)
        for text in self._tracebacks:
            terminalreporter.write(text)
        if self._trouble:
            terminalreporter.write_line(f"memscan: {self._trouble}", red=True)
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
            required=self._settings.checks,
            checkpoint=_name(self._settings, self._outcomes.values()),
            policy=dict(self._settings.sources),
            versions=_versions(),
            timings={name: round(seconds, 3) for name, seconds in self._seconds.items()},
            reason_not_run=self._reason_not_run(),
            not_scanned=not_scanned(self._settings.situation),
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
        if self._trouble:
            return True
        if result.verdict is not Verdict.NOT_RUN:
            return result.verdict is not Verdict.PASS
        if self._config.option.collectonly:
            return False
        return self._settings.strict or bool(self._selected - set(self._outcomes))

    def _write(self, result: RunResult) -> RunResult:
        """Write everything and return what was written: without its evidence, no pass."""
        from pytest_memscan.evidence.names import load_names, shown_texts

        names = load_names(self._session.work_dir)
        if self._settings.outputs.show_prompts:
            result = replace(result, prompt_texts=shown_texts(result.checks, names))
        result = self._write_reports(result)
        is_kept = [self._save_baseline(result), self._write_evidence(result, names)]
        if not all(is_kept) and result.verdict is Verdict.PASS:
            result = self._write_reports(self._no_pass(result))
        return result

    def _write_reports(self, result: RunResult) -> RunResult:
        """Write every report that can be; all of them say the same, whatever became of one."""
        reports = self._settings.outputs.reports
        # The verdict file is replaced last, so that a pass is never there before its evidence.
        for kind, path in sorted(reports, key=lambda report: report[0] == "json"):
            if kind in self._unwritable:
                continue
            try:
                self._write_report(kind, path, result)
            except Exception as error:  # one renderer must not take the others with it
                self._unwritable.add(kind)
                self._trouble = f"the {kind} report could not be written: {self._why(error)}"
                if result.verdict is Verdict.PASS:
                    return self._write_reports(self._no_pass(result))
        return result

    def _write_report(self, kind: str, path: Path, result: RunResult) -> None:
        from pytest_memscan.reports.json import write_text_atomically
        from pytest_memscan.reports.picture_files import Pictures
        from pytest_memscan.reports.render import render

        pictures = Pictures.load(self._session.work_dir) if kind == "html" else None
        images = self._settings.outputs.images
        text = render(kind, result, pictures=pictures, images=images)
        write_text_atomically(path, self._scrub(text))
        self._written[kind] = f"{kind} report: {shown_path(path)}"

    def _why(self, error: Exception) -> str:
        if isinstance(error, MemscanError | OSError):
            return str(error)
        self._tracebacks += traceback.format_exception(error)
        return f"unexpected {type(error).__name__}; please report it with its traceback"

    def _no_pass(self, result: RunResult) -> RunResult:
        return replace(result, verdict=Verdict.ERROR, sentence=self._trouble)

    def _save_baseline(self, result: RunResult) -> bool:
        """Whether it was saved, where that was asked for."""
        from pytest_memscan.baselines import save_baseline

        path = self._settings.outputs.save_baseline
        if path is None or self._config.option.collectonly:
            return True
        try:
            save_baseline(result, path, scrub=self._scrub)
        except MemscanError as error:
            self._trouble = self._trouble or str(error)
            return False
        self._written["baseline"] = f"baseline saved: {shown_path(path)}"
        return True

    def _write_evidence(self, result: RunResult, names: Names) -> bool:
        """Likewise; where it is, is said on the terminal alone."""
        from pytest_memscan.evidence.folder import WARNING, write_evidence
        from pytest_memscan.reports.picture_files import Pictures

        folder = self._settings.outputs.evidence
        if folder is None or self._config.option.collectonly:
            return True
        pictures = Pictures.load(self._session.work_dir)
        run = self._session.session_id
        try:
            own = write_evidence(folder, result, pictures, names, session_id=run)
        except MemscanError as error:
            self._trouble = self._trouble or str(error)
            return False
        self._written["evidence"] = "evidence: none, since nothing was found"
        if own is not None:
            self._written |= {"evidence": f"evidence: {own}", "warning": WARNING}
        return True

    @property
    def _scrub(self) -> Callable[[str], str]:
        return self._config.stash[SCRUBBER].scrub


def write_not_run(reports: Sequence[tuple[str, Path]], checkpoint: str, reason: str) -> None:
    """Write the verdict file before anything runs: whatever happens, it never says pass.

    Args:
        reports: Format and path; only the JSON report is written, an older HTML one removed.
        checkpoint: As people name it.
        reason: Why nothing was run, should nothing come after.

    Raises:
        OptionError: One of them cannot be written.
    """
    from pytest_memscan.errors import OptionError
    from pytest_memscan.reports.json import not_run_report, to_json, write_text_atomically

    for kind, path in reports:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path.parent):
                pass
            if path.parent.name == ".memscan":
                (path.parent / ".gitignore").write_text("*\n", encoding="utf-8")
            if kind == "json":
                write_text_atomically(path, to_json(not_run_report(checkpoint, reason)))
            else:
                path.unlink(missing_ok=True)
        except (MemscanError, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise OptionError(
                f"the report {shown_path(path)} cannot be written ({why}); choose another place "
                f"with --memscan-report {kind}:PATH"
            ) from None


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
