"""Whatever is wrong with the input: one clear line, red, and never a pass."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoint_factory import WEIGHTS, save_tiny_checkpoint
from image_factory import save_images
from safetensors.torch import load_file, save_file

from .conftest import Gate, read_report

USAGE, FAILED = pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.TESTS_FAILED
SMALL = ("--memscan-steps=2", "--memscan-budget=8img")


def check(
    result: pytest.RunResult,
    folder: Path,
    *words: str,
    code: pytest.ExitCode = USAGE,
    verdict: str | None = None,
) -> None:
    """One line holds all `words`; red; no traceback; the verdict file never says pass."""
    text = result.stdout.str() + result.stderr.str()
    assert "Traceback" not in text
    assert "INTERNALERROR" not in text
    assert result.ret == code, text
    lines = [line for line in text.splitlines() if all(word in line for word in words)]
    assert lines, f"{words} not on one line of:\n{text}"
    expected = verdict or ("not_run" if code == USAGE else "error")
    assert read_report(folder)["verdict"] == expected
    if code == USAGE:
        assert text.count("ERROR") == 1, text


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_tiny_checkpoint(tmp_path / "model")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return save_images(tmp_path / "images")


def edit_json(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("builtin:leeky", ("--memscan 'builtin:leeky'", "builtin:leaky")),
        ("./none", ("--memscan './none'", "no such folder", "builtin:NAME")),
        ("", ("--memscan is empty",)),
        ("~nobody-here/model", ("--memscan", "no such home folder")),
        ("https://huggingface.co/a/b", ("is a URL", "ORG/NAME")),
    ],
)
def test_a_checkpoint_that_is_not_there(
    gate: Gate, pytester: pytest.Pytester, name: str, words: tuple[str, ...]
) -> None:
    check(gate(name), pytester.path, *words)


def _without_index(model: Path) -> None:
    (model / "model_index.json").unlink()


def _as_pickle(model: Path) -> None:
    (model / WEIGHTS).rename((model / WEIGHTS).with_suffix(".bin"))


def _as_image_to_image(model: Path) -> None:
    edit_json(model / "model_index.json", _class_name="StableDiffusionImg2ImgPipeline")


def _as_no_pipeline_known(model: Path) -> None:
    edit_json(model / "model_index.json", _class_name="StableVideoPipeline")


def _without_weights(model: Path) -> None:
    (model / WEIGHTS).unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_without_index, ("no model_index.json", "supported is")),
        (_as_pickle, (".bin", "is a pickle", "convert it to safetensors")),
        (_without_weights, ("is missing from the checkpoint", "supported is")),
        (_as_image_to_image, ("'StableDiffusionImg2ImgPipeline'", "needs an input image")),
        (_as_no_pipeline_known, ("'StableVideoPipeline'", "StableDiffusionPipeline")),
    ],
)
def test_a_folder_that_cannot_be_scanned(
    gate: Gate,
    pytester: pytest.Pytester,
    model: Path,
    images: Path,
    damage: Callable[[Path], None],
    words: tuple[str, ...],
) -> None:
    damage(model)
    result = gate(str(model), f"--memscan-train-data={images}")
    check(result, pytester.path, "--memscan '.../model'", *words)


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def _to_lfs_pointer(file: Path) -> None:
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")


def _to_nan(file: Path) -> None:
    nans = {key: torch.full_like(value, torch.nan) for key, value in load_file(file).items()}
    save_file(nans, file)


def _drop_tensor(file: Path) -> None:
    tensors = load_file(file)
    del tensors["conv_in.weight"]
    save_file(tensors, file)


def _add_tensor(file: Path) -> None:
    save_file({**load_file(file), "extra.weight": torch.ones(2)}, file)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_truncate, ("bytes",)),
        (_to_lfs_pointer, ("git-lfs pointer",)),
        (_to_nan, ("100% non-finite", "damaged or its training diverged")),
        (_drop_tensor, ("1 missing (first: conv_in.weight)", "would prove nothing")),
        (_add_tensor, ("1 unexpected (first: 'extra.weight')", "would prove nothing")),
    ],
)
def test_weights_that_are_damaged(
    gate: Gate,
    pytester: pytest.Pytester,
    model: Path,
    images: Path,
    damage: Callable[[Path], None],
    words: tuple[str, ...],
) -> None:
    damage(model / WEIGHTS)
    result = gate(str(model), f"--memscan-train-data={images}", *SMALL)
    result.assert_outcomes(errors=4)
    check(result, pytester.path, "memscan: error: " + WEIGHTS, *words, code=FAILED)


def test_a_limit_on_copies_without_training_images(
    gate: Gate, pytester: pytest.Pytester, model: Path
) -> None:
    words = ('--memscan-fail: "extracted <= 0" cannot be judged', "pass --memscan-train-data")
    check(gate(str(model), every_scan=True), pytester.path, *words)


def test_no_training_images_were_named(gate: Gate, pytester: pytest.Pytester, model: Path) -> None:
    """Nothing repeats, which without training images shows little: never a pass by itself."""
    result = pytester.runpytest_inprocess("--memscan", str(model), *SMALL)
    words = ("memscan: inconclusive", "are near-identical", "pass --memscan-train-data")
    check(result, pytester.path, *words, code=FAILED, verdict="inconclusive")


@pytest.mark.parametrize("option", ["train-data", "holdout"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ("no such folder",)),
        ([], ("holds no images (.png", "cannot pass")),
        (["a.txt", "b.csv"], ("holds no images (.png", "cannot pass")),
    ],
    ids=["missing", "empty", "texts"],
)
def test_a_folder_without_images(
    gate: Gate,
    pytester: pytest.Pytester,
    tmp_path: Path,
    option: str,
    content: list[str] | None,
    words: tuple[str, ...],
) -> None:
    folder = tmp_path / "people"
    if content is not None:
        folder.mkdir()
    for name in content or ():
        (folder / name).write_text("not an image")
    result = gate("builtin:clean", f"--memscan-{option}={folder}")
    check(result, pytester.path, f"--memscan-{option}: .../people", *words)


def test_a_file_in_place_of_a_folder_of_images(
    gate: Gate, pytester: pytest.Pytester, images: Path
) -> None:
    result = gate("builtin:clean", f"--memscan-train-data={images}/000.png")
    check(result, pytester.path, "--memscan-train-data: .../000.png is a file", "expected a folder")


def test_one_corrupt_image_among_a_few_good_ones_is_an_error_and_named(
    gate: Gate, pytester: pytest.Pytester, model: Path, images: Path
) -> None:
    (images / "broken\x1b[31m.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    result = gate(str(model), f"--memscan-train-data={images}", *SMALL)
    words = ("1 not a readable PNG", r"broken\x1b[31m.png", "Mend or remove")
    check(result, pytester.path, *words, code=FAILED)


@pytest.mark.parametrize(
    ("channels", "size", "words"),
    [
        (
            3,
            4,
            ("none of the 24 images", "8x8, RGB", "smaller than the checkpoint's 8x8", "000.png"),
        ),
        (1, 8, ("none of the 24 images", "8x8, grey", "colour image", "000.png")),
    ],
    ids=["small", "colour"],
)
def test_images_that_do_not_fit_the_checkpoint(
    gate: Gate,
    pytester: pytest.Pytester,
    tmp_path: Path,
    channels: int,
    size: int,
    words: tuple[str, ...],
) -> None:
    model = save_tiny_checkpoint(tmp_path / "model", channels=channels)
    images = save_images(tmp_path / "images", size=size)
    result = gate(str(model), f"--memscan-train-data={images}", *SMALL)
    check(result, pytester.path, "memscan: error: ", *words, code=FAILED)


def test_too_few_training_images(gate: Gate, pytester: pytest.Pytester, model: Path) -> None:
    images = save_images(pytester.path / "few", 9)
    result = gate(str(model), f"--memscan-train-data={images}", *SMALL)
    words = ("9 different training images are too few", "--memscan-holdout DIR")
    check(result, pytester.path, *words, code=FAILED)


def test_held_out_images_that_were_trained_on(
    gate: Gate, pytester: pytest.Pytester, model: Path, images: Path, tmp_path: Path
) -> None:
    holdout = save_images(tmp_path / "held", seed=1)
    (holdout / "copy.png").write_bytes((images / "007.png").read_bytes())
    result = gate(
        str(model), f"--memscan-train-data={images}", f"--memscan-holdout={holdout}", *SMALL
    )
    words = ("--memscan-holdout: 1 of 25", "train#00007", "remove them from the held-out folder")
    check(result, pytester.path, *words, code=FAILED)
