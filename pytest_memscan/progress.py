"""Generation as it goes on: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_memscan.generation import Progress as GenerationProgress
    from pytest_memscan.generation import ProgressCallback

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def console_progress(config: pytest.Config, title: str) -> Iterator[ProgressCallback]:
    """Show generation on the terminal, around pytest's capture.

    Nothing is shown by an xdist worker (it has no terminal) or with ``-q``.
    """
    if hasattr(config, "workerinput") or config.get_verbosity() < 0:
        yield lambda _: None
        return
    capture: Any = config.pluginmanager.get_plugin("capturemanager")
    uncaptured = nullcontext if capture is None else capture.global_and_fixture_disabled
    if not _is_terminal(uncaptured):
        yield Lines(title, uncaptured)
        return
    with uncaptured():
        print()  # pytest's own line of dots is not finished
        yield from _bar(title)


def _is_terminal(uncaptured: Callable[[], AbstractContextManager[None]]) -> bool:
    with uncaptured():
        return sys.stdout.isatty()


def _bar(title: str) -> Iterator[ProgressCallback]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(show_speed=False),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as bar:
        task = bar.add_task(title, total=None, rate="")
        started, unit, done = time.monotonic(), "", 0

        def show(progress: GenerationProgress) -> None:
            nonlocal started, unit, done
            if progress.unit != unit or progress.done < done:  # other work, with a pace of its own
                started, unit = time.monotonic(), progress.unit
                bar.reset(task)
            done = progress.done
            rate = _rate(progress, started)
            about = f"{title}, {progress.unit}" if progress.unit != "images" else title
            bar.update(
                task, description=about, total=progress.total, completed=progress.done, rate=rate
            )

        yield show


class Lines:
    """One line at the start, then at most one every few seconds, and one at the end."""

    def __init__(
        self,
        title: str,
        uncaptured: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._title = title
        # For its own lines alone: what a scan prints besides is captured, and scrubbed.
        self._uncaptured = uncaptured
        self._started = time.monotonic()
        self._last = -SECONDS_BETWEEN_LINES
        self._unit = ""
        self._done = 0

    def __call__(self, progress: GenerationProgress) -> None:
        """Tell, if it is time to."""
        now = time.monotonic()
        # Other work, with a pace of its own.
        if progress.unit != self._unit or progress.done < self._done:
            self._unit, self._started, self._last = progress.unit, now, -SECONDS_BETWEEN_LINES
        self._done = progress.done
        finished = progress.done == progress.total
        if not finished and now - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = now
        left = _time_left(progress, self._started)
        text = f"{self._title}: {progress.done}/{progress.total} {progress.unit}"
        end = "\n" if finished else ""
        with self._uncaptured():
            print(f"\n{text}, {_rate(progress, self._started)}{left}", end=end, flush=True)


def _rate(progress: GenerationProgress, started: float) -> str:
    made = progress.done - progress.resumed
    if not made:
        return f"{progress.resumed} kept from before" if progress.resumed else "starting"
    counted = progress.unit.split()[0]
    return f"{made / max(1e-9, time.monotonic() - started):.1f} {counted}/s"


def _time_left(progress: GenerationProgress, started: float) -> str:
    made = progress.done - progress.resumed
    if not made or progress.done == progress.total:
        return ""
    seconds = (time.monotonic() - started) / made * (progress.total - progress.done)
    return f", {seconds:.0f} s left"
