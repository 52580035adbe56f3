"""What splitting is given of a text-to-image checkpoint: prompts, guidance, latents."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import smooth_images
from pipeline_factory import SIDE, call_settings, save_tiny, tiny_pipeline
from unit.conftest import Resolve

from pytest_memscan.denoising.attach import replaced
from pytest_memscan.denoising.latents import clean_latents_of, images_of
from pytest_memscan.errors import CheckpointError, StoreError
from pytest_memscan.inputs import Inputs
from pytest_memscan.prompt_inputs import PromptInputs
from pytest_memscan.scans.splitting_prompting import SplitPrompting
from pytest_memscan.scans.splitting_source import Targets
from pytest_memscan.similarity.reference import prepare
from pytest_memscan.splitting_prompts import (
    DEFAULT_PROMPTS,
    ENCODED_AT_ONCE,
    FEWEST_IMAGES,
    SplittingPrompts,
    kept_latents,
)

NUM_TEXTS = 10
STEPS = 4
LATENTS = (4, SIDE // 2, SIDE // 2)
NUMBER = ENCODED_AT_ONCE + 6  # so that they are encoded in two parts, the last not a full one


@dataclass(frozen=True)
class Scan:
    """Asks for prompts as a run does, with a folder of its own."""

    prompts: SplittingPrompts
    targets: Targets
    folder: Path

    def within(self, num_images: int) -> SplitPrompting:
        return self.prompts.within(num_images, self.targets, self.folder)

    @property
    def file(self) -> Path:
        (file,) = self.folder.iterdir()
        return file


Make = Callable[..., Scan]


@pytest.fixture(scope="module")
def loaded() -> dict[str, Any]:
    """Checkpoints are loaded once for all tests."""
    return {}


@pytest.fixture(scope="module")
def targets() -> Targets:
    pixels = smooth_images(NUMBER, size=SIDE)
    return Targets(reference=prepare(pixels), pixels=pixels)


@pytest.fixture
def scan(resolve: Resolve, tmp_path: Path, targets: Targets, loaded: dict[str, Any]) -> Make:
    """What a scan with these options is given; nothing is generated."""
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"text {number}\n" for number in range(NUM_TEXTS)))

    def make(family: str = "sd1", **options: Any) -> Scan:
        model = save_tiny(family, tmp_path / family)
        config = resolve(model=str(model), prompts=str(listed), steps=str(STEPS), **options)
        progress: Any = lambda _: nullcontext(lambda _: None)  # noqa: E731
        inputs = Inputs(config=config, cache_dir=tmp_path, progress=progress)
        loaded[family] = loaded.get(family) or inputs.pipeline("float32")
        inputs._pipelines["float32"] = loaded[family]
        folder = tmp_path / "store"
        folder.mkdir(exist_ok=True)
        prompts = SplittingPrompts(inputs=inputs, texts_in=PromptInputs(inputs=inputs))
        return Scan(prompts, targets, folder)

    return make


@contextmanager
def counted(pipeline: Any, scale: float = 1.0) -> Iterator[list[int]]:
    """Images that an autoencoder encodes meanwhile, one entry each; multiplied by `scale`."""
    seen: list[int] = []
    original = pipeline.vae.encode

    def encode(images: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(len(images))
        return original(images * scale, *args, **kwargs)

    with replaced(pipeline.vae, "encode", encode):
        yield seen


# --- prompts within a budget ----------------------------------------------------------------------


def test_a_budget_reaches_as_many_prompts_as_can_have_enough_of_it(scan: Make) -> None:
    """Screening 70 images of 4 steps asks for 88 images, fewer than `FEWEST_IMAGES`."""
    assert FEWEST_IMAGES == 128
    made = scan()
    reached = {4: 1, 127: 1, 255: 1, 256: 2, 384: 3, 1279: 9, 1280: 10, 10**6: 10}
    for num_images, expected in reached.items():
        found = made.within(num_images)
        assert len(found.prompts) == found.coverage.num_planned == expected
        assert found.coverage.num_used == NUM_TEXTS
        ids = [prompt.prompt_id for prompt in found.prompts]
        assert ids == sorted(set(ids))
        assert {prompt.text for prompt in found.prompts} == {f"text {number}" for number in ids}
        assert {prompt.place for prompt in found.prompts} == {f"line {each + 1}" for each in ids}


def test_prompts_are_drawn_by_the_seed_and_a_larger_budget_only_adds_some(scan: Make) -> None:
    def drawn(made: Scan, number: int) -> frozenset[int]:
        return frozenset(each.prompt_id for each in made.within(number * FEWEST_IMAGES).prompts)

    made = scan()
    grown = [drawn(made, number) for number in range(1, NUM_TEXTS + 1)]
    assert all(less < more for less, more in pairwise(grown))
    assert drawn(scan(), 3) == grown[2]
    assert len({drawn(scan(seed=str(seed)), 5) for seed in range(4)}) > 1


def test_seeds_are_shared_out_evenly_whatever_the_budget(scan: Make) -> None:
    assert {scan().within(budget).seeds_each for budget in (4, 1280)} == {2**32 // NUM_TEXTS}


def test_without_a_budget_some_prompts_are_scanned_well(scan: Make) -> None:
    """320 images each; 100,000 training images at 4 steps need 125,000 to be screened."""
    made = scan()
    assert DEFAULT_PROMPTS == 16
    assert made.prompts.default_images(NUMBER) == NUM_TEXTS * 320
    assert made.prompts.default_images(100_000) == NUM_TEXTS * 125_000


@pytest.mark.parametrize("scale", [None, "3"])
def test_guidance_doubles_the_calls_for_an_image(scan: Make, scale: str | None) -> None:
    found = scan(guidance_scale=scale).within(4)
    assert found.calls_per_step == 2
    given = {} if scale is None else {"guidance_scale": 3.0}
    assert dict(found.settings) == {"height": SIDE, "width": SIDE} | given


def test_the_pipeline_is_sampled_by_ddim_and_the_checkpoints_own_stays(scan: Make) -> None:
    prompts = scan("sdxl").prompts
    ours: Any = prompts.pipeline("float32")
    own: Any = prompts.inputs.pipeline("float32")
    assert type(ours.scheduler).__name__ == "DDIMScheduler"
    assert type(own.scheduler).__name__ == "EulerDiscreteScheduler"
    assert ours.unet is own.unet
    assert prompts.pipeline("float32") is ours


def test_a_flow_matching_model_is_refused_in_a_sentence(scan: Make) -> None:
    made = scan("sd3")
    with pytest.raises(CheckpointError, match="flow-matching model, whose sampler adds no noise"):
        made.within(1000)
    assert not list(made.folder.iterdir())


# --- latents --------------------------------------------------------------------------------------


def test_latents_are_encoded_once_and_kept(scan: Make) -> None:
    first, second = scan(), scan()
    with counted(first.prompts.pipeline("float32")) as encoded:
        latents = first.within(4).latents
        assert len(encoded) == NUMBER
        again = second.within(1000).latents
        assert len(encoded) == NUMBER
    assert latents.shape == (NUMBER, *LATENTS)
    assert latents.dtype == np.float32
    np.testing.assert_array_equal(again, latents)
    expected = clean_latents_of(first.prompts.pipeline("float32"), first.targets.pixels)
    np.testing.assert_array_equal(latents, expected)
    assert first.file == second.file


def test_other_training_images_have_latents_of_their_own(scan: Make) -> None:
    made = scan()
    made.within(4)
    pixels = smooth_images(20, size=SIDE, seed=3)
    others = Targets(reference=prepare(pixels), pixels=pixels)
    assert len(made.prompts.within(4, others, made.folder).latents) == 20
    assert len(list(made.folder.iterdir())) == 2


def shortened(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def other_bytes(file: Path) -> None:
    file.write_bytes(b"PK\x03\x04" + file.read_bytes())


def other_header(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content.replace(b"'descr'", b"(((((((", 1))


def fewer(file: Path) -> None:
    np.save(file, np.load(file)[1:])


def doubles(file: Path) -> None:
    np.save(file, np.load(file).astype(np.float64))


def objects(file: Path) -> None:
    np.save(file, np.full(NUMBER, None))


def not_numbers(file: Path) -> None:
    latents = np.load(file)
    latents[3, 0, 0, 0] = np.nan
    np.save(file, latents)


@pytest.mark.parametrize(
    "damage",
    [shortened, emptied, other_bytes, other_header, fewer, doubles, objects, not_numbers],
)
def test_damaged_latents_are_made_again(scan: Make, damage: Callable[[Path], None]) -> None:
    made = scan()
    expected = np.array(made.within(4).latents)
    damage(made.file)
    assert kept_latents(made.file, NUMBER) is None
    np.testing.assert_array_equal(made.within(4).latents, expected)
    assert kept_latents(made.file, NUMBER) is not None


def test_an_autoencoder_that_gives_no_numbers_is_refused_in_a_sentence(scan: Make) -> None:
    made = scan()
    with (
        counted(made.prompts.pipeline("float32"), scale=float("nan")),
        pytest.raises(CheckpointError, match=r"the autoencoder of .* gives no finite latents"),
    ):
        made.within(4)
    assert not list(made.folder.glob("*.npy"))
    assert len(made.within(4).latents) == NUMBER


def test_a_folder_that_cannot_be_written_is_named_without_its_path(scan: Make) -> None:
    made = scan()
    nowhere = made.folder / "gone"
    with pytest.raises(
        StoreError, match=r"cannot keep .* in \.\.\./gone .*--memscan-cache-dir"
    ) as caught:
        made.prompts.within(4, made.targets, nowhere)
    assert str(made.folder) not in str(caught.value)


# --- latents and images ---------------------------------------------------------------------------


def described(family: str) -> Any:
    """A tiny pipeline; "normalised" is SDXL with statistics of its latents, as some have."""
    pipeline = tiny_pipeline("sdxl" if family == "normalised" else family)
    if family == "normalised":
        pipeline.vae.register_to_config(
            latents_mean=[-1.6, 0.8, 0.1, 3.0], latents_std=[8.4, 5.0, 0.5, 1.5], scaling_factor=0.5
        )
    return pipeline


EVERY = ["sd1", "sdxl", "normalised", "pixart-sigma", "sd3"]


@pytest.mark.parametrize("family", EVERY)
def test_latents_become_the_images_that_the_pipeline_makes_of_them(family: str) -> None:
    pipeline = described(family)

    def made(output_type: str) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pipeline(
                prompt="a red cat",
                num_images_per_prompt=2,
                generator=[torch.Generator().manual_seed(seed) for seed in (3, 4)],
                num_inference_steps=2,
                output_type=output_type,
                **call_settings("sdxl" if family == "normalised" else family),
            ).images

    images = images_of(pipeline, made("latent").numpy())
    expected = np.rint(made("np") * 255)
    assert images.dtype == np.uint8
    # One batch or one at a time differ in the last bit, which rounding may make a whole level.
    assert np.abs(images.astype(float) - expected).max() <= 1
    assert (images == expected).mean() > 0.99


@pytest.mark.parametrize("family", EVERY)
def test_images_come_back_as_the_autoencoder_alone_gives_them_back(family: str) -> None:
    pipeline, pixels = described(family), smooth_images(3, size=SIDE)
    scaled = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        expected = pipeline.vae.decode(pipeline.vae.encode(scaled).latent_dist.mode()).sample
    levels = (expected / 2 + 0.5).clamp(0, 1).mul(255).permute(0, 2, 3, 1).numpy()
    latents = clean_latents_of(pipeline, pixels)
    assert latents.dtype == np.float32
    assert latents.shape == (3, *LATENTS)
    assert np.abs(images_of(pipeline, latents) - levels).max() < 0.51


def test_latents_are_scaled_channel_by_channel() -> None:
    """In the scale of the denoiser: 0.5 * (latent - mean) / deviation."""
    pixels = smooth_images(2, size=SIDE)
    plain = clean_latents_of(tiny_pipeline("sdxl"), pixels) / 0.18215  # AutoencoderKL's own
    found = clean_latents_of(described("normalised"), pixels)
    for channel, (mean, deviation) in enumerate([(-1.6, 8.4), (0.8, 5.0), (0.1, 0.5), (3.0, 1.5)]):
        expected = 0.5 * (plain[:, channel] - mean) / deviation
        np.testing.assert_allclose(found[:, channel], expected, rtol=1e-4, atol=1e-5)
