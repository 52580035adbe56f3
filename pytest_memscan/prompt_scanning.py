"""A text-to-image scan put together: the checkpoint, its prompts, the store, the tools."""

from __future__ import annotations

import json
import random
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.denoising.conditioning import not_applicable
from pytest_memscan.detectors.run import Scores, screen
from pytest_memscan.errors import OptionError, PromptError
from pytest_memscan.generating import Recipe
from pytest_memscan.generation import Progress, ProgressCallback, Prompting, plan_rows
from pytest_memscan.inputs import Inputs
from pytest_memscan.prompt_inputs import PromptInputs
from pytest_memscan.prompt_statistics import audit_size
from pytest_memscan.sampler import Sampler
from pytest_memscan.scans.prompt_detectors import PATIENCE
from pytest_memscan.scans.prompt_findings import Judged
from pytest_memscan.scans.prompt_images import PromptImages
from pytest_memscan.scans.text_to_image import Campaign, PromptPlan, Tools
from pytest_memscan.sequential import StoppingRule
from pytest_memscan.settings import PIXELS
from pytest_memscan.similarity.matching.pixels import nearest_neighbours
from pytest_memscan.similarity.tiles import GRID, variance
from pytest_memscan.store import ImageStore, canonical_hash

if TYPE_CHECKING:
    from pytest_memscan.similarity.descriptors.descriptor import Descriptor

NUM_SEEDS = 4  # that detectors look at
MOST_MEMORISED = 0.1  # share that the audit excludes where the policy names none
SCREENED_AT_ONCE = 64  # prompts whose scores are kept together
VARIANCE_DESCRIPTOR = "builtin:copy"  # where images are compared by pixels otherwise
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class PromptScanner:
    """Runs every scan of a text-to-image checkpoint.

    Attributes:
        inputs: Checkpoint and settings.
        recipe: Without prompts; they are filled in here.
    """

    inputs: Inputs = field(repr=False)
    base: Recipe = field(repr=False)

    @cached_property
    def texts_in(self) -> PromptInputs:
        """Prompts, planted strings and negatives."""
        return PromptInputs(inputs=self.inputs)

    @cached_property
    def rule(self) -> StoppingRule:
        """When sampling a prompt stops.

        Raises:
            OptionError: So few images per prompt that memorised ones would be missed.
        """
        config = self.inputs.config
        try:
            return StoppingRule(max_images=config.images_per_prompt, batch=self.base.batch_size)
        except ValueError as error:
            raise OptionError(f"--memscan-images-per-prompt: {error}") from None

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
    def calls_per_image(self) -> int:
        """Single-sample denoiser forwards."""
        pipeline: Any = self.inputs.pipeline(self.inputs.config.dtype)
        pipeline.scheduler.set_timesteps(self.inputs.config.steps)
        branches = 1 if not_applicable(pipeline) else 2
        return branches * len(pipeline.scheduler.timesteps)

    @property
    def early_step(self) -> int:
        """Half of the schedule: where one can see whether seeds come together."""
        return ceil(self.inputs.config.steps / 2)

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
        return Judged(campaign=campaign, provenance=self.recipe.provenance())

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
            canaries=None if canaries is None else canaries.coverage,
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
        screening = 2 * NUM_SEEDS * self.early_step / self.calls_per_image  # images a prompt
        clean = self.rule.boundaries[0]
        sampled = PATIENCE + audit_size(10**6, self.limit)
        fixed = num_negatives * (self.rule.batch + screening) + len(texts.canaries) * clean

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
        def progress(done: int, total: int) -> None:
            report(Progress(done=done, total=total, resumed=0))

        return Tools(
            images=images,
            score=lambda ids: self._score(sampler.store, ids, progress),
            variances=self._variances,
            nearest=None if self._train_pixels is None else self._nearest,
            progress=lambda _, done, total: progress(done, total),
        )

    def _score(
        self, store: ImageStore, ids: Sequence[int], progress: Callable[[int, int], None]
    ) -> Scores:
        """Detector scores, some prompts at a time, and kept as they come."""
        blocks = []
        for start in range(0, len(ids), SCREENED_AT_ONCE):
            progress(start, len(ids))
            block = list(ids[start : start + SCREENED_AT_ONCE])
            note = f"scores {canonical_hash({'ids': block, 'seeds': NUM_SEEDS})}"
            kept = store.note(note)
            if kept is None:
                kept = json.dumps(_as_json(self._screened(block)))
                store.set_note(note, kept)
            blocks.append(_from_json(json.loads(kept)))
        return _joined(blocks)

    def _screened(self, ids: Sequence[int]) -> Scores:
        config, prompting = self.inputs.config, self.prompting
        everything = self.texts_in.texts.everything

        def seeds_of(place: int) -> list[int]:
            first = ids[place] * prompting.rows_per_prompt
            return [row.seed for row in plan_rows(NUM_SEEDS, seed=config.seed, start=first)]

        return screen(
            self.inputs.pipeline(config.dtype),
            [everything[text_id] for text_id in ids],
            seeds_of=seeds_of,
            steps=config.steps,
            batch_size=max(1, self.base.batch_size // NUM_SEEDS) * NUM_SEEDS,
            num_seeds=NUM_SEEDS,
            early_step=self.early_step,
            guidance_scale=prompting.guidance_scale,
        )

    def _variances(self, pixels: Pixels) -> dict[str, float]:
        """Over seeds, in each space: pixels in [0, 1], latents of the autoencoder, descriptors."""
        spaces = {
            "pixel": variance(pixels),
            "latent": variance(self._latents(pixels)),
            "descriptor": variance(self._descriptor.describe(pixels)),
        }
        return {space: value for space, value in spaces.items() if np.isfinite(value)}

    def _latents(self, pixels: Pixels) -> NDArray[np.float32]:
        from pytest_memscan.generation import encode

        return encode(self.inputs.pipeline(self.inputs.config.dtype), pixels)

    @cached_property
    def _descriptor(self) -> Descriptor:
        if self.inputs.config.descriptor != PIXELS:
            return self.inputs.descriptor
        from pytest_memscan.similarity.descriptors.presets import load_descriptor

        return load_descriptor(
            VARIANCE_DESCRIPTOR,
            device=self.inputs.device,
            offline=True,
            cache_dir=self.inputs.config.cache_dir,
        )

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


def _as_json(scores: Scores) -> dict[str, Any]:
    columns = {name: values.tolist() for name, values in scores.values.items()}
    parts = {name: values.tolist() for name, values in scores.parts.items()}
    return {
        "values": columns,
        "parts": parts,
        "not_applicable": scores.not_applicable,
        "calls_alone": scores.calls_alone,
        "calls": scores.calls,
    }


def _from_json(kept: Mapping[str, Any]) -> Scores:
    return Scores(
        values={name: np.array(each, np.float64) for name, each in kept["values"].items()},
        parts={name: np.array(each, np.float64) for name, each in kept["parts"].items()},
        not_applicable=kept["not_applicable"],
        calls_alone=kept["calls_alone"],
        calls=kept["calls"],
    )


def _joined(blocks: Sequence[Scores]) -> Scores:
    def column(of: Callable[[Scores], Mapping[str, NDArray[np.float64]]], name: str) -> Any:
        return np.concatenate([of(block)[name] for block in blocks])

    first = blocks[0]
    return replace(
        first,
        values={name: column(lambda block: block.values, name) for name in first.values},
        parts={name: column(lambda block: block.parts, name) for name in first.parts},
        calls=sum(block.calls for block in blocks),
    )
