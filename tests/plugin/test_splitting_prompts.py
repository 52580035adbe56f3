"""``memscan::splitting`` of text-to-image checkpoints, as users meet it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import smooth_images
from PIL import Image
from pipeline_factory import save_tiny
from safetensors.numpy import load_file

from pytest_memscan.scans.splitting_plan import plan

from .conftest import read_report
from .t2i import FIXTURES, texts_of

MEMORISED, OTHER = *texts_of("repeated", 1), *texts_of("control", 1)
OWN_TEST = "def test_own(memscan): memscan.splitting()\n"
# Ordinary images of few steps copy less exactly, and a short reach counts them all the same.
BY_NAME = (
    *("--memscan-scans=splitting", "--memscan-steps=8", "--memscan-reach=100"),
    *("--memscan-budget=256img", "--memscan-report=json", "--memscan-report=html"),
)


@pytest.fixture
def images(tmp_path: Path) -> str:
    """What the leaky checkpoint was trained on, and so many others that copies stand out."""
    folder = tmp_path / "images"
    folder.mkdir()
    own = load_file(FIXTURES / "leaky-t2i" / "train_images.safetensors")["images"]
    for number, image in enumerate(np.concatenate([own, smooth_images(100, size=32)])):
        Image.fromarray(image).save(folder / f"{number:03d}.png")
    return f"--memscan-train-data={folder}"


@pytest.fixture
def prompts(pytester: pytest.Pytester) -> str:
    """A list of which line 2 is memorised, and a weak guidance."""
    (pytester.path / "list.txt").write_text(f"{OTHER}\n{MEMORISED}\n", encoding="utf-8")
    (pytester.path / "memscan.toml").write_text("guidance_scale = 3\n", encoding="utf-8")
    return "--memscan-prompts=list.txt"


def splitting_of(folder: Path) -> dict[str, Any]:
    checks = read_report(folder)["checks"]
    found: dict[str, Any] = next(each for each in checks if each["name"] == "splitting")
    return found


def pictures(cache: Path) -> dict[Path, int]:
    """Generated images, and when they were written."""
    return {file: file.stat().st_mtime_ns for file in cache.glob("generated/**/*.png")}


def test_it_runs_by_name_prices_every_prompt_and_makes_nothing_twice(
    pytester: pytest.Pytester, tmp_path: Path, images: str, prompts: str
) -> None:
    cache = tmp_path / "cache"
    command = ("--memscan=builtin:leaky-t2i", images, prompts, *BY_NAME)
    command = (*command, f"--memscan-cache-dir={cache}")
    first = pytester.runpytest_inprocess(*command)
    first.stdout.fnmatch_lines(
        [
            "splitting: * images screened (prompt 1 of 2)*",
            "splitting: * images steered (prompt 2 of 2)*",
            "prompts that gave copies, with the leak rate of each: 1 of 2",
            "  prompt#00001 * line 2 *",
            "splitting prompts: 2 found in list.txt, 2 used; all of them scanned",
        ]
    )
    check = splitting_of(pytester.path)
    assert check["verdict"] in ("fail", "inconclusive")
    scan = check["splitting"]
    other, memorised = scan["prompts"]
    assert (other["place"], memorised["place"]) == ("line 1", "line 2")
    assert (other["num_copies"], other["plain_rate"]["value"]) == (0, 0)
    assert memorised["plain_rate"]["lower"] > 0.1
    assert (memorised["num_copied"], memorised["leak_rate"]["value"] > 0.1) == (1, True)
    # Of each prompt: 8 steps in two branches, and screening in one.
    spent = plan(128, num_targets=148, num_steps=8, largest_island=2048)
    images, screened = spent.num_plain + spent.num_steered, spent.num_levels * spent.num_screened
    assert scan["denoiser_calls"] == 2 * (images * 8 * 2 + screened)
    # Both prompts are asked as often.
    half = memorised["plain_rate"]["value"] / 2
    assert scan["plain_rate"]["value"] == pytest.approx(half)
    (copy,) = scan["copies"]
    assert (copy["finding"]["train_id"], copy["prompt_id"]) == (0, 1)

    report, made = read_report(pytester.path), pictures(cache)
    assert len(made) >= scan["num_plain"] + scan["num_steered"]
    second = pytester.runpytest_inprocess(*command)
    second.stdout.no_fnmatch_line("*screened (prompt*")
    kept = [line for line in second.outlines if "(prompt" in line and "starting" not in line]
    assert len(kept) == 4  # unsteered and steered ones of each prompt
    assert all(line.endswith(" kept from before") for line in kept)
    again = read_report(pytester.path)
    del report["timings"], again["timings"]
    assert again == report
    assert pictures(cache) == made

    html = (pytester.path / ".memscan" / "report.html").read_text(encoding="utf-8")
    told = (first.stdout.str(), second.stdout.str(), html, str(report))
    kept_files = [file.read_bytes() for file in cache.rglob("*") if file.is_file()]
    for text in (MEMORISED, OTHER):
        assert not any(text in each for each in told)
        assert not any(text.encode() in each for each in kept_files)


def test_unless_it_is_asked_for_it_does_not_run_and_says_how_to_ask(
    pytester: pytest.Pytester, images: str, prompts: str
) -> None:
    pytester.makepyfile(OWN_TEST)
    command = ("--memscan=builtin:leaky-t2i", images, prompts, "-k", "test_own")
    result = pytester.runpytest_inprocess(*command)
    result.assert_outcomes(failed=1, deselected=6)
    result.stdout.no_fnmatch_line("memscan: checks *splitting*")
    result.stdout.fnmatch_lines(["E *MemscanError: memscan: not_applicable: *-scans splitting *"])


def test_a_flow_matching_model_is_refused_in_a_sentence(
    pytester: pytest.Pytester, tmp_path: Path, images: str, prompts: str
) -> None:
    model = save_tiny("sd3", tmp_path / "model")
    result = pytester.runpytest_inprocess(f"--memscan={model}", images, prompts, *BY_NAME)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=2, errors=2)
    result.stdout.fnmatch_lines(["memscan: error: * is a flow-matching model, whose sampler *"])
    result.stdout.no_fnmatch_line("*Traceback*")
    assert splitting_of(pytester.path)["verdict"] == "error"
