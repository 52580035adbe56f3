"""Everything that pytest prints, records or sends goes through here before anybody reads it.

Reports are scrubbed where they are made, so that nothing private leaves an xdist worker, and
again before they are shown or written, since plugins may add to them in between. What a plugin
prints of its own goes through pytest's writer. A process that writes to its file descriptors
itself (``print`` under ``-s``, a crash of the interpreter) is out of reach.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator
from typing import Any

import pytest

from pytest_memscan.privacy.scrubber import Scrubber

SCRUBBER: pytest.StashKey[Scrubber] = pytest.StashKey()  # for what is written to shared files
_WRITERS = ("write", "write_raw")
_TEXTS_OF_REPORTS = ("wasxfail", "memscan_outcome")  # besides those that every report has


class Privacy:
    """Registered with ``--memscan`` in every process."""

    def __init__(self, scrubber: Scrubber) -> None:
        self._scrub = scrubber.scrub
        self._is_worker = False

    def pytest_configure(self, config: pytest.Config) -> None:
        """Learn which process this is."""
        self._is_worker = hasattr(config, "workerinput")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """What a test failed with, what it printed and logged, and its properties."""
        report = yield
        self._clean(report)
        return report

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_make_collect_report(
        self,
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """What a file could not be collected for."""
        report = yield
        self._clean(report)
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """What plugins added since, and the id, which holds what a test is parametrized with."""
        self._clean(report)
        if not self._is_worker:  # there xdist still knows the test by it
            report.nodeid = self._scrub(report.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Likewise."""
        self._clean(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_internalerror(self, excrepr: object) -> None:
        """A traceback of pytest or a plugin; with ``-l`` it shows the values of variables."""
        _clean_in_place(excrepr, self._scrub)

    @pytest.hookimpl(tryfirst=True)
    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage) -> None:
        """A warning of the summary."""
        message = warning_message.message
        text = str(message)
        if (clean := self._scrub(text)) != text:
            warning_message.message = UserWarning(clean)
            if type(message).__str__ is BaseException.__str__:
                message.args = tuple(  # type: ignore[union-attr]
                    self._scrub(each) if isinstance(each, str) else each
                    for each in message.args  # type: ignore[union-attr]
                )
                if str(message) == clean:  # of its own class, which filters and readers know
                    warning_message.message = message
        warning_message.filename = self._scrub(warning_message.filename)

    def pytest_plugin_registered(self, plugin: object, plugin_name: str) -> None:
        """Pytest's writer, and the file of ``--log-file``, from the moment they are there."""
        if plugin_name == "terminalreporter":
            writer = getattr(plugin, "_tw", None)  # there is no public way to it
            for name in _WRITERS:
                if hasattr(writer, name):
                    _scrub_first(writer, name, self._scrub)
        handler = getattr(plugin, "log_file_handler", None)
        if plugin_name == "logging-plugin" and handler is not None:
            _scrub_after(handler, "format", self._scrub)

    def _clean(self, report: Any) -> None:
        report.longrepr = _clean_longrepr(report.longrepr, self._scrub)
        report.sections = [
            (self._scrub(name), self._scrub(content)) for name, content in report.sections
        ]
        if hasattr(report, "user_properties"):
            report.user_properties = [
                (name, self._scrub(value) if isinstance(value, str) else value)
                for name, value in report.user_properties
            ]
        for name in _TEXTS_OF_REPORTS:
            if isinstance(text := getattr(report, name, None), str):
                setattr(report, name, self._scrub(text))


def _clean_longrepr(longrepr: Any, scrub: Callable[[str], str]) -> Any:
    """Of any kind that pytest knows: a text, a place with a reason, a traceback."""
    if longrepr is None:
        return None
    if isinstance(longrepr, str):
        return scrub(longrepr)
    if isinstance(longrepr, tuple):  # (path, line, reason) of a skip
        return tuple(scrub(each) if isinstance(each, str) else each for each in longrepr)
    _clean_in_place(longrepr, scrub)
    text = str(longrepr)
    return longrepr if scrub(text) == text else scrub(text)


def _clean_in_place(value: object, scrub: Callable[[str], str]) -> None:
    """Every text in a traceback, which keeps its form and colours."""
    seen: set[int] = set()

    def cleaned(each: Any) -> Any:
        if isinstance(each, str):
            return scrub(each)
        if type(each) in (list, tuple):
            return type(each)(map(cleaned, each))
        if type(each).__module__.startswith("_pytest.") and id(each) not in seen:
            seen.add(id(each))
            for name, inner in list(getattr(each, "__dict__", {}).items()):
                new = cleaned(inner)
                if new is not inner and new != inner:
                    object.__setattr__(each, name, new)
        return each

    cleaned(value)


def _scrub_first(owner: Any, name: str, scrub: Callable[[str], str]) -> None:
    """Let a writer of texts write them without what is private."""
    write = getattr(owner, name)

    def write_clean(text: str, *args: Any, **kwargs: Any) -> Any:
        return write(scrub(text), *args, **kwargs)

    setattr(owner, name, write_clean)


def _scrub_after(owner: Any, name: str, scrub: Callable[[str], str]) -> None:
    """Let a maker of texts give them without what is private."""
    make = getattr(owner, name)

    def make_clean(*args: Any, **kwargs: Any) -> str:
        return scrub(make(*args, **kwargs))

    setattr(owner, name, make_clean)
