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

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pytest_memscan.errors import MemscanError, OptionError, TrainDataError
from pytest_memscan.generation import (
    PLANNED,
    PlanRow,
    Progress,
    ProgressCallback,
    as_stored,
)
from pytest_memscan.prices import combined, growth_curve, price_bounds
from pytest_memscan.results import (
    Coverage,
    CurvePoint,
    Estimate,
    Finding,
    RateAt,
    SplittingScan,
    SteeredCopy,
)
from pytest_memscan.scans.controls import run_controls
from pytest_memscan.scans.evidence import Cut, calibrate_on_real_images
from pytest_memscan.scans.memoriser import memoriser_control
from pytest_memscan.similarity.calibration import FALSE_MATCHES
from pytest_memscan.similarity.reference import NearestTrain, Reference
from pytest_memscan.splitting.chain import ETA, Chain
from pytest_memscan.splitting.island import Arrived, again_alone
from pytest_memscan.splitting.learning import (
    MAX_TRACED,
    MIN_TRACED,
    SIGNAL_SHARES,
    Arrivals,
    Traces,
    restoration_error,
    screened_shares,
)
from pytest_memscan.splitting.rounds import Outcome, Rounds
from pytest_memscan.statistics import proportion
from pytest_memscan.store import ImageStore, StoredImage, canonical_hash

NAME = "splitting"
TITLE = "Splitting: rare copies"
STEERED = "steered"  # kind of stored image
STEERED_ALONE = "steered-alone"
MAX_COPIES = 500
PLAIN_SHARE = 0.2  # of the images, never steered
LEAST_PLAIN = 64
SCREENING_SHARE = 0.2  # of the budget, at most, from the second noise level on
MOST_SCREENING = 0.5  # of the budget, at most, for the first
NUM_ISLANDS = 12  # or more, where they would be larger than the memory allows
SMALLEST_ISLAND = 32  # fewer islands rather than smaller ones
POPULATION = 512
LATENT_BYTES = 2**29  # what an island writes to disk, at most
WIDENING = 1.15  # of each similarity that steering works its way down from, up to level low


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the images of a budget are spent.

    Attributes:
        num_plain: Never steered.
        num_islands: Of steered trajectories.
        island_size: Trajectories in each.
        num_levels: Noise levels at which each screened training image is denoised.
        num_screened: Training images that are screened.
    """

    num_plain: int
    num_islands: int
    island_size: int
    num_levels: int
    num_screened: int


def plan(num_images: int, *, num_targets: int, num_steps: int, largest_island: int) -> Plan:
    """Spend a budget of ``num_images * num_steps`` denoiser calls.

    Args:
        num_images: At least 2.
        num_targets: Different training images.
        num_steps: Denoiser calls for an image.
        largest_island: Trajectories that an island may have.
    """
    calls = num_images * num_steps
    num_screened = min(num_targets, max(1, int(MOST_SCREENING * calls)))
    affordable = int(SCREENING_SHARE * calls / num_screened)
    num_levels = min(len(SIGNAL_SHARES), max(1, affordable))
    left = num_images - math.ceil(num_levels * num_screened / num_steps)
    num_plain = min(max(1, left - 1), max(round(PLAIN_SHARE * left), min(LEAST_PLAIN, left // 2)))
    steered = max(1, left - num_plain)
    num_islands = max(1, min(NUM_ISLANDS, steered // SMALLEST_ISLAND))
    num_islands = max(num_islands, math.ceil(steered / largest_island))
    return Plan(
        num_plain=num_plain,
        num_islands=num_islands,
        island_size=steered // num_islands,
        num_levels=num_levels,
        num_screened=num_screened,
    )


def least_images(num_targets: int, num_steps: int, *, default: int) -> int:
    """Images that are spent where nobody set a budget: enough to screen every training image."""
    return max(default, math.ceil(num_targets / num_steps / SCREENING_SHARE))


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
            OptionError: A budget of one image.
            TrainDataError: Too few real images to calibrate on.
            MemscanError: Out of memory.
        """
        if self.num_images < 2:
            raise OptionError("splitting needs a budget of at least 2 images (--memscan-budget)")
        try:
            plain = self._plain_ends
            outcomes = list(self._islands())
            copies = self._copies(plain, outcomes)
        except torch.OutOfMemoryError:
            raise MemscanError(
                f"out of memory with {self.batch_size} images in a batch; try a smaller "
                "--memscan-batch-size, or --memscan-device cpu"
            ) from None
        return self._result(plain, outcomes, copies, coverage, provenance)

    def pixels_of(self, sample_id: int) -> NDArray[np.uint8]:
        """An image of this scan, ``(height, width, channels)``."""
        kind = PLANNED if sample_id < self.plan.num_plain else STEERED
        return next(iter(self.store.read(kind, [sample_id]))).pixels

    @cached_property
    def plan(self) -> Plan:
        """How the budget is spent."""
        values = int(np.prod(self.pixels.shape[1:]))
        return plan(
            self.num_images,
            num_targets=len(self._targets),
            num_steps=self.steps,
            largest_island=max(
                SMALLEST_ISLAND, min(POPULATION, LATENT_BYTES // (8 * values * self.steps))
            ),
        )

    @cached_property
    def cut(self) -> Cut:
        """Where a match is a copy, so strictly that chance gives next to none within reach."""
        return calibrate_on_real_images(
            self.reference,
            self.holdout,
            num_generated=self.reach,
            least_probability=FALSE_MATCHES / self.reach,
        )

    @property
    def _targets(self) -> NDArray[np.int64]:
        """Training id of each target, ascending."""
        return self.reference.groups.representatives

    @cached_property
    def _chain(self) -> Chain:
        return Chain(
            pipeline=self.load_pipeline(self.dtype),
            num_steps=self.steps,
            batch_size=self.batch_size,
        )

    def _seeds(self, start: int, count: int) -> list[int]:
        """Seeds are enumerated: ordinary images, islands, screening."""
        return [(self.seed + row) % 2**32 for row in range(start, start + count)]

    def _clean(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """Targets as the denoiser sees them, in [-1, 1]."""
        pixels = np.ascontiguousarray(self.pixels[self._targets[rows]].transpose(0, 3, 1, 2))
        return torch.from_numpy(pixels).float() / 127.5 - 1

    def _nearest(self, images: torch.Tensor) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Row of the nearest target and dissimilarity; infinity for images that show nothing."""
        rows = [PlanRow(sample_id=0, seed=0)] * len(images)
        stored = as_stored(images, rows, finite=np.ones(len(images), dtype=bool))
        return self._match(stored)

    def _match(
        self, images: Sequence[StoredImage]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        nearest = np.zeros(len(images), dtype=np.int64)
        dissimilarities = np.full(len(images), np.inf)
        valid = [row for row, image in enumerate(images) if not image.invalid]
        if valid:
            near = self._near([images[row] for row in valid])
            nearest[valid] = np.searchsorted(self._targets, near.train_ids[:, 0])
            dissimilarities[valid] = near.dissimilarities[:, 0]
        return nearest, dissimilarities

    def _near(self, images: Sequence[StoredImage]) -> NearestTrain:
        return self.reference.nearest(np.stack([image.pixels for image in images]))

    # Images that are never steered.

    @cached_property
    def _plain_ends(self) -> Outcome:
        """All of them, as an island of its own where every trajectory has weight 1."""
        total = self.plan.num_plain
        for start in range(0, total, POPULATION):
            ids = range(start, min(start + POPULATION, total))
            if start or not set(ids) <= self.store.ids(PLANNED):
                self._make_plain(ids)
        images = list(self.store.read(PLANNED, range(total)))
        if len(images) < total:  # lost or changed on disk
            self._make_plain(range(total))
            images = list(self.store.read(PLANNED, range(total)))
        nearest, dissimilarities = self._match(images)
        if not np.isfinite(dissimilarities).any():
            raise TrainDataError(
                f"none of the {total} generated images is valid "
                f"({', '.join(sorted({image.invalid for image in images}))}); the checkpoint makes "
                "no pictures with this sampler, so there is nothing to judge"
            )
        return Outcome(
            number=-1,
            nearest=nearest,
            dissimilarities=dissimilarities,
            log_weights=np.zeros(total),
            num_ancestors=total,
            least_effective=1.0,
            aims=np.empty(0, dtype=np.int64),
            is_steered=False,
            arrivals=None,
        )

    def _make_plain(self, ids: range) -> Traces:
        missing = not set(ids) <= self.store.ids(PLANNED)
        traces = Traces()
        seeds = self._seeds(ids.start, len(ids))
        output = self._chain.run(seeds, traces.listen)
        if missing:
            rows = [PlanRow(sample_id=i, seed=s) for i, s in zip(ids, seeds, strict=True)]
            finite = np.ones(len(ids), bool) if traces.finite is None else traces.finite.numpy()
            self.store.add(PLANNED, as_stored(output.images, rows, finite=finite))
        self._report(ids.stop)
        return traces

    @cached_property
    def _ordinary(self) -> tuple[Traces, Arrivals | None]:
        """What is learnt from, made again when a scan goes on after an interruption."""
        values = int(np.prod(self.pixels.shape[1:]))
        traced = max(MIN_TRACED, min(MAX_TRACED, LATENT_BYTES // (4 * values * self.steps)))
        traces = self._make_plain(range(min(traced, self.plan.num_plain)))
        ends = self._plain_ends
        count = len(traces.clean[0])
        arrived = traces.arrivals(ends.dissimilarities[:count], ends.nearest[:count], self._clean)
        return traces, arrived

    # Steered trajectories.

    @cached_property
    def _screened(self) -> NDArray[np.float64]:
        """Share of the steering of each target."""
        number = self.plan.num_screened
        rows = np.arange(len(self._targets))
        if number < len(rows):
            rows = np.sort(np.random.default_rng(self.seed).choice(rows, number, replace=False))
        first = self.plan.num_plain + self.plan.num_islands * self.plan.island_size
        self._chain.pipeline.scheduler.set_timesteps(self.steps)
        errors = np.array(
            [self._errors(rows, first + level * number, level) for level in self._levels]
        )
        shares = np.full(len(self._targets), 1 / len(self._targets))
        shares[rows] = screened_shares(errors) * number / len(self._targets)
        return shares

    @property
    def _levels(self) -> range:
        return range(self.plan.num_levels)

    def _errors(self, rows: NDArray[np.int64], first: int, level: int) -> NDArray[np.float64]:
        device = self._chain.pipeline.device
        parts = []
        for start in range(0, len(rows), POPULATION):
            part = rows[start : start + POPULATION]
            seeds = self._seeds(first + start, len(part))
            clean = self._clean(part).to(device)
            parts.append(restoration_error(self._chain, clean, seeds=seeds, level=level))
        return np.concatenate(parts)

    @cached_property
    def _rounds(self) -> Rounds:
        size, first = self.plan.island_size, self.plan.num_plain
        folder = self._folder
        cut = self.cut.dissimilarity
        loosest = self.reference.levels[0].cut
        steps = max(1, round(math.log(loosest / cut) / math.log(WIDENING)))
        looser = np.geomspace(cut, loosest, steps + 1)[1:].tolist()
        return Rounds(
            chain=self._chain,
            clean=self._clean,
            match=self._nearest,
            cuts=[cut, *looser],
            seeds=[self._seeds(first + b * size, size) for b in range(self.plan.num_islands)],
            draws=self.seed,
            shares=self._screened,
            ordinary=lambda: self._ordinary,
            folder=folder,
            keep=self._keep,
        )

    @property
    def _folder(self) -> Path:
        """Of this plan; the store is that of the recipe."""
        spec = vars(self.plan) | {
            "cut": self.cut.dissimilarity,
            "reach": self.reach,
            "targets": self._targets.tolist(),
            "pixels": int(np.asarray(self.pixels[self._targets[:64]], dtype=np.int64).sum()),
        }
        folder = self.store.folder / "islands" / canonical_hash(spec)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _islands(self) -> Iterator[Outcome]:
        for outcome in self._rounds.run():
            done = self.plan.num_plain + (outcome.number + 1) * self.plan.island_size
            self._report(done)
            yield outcome

    def _keep(self, number: int, arrived: Arrived) -> None:
        size = self.plan.island_size
        first = self.plan.num_plain + number * size
        rows = [
            PlanRow(sample_id=first + place, seed=seed)
            for place, seed in enumerate(self._seeds(first, size))
        ]
        self.store.add(STEERED, as_stored(arrived.images, rows, finite=arrived.finite))

    def _report(self, done: int) -> None:
        total = self.plan.num_plain + self.plan.num_islands * self.plan.island_size
        self.progress(Progress(done=done, total=total, resumed=0))

    # What was found.

    def _copies(self, plain: Outcome, outcomes: Sequence[Outcome]) -> list[SteeredCopy]:
        """Training images with a copy that ordinary sampling makes of the same noise, alone."""
        islands = [plain, *outcomes]
        cut = self.cut.dissimilarity
        per_island = np.array([each.rates(cut, len(self._targets)) for each in islands])
        found = np.flatnonzero(per_island.any(axis=0))
        if not len(found):
            return []
        _, lowers = price_bounds(per_island[:, found], num_tried=len(self._targets))
        trials = sum(len(each.log_weights) for each in islands)
        copies = []
        for column, target in enumerate(found.tolist()):
            rate = combined(per_island[:, target], num_trials=trials)
            rate = replace(rate, lower=min(float(lowers[column]), rate.lower))
            hits = [(each.nearest == target) & (each.dissimilarities <= cut) for each in islands]
            copies.append(
                SteeredCopy(
                    finding=self._finding(target, islands, hits),
                    rate=rate,
                    num_copies=int(sum(hit.sum() for hit in hits)),
                    num_islands=sum(bool(hit.any()) for hit in hits[1:]),
                    in_reach=rate.value >= 1 / self.reach,
                )
            )
        return sorted(copies, key=lambda copy: (-copy.rate.value, copy.finding.train_id))

    def _finding(
        self, target: int, islands: Sequence[Outcome], hits: Sequence[NDArray[np.bool_]]
    ) -> Finding:
        """The closest copy, made again alone in float32 from its own start and noise."""
        closest = [
            np.where(hit, each.dissimilarities, np.inf).min(initial=np.inf)
            for each, hit in zip(islands, hits, strict=True)
        ]
        number = int(np.argmin(closest))
        place = int(
            np.flatnonzero(hits[number] & (islands[number].dissimilarities <= closest[number]))[0]
        )
        first = 0 if not number else self.plan.num_plain + (number - 1) * self.plan.island_size
        sample_id = first + place
        image = next(iter(self.store.read(PLANNED if not number else STEERED, [sample_id])))
        again = self._again(target, sample_id, steered=bool(number))
        near = self._near([image])
        score = self.reference.measure.score
        regenerated = None
        confirmed = False
        if not again.invalid:
            alone = self._near([again])
            regenerated = score(float(alone.dissimilarities[0, 0]))
            is_same = int(alone.train_ids[0, 0]) == int(self._targets[target])
            confirmed = is_same and float(alone.dissimilarities[0, 0]) <= self.cut.dissimilarity
        reached = [lv.name for lv in self.reference.levels if closest[number] <= lv.cut]
        return Finding(
            sample_id=sample_id,
            train_id=int(self._targets[target]),
            score=score(float(closest[number])),
            distance=None if near.distances is None else float(near.distances[0]),
            level=reached[-1],
            confirmed=confirmed,
            regenerated_score=regenerated,
        )

    def _again(self, target: int, sample_id: int, *, steered: bool) -> StoredImage:
        kept = list(self.store.read(STEERED_ALONE, [sample_id]))
        if kept:
            return kept[0]
        chain = Chain(pipeline=self.load_pipeline("float32"), num_steps=self.steps, batch_size=1)
        copy = self._rounds.copy_of(target) if steered else None
        if copy is None:
            seed = self._seeds(sample_id, 1)[0]
            output = chain.run([seed], lambda _: None)
        else:
            seed = int(copy["seed"])
            output = again_alone(chain, seed=seed, noise=copy["noise"])
        row = PlanRow(sample_id=sample_id, seed=seed)
        images = as_stored(output.images, [row], finite=np.ones(1, dtype=bool))
        self.store.add(STEERED_ALONE, images)
        return images[0]

    def _result(
        self,
        plain: Outcome,
        outcomes: Sequence[Outcome],
        copies: Sequence[SteeredCopy],
        coverage: Coverage,
        provenance: dict[str, str],
    ) -> SplittingScan:
        islands = [plain, *outcomes]
        leak_rate = self._rate(islands, self.cut.dissimilarity)
        num_valid = int(np.isfinite(plain.dissimilarities).sum())
        num_hits = int((plain.dissimilarities <= self.cut.dissimilarity).sum())
        steered = self.plan.num_islands * self.plan.island_size
        sampler = (
            f"{type(self._chain.pipeline.scheduler).__name__} with eta {ETA:g}, {self.steps} steps"
        )
        return SplittingScan(
            name=NAME,
            title=f"{TITLE}, {self.reference.measure.name}",
            measure=self.reference.measure,
            sampler=sampler,
            reach=self.reach,
            metrics={
                "extractable_images": extractable(copies, self.reach),
                "steered_leak_rate": leak_rate,
            },
            copies=tuple(copies[:MAX_COPIES]),
            num_copies_total=len(copies),
            leak_rate=leak_rate,
            plain_rate=proportion(num_hits, num_valid),
            num_plain=num_valid,
            num_plain_copies=num_hits,
            num_islands=self.plan.num_islands,
            num_steered=steered,
            num_targets=len(self._targets),
            num_screened=self.plan.num_screened,
            num_tried=len(np.unique(np.concatenate([each.aims for each in outcomes]))),
            growth=self._growth(islands),
            rates=tuple(self._rates(islands, num_valid)),
            least_effective=min(each.least_effective for each in outcomes),
            fewest_ancestors=min(each.num_ancestors for each in outcomes),
            degenerate=self._degenerate(outcomes),
            calibration=self.cut.calibration,
            controls=(
                *run_controls(
                    self.reference, confirmed_cut=self.cut.dissimilarity, holdout=self.holdout
                ),
                memoriser_control(
                    self._chain, self._clean, num_targets=len(self._targets), seed=self.seed
                ),
            ),
            coverage=self._coverage(coverage),
            denoiser_calls=self.steps * (self.plan.num_plain + steered)
            + self.plan.num_levels * self.plan.num_screened,
            provenance=provenance | dict(self.reference.record) | {"sampler": sampler},
        )

    def _rate(self, islands: Sequence[Outcome], cut: float) -> Estimate:
        totals = [float(each.rates(cut, len(self._targets)).sum()) for each in islands]
        return combined(totals, num_trials=sum(len(each.log_weights) for each in islands))

    def _rates(self, islands: Sequence[Outcome], num_valid: int) -> Iterator[RateAt]:
        """From the loosest level down to the closest image."""
        cut = self.cut.dissimilarity
        closest = min(float(each.dissimilarities.min()) for each in islands)
        tighter = np.geomspace(max(min(closest, cut), cut / 20), cut, 6)
        cuts = sorted({*tighter.tolist(), *(level.cut for level in self.reference.levels)})
        for each in reversed(cuts):
            hits = int((islands[0].dissimilarities <= each).sum())
            yield RateAt(
                score=self.reference.measure.score(each),
                steered=self._rate(islands, each),
                plain=proportion(hits, num_valid),
            )

    def _growth(self, islands: Sequence[Outcome]) -> tuple[CurvePoint, ...]:
        cut = self.cut.dissimilarity
        rates = np.array([each.rates(cut, len(self._targets)) for each in islands])
        found = rates.any(axis=0)
        if not found.any():
            return ()
        powers = {10**power for power in range(2, 1 + math.ceil(math.log10(self.reach)))}
        sizes = sorted({*powers, 1000, 1_000_000, self.reach})
        trajectories = sum(len(each.log_weights) for each in islands)
        return growth_curve(rates[:, found], sizes, num_trajectories=trajectories)

    def _degenerate(self, outcomes: Sequence[Outcome]) -> str:
        if not any(each.is_steered for each in outcomes):
            return (
                f"{self.plan.num_plain} unsteered images are too few to learn from how to steer "
                f"(at least {MIN_TRACED} valid ones)"
            )
        collapsed = sum(each.num_ancestors < 2 for each in outcomes)
        if 2 * collapsed > len(outcomes):
            return f"in {collapsed} of {len(outcomes)} islands all images go back to one start"
        return ""

    def _coverage(self, coverage: Coverage) -> Coverage:
        plain = list(self.store.read(PLANNED, range(self.plan.num_plain)))
        first = self.plan.num_plain
        steered_ids = range(first, first + self.plan.num_islands * self.plan.island_size)
        images = [*plain, *self.store.read(STEERED, steered_ids)]
        invalid = Counter(image.invalid for image in images if image.invalid)
        return replace(
            coverage,
            planned=self.plan.num_plain + len(steered_ids),
            generated=len(images),
            valid=len(images) - sum(invalid.values()),
            invalid=dict(sorted(invalid.items())),
            damaged=self.store.damaged,
            train_groups=len(self._targets),
        )


def extractable(copies: Sequence[SteeredCopy], reach: int) -> Estimate:
    """Training images whose first copy is expected within `reach` ordinary images.

    Only those whose copy was made again alone; the bounds count those that surely are, and those
    that may be.
    """
    rates = [copy.rate for copy in copies if copy.finding.confirmed]
    return Estimate(
        value=sum(rate.value >= 1 / reach for rate in rates),
        lower=sum(rate.lower >= 1 / reach for rate in rates),
        upper=sum(rate.upper >= 1 / reach for rate in rates),
    )
