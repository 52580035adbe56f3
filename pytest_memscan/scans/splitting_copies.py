"""Training images that came out of a splitting scan, each with its evidence and its price."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.results import Estimate, Finding, SteeredCopy
from pytest_memscan.scans.splitting_rates import rate_of
from pytest_memscan.scans.splitting_source import Targets
from pytest_memscan.splitting.rounds import Outcome
from pytest_memscan.store import StoredImage


@dataclass(frozen=True, kw_only=True)
class Copies:
    """Works out what the trajectories of a scan copied.

    Attributes:
        ends: The unsteered images first, then every island.
        targets: Training images.
        cut: Dissimilarity of a copy.
        reach: Ordinary images within which a first copy counts.
        image: Sample id -> the image.
        prompt_id: Sample id -> its prompt, None for an unconditional checkpoint.
        again: Row of a target and sample id of its closest copy -> the images, made again.
    """

    ends: Sequence[Outcome] = field(repr=False)
    targets: Targets
    cut: float
    reach: int
    image: Callable[[int], StoredImage]
    prompt_id: Callable[[int], int | None]
    again: Callable[[Mapping[int, int]], Mapping[int, StoredImage]]

    def priced(self) -> list[SteeredCopy]:
        """One for each target, likeliest first; those not confirmed too."""
        per_island = np.array([each.rates(self.cut, len(self.targets.ids)) for each in self.ends])
        found = np.flatnonzero(per_island.any(axis=0))
        if not len(found):
            return []
        closest = {row: self._closest(self._hits(row)) for row in found.tolist()}
        again = self.again({row: sample_id for row, (sample_id, _) in closest.items()})
        copies = [
            self._copy(row, per_island[:, row].tolist(), closest[row], again[row])
            for row in closest
        ]
        return sorted(copies, key=lambda copy: (-copy.rate.value, copy.finding.train_id))

    def _hits(self, row: int) -> list[NDArray[np.bool_]]:
        return [(each.nearest == row) & (each.dissimilarities <= self.cut) for each in self.ends]

    def _copy(
        self,
        row: int,
        estimates: list[float],
        closest: tuple[int, float],
        again: StoredImage,
    ) -> SteeredCopy:
        sizes = [len(each.log_weights) for each in self.ends]
        rate = rate_of(estimates, sizes, num_tried=len(self.targets.ids))
        hits = self._hits(row)
        return SteeredCopy(
            finding=self._finding(row, *closest, again),
            rate=rate,
            num_copies=int(sum(hit.sum() for hit in hits)),
            num_islands=sum(bool(hit.any()) for hit in hits[1:]),
            in_reach=rate.value >= 1 / self.reach,
            prompt_id=self.prompt_id(closest[0]),
        )

    def _finding(self, row: int, sample_id: int, closest: float, again: StoredImage) -> Finding:
        """The closest copy; confirmed where it is one too when made again."""
        train_id = int(self.targets.ids[row])
        near = self.targets.near([self.image(sample_id)])
        reference = self.targets.reference
        regenerated, confirmed = None, False
        if not again.invalid:
            remade = self.targets.near([again])
            dissimilarity = float(remade.dissimilarities[0, 0])
            regenerated = reference.measure.score(dissimilarity)
            confirmed = int(remade.train_ids[0, 0]) == train_id and dissimilarity <= self.cut
        reached = [level.name for level in reference.levels if closest <= level.cut]
        return Finding(
            sample_id=sample_id,
            train_id=train_id,
            score=reference.measure.score(closest),
            distance=None if near.distances is None else float(near.distances[0]),
            level=reached[-1],
            confirmed=confirmed,
            regenerated_score=regenerated,
        )

    def _closest(self, hits: Sequence[NDArray[np.bool_]]) -> tuple[int, float]:
        """Sample id and dissimilarity; of equally close ones the first."""
        apart = np.concatenate(
            [
                np.where(hit, each.dissimilarities, np.inf)
                for each, hit in zip(self.ends, hits, strict=True)
            ]
        )
        sample_id = int(apart.argmin())  # as the ends follow each other
        return sample_id, float(apart[sample_id])


def extractable(copies: Sequence[SteeredCopy], reach: int) -> Estimate:
    """Training images whose first copy is expected within `reach` ordinary images.

    Value and lower bound count only those whose copy was one too when made again; the upper bound
    the others as well, so that none of them passes for nothing.
    """
    rates = [copy.rate for copy in copies if copy.finding.confirmed]
    return Estimate(
        value=sum(rate.value >= 1 / reach for rate in rates),
        lower=sum(rate.lower >= 1 / reach for rate in rates),
        upper=sum(copy.rate.upper >= 1 / reach for copy in copies),
    )
