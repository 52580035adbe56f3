"""A scan by splitting put together: the stochastic sampler, its store, the budget, the pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pytest_memscan.generating import Recipe, Variant
from pytest_memscan.generation import ProgressCallback
from pytest_memscan.inputs import Inputs
from pytest_memscan.policy import DEFAULT
from pytest_memscan.prompt_inputs import PromptInputs
from pytest_memscan.results import SplittingScan
from pytest_memscan.scans.splitting import Splitting, least_images
from pytest_memscan.scans.splitting_source import Targets
from pytest_memscan.settings import DEFAULT_IMAGES, SHORTEST_REACH, Budget
from pytest_memscan.splitting.chain import ETA
from pytest_memscan.splitting_prompts import SplittingPrompts
from pytest_memscan.store import ImageStore


@dataclass(frozen=True, kw_only=True)
class SplittingScanner:
    """Scans one checkpoint.

    Attributes:
        inputs: Checkpoint, training images and settings.
        cache_dir: Where trajectories and images are kept.
    """

    inputs: Inputs = field(repr=False)
    cache_dir: Path = field(repr=False)

    @cached_property
    def recipe(self) -> Recipe:
        """As the checkpoint's own, but with noise at every step."""
        record: dict[str, object] = {"eta": ETA}
        if self._prompts is None:
            variant = Variant(record=record, load=self.inputs.pipeline)
            return Recipe(inputs=self.inputs, cache_dir=self.cache_dir, variant=variant)
        return Recipe(
            inputs=self.inputs,
            cache_dir=self.cache_dir,
            variant=Variant(
                record=record | {"scheduler": "DDIMScheduler"}, load=self._prompts.pipeline
            ),
            prompting=self._prompts.recipe,
        )

    @cached_property
    def _prompts(self) -> SplittingPrompts | None:
        """None for an unconditional checkpoint."""
        if self.inputs.kind == "unconditional":
            return None
        return SplittingPrompts(inputs=self.inputs, texts_in=PromptInputs(inputs=self.inputs))

    def scan(self, pictures: Path, report: ProgressCallback) -> SplittingScan:
        """Scan, and keep the pictures that a report shows.

        Args:
            pictures: Folder that they go to.
            report: Told how far it is.

        Raises:
            MemscanError: It cannot be done.
        """
        from pytest_memscan.reports.pairs import save_splitting

        inputs, recipe = self.inputs, self.recipe
        store = ImageStore(recipe.store_dir, spec=recipe.spec)
        try:
            splitting = self._splitting(store, report)
            result = splitting.scan(coverage=inputs.coverage(), provenance=recipe.provenance())
            inputs.require_unchanged()
            save_splitting(pictures, result, splitting.pixels_of, splitting.pixels)
        finally:
            store.close()
        return result

    def _splitting(self, store: ImageStore, report: ProgressCallback) -> Splitting:
        inputs, config, prompts = self.inputs, self.inputs.config, self._prompts
        reference, pixels = inputs.reference, inputs.train_data.pixels
        targets = Targets(reference=reference, pixels=pixels)
        if prompts is None:
            default = least_images(len(targets.ids), config.steps, default=DEFAULT_IMAGES)
        else:
            default = prompts.default_images(len(targets.ids))
        num_images = self.recipe.images_of(config.budget or Budget(num_images=default), store)
        return Splitting(
            load_pipeline=inputs.pipeline if prompts is None else prompts.pipeline,
            store=store,
            num_images=num_images,
            seed=config.seed,
            batch_size=self.recipe.batch_size,
            steps=config.steps,
            dtype=config.dtype,
            reach=config.reach,
            shortest_reach=SHORTEST_REACH if config.sources["reach"][1] == DEFAULT else None,
            reference=reference,
            pixels=pixels,
            holdout=None if inputs.holdout is None else inputs.holdout.pixels,
            prompting=None
            if prompts is None
            else prompts.within(num_images, targets, store.folder),
            progress=report,
        )
