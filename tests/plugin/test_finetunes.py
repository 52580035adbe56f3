"""`pytest --memscan FINE-TUNE --memscan-base BASE`: what it does, and what it says of it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

# pytester forgets modules that a run inside this process imported; torch cannot be imported twice.
import diffusers.loaders.single_file
import peft
import pytest

from pytest_memscan.store import exclusive

from .conftest import PRELOADED as PRELOADED_BY_ALL
from .finetunes import (
    CAPTION,
    FULL,
    IDS,
    QUICK,
    WITH_BASE,
    scan_again,
    write_images,
)
from .t2i import Run

PRELOADED = (*PRELOADED_BY_ALL, diffusers, peft)
OK, FAILED = pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED
MODEL = "builtin:leaky-t2i-full"
OWN_TESTS = """
    import pytest
    from pytest_memscan.errors import MemscanError

    def test_measured(memscan):
        found = memscan.finextract()
        assert 0 <= found.esr(0.7).value <= found.esr(0.6).value <= 1
        assert found.esr().num_trials == found.average_similarity("cfg").num_trials == 10
        assert found.copied.value >= found.extracted.value
        with pytest.raises(MemscanError, match="at 0.7 and 0.6, not at 0.5"):
            found.esr(0.5)
        with pytest.raises(MemscanError, match="only measured without training images"):
            found.candidates

    def test_base(memscan_base, memscan_checkpoint):
        assert memscan_base.label == "builtin:clean-t2i" != memscan_checkpoint.label

    def test_result(memscan_result):
        assert memscan_result.average_similarity("direct").value > 2  # never
    """

Again = Callable[..., Run]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("finetune-cache")


@pytest.fixture
def again(pytester: pytest.Pytester, cache: Path) -> Again:
    """A run in this process; images of earlier runs are used."""
    return partial(scan_again, pytester, cache)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Run:
    """The full fine-tune by two processes, with tests of one's own."""
    folder = tmp_path_factory.mktemp("full")
    (folder / "test_own.py").write_text("\n".join(x[4:] for x in OWN_TESTS.splitlines()))
    command = (MODEL, WITH_BASE, f"--memscan-cache-dir={cache}", *QUICK, "-n2", "-vv", "-rA")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--memscan", *command, "--junitxml=junit.xml"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    return Run(folder=folder, code=done.returncode, output=done.stdout + done.stderr)


def test_two_processes_make_one_scan(full: Run, cache: Path) -> None:
    assert full.code == FAILED  # of one of the tests below
    assert tuple(full.verdicts) == IDS
    assert full.verdicts == dict.fromkeys(IDS, "pass")
    (concept,) = full.checks["finextract"]["finetunes"]["concepts"]
    assert [each["method"] for each in concept["methods"]] == ["direct", "cfg", "finextract"]
    assert concept["images"]["generated"] == concept["images"]["valid"] == 4 * 20
    assert len(list(cache.rglob("finetunes/**/*.png"))) == 4 * 20


def test_tests_of_ones_own_ask_for_the_numbers(full: Run) -> None:
    for name, outcome in (("measured", "PASSED"), ("base", "PASSED"), ("result", "FAILED")):
        assert f"{outcome} test_own.py::test_{name}" in full.output
    assert "> 2" in full.output


def test_the_pair_and_the_captions_are_named(full: Run) -> None:
    text = " ".join(full.output.split())
    assert "base builtin:clean-t2i (--memscan-base)" in text
    assert "full fine-tune of builtin:clean-t2i (known from --memscan-base)" in text
    fit = full.checks["finextract"]["finetunes"]["concepts"][0]["fit"]
    assert (fit["kind"], fit["parts"], fit["warning"]) == ("full", ["unet"], "")
    provenance = full.checks["finextract"]["finetunes"]["provenance"]
    assert provenance["batch size"] == "10"
    assert provenance["base"] == "builtin:clean-t2i"
    assert provenance["methods"] == (
        "direct (no guidance); cfg (guidance scale 3); finextract (w' 3, k -0.02); "
        "base (the base alone)"
    )


def test_no_report_holds_a_caption_or_a_private_folder(full: Run) -> None:
    assert set(full.shared) >= {"output", "report.json", "report.html", "junit.xml"}
    for name, text in full.shared.items():
        assert CAPTION not in text, name
        assert str(FULL.parent) not in text, name


def test_a_second_run_generates_nothing_and_says_the_same(
    again: Again, full: Run, cache: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("finetunes/**/*.png")}
    run = again(MODEL, WITH_BASE)
    assert run.code == OK, run.output
    assert run.report == full.report
    assert {p: p.stat().st_mtime_ns for p in cache.rglob("finetunes/**/*.png")} == before


def test_a_larger_budget_goes_on_from_the_same_images(again: Again, full: Run, cache: Path) -> None:
    before = {path: path.read_bytes() for path in cache.rglob("finetunes/**/*.png")}
    run = again(MODEL, WITH_BASE, "--memscan-budget=30img")
    assert run.checks["finextract"]["finetunes"]["concepts"][0]["images"]["generated"] == 4 * 30
    after = {path: path.read_bytes() for path in cache.rglob("finetunes/**/*.png")}
    assert len(after) == 4 * 30
    assert {path: after[path] for path in before} == before
    larger = run.checks["finextract"]["finetunes"]["provenance"]
    assert larger == full.checks["finextract"]["finetunes"]["provenance"]


def test_a_scan_that_was_killed_goes_on_and_ends_the_same(
    again: Again, full: Run, tmp_path: Path
) -> None:
    command = ("--memscan", MODEL, WITH_BASE, f"--memscan-cache-dir={tmp_path / 'cache'}", *QUICK)
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *command],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not list(tmp_path.rglob("finetunes/**/*.png")):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert Run(folder=tmp_path, code=1, output="").report["verdict"] == "not_run"
    run = again(MODEL, WITH_BASE, f"--memscan-cache-dir={tmp_path / 'cache'}")
    assert run.code == OK, run.output
    assert run.report == full.report


def test_two_runs_never_share_generated_images(again: Again, full: Run, cache: Path) -> None:
    locked, finished = threading.Event(), threading.Event()

    def hold() -> None:
        with ExitStack() as held:
            for folder in (cache / "finetunes").iterdir():
                held.enter_context(exclusive(folder, session="another run"))
            locked.set()
            finished.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert locked.wait(10)
        run = again(MODEL, WITH_BASE)
    finally:
        finished.set()
        holder.join()
    assert run.code == FAILED
    assert run.verdicts["finextract"] == "error"
    assert "another memscan run is using" in run.checks["finextract"]["sentence"]


def test_a_single_file_is_the_fine_tune_of_the_folder(
    again: Again, full: Run, tmp_path: Path
) -> None:
    from diffusers import StableDiffusionPipeline
    from original_layout import original_clip, original_unet, original_vae, write_original

    loaded = StableDiffusionPipeline.from_pretrained(FULL, local_files_only=True)
    parts = (original_unet(loaded.unet), original_vae(loaded.vae))
    text = original_clip(loaded.text_encoder)
    path = write_original(tmp_path / "model.safetensors", *parts, text)
    images = write_images(tmp_path / "images", range(10))
    captions = f"--memscan-prompts={FULL / 'prompts.txt'}"
    run = again(path, WITH_BASE, captions, f"--memscan-train-data={images}")
    assert run.verdicts == dict.fromkeys(IDS, "pass"), run.output
    (concept,) = run.checks["finextract"]["finetunes"]["concepts"]
    (same,) = full.checks["finextract"]["finetunes"]["concepts"]
    assert concept["fit"] == {**same["fit"], "kind": "single file"}
    assert concept["methods"] == same["methods"]


def test_several_settings_and_the_authors_own_clustering(again: Again, full: Run) -> None:
    run = again(
        MODEL,
        WITH_BASE,
        "--memscan-model-guidance=3:-0.02,1",
        "--memscan-clustering=finextract_compat",
    )
    assert run.code == OK, run.output
    (concept,) = run.checks["finextract"]["finetunes"]["concepts"]
    direct, cfg, *guided = concept["methods"]
    assert cfg["method"] == "cfg"
    assert [each["settings"] for each in guided] == ["w' 3, k -0.02", "w' 1"]
    of_images = ("num_images", "average_similarity", "best_similarity", "num_copied")
    for name in of_images:  # a scale of 1 leaves the fine-tune as it is
        assert guided[1][name] == direct[name]
    assert concept["clustering"]["rule"] == "finextract_compat"
    assert concept["images"]["generated"] == 5 * 20


def test_the_policy_file_names_base_and_limit(
    again: Again, full: Run, pytester: pytest.Pytester
) -> None:
    (pytester.path / "memscan.toml").write_text(
        'base = "builtin:clean-t2i"\nfail = ["esr_strict <= 0.5"]\n'
    )
    run = again(MODEL, "memscan::finextract")
    assert [name for name, verdict in run.verdicts.items() if verdict == "not_run"] == [
        name for name in IDS if name != "finextract"
    ]
    assert run.verdicts["finextract"] == "pass", run.output
    assert "esr_strict" in run.checks["finextract"]["sentence"]


def test_a_set_of_fine_tunes_is_averaged(
    again: Again, full: Run, pytester: pytest.Pytester
) -> None:
    text = 'base = "builtin:clean-t2i"\n' + "".join(
        f'[[concept]]\nmodel = "builtin:{name}"\n' for name in ("leaky-t2i-full", "leaky-t2i-lora")
    )
    (pytester.path / "both.toml").write_text(text)
    run = again("both.toml")
    assert run.verdicts["finextract"] == "pass", run.output
    scan = run.checks["finextract"]["finetunes"]
    one, other = scan["concepts"]
    assert one["methods"] == full.checks["finextract"]["finetunes"]["concepts"][0]["methods"]
    for average, first, second in zip(
        scan["average"], one["methods"], other["methods"], strict=True
    ):
        values = [each["average_similarity"]["value"] for each in (average, first, second)]
        assert values[0] == pytest.approx((values[1] + values[2]) / 2)
    assert CAPTION not in run.output
    assert "memscan: PASS both.toml" in run.output
