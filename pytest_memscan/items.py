"""The collected gate: ``memscan::integrity``, ``memscan::carlini``, ``memscan::status``.

The items come from a virtual file, so that they behave like any other test: they can be
selected, deselected, listed and run again. Each one's outcome travels with its report, through
xdist too; `controller.Controller` turns the outcomes into the verdict.
"""

from __future__ import annotations

import uuid
from collections.abc import Generator, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pytest_memscan.config import Config, resolve_config
from pytest_memscan.errors import MemscanError, OptionError
from pytest_memscan.progress import console_progress
from pytest_memscan.results import CheckOutcome, Verdict
from pytest_memscan.session import CHECKS, Session, default_cache_dir_is_writable

SESSION: pytest.StashKey[Session] = pytest.StashKey()
_OUTCOME: pytest.StashKey[CheckOutcome] = pytest.StashKey()
FILE_NAME = "memscan"
SETTINGS = [
    "train_data",
    "holdout",
    "scans",
    "fail",
    "budget",
    "steps",
    "seed",
    "device",
    "dtype",
    "batch_size",
    "cache_dir",
    "report",
    "images",
    "config",
    "only",
    "offline",
    "no_cache",
    "strict",
]


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
        outcome = self.config.stash[SESSION].check(self.name)
        self.stash[_OUTCOME] = outcome
        self.user_properties += list(_properties(outcome))
        if outcome.verdict in (Verdict.ERROR, Verdict.NOT_RUN):
            raise GateError(f"memscan: {outcome.verdict}: {outcome.sentence}")

    def runtest(self) -> None:
        """Pass, or say what was measured."""
        outcome = self.stash[_OUTCOME]
        if outcome.verdict is not Verdict.PASS:
            raise GateError(f"memscan: {outcome.verdict}: {outcome.sentence}")

    def repr_failure(
        self,
        excinfo: pytest.ExceptionInfo[BaseException],
        style: Any = None,
    ) -> Any:
        """The sentence alone; a traceback only for what nobody expected."""
        if isinstance(excinfo.value, GateError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style=style)

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
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Let the outcome travel with the report, as text, since workers can only send text."""
        report = yield
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


def activate(config: pytest.Config) -> None:
    """Check everything that can be checked now, and add the gate to this run.

    Raises:
        pytest.UsageError: An option or policy value cannot be used.
    """
    option = config.option
    workerinput = getattr(config, "workerinput", None)
    is_worker = workerinput is not None
    session_id = workerinput["memscan_session"] if workerinput else uuid.uuid4().hex
    option.memscan_selected = _take_gate_ids(config)
    if option.memscan_only:
        config.args[:] = []
    try:
        settings = _settings(config)
        if not is_worker:
            _check_inputs(settings, config)
    except MemscanError as error:
        raise pytest.UsageError(f"memscan: {error}") from None
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
    values = {name: getattr(config.option, f"memscan_{name}") for name in SETTINGS}
    return resolve_config(
        {"model": config.option.memscan, **values},
        ini={
            name: config.getini(f"memscan_{name}")
            for name in ("fail", "report", "cache_dir", "strict")
        },
        rootdir=_home(config),
        invocation_dir=config.invocation_params.dir,
    )


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

    write_not_run(settings, "the run did not get to its end")
    check_spec(settings.model)
    if config.option.collectonly:
        return
    _check_train_data(settings)
    default_cache_dir_is_writable(settings.cache_dir)


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
    for argument in [arg for arg in config.args if arg.partition("::")[0] == FILE_NAME]:
        name = argument.partition("::")[2]
        if not name and (config.invocation_params.dir / FILE_NAME).exists():
            continue
        if name and name not in CHECKS:
            known = ", ".join(f"{FILE_NAME}::{check}" for check in CHECKS)
            raise pytest.UsageError(f"memscan: there is no {argument}; there are {known}")
        names += [name] if name else CHECKS
        config.args.remove(argument)
    return names


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
