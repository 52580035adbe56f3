"""What a log says while a scan goes on."""

from __future__ import annotations

import pytest

from pytest_memscan.generation import Progress
from pytest_memscan.progress import Lines


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("pytest_memscan.progress.time.monotonic", lambda: now[0])
    return now


def told(lines: Lines, done: int, total: int, unit: str = "images") -> None:
    lines(Progress(done=done, total=total, resumed=0, unit=unit))


def test_every_piece_of_work_has_a_pace_of_its_own(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = Lines("side")
    told(lines, 0, 100)
    clock[0] += 10
    told(lines, 100, 100)
    assert "100/100 images, 10.0 images/s" in capsys.readouterr().out
    clock[0] += 1000  # something else goes on, and then images are made again
    told(lines, 0, 100)
    clock[0] += 20
    told(lines, 50, 100)
    assert "50/100 images, 2.5 images/s, 20 s left" in capsys.readouterr().out


def test_a_line_comes_now_and_then(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines("x")
    for done in range(60):
        told(lines, done, 1000)
        clock[0] += 1
    assert capsys.readouterr().out.count("images/s") <= 6
