"""What a fine-tune's own files say of its base and its captions, and what is done without."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

# pytester forgets modules that a run inside this process imported; torch cannot be imported twice.
import peft
import pytest

from .conftest import PRELOADED as PRELOADED_BY_ALL
from .finetunes import (
    CAPTION,
    FULL,
    IDS,
    LORA,
    WEIGHTS,
    WITH_BASE,
    scan_again,
    stranger,
    write_images,
)
from .t2i import Run

PRELOADED = (*PRELOADED_BY_ALL, peft)
OK, FAILED = pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED

Again = Callable[..., Run]


@pytest.fixture
def again(pytester: pytest.Pytester, tmp_path: Path) -> Again:
    """A run in this process; images of earlier runs of a test are used."""
    return partial(scan_again, pytester, tmp_path / "cache")


def test_a_lora_names_its_own_base(again: Again, tmp_path: Path) -> None:
    """As a folder and as a file; with pictures of one's own and a caption that the card gives."""
    folder = stranger(LORA, tmp_path / "client-canary/lora")
    (folder / "README.md").write_text(f"---\ninstance_prompt: {CAPTION}\n---\n")
    images = write_images(tmp_path / "client-canary/images", range(10))
    runs = [again(model, f"--memscan-train-data={images}") for model in (folder, folder / WEIGHTS)]
    for run in runs:
        assert run.verdicts["finextract"] == "pass", run.output
        text = " ".join(run.output.split())
        assert "base builtin:clean-t2i (metadata of" in text
        assert "LoRA (diffusers layout, rank" in text
        assert "instance_prompt" in text
        (concept,) = run.checks["finextract"]["finetunes"]["concepts"]
        assert sorted(concept["fit"]["parts"]) == ["text_encoder", "unet"]
        assert concept["methods"][-1]["settings"] == "w' 5"
        for name, shared in run.shared.items():
            for secret in (CAPTION, str(tmp_path), "client-canary", "client-portrait"):
                assert secret not in shared, (name, secret)
    scans = [run.checks["finextract"]["finetunes"]["concepts"][0] for run in runs]
    assert scans[0]["methods"] == scans[1]["methods"]


def test_without_images_and_captions_nothing_passes_by_itself(again: Again, tmp_path: Path) -> None:
    folder = stranger(FULL, tmp_path / "model")
    run = again(folder, WITH_BASE)
    assert run.code == FAILED
    assert run.verdicts == {"integrity": "pass", "finextract": "inconclusive", "status": "pass"}
    assert "captions: none (none known)" in run.checks["finextract"]["sentence"]
    assert "--memscan-prompts builtin:none" in run.checks["finextract"]["sentence"]
    (concept,) = run.checks["finextract"]["finetunes"]["concepts"]
    assert (concept["captions"], concept["num_train"], concept["methods"]) == ("none", None, [])
    limit = "--memscan-fail=extraction_candidates <= 0"
    written = again(folder, WITH_BASE, "--memscan-prompts=builtin:none", limit)
    assert written.code == OK, written.output


def test_scans_of_prompts_take_a_lora_too(again: Again, tmp_path: Path) -> None:
    folder = stranger(LORA, tmp_path / "lora")
    (tmp_path / "list.txt").write_text(CAPTION)
    run = again(
        folder,
        "--memscan-scans=carlini",
        f"--memscan-prompts={tmp_path / 'list.txt'}",
        "--memscan-steps=1",
        "--memscan-images-per-prompt=60",
        "--memscan-copy-rate=0.5",
        quick=False,
    )
    assert tuple(run.verdicts) == ("integrity", "carlini", "status")
    assert run.verdicts["carlini"] in ("pass", "fail", "inconclusive"), run.output
    assert run.checks["carlini"]["prompt_scan"]["images"]["valid"] > 0


def test_collect_only_imports_nothing_heavy(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import sys
        def pytest_unconfigure():
            print("HEAVY", sorted({"torch", "diffusers", "peft"} & set(sys.modules)))
        """
    )
    result = pytester.runpytest_subprocess("--memscan", str(LORA), "--collect-only", "-q")
    assert result.ret == OK
    result.stdout.fnmatch_lines([f"*memscan::{name}" for name in IDS if name != "duplicates"])
    result.stdout.fnmatch_lines(["HEAVY []"])
