"""Stand-ins for the models, images and lists that the documentation names.

Real files of the kinds that the commands are for, as small as they can be. Two folders, since
`./my-model` is an unconditional checkpoint on one page and a text-to-image one on another.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from adapter_factory import layers_of_fixture, write_kohya
from checkpoint_factory import save_tiny_checkpoint
from hub_server import files_of
from image_factory import save_parquet
from pictures import smooth_images
from PIL import Image

from .blocks import ROOT

FIXTURES = ROOT / "fixtures"
NUM_IMAGES = 60
MIDDLE = 127.5
CAPTIONS = ("a red house", "a boat at sea", "two dogs in the snow", "the old bridge")
CANARIES = ("p7tvklq1hedf", "z0q4hh2m1xsd")
LISTS = {
    **dict.fromkeys(("captions.txt", "p.txt"), CAPTIONS),
    **dict.fromkeys(("canaries.txt", "planted.txt"), CANARIES),
}


@dataclass(frozen=True)
class Places:
    """Where everything is.

    Attributes:
        folders: To start a command in, by kind of checkpoint.
        models: Files of the models on the Hub, by id.
        datasets: The same of datasets.
    """

    folders: dict[str, Path]
    models: dict[str, dict[str, bytes]]
    datasets: dict[str, dict[str, bytes]]


def build(home: Path) -> Places:
    """Write everything under `home`."""
    unconditional = home / "unconditional"
    text_to_image = home / "text-to-image"
    save_tiny_checkpoint(unconditional / "my-model")
    _write_images(unconditional / "images", size=8)
    _write_images(unconditional / "labelled", size=8, folders=("dark", "light"))
    _write_images(unconditional / "others", size=8, folders=("dark", "light"), seed=1)
    _write_images(unconditional / "holdout", size=8, seed=2)
    for name in ("v1", "v2"):
        save_tiny_checkpoint(unconditional / name)
    for name in ("my-model", "my-t2i"):
        _copy(FIXTURES / "clean-t2i", text_to_image / name)
    for name in ("my-finetune", "my-dreambooth"):
        _copy(FIXTURES / "leaky-t2i-full", text_to_image / name)
    _copy(FIXTURES / "leaky-t2i-lora", text_to_image / "my-lora")
    write_kohya(text_to_image / "my-lora.safetensors", layers_of_fixture())
    _write_images(text_to_image / "images", size=32, count=10)
    save_tiny_checkpoint(home / "large" / "my-model")
    _write_images(home / "large" / "images", size=256)
    for name, texts in LISTS.items():
        (text_to_image / name).write_text("\n".join(texts) + "\n", encoding="utf-8")
    items = [
        (path.name, path.read_bytes(), caption)
        for path, caption in zip(
            sorted((unconditional / "images").glob("*.png")), CAPTIONS * NUM_IMAGES, strict=False
        )
    ]
    parquet = save_parquet(home / "train.parquet", items).read_bytes()
    return Places(
        folders={name: home / name for name in ("unconditional", "text-to-image", "large")},
        models={
            "org/name": files_of(unconditional / "my-model"),
            "org/base": files_of(text_to_image / "my-t2i"),
        },
        datasets={"org/dataset": {"data/train-00000-of-00001.parquet": parquet}},
    )


def link_into(folder: Path, source: Path) -> None:
    """Everything in `source`, in place of what is there of another folder of stand-ins.

    Folders are links; links to files are not what users have, and are refused.
    """
    for path in folder.iterdir():
        if path.is_symlink():
            path.unlink()
    for path in source.iterdir():
        if path.is_dir():
            (folder / path.name).symlink_to(path)
        else:
            shutil.copyfile(path, folder / path.name)


def _write_images(
    folder: Path,
    *,
    size: int,
    folders: tuple[str, ...] = (".",),
    seed: int = 0,
    count: int = NUM_IMAGES,
) -> None:
    for number, pixels in enumerate(smooth_images(count, size=size, seed=seed)):
        # By brightness, so that a classifier has something to learn.
        place = folder / folders[int(pixels.mean() > MIDDLE) if len(folders) > 1 else 0]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number:04}.png")


def _copy(source: Path, folder: Path) -> None:
    without: Callable[..., set[str]] = shutil.ignore_patterns(
        "train_images.safetensors", "prompts*", "training.json", "template_masks.safetensors"
    )
    shutil.copytree(source, folder, ignore=without)
