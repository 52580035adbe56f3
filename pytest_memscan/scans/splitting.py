"""Splitting: copies too rare for plain sampling, found by steering and priced without it.

    sample some images as usual, and learn from them how to steer
    noise and denoise every training image once: where to steer
    for each island of trajectories of the stochastic reverse process, at each step
        weigh them by how close the predicted clean image is to training images
        where few carry all, let promising ones go on more often, and divide that out of the weights
        tilt their noise towards training images, and divide that out of the weights
    mean of weight * [image copies training image j]: chance that an ordinary image does

Sequential Monte Carlo with twisted proposals (`splitting.population`, `splitting.steering`), which
gives unbiased estimates for any steering. Images that were never steered stand beside it: they are
part of the estimates, as island 0, and their exact bound needs no assumption.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pytest_memscan.errors import MemscanError, OptionError, TrainDataError
from pytest_memscan.generation import PLANNED, ProgressCallback
from pytest_memscan.results import Control, Coverage, SplittingScan, SteeredCopy
from pytest_memscan.scans.controls import least_cut, run_controls
from pytest_memscan.scans.evidence import Cut, calibrate_on_real_images
from pytest_memscan.scans.memoriser import memoriser_control
from pytest_memscan.scans.splitting_copies import Copies, extractable
from pytest_memscan.scans.splitting_islands import Islands
from pytest_memscan.scans.splitting_plain import PlainImages
from pytest_memscan.scans.splitting_plan import (
    LEAST_BUDGET,
    SMALLEST_ISLAND,
    Plan,
    least_images,
    plan,
)
from pytest_memscan.scans.splitting_rates import degenerate, growth, leak_rate, rates_at
from pytest_memscan.scans.splitting_source import LATENT_BYTES, POPULATION, Source, Targets
from pytest_memscan.similarity.calibration import FALSE_MATCHES
from pytest_memscan.similarity.reference import Reference
from pytest_memscan.splitting.chain import ETA
from pytest_memscan.splitting.rounds import Outcome
from pytest_memscan.statistics import proportion
from pytest_memscan.store import ImageStore

__all__ = ["Plan", "Splitting", "extractable", "least_images", "plan"]

NAME = "splitting"
SHORTEST_REACH = 100  # images
TITLE = "Splitting: rare copies"
MAX_COPIES = 500


@dataclass(frozen=True, kw_only=True)
class Splitting:
    """The scan of one checkpoint.

    Attributes:
        load_pipeline: dtype -> stock ``DDIMPipeline`` on its device.
        store: Keeps images; its recipe has eta 1.
        num_images: Budget, in images of ordinary sampling.
        seed: Of the first ordinary image; the others follow.
        batch_size: Images in every denoiser call.
        steps: Denoiser calls for an image.
        dtype: Of the images.
        reach: Ordinary images within which a first copy counts.
        may_shorten: Whether the reach may become less where it asks for more than can be told.
        reference: Training images, near-duplicates merged.
        pixels: ``(num_train, height, width, channels)`` uint8; may be a memory map.
        holdout: ``(num_holdout, height, width, channels)`` uint8, real images not trained on.
        progress: Told as images are made.
    """

    load_pipeline: Callable[[str], Any]
    store: ImageStore
    num_images: int
    seed: int
    batch_size: int
    steps: int
    dtype: str
    reach: int
    may_shorten: bool = False
    reference: Reference
    pixels: NDArray[np.uint8] = field(repr=False)
    holdout: NDArray[np.uint8] | None = field(repr=False, default=None)
    progress: ProgressCallback = field(default=lambda _: None)

    def scan(self, *, coverage: Coverage, provenance: dict[str, str]) -> SplittingScan:
        """Steer, and work out what ordinary sampling would give.

        Args:
            coverage: What is known about the training data; the generated side is filled in here.
            provenance: Recorded as it is.

        Raises:
            OptionError: A budget too small for anything.
            TrainDataError: Too few real images to calibrate on, or fewer than two different ones.
            StoreError: Images do not stay where they are kept.
            MemscanError: Out of memory.
        """
        self._require_enough()
        with _memory_explained(self.batch_size):
            ends, cut = self.ends, self.cut.dissimilarity
            copies = Copies(
                ends=ends,
                targets=self.targets,
                plan=self.plan,
                cut=cut,
                reach=self.within,
                image=self._islands.image,
                again=self._islands.again,
            ).priced()
            controls = self._controls()
        return self._result(ends, copies, controls, self._coverage(coverage), provenance)

    def pixels_of(self, sample_id: int) -> NDArray[np.uint8]:
        """An image of this scan, ``(height, width, channels)``."""
        return self._islands.image(sample_id).pixels

    @cached_property
    def ends(self) -> tuple[Outcome, ...]:
        """Where all trajectories ended: those that were never steered, then island by island."""
        return (self._plain.ends(), *self._islands.ends())

    @cached_property
    def plan(self) -> Plan:
        """How the budget is spent."""
        affordable = LATENT_BYTES // (8 * self.targets.values * self.steps)
        return plan(
            self.num_images,
            num_targets=len(self.targets.ids),
            num_steps=self.steps,
            largest_island=max(SMALLEST_ISLAND, min(POPULATION, affordable)),
        )

    @cached_property
    def within(self) -> int:
        """The reach, or what is left of it where it may be shortened.

        The longer the reach, the closer a copy has to be. With few different training images it
        may have to be closer than copies are, and the scan could see nothing at all.
        """
        reach = self.reach
        if self.may_shorten:
            least = least_cut(self.reference)
            while reach >= 10 * SHORTEST_REACH and self._cut(reach).dissimilarity < least:
                reach //= 10
        return reach

    @cached_property
    def cut(self) -> Cut:
        """Where a match is a copy, so strictly that chance gives next to none within reach."""
        return self._cut(self.within)

    def _cut(self, reach: int) -> Cut:
        return calibrate_on_real_images(
            self.reference,
            self.holdout,
            num_generated=reach,
            least_probability=FALSE_MATCHES / reach,
        )

    @cached_property
    def targets(self) -> Targets:
        """Different training images."""
        return Targets(reference=self.reference, pixels=self.pixels)

    @cached_property
    def _source(self) -> Source:
        return Source(
            load_pipeline=self.load_pipeline,
            store=self.store,
            seed=self.seed,
            batch_size=self.batch_size,
            steps=self.steps,
            dtype=self.dtype,
            progress=self.progress,
        )

    @cached_property
    def _plain(self) -> PlainImages:
        return PlainImages(source=self._source, targets=self.targets, number=self.plan.num_plain)

    @cached_property
    def _islands(self) -> Islands:
        return Islands(
            source=self._source,
            targets=self.targets,
            plan=self.plan,
            plain=self._plain,
            cut=self.cut.dissimilarity,
            spec={"pytest-memscan": version("pytest-memscan")},
        )

    def _require_enough(self) -> None:
        if self.num_images < LEAST_BUDGET:
            raise OptionError(
                f"--memscan-budget: {self.num_images} images are too few for splitting, which "
                f"needs {LEAST_BUDGET} at the very least; allow more, or leave it out with "
                "--memscan-scans"
            )
        if len(self.targets.ids) < 2:
            raise TrainDataError(
                f"all {len(self.pixels):,} training images are near-duplicates of one, and how "
                "close different ones come to each other cannot be measured; pass others with "
                "--memscan-train-data"
            )

    def _controls(self) -> tuple[Control, ...]:
        planted = run_controls(
            self.reference, confirmed_cut=self.cut.dissimilarity, holdout=self.holdout
        )
        targets, chain = self.targets, self._source.chain
        return (
            *planted,
            memoriser_control(chain, targets.clean, num_targets=len(targets.ids), seed=self.seed),
        )

    def _result(
        self,
        ends: Sequence[Outcome],
        copies: Sequence[SteeredCopy],
        controls: tuple[Control, ...],
        coverage: Coverage,
        provenance: dict[str, str],
    ) -> SplittingScan:
        cut, num_targets = self.cut.dissimilarity, len(self.targets.ids)
        plain, islands = ends[0], ends[1:]
        num_valid = int(np.isfinite(plain.dissimilarities).sum())
        num_hits = int((plain.dissimilarities <= cut).sum())
        leaked, sampler = leak_rate(ends, cut, num_targets), self._sampler
        tried = [each.aims for each in islands if each.is_steered]
        return SplittingScan(
            name=NAME,
            title=f"{TITLE}, {self.reference.measure.name}",
            measure=self.reference.measure,
            sampler=sampler,
            reach=self.within,
            asked_reach=None if self.within == self.reach else self.reach,
            metrics={
                "extractable_images": extractable(copies, self.within),
                "steered_leak_rate": leaked,
            },
            copies=tuple(copies[:MAX_COPIES]),
            num_copies_total=len(copies),
            leak_rate=leaked,
            plain_rate=proportion(num_hits, num_valid),
            num_plain=num_valid,
            num_plain_copies=num_hits,
            num_islands=self.plan.num_islands,
            num_steered=self.plan.num_steered,
            num_targets=num_targets,
            num_screened=self.plan.num_screened,
            num_tried=len(np.unique(np.concatenate(tried))) if tried else 0,
            growth=growth(ends, cut, num_targets=num_targets, reach=self.within),
            rates=tuple(rates_at(ends, cut, self.targets)),
            least_effective=min(each.least_effective for each in islands),
            fewest_ancestors=min(each.num_ancestors for each in islands),
            degenerate=degenerate(ends),
            calibration=self.cut.calibration,
            controls=controls,
            coverage=coverage,
            denoiser_calls=self.plan.denoiser_calls(self.steps),
            provenance=provenance | dict(self.reference.record) | {"sampler": sampler},
        )

    @property
    def _sampler(self) -> str:
        """Whose rates these are."""
        scheduler = type(self._source.chain.pipeline.scheduler).__name__
        return f"{scheduler} with eta {ETA:g}, {self.steps} steps"

    def _coverage(self, coverage: Coverage) -> Coverage:
        plain = self.store.read(PLANNED, range(self.plan.num_plain))
        invalid = Counter(image.invalid for image in plain if image.invalid) + self._islands.invalid
        total = self.plan.num_plain + self.plan.num_steered
        return replace(
            coverage,
            planned=total,
            generated=total,
            valid=total - sum(invalid.values()),
            invalid=dict(sorted(invalid.items())),
            damaged=self.store.damaged,
            train_groups=len(self.targets.ids),
        )


@contextmanager
def _memory_explained(batch_size: int) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise MemscanError(
            f"out of memory with {batch_size} images in a batch; try a smaller "
            "--memscan-batch-size, or --memscan-device cpu"
        ) from None
