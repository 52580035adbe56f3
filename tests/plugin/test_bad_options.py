"""Options that cannot be used are refused before anything is scanned or fetched."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from checkpoint_factory import save_tiny_checkpoint
from image_factory import save_images

from pytest_memscan.store import exclusive

from .conftest import Gate, read_report
from .test_bad_input import FAILED, check


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--memscan-fail=extracted is 0", ("--memscan-fail: 'extracted is 0'", "METRIC <= LIMIT")),
        ("--memscan-fail=ssim <= 0.1", ("unknown metric 'ssim'", "known: extracted")),
        ("--memscan-fail=ums_high <= 0.01", ("with 8 images", "--memscan-budget 299img")),
        ("--memscan-scans=inside", ("--memscan-scans: there is no scan 'inside'", "carlini")),
        ("--memscan-report=pdf", ("--memscan-report: 'pdf'", "available: json, html")),
        ("--memscan-report=html:.", ("--memscan-report", "is a folder", "name a file in it")),
        ("--memscan-report=html:file/x.html", (".html", "--memscan-report html:PATH")),
        ("--memscan-cache-dir=file/cache", ("cache folder", "--memscan-cache-dir DIR")),
        ("--memscan-config=none.toml", ("--memscan-config none.toml", "no such file")),
        ("--memscan-device=tpu", ("--memscan-device: 'tpu'", "auto, cpu, cuda")),
        ("--memscan-reach=12", ("--memscan-reach: 12 is not between 100 and",)),
        ("--memscan-reach=5000", ("--memscan-reach has no effect", "memscan::splitting needs")),
        ("--memscan-fail=extractable_images <= 0", ("cannot be judged", "on extracted or")),
        ("--memscan-seed=x", ("--memscan-seed: expected a whole number",)),
        ("memscan::carlino", ("memscan::carlino", "memscan::carlini")),
    ],
)
def test_an_option_is_named_with_what_would_do(
    gate: Gate, pytester: pytest.Pytester, option: str, words: tuple[str, ...]
) -> None:
    (pytester.path / "file").write_text("in the way of a folder")
    (pytester.path / ".memscan").mkdir()
    (pytester.path / ".memscan" / "report.json").write_text('{"verdict": "pass"}')
    check(gate("builtin:clean", option), pytester.path, *words)
    reason = read_report(pytester.path)["sentence"]
    assert all(word in reason for word in words)


def test_a_json_report_that_cannot_be_written_is_refused(
    gate: Gate, pytester: pytest.Pytester
) -> None:
    (pytester.path / "file").write_text("in the way of a folder")
    result = gate("builtin:clean", "--memscan-report=json:file/x.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*report file/x.json cannot be written*--memscan-report json:PATH*"]
    )
    assert not (pytester.path / ".memscan").exists()


def test_a_mistake_in_memscan_toml_is_named(gate: Gate, pytester: pytest.Pytester) -> None:
    (pytester.path / "memscan.toml").write_text("seed = true\n")
    check(gate("builtin:clean"), pytester.path, "memscan.toml: seed: expected a whole number")


def test_an_option_without_memscan_is_refused(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_inprocess("--memscan-seed=3")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--memscan-seed has no effect without --memscan MODEL*"])


@pytest.mark.parametrize("device", ["cuda", "cuda:7"])
def test_a_gpu_that_is_not_there_is_never_replaced(
    gate: Gate, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    subprocess = True  # CUDA reads the variable once
    result = gate("builtin:clean", f"--memscan-device={device}", subprocess=subprocess)
    result.assert_outcomes(errors=4)
    words = (f"--memscan-device {device}", "sees no CUDA GPU", "use --memscan-device cpu")
    check(result, pytester.path, *words, code=FAILED)


def test_two_runs_never_share_generated_images(
    gate: Gate, pytester: pytest.Pytester, tmp_path: Path
) -> None:
    model = save_tiny_checkpoint(tmp_path / "model")
    images = save_images(tmp_path / "images")
    arguments = (
        str(model),
        f"--memscan-train-data={images}",
        f"--memscan-cache-dir={tmp_path}",
    )
    gate(*arguments)
    (store,) = (tmp_path / "generated").iterdir()
    locked, finished = threading.Event(), threading.Event()

    def hold() -> None:
        with exclusive(store, session="another run"):
            locked.set()
            finished.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert locked.wait(10)
        result = gate(*arguments)
    finally:
        finished.set()
        holder.join()
    words = ("another memscan run is using", "--memscan-cache-dir DIR or --memscan-no-cache")
    check(result, pytester.path, *words, code=FAILED)
