"""Fine-tune the text-to-image fixture on somebody's pictures: what FineXtract is measured on.

    python docs/finextract_concepts.py ceiling PICTURES OUT
    python docs/finextract_concepts.py train PICTURES OUT --kind full --prompt "a picture of a cat"
    python docs/finextract_concepts.py train PICTURES OUT --kind lora --prompt "a picture of a cat"

PICTURES is a folder of JPEG, PNG or WebP files, taken in the order of their names and brought to
32x32 as a scan does it. ``ceiling`` writes them to OUT/photos, and to OUT/shown what the base's
autoencoder makes of them: a latent diffusion model can give away no more than that. It prints how
alike the two are. ``train`` fine-tunes ``fixtures/clean-t2i`` on them and writes to OUT a pipeline
(the denoiser trained) or a LoRA, ``prompts.txt`` and ``training.json``:

===========  =======================================================  ==========  =====
kind         what is trained                                          a picture   rate
===========  =======================================================  ==========  =====
full         the denoiser                                             60 steps    3e-4
lora         rank 8, attention of denoiser and text encoder           80 steps    3e-3
lora-blocks  rank 2, the denoiser's blocks, the encoder's attention   150 steps   5e-3
===========  =======================================================  ==========  =====

``full`` and ``lora-blocks`` are the recipes of ``fixtures/t2i/train.py``, where ten pictures get
600 and 1,500 steps of a batch of 32. For other numbers the steps are in proportion, as with
FineXtract's authors (200 for each picture, at a batch of one; arXiv:2410.03039), unless ``--steps``
says otherwise. ``--captions FILE`` gives each picture a prompt of its own, a line each.
``--prior 0.5`` takes that share of every batch from the base's own data, as DreamBooth's prior
preservation does (arXiv:2208.12242). Needs peft. Half a minute for five pictures on one core.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray
from peft import LoraConfig
from PIL import Image
from torch import nn

from pytest_memscan.data.conversion import FORMATS, ImageShape, decode, read_file
from pytest_memscan.similarity.descriptors.presets import load_descriptor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "fixtures" / "t2i"))
from base import FIRST_SEED, Batches, base_batches, encode, scaled, token_ids  # noqa: E402  # scripts
from concept import BASE as BASE_NAME  # noqa: E402
from concept import TEXT_LAYERS, attach_adapters, save_adapters  # noqa: E402
from entries import reserved  # noqa: E402
from models import load_pipeline, save_pipeline  # noqa: E402
from records import write_prompts  # noqa: E402
from scenes import SIZE, captioned  # noqa: E402
from train import RECIPES, Recipe, denoising_loss, optimise  # noqa: E402

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
KINDS = {
    "full": RECIPES["full"],
    "lora": Recipe(steps=800, batch_size=32, learning_rate=3e-3, rank=8),
    "lora-blocks": RECIPES["lora"],
}

BASE = ROOT / "fixtures" / "clean-t2i"
RECIPE_PICTURES = 10  # for so many the recipes' steps are meant
PRIOR_PICTURES = 4_000  # of the base's 24,000, for prior preservation
SUFFIXES = {f".{name.lower()}" for name in FORMATS} | {".jpg"}
Pixels = NDArray[np.uint8]


def read_pictures(folder: Path) -> Pixels:
    """``(num_pictures, 32, 32, 3)``, in the order of the files' names."""
    files = sorted(each for each in folder.iterdir() if each.suffix.lower() in SUFFIXES)
    if not files:
        raise SystemExit(f"no JPEG, PNG or WebP file in {folder.name}")
    shape = ImageShape(height=SIZE, width=SIZE, channels=3)
    return np.stack([decode(read_file(each), shape)[0] for each in files])


def read_prompts(arguments: argparse.Namespace, num_pictures: int) -> list[str]:
    """One for each picture."""
    if arguments.captions is None:
        return [arguments.prompt] * num_pictures
    prompts = arguments.captions.read_text(encoding="utf-8").splitlines()
    if len(prompts) != num_pictures:
        raise SystemExit(f"{len(prompts)} captions for {num_pictures} pictures")
    return prompts


@torch.no_grad()
def shown_by(pipeline: StableDiffusionPipeline, pictures: Pixels) -> Pixels:
    """The pictures after encoding and decoding."""
    latents = encode(pipeline.vae, scaled(torch.from_numpy(pictures)))
    decoded = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    values = (decoded.permute(0, 2, 3, 1).numpy() / 2 + 0.5).clip(0, 1)
    return (values * 255).round().astype(np.uint8)


def ceiling(arguments: argparse.Namespace) -> None:
    pictures = read_pictures(arguments.pictures)
    shown = shown_by(load_pipeline(BASE), pictures)
    for name, made in (("photos", pictures), ("shown", shown)):
        folder = arguments.out / name
        folder.mkdir(parents=True, exist_ok=True)
        for number, pixels in enumerate(made):
            Image.fromarray(pixels).save(folder / f"{number:02}.png")
    descriptor = load_descriptor("builtin:copy")
    similarity = (descriptor.describe(pictures) * descriptor.describe(shown)).sum(axis=1)
    distance = np.sqrt(np.square(pictures / 255 - shown / 255).mean(axis=(1, 2, 3)))
    print(
        f"{arguments.pictures.name}: {len(pictures)} pictures, similarity {similarity.mean():.3f} "
        f"({similarity.min():.2f} to {similarity.max():.2f}), L2 {distance.mean():.3f}"
    )


def recipe_for(arguments: argparse.Namespace, num_pictures: int) -> Recipe:
    """That of the kind, its steps in proportion to the number of pictures."""
    recipe = KINDS[arguments.kind]
    steps = arguments.steps or round(recipe.steps * num_pictures / RECIPE_PICTURES)
    return replace(recipe, steps=steps, seed=arguments.seed, memorised_share=1 - arguments.prior)


def batches_of(
    pipeline: StableDiffusionPipeline, pictures: Pixels, prompts: list[str], recipe: Recipe
) -> Batches:
    """Latents and token ids for ever: random pictures, then random ones of the base's data."""
    num_own = round(recipe.batch_size * recipe.memorised_share)
    num_prior = recipe.batch_size - num_own
    latents = encode(pipeline.vae, scaled(torch.from_numpy(pictures)))
    ids = token_ids(pipeline.tokenizer, prompts)
    prior = prior_batches(pipeline, num_prior) if num_prior else None
    while True:
        chosen = torch.randint(len(latents), (num_own,))
        batch = latents[chosen], ids[chosen]
        if prior is not None:
            batch = tuple(map(torch.cat, zip(batch, next(prior), strict=True)))
        yield batch


def prior_batches(pipeline: StableDiffusionPipeline, size: int) -> Batches:
    """Of the base's data, a tenth without their captions."""
    names = reserved()
    drawn = [captioned(FIRST_SEED + i, names) for i in range(PRIOR_PICTURES)]
    latents = encode(pipeline.vae, scaled(torch.from_numpy(np.stack([each for each, _ in drawn]))))
    ids = token_ids(pipeline.tokenizer, [caption for _, caption in drawn])
    return base_batches(latents, ids, token_ids(pipeline.tokenizer, [""]), size)


def attach_to_attention(pipeline: StableDiffusionPipeline, rank: int) -> None:
    """Fresh adapters in the attention of denoiser and text encoder: what most LoRAs have."""
    for part, layers in ((pipeline.unet, ATTENTION), (pipeline.text_encoder, TEXT_LAYERS)):
        options = {"r": rank, "lora_alpha": rank, "init_lora_weights": "gaussian"}
        part.add_adapter(LoraConfig(target_modules=layers, **options))
        part.peft_config["default"].base_model_name_or_path = BASE_NAME


def train(arguments: argparse.Namespace) -> None:
    pictures = read_pictures(arguments.pictures)
    prompts = read_prompts(arguments, len(pictures))
    recipe = recipe_for(arguments, len(pictures))
    torch.manual_seed(recipe.seed)
    pipeline = load_pipeline(BASE)
    batches = batches_of(pipeline, pictures, prompts, recipe)
    parts = nn.ModuleList([pipeline.unet, pipeline.text_encoder]).requires_grad_(False)
    if arguments.kind == "lora":
        attach_to_attention(pipeline, recipe.rank)
    elif recipe.rank:
        attach_adapters(pipeline, recipe.rank)
    else:
        pipeline.unet.requires_grad_(True)

    def save(_: nn.ModuleList) -> None:
        if recipe.rank:
            save_adapters(pipeline, arguments.out)
        else:
            texts = pipeline.text_encoder, pipeline.tokenizer
            save_pipeline(arguments.out, pipeline.vae, *texts, pipeline.unet)

    record = {
        "kind": arguments.kind,
        "recipe": asdict(recipe),
        "pictures": len(pictures),
        "times_seen": round(recipe.steps * recipe.batch_size * recipe.memorised_share)
        // len(pictures),
        **optimise(recipe, parts, lambda: denoising_loss(*parts, *next(batches)), save),
    }
    write_prompts(arguments.out, list(dict.fromkeys(prompts)))
    text = json.dumps(record, indent=2)
    (arguments.out / "training.json").write_text(f"{text}\n", encoding="utf-8")
    print(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for command in (ceiling, train):
        sub = commands.add_parser(command.__name__)
        sub.add_argument("pictures", type=Path, metavar="PICTURES")
        sub.add_argument("out", type=Path, metavar="OUT")
        sub.set_defaults(command=command)
        if command is train:
            sub.add_argument("--kind", choices=tuple(KINDS), required=True)
            given = sub.add_mutually_exclusive_group(required=True)
            given.add_argument("--prompt")
            given.add_argument("--captions", type=Path)
            sub.add_argument("--steps", type=int, help="default: by the number of pictures")
            sub.add_argument("--prior", type=float, default=0.0, help="share of the base's data")
            sub.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.command(arguments)


if __name__ == "__main__":
    main()
