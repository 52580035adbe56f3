"""An image is a function of its plan row; what is no image is never counted as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_factory import save_tiny_checkpoint
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pytest_memscan.errors import MemscanError
from pytest_memscan.generation import (
    ALONE,
    BLOCKED,
    FLAT,
    NON_FINITE,
    PLANNED,
    PlanRow,
    Progress,
    generate,
    image_shape,
    images_per_second,
    plan_rows,
    why_invalid,
)
from pytest_memscan.store import ImageStore, StoredImage

STEPS = 3
BATCH = 8
SEED = 2**32 - 6  # so that the seeds of the plan wrap around


def load_tiny(folder: Path, *, channels: int = 3) -> Any:
    """The tiny checkpoint as a scan loads it: sampled with DDIM, without a progress bar."""
    loaded = DDPMPipeline.from_pretrained(
        save_tiny_checkpoint(folder, channels=channels), low_cpu_mem_usage=False
    )
    scheduler = DDIMScheduler.from_config(loaded.scheduler.config)
    pipeline = DDIMPipeline(unet=loaded.unet, scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.unet.eval()
    return pipeline


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    store = ImageStore(tmp_path / "store", spec={})
    yield store
    store.close()


def make(
    pipeline: Any,
    store: ImageStore,
    rows: list[PlanRow],
    *,
    kind: str = PLANNED,
    batch_size: int = BATCH,
) -> dict[int, StoredImage]:
    """Generate rows and read all of their kind back."""
    generate(
        pipeline,
        rows,
        store=store,
        kind=kind,
        batch_size=batch_size,
        steps=STEPS,
        plan_seed=SEED,
    )
    return {image.sample_id: image for image in store.read(kind, sorted(store.ids(kind)))}


@pytest.fixture(scope="module")
def expected(pipeline: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[int, StoredImage]:
    """Rows 0 to 12, made in one go."""
    store = ImageStore(tmp_path_factory.mktemp("store"), spec={})
    images = make(pipeline, store, plan_rows(13, seed=SEED))
    store.close()
    return images


def assert_same(images: dict[int, StoredImage], expected: dict[int, StoredImage]) -> None:
    """Bit by bit, for the rows that `images` holds."""
    for sample_id, image in images.items():
        assert image.seed == expected[sample_id].seed
        np.testing.assert_array_equal(image.pixels, expected[sample_id].pixels)


@given(
    num_images=st.integers(0, 300),
    seed=st.integers(0, 2**32 - 1),
    start=st.integers(0, 2**32 - 300),
)
def test_seeds_are_unique_fit_in_32_bits_and_do_not_depend_on_where_a_plan_starts(
    num_images: int, seed: int, start: int
) -> None:
    rows = plan_rows(num_images, seed=seed, start=start)
    assert [row.sample_id for row in rows] == list(range(start, start + num_images))
    assert len({row.seed for row in rows}) == num_images
    assert all(0 <= row.seed < 2**32 for row in rows)
    assert rows == [plan_rows(1, seed=seed, start=row.sample_id)[0] for row in rows]


def test_seeds_wrap_around_after_the_last_one() -> None:
    assert [row.seed for row in plan_rows(3, seed=2**32 - 1)] == [2**32 - 1, 0, 1]


def test_more_rows_than_seeds_are_refused() -> None:
    assert plan_rows(1, seed=5, start=2**32 - 1)[0].seed == 4
    with pytest.raises(ValueError, match="only 2\\*\\*32 different seeds"):
        plan_rows(2, seed=5, start=2**32 - 1)


def test_every_row_becomes_another_image(expected: dict[int, StoredImage]) -> None:
    assert len({image.pixels.tobytes() for image in expected.values()}) == 13
    assert {image.invalid for image in expected.values()} == {""}


def test_an_image_does_not_depend_on_the_order_of_the_rows(
    pipeline: Any, store: ImageStore, expected: dict[int, StoredImage]
) -> None:
    order = np.random.default_rng(0).permutation(13)
    images = make(pipeline, store, [plan_rows(13, seed=SEED)[index] for index in order])
    assert len(images) == 13
    assert_same(images, expected)


@pytest.mark.parametrize("first", [1, 5, 8, 9])
def test_extending_a_plan_keeps_what_there_was_and_makes_the_same_rest(
    pipeline: Any, store: ImageStore, expected: dict[int, StoredImage], first: int
) -> None:
    assert_same(make(pipeline, store, plan_rows(first, seed=SEED)), expected)
    files = {file: file.stat().st_mtime_ns for file in store.folder.rglob("*.png")}
    assert len(files) == first
    images = make(pipeline, store, plan_rows(13, seed=SEED))
    assert len(images) == 13
    assert_same(images, expected)
    assert all(file.stat().st_mtime_ns == made for file, made in files.items())


def test_any_few_rows_are_the_same_as_in_the_whole_plan(
    pipeline: Any, store: ImageStore, expected: dict[int, StoredImage]
) -> None:
    rows = [plan_rows(1, seed=SEED, start=start)[0] for start in (12, 3)]
    images = make(pipeline, store, rows)
    assert set(images) == {3, 12}
    assert_same(images, expected)


def test_the_global_random_state_decides_nothing(
    pipeline: Any, store: ImageStore, expected: dict[int, StoredImage]
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        assert_same(make(pipeline, store, plan_rows(8, seed=SEED)), expected)


def test_an_image_made_alone_is_within_one_grey_level(
    pipeline: Any, store: ImageStore, expected: dict[int, StoredImage]
) -> None:
    rows = plan_rows(10, seed=SEED)[3:]
    for sample_id, image in make(pipeline, store, rows, kind=ALONE, batch_size=1).items():
        difference = image.pixels.astype(int) - expected[sample_id].pixels
        assert np.abs(difference).max() <= 1
    assert not store.ids(PLANNED)


def test_grey_images_have_one_channel(tmp_path: Path, store: ImageStore) -> None:
    images = make(load_tiny(tmp_path / "model", channels=1), store, plan_rows(2, seed=SEED))
    assert {image.pixels.shape for image in images.values()} == {(8, 8, 1)}


def test_progress_starts_with_what_was_kept_and_ends_with_everything(
    pipeline: Any, store: ImageStore
) -> None:
    make(pipeline, store, plan_rows(5, seed=SEED))
    told: list[Progress] = []
    generate(
        pipeline,
        plan_rows(13, seed=SEED),
        store=store,
        batch_size=BATCH,
        steps=STEPS,
        plan_seed=SEED,
        progress=told.append,
    )
    assert told == [Progress(done=done, total=13, resumed=5) for done in (5, 8, 13)]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_images_of_a_denoiser_with_a_broken_weight_are_invalid(
    tmp_path: Path, store: ImageStore, value: float
) -> None:
    broken = load_tiny(tmp_path / "model")
    with torch.no_grad():
        broken.unet.conv_out.bias[0] = value
    images = make(broken, store, plan_rows(3, seed=SEED))
    assert {image.invalid for image in images.values()} == {NON_FINITE}


@contextmanager
def _spoilt(pipeline: Any, value: float, *, sample: int) -> Iterator[None]:
    """One value of one sample of every batch is not what the denoiser said."""

    def spoil(_: object, __: object, output: Any) -> Any:
        output.sample[sample, 0, 0, 0] = value
        return output

    handle = pipeline.unet.register_forward_hook(spoil)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_broken_sample_leaves_the_rest_of_its_batch_valid(
    pipeline: Any, store: ImageStore, expected: dict[int, StoredImage], value: float
) -> None:
    with _spoilt(pipeline, value, sample=2):
        images = make(pipeline, store, plan_rows(8, seed=SEED))
    assert images.pop(2).invalid == NON_FINITE
    assert {image.invalid for image in images.values()} == {""}
    assert_same(images, expected)


def test_constant_images_are_invalid(tmp_path: Path, store: ImageStore) -> None:
    constant = load_tiny(tmp_path / "model")
    with torch.no_grad():
        constant.unet.conv_out.weight.zero_()
        constant.unet.conv_out.bias.fill_(100)  # whatever the noise, every pixel clips to black
    images = make(constant, store, plan_rows(3, seed=SEED))
    assert {image.invalid for image in images.values()} == {FLAT}


def _gradient() -> NDArray[np.uint8]:
    return np.arange(64, dtype=np.uint8).reshape(8, 8, 1).repeat(3, axis=2)


def _flat_colour() -> NDArray[np.uint8]:
    """One colour, whose channels are far apart, and noise that nobody sees."""
    noise = np.random.default_rng(0).integers(0, 3, (8, 8, 3), dtype=np.uint8)
    return noise + np.array([0, 100, 200], dtype=np.uint8)


@pytest.mark.parametrize(
    ("pixels", "settings", "reason"),
    [
        (_gradient(), {"finite": True}, ""),
        (_gradient()[..., :1], {"finite": True}, ""),
        (_gradient(), {"finite": False}, NON_FINITE),
        (_gradient(), {"finite": True, "blocked": True}, BLOCKED),
        (np.zeros((8, 8, 3), np.uint8), {"finite": True, "blocked": True}, BLOCKED),
        (np.zeros((8, 8, 3), np.uint8), {"finite": False, "blocked": True}, NON_FINITE),
        (np.zeros((8, 8, 1), np.uint8), {"finite": True}, FLAT),
        (np.full((8, 8, 3), (0, 100, 200), np.uint8), {"finite": True}, FLAT),
        (_flat_colour(), {"finite": True}, FLAT),
        (_gradient() // 32 * 255, {"finite": True}, FLAT),
        (_gradient() // 8 * 8, {"finite": True}, ""),
    ],
    ids=["gradient", "grey", "nan", "blocked", "black", "all", "flat", "colour", "noisy", "2", "8"],
)
def test_an_image_is_invalid_for_the_first_reason_that_holds(
    pixels: NDArray[np.uint8], settings: dict[str, bool], reason: str
) -> None:
    assert why_invalid(pixels, **settings) == reason


def test_nothing_stays_attached_to_the_denoiser(pipeline: Any, store: ImageStore) -> None:
    make(pipeline, store, plan_rows(1, seed=SEED))
    assert not pipeline.unet._forward_hooks

    def fail(*_: object) -> None:
        raise RuntimeError("device lost")

    handle = pipeline.unet.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="device lost"):
        make(pipeline, store, plan_rows(20, seed=SEED))
    handle.remove()
    assert not pipeline.unet._forward_hooks
    assert store.ids(PLANNED) == {0}


def test_too_little_memory_names_the_option_that_helps(pipeline: Any, store: ImageStore) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError

    handle = pipeline.unet.register_forward_pre_hook(fail)
    with pytest.raises(MemscanError, match=f"--memscan-batch-size {BATCH // 2}"):
        make(pipeline, store, plan_rows(20, seed=SEED))
    handle.remove()


def test_the_rate_of_generation_is_a_positive_number(pipeline: Any) -> None:
    assert 0 < images_per_second(pipeline, batch_size=2, steps=2, plan_seed=0) < float("inf")


def test_a_pipeline_in_pixel_space_has_the_shape_of_its_denoiser(pipeline: Any) -> None:
    assert image_shape(pipeline) == (8, 8, 3)


# --- guided by rows -----------------------------------------------------------------------------


class Shifting:
    """Answers that are shifted by each row's own amount, as a guidance that is told the rows."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.num_open = 0

    @contextmanager
    def __call__(self, pipeline: Any, rows: Sequence[PlanRow]) -> Iterator[None]:
        amounts = torch.tensor([row.sample_id % 5 / 10 for row in rows])

        def shift(_: object, __: object, output: Any) -> None:
            output.sample += amounts[:, None, None, None]

        assert self.num_open == 0
        self.num_open += 1
        self.batches.append([row.sample_id for row in rows])
        handle = pipeline.unet.register_forward_hook(shift)
        try:
            yield
        finally:
            handle.remove()
            self.num_open -= 1


def test_a_guidance_is_told_all_rows_of_every_batch(pipeline: Any, store: ImageStore) -> None:
    guided = Shifting()
    rows = plan_rows(13, seed=SEED)
    settings: dict[str, Any] = {"store": store, "batch_size": BATCH, "steps": STEPS}
    generate(pipeline, rows[3:], plan_seed=SEED, guided=guided, **settings)
    assert guided.batches == [list(range(8)), list(range(8, 16))]  # rows that pad, too
    generate(pipeline, rows, plan_seed=SEED, guided=guided, **settings)
    assert guided.batches[2:] == [list(range(8))]  # nothing else is missing
    generate(pipeline, rows, plan_seed=SEED, guided=guided, **settings)
    assert len(guided.batches) == 3
    assert guided.num_open == 0


def test_an_image_that_is_guided_by_its_row_does_not_depend_on_the_rows_asked_for(
    pipeline: Any, store: ImageStore, tmp_path: Path, expected: dict[int, StoredImage]
) -> None:
    rows = plan_rows(13, seed=SEED)
    settings: dict[str, Any] = {"batch_size": BATCH, "steps": STEPS, "plan_seed": SEED}
    generate(pipeline, rows, store=store, guided=Shifting(), **settings)
    whole = {image.sample_id: image for image in store.read(PLANNED, range(13))}
    other = ImageStore(tmp_path / "other", spec={})
    for part in (rows[9:11], rows[2:5], rows):
        generate(pipeline, part[::-1], store=other, guided=Shifting(), **settings)
    assert_same({image.sample_id: image for image in other.read(PLANNED, range(13))}, whole)
    other.close()
    changed = {
        number for number in whole if (whole[number].pixels != expected[number].pixels).any()
    }
    assert changed == {number for number in range(13) if number % 5}


def test_the_pace_is_that_of_a_guided_batch(pipeline: Any) -> None:
    guided = Shifting()
    rate = images_per_second(pipeline, batch_size=4, steps=2, plan_seed=SEED, guided=guided)
    assert rate > 0
    assert guided.batches == [[0, 1, 2, 3]]
    assert guided.num_open == 0
