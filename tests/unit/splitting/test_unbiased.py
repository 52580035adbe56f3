"""The promise of it all: whatever the steering, weighted means are those of ordinary images.

The truth comes from the stock pipeline alone, with one generator and tens of thousands of images.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from unit.splitting.models import exactly, nearest, pictures, pipeline

from pytest_memscan.splitting.chain import Chain
from pytest_memscan.splitting.island import Arrived, Island
from pytest_memscan.splitting.learning import Traces
from pytest_memscan.splitting.rounds import Rounds
from pytest_memscan.splitting.steering import Aims, Steering

STEPS = 5
POPULATION = 40
NUM_ISLANDS = 60
NUM_TRUE = 60_000
CUT = 0.15  # root mean squared distance; the images scatter around theirs by 0.15
CLEAN = pictures(4)
WEIGHTS = torch.tensor([0.01, 0.05, 0.44, 0.5])


def events(images: torch.Tensor) -> NDArray[np.float64]:
    """``(num, 6)``: one; copies of each image, and whether the rare one is the nearest."""
    rows, distances = nearest(images, CLEAN)
    copies = [(rows == row) & (distances <= CUT) for row in range(len(CLEAN))]
    return np.stack([np.ones(len(rows)), *copies, rows == 0], axis=1).astype(np.float64)


@cache
def truth() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means of the events over ordinary images, and their standard errors."""
    pipe = pipeline()
    with exactly(pipe, CLEAN, WEIGHTS):
        images = pipe(
            batch_size=NUM_TRUE,
            generator=torch.Generator().manual_seed(2**40),
            eta=1.0,
            num_inference_steps=STEPS,
            output_type="pt",
        ).images
    found = events(images)
    return found.mean(axis=0), found.std(axis=0) / np.sqrt(NUM_TRUE)


def agree(estimates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard errors between the mean of independent ``(num, 6)`` estimates and the truth."""
    expected, error = truth()
    own = estimates.std(axis=0, ddof=1) / np.sqrt(len(estimates))
    both = np.sqrt(error**2 + own**2)
    far: NDArray[np.float64] = (estimates.mean(axis=0) - expected) / np.maximum(both, 1e-12)
    return np.where(np.abs(estimates.mean(axis=0) - expected) < 1e-9, 0.0, far)


def steering(tilts: list[float], slopes: list[float]) -> Steering:
    return Steering(tilts=np.array(tilts), slopes=np.array(slopes))


# Aims and steering. Before the last noise the bridge is 100: a tilt there counts a hundredfold.
STEERINGS = {
    "to the rare image": ([0], steering([1, 0.5, 0.2, 0.001, 0], [0, 1, 2, 4, 4])),
    "to all": ([0, 1, 2, 3], steering([0.8, 0.5, 0.2, 0.002, 0], [0, 1, 3, 8, 8])),
    "tilts alone": ([0, 1, 2, 3], steering([1, 0.5, 0.2, 0, 0], [1e-9] * 5)),
    "selection alone": ([0, 1], steering([0, 0, 0, 0, 0], [1, 3, 9, 12, 12])),
    "from the first step": ([0], steering([0.5, 0.5, 0.2, 0, 0], [20, 5, 5, 5, 5])),
    "to the wrong image": ([3], steering([1, 0.6, 0.2, 0, 0], [3, 3, 3, 3, 3])),
    "away": ([1], steering([-0.5, -0.5, -0.2, 0, 0], [-1, -2, -3, -3, -3])),
}
# So strong that common images come from a few trajectories of huge weight, now and then.
STRONG = ([0], steering([1, 1, 0.5, 0.01, 0], [0, 2, 6, 12, 12]))


def islands(aims: Aims, how: Steering, number: int) -> NDArray[np.float64]:
    pipe = pipeline()
    chain = Chain(pipeline=pipe, num_steps=STEPS, batch_size=POPULATION)
    found = []
    with exactly(pipe, CLEAN, WEIGHTS):
        for island in range(number):
            first = island * POPULATION
            arrived = Island(
                chain=chain,
                seeds=range(first, first + POPULATION),
                aims=aims,
                steering=how,
                draws=1000 + island,
            ).run()
            found.append(weighted(arrived))
    return np.array(found)


def weighted(arrived: Arrived) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = np.exp(arrived.log_weights) @ events(arrived.images)
    return mean / len(arrived.images)


def steered(rows: list[int], how: Steering, number: int) -> NDArray[np.float64]:
    shares = torch.full((len(rows),), 1 / len(rows), dtype=torch.float64)
    aims = Aims(clean=CLEAN[rows], log_shares=shares.log())
    return islands(aims, how, number)


@pytest.mark.parametrize("name", STEERINGS)
def test_estimates_agree_with_ordinary_sampling(name: str) -> None:
    far = agree(steered(*STEERINGS[name], NUM_ISLANDS))
    assert np.abs(far).max() < 4, far


def test_strong_steering_estimates_a_rare_copy_far_better_than_plain_sampling() -> None:
    estimates = steered(*STRONG, NUM_ISLANDS)
    assert abs(agree(estimates)[1]) < 4
    rate = truth()[0][1]
    assert estimates[:, 1].var(ddof=1) < rate * (1 - rate) / POPULATION / 10


def test_islands_that_learn_from_each_other_agree_with_ordinary_sampling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty scans of two islands each: the sum over islands of unbiased estimates."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # nothing is gone on with here
    pipe = pipeline()
    chain = Chain(pipeline=pipe, num_steps=STEPS, batch_size=POPULATION)
    clean: Callable[[NDArray[np.int64]], torch.Tensor] = lambda rows: CLEAN[rows]  # noqa: E731
    estimates, num_steered = [], 0
    with exactly(pipe, CLEAN, WEIGHTS):
        for scan in range(40):
            first = 10_000 + scan * 3 * POPULATION
            traces = Traces()
            images = chain.run(range(first, first + POPULATION), traces.listen).images
            rows, distances = nearest(images, CLEAN)
            arrived = traces.arrivals(distances, rows, clean)
            folder = tmp_path / str(scan)
            folder.mkdir()
            ends: dict[int, Any] = {}
            rounds = Rounds(
                chain=chain,
                clean=clean,
                match=lambda arrived: nearest(arrived.images, CLEAN),
                cuts=[CUT, 1.3 * CUT, 2 * CUT],
                seeds=[
                    range(first + n * POPULATION, first + (n + 1) * POPULATION) for n in range(1, 3)
                ],
                draws=scan * 10,
                shares=np.array([0.7, 0.1, 0.1, 0.1]),
                ordinary=lambda traces=traces, arrived=arrived: (traces, arrived),  # type: ignore[misc]
                folder=folder,
                keep=lambda number, each, ends=ends: ends.update({number: weighted(each)}),  # type: ignore[misc]
            )
            outcomes = list(rounds.run())
            num_steered += sum(each.is_steered for each in outcomes)
            for outcome in outcomes:
                np.testing.assert_allclose(outcome.rates(CUT, 4), ends[outcome.number][1:5])
            estimates.append(np.mean(list(ends.values()), axis=0))
    assert num_steered > 70
    far = agree(np.array(estimates))
    assert np.abs(far).max() < 4, far
