"""What cannot be scanned by prompts is said before anything is generated, in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import read_report
from .t2i import FIXTURES
from .test_bad_input import check, edit_json

ScanFolder = Callable[..., pytest.RunResult]


@pytest.fixture
def refused(pytester: pytest.Pytester) -> ScanFolder:
    """Run the gate, which is to refuse its options."""

    def run(model: str, *arguments: str) -> pytest.RunResult:
        return pytester.runpytest_inprocess("--memscan", model, *arguments)

    return run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A text-to-image checkpoint of one's own."""
    return Path(shutil.copytree(FIXTURES / "clean-t2i", tmp_path / "model"))


@pytest.mark.parametrize("option", ["prompts", "canaries"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ("no such file",)),
        (b"", ("holds no prompts",)),
        (b"\n  \n\n", ("no prompt in", "can be used", "3 empty")),
        (b"nul \x00 inside", ("no prompt in", "with a NUL character", "line 1")),
        (b"caf\xe9 in latin", ("no prompt in", "not UTF-8", "line 1")),
        (b"x" * 10_001, ("no prompt in", "longer than 10,000 characters")),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), ("is not UTF-8 text",)),
    ],
    ids=["missing", "empty", "blank", "nul", "latin", "long", "binary"],
)
def test_a_list_of_prompts_that_cannot_be_used(
    refused: ScanFolder,
    pytester: pytest.Pytester,
    tmp_path: Path,
    option: str,
    content: bytes | None,
    words: tuple[str, ...],
) -> None:
    folder = tmp_path / "customer-list"
    folder.mkdir()
    if content is not None:
        (folder / "list.txt").write_bytes(content)
    result = refused("builtin:clean-t2i", f"--memscan-{option}={folder / 'list.txt'}")
    check(result, pytester.path, f"--memscan-{option}: ", "list.txt", *words)
    for text in (result.stderr.str(), json.dumps(read_report(pytester.path))):
        assert "customer-list" not in text


@pytest.mark.parametrize("option", ["prompts", "canaries"])
def test_prompts_for_a_checkpoint_that_takes_none(
    refused: ScanFolder, pytester: pytest.Pytester, option: str
) -> None:
    result = refused("builtin:leaky", f"--memscan-{option}=builtin:probe")
    words = (f"--memscan-{option}: builtin:leaky", "takes no prompts", "leave the option out")
    check(result, pytester.path, *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("builtin:clean-t2i", "--memscan-scans=repeats"), ("repeats", "is text-to-image")),
        (("builtin:clean", "--memscan-scans=extended_side"), ("extended_side", "needs prompts")),
        (("builtin:clean", "--memscan-scans=repeats"), ("repeats", "there are training images")),
        (("builtin:clean-t2i", "--memscan-guidance-scale=0.5"), ("not a guidance scale",)),
        (("builtin:clean-t2i", "--memscan-images-per-prompt=5"), ("--memscan-images-per-prompt",)),
        (("builtin:clean-t2i", "memscan::repeats"), ("memscan::repeats", "is not a check of this")),
        (
            ("builtin:clean-t2i", "--memscan-fail=extracted <= 0"),
            ('"extracted <= 0" cannot be judged', "write a limit on memorised_prompts"),
        ),
        (
            ("builtin:clean", "--memscan-fail=memorised_prompts <= 0"),
            ('"memorised_prompts <= 0" cannot be judged', "write a limit on extracted"),
        ),
        (
            ("builtin:clean-t2i", "--memscan-fail=duplicate_groups <= 0"),
            ('"duplicate_groups <= 0" cannot be judged', "pass --memscan-train-data"),
        ),
        (
            (
                "builtin:clean-t2i",
                "--memscan-scans=prompt_detectors",
                "--memscan-fail=memorised_prompts <= 0",
            ),
            ("cannot be judged", "ask for more scans"),
        ),
    ],
)
def test_what_does_not_go_with_the_kind_of_checkpoint(
    refused: ScanFolder,
    pytester: pytest.Pytester,
    arguments: tuple[str, ...],
    words: tuple[str, ...],
) -> None:
    check(refused(*arguments), pytester.path, *words)


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        (
            "model_index.json",
            {"_class_name": "StableDiffusionImg2ImgPipeline"},
            ("'StableDiffusionImg2ImgPipeline'", "needs an input image"),
        ),
        (
            "model_index.json",
            {"_class_name": "StableVideoDiffusionPipeline"},
            ("'StableVideoDiffusionPipeline'", "StableDiffusionPipeline"),
        ),
        (
            "model_index.json",
            {"scheduler": ["diffusers", "DPMSolverSDEScheduler"]},
            ("DPMSolverSDEScheduler ignores the random generators", "save the checkpoint with"),
        ),
        (
            "model_index.json",
            {"unet": ["my_own_code", "MyUnet"]},
            ("unet", "brings its own code is refused"),
        ),
    ],
    ids=["needs-an-image", "unknown", "scheduler", "own-code"],
)
def test_a_pipeline_that_cannot_be_scanned(
    refused: ScanFolder,
    pytester: pytest.Pytester,
    model: Path,
    file: str,
    changes: dict[str, object],
    words: tuple[str, ...],
) -> None:
    edit_json(model / file, **changes)
    check(refused(str(model)), pytester.path, "--memscan '.../model'", *words)
