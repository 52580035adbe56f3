"""Islands one after another, each steered by what the ones before it found.

An island's steering depends on earlier islands alone, so that its estimates stay unbiased given
them, and estimates of different islands are uncorrelated. Steering is learnt at the tightest
similarity that enough trajectories reached, first the unsteered ones; so it works its way down to
copies that no ordinary sample shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pytest_memscan.splitting.chain import Chain
from pytest_memscan.splitting.island import Arrived, Island
from pytest_memscan.splitting.kept import Arrays, KeptIsland, read_arrays, write_arrays
from pytest_memscan.splitting.learning import (
    Arrivals,
    Clean,
    Traces,
    arrivals_of,
    learn,
    updated_shares,
)
from pytest_memscan.splitting.steering import Aims, Steering

MAX_AIMS = 1024  # training images that one island is steered to
MIN_REACHED = 10  # trajectories at a similarity before steering is learnt from it
MAX_LEARNT = 64  # trajectories of one island that steering is learnt from
LEVELS_AT_ONCE = 3  # similarities that decide what is steered to
REMEMBERED = 4  # islands that steering is learnt from, the latest

# What ``num`` trajectories ended in -> rows of the nearest training images and dissimilarities,
# both (num,).
Match = Callable[[Arrived], tuple[NDArray[np.int64], NDArray[np.float64]]]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one island ended.

    Attributes:
        number: 0 for the first.
        nearest: ``(num,)`` row of the training image that each image is nearest to.
        dissimilarities: ``(num,)``; infinity for images that are not valid.
        log_weights: ``(num,)``, see `island.Arrived`.
        num_ancestors: Starting points that the final images go back to.
        least_effective: Smallest effective share of the population after a selection.
        aims: ``(num_aims,)`` rows of the training images that it was steered to.
        is_steered: Whether there was anything to steer by.
        arrivals: What later islands learn from it.
    """

    number: int
    nearest: NDArray[np.int64]
    dissimilarities: NDArray[np.float64]
    log_weights: NDArray[np.float64]
    num_ancestors: int
    least_effective: float
    aims: NDArray[np.int64]
    is_steered: bool
    arrivals: Arrivals | None

    def rates(self, cut: float, num_train: int) -> NDArray[np.float64]:
        """Unbiased estimates ``(num_train,)`` of the rates at which images come that close."""
        within = self.dissimilarities <= cut
        weights = np.exp(self.log_weights[within]) / len(self.log_weights)
        summed = np.bincount(self.nearest[within], weights=weights, minlength=num_train)
        return summed.astype(np.float64)


@dataclass(kw_only=True)
class Rounds:
    """Runs the islands of a scan.

    Attributes:
        chain: The stochastic reverse process.
        clean: Clean latents of the training images, on the CPU.
        match: Compares what came out with the training images.
        cuts: Dissimilarities, tightest first: the confirmed cut, then looser ones.
        seeds: For each island one for each place, all different.
        draws: Seed of all other draws.
        shares: ``(num_train,)`` of the steering, from the screening.
        ordinary: Traces of ordinary trajectories, and arrivals among them, None for nothing to
            learn from; asked for when an island has to be run.
        folder: Where finished islands are kept; exists.
        keep: Given number of the island and its end, keeps the images.
    """

    chain: Chain
    clean: Clean
    match: Match
    cuts: Sequence[float]
    seeds: Sequence[Sequence[int]]
    draws: int
    shares: NDArray[np.float64]
    ordinary: Callable[[], tuple[Traces, Arrivals | None]]
    folder: Path
    keep: Callable[[int, Arrived], None] = field(default=lambda _, __: None)
    _done: list[Outcome] = field(default_factory=list)

    def run(self) -> Iterator[Outcome]:
        """Each island as it ends; those that are kept are not run again."""
        self._done.clear()
        for number, seeds in enumerate(self.seeds):
            kept = KeptIsland(folder=self.folder, name=f"island-{number:05d}")
            found = kept.result()
            if found is None:
                self._run(number, seeds, kept)
                found = kept.result()
            if found is None:
                raise RuntimeError("an island that was just kept cannot be read")
            outcome = _outcome(number, found)
            self._done.append(outcome)
            yield outcome

    def copy_of(self, train_row: int) -> Arrays | None:
        """Seed and noise of the closest steered copy of a training image, with its place."""
        return read_arrays(self._copy(train_row))

    def _run(self, number: int, seeds: Sequence[int], kept: KeptIsland) -> None:
        aims, rows = self._aims(number)
        steering = self._steering()
        island = Island(
            chain=self.chain,
            seeds=seeds,
            aims=aims,
            steering=steering,
            draws=self.draws + number,
            kept=kept,
        )
        arrived = island.run()
        nearest, dissimilarities = self.match(arrived)
        dissimilarities = np.where(arrived.finite, dissimilarities, np.inf)
        self.keep(number, arrived)
        shape = (len(seeds), *aims.clean.shape[1:])
        self._keep_copies(kept, arrived, nearest, dissimilarities, seeds, shape)
        outcome = Outcome(
            number=number,
            nearest=nearest,
            dissimilarities=dissimilarities,
            log_weights=arrived.log_weights,
            num_ancestors=arrived.num_ancestors,
            least_effective=arrived.least_effective,
            aims=rows,
            is_steered=bool(steering.slopes.any()),
            arrivals=None,
        )
        kept.finish(
            nearest=nearest,
            dissimilarities=dissimilarities,
            log_weights=arrived.log_weights,
            num_ancestors=np.int64(arrived.num_ancestors),
            aims=rows,
            is_steered=np.bool_(outcome.is_steered),
            least_effective=np.float64(arrived.least_effective),
            **self._arrivals(outcome, arrived, kept, shape),
        )

    def _level(self, outcomes: Sequence[Outcome]) -> float | None:
        """The tightest cut that enough trajectories reached."""
        for cut in self.cuts:
            if sum(int((each.dissimilarities <= cut).sum()) for each in outcomes) >= MIN_REACHED:
                return cut
        return None

    def _aims(self, number: int) -> tuple[Aims, NDArray[np.int64]]:
        shares = self.shares
        level = self._level(self._done)
        if level is not None:
            # Looser ones too: what nearly was a copy of another image may become one.
            first = self.cuts.index(level)
            rates = [
                np.sum([each.rates(cut, len(shares)) for each in self._done], axis=0)
                for cut in self.cuts[first : first + LEVELS_AT_ONCE]
            ]
            shares = updated_shares(shares, rates)
        rows = np.argsort(-shares, kind="stable")
        if len(rows) > MAX_AIMS:
            # Half for the likeliest, half drawn from the others: in some island all come up. What
            # is drawn here must not decide who survives, see `Island`: hence the third number.
            random = np.random.default_rng([self.draws, number, 1])
            others = random.choice(rows[MAX_AIMS // 2 :], MAX_AIMS // 2, replace=False)
            rows = np.concatenate([rows[: MAX_AIMS // 2], others])
        rows = np.sort(rows)
        device = self.chain.pipeline.device
        chosen = shares[rows] / shares[rows].sum()
        aims = Aims(
            clean=self.clean(rows).to(device),
            log_shares=torch.from_numpy(np.log(chosen)).to(device),
        )
        return aims, rows

    def _steering(self) -> Steering:
        """Learnt from the latest islands, and before there are any from ordinary trajectories."""
        learnt = [each.arrivals for each in self._done[-REMEMBERED:] if each.arrivals is not None]
        traces, arrived = self.ordinary()
        if sum(len(each.train_rows) for each in learnt) >= MIN_REACHED:
            arrived = Arrivals(
                train_rows=np.concatenate([each.train_rows for each in learnt]),
                weights=np.concatenate([each.weights for each in learnt]),
                along=np.concatenate([each.along for each in learnt], axis=1),
                squared=np.concatenate([each.squared for each in learnt], axis=1),
                distances=np.concatenate([each.distances for each in learnt], axis=1),
            )
        return learn(traces, arrived, self.clean)

    def _arrivals(
        self, outcome: Outcome, arrived: Arrived, kept: KeptIsland, shape: tuple[int, ...]
    ) -> Arrays:
        """What is learnt from an island: at the tightest cut, every training image counts alike."""
        level = self._level([*self._done, outcome])
        rows = np.flatnonzero(outcome.dissimilarities <= (-np.inf if level is None else level))
        # Those that weigh most: the others are many and tell little.
        rows = rows[np.argsort(-outcome.log_weights[rows], kind="stable")][:MAX_LEARNT]
        if not len(rows):
            return {}
        noise, predicted = kept.steps_of(arrived.lineage[rows, 1:], shape)
        _, image = np.unique(outcome.nearest[rows], return_inverse=True)
        heaviest = np.full(image.max() + 1, -np.inf)
        np.maximum.at(heaviest, image, outcome.log_weights[rows])
        weights = np.exp(outcome.log_weights[rows] - heaviest[image])
        found = arrivals_of(
            [torch.from_numpy(each) for each in predicted],
            [torch.from_numpy(each) for each in noise],
            self.ordinary()[0].bridges,
            train_rows=outcome.nearest[rows],
            weights=weights / np.bincount(image, weights=weights)[image],
            clean=self.clean,
        )
        return {f"arrived_{name}": value for name, value in vars(found).items()}

    def _keep_copies(
        self,
        kept: KeptIsland,
        arrived: Arrived,
        nearest: NDArray[np.int64],
        dissimilarities: NDArray[np.float64],
        seeds: Sequence[int],
        shape: tuple[int, ...],
    ) -> None:
        """Of each training image the noise of the closest copy so far."""
        order = np.argsort(dissimilarities, kind="stable")
        rows = order[dissimilarities[order] <= self.cuts[0]]
        _, first = np.unique(nearest[rows], return_index=True)
        for row in rows[first]:
            path = self._copy(int(nearest[row]))
            before = read_arrays(path)
            if before is not None and float(before["dissimilarity"]) <= dissimilarities[row]:
                continue
            noise, _ = kept.steps_of(arrived.lineage[row : row + 1, 1:], shape)
            start = int(arrived.lineage[row, 0])
            write_arrays(
                path,
                {
                    "seed": np.array(seeds[start]),
                    "noise": noise[:, 0],
                    "dissimilarity": dissimilarities[row],
                },
            )

    def _copy(self, train_row: int) -> Path:
        return self.folder / f"copy-{train_row:07d}.npz"


def _outcome(number: int, found: Arrays) -> Outcome:
    prefix = "arrived_"
    learnt: dict[str, Any] = {
        name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)
    }
    outcome = Outcome(
        number=number,
        nearest=found["nearest"],
        dissimilarities=found["dissimilarities"],
        log_weights=found["log_weights"],
        num_ancestors=int(found["num_ancestors"]),
        least_effective=float(found["least_effective"]),
        aims=found["aims"],
        is_steered=bool(found["is_steered"]),
        arrivals=None,
    )
    return replace(outcome, arrivals=Arrivals(**learnt)) if learnt else outcome
