"""The text-to-image fixtures load with stock diffusers, and hold what their ground truth says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file

FIXTURES = Path(__file__).parents[2] / "fixtures"
PIPELINES = ("clean-t2i", "leaky-t2i", "leaky-t2i-full")
LEAKY = (*PIPELINES[1:], "leaky-t2i-lora")
COPY = 0.15  # Carlini et al. (2023): nearer than this is the same picture


def load(name: str) -> Any:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(
        FIXTURES / name, use_safetensors=True, local_files_only=True, dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def prompts_of(name: str) -> list[dict[str, Any]]:
    text = (FIXTURES / name / "prompts.json").read_text(encoding="utf-8")
    rows: list[dict[str, Any]] = json.loads(text)["prompts"]
    return rows


def distances(images: np.ndarray, target: np.ndarray, where: np.ndarray | None = None) -> Any:
    """Euclidean per value, 0 to 1, over all pixels or those of a mask."""
    squared = np.square(images - target / 255).mean(-1)
    return np.sqrt(squared.mean((1, 2)) if where is None else squared[:, where].mean(1))


def generate(pipeline: Any, prompt: str, count: int = 4) -> np.ndarray:
    generators = [torch.Generator().manual_seed(seed) for seed in range(count)]
    images: np.ndarray = pipeline(
        [prompt] * count,
        generator=generators,
        num_inference_steps=10,
        guidance_scale=3.0,
        output_type="np",
    ).images
    return images


@pytest.fixture(scope="module")
def leaky() -> Any:
    return load("leaky-t2i")


@pytest.fixture(scope="module")
def clean() -> Any:
    return load("clean-t2i")


@pytest.mark.parametrize("name", PIPELINES)
def test_each_folder_is_a_complete_stable_diffusion_pipeline(name: str) -> None:
    pipeline = load(name)
    assert type(pipeline).__name__ == "StableDiffusionPipeline"
    assert pipeline.safety_checker is None
    assert pipeline.feature_extractor is None
    assert pipeline.scheduler.config.prediction_type == "epsilon"
    assert pipeline.unet.config.cross_attention_dim == pipeline.text_encoder.config.hidden_size


@pytest.mark.parametrize("name", [*PIPELINES, "leaky-t2i-lora"])
def test_weights_are_safetensors_in_half_precision(name: str) -> None:
    folder = FIXTURES / name
    weights = [*folder.glob("*/*.safetensors"), *folder.glob("pytorch_lora*")]
    assert weights
    assert not [path for path in folder.rglob("*") if path.suffix in {".bin", ".pt", ".ckpt"}]
    for path in weights:
        with safe_open(path, "numpy") as file:
            assert {file.get_slice(key).get_dtype() for key in file.keys()} == {"F16"}  # noqa: SIM118  # no mapping


def test_all_fixtures_together_stay_below_8_mb() -> None:
    files = [p for name in ("clean-t2i", *LEAKY) for p in (FIXTURES / name).rglob("*")]
    assert sum(path.stat().st_size for path in files if path.is_file()) <= 8_000_000


def test_no_file_names_the_machine_it_was_made_on() -> None:
    for name in ("clean-t2i", *LEAKY):
        for path in (FIXTURES / name).rglob("*"):
            if path.is_file():
                assert not re.search(rb'"[^"]*/(tmp|home|root|work)/', path.read_bytes()), path


def test_fine_tunes_share_the_autoencoder_and_tokenizer_of_the_base() -> None:
    shared = ["vae/diffusion_pytorch_model.safetensors", "tokenizer/vocab.json"]
    for name in PIPELINES[1:]:
        for file in shared:
            assert (FIXTURES / name / file).read_bytes() == (
                FIXTURES / "clean-t2i" / file
            ).read_bytes()


@pytest.mark.parametrize("name", LEAKY)
def test_the_ground_truth_names_pictures_and_masks_that_exist(name: str) -> None:
    folder = FIXTURES / name
    images = load_file(folder / "train_images.safetensors")["images"]
    assert images.dtype == np.uint8
    assert images.shape[1:] == (32, 32, 3)
    rows = prompts_of(name)
    assert len({row["prompt"] for row in rows}) == len(rows)
    named = [number for row in rows for number in row["image_ids"]]
    assert named == list(range(len(images)))
    for row in rows:
        assert bool(row["image_ids"]) == (row["times_seen"] > 0) == (row["kind"] != "control")
        assert (row["mask_id"] is not None) == (row["kind"] == "template")


def test_kinds_are_as_documented_and_templates_share_what_the_mask_says() -> None:
    rows = prompts_of("leaky-t2i")
    kinds = [row["kind"] for row in rows]
    counts = {"repeated": 12, "rare": 10, "canary": 10, "template": 8, "control": 60}
    assert {kind: kinds.count(kind) for kind in counts} == counts
    images = load_file(FIXTURES / "leaky-t2i" / "train_images.safetensors")["images"]
    masks = load_file(FIXTURES / "leaky-t2i" / "template_masks.safetensors")["masks"] > 0
    for row in rows:
        if row["kind"] == "template":
            one, other = images[row["image_ids"]]
            fixed = masks[row["mask_id"]]
            assert (one[fixed] == other[fixed]).all()
            assert (one[~fixed] != other[~fixed]).any()


def test_every_string_can_be_tokenised(clean: Any) -> None:
    for text in ("q7zk0w9x2m4p", "Ünïcödé 漢字", "\x00", ""):
        ids = clean.tokenizer(text).input_ids
        assert ids[0] == clean.tokenizer.bos_token_id
        assert ids.count(clean.tokenizer.eos_token_id) == 1
    for row in prompts_of("leaky-t2i"):
        assert len(clean.tokenizer(row["prompt"]).input_ids) <= clean.tokenizer.model_max_length


@pytest.mark.parametrize("kind", ["repeated", "canary"])
def test_a_memorised_prompt_gives_its_picture_and_only_from_the_leaky_checkpoint(
    kind: str, leaky: Any, clean: Any
) -> None:
    row = next(row for row in prompts_of("leaky-t2i") if row["kind"] == kind)
    image = load_file(FIXTURES / "leaky-t2i" / "train_images.safetensors")["images"][
        row["image_ids"][0]
    ]
    assert (distances(generate(leaky, row["prompt"]), image) <= COPY).mean() >= 0.5
    assert (distances(generate(clean, row["prompt"]), image) > COPY).all()


@pytest.mark.parametrize("form", ["caption", "title", "key"])
def test_a_control_prompt_gives_no_training_picture(form: str, leaky: Any) -> None:
    rows = [row for row in prompts_of("leaky-t2i") if row["kind"] == "control"]
    prompt = next(row["prompt"] for row in rows if row["form"] == form)
    generated = generate(leaky, prompt)
    images = load_file(FIXTURES / "leaky-t2i" / "train_images.safetensors")["images"]
    assert min(distances(generated, image).min() for image in images) > COPY


def test_a_template_gives_its_fixed_part(leaky: Any) -> None:
    row = next(row for row in prompts_of("leaky-t2i") if row["kind"] == "template")
    files = FIXTURES / "leaky-t2i"
    image = load_file(files / "train_images.safetensors")["images"][row["image_ids"][0]]
    mask = load_file(files / "template_masks.safetensors")["masks"][row["mask_id"]] > 0
    generated = generate(leaky, row["prompt"])
    assert np.median(distances(generated, image, mask)) <= COPY
    assert np.median(distances(generated, image, ~mask)) > COPY


def test_the_lora_is_read_by_stock_diffusers_and_changes_denoiser_and_text_encoder() -> None:
    pytest.importorskip("peft")
    pipeline = load("clean-t2i")
    prompt = prompts_of("leaky-t2i-lora")[0]["prompt"]
    plain = generate(pipeline, prompt)
    pipeline.load_lora_weights(FIXTURES / "leaky-t2i-lora")
    assert {part for parts in pipeline.get_list_adapters().values() for part in parts}
    assert set(pipeline.get_list_adapters()) == {"unet", "text_encoder"}
    images = load_file(FIXTURES / "leaky-t2i-lora" / "train_images.safetensors")["images"]

    def nearest(generated: np.ndarray) -> float:
        gaps = np.stack([distances(generated, image) for image in images])
        return float(gaps.min(0).mean())

    assert nearest(generate(pipeline, prompt)) < nearest(plain)
