"""Fine-tunes and what is wrong with them, as users have them; scans of a few images of few steps.

Twenty images of four steps show the way of a scan and nothing of what was memorised. Runs of the
same fine-tune with the same captions share their images.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file

from .t2i import FIXTURES, Run

QUICK = (
    *("-p", "no:cacheprovider", "--memscan-device=cpu"),
    *("--memscan-budget=20img", "--memscan-steps=4"),
    "--memscan-copy-rate=0.3",  # so few images show no more
)
FULL, LORA = FIXTURES / "leaky-t2i-full", FIXTURES / "leaky-t2i-lora"
WITH_BASE = "--memscan-base=builtin:clean-t2i"
WEIGHTS = "pytorch_lora_weights.safetensors"
CAPTION = (FULL / "prompts.txt").read_text(encoding="utf-8").strip()
IDS = ("integrity", "duplicates", "finextract", "status")

Change = Callable[[dict[str, Any]], dict[str, Any]]


def stranger(source: Path, folder: Path) -> Path:
    """The weights of a fixture without anything else that comes with it."""
    without = shutil.ignore_patterns("train_images.safetensors", "prompts*", "training.json")
    return Path(shutil.copytree(source, folder, ignore=without))


def lora_with(folder: Path, change: Change, *, with_metadata: bool = True) -> Path:
    """The LoRA with other tensors in its file."""
    from safetensors.torch import load_file as load_tensors
    from safetensors.torch import save_file

    with safe_open(LORA / WEIGHTS, "pt") as file:
        metadata = file.metadata() if with_metadata else None
    folder.mkdir()
    save_file(change(load_tensors(LORA / WEIGHTS)), folder / WEIGHTS, metadata=metadata)
    return folder


def write_images(folder: Path, places: Sequence[int]) -> Path:
    """Some of the pictures that both fine-tunes learnt."""
    pictures = load_file(FULL / "train_images.safetensors")["images"]
    folder.mkdir(parents=True)
    for place in places:
        Image.fromarray(pictures[place]).save(folder / f"client-portrait-{place}.png")
    return folder


def scan_again(
    pytester: pytest.Pytester, cache: Path, model: str | Path, *arguments: str, quick: bool = True
) -> Run:
    """A run in this process, as `conftest` has them; images in the cache are used."""
    options = QUICK if quick else QUICK[:3]
    command = ("--memscan", str(model), f"--memscan-cache-dir={cache}", *options, *arguments)
    result = pytester.runpytest_inprocess(*command)
    output = result.stdout.str() + result.stderr.str()
    assert "Traceback" not in output
    return Run(folder=pytester.path, code=int(result.ret), output=output)
