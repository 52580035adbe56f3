"""A scan by splitting put together: the stochastic sampler, its store, the budget, the pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pytest_memscan.generating import Recipe, Variant
from pytest_memscan.generation import ProgressCallback
from pytest_memscan.inputs import Inputs
from pytest_memscan.policy import DEFAULT
from pytest_memscan.results import SplittingScan
from pytest_memscan.scans.splitting import Splitting, least_images
from pytest_memscan.settings import DEFAULT_IMAGES, Budget
from pytest_memscan.splitting.chain import ETA
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
        variant = Variant(record={"eta": ETA}, load=self.inputs.pipeline)
        return Recipe(inputs=self.inputs, cache_dir=self.cache_dir, variant=variant)

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
        inputs, config = self.inputs, self.inputs.config
        num_targets = len(inputs.reference.groups.representatives)
        default = least_images(num_targets, config.steps, default=DEFAULT_IMAGES)
        budget = config.budget or Budget(num_images=default)
        return Splitting(
            load_pipeline=inputs.pipeline,
            store=store,
            num_images=self.recipe.images_of(budget, store),
            seed=config.seed,
            batch_size=self.recipe.batch_size,
            steps=config.steps,
            dtype=config.dtype,
            reach=config.reach,
            may_shorten=config.sources["reach"][1] == DEFAULT,
            reference=inputs.reference,
            pixels=inputs.train_data.pixels,
            holdout=None if inputs.holdout is None else inputs.holdout.pixels,
            progress=report,
        )
