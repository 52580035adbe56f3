"""``memscan::side`` with caches, images and options that are broken: it says so, or mends it.

Random labels guide by a classifier of their own and cannot fail to learn, so with them the whole
way is short: samples, training, guided images, comparison.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_factory import save_tiny_checkpoint
from filelock import FileLock
from image_factory import save_images
from pictures import smooth_images
from PIL import Image
from safetensors.numpy import load_file, save_file
from transformers.models.resnet.modeling_resnet import ResNetBasicLayer

from .conftest import read_report

SHORT = (
    "--memscan-scans=side",
    "--memscan-device=cpu",
    "--memscan-budget=32img",
    "--memscan-steps=2",
    "--memscan-side-samples=40",
    "--memscan-side-clusters=2",
    "--memscan-side-cohesion=0",
    "--memscan-side-training=10",
    "--memscan-side-scales=6",
    "--memscan-fail=side_extracted <= 0",
)
CONTROL = (*SHORT, "--memscan-side-variants=random_labels")
NUM_PLAIN, NUM_GUIDED = 72, 32
# Forgotten between runs inside of one process, it would be another class than that of the network.
PRELOADED = ResNetBasicLayer
CLASSIFIER, RECORD = "classifier.safetensors", "classifier.json"
Runs = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 8 x 8 pixels that learnt nothing, and images it was never trained on."""
    folder = tmp_path_factory.mktemp("world") / "clinic-canary"
    save_tiny_checkpoint(folder / "model")
    for number, image in enumerate(smooth_images(40, seed=1, size=8)):
        (folder / "train").mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / "train" / f"{number:03d}.png")
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of this test alone."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("MEMSCAN_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def scanned(pytester: pytest.Pytester, world: Path) -> Runs:
    """How the scan ended, as a check of the report."""

    def run(*options: str, train: str = "train", model: Path | None = None) -> dict[str, Any]:
        pytester.runpytest_inprocess(
            f"--memscan={model or world / 'model'}",
            f"--memscan-train-data={world / train}",
            *options,
        )
        return side_of(pytester)

    return run


def side_of(pytester: pytest.Pytester) -> dict[str, Any]:
    checks = read_report(pytester.path)["checks"]
    found: dict[str, Any] = next(each for each in checks if each["name"] == "side")
    return found


def found_in(check: dict[str, Any]) -> dict[str, Any]:
    """What the scan found, but for images that it made again."""
    assert check["side"] is not None, check["sentence"]
    scan = dict(check["side"])
    scan["coverage"] = {**scan["coverage"], "damaged": 0}
    return scan


@pytest.fixture(scope="module")
def whole(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The cache after one run that nothing disturbed, and what it found: filled by the first."""
    return tmp_path_factory.mktemp("whole") / "cache", {}


@pytest.fixture
def again(
    whole: tuple[Path, dict[str, Any]],
    scanned: Runs,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[Path, Callable[[], dict[str, Any]]]:
    """A copy of that cache to spoil, and a run on it that must find the same."""
    kept, found = whole
    if not found:
        monkeypatch.setenv("MEMSCAN_CACHE_DIR", str(kept))
        found.update(found_in(scanned(*CONTROL)))
        monkeypatch.setenv("MEMSCAN_CACHE_DIR", str(cache))
    shutil.copytree(kept, cache)

    def run() -> dict[str, Any]:
        check = scanned(*CONTROL)
        assert found_in(check) == found
        return check

    return cache, run


def only(cache: Path, name: str) -> Path:
    (file,) = cache.rglob(name)
    return file


def images_in(cache: Path) -> list[Path]:
    return sorted(cache.rglob("planned/**/*.png"))


# --- what is kept -------------------------------------------------------------------------------


def assert_same(file: Path, weights: dict[str, Any]) -> None:
    found = load_file(file)
    assert found.keys() == weights.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(found[name], value)


def _nan(cache: Path) -> None:
    file = only(cache, CLASSIFIER)
    weights = load_file(file)
    save_file({name: np.full_like(value, np.nan) if value.dtype == np.float32 else value
               for name, value in weights.items()}, file)  # fmt: skip


def _flattered(cache: Path) -> None:
    """A record that praises a classifier which learnt nothing."""
    file = only(cache, RECORD)
    file.write_text(file.read_text().replace('"chance": 0.', '"chance": 0.0'))


@pytest.mark.parametrize("spoil", [_nan, _flattered])
def test_a_classifier_that_is_not_whole_is_trained_again(
    again: tuple[Path, Callable[[], dict[str, Any]]], spoil: Callable[[Path], None]
) -> None:
    cache, run = again
    before = load_file(only(cache, CLASSIFIER))
    spoil(cache)
    run()
    assert_same(only(cache, CLASSIFIER), before)


def test_the_classifier_of_another_training_is_not_taken_for_this_one(
    again: tuple[Path, Callable[[], dict[str, Any]]], scanned: Runs
) -> None:
    cache, run = again
    ours = only(cache, CLASSIFIER)
    before = load_file(ours)
    scanned(*CONTROL, "--memscan-side-training=11")
    (theirs,) = set(cache.rglob(CLASSIFIER)) - {ours}
    for name in (CLASSIFIER, RECORD):
        shutil.copy(theirs.with_name(name), ours.with_name(name))
    run()
    assert_same(ours, before)


def test_images_that_vanish_or_change_are_made_again(
    again: tuple[Path, Callable[[], dict[str, Any]]],
) -> None:
    cache, run = again
    images = images_in(cache)
    assert len(images) == NUM_PLAIN + NUM_GUIDED
    content = {path: path.read_bytes() for path in images}
    for path in images[::3]:
        path.unlink()
    for path in images[1::3]:
        shutil.copy(images[2], path)
    check = run()
    assert check["side"]["coverage"]["damaged"] >= 2 * NUM_GUIDED // 3
    assert {path: path.read_bytes() for path in images} == content


def test_a_second_run_at_once_is_refused_and_spoils_nothing(
    again: tuple[Path, Callable[[], dict[str, Any]]], scanned: Runs
) -> None:
    cache, run = again
    content = {path: path.read_bytes() for path in cache.rglob("*.*") if path.is_file()}
    locks = [path for path in cache.rglob("lock") if path.is_file()]
    assert locks
    for lock in locks:
        with FileLock(lock):
            check = scanned(*CONTROL)
        if check["verdict"] == "error":
            break
    assert check["verdict"] == "error"
    assert "another memscan run is using the same generated images" in check["sentence"]
    for path, before in content.items():
        assert path.read_bytes() == before
    run()


# --- interruption -------------------------------------------------------------------------------


@contextmanager
def interrupted_once(condition: Callable[[], bool]) -> Iterator[list[bool]]:
    """SIGINT to this process, as Ctrl-C sends it, as soon as something is so."""
    sent: list[bool] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            if condition():
                sent.append(True)
                os.kill(os.getpid(), signal.SIGINT)
                return
            time.sleep(0.002)

    watcher = threading.Thread(target=watch, daemon=True)
    # Shells start what runs in the background with interrupts ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    watcher.start()
    try:
        yield sent
    finally:
        ended.set()
        watcher.join()
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    "is_there",
    [
        lambda cache: len(images_in(cache)) >= NUM_PLAIN,  # before or in training
        lambda cache: len(images_in(cache)) > NUM_PLAIN,
    ],
    ids=["samples there", "guided image there"],
)
def test_an_interrupted_run_is_red_and_goes_on_to_the_same_result(
    pytester: pytest.Pytester,
    world: Path,
    again: tuple[Path, Callable[[], dict[str, Any]]],
    is_there: Callable[[Path], bool],
) -> None:
    cache, run = again
    complete = {path: path.read_bytes() for path in images_in(cache)}
    shutil.rmtree(cache)
    with interrupted_once(lambda: cache.exists() and is_there(cache)) as sent:
        result = pytester.runpytest_inprocess(
            f"--memscan={world / 'model'}",
            f"--memscan-train-data={world / 'train'}",
            *CONTROL,
            no_reraise_ctrlc=True,
        )
    assert sent
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert read_report(pytester.path)["verdict"] != "pass"
    run()
    assert {path: path.read_bytes() for path in images_in(cache)} == complete


# --- nothing to attack with ---------------------------------------------------------------------


def test_controls_alone_never_pass(again: tuple[Path, Callable[[], dict[str, Any]]]) -> None:
    check = again[1]()
    assert check["side"]["metrics"]["side_extracted"]["value"] == 0
    assert check["verdict"] == "inconclusive"
    assert "no variant of SIDE was run that is expected to bring out more" in check["sentence"]


def test_leaks_of_plain_sampling_fail_whatever_is_guided(pytester: pytest.Pytester) -> None:
    pytester.runpytest_inprocess("--memscan=builtin:leaky", *CONTROL, "--memscan-steps=5")
    assert side_of(pytester)["verdict"] == "fail"


# --- labels -------------------------------------------------------------------------------------


def classes(folder: Path, place_of: Callable[[int], str]) -> Path:
    """The training images again, each in the folder of its class."""
    for number, image in enumerate(smooth_images(40, seed=1, size=8)):
        place = folder / place_of(number)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number:03d}.png")
    return folder


def test_labels_that_nothing_can_be_learnt_from_leave_the_rest_of_the_scan(
    scanned: Runs, pytester: pytest.Pytester, tmp_path: Path
) -> None:
    """Nobody asked for them: a folder of images is often the only one of its folder."""
    train = str(classes(tmp_path / "labelled", lambda number: "dr-miller"))
    check = scanned(*SHORT, "--memscan-side-cohesion=0.9999", "-vv", "-l", train=train)
    assert check["verdict"] == "inconclusive"
    assert "(side_c: none of the 2 clusters of the samples has cohesion 0.99" in check["sentence"]
    assert "all 40 images have the same class label" in check["side"]["left_out"]["side_o"]
    for report in (pytester.path / ".memscan").iterdir():
        assert "miller" not in report.read_text(encoding="utf-8")


def test_neither_class_nor_folder_is_told(
    pytester: pytest.Pytester, world: Path, tmp_path: Path
) -> None:
    loud = ("-vv", "-l", "--tb=long")
    train = classes(tmp_path / "labelled", lambda number: f"dr-miller-{number % 13}")
    result = pytester.runpytest_inprocess(
        f"--memscan={world / 'model'}", f"--memscan-train-data={train}",
        *SHORT, "--memscan-side-variants=side_o,ol_ti", *loud,
    )  # fmt: skip
    assert result.ret == 1
    texts = [result.stdout.str(), result.stderr.str()]
    texts += [each.read_text(encoding="utf-8") for each in pytester.path.glob(".memscan/*")]
    for text in texts:
        for secret in ("miller", str(tmp_path), "clinic-canary"):
            assert secret not in text


def test_a_folder_that_is_no_classifier_is_named_without_its_place(
    scanned: Runs, world: Path
) -> None:
    check = scanned(
        *SHORT, "--memscan-side-variants=side_a", f"--memscan-labeller={world / 'model'}"
    )
    assert check["verdict"] == "error"
    assert check["sentence"].startswith("--memscan-labeller: .../model has no config.json")


def test_auxiliary_images_without_labels_are_an_error(scanned: Runs, tmp_path: Path) -> None:
    ask = (*SHORT, "--memscan-side-variants=side_a")
    bare = save_images(tmp_path / "bare", 12, size=8)
    check = scanned(*ask, f"--memscan-auxiliary={bare}")
    assert (check["verdict"], check["side"]) == ("error", None)
    assert "--memscan-auxiliary: 12 of 12 images have no class label" in check["sentence"]


# --- other checkpoints, other options -----------------------------------------------------------


def test_a_checkpoint_with_weights_that_are_no_numbers_is_an_error(
    scanned: Runs, world: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(world / "model", tmp_path / "nan")
    file = model / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["conv_out.weight"][0, 0, 0, 0] = np.nan
    save_file(weights, file)
    check = scanned(*SHORT, model=model)
    assert (check["verdict"], check["side"]) == ("error", None)
    assert "non-finite" in check["sentence"]


@pytest.mark.parametrize("budget", ["31img"])
def test_too_small_a_budget_is_an_error(scanned: Runs, budget: str) -> None:
    check = scanned(*CONTROL, f"--memscan-budget={budget}")
    assert (check["verdict"], check["side"]) == ("error", None)
    assert "32 are the least" in check["sentence"]
