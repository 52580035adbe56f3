"""The collected gate: ``memscan::integrity``, ``memscan::carlini``, ``memscan::status``.

The items come from a virtual file, so that they behave like any other test: they can be
selected, deselected, listed and run again. Each one's outcome travels with its report, through
xdist too; `controller.Controller` turns the outcomes into the verdict.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pytest_memscan.config import (
    INI_KEYS,
    TOML_KEYS,
    Config,
    checkpoint_label,
    json_report_path,
    resolve_config,
)
from pytest_memscan.errors import MemscanError, OptionError, shown_path
from pytest_memscan.progress import console_progress
from pytest_memscan.reports.text import sentence_lines
from pytest_memscan.results import CheckOutcome, Verdict
from pytest_memscan.session import CHECKS, Session

SESSION: pytest.StashKey[Session] = pytest.StashKey()
_OUTCOME: pytest.StashKey[CheckOutcome] = pytest.StashKey()
FILE_NAME = "memscan"
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
SETTINGS = (*TOML_KEYS, "config", "no_cache")


class GateError(Exception):
    """A check that did not pass; its message is all that is shown."""


class MemscanFile(pytest.File):
    """Stands for the gate; there is no such file."""

    def collect(self) -> Iterator[MemscanItem]:
        """One item for each check, or those asked for by id."""
        for name in self.config.option.memscan_selected or CHECKS:
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
        self.user_properties += list(_properties(outcome))
        if self.name in session.crashes:
            raise session.crashes[self.name]
        if outcome.verdict in (Verdict.ERROR, Verdict.NOT_RUN):
            raise GateError(_message(outcome))

    def runtest(self) -> None:
        """Pass, or say what was measured."""
        outcome = self.stash[_OUTCOME]
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
        keep_private(report, item.config)
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


def keep_private(report: pytest.TestReport, config: pytest.Config) -> None:
    """Take tokens, and where the training images are, out of what a failure shows."""
    settings = config.stash[SESSION].config
    private = {os.environ.get(name, ""): "(token)" for name in TOKENS}
    for path in (settings.train_data, settings.holdout, settings.cache_dir):
        private |= {"": ""} if path is None else {str(path): shown_path(path)}

    def hide(text: str) -> str:
        # The longest first: one folder may lie in another.
        for secret in sorted(filter(None, private), key=len, reverse=True):
            text = text.replace(secret, private[secret])
        return text

    if report.failed and (text := str(report.longrepr)) != hide(text):
        report.longrepr = hide(text)
    report.sections = [(name, hide(text)) for name, text in report.sections]


def activate(config: pytest.Config) -> None:
    """Check everything that can be checked now, and add the gate to this run.

    Raises:
        pytest.UsageError: An option or policy value cannot be used.
    """
    option = config.option
    workerinput = getattr(config, "workerinput", None)
    is_worker = workerinput is not None
    session_id = workerinput["memscan_session"] if workerinput else uuid.uuid4().hex
    try:
        option.memscan_selected = _take_gate_ids(config)
        settings = _settings(config)
        if not is_worker:
            _check_inputs(settings, config)
    except MemscanError as error:
        text = " ".join(sentence_lines(str(error)))
        if not is_worker:
            _replace_verdict(config, text)
        raise pytest.UsageError(f"memscan: {text}") from None
    if option.memscan_only:
        config.args[:] = []
    # Threads that spin long while they wait stall a scan as soon as anything else, such as another
    # xdist worker, needs their core. OpenMP reads this when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    session = Session(
        config=settings,
        session_id=session_id,
        progress=partial(console_progress, config),
    )
    config.stash[SESSION] = session
    config.pluginmanager.register(Collection(), "memscan-collection")
    config.pluginmanager.register(FileCollection(), "memscan-file")
    if not is_worker:
        from pytest_memscan.controller import Controller

        config.pluginmanager.register(Controller(config, session), "memscan-controller")


def _settings(config: pytest.Config) -> Config:
    return resolve_config(**_given(config))


def _given(config: pytest.Config) -> dict[str, Any]:
    values = {name: getattr(config.option, f"memscan_{name}") for name in SETTINGS}
    return {
        "options": {"model": config.option.memscan, **values},
        "ini": {name: config.getini(f"memscan_{name}") for name in INI_KEYS},
        "rootdir": _home(config),
        "invocation_dir": config.invocation_params.dir,
    }


def _replace_verdict(config: pytest.Config, reason: str) -> None:
    """A pass of an earlier run must not outlive one that could not start."""
    from pytest_memscan.controller import write_not_run

    path = json_report_path(**_given(config))
    with suppress(OptionError):  # said already, or less important than what was wrong first
        write_not_run((("json", path),), checkpoint_label(config.option.memscan), reason)


def _home(config: pytest.Config) -> Path:
    """Where the policy file is looked for and reports go.

    pytest takes the paths in ``--memscan PATH`` for arguments when it looks for its rootdir.
    Without an ini file that may be the checkpoint's own folder, or one far above both.
    """
    started_in = config.invocation_params.dir
    configured = config.inipath is not None and started_in.is_relative_to(config.rootpath)
    return config.rootpath if configured else started_in


def _check_inputs(settings: Config, config: pytest.Config) -> None:
    """What can be found wrong without network or torch is a usage error, before anything runs."""
    from pytest_memscan.checkpoints.resolve import check_spec
    from pytest_memscan.controller import write_not_run

    write_not_run(settings.reports, settings.label, "the run did not get to its end")
    check_spec(settings.model)
    if config.option.collectonly:
        return
    _check_train_data(settings)
    _check_cache_dir(settings.cache_dir)


def _check_cache_dir(path: Path) -> None:
    """Find out before a scan whether its images can be kept.

    Raises:
        OptionError: Names the option that moves the cache.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise OptionError(
            f"the cache folder cannot be written ({error.strerror}); choose another with "
            "--memscan-cache-dir DIR or MEMSCAN_CACHE_DIR"
        ) from None


def _check_train_data(settings: Config) -> None:
    from pytest_memscan.data.images import list_images

    for option, path in (("train-data", settings.train_data), ("holdout", settings.holdout)):
        if path is not None:
            try:
                list_images(path)
            except MemscanError as error:
                raise OptionError(f"--memscan-{option}: {error}") from None
    if settings.train_data is None and not settings.model.startswith("builtin:"):
        raise OptionError(
            "no training images to compare with; pass --memscan-train-data DIR "
            "(PNG, JPEG or WebP, searched in subfolders)"
        )


def _take_gate_ids(config: pytest.Config) -> list[str]:
    """Remove ``memscan::carlini`` and the like from the arguments and return their names."""
    names: list[str] = []
    started_in, file = config.invocation_params.dir, config.rootpath / FILE_NAME
    for argument in list(config.args):
        path, _, name = argument.partition("::")
        # pytest prints ids relative to where it was started: ../memscan::carlini
        if path != FILE_NAME and os.path.normpath(started_in / path) != str(file):
            continue
        if not name and (started_in / path).exists():
            continue
        if name and name not in CHECKS:
            known = ", ".join(f"{FILE_NAME}::{check}" for check in CHECKS)
            raise OptionError(f"there is no {argument}; there are {known}")
        names += [name] if name else CHECKS
        config.args.remove(argument)
    return list(dict.fromkeys(names))


def _message(outcome: CheckOutcome) -> str:
    """The verdict and its sentence; names of files in it cannot steer a terminal or a CI log."""
    return f"memscan: {outcome.verdict}: " + "\n".join(sentence_lines(outcome.sentence))


def _properties(outcome: CheckOutcome) -> Iterable[tuple[str, str | float]]:
    """Metrics for JUnit and other reporters."""
    yield "memscan.verdict", str(outcome.verdict)
    if outcome.scan is None:
        return
    for name, estimate in outcome.scan.metrics.items():
        yield f"memscan.{name}", estimate.value
        yield f"memscan.{name}.lower", estimate.lower
        yield f"memscan.{name}.upper", estimate.upper
    yield "memscan.images", outcome.scan.coverage.valid
