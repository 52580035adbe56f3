"""A scan of a fine-tune put together: both models, captions, methods, stores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.errors import OptionError
from pytest_memscan.finetune_methods import FinetuneMethods, Way
from pytest_memscan.generating import Recipe
from pytest_memscan.generation import Progress, ProgressCallback, Prompting
from pytest_memscan.results import FinetuneScan
from pytest_memscan.scans.finetune_plan import (
    DEFAULT_TRAIN_IMAGES,
    IMAGES_PER_TRAIN_IMAGE,
    MOST_IMAGES,
    RATE,
    Method,
    Scanned,
    Stopping,
    Target,
    images_to_show,
)
from pytest_memscan.scans.finetune_sets import combined
from pytest_memscan.scans.finextract import finextract
from pytest_memscan.similarity.described import describe_generated, measure_of
from pytest_memscan.store import ImageStore, canonical_hash, exclusive

ROWS_PER_CAPTION = 2**16  # of the plan, at most; fixed, so that a larger budget goes on from here


@dataclass(frozen=True, kw_only=True)
class FinetuneScanner(FinetuneMethods):
    """Scans one fine-tune.

    Attributes:
        cache_dir: Where generated images are kept.
    """

    cache_dir: Path = field(repr=False)

    @cached_property
    def folder(self) -> Path:
        """Where the images of all its methods are kept."""
        return self.cache_dir / "finetunes" / canonical_hash(self._recipe(self._ways[0]).spec)

    def provenance(self) -> dict[str, str]:
        """What must match before two results may be compared."""
        inputs, own = self.inputs, self._recipe(self._ways[0]).provenance()
        base = inputs.base
        return own | {
            "base": "none" if base is None else base.label,
            "base commit": (base.commit if base is not None else None) or "local files",
            "methods": "; ".join(f"{way.name} ({way.settings})" for way in self._ways),
            **{f"descriptor {key}": value for key, value in inputs.descriptor.record.items()},
        }

    def target(self, report: ProgressCallback, stores: ExitStack) -> Target:
        """Everything a scan needs.

        Args:
            report: Told how many images there are.
            stores: Closes the stores that are opened here.

        Raises:
            MemscanError: It cannot be done.
        """
        inputs, captions = self.inputs, self.captions
        methods = [self._method(way, stores) for way in self._ways]
        planned = self._planned(methods)
        total = planned * (len(methods) - 1)

        def tell(_: str, done: int) -> None:
            report(Progress(done=done, total=max(total, done), resumed=0))

        has_train_data = inputs.config.has_train_data
        return Target(
            name=inputs.checkpoint.label,
            fit=self.finetune.fit,
            captions=(captions.kind, captions.origin, captions.note),
            prompts=captions.coverage,
            guided=tuple(each for each in methods if each.name == "finextract"),
            baselines=tuple(each for each in methods if each.name in ("direct", "cfg")),
            base=methods[-1],
            order=self._order(planned),
            describe=partial(describe_generated, inputs.descriptor),
            reference=inputs.described if has_train_data else None,
            high_level=1.0 - levels[-1].cut if (levels := inputs.descriptor.levels) else None,
            holdout=None if inputs.holdout is None else inputs.holdout.pixels,
            source=inputs.coverage() if has_train_data else None,
            stopping=self._stopping(planned),
            rule=inputs.config.clustering,
            report=tell,
        )

    @property
    def train_pixels(self) -> NDArray[np.uint8] | None:
        """Training images, where there are any and more than their descriptors is known."""
        return self.inputs.train_pixels if self.inputs.config.has_train_data else None

    def forget_models(self) -> None:
        """Free their memory; they are loaded again should an image have to be made again."""
        self.__dict__.pop("finetune", None)
        self.inputs.forget_models()

    def _method(self, way: Way, stack: ExitStack) -> Method:
        recipe = self._recipe(way)
        store = ImageStore(self.folder / canonical_hash(recipe.spec), spec=recipe.spec)
        stack.callback(store.close)
        return Method(
            name=way.name,
            settings=way.settings,
            sampler=recipe.sampler(store, num_images=0, report=lambda _: None),
            calls_per_image=way.calls_per_step * self.inputs.config.steps,
            scale=way.scale,
        )

    def _recipe(self, way: Way) -> Recipe:
        batch = self.inputs.config.batch_size("text-to-image")
        return Recipe(
            inputs=self.inputs,
            cache_dir=self.cache_dir,
            prompting=Prompting(
                prompts=self.captions.texts,
                rows_per_prompt=ROWS_PER_CAPTION // batch * batch,
                guidance_scale=way.guidance_scale,
            ),
            variant=way.variant,
        )

    def _planned(self, methods: list[Method]) -> int:
        """Images of each method, whole batches of every caption.

        Raises:
            OptionError: The budget is too small for that.
        """
        config, captions = self.inputs.config, self.captions.texts
        batch = config.batch_size("text-to-image")
        round_of_all = batch * len(captions)
        num_train = self._num_train
        if config.budget is None:
            wanted = IMAGES_PER_TRAIN_IMAGE * (num_train or DEFAULT_TRAIN_IMAGES)
            least = images_to_show(self._rate, num_train or 1)
            wanted = max(min(wanted, MOST_IMAGES), least)
            return max(round_of_all, math.ceil(wanted / batch) * batch)
        guided = next(each for each in methods if each.name == "finextract")
        way = next(each for each in self._ways if each.name == "finextract")
        allowed = self._recipe(way).images_of(config.budget, guided.sampler.store)
        if config.budget.num_images is None:
            # Measured for model guidance alone; the others make as many images.
            everything = sum(each.calls_per_image for each in methods if each.name != "base")
            allowed = allowed * guided.calls_per_image // everything
        if allowed < (needed := max(num_train or 1, round_of_all)):
            raise OptionError(
                f"--memscan-budget: {allowed} images of each method are too few; at least {needed} "
                f"are needed, one for each training image ({num_train or 'none known'}) and a "
                f"batch of {batch} for each caption ({len(captions)})"
            )
        return allowed

    @property
    def _num_train(self) -> int | None:
        if not self.inputs.config.has_train_data:
            return None
        return len(self.inputs.described.groups.representatives)

    def _order(self, planned: int) -> list[int]:
        """Batches of every caption in turn."""
        batch = self.inputs.config.batch_size("text-to-image")
        rows = ROWS_PER_CAPTION // batch * batch
        num_rounds = math.ceil(planned / (batch * len(self.captions.texts)))
        order = [
            caption * rows + turn * batch + place
            for turn in range(num_rounds)
            for caption in range(len(self.captions.texts))
            for place in range(batch)
        ]
        return order[:planned]

    def _stopping(self, planned: int) -> Stopping:
        """A budget is spent; else a count that is limited may settle it earlier."""
        config = self.inputs.config
        lines = [line for line in config.thresholds if line.subject == "finetunes"]
        # With waivers, how many copies are too many is known only when they are.
        early = config.budget is None and config.has_train_data and lines and not config.waivers
        limit = None
        if early and all(line.metric == "copied_images" for line in lines):
            limit = min(math.ceil(each.limit) - (each.operator == "<") for each in lines)
        batch = config.batch_size("text-to-image")
        return Stopping(planned=planned, limit=limit, batch=batch, rate=self._rate)

    @property
    def _rate(self) -> float:
        """How often an image may come up that is missed; prompts have another default."""
        config = self.inputs.config
        is_given = config.sources["copy_rate"][1] != "default"
        return config.copy_rate if is_given else RATE


def scan_finetunes(
    scanners: Sequence[FinetuneScanner],
    folder: Path,
    *,
    label: str,
    session_id: str,
    report: ProgressCallback,
) -> FinetuneScan:
    """Scan every fine-tune, one after the other, and keep the pictures that a report shows.

    Args:
        scanners: One for each; the folder of the first is held by this session already.
        folder: Where the pictures go.
        label: What is scanned, as people name it, where it is more than one.
        session_id: Of this run, for the folders of the others.
        report: Told how many images there are.

    Raises:
        MemscanError: It cannot be done.
    """
    from pytest_memscan.reports.pairs import save_finetunes

    scanned: list[Scanned] = []
    records: list[dict[str, str]] = []
    held = {scanners[0].folder}
    with ExitStack() as stores:
        for scanner in scanners:
            if scanner.folder not in held:
                stores.enter_context(exclusive(scanner.folder, session=session_id))
                held.add(scanner.folder)
            scanned.append(finextract(scanner.target(report, stores)))
            records.append(scanner.provenance())
            if scanner.inputs.config.has_train_data:
                scanner.inputs.require_unchanged()
            scanner.forget_models()
        descriptor = scanners[0].inputs.descriptor
        scan = combined(
            scanned,
            measure=measure_of(descriptor),
            descriptor=descriptor.name,
            provenance=_of_all(records, label),
        )
        save_finetunes(
            folder,
            scan,
            lambda concept, sample_id: scanned[concept].sampler.pixels_of(sample_id),
            lambda concept: scanners[concept].train_pixels,
        )
    return scan


def _of_all(records: Sequence[dict[str, str]], label: str) -> dict[str, str]:
    """Provenance of a set: what all have in common, and the rest of each."""
    if len(records) == 1:
        return records[0]
    shared = {
        key: value
        for key, value in records[0].items()
        if all(record.get(key) == value for record in records)
    }
    own = {
        f"concept {number}: {key}": value
        for number, record in enumerate(records, start=1)
        for key, value in record.items()
        if key not in shared
    }
    return {"checkpoint": label, **shared, **own}
