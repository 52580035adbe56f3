"""The scan on a model whose rates are known, and what it keeps from one run for the next.

A stock pipeline whose denoiser is the exact one of made-up pictures: some of the training images,
each of them rarely, and many others that nobody asks about.
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_factory import save_tiny_checkpoint
from diffusers import DDIMPipeline
from pictures import smooth_images

from pytest_memscan.denoising.attach import replaced
from pytest_memscan.denoising.exact import ExactDenoiser, standing_in
from pytest_memscan.denoising.schedule import read_parametrisation
from pytest_memscan.errors import OptionError, StoreError, TrainDataError
from pytest_memscan.generation import Progress
from pytest_memscan.results import Coverage, SplittingScan
from pytest_memscan.scans.splitting import Splitting
from pytest_memscan.similarity.reference import PixelReference, prepare
from pytest_memscan.store import ImageStore

STEPS, BUDGET = 10, 200
NUM_TRAIN, NUM_COPIED = 60, 40
LEAK_RATE = 0.1  # of all images, shared by those that are copied


@dataclass
class World:
    """A model, its training images, and how often its denoiser was asked."""

    pipeline: Any
    pixels: np.ndarray
    reference: PixelReference
    calls: int = 0
    told: list[Progress] = field(default_factory=list)

    def scan(self, folder: Path, **changes: Any) -> SplittingScan:
        """One run, as a process that ends afterwards."""
        self.calls = 0
        self.told.clear()
        store = ImageStore(folder, spec={})
        try:
            return self.splitting(store, **changes).scan(
                coverage=Coverage(planned=0, generated=0, valid=0), provenance={}
            )
        finally:
            store.close()

    def splitting(self, store: ImageStore, **changes: Any) -> Splitting:
        given = dict(
            load_pipeline=lambda _: self.pipeline,
            store=store,
            num_images=BUDGET,
            seed=3,
            batch_size=16,
            steps=STEPS,
            dtype="float32",
            reach=10_000,
            reference=self.reference,
            pixels=self.pixels,
            progress=self.told.append,
        )
        return Splitting(**{**given, **changes})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = save_tiny_checkpoint(tmp_path_factory.mktemp("model"))
    pipeline = DDIMPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    pixels, others = smooth_images(NUM_TRAIN, size=8), smooth_images(200, size=8, seed=1)
    known = torch.from_numpy(np.concatenate([pixels[:NUM_COPIED], others]))
    weights = torch.full((len(known),), (1 - LEAK_RATE) / len(others))
    weights[:NUM_COPIED] = LEAK_RATE / NUM_COPIED
    exact = ExactDenoiser(clean=known.permute(0, 3, 1, 2).float() / 127.5 - 1, weights=weights)
    schedule = read_parametrisation(pipeline.scheduler)
    made = World(pipeline=pipeline, pixels=pixels, reference=prepare(pixels))
    with standing_in(pipeline.unet, exact, schedule.mixture, schedule.kind):
        answer = pipeline.unet.forward

        @functools.wraps(answer)
        def counted(*args: Any, **settings: Any) -> Any:
            made.calls += 1
            return answer(*args, **settings)

        with replaced(pipeline.unet, "forward", counted):
            yield made


@pytest.fixture(scope="module")
def kept(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SplittingScan]:
    """A finished scan; only looked at."""
    folder = tmp_path_factory.mktemp("kept")
    return folder, world.scan(folder)


def images_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.png")}


def test_copies_are_found_priced_and_shown_to_come_out_alone(
    kept: tuple[Path, SplittingScan],
) -> None:
    _, scan = kept
    assert all(control.passed for control in scan.controls)
    assert scan.degenerate == ""
    assert scan.num_tried == scan.num_screened == scan.num_targets == NUM_TRAIN
    assert sum(copy.num_copies for copy in scan.copies) > scan.num_plain_copies > 0
    assert {copy.finding.train_id for copy in scan.copies} <= set(range(NUM_COPIED))
    assert all(copy.finding.confirmed and copy.in_reach for copy in scan.copies)
    assert scan.metrics["extractable_images"].value == len(scan.copies)
    assert scan.leak_rate.lower <= LEAK_RATE <= scan.leak_rate.upper
    assert scan.plain_rate.lower <= scan.leak_rate.value <= scan.plain_rate.upper
    assert sum(copy.rate.value for copy in scan.copies) == pytest.approx(scan.leak_rate.value)
    assert scan.coverage.valid == scan.coverage.planned == scan.num_plain + scan.num_steered
    assert scan.denoiser_calls <= BUDGET * STEPS


def test_a_second_run_asks_the_denoiser_nothing_and_says_so(
    world: World, kept: tuple[Path, SplittingScan]
) -> None:
    folder, first = kept
    before = images_of(folder)
    assert world.scan(folder) == first
    assert world.calls == 0
    assert images_of(folder) == before
    assert all(each.resumed == each.done for each in world.told)
    assert {each.unit for each in world.told} == {"images", "images steered"}


def test_what_is_made_is_told_as_it_is_made(world: World, tmp_path: Path) -> None:
    world.scan(tmp_path)
    for unit in ("images", "images screened", "images steered"):
        told = [each for each in world.told if each.unit == unit]
        assert (told[0].done, told[-1].done) == (0, told[-1].total)
        assert all(each.resumed == 0 for each in told)


@pytest.mark.parametrize("num_islands", [0, 1, 2])
def test_a_run_that_was_interrupted_goes_on_to_the_same_result(
    world: World, kept: tuple[Path, SplittingScan], tmp_path: Path, num_islands: int
) -> None:
    folder, whole = kept

    def interrupt(progress: Progress) -> None:
        size = whole.num_steered // whole.num_islands
        if progress.unit == "images steered" and progress.done >= num_islands * size:
            raise KeyboardInterrupt

    assert whole.num_islands > 2
    with pytest.raises(KeyboardInterrupt):
        world.scan(tmp_path, progress=interrupt)
    assert world.scan(tmp_path) == whole
    steered = [each for each in world.told if each.unit == "images steered"]
    assert steered[-1].resumed == num_islands * whole.num_steered // whole.num_islands
    assert "images screened" not in {each.unit for each in world.told}
    assert images_of(tmp_path) == images_of(folder)


def test_images_that_were_lost_are_made_again(
    world: World, kept: tuple[Path, SplittingScan], tmp_path: Path
) -> None:
    folder, whole = kept
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for kind in ("planned", "steered"):
        picture = next(tmp_path.glob(f"{kind}*/**/*.png"))
        picture.unlink()
        again = world.scan(tmp_path)
        assert world.calls > 0
        assert again.coverage.damaged == 1
        assert dataclasses.replace(again, coverage=whole.coverage) == whole
        assert images_of(tmp_path) == images_of(folder)


def test_the_noise_of_a_copy_that_was_lost_is_made_again(
    world: World, kept: tuple[Path, SplittingScan], tmp_path: Path
) -> None:
    folder, whole = kept
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for lost in (*tmp_path.glob("again*/**/*.png"), *tmp_path.rglob("copy-*.npz")):
        lost.unlink()
    again = world.scan(tmp_path)
    assert again.copies == whole.copies


def test_images_that_vanish_are_one_clear_line(world: World, tmp_path: Path) -> None:
    store = ImageStore(tmp_path, spec={})
    splitting = world.splitting(store)
    assert len(splitting.ends) == 1 + splitting.plan.num_islands
    for picture in tmp_path.rglob("*.png"):
        picture.unlink()
    with pytest.raises(StoreError, match="change or vanish as soon as they are written"):
        splitting.pixels_of(splitting.plan.num_plain)
    store.close()


def test_another_budget_keeps_its_own_images_under_the_same_numbers(
    world: World, kept: tuple[Path, SplittingScan], tmp_path: Path
) -> None:
    folder, whole = kept
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    world.scan(tmp_path, num_images=BUDGET + 60)
    assert world.scan(tmp_path) == whole
    assert world.calls == 0


def test_other_training_images_are_another_scan(
    world: World, kept: tuple[Path, SplittingScan], tmp_path: Path
) -> None:
    shutil.copytree(kept[0], tmp_path, dirs_exist_ok=True)
    pixels = world.pixels[::-1].copy()
    world.scan(tmp_path, pixels=pixels, reference=prepare(pixels))
    assert "images screened" in {each.unit for each in world.told}


def test_another_batch_size_changes_last_bits_only(
    world: World, kept: tuple[Path, SplittingScan], tmp_path: Path
) -> None:
    folder, whole = kept
    other = world.scan(tmp_path, batch_size=7)
    store, ours = ImageStore(folder, spec={}), ImageStore(tmp_path, spec={})
    for one, two in zip(
        store.read("planned", range(whole.num_plain)),
        ours.read("planned", range(whole.num_plain)),
        strict=True,
    ):
        np.testing.assert_allclose(one.pixels.astype(int), two.pixels.astype(int), atol=1)
    store.close()
    ours.close()
    assert other.num_plain_copies == whole.num_plain_copies
    assert other.leak_rate.value == pytest.approx(whole.leak_rate.value, rel=0.01)


@pytest.mark.parametrize("num_images", [1, 3])
def test_a_budget_for_nothing_is_refused(world: World, tmp_path: Path, num_images: int) -> None:
    with pytest.raises(OptionError, match=f"--memscan-budget: {num_images}img is too little"):
        world.scan(tmp_path, num_images=num_images)


@pytest.mark.parametrize("num_images", [4, 5, 20])
def test_the_smallest_budgets_say_that_they_say_nothing(
    world: World, tmp_path: Path, num_images: int
) -> None:
    scan = world.scan(tmp_path, num_images=num_images)
    assert "too few to learn from" in scan.degenerate
    assert scan.num_tried == 0
    assert scan.denoiser_calls <= num_images * STEPS


def test_one_image_again_and_again_cannot_be_steered_to(world: World, tmp_path: Path) -> None:
    pixels = np.repeat(world.pixels[:1], 20, axis=0)
    holdout = smooth_images(20, size=8, seed=5)
    with pytest.raises(TrainDataError, match="all 20 training images are near-duplicates of one"):
        world.scan(tmp_path, pixels=pixels, reference=prepare(pixels), holdout=holdout)


def test_a_model_that_makes_no_pictures_is_one_clear_line(world: World, tmp_path: Path) -> None:
    def nothing(sample: torch.Tensor, *_: Any, **__: Any) -> Any:
        return (torch.full_like(sample, torch.nan),)

    with (
        replaced(world.pipeline.unet, "forward", nothing),
        pytest.raises(TrainDataError, match=r"\(not a number\); the checkpoint makes no"),
    ):
        world.scan(tmp_path)
