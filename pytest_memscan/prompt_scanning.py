"""A text-to-image scan put together: the checkpoint, its prompts, the store, the tools."""

from __future__ import annotations

import json
import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.denoising.conditioning import not_applicable
from pytest_memscan.denoising.latents import encode
from pytest_memscan.detectors.catalogue import DEFAULT_DETECTORS, early_step_of
from pytest_memscan.detectors.keeping import as_json, from_json, joined
from pytest_memscan.detectors.run import Scores, screen
from pytest_memscan.errors import OptionError, PromptError
from pytest_memscan.generating import Recipe
from pytest_memscan.generation import (
    Progress,
    ProgressCallback,
    Prompting,
    call_settings,
    plan_rows,
)
from pytest_memscan.inputs import Inputs
from pytest_memscan.prompt_inputs import PromptInputs
from pytest_memscan.prompt_statistics import audit_size
from pytest_memscan.sampler import Sampler
from pytest_memscan.scans.carlini_prompts import num_first
from pytest_memscan.scans.prompt_detectors import PATIENCE
from pytest_memscan.scans.prompt_findings import Judged
from pytest_memscan.scans.prompt_images import PromptImages
from pytest_memscan.scans.text_to_image import Campaign, PromptPlan, Tools
from pytest_memscan.sequential import StoppingRule
from pytest_memscan.similarity.matching.pixels import nearest_neighbours
from pytest_memscan.similarity.tiles import GRID, variance
from pytest_memscan.store import ImageStore, canonical_hash

NUM_SEEDS = 4  # that detectors look at
MOST_MEMORISED = 0.1  # share that the audit excludes where the policy names none
SCREENED_AT_ONCE = 64  # prompts whose scores are kept together
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class PromptScanner:
    """Runs every scan of a text-to-image checkpoint.

    Attributes:
        inputs: Checkpoint and settings.
        texts_in: Prompts, planted strings and negatives.
        base: How images are generated, without prompts; they are filled in here.
    """

    inputs: Inputs = field(repr=False)
    texts_in: PromptInputs = field(repr=False)
    base: Recipe = field(repr=False)

    @cached_property
    def rule(self) -> StoppingRule:
        """When sampling a prompt stops."""
        config = self.inputs.config
        return StoppingRule(
            max_images=config.images_per_prompt,
            batch=self.base.batch_size,
            copy_rate=config.copy_rate,
        )

    @cached_property
    def prompting(self) -> Prompting:
        """Every text of this run, and the rows of each."""
        batches = ceil(self.rule.max_images / self.rule.batch)
        return Prompting(
            prompts=self.texts_in.texts.everything,
            rows_per_prompt=batches * self.rule.batch,
            guidance_scale=self.inputs.config.guidance_scale,
        )

    @cached_property
    def recipe(self) -> Recipe:
        """With the prompts of this run."""
        return replace(self.base, prompting=self.prompting)

    @cached_property
    def branches(self) -> int:
        """Denoiser forwards for each image and step: with the prompt, and mostly without."""
        return 1 if not_applicable(self.inputs.pipeline(self.inputs.config.dtype)) else 2

    @cached_property
    def calls_per_image(self) -> int:
        """Single-sample denoiser forwards."""
        pipeline: Any = self.inputs.pipeline(self.inputs.config.dtype)
        scheduler, steps = pipeline.scheduler, self.inputs.config.steps
        if scheduler.config.get("use_dynamic_shifting"):
            return self.branches * steps  # shifted by a size that only the pipeline knows
        scheduler.set_timesteps(steps)  # some schedulers make more steps than asked for
        return self.branches * len(scheduler.timesteps)

    @property
    def early_step(self) -> int:
        """Where one can see whether seeds come together."""
        return early_step_of(self.inputs.config.steps)

    @property
    def limit(self) -> float:
        """Share of memorised prompts that the audit has to be able to exclude."""
        lines = [line for line in self.inputs.config.thresholds if line.subject == "prompts"]
        rates = [line.limit for line in lines if line.is_rate]
        return min(rates, default=MOST_MEMORISED)

    def scan(self, store: ImageStore, report: ProgressCallback) -> Judged:
        """Scan every prompt that the budget reaches.

        Raises:
            MemscanError: It cannot be done.
        """
        sides = self.inputs.shape.as_tuple[:2]
        if any(side % GRID for side in sides):
            raise PromptError(
                f"images of {sides[1]}x{sides[0]} pixels cannot be cut into {GRID}x{GRID} tiles"
            )
        sampler = self.recipe.sampler(store, num_images=0, report=lambda _: None)
        images = PromptImages(sampler=sampler, rows_per_text=self.prompting.rows_per_prompt)
        plan, images.most = self._plan(store)
        campaign = Campaign(plan=plan, tools=self._tools(images, sampler, report))
        has_train_data = self.inputs.config.has_train_data
        return Judged(
            campaign=campaign,
            train=self.inputs.coverage() if has_train_data else None,
            provenance=self.recipe.provenance() | {"prompt list": self.texts_in.fingerprint},
        )

    def _plan(self, store: ImageStore) -> tuple[PromptPlan, int | None]:
        """What is scanned, and the images that may be spent on it."""
        config, texts = self.inputs.config, self.texts_in.texts
        planned: Sequence[int] = texts.prompt_ids
        most: int | None = None
        if config.budget is not None:
            budget = self.recipe.images_of(config.budget, store)
            count, most = self._within(budget)
            planned = sorted(
                random.Random(config.seed).sample(planned, count)  # noqa: S311 - reproducible
            )
        given, canaries = self.texts_in.prompts, self.texts_in.canaries
        return PromptPlan(
            texts=texts,
            prompts=replace(given.coverage, num_used=len(texts.prompts), num_planned=len(planned)),
            canaries=None
            if canaries is None
            else replace(canaries.coverage, num_planned=canaries.coverage.num_used),
            planned=planned,
            limit=self.limit,
            rule=self.rule,
            calls_per_image=self.calls_per_image,
            places=self.texts_in.places,
            seed=config.seed,
        ), most

    def _within(self, budget: int) -> tuple[int, int]:
        """Prompts that a budget of images reaches, and what is left for images.

        Raises:
            OptionError: Not even for one prompt.
        """
        texts = self.texts_in.texts
        num_negatives = len(texts.recombined) + len(texts.strings)
        # of a prompt, in images
        screening = self.branches * NUM_SEEDS * self.early_step / self.calls_per_image
        clean = self.rule.boundaries[0]
        sampled = PATIENCE + audit_size(10**6, self.limit)
        first = num_first(self.rule)
        fixed = num_negatives * (first + screening) + len(texts.canaries) * clean

        def needed(count: int) -> int:
            return ceil(fixed + count * screening + min(count, sampled) * clean)

        if needed(1) > budget:
            raise OptionError(
                f"--memscan-budget: {budget} images are too few to judge a single prompt: the "
                f"negatives alone need {ceil(fixed)}; at least {needed(1)} are needed, and "
                f"{needed(len(texts.prompts))} for all {len(texts.prompts)} prompts"
            )
        reached = bisect_right(range(1, len(texts.prompts) + 1), budget, key=needed)
        return reached, budget - ceil((num_negatives + reached) * screening)

    def _tools(self, images: PromptImages, sampler: Sampler, report: ProgressCallback) -> Tools:
        def progress(unit: str, done: int, total: int) -> None:
            report(Progress(done=done, total=total, resumed=0, unit=unit))

        return Tools(
            images=images,
            score=lambda ids: self._score(sampler.store, ids, progress),
            variances=self._variances,
            nearest=None if self._train_pixels is None else self._nearest,
            progress=progress,
        )

    def _score(
        self, store: ImageStore, ids: Sequence[int], progress: Callable[[str, int, int], None]
    ) -> Scores:
        """Detector scores, some prompts at a time, and kept as they come."""
        blocks = []
        for start in range(0, len(ids), SCREENED_AT_ONCE):
            progress("prompts screened", start, len(ids))
            block = list(ids[start : start + SCREENED_AT_ONCE])
            asked = {"ids": block, "seeds": NUM_SEEDS, "early step": self.early_step}
            note = f"scores {canonical_hash({**asked, 'detectors': DEFAULT_DETECTORS})}"
            kept = store.note(note)
            if kept is None:
                kept = json.dumps(as_json(self._screened(block)))
                store.set_note(note, kept)
            blocks.append(from_json(json.loads(kept)))
        return joined(blocks)

    def _screened(self, ids: Sequence[int]) -> Scores:
        config, prompting = self.inputs.config, self.prompting
        everything = self.texts_in.texts.everything

        def seeds_of(place: int) -> list[int]:
            first = ids[place] * prompting.rows_per_prompt
            return [row.seed for row in plan_rows(NUM_SEEDS, seed=config.seed, start=first)]

        pipeline = self.inputs.pipeline(config.dtype)
        size = self.base.batch_size
        return screen(
            pipeline,
            [everything[text_id] for text_id in ids],
            seeds_of=seeds_of,
            steps=config.steps,
            batch_size=size - size % NUM_SEEDS or size,
            num_seeds=NUM_SEEDS,
            early_step=self.early_step,
            guidance_scale=prompting.guidance_scale,
            settings=call_settings(pipeline),
        )

    def _variances(self, pixels: Pixels) -> dict[str, float]:
        """Over seeds, in each space: pixels in [0, 1], latents of the autoencoder, descriptors."""
        latents = encode(self.inputs.pipeline(self.inputs.config.dtype), pixels)
        spaces = {"latent": latents, "descriptor": self.inputs.descriptor.describe(pixels)}
        finite = {space: each for space, each in spaces.items() if np.isfinite(each).all()}
        return {"pixel": variance(pixels)} | {each: variance(finite[each]) for each in finite}

    @cached_property
    def _train_pixels(self) -> Pixels | None:
        return self.inputs.train_pixels if self.inputs.config.has_train_data else None

    def _nearest(self, pixels: Pixels) -> tuple[int, float]:
        """Nearest training image, and their normalised L2."""
        train = self._train_pixels
        if train is None:
            raise ValueError("there are no training images")
        near = nearest_neighbours(pixels[None], train, k=1, device=self.inputs.device)
        return int(near.train_ids[0, 0]), float(near.distances[0, 0])
