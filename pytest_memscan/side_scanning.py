"""A scan by SIDE put together: the samples, the guided samplers, the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.errors import MemscanError, OptionError
from pytest_memscan.generating import Recipe, Variant
from pytest_memscan.generation import Pipeline, PlanRow, Progress, ProgressCallback
from pytest_memscan.guidance.classifier import classifier_guided
from pytest_memscan.inputs import Inputs
from pytest_memscan.results import SideScan
from pytest_memscan.sampler import Sampler
from pytest_memscan.scans.side import PLAIN, Prepared, Side
from pytest_memscan.settings import DEFAULT_IMAGES, Budget
from pytest_memscan.side_lora import LoraBranch
from pytest_memscan.side_settings import VARIANTS, check_variants
from pytest_memscan.side_variants import Attack, SideVariants
from pytest_memscan.store import ImageStore
from pytest_memscan.surrogates.image_classifier import check_labeller

GUIDANCE = "classifier; noise fits the clipped image"  # another text, other images
LEAST_IMAGES = 32  # of plain sampling and of every lambda
LEAST_SAMPLES = 0.9  # share of the samples that must be valid, or labels describe a broken model


@dataclass(frozen=True, kw_only=True)
class SideScanner:
    """Scans one checkpoint.

    Attributes:
        inputs: Checkpoint, training images and settings.
        cache_dir: Where images and classifiers are kept.
    """

    inputs: Inputs = field(repr=False)
    cache_dir: Path = field(repr=False)

    @cached_property
    def recipe(self) -> Recipe:
        """Of plain sampling, whose images `carlini` shares where there are no prompts."""
        prompting = None if self._lora is None else self._lora.plain
        return Recipe(inputs=self.inputs, cache_dir=self.cache_dir, prompting=prompting)

    @cached_property
    def _lora(self) -> LoraBranch | None:
        """None for an unconditional checkpoint."""
        if self.inputs.kind == "unconditional":
            return None
        return LoraBranch(inputs=self.inputs, cache_dir=self.cache_dir)

    def scan(self, pictures: Path, report: ProgressCallback) -> SideScan:
        """Scan, and keep the pictures that a report shows.

        Args:
            pictures: Folder that they go to.
            report: Told how far it is.

        Raises:
            MemscanError: It cannot be done.
        """
        from pytest_memscan.reports.pairs import save_side

        inputs, config = self.inputs, self.inputs.config
        check_variants(config.side.variants, inputs.kind)
        if config.side.labeller is not None:  # before thousands of samples are made for it
            check_labeller(config.side.labeller)
        with ExitStack() as opened:
            store = self._opened(opened, self.recipe)
            num_images = self._num_images(store)
            if self._lora is None:
                self._announce(num_images, report)
            else:
                self._lora.announce(num_images, report)
            plain = self.recipe.sampler(
                store, num_images=num_images + config.side.num_samples, report=report
            )
            samples = _valid(plain, range(num_images, plain.num_images))
            prepared, left_out = self._variants(opened, samples, num_images, report)
            side = Side(
                plain=plain,
                num_images=num_images,
                variants=prepared,
                left_out=left_out,
                reference=inputs.reference,
                holdout=None if inputs.holdout is None else inputs.holdout.pixels,
                forwards={} if self._lora is None else self._lora.forwards,
            )
            result = side.scan(coverage=inputs.coverage(), provenance=self._provenance())
            inputs.require_unchanged()
            made = {(PLAIN, 0.0): plain} | {
                (each.name, scale): sampler for each in prepared for scale, sampler in each.samplers
            }
            save_side(
                pictures,
                result,
                lambda name, scale, sample_id: made[name, scale].pixels_of(sample_id),
                inputs.train_pixels,
            )
        return result

    def _num_images(self, store: ImageStore) -> int:
        """Of plain sampling and of every lambda: a budget of time is shared by all of them."""
        config = self.inputs.config
        budget = config.budget or Budget(num_images=DEFAULT_IMAGES)
        num_images = self.recipe.images_of(budget, store)
        if budget.num_images is None:
            num_images = int((num_images - config.side.num_samples) / self._relative_cost)
        remedy = f"ask for {LEAST_IMAGES}img or more"
        if budget.num_images is None:
            remedy = "allow more, or ask for fewer --memscan-side-samples or --memscan-side-scales"
        if num_images < LEAST_IMAGES:
            raise OptionError(
                f"--memscan-budget leaves {max(0, num_images)} images for each lambda of "
                f"memscan::side beside {config.side.num_samples:,} samples, and {LEAST_IMAGES} are "
                f"the least; {remedy}"
            )
        return num_images

    @property
    def _relative_cost(self) -> float:
        """Of one image of every setting, in images of plain sampling."""
        if self._lora is not None:
            return self._lora.relative_cost
        side = self.inputs.config.side
        return 1 + len(side.scales) * self._most_variants

    @property
    def _most_variants(self) -> int:
        """Which of them the inputs allow is known only when there are samples."""
        return len(self.inputs.config.side.variants) or len(VARIANTS) - 1

    def _announce(self, num_images: int, report: ProgressCallback) -> None:
        """Say what it will cost, before anything is made."""
        side, num_variants = self.inputs.config.side, self._most_variants
        total = side.num_samples + num_images * (1 + len(side.scales) * num_variants)
        unit = (
            f"images at most (variants: {num_variants}, lambdas: {len(side.scales)}), and "
            f"{side.training:,} steps of training for each classifier; what is kept from before "
            "is not made again"
        )
        report(Progress(done=0, total=total, resumed=0, unit=unit))

    def _variants(
        self,
        opened: ExitStack,
        samples: NDArray[np.uint8],
        num_images: int,
        report: ProgressCallback,
    ) -> tuple[list[Prepared], dict[str, str]]:
        """Those that are ready to generate, and why the others are left out."""
        if self._lora is not None:
            prepared = self._lora.prepared(
                samples,
                num_images,
                sampler_of=lambda recipe: recipe.sampler(
                    self._opened(opened, recipe), num_images=num_images, report=report
                ),
                report=report,
            )
            return [prepared], {}
        variants = SideVariants(
            inputs=self.inputs,
            folder=self.cache_dir / "classifiers",
            samples=samples,
            report=report,
        )
        made = [self._prepared(opened, attack, num_images, report) for attack in variants.attacks()]
        return made, variants.left_out

    def _prepared(
        self, opened: ExitStack, attack: Attack, num_images: int, report: ProgressCallback
    ) -> Prepared:
        samplers = []
        for scale in self.inputs.config.side.scales:
            recipe = Recipe(
                inputs=self.inputs, cache_dir=self.cache_dir, variant=self._guided(attack, scale)
            )
            store = self._opened(opened, recipe)
            sampler = recipe.sampler(store, num_images=num_images, report=report)
            samplers.append((scale, sampler))
        return Prepared(
            name=attack.name,
            title=attack.title,
            labels=attack.labels.record,
            training=attack.trained.record,
            samplers=tuple(samplers),
            is_control=attack.is_control,
        )

    def _guided(self, attack: Attack, scale: float) -> Variant:
        def guided(pipeline: Pipeline, rows: Sequence[PlanRow]) -> AbstractContextManager[None]:
            classes = attack.classes_of([row.sample_id for row in rows])
            return classifier_guided(pipeline, attack.trained.classifier, classes, scale)

        record = {
            "guidance": GUIDANCE,
            "classifier": attack.fingerprint,
            "classes": attack.num_asked,
            "lambda": scale,
        }
        return Variant(record=record, load=self.inputs.pipeline, guided=guided)

    def _opened(self, opened: ExitStack, recipe: Recipe) -> ImageStore:
        store = ImageStore(recipe.store_dir, spec=recipe.spec)
        opened.callback(store.close)
        return store

    def _provenance(self) -> dict[str, str]:
        if self._lora is not None:
            return self.recipe.provenance() | self._lora.provenance()
        side = self.inputs.config.side
        return self.recipe.provenance() | {
            "samples": str(side.num_samples),
            "clusters": "by variant" if side.num_clusters is None else str(side.num_clusters),
            "cohesion": "by variant" if side.least_cohesion is None else f"{side.least_cohesion:g}",
            "classifier steps": str(side.training),
        }


def _valid(sampler: Sampler, rows: range) -> NDArray[np.uint8]:
    """The samples that labels are made for, ``(num, height, width, channels)``."""
    images = sampler.images(rows)
    valid = [image.pixels for image in images if not image.invalid]
    if len(valid) < LEAST_SAMPLES * len(rows):
        reasons = sorted({image.invalid for image in images if image.invalid})
        raise MemscanError(
            f"{len(rows) - len(valid):,} of {len(rows):,} samples of the checkpoint are not valid "
            f"({', '.join(reasons)}), so their labels would describe a broken model; check the "
            "checkpoint, or try --memscan-dtype float32"
        )
    return np.stack(valid)
