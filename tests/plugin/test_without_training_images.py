"""An unconditional checkpoint and nothing to compare with: it can fail, and hardly ever pass."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from .conftest import read_report
from .t2i import FIXTURES

QUICK = ("--memscan-budget=64img", "--memscan-steps=10", "--memscan-batch-size=32")
IDS = ("integrity", "repeats", "status")


def without_images(name: str, folder: Path) -> str:
    """A builtin checkpoint as somebody else's, who keeps the training images to themselves."""
    ignored = shutil.ignore_patterns("train_images.safetensors")
    return str(shutil.copytree(FIXTURES / name, folder / name, ignore=ignored))


def verdicts(folder: Path) -> dict[str, str]:
    return {check["name"]: check["verdict"] for check in read_report(folder)["checks"]}


def test_a_leaky_checkpoint_fails_by_what_it_repeats(
    pytester: pytest.Pytester, tmp_path: Path
) -> None:
    model = without_images("leaky", tmp_path)
    enough = "--memscan-budget=320img"  # each of its images makes up a few per cent
    result = pytester.runpytest_inprocess("--memscan", model, *QUICK, enough)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert verdicts(pytester.path) == dict(zip(IDS, ("pass", "fail", "pass"), strict=True))
    result.stdout.fnmatch_lines(["memscan: fail: repeated_groups is *, over the limit of 0"])


@pytest.mark.parametrize(
    ("line", "code", "verdict"), [("", 1, "inconclusive"), ("repeated_groups <= 0", 0, "pass")]
)
def test_a_clean_checkpoint_passes_only_where_that_is_all_that_is_asked_for(
    pytester: pytest.Pytester, tmp_path: Path, line: str, code: int, verdict: str
) -> None:
    model = without_images("clean", tmp_path)
    policy = (f"--memscan-fail={line}",) if line else ()
    result = pytester.runpytest_inprocess("--memscan", model, *QUICK, *policy)
    assert result.ret == code
    assert read_report(pytester.path)["verdict"] == verdict
    assert verdicts(pytester.path)["repeats"] == verdict
    if not line:
        result.stdout.fnmatch_lines(["*Without training images*--memscan-train-data*"])
