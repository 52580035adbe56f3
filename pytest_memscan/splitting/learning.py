"""What steering is learnt from: trajectories that were never steered, and one look at each image.

Trajectories that ended closest to a training image show how much of the way there can be seen in
the clean predictions (`Steering`). Noising each training image and denoising it once shows which of
them the model restores unusually well, and so where copies are likeliest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from pytest_memscan.denoising.parametrisation import noisy_latents
from pytest_memscan.denoising.schedule import read_parametrisation
from pytest_memscan.splitting.chain import Chain, Step, clean_latents
from pytest_memscan.splitting.steering import Steering, fit_slope, fit_tilts

MAX_TRACED = 256  # ordinary trajectories that are remembered
MIN_TRACED = 32  # fewer cannot be learnt from
ARRIVED = 0.05  # share of them that counts as having arrived at a training image
MIN_ARRIVED = 20
SIGNAL_SHARES = (0.6, 0.8, 0.3)  # of the noised images that are denoised once, in this order
# How the steering is shared out by the screening: by how much better than others an image is
# restored, by its rank, and to all alike.
BY_ERROR, BY_RANK, TO_ALL = 0.4, 0.4, 0.2
Clean = Callable[
    [NDArray[np.int64]], torch.Tensor
]  # rows -> clean latents, (num_rows, ...) float32


@dataclass
class Traces:
    """What the first ordinary trajectories went through, in float16.

    Attributes:
        clean: For each step ``(num_traced, ...)`` clean predictions.
        noise: For each step ``(num_traced, ...)`` noise.
        bridges: For each step, see `chain.Step`.
        finite: ``(num,)`` whether every prediction of a trajectory was finite; all of them.
    """

    clean: list[torch.Tensor] = field(default_factory=list)
    noise: list[torch.Tensor] = field(default_factory=list)
    bridges: list[float] = field(default_factory=list)
    finite: torch.Tensor | None = None

    def listen(self, step: Step) -> None:
        """Remember a step."""
        finite = step.prediction.flatten(1).isfinite().all(dim=1).cpu()
        self.finite = finite if self.finite is None else self.finite & finite
        self.clean.append(step.clean[:MAX_TRACED].half().cpu())
        self.noise.append(step.noise[:MAX_TRACED].half().cpu())
        self.bridges.append(step.bridge)

    def arrivals(
        self,
        dissimilarities: NDArray[np.float64],
        train_rows: NDArray[np.int64],
        clean: Clean,
    ) -> Arrivals | None:
        """Those of the remembered trajectories that ended closest to a training image.

        Args:
            dissimilarities: ``(num_traced,)``; infinity for images that are not valid.
            train_rows: ``(num_traced,)`` training image that each ended nearest to.
            clean: Clean latents of the training images.

        Returns:
            None where fewer than `MIN_TRACED` are valid.
        """
        num_valid = int(np.isfinite(dissimilarities).sum())
        if num_valid < MIN_TRACED:
            return None
        num_arrived = min(num_valid // 2, max(MIN_ARRIVED, round(ARRIVED * num_valid)))
        rows = np.argsort(dissimilarities, kind="stable")[:num_arrived]
        return arrivals_of(
            [part[rows] for part in self.clean],
            [part[rows] for part in self.noise],
            self.bridges,
            train_rows=train_rows[rows],
            weights=np.ones(num_arrived),
            clean=clean,
        )


@dataclass(frozen=True, kw_only=True)
class Arrivals:
    """Trajectories that ended close to a training image, as far as steering is learnt from them.

    Attributes:
        train_rows: ``(num_arrived,)`` where they ended.
        weights: ``(num_arrived,)`` what each counts.
        along: ``(num_steps, num_arrived)``, see `steering.fit_tilts`, as `squared`.
        squared: ``(num_steps, num_arrived)``.
        distances: ``(num_steps, num_arrived)`` mean squared distance of the clean prediction from
            where it ended.
    """

    train_rows: NDArray[np.int64]
    weights: NDArray[np.float64]
    along: NDArray[np.float64]
    squared: NDArray[np.float64]
    distances: NDArray[np.float64]


def arrivals_of(
    predicted: Sequence[torch.Tensor],
    noise: Sequence[torch.Tensor],
    bridges: Sequence[float],
    *,
    train_rows: NDArray[np.int64],
    weights: NDArray[np.float64],
    clean: Clean,
) -> Arrivals:
    """Work out what steering is learnt from.

    Args:
        predicted: For each step ``(num_arrived, ...)`` clean predictions.
        noise: For each step ``(num_arrived, ...)`` all the noise that was used.
        bridges: For each step.
        train_rows: ``(num_arrived,)`` training image where each ended.
        weights: ``(num_arrived,)``.
        clean: Clean latents of the training images.
    """
    ends = clean(train_rows).flatten(1).double()
    along, squared, distances = [], [], []
    for part, drawn, bridge in zip(predicted, noise, bridges, strict=True):
        way = ends - part.flatten(1).double()
        along.append((bridge * (way * drawn.flatten(1).double()).sum(1)).numpy())
        squared.append((bridge**2 * way.square().sum(1)).numpy())
        distances.append(way.square().mean(1).numpy())
    return Arrivals(
        train_rows=train_rows,
        weights=weights,
        along=np.array(along),
        squared=np.array(squared),
        distances=np.array(distances),
    )


def learn(traces: Traces, arrived: Arrivals | None, clean: Clean) -> Steering:
    """Tilts and slopes from trajectories that arrived, beside ordinary ones.

    Args:
        traces: Of ordinary trajectories.
        arrived: None for nothing to learn from: all tilts and slopes are 0.
        clean: Clean latents of the training images.
    """
    num_steps = len(traces.clean)
    if arrived is None:
        return Steering(tilts=np.zeros(num_steps), slopes=np.zeros(num_steps))
    ends = clean(arrived.train_rows).flatten(1).float()
    slopes = []
    for predicted, own in zip(traces.clean, arrived.distances, strict=True):
        rows = predicted.flatten(1).float()
        plain = torch.cdist(rows[rows.isfinite().all(dim=1)], ends).double().square()
        slopes.append(fit_slope((plain / ends.shape[1]).numpy(), own, arrived.weights))
    return Steering(
        tilts=fit_tilts(arrived.along, arrived.squared, arrived.weights), slopes=np.array(slopes)
    )


@torch.no_grad()
def restoration_error(
    chain: Chain, clean: torch.Tensor, *, seeds: Sequence[int], level: int
) -> NDArray[np.float64]:
    """How far one denoiser call leaves noised training images from themselves.

    Args:
        chain: Its schedule has been set.
        clean: ``(num, ...)`` clean latents on the denoiser's device.
        seeds: One for each image.
        level: Which of `SIGNAL_SHARES`.

    Returns:
        ``(num,)`` mean squared distances of the clean predictions; infinity where not finite.
    """
    scheduler = chain.pipeline.scheduler
    shares = scheduler.alphas_cumprod[scheduler.timesteps.cpu()]
    nearest = int((shares - SIGNAL_SHARES[level]).abs().argmin())
    timestep = int(scheduler.timesteps[nearest])
    mixture = read_parametrisation(scheduler).mixture(timestep)
    errors = []
    for start in range(0, len(clean), chain.batch_size):
        part = clean[start : start + chain.batch_size]
        drawn = [
            torch.randn(part.shape[1:], generator=torch.Generator("cpu").manual_seed(seed))
            for seed in seeds[start : start + chain.batch_size]
        ]
        noisy = noisy_latents(part, torch.stack(drawn).to(part), mixture)
        restored = clean_latents(scheduler, noisy, chain.predict(noisy, timestep), timestep)
        errors.append((restored - part).square().flatten(1).mean(1).double().cpu())
    found = torch.cat(errors).numpy()
    errors_found: NDArray[np.float64] = np.where(np.isfinite(found), found, np.inf)
    return errors_found


def screened_shares(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the steering for each training image, most for those restored best.

    One part falls with the square of the error, which shows the few images that a model remembers
    among many that it does not; one with the square root of the rank, since plain images, restored
    best of all, must not take everything; and one is left for all alike, since a copy that one
    call does not show must not be missed for it.

    Args:
        errors: ``(num_levels, num_images)`` from `restoration_error`.

    Returns:
        ``(num_images,)``, sums to 1, none of them 0.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = np.log(errors).mean(axis=0)
    known = scores[np.isfinite(scores)]
    # No error at all: a white image, clipped to white. It is best, but no better than the next.
    worst, best = known.max(initial=0.0), np.nextafter(known.min(initial=0.0), -np.inf)
    finite = np.nan_to_num(scores, nan=worst, posinf=worst, neginf=best)
    by_error = np.exp(-2 * (finite - finite.min()))
    rank = np.empty(len(scores))
    rank[np.argsort(finite, kind="stable")] = np.arange(1, len(scores) + 1)
    by_rank = rank**-0.5
    shares: NDArray[np.float64] = (
        BY_ERROR * by_error / by_error.sum()
        + BY_RANK * by_rank / by_rank.sum()
        + TO_ALL / len(scores)
    )
    return shares


def updated_shares(
    screened: NDArray[np.float64], rates: Sequence[NDArray[np.float64]], *, kept: float = 0.25
) -> NDArray[np.float64]:
    """Share of the steering for each training image after some were found.

    In proportion to the square root of what was found, between steering to the likeliest copies
    alone and to all alike; a share `kept` stays as it was.

    Args:
        screened: ``(num_images,)`` from `screened_shares`.
        rates: ``(num_images,)`` estimated rates so far at one similarity or several, of which each
            gets as much; 0 where nothing was found.
        kept: Between 0 and 1.
    """
    found = [np.sqrt(each) / np.sqrt(each).sum() for each in rates if each.any()]
    if not found:
        return screened
    shares: NDArray[np.float64] = kept * screened + (1 - kept) * np.mean(found, axis=0)
    return shares
