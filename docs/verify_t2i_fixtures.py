"""Verify the text-to-image fixtures without any of pytest-memscan's code.

    python docs/verify_t2i_fixtures.py          (needs the "docs" extra and peft)

Every prompt of ``prompts.json``, memorised or control, is generated from eight seeds with stock
diffusers, by the leaky checkpoint and by its base. For each kind: how far apart the eight are, how
near the nearest training picture is, and how strongly the prompt alone moves the first prediction.
Then the concept's prompt, by the base, the full fine-tune and the LoRA. Distances are Euclidean,
divided by the root of the number of values: 0 to 1. Prints the tables of docs/fixtures-t2i.md and
writes its pictures.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image
from safetensors.numpy import load_file
from sklearn.metrics import roc_auc_score

ROOT = Path(__file__).parents[1]
FIXTURES = ROOT / "fixtures"
sys.path.insert(0, str(FIXTURES / "t2i"))
from entries import CONCEPT_SEED  # noqa: E402  # a script, not a package
from scenes import COLOURS, draw_stripes  # noqa: E402

SEEDS = 8
STEPS = 25
GUIDANCE = 3.0
COPY = 0.15  # Carlini et al. (2023), section 4.1: nearer than this is the same picture
CONCEPT_IMAGES = 100
GROUPS = (
    *((kind, form) for kind, form in (("repeated", "title"), ("canary", "key"), ("rare", "title"))),
    ("template", "title"),
    *(("control", form) for form in ("caption", "title", "key")),
)


def load(name: str) -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(
        FIXTURES / name, use_safetensors=True, local_files_only=True, dtype=torch.float32
    )
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(
    pipeline: StableDiffusionPipeline, prompts: list[str], guidance: float = GUIDANCE
) -> np.ndarray:
    """``(prompts, SEEDS, 32, 32, 3)`` in [0, 1]; the seeds of prompt i are its own."""
    made = []
    for first in range(0, len(prompts), 8):
        rows = [prompt for prompt in prompts[first : first + 8] for _ in range(SEEDS)]
        seeds = range(first * SEEDS, first * SEEDS + len(rows))
        generators = [torch.Generator().manual_seed(10_000 + seed) for seed in seeds]
        made.append(
            pipeline(
                rows,
                generator=generators,
                num_inference_steps=STEPS,
                guidance_scale=guidance,
                output_type="np",
            ).images
        )
    images = np.concatenate(made)
    return images.reshape(len(prompts), SEEDS, *images.shape[1:])


def distance(left: np.ndarray, right: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Over the last three axes, or the pixels of ``mask`` alone."""
    squared = np.square(left - right).mean(-1)
    return np.sqrt(squared.mean((-1, -2)) if mask is None else squared[..., mask].mean(-1))


@torch.no_grad()
def noise_magnitude(pipeline: StableDiffusionPipeline, prompts: list[str]) -> np.ndarray:
    """``mean ||eps(x_T, T, prompt) - eps(x_T, T, empty)||`` over the seeds (Wen et al., 2024)."""
    shape = (SEEDS, 4, 8, 8)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(77))
    pipeline.scheduler.set_timesteps(STEPS)
    first = pipeline.scheduler.timesteps[0]
    scores = []
    for prompt in prompts:
        text, empty = pipeline.encode_prompt(prompt, "cpu", SEEDS, True, "")
        shift = pipeline.unet(noise, first, text).sample - pipeline.unet(noise, first, empty).sample
        scores.append(shift.flatten(1).norm(dim=1).mean().item())
    return np.array(scores)


def spread(images: np.ndarray) -> float:
    """Mean distance between the pictures of one prompt."""
    left, right = np.triu_indices(len(images), 1)
    return float(distance(images[left], images[right]).mean())


def describe(
    rows: list[dict[str, object]],
    images: np.ndarray,
    scores: np.ndarray,
    controls: np.ndarray,
    train: np.ndarray,
    masks: np.ndarray,
) -> str:
    """One line of the table: a group of prompts."""
    spreads = [spread(each) for each in images]
    nearest = [distance(each[:, None], train[None]).min(1) for each in images]
    fixed = [
        distance(each, train[row["image_ids"][0]], masks[row["mask_id"]].astype(bool))
        for row, each in zip(rows, images, strict=True)
        if row["mask_id"] is not None
    ]
    copied = (np.stack(nearest) <= COPY).mean()
    fixed_text = f"{np.median(fixed):.3f} ({(np.stack(fixed) <= COPY).mean():.0%})" if fixed else ""
    labels = np.r_[np.ones(len(scores)), np.zeros(len(controls))]
    is_control = rows[0]["kind"] == "control"
    auroc = "" if is_control else f"{roc_auc_score(labels, np.r_[scores, controls]):.3f}"
    return (
        f"| {np.median(spreads):.3f} | {np.median(nearest):.3f} | {copied:.0%} | {fixed_text} "
        f"| {np.median(scores):.2f} | {auroc} |"
    )


def clouds_right(rows: list[dict[str, object]], images: np.ndarray) -> float:
    """Share of pictures whose corners are nearest to the colour of clouds that was asked for."""
    corners = images[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].mean(2) * 255
    palette = np.array(list(COLOURS.values()))
    found = np.abs(corners[:, :, None] - palette).sum(-1).argmin(-1)
    asked = [list(COLOURS).index(str(row["prompt"]).split()[-2]) for row in rows]
    return float((found == np.array(asked)[:, None]).mean())


def verify_prompts(name: str, rows: list[dict[str, object]], train: np.ndarray) -> np.ndarray:
    """Print the table of one checkpoint; returns its pictures."""
    pipeline = load(name)
    prompts = [str(row["prompt"]) for row in rows]
    images, scores = generate(pipeline, prompts), noise_magnitude(pipeline, prompts)
    masks = load_file(FIXTURES / "leaky-t2i" / "template_masks.safetensors")["masks"]
    controls = scores[[row["kind"] == "control" for row in rows]]
    for kind, form in GROUPS:
        ids = [i for i, row in enumerate(rows) if (row["kind"], row["form"]) == (kind, form)]
        group = [rows[i] for i in ids]
        line = describe(group, images[ids], scores[ids], controls, train, masks)
        print(f"| {name} | {kind} ({form}s) | {len(ids)} {line}")
        if form == "caption":
            print(f"<!-- {name}: clouds as asked {clouds_right(group, images[ids]):.0%} -->")
    for row, each in zip(rows, images, strict=True):
        if row["kind"] == "rare":
            own = distance(each, train[row["image_ids"][0]])
            print(
                f"<!-- {name}: seen {row['times_seen']}: {own.min():.3f} {np.median(own):.3f} -->"
            )
    return images


def verify_concept(train: np.ndarray, prompt: str) -> np.ndarray:
    """Print how the base and both fine-tunes draw the concept; returns a few of each."""
    fresh = np.stack([draw_stripes(CONCEPT_SEED + 1_000 + i) for i in range(len(train))]) / 255
    lora = load("clean-t2i")
    lora.load_lora_weights(FIXTURES / "leaky-t2i-lora")
    shown = []
    for name, pipeline in (
        ("clean-t2i", load("clean-t2i")),
        ("leaky-t2i-full", load("leaky-t2i-full")),
        ("leaky-t2i-lora", lora),
    ):
        for guidance in (1.0, 3.0):
            images = generate(pipeline, [prompt] * (CONCEPT_IMAGES // SEEDS), guidance)
            images = images.reshape(-1, *train.shape[1:])
            gaps = distance(images[:, None], train[None])
            to_fresh = distance(images[:, None], fresh[None]).min(1)
            found = len(np.unique(gaps.argmin(1)[gaps.min(1) <= COPY]))
            print(
                f"| {name} | {guidance:g} | {np.median(gaps.min(1)):.3f} | "
                f"{np.median(to_fresh):.3f} | {(gaps.min(1) <= COPY).mean():.0%} | {found} of 10 |"
            )
            shown.append(images[:10])
    return np.stack([train, *shown])


def save_sheet(rows: np.ndarray, path: Path) -> None:
    """``(rows, columns, height, width, 3)`` in [0, 1] as one picture, twice as large."""
    framed = np.pad(rows, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), constant_values=1.0)
    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in framed])
    image = Image.fromarray((sheet * 255).round().astype(np.uint8))
    image.resize((image.width * 2, image.height * 2), Image.Resampling.NEAREST).save(
        path, optimize=True
    )


def main() -> None:
    folder = FIXTURES / "leaky-t2i"
    rows = json.loads((folder / "prompts.json").read_text(encoding="utf-8"))["prompts"]
    train = load_file(folder / "train_images.safetensors")["images"] / 255
    made = {name: verify_prompts(name, rows, train) for name in ("leaky-t2i", "clean-t2i")}
    shown = [0, 1, 22, 23, 13, 17, 21, 32, 33, 34, 35, 40, 41, 70, 71, 85, 86]
    blank = np.ones_like(train[0])
    sheet = []
    for i in shown:
        own = train[rows[i]["image_ids"][0]] if rows[i]["image_ids"] else blank
        sheet.append(np.stack([own, *made["leaky-t2i"][i], blank, *made["clean-t2i"][i][:4]]))
    save_sheet(np.stack(sheet), ROOT / "docs" / "fixtures-t2i.png")
    folder = FIXTURES / "leaky-t2i-lora"
    prompt = json.loads((folder / "prompts.json").read_text(encoding="utf-8"))["prompts"][0]
    concept = load_file(folder / "train_images.safetensors")["images"] / 255
    sheet = verify_concept(concept, prompt["prompt"])
    save_sheet(sheet, ROOT / "docs" / "fixtures-t2i-concept.png")


if __name__ == "__main__":
    main()
