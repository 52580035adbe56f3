"""What splitting is given besides for a text-to-image checkpoint: prompts, guidance, latents."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap, write_array_header_1_0
from numpy.typing import NDArray

from pytest_memscan.denoising.conditioning import not_applicable
from pytest_memscan.denoising.latents import clean_latents_of, images_of
from pytest_memscan.denoising.sampling import with_ddim
from pytest_memscan.denoising.schedule import read_parametrisation
from pytest_memscan.errors import CheckpointError, MemscanError, StoreError, shown_path
from pytest_memscan.generation import Pipeline, Prompting, call_settings
from pytest_memscan.inputs import Inputs
from pytest_memscan.prompt_inputs import PromptInputs
from pytest_memscan.scans.splitting import least_images
from pytest_memscan.scans.splitting_prompting import SplitPrompting
from pytest_memscan.scans.splitting_source import Prompt, Targets
from pytest_memscan.settings import DEFAULT_IMAGES
from pytest_memscan.splitting.kept import explained

FEWEST_IMAGES = 128  # of a prompt; fewer leave nothing to learn steering from
DEFAULT_PROMPTS = 16  # that are reached where nobody set a budget
ENCODED_AT_ONCE = 64  # training images


@dataclass(frozen=True, kw_only=True)
class SplittingPrompts:
    """Made from the settings of a run, when first asked for and once.

    Attributes:
        inputs: Checkpoint and settings.
        texts_in: The list of prompts.
    """

    inputs: Inputs = field(repr=False)
    texts_in: PromptInputs = field(repr=False)
    _pipelines: dict[str, Pipeline] = field(default_factory=dict, repr=False)

    def pipeline(self, dtype: str) -> Pipeline:
        """The checkpoint's, sampled by DDIM.

        Raises:
            CheckpointError: It has no sampler that adds noise.
        """
        if dtype not in self._pipelines:
            pipeline = self.inputs.pipeline(dtype)
            if read_parametrisation(pipeline.scheduler).kind == "flow":
                raise CheckpointError(
                    f"{self.inputs.checkpoint.label} is a flow-matching model, whose sampler adds "
                    "no noise after the start, and splitting needs one that does; leave splitting "
                    "out of --memscan-scans"
                )
            self._pipelines[dtype] = with_ddim(pipeline)
        return self._pipelines[dtype]

    @cached_property
    def recipe(self) -> Prompting:
        """All prompts, and the seeds of each."""
        texts = self.texts_in.texts.prompts
        return Prompting(
            prompts=texts,
            rows_per_prompt=2**32 // len(texts),
            guidance_scale=self.inputs.config.guidance_scale,
        )

    def default_images(self, num_targets: int) -> int:
        """Images that are spent where nobody set a budget."""
        each = least_images(num_targets, self.inputs.config.steps, default=DEFAULT_IMAGES)
        return each * min(len(self.recipe.prompts), DEFAULT_PROMPTS)

    def within(self, num_images: int, targets: Targets, folder: Path) -> SplitPrompting:
        """The prompts that a budget reaches, drawn at random where not all.

        Args:
            num_images: Of the budget.
            targets: Different training images.
            folder: Where their latents are kept; exists.
        """
        config, texts, places = self.inputs.config, self.recipe.prompts, self.texts_in.places
        each = least_images(len(targets.ids), config.steps, default=FEWEST_IMAGES)
        number = max(1, min(len(texts), num_images // each))
        order = list(range(len(texts)))
        random.Random(config.seed).shuffle(order)  # noqa: S311 - reproducible
        chosen = sorted(order[:number])  # a larger budget adds prompts, and exchanges none
        pipeline: Any = self.pipeline(config.dtype)
        scale = config.guidance_scale
        is_guided = not not_applicable(pipeline) and (scale is None or scale > 1)
        return SplitPrompting(
            prompts=tuple(Prompt(prompt_id=i, text=texts[i], place=places[i]) for i in chosen),
            coverage=replace(
                self.texts_in.prompts.coverage, num_used=len(texts), num_planned=number
            ),
            settings=call_settings(pipeline) | ({} if scale is None else {"guidance_scale": scale}),
            seeds_each=self.recipe.rows_per_prompt,
            calls_per_step=2 if is_guided else 1,
            latents=self._latents(targets, folder),
            decode=lambda latents: images_of(self.pipeline("float32"), latents),
        )

    def _latents(self, targets: Targets, folder: Path) -> NDArray[np.float32]:
        """Of the different training images, kept so that they are encoded once.

        Raises:
            CheckpointError: The autoencoder gives no numbers for some of them.
            StoreError: They cannot be kept.
            MemscanError: Out of memory.
        """
        path, number = folder / f"latents-{targets.fingerprint[:16]}.npy", len(targets.ids)
        kept = kept_latents(path, number)
        if kept is None:
            self._encode(targets, path)
            kept = kept_latents(path, number)
        if kept is None:
            raise StoreError(
                f"latents of the training images in {shown_path(folder)} change or vanish as soon "
                "as they are written; choose another folder with --memscan-cache-dir"
            )
        return kept

    def _encode(self, targets: Targets, path: Path) -> None:
        """Written as they come, and not through a memory map, which a full disk would kill."""
        pipeline = self.pipeline("float32")  # some autoencoders overflow in half precision
        unfinished = path.with_suffix(".unfinished")
        number = len(targets.ids)
        with explained(path.parent), unfinished.open("wb") as file:
            for start in range(0, number, ENCODED_AT_ONCE):
                ids = targets.ids[start : start + ENCODED_AT_ONCE]
                latents = self._encoded(pipeline, targets.pixels[ids])
                if not start:
                    shape = (number, *latents.shape[1:])
                    described = {"descr": "<f4", "fortran_order": False, "shape": shape}
                    write_array_header_1_0(file, described)
                file.write(latents.astype("<f4").tobytes())
            file.flush()
            os.fsync(file.fileno())
            os.replace(unfinished, path)

    def _encoded(self, pipeline: Pipeline, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        try:
            latents = clean_latents_of(pipeline, pixels)
        except torch.OutOfMemoryError:
            raise MemscanError(
                "out of memory while a training image was encoded; try --memscan-device cpu"
            ) from None
        if not np.isfinite(latents).all():
            raise CheckpointError(
                f"the autoencoder of {self.inputs.checkpoint.label} gives no finite latents for "
                "some training images, and splitting cannot steer towards them; leave splitting "
                "out of --memscan-scans"
            )
        return latents


def kept_latents(path: Path, number: int) -> NDArray[np.float32] | None:
    """Latents ``(number, ...)`` of a file; None where it is missing or not what it should be."""
    try:
        kept = open_memmap(path, mode="r")  # unlike `np.load`, of nothing but one array
    except (OSError, ValueError, EOFError, SyntaxError, TokenError):
        return None  # the last two: a header that is no header
    is_whole = kept.dtype == np.float32 and kept.ndim == 4 and len(kept) == number
    return kept if is_whole and np.isfinite(kept).all() else None
