"""What a scan reads: every planned image once, made only when it is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from checkpoint_factory import save_tiny_checkpoint
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline
from pipeline_factory import tiny_pipeline

from pytest_memscan.errors import StoreError
from pytest_memscan.generation import ALONE, NON_FINITE, PLANNED, PlanRow, Prompting
from pytest_memscan.sampler import Sampler
from pytest_memscan.store import ImageStore

NUM_IMAGES = 10


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = save_tiny_checkpoint(tmp_path_factory.mktemp("model"))
    loaded = DDPMPipeline.from_pretrained(folder, low_cpu_mem_usage=False)
    scheduler = DDIMScheduler.from_config(loaded.scheduler.config)
    pipeline = DDIMPipeline(unet=loaded.unet, scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    store = ImageStore(tmp_path / "store", spec={})
    yield store
    store.close()


def sampler(store: ImageStore, load_pipeline: Any, **changes: Any) -> Sampler:
    settings = {"num_images": NUM_IMAGES, "seed": 3, "batch_size": 4, "steps": 2}
    return Sampler(
        load_pipeline=load_pipeline, store=store, dtype="float32", **{**settings, **changes}
    )


def refuse(dtype: str) -> NoReturn:
    raise AssertionError(f"the pipeline was loaded in {dtype}")


def read_all(sampler: Sampler, invalid: Counter[str] | None = None) -> tuple[list[int], np.ndarray]:
    """Sample ids and pixels of all blocks."""
    blocks = list(sampler.blocks(Counter() if invalid is None else invalid))
    ids = [int(sample_id) for block, _ in blocks for sample_id in block]
    return ids, np.concatenate([pixels for _, pixels in blocks])


def test_every_planned_image_is_read_once_in_the_order_of_the_plan(
    store: ImageStore, pipeline: Any
) -> None:
    drawn = sampler(store, lambda _: pipeline)
    ids, pixels = read_all(drawn)
    assert ids == list(range(NUM_IMAGES))
    assert pixels.shape == (NUM_IMAGES, 8, 8, 3)
    for sample_id in ids:
        np.testing.assert_array_equal(drawn.pixels_of(sample_id), pixels[sample_id])


def test_nothing_is_loaded_when_the_store_is_complete(store: ImageStore, pipeline: Any) -> None:
    first = sampler(store, lambda _: pipeline)
    ids, pixels = read_all(first)
    alone = first.alone([2, 7])
    again = sampler(store, refuse)
    np.testing.assert_array_equal(read_all(again)[1], pixels)
    for one, other in zip(again.alone([2, 7]), alone, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
    np.testing.assert_array_equal(again.pixels_of(ids[-1]), pixels[-1])
    # A smaller scan of the same recipe needs nothing either.
    assert len(read_all(sampler(store, refuse, num_images=4))[0]) == 4


def test_one_missing_image_is_reason_to_load(store: ImageStore, pipeline: Any) -> None:
    read_all(sampler(store, lambda _: pipeline))
    with pytest.raises(AssertionError, match="loaded in float32"):
        read_all(sampler(store, refuse, num_images=NUM_IMAGES + 1))


@pytest.mark.parametrize("kind", [PLANNED, ALONE])
def test_a_damaged_image_is_made_again_with_identical_bytes(
    store: ImageStore, pipeline: Any, kind: str
) -> None:
    drawn = sampler(store, lambda _: pipeline)
    read_all(drawn)
    drawn.alone([1, 6])
    original = {file: file.read_bytes() for file in store.folder.rglob("*.png")}
    damaged = next(file for file in original if file.match(f"{kind}/*/*6.png"))
    damaged.write_bytes(original[damaged][:-5])
    read_all(drawn)
    drawn.alone([1, 6])
    assert store.damaged == 1
    assert {file: file.read_bytes() for file in store.folder.rglob("*.png")} == original


def test_images_alone_are_made_in_float32_in_the_order_asked_for(
    store: ImageStore, pipeline: Any
) -> None:
    dtypes: list[str] = []

    def load(dtype: str) -> Any:
        dtypes.append(dtype)
        return pipeline

    drawn = sampler(store, load)
    _, pixels = read_all(drawn)
    alone = np.stack([image.pixels for image in drawn.alone([7, 2])])
    assert dtypes == ["float32", "float32"]
    assert np.abs(alone.astype(int) - pixels[[7, 2]]).max() <= 1


def test_invalid_images_are_counted_and_never_read(store: ImageStore, pipeline: Any) -> None:
    def spoil(_: object, __: object, output: Any) -> None:
        output.sample[1] = torch.nan

    handle = pipeline.unet.register_forward_hook(spoil)
    try:
        invalid: Counter[str] = Counter()
        ids, pixels = read_all(sampler(store, lambda _: pipeline), invalid)
    finally:
        handle.remove()
    assert invalid == {NON_FINITE: 3}
    assert ids == [0, 2, 3, 4, 6, 7, 8]
    assert len(pixels) == 7
    # They stay counted when they come from the store.
    again: Counter[str] = Counter()
    read_all(sampler(store, refuse), again)
    assert again == invalid


def test_only_invalid_images_make_no_block(store: ImageStore, pipeline: Any) -> None:
    def spoil(_: object, __: object, output: Any) -> None:
        output.sample.fill_(torch.nan)

    handle = pipeline.unet.register_forward_hook(spoil)
    try:
        invalid: Counter[str] = Counter()
        assert not list(sampler(store, lambda _: pipeline).blocks(invalid))
    finally:
        handle.remove()
    assert invalid == {NON_FINITE: NUM_IMAGES}


def test_images_that_vanish_as_soon_as_they_are_written_are_an_error(
    store: ImageStore, pipeline: Any
) -> None:
    def remove(_: object) -> None:
        for file in store.folder.rglob("*.png"):
            file.unlink()

    with pytest.raises(StoreError, match="change or vanish as soon as they are written"):
        read_all(sampler(store, lambda _: pipeline, progress=remove))


# --- with prompts -------------------------------------------------------------------------------

PROMPTING = Prompting(prompts=("a red cat", "the dog", "the house"), rows_per_prompt=8)


@pytest.fixture(scope="module")
def prompted() -> Any:
    return tiny_pipeline("sd1")


def of_prompts(store: ImageStore, load_pipeline: Any, **changes: Any) -> Sampler:
    return sampler(store, load_pipeline, num_images=0, prompting=PROMPTING, **changes)


def test_images_of_a_prompt_are_made_when_they_are_asked_for(
    store: ImageStore, prompted: Any
) -> None:
    drawn = of_prompts(store, lambda _: prompted)
    first = drawn.images(range(8, 12))
    assert [image.sample_id for image in first] == [8, 9, 10, 11]
    assert store.ids(PLANNED) == {8, 9, 10, 11}
    # Others of the prompt, in the order asked for, some of them there already.
    mixed = drawn.images([13, 9, 12])
    assert [image.sample_id for image in mixed] == [13, 9, 12]
    np.testing.assert_array_equal(mixed[1].pixels, first[1].pixels)
    assert store.ids(PLANNED) == {8, 9, 10, 11, 12, 13}
    again = of_prompts(store, refuse).images([12, 8])
    np.testing.assert_array_equal(again[0].pixels, mixed[2].pixels)
    np.testing.assert_array_equal(drawn.pixels_of(13), mixed[0].pixels)


def test_nothing_is_made_for_no_image(store: ImageStore) -> None:
    assert of_prompts(store, refuse).images([]) == []


def test_an_image_does_not_depend_on_what_was_asked_for_before(
    store: ImageStore, prompted: Any, tmp_path: Path
) -> None:
    whole = of_prompts(store, lambda _: prompted).images(range(12))
    other = ImageStore(tmp_path / "other", spec={})
    backwards = of_prompts(other, lambda _: prompted)
    for sample_id in reversed(range(12)):
        (image,) = backwards.images([sample_id])
        assert image.seed == whole[sample_id].seed
        np.testing.assert_array_equal(image.pixels, whole[sample_id].pixels)
    other.close()


def test_prompts_have_images_of_their_own(store: ImageStore, prompted: Any, tmp_path: Path) -> None:
    drawn = of_prompts(store, lambda _: prompted).images(range(24))
    assert len({image.pixels.tobytes() for image in drawn}) == 24
    same = Prompting(prompts=("a red cat",) * 3, rows_per_prompt=8)
    other = ImageStore(tmp_path / "other", spec={})
    alike = sampler(other, lambda _: prompted, num_images=0, prompting=same).images(range(24))
    other.close()
    equal = [(a.pixels == b.pixels).all() for a, b in zip(drawn, alike, strict=True)]
    assert all(equal[:8])
    assert not any(equal[8:])


def test_invalid_images_of_a_prompt_are_handed_over_with_their_reason(
    store: ImageStore, prompted: Any
) -> None:
    def spoil(_: object, __: object, output: Any) -> None:
        output[0][1] = torch.nan

    handle = prompted.unet.register_forward_hook(spoil)
    try:
        images = of_prompts(store, lambda _: prompted).images(range(8))
    finally:
        handle.remove()
    assert [image.invalid for image in images] == ["", NON_FINITE, "", ""] * 2


def test_a_prompts_image_alone_is_made_with_its_prompt(store: ImageStore, prompted: Any) -> None:
    drawn = of_prompts(store, lambda _: prompted)
    planned = drawn.images([9, 20])
    for one, other in zip(drawn.alone([9, 20]), planned, strict=True):
        assert np.abs(one.pixels.astype(int) - other.pixels).max() <= 1


# --- guided by rows -----------------------------------------------------------------------------


def test_planned_images_and_images_alone_are_guided_by_their_rows(
    store: ImageStore, pipeline: Any
) -> None:
    opened: list[list[int]] = []

    @contextmanager
    def shifted(guided: Any, rows: Sequence[PlanRow]) -> Iterator[None]:
        opened.append([row.sample_id for row in rows])
        amounts = torch.tensor([row.sample_id / 20 for row in rows])

        def shift(_: object, __: object, output: Any) -> None:
            output.sample += amounts[:, None, None, None]

        handle = guided.unet.register_forward_hook(shift)
        try:
            yield
        finally:
            handle.remove()

    drawn = sampler(store, lambda _: pipeline, guided=shifted)
    _, pixels = read_all(drawn)
    assert opened == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    alone = np.stack([image.pixels for image in drawn.alone([7, 2])])
    assert opened[3:] == [[7], [2]]
    assert np.abs(alone.astype(int) - pixels[[7, 2]]).max() <= 1
