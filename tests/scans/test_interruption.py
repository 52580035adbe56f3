"""A scan that is killed at any point says not_run, and goes on where it stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

COMMAND = (
    *(sys.executable, "-m", "pytest", "--memscan", "builtin:leaky", "-q"),
    *("--memscan-budget=48img", "--memscan-steps=20", "--memscan-batch-size=8"),
    *("--memscan-fail", "extracted <= 0", "--memscan-scans=carlini"),
)
NUM_IMAGES = 48
LONGEST = 120.0  # seconds that a step of a run may take on a busy machine


def start(folder: Path) -> subprocess.Popen[bytes]:
    """The scan as a user starts it, in `folder`, with a cache of its own."""
    folder.mkdir(exist_ok=True)
    command = [*COMMAND, f"--memscan-cache-dir={folder / 'cache'}"]
    # A group of its own: what the terminal's Ctrl-C reaches. A shell that runs the tests in the
    # background has them ignore it, and so would the scan.
    return subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_mind_ctrl_c,
    )


def _mind_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(folder: Path) -> int:
    """Run the scan to its end and return its exit code."""
    return start(folder).wait(LONGEST)


def report(folder: Path) -> dict[str, Any]:
    """The verdict file, without what is not reproducible."""
    content = json.loads((folder / ".memscan" / "report.json").read_text())
    del content["timings"]
    return content


def images(folder: Path) -> dict[str, bytes]:
    """Every generated image."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*.png")
    }


def times(folder: Path) -> dict[str, int]:
    """When every generated image was written."""
    return {file.name: file.stat().st_mtime_ns for file in folder.rglob("*.png")}


def wait_until(run: subprocess.Popen[bytes], condition: Callable[[], bool]) -> None:
    """Let the scan go on until something has happened."""
    end = time.monotonic() + LONGEST
    while run.poll() is None and not condition():
        assert time.monotonic() < end, "the scan did not get that far"
        time.sleep(0.01)


def stop(run: subprocess.Popen[bytes], how: signal.Signals) -> int:
    """Send a signal and return the exit code."""
    run.send_signal(how)
    return run.wait(LONGEST)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished scan."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert finish(folder) == pytest.ExitCode.TESTS_FAILED
    assert report(folder)["verdict"] == "fail"
    assert len(images(folder)) >= NUM_IMAGES
    return folder


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is needed")
def test_after_any_kills_the_same_command_ends_with_the_same_report_and_images(
    uninterrupted: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(5)
    kept = 0
    # At the start of the process, then each time a few images further.
    for target in (0, 0, 8, 16, 40):
        run = start(tmp_path)
        verdict_file = tmp_path / ".memscan" / "report.json"
        wait_until(run, verdict_file.exists)
        if target:
            wait_until(run, lambda target=target: len(images(tmp_path)) >= target)
        time.sleep(rng.uniform(0, 1 if target else 4))
        assert stop(run, signal.SIGKILL) == -signal.SIGKILL
        assert report(tmp_path)["verdict"] == "not_run"
        assert len(images(tmp_path)) >= max(kept, target)
        kept = len(images(tmp_path))
    assert finish(tmp_path) == pytest.ExitCode.TESTS_FAILED
    assert report(tmp_path) == report(uninterrupted)
    assert images(tmp_path) == images(uninterrupted)


def test_a_second_identical_run_generates_nothing(uninterrupted: Path) -> None:
    before, first = times(uninterrupted), report(uninterrupted)
    assert finish(uninterrupted) == pytest.ExitCode.TESTS_FAILED
    assert times(uninterrupted) == before
    assert report(uninterrupted) == first


@pytest.mark.skipif(os.name != "posix", reason="SIGINT to another process is needed")
def test_an_interrupted_scan_ends_with_exit_code_2_and_goes_on_later(
    uninterrupted: Path, tmp_path: Path
) -> None:
    run = start(tmp_path)
    wait_until(run, lambda: len(images(tmp_path)) >= 8)
    assert stop(run, signal.SIGINT) == pytest.ExitCode.INTERRUPTED
    assert report(tmp_path)["verdict"] == "not_run"
    committed = times(tmp_path)
    assert 8 <= len(committed) < NUM_IMAGES
    assert finish(tmp_path) == pytest.ExitCode.TESTS_FAILED
    # The last batch may have been on its way.
    unchanged = [name for name, made in times(tmp_path).items() if committed.get(name) == made]
    assert len(unchanged) >= len(committed) - 8
    assert report(tmp_path) == report(uninterrupted)
    assert images(tmp_path) == images(uninterrupted)
