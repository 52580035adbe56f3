"""Images of prompts, in every family: one prompt a batch, the same image whatever came before."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pipeline_factory import FAMILIES, SIDE, tiny_pipeline
from pipeline_factory import call_settings as expected_settings

from pytest_memscan.denoising.latents import encode
from pytest_memscan.errors import MemscanError
from pytest_memscan.generation import (
    ALONE,
    NON_FINITE,
    PLANNED,
    PlanRow,
    Prompting,
    call_settings,
    denoiser_of,
    generate,
    image_shape,
    images_per_second,
    plan_rows,
)
from pytest_memscan.store import ImageStore, StoredImage

STEPS = 3
SEED = 2**32 - 6  # so that the seeds of the plan wrap around
PROMPTS = ("a red cat", "the dog", "a photo of the house")
ROWS = 4  # a prompt
PAIR = 2  # images in a batch
PROMPTING = Prompting(prompts=PROMPTS, rows_per_prompt=ROWS)
GUIDED = [family for family in FAMILIES if not family.startswith("flux")]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    store = ImageStore(tmp_path / "store", spec={})
    yield store
    store.close()


@cache
def prompted(family: str) -> Any:
    """A pipeline that makes `SIDE` pixels; Flux has its size from an attribute of the pipeline."""
    pipeline = tiny_pipeline(family)
    if family.startswith("flux"):
        pipeline.default_sample_size = SIDE // pipeline.vae_scale_factor
    return pipeline


def make_prompted(
    pipeline: Any,
    store: ImageStore,
    rows: list[PlanRow],
    *,
    prompting: Prompting = PROMPTING,
    batch_size: int = PAIR,
    kind: str = PLANNED,
) -> dict[int, StoredImage]:
    generate(
        pipeline,
        rows,
        store=store,
        kind=kind,
        batch_size=batch_size,
        steps=STEPS,
        plan_seed=SEED,
        prompting=prompting,
    )
    return {image.sample_id: image for image in store.read(kind, sorted(store.ids(kind)))}


@contextmanager
def asked_of(pipeline: Any) -> Iterator[list[list[str]]]:
    """Prompts of every call of the pipeline's own tokenizer and text encoder."""
    asked: list[list[str]] = []
    original = pipeline.encode_prompt

    def watch(*args: Any, **kwargs: Any) -> Any:
        prompt = kwargs.get("prompt", args[0] if args else None)
        asked.append(list(prompt))
        return original(*args, **kwargs)

    pipeline.encode_prompt = watch
    try:
        yield asked
    finally:
        del pipeline.encode_prompt


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_makes_the_same_image_in_any_order_and_after_any_break(
    family: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pipeline, rows = prompted(family), plan_rows(len(PROMPTS) * ROWS, seed=SEED)
    stores = [ImageStore(tmp_path_factory.mktemp("store"), spec={}) for _ in range(2)]
    whole = make_prompted(pipeline, stores[0], rows)
    assert len({image.pixels.tobytes() for image in whole.values()}) == len(rows)
    assert {image.invalid for image in whole.values()} == {""}
    assert {image.pixels.shape for image in whole.values()} == {(SIDE, SIDE, 3)}
    # One row of the last prompt alone, then some backwards, then everything.
    for some in ([rows[11]], rows[6:1:-1], rows):
        images = make_prompted(pipeline, stores[1], some)
        for sample_id, image in images.items():
            assert image.seed == whole[sample_id].seed
            np.testing.assert_array_equal(image.pixels, whole[sample_id].pixels)
    assert set(images) == set(whole)
    for store in stores:
        store.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_makes_what_its_pipeline_makes_of_the_prompt(
    family: str, store: ImageStore
) -> None:
    """Called directly, with the arguments that tests of other rooms use."""
    pipeline, rows = prompted(family), plan_rows(PAIR, seed=SEED, start=ROWS)
    made = make_prompted(pipeline, store, rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = pipeline(
            prompt=[PROMPTS[1]] * PAIR,
            generator=[torch.Generator("cpu").manual_seed(row.seed) for row in rows],
            num_inference_steps=STEPS,
            output_type="np",
            **expected_settings(family),
        ).images
    for row, image in zip(rows, expected, strict=True):
        np.testing.assert_array_equal(made[row.sample_id].pixels, np.rint(image * 255))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_called_with_its_own_size(family: str) -> None:
    assert call_settings(prompted(family)) == expected_settings(family)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_shape_of_every_family_is_that_of_its_images(family: str, store: ImageStore) -> None:
    pipeline = prompted(family)
    images = make_prompted(pipeline, store, plan_rows(1, seed=SEED))
    assert image_shape(pipeline) == (SIDE, SIDE, 3) == images[0].pixels.shape


def test_flux_has_its_size_from_the_pipeline() -> None:
    pipeline = tiny_pipeline("flux-schnell")
    side = 128 * pipeline.vae_scale_factor
    assert image_shape(pipeline) == (side, side, 3)


def test_sides_of_different_length_stay_apart() -> None:
    pipeline = tiny_pipeline("sd1")
    pipeline.unet.register_to_config(sample_size=[8, 16])
    assert image_shape(pipeline) == (16, 32, 3)
    settings = call_settings(pipeline)
    assert settings == {"height": 16, "width": 32}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_holds_one_prompt(family: str, store: ImageStore) -> None:
    pipeline = prompted(family)
    with asked_of(pipeline) as asked:
        make_prompted(pipeline, store, plan_rows(len(PROMPTS) * ROWS, seed=SEED)[1:])
    assert asked == [[prompt] * PAIR for prompt in PROMPTS for _ in range(ROWS // PAIR)]


def test_a_short_batch_is_padded_with_rows_of_the_same_prompt(store: ImageStore) -> None:
    pipeline = prompted("sd1")
    with asked_of(pipeline) as asked:
        images = make_prompted(pipeline, store, plan_rows(1, seed=SEED, start=ROWS - 1))
    assert asked == [[PROMPTS[0]] * PAIR]
    assert set(images) == {ROWS - 1}


def test_too_little_memory_names_the_option_that_helps(store: ImageStore) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError

    pipeline = prompted("sd3")
    handle = denoiser_of(pipeline).register_forward_pre_hook(fail)
    try:
        with pytest.raises(MemscanError, match=f"--memscan-batch-size {PAIR // 2}"):
            make_prompted(pipeline, store, plan_rows(2, seed=SEED))
    finally:
        handle.remove()


def test_batches_that_would_mix_prompts_are_refused(store: ImageStore) -> None:
    with pytest.raises(ValueError, match="4 rows a prompt in batches of 3"):
        make_prompted(prompted("sd1"), store, plan_rows(4, seed=SEED), batch_size=3)


def test_the_guidance_scale_is_the_pipelines_own_unless_given(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    made = {}
    for scale in (None, 7.5, 2.0):
        store = ImageStore(tmp_path_factory.mktemp("store"), spec={})
        prompting = Prompting(prompts=PROMPTS, rows_per_prompt=ROWS, guidance_scale=scale)
        images = make_prompted(prompted("sd1"), store, plan_rows(2, seed=SEED), prompting=prompting)
        made[scale] = [image.pixels.tobytes() for image in images.values()]
        store.close()
    assert made[None] == made[7.5]  # the default of Stable Diffusion's pipeline
    assert made[None] != made[2.0]


def test_prompts_are_not_shown_where_settings_are() -> None:
    assert "cat" not in repr(PROMPTING)


@pytest.mark.parametrize("family", GUIDED)
@pytest.mark.parametrize("half", [0, 1], ids=["without the prompt", "with it"])
@pytest.mark.parametrize("row", [0, 1])
def test_one_broken_prediction_of_a_guided_batch_is_its_own_images(
    family: str, half: int, row: int, store: ImageStore
) -> None:
    pipeline = prompted(family)

    def spoil(_: object, __: object, output: Any) -> Any:
        predicted = output[0] if isinstance(output, tuple) else output.sample
        assert len(predicted) == 2 * PAIR
        predicted[half * PAIR + row, 0, 0, 0] = torch.nan
        return output

    handle = denoiser_of(pipeline).register_forward_hook(spoil)
    try:
        images = make_prompted(pipeline, store, plan_rows(2, seed=SEED))
    finally:
        handle.remove()
    assert images[row].invalid == NON_FINITE
    assert images[1 - row].invalid == ""


@pytest.mark.parametrize("half", [0, 1], ids=["without the prompt", "with it"])
@pytest.mark.parametrize("row", [0, 1])
def test_a_broken_prediction_counts_although_it_never_reaches_the_image(
    half: int, row: int, store: ImageStore
) -> None:
    pipeline = prompted("pixart-sigma")  # which drops the second half of the channels

    def spoil(_: object, __: object, output: Any) -> Any:
        output[0][half * PAIR + row, 5, 0, 0] = torch.nan
        return output

    handle = denoiser_of(pipeline).register_forward_hook(spoil)
    try:
        images = make_prompted(pipeline, store, plan_rows(2, seed=SEED))
    finally:
        handle.remove()
    assert [images[each].invalid for each in (row, 1 - row)] == [NON_FINITE, ""]


@pytest.mark.parametrize("family", ["flux-dev", "flux-schnell"])
def test_one_broken_prediction_of_an_unguided_batch_is_its_own_images(
    family: str, store: ImageStore
) -> None:
    pipeline = prompted(family)

    def spoil(_: object, __: object, output: Any) -> Any:
        output[0][1, 0, 0] = torch.inf
        return output

    handle = denoiser_of(pipeline).register_forward_hook(spoil)
    try:
        images = make_prompted(pipeline, store, plan_rows(2, seed=SEED))
    finally:
        handle.remove()
    assert {sample_id: image.invalid for sample_id, image in images.items()} == {
        0: "",
        1: NON_FINITE,
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_images_alone_are_nearly_the_planned_ones(family: str, store: ImageStore) -> None:
    pipeline, rows = prompted(family), plan_rows(3, seed=SEED, start=ROWS)
    planned = make_prompted(pipeline, store, rows)
    alone = make_prompted(pipeline, store, rows, kind=ALONE, batch_size=1)
    for sample_id, image in alone.items():
        assert np.abs(image.pixels.astype(int) - planned[sample_id].pixels).max() <= 1


@pytest.mark.parametrize("family", FAMILIES)
def test_the_rate_of_every_family_can_be_measured(family: str) -> None:
    rate = images_per_second(
        prompted(family), batch_size=PAIR, steps=2, plan_seed=0, prompting=PROMPTING
    )
    assert 0 < rate < float("inf")


@pytest.mark.parametrize("family", FAMILIES)
def test_latents_are_those_of_the_autoencoder(family: str) -> None:
    pipeline = prompted(family)
    pixels = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)
    latents = encode(pipeline, pixels)
    assert latents.shape == (3, 4, SIDE // 2, SIDE // 2)
    assert latents.dtype == np.float32
    assert np.isfinite(latents).all()
    whole = torch.from_numpy(pixels / 255.0).float().permute(0, 3, 1, 2) * 2 - 1
    with torch.no_grad():
        expected = pipeline.vae.encode(whole).latent_dist.mean
    np.testing.assert_allclose(latents, expected.numpy(), atol=1e-5)
    np.testing.assert_array_equal(encode(pipeline, pixels[1:2])[0], latents[1])


def test_an_autoencoder_that_overflows_says_so() -> None:
    pipeline = tiny_pipeline("sd1")
    pipeline.vae.quant_conv.weight.fill_(torch.inf)
    pixels = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    assert not np.isfinite(encode(pipeline, pixels)).all()


def test_a_deprecation_within_the_pipeline_ends_nothing(store: ImageStore) -> None:
    def warn(*_: object) -> None:
        warnings.warn("somebody else's", FutureWarning, stacklevel=1)

    pipeline = prompted("sd1")
    handle = pipeline.unet.register_forward_pre_hook(warn)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            images = make_prompted(pipeline, store, plan_rows(2, seed=SEED))
    finally:
        handle.remove()
    assert set(images) == {0, 1}


@pytest.mark.parametrize("part", ["text_encoder", "unet", "vae"])
def test_images_of_any_broken_part_are_invalid(store: ImageStore, part: str) -> None:
    pipeline = tiny_pipeline("sd1")
    list(getattr(pipeline, part).parameters())[-1].fill_(torch.nan)
    images = make_prompted(pipeline, store, plan_rows(2, seed=SEED))
    assert {image.invalid for image in images.values()} == {NON_FINITE}
