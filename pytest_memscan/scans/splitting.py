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

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pytest_memscan.errors import MemscanError, OptionError, TrainDataError
from pytest_memscan.generation import ProgressCallback
from pytest_memscan.results import Control, Coverage, SplittingScan
from pytest_memscan.scans.controls import run_controls
from pytest_memscan.scans.evidence import Cut
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
from pytest_memscan.scans.splitting_prompting import SplitPrompting
from pytest_memscan.scans.splitting_reach import cut_within, shortened
from pytest_memscan.scans.splitting_result import result_of
from pytest_memscan.scans.splitting_source import (
    LATENT_BYTES,
    POPULATION,
    Source,
    Targets,
)
from pytest_memscan.scans.splitting_trajectories import Part, Trajectories
from pytest_memscan.similarity.reference import Planted, Reference
from pytest_memscan.splitting.chain import ETA, Chain
from pytest_memscan.splitting.rounds import Outcome
from pytest_memscan.store import ImageStore

__all__ = ["Plan", "Splitting", "extractable", "least_images", "plan"]


@dataclass(frozen=True, kw_only=True)
class Splitting:
    """The scan of one checkpoint.

    Attributes:
        load_pipeline: dtype -> stock pipeline with a ``DDIMScheduler``, on its device.
        store: Keeps images; its recipe has eta 1.
        num_images: Budget, in images of ordinary sampling; of all prompts together.
        seed: Of the first ordinary image; the others follow.
        batch_size: Images in every denoiser call.
        steps: Denoiser calls for an image.
        dtype: Of the images.
        reach: Ordinary images within which a first copy counts.
        shortest_reach: As short as the reach may become where it asks for more than can be told;
            None to keep it.
        reference: Training images, near-duplicates merged.
        pixels: ``(num_train, height, width, channels)`` uint8; may be a memory map.
        holdout: ``(num_holdout, height, width, channels)`` uint8, real images not trained on.
        prompting: What else there is to a text-to-image checkpoint.
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
    shortest_reach: int | None = None
    reference: Reference
    pixels: NDArray[np.uint8] = field(repr=False)
    holdout: NDArray[np.uint8] | None = field(repr=False, default=None)
    prompting: SplitPrompting | None = None
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
            made = self._trajectories
            copies = Copies(
                ends=made.ends,
                targets=self.targets,
                cut=self.cut.dissimilarity,
                reach=self.within,
                image=made.image,
                prompt_id=made.prompt_id,
                again=made.again,
            ).priced()
            controls = self._controls()
        prompting = self.prompting
        calls_per_image = self.steps * (1 if prompting is None else prompting.calls_per_step)
        scheduler = type(self._chain.pipeline.scheduler).__name__
        return result_of(
            made,
            copies,
            targets=self.targets,
            cut=self.cut,
            plain_cut=cut_within(self.reference, self.holdout, made.num_plain),
            reach=self.within,
            asked_reach=None if self.within == self.reach else self.reach,
            sampler=f"{scheduler} with eta {ETA:g}, {self.steps} steps",
            denoiser_calls=len(made.parts) * self.plan.denoiser_calls(calls_per_image),
            controls=controls,
            coverage=self._coverage(coverage),
            prompt_coverage=None if prompting is None else prompting.coverage,
            provenance=provenance,
        )

    def pixels_of(self, sample_id: int) -> NDArray[np.uint8]:
        """An image of this scan, ``(height, width, channels)``."""
        return self._trajectories.image(sample_id).pixels

    @cached_property
    def ends(self) -> tuple[Outcome, ...]:
        """Where all trajectories ended: those that were never steered, then island by island."""
        return self._trajectories.ends

    @cached_property
    def plan(self) -> Plan:
        """How the budget is spent, on each prompt where there are any."""
        affordable = LATENT_BYTES // (8 * self.targets.values * self.steps)
        return plan(
            self.num_images // self._num_parts,
            num_targets=len(self.targets.ids),
            num_steps=self.steps,
            largest_island=max(SMALLEST_ISLAND, min(POPULATION, affordable)),
        )

    @cached_property
    def within(self) -> int:
        """The reach, or what is left of it where it may be shortened."""
        if self.shortest_reach is None:
            return self.reach
        return shortened(
            self.reference,
            self.holdout,
            self.reach,
            shortest=self.shortest_reach,
            more=self._planted,
        )

    @cached_property
    def cut(self) -> Cut:
        """Where a match is a copy."""
        return cut_within(self.reference, self.holdout, self.within)

    @cached_property
    def targets(self) -> Targets:
        """Different training images."""
        latents = None if self.prompting is None else self.prompting.latents
        return Targets(reference=self.reference, pixels=self.pixels, latents=latents)

    @cached_property
    def _trajectories(self) -> Trajectories:
        return Trajectories(
            parts=[self._part(source) for source in self._sources()], plan=self.plan
        )

    def _sources(self) -> Iterator[Source]:
        """One, or one for each prompt."""
        source = Source(
            load_pipeline=self.load_pipeline,
            store=self.store,
            seed=self.seed,
            batch_size=self.batch_size,
            steps=self.steps,
            dtype=self.dtype,
            progress=self.progress,
        )
        if self.prompting is None:
            yield source
        else:
            for number in range(len(self.prompting.prompts)):
                yield self.prompting.of(source, number)

    def _part(self, source: Source) -> Part:
        plain = PlainImages(source=source, targets=self.targets, number=self.plan.num_plain)
        islands = Islands(
            source=source,
            targets=self.targets,
            plan=self.plan,
            plain=plain,
            cut=self.cut.dissimilarity,
            spec={"pytest-memscan": version("pytest-memscan")},
        )
        return Part(plain=plain, islands=islands)

    @cached_property
    def _planted(self) -> tuple[Planted, ...]:
        """Copies that must be found, besides those of every scan."""
        return () if self.prompting is None else (self.prompting.autoencoded(self.targets),)

    @property
    def _num_parts(self) -> int:
        return 1 if self.prompting is None else len(self.prompting.prompts)

    def _require_enough(self) -> None:
        if self.num_images < LEAST_BUDGET:
            raise OptionError(
                f"--memscan-budget: {self.num_images}img is too little for splitting, which "
                f"needs {LEAST_BUDGET} images at the very least; allow more, or leave it out with "
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
            self.reference,
            confirmed_cut=self.cut.dissimilarity,
            holdout=self.holdout,
            more=self._planted,
        )
        targets, chain = self.targets, self._chain
        return (
            *planted,
            memoriser_control(chain, targets.clean, num_targets=len(targets.ids), seed=self.seed),
        )

    @property
    def _chain(self) -> Chain:
        """Of any part."""
        return self._trajectories.parts[0].plain.source.chain

    def _coverage(self, coverage: Coverage) -> Coverage:
        made = self._trajectories
        invalid, total = made.invalid(), made.num_plain + made.num_steered
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
