"""The steered trajectories of a splitting scan: where to steer, the islands, and a copy alone."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.generation import PLANNED
from pytest_memscan.scans.splitting_plain import PlainImages
from pytest_memscan.scans.splitting_plan import Plan
from pytest_memscan.scans.splitting_source import POPULATION, Source, Targets
from pytest_memscan.splitting.island import Arrived, again_alone
from pytest_memscan.splitting.kept import explained, read_arrays, write_arrays
from pytest_memscan.splitting.learning import restoration_error, screened_shares
from pytest_memscan.splitting.rounds import Outcome, Rounds
from pytest_memscan.store import StoredImage, canonical_hash

STEERED = "steered"  # kind of stored image, with the plan that it belongs to
STEERED_ALONE = "steered-alone"
WIDENING = 1.15  # of each similarity that steering works its way down from, up to level low


@dataclass(kw_only=True)
class Islands:
    """All islands of a scan.

    Attributes:
        source: Makes and keeps them.
        targets: What they are steered to.
        plan: How many.
        plain: What steering is learnt from at first.
        cut: Dissimilarity of a copy.
        spec: What else they depend on.
    """

    source: Source
    targets: Targets
    plan: Plan
    plain: PlainImages
    cut: float
    spec: Mapping[str, object]
    invalid: Counter[str] = field(init=False, default_factory=Counter)
    _made: set[int] = field(init=False, default_factory=set)

    def ends(self) -> list[Outcome]:
        """Each island as it ended.

        Raises:
            StoreError: Their images do not stay where they are kept.
        """
        for _ in range(2):
            outcomes = list(self._run())
            if self._is_whole(outcomes):
                return outcomes
            # An image cannot be made without its island, nor an island without those before it.
            shutil.rmtree(self._folder, ignore_errors=True)
        raise self.source.lost()

    def image(self, sample_id: int) -> StoredImage:
        """An image of the scan, steered or not."""
        kind = PLANNED if sample_id < self.plan.num_plain else self._kind(STEERED)
        return self.source.image(kind, sample_id)

    def alone(self, row: int, sample_id: int) -> StoredImage:
        """The closest copy of a target, made again alone in float32 from its own start and noise.

        Args:
            row: Of the target.
            sample_id: Of the image.
        """
        kind = self._kind(STEERED_ALONE)
        kept = list(self.source.store.read(kind, [sample_id]))
        if kept:
            return kept[0]
        chain, ids = self.source.chain_alone, range(sample_id, sample_id + 1)
        if sample_id < self.plan.num_plain:
            output = chain.run(self.source.seeds(ids), lambda _: None)
        else:
            copy = self._rounds().copy_of(row)
            if copy is None:
                raise self.source.lost()
            output = again_alone(chain, seed=int(copy["seed"]), noise=copy["noise"])
        return self.source.keep(kind, ids, output.images, np.ones(1, dtype=bool))[0]

    def _run(self) -> Iterator[Outcome]:
        total, done, resumed = self.plan.num_steered, 0, 0
        rounds = self._rounds()
        self.source.report(done, total, unit="images steered")
        for outcome in rounds.run():
            done += self.plan.island_size
            resumed += 0 if outcome.number in self._made else self.plan.island_size
            self.source.report(done, total, resumed=resumed, unit="images steered")
            yield outcome

    def _rounds(self) -> Rounds:
        loosest = self.targets.reference.levels[0].cut
        steps = max(1, round(math.log(loosest / self.cut) / math.log(WIDENING)))
        looser = np.geomspace(self.cut, loosest, steps + 1)[1:].tolist()
        return Rounds(
            chain=self.source.chain,
            clean=self.targets.clean,
            match=self.targets.nearest,
            cuts=[self.cut, *looser],
            seeds=[
                self.source.seeds(self.plan.ids_of(number))
                for number in range(self.plan.num_islands)
            ],
            draws=self.source.seed,
            shares=self._shares(),
            ordinary=self.plain.learnt_from,
            folder=self._made_folder(),
            keep=self._keep,
        )

    def _keep(self, number: int, arrived: Arrived) -> None:
        ids = self.plan.ids_of(number)
        self.source.keep(self._kind(STEERED), ids, arrived.images, arrived.finite)
        self._made.add(number)

    def _is_whole(self, outcomes: list[Outcome]) -> bool:
        """Whether every image is there, and the noise of every copy."""
        images = self.source.store.read(self._kind(STEERED), self.plan.steered_ids)
        found = [image.invalid for image in images]
        self.invalid = Counter(invalid for invalid in found if invalid)
        rows = [each.nearest[each.dissimilarities <= self.cut] for each in outcomes]
        rounds = self._rounds()
        return len(found) == self.plan.num_steered and all(
            rounds.copy_of(row) is not None for row in np.unique(np.concatenate(rows)).tolist()
        )

    @cached_property
    def _key(self) -> str:
        """Of all that islands depend on; the store is that of the recipe."""
        spec = {
            **vars(self.plan),
            **self.spec,
            **self.targets.reference.record,
            "cut": self.cut,
            "targets": self.targets.fingerprint,
        }
        return canonical_hash(spec)

    @property
    def _folder(self) -> Path:
        return self.source.store.folder / "islands" / self._key

    def _made_folder(self) -> Path:
        with explained(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder

    def _kind(self, kind: str) -> str:
        """Another plan has other images under the same sample ids."""
        return f"{kind}-{self._key[:12]}"

    def _shares(self) -> NDArray[np.float64]:
        """Share of the steering of each target, kept so that nothing is screened twice."""
        path = self._made_folder() / "screening.npz"
        kept = read_arrays(path)
        if kept is None:
            kept = {"shares": screened(self.source, self.targets, self.plan)}
            write_arrays(path, kept)
        return kept["shares"]


def screened(source: Source, targets: Targets, plan: Plan) -> NDArray[np.float64]:
    """Share of the steering ``(num_targets,)``, most for those that the model restores best.

    Args:
        source: Whose denoiser is asked.
        targets: Training images.
        plan: How many of them, drawn at random where not all, and at how many noise levels.
    """
    number, num_targets = plan.num_screened, len(targets.ids)
    rows = np.arange(num_targets)
    if number < num_targets:
        rows = np.sort(np.random.default_rng(source.seed).choice(rows, number, replace=False))
    source.chain.pipeline.scheduler.set_timesteps(source.steps)
    errors = np.empty((plan.num_levels, number))
    source.report(0, errors.size, unit="images screened")
    for level in range(plan.num_levels):
        for start in range(0, number, POPULATION):
            part = slice(start, min(start + POPULATION, number))
            first = plan.steered_ids.stop + level * number
            errors[level, part] = restoration_error(
                source.chain,
                targets.clean(rows[part]).to(source.chain.pipeline.device),
                seeds=source.seeds(range(first + part.start, first + part.stop)),
                level=level,
            )
            source.report(level * number + part.stop, errors.size, unit="images screened")
    shares = np.full(num_targets, 1 / num_targets)
    shares[rows] = screened_shares(errors) * number / num_targets
    return shares
