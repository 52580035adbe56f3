"""The control of splitting: the same steering, on a model that is known to remember.

The model is the exact optimal denoiser of some of the training images, a few of which it makes
rarely. It stands in for the checkpoint's denoiser, in the checkpoint's own schedule.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pytest_memscan.denoising.attach import denoiser_of
from pytest_memscan.denoising.exact import ExactDenoiser, standing_in
from pytest_memscan.denoising.schedule import read_parametrisation
from pytest_memscan.results import Control
from pytest_memscan.splitting.chain import Chain
from pytest_memscan.splitting.island import Arrived
from pytest_memscan.splitting.learning import Clean, Traces
from pytest_memscan.splitting.rounds import Rounds

NUM_RARE = 8
RARE = 3e-4  # chance of each of them
NUM_REMEMBERED = 128
REMEMBERED_BYTES = 2**25
POPULATION = 64
MINIMUM = 2
NUM_ISLANDS = 8
_COPIED = 1e-2  # mean squared distance in [-1, 1] at which the exact denoiser has copied
_CLOSE = (0.05, 0.1, 0.2, 0.4)  # distances that steering works its way down from


def memoriser_control(chain: Chain, clean: Clean, *, num_targets: int, seed: int) -> Control:
    """Steer a model that makes a few images once in a thousand, and count those that come out.

    Args:
        chain: Of the checkpoint; its denoiser is not called.
        clean: Clean latents of the training images.
        num_targets: Of them.
        seed: Of all noise.
    """
    size = clean(np.array([0])).numel()
    number = min(
        num_targets, max(NUM_RARE + 2, min(NUM_REMEMBERED, REMEMBERED_BYTES // (8 * size)))
    )
    random = np.random.default_rng(seed)
    chosen = np.sort(random.choice(num_targets, number, replace=False))
    remembered = clean(chosen)
    num_rare = min(NUM_RARE, number - 1)
    weights = torch.full((number,), (1 - num_rare * RARE) / (number - num_rare))
    weights[:num_rare] = RARE
    exact = ExactDenoiser(clean=remembered, weights=weights)
    known = read_parametrisation(chain.pipeline.scheduler)
    with standing_in(denoiser_of(chain.pipeline), exact, known.mixture, known.kind):
        found = _found(replace(chain, decodes=False), remembered, num_rare, seed)
    return Control(
        name="memoriser",
        sentence=(
            f"some of {num_rare} training images that an exact model of {number} of them makes "
            f"once in {round(1 / RARE):,} images must come out when {NUM_ISLANDS * POPULATION} "
            "trajectories are steered to them"
        ),
        num_images=num_rare,
        num_found=len(found & set(range(num_rare))),
        minimum_found=min(MINIMUM, num_rare),
        maximum_found=num_rare,
    )


def _found(chain: Chain, remembered: torch.Tensor, num_rare: int, seed: int) -> set[int]:
    """Rows of the rare images that steering brings out."""

    def clean(rows: NDArray[np.int64]) -> torch.Tensor:
        return remembered[torch.from_numpy(rows)]

    def rare_only(arrived: Arrived) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        rows, errors = _nearest(arrived.latents, remembered)
        return np.where(rows < num_rare, rows, 0), np.where(rows < num_rare, errors, np.inf)

    def seeds(number: int) -> list[int]:
        return [
            (seed + row) % 2**32 for row in range(number * POPULATION, (number + 1) * POPULATION)
        ]

    traces = Traces()
    rows, errors = _nearest(chain.run(seeds(0), traces.listen).latents, remembered)
    arrived = traces.arrivals(errors, rows, clean)
    with tempfile.TemporaryDirectory() as folder:
        rounds = Rounds(
            chain=chain,
            clean=clean,
            match=rare_only,
            cuts=(_COPIED, *_CLOSE),
            seeds=[seeds(number) for number in range(1, NUM_ISLANDS + 1)],
            draws=seed,
            shares=np.full(num_rare, 1 / num_rare),
            ordinary=lambda: (traces, arrived),
            folder=Path(folder),
        )
        found = [each.nearest[each.dissimilarities <= _COPIED] for each in rounds.run()]
    return set(np.concatenate(found).tolist())


def _nearest(
    latents: torch.Tensor, remembered: torch.Tensor
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    found = latents.float().cpu().flatten(1)
    distances = torch.cdist(found, remembered.flatten(1)).square() / remembered[0].numel()
    errors, rows = distances.min(dim=1)
    return rows.numpy(), errors.double().numpy()
