"""The steered trajectories of a splitting scan: where to steer, the islands, copies again."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pytest_memscan.scans.splitting_plain import PlainImages
from pytest_memscan.scans.splitting_plan import Plan
from pytest_memscan.scans.splitting_source import POPULATION, Source, Targets
from pytest_memscan.splitting.chain import Chain
from pytest_memscan.splitting.island import Arrived, again
from pytest_memscan.splitting.kept import explained, read_arrays, write_arrays
from pytest_memscan.splitting.learning import restoration_error, screened_shares
from pytest_memscan.splitting.rounds import Outcome, Rounds
from pytest_memscan.store import StoredImage, canonical_hash

STEERED = "steered"  # kind of stored image, with the plan that it belongs to
AGAIN, AGAIN_ALONE = "again", "again-alone"
NEAR_THRESHOLD = 0.05  # share of the cut within which a copy is made again alone
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
        """An image, steered or not."""
        is_plain = sample_id < self.plan.num_plain
        kind = self.source.plain_kind if is_plain else self._kind(STEERED)
        return self.source.image(kind, sample_id)

    def again(self, copies: Mapping[int, int]) -> dict[int, StoredImage]:
        """Copies made again in float32 from their own start and noise, by ordinary sampling.

        A last-bit difference between batch shapes must not decide: those near the cut are made
        alone.

        Args:
            copies: Row of a target -> sample id of its closest copy.

        Returns:
            For every row the image.
        """
        made = self._made_again(copies, self.source.wide_chain, AGAIN)
        _, apart = self.targets.match(list(made.values()))
        near = np.abs(apart - self.cut) <= NEAR_THRESHOLD * self.cut
        rows = [row for row, is_near in zip(made, near, strict=True) if is_near]
        alone = {row: copies[row] for row in rows}
        return made | self._made_again(alone, self.source.chain_alone, AGAIN_ALONE)

    def _made_again(
        self, copies: Mapping[int, int], chain: Chain, kind: str
    ) -> dict[int, StoredImage]:
        kind = self._kind(kind)
        stored = {image.sample_id for image in self.source.store.read(kind, list(copies.values()))}
        for is_plain in (True, False):
            missing = [
                row
                for row, sample_id in copies.items()
                if sample_id not in stored and (sample_id < self.plan.num_plain) == is_plain
            ]
            for start in range(0, len(missing), chain.batch_size):
                rows = missing[start : start + chain.batch_size]
                ids = [copies[row] for row in rows]
                images = self._plain_again(chain, ids) if is_plain else self._steered(chain, rows)
                self.source.keep(kind, ids, images, np.ones(len(ids), dtype=bool))
        return {row: self.source.image(kind, copies[row]) for row in copies}

    def _plain_again(self, chain: Chain, ids: Sequence[int]) -> torch.Tensor:
        images: torch.Tensor = chain.run(self.source.seeds(ids), lambda _: None).images
        return images

    def _steered(self, chain: Chain, rows: Sequence[int]) -> torch.Tensor:
        rounds = self._rounds()
        kept = [rounds.copy_of(row) for row in rows]
        found = [copy for copy in kept if copy is not None]
        if len(found) < len(rows):
            raise self.source.lost()
        noise = np.stack([copy["noise"] for copy in found], axis=1)
        images: torch.Tensor = again(
            chain, seeds=[int(copy["seed"]) for copy in found], noise=noise
        ).images
        return images

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
            "prompt": None if self.source.prompt is None else self.source.prompt.prompt_id,
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
