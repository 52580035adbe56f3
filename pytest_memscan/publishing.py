"""What a run leaves behind: reports, a baseline, evidence; all of them tell the same verdict."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_memscan.errors import MemscanError, OptionError, shown_path
from pytest_memscan.output_settings import FILE_NAMES
from pytest_memscan.results import RunResult, Verdict
from pytest_memscan.session import Session

if TYPE_CHECKING:
    from pytest_memscan.evidence.names import Names


class Publisher:
    """Writes what was asked for, once, at the end of a run.

    Attributes:
        written: What was written -> where, for people.
        trouble: What could not be; then the run is no pass.
        tracebacks: Of errors of ours.
    """

    def __init__(
        self, session: Session, *, scrub: Callable[[str], str], only_collects: bool
    ) -> None:
        self.written: dict[str, str] = {}
        self.trouble = ""
        self.tracebacks: list[str] = []
        self._outputs = session.config.outputs
        self._work_dir = session.work_dir
        self._session_id = session.session_id
        self._scrub = scrub
        self._only_collects = only_collects
        self._unwritable: set[str] = set()

    def write(self, result: RunResult) -> RunResult:
        """Write everything and return what was written: without its evidence, no pass."""
        from pytest_memscan.evidence.names import load_names, shown_texts

        names = load_names(self._work_dir)
        if self._outputs.show_prompts:
            result = replace(result, prompt_texts=shown_texts(result.checks, names))
        result = self._write_reports(result)
        is_kept = [self._save_baseline(result), self._write_evidence(result, names)]
        if not all(is_kept) and result.verdict is Verdict.PASS:
            result = self._write_reports(self._no_pass(result))
        return result

    def _write_reports(self, result: RunResult) -> RunResult:
        """Write every report that can be; all of them say the same, whatever became of one."""
        reports = self._outputs.reports
        # The verdict file is replaced last, so that a pass is never there before its evidence.
        for kind, path in sorted(reports, key=lambda report: report[0] == "json"):
            if kind in self._unwritable:
                continue
            try:
                self._write_report(kind, path, result)
            except Exception as error:  # one renderer must not take the others with it
                self._unwritable.add(kind)
                self.trouble = f"the {kind} report could not be written: {self._why(error)}"
                if self.written.pop(kind, ""):  # it says what no longer holds
                    with suppress(OSError):
                        path.unlink()
                if result.verdict is Verdict.PASS:
                    return self._write_reports(self._no_pass(result))
        return result

    def _write_report(self, kind: str, path: Path, result: RunResult) -> None:
        from pytest_memscan.reports.json import write_text_atomically
        from pytest_memscan.reports.picture_files import Pictures
        from pytest_memscan.reports.render import render

        pictures = Pictures.load(self._work_dir) if kind == "html" else None
        images = self._outputs.images
        text = render(kind, result, pictures=pictures, images=images)
        option = f"--memscan-report {kind}:PATH"
        write_text_atomically(path, self._scrub(text), option=option)
        self.written[kind] = f"{kind} report: {shown_path(path)}"

    def _why(self, error: Exception) -> str:
        if isinstance(error, OSError):  # its own text names private folders
            return error.strerror or type(error).__name__
        if isinstance(error, MemscanError):
            return str(error)
        self.tracebacks += traceback.format_exception(error)
        return f"unexpected {type(error).__name__}; please report it with its traceback"

    def _no_pass(self, result: RunResult) -> RunResult:
        return replace(result, verdict=Verdict.ERROR, sentence=self.trouble)

    def _save_baseline(self, result: RunResult) -> bool:
        """Whether it was saved, where that was asked for."""
        from pytest_memscan.baselines import save_baseline

        path = self._outputs.save_baseline
        if path is None or self._only_collects:
            return True
        try:
            save_baseline(result, path, scrub=self._scrub)
        except Exception as error:  # the verdict must still be taken back
            self.trouble = self.trouble or self._why(error)
            return False
        self.written["baseline"] = f"baseline saved: {shown_path(path)}"
        return True

    def _write_evidence(self, result: RunResult, names: Names) -> bool:
        """Likewise; where it is, is said on the terminal alone."""
        from pytest_memscan.evidence.folder import WARNING, write_evidence
        from pytest_memscan.reports.picture_files import Pictures

        folder = self._outputs.evidence
        if folder is None or self._only_collects:
            return True
        run = self._session_id
        try:
            pictures = Pictures.load(self._work_dir)
            own = write_evidence(folder, result, pictures, names, session_id=run)
        except Exception as error:  # likewise
            self.trouble = self.trouble or self._why(error)
            return False
        self.written["evidence"] = "evidence: none, since there is no finding to show"
        if own is not None:
            self.written |= {"evidence": f"evidence: {own}", "warning": WARNING}
        return True


def write_not_run(reports: Sequence[tuple[str, Path]], checkpoint: str, reason: str) -> None:
    """Write the verdict file before anything runs: whatever happens, it never says pass.

    Args:
        reports: Format and path; only the JSON report is written, older ones of other formats are
            removed; where it has its usual place, so are those that this run does not write.
        checkpoint: As people name it.
        reason: Why nothing was run, should nothing come after.

    Raises:
        OptionError: One of them cannot be written.
    """
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
                _remove_stale(path)
            else:
                path.unlink(missing_ok=True)
        except (MemscanError, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise OptionError(
                f"the report {shown_path(path)} cannot be written ({why}); choose another place "
                f"with --memscan-report {kind}:PATH"
            ) from None


def _remove_stale(verdict_file: Path) -> None:
    """Beside a verdict file in its usual place, what an earlier run said in other formats."""
    if (verdict_file.parent.name, verdict_file.name) == (".memscan", FILE_NAMES["json"]):
        for name in set(FILE_NAMES.values()) - {verdict_file.name}:
            stale = verdict_file.with_name(name)
            if stale.is_file():
                stale.unlink()
