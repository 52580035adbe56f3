"""Towards training images: what a clean prediction promises, and how noise is tilted.

Aims are training images ``y_j``, each with a share of the steering. How much a trajectory promises
is ``V(x) = sum_j share_j h_j(x) / mean(h_j)``, with ``h_j = exp(-slope * mean squared distance of
the clean prediction from y_j)``, in proportion to the chance to end at ``y_j`` as far as the slope
is right, and its mean over the weighted population. So each aim gets its share of the trajectories,
however unlikely it is.

Noise is tilted along the gradient of ``log V``. For a model whose data has a share at ``y_j`` the
gradient of ``log P(y_j | x_t)`` is ``signal / level**2 * (y_j - clean)`` with the model's own clean
prediction (Bayes' rule and Tweedie's formula): the noise then has the mean by which the scheduler's
step would differ if ``y_j`` were the clean image, in units of its noise. That is the twisted
proposal (Wu et al. 2023) of this potential, and averaged over aims it is the same with the mean of
the aims, each weighed by its part in ``V``. A denoiser errs, so only a share of that is used, the
*tilt* of the step. Any tilt is right as long as it is weighed back: the weight of a trajectory is
multiplied by the density of its noise without the tilt over that with it.

Tilts and slopes are learnt from trajectories that were not steered, and ended closest to a
training image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize, special

MAX_SLOPE = 1e4
MOST_NATS = 2.0  # that the tilt of one step may cost a trajectory on average
CAUTION = 0.7  # the slopes used, as a share of those fitted: a greedy population loses ancestors
_SURE = 1.5  # standard errors above 0 from which a fitted tilt is believed
_SPREAD = 1.0  # nats by which the promise may differ among those that arrived (standard deviation)
_LEAST_INFORMATION = 0.05  # nats about the end, below which a prediction promises nothing


@dataclass(frozen=True, kw_only=True)
class Steering:
    """How trajectories are steered at each step of the schedule.

    Attributes:
        tilts: ``(num_steps,)``, 0 for none, 1 as if the denoiser never erred.
        slopes: ``(num_steps,)`` of the promise, per mean squared distance; 0 for no promise.
    """

    tilts: NDArray[np.float64]
    slopes: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.tilts.shape != self.slopes.shape:
            raise ValueError(f"{self.tilts.shape} tilts, {self.slopes.shape} slopes")


@dataclass(frozen=True, kw_only=True)
class Aims:
    """Training images that trajectories are steered to.

    Attributes:
        clean: ``(num_aims, ...)`` clean latents, float32.
        log_shares: ``(num_aims,)`` float64 logarithms of the steering that each gets.
    """

    clean: torch.Tensor
    log_shares: torch.Tensor

    def distances(self, predicted: torch.Tensor) -> torch.Tensor:
        """Mean squared distances ``(batch, num_aims)`` float64 of ``(batch, ...)`` predictions."""
        rows, columns = predicted.flatten(1).float(), self.clean.flatten(1)
        products = rows @ columns.T
        squared = rows.square().sum(1)[:, None] + columns.square().sum(1) - 2 * products
        return squared.double().clamp_min(0) / columns.shape[1]

    def promise(
        self, predicted: torch.Tensor, log_weights: torch.Tensor, slope: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logarithm of ``V``, and the part of each aim in it.

        Args:
            predicted: ``(batch, ...)`` clean predictions; promise -inf where not finite.
            log_weights: ``(batch,)`` float64.
            slope: Per mean squared distance.

        Returns:
            ``(batch,)`` and ``(batch, num_aims)``, both float64; parts sum to 1.
        """
        finite = predicted.flatten(1).isfinite().all(dim=1)
        safe = torch.where(finite.view(-1, *[1] * (predicted.ndim - 1)), predicted, 0.0)
        log_h = -slope * self.distances(safe)
        weights = torch.where(finite, log_weights, -torch.inf)
        mean = torch.logsumexp(weights[:, None] + log_h, 0) - torch.logsumexp(weights, 0)
        parts = self.log_shares + log_h - mean.nan_to_num(0.0)
        log_promise = torch.where(finite, torch.logsumexp(parts, 1), -torch.inf)
        return log_promise, torch.softmax(parts, 1)

    def mean(self, parts: torch.Tensor) -> torch.Tensor:
        """Mean of the aims ``(batch, ...)``, weighed by ``(batch, num_aims)`` parts."""
        mixed = parts.float() @ self.clean.flatten(1)
        return mixed.view(len(parts), *self.clean.shape[1:])


def tilted(
    noise: torch.Tensor, direction: torch.Tensor, tilt: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise with another mean, and what trajectories weigh for it.

    Args:
        noise: ``(batch, ...)`` standard normal.
        direction: ``(batch, ...)``, a function of what came before the noise.
        tilt: The new mean is ``tilt * direction``.

    Returns:
        The noise to use, and ``(batch,)`` float64 logarithm of the density that it would have had
        over the one that it has: ``-tilt * noise . direction - tilt**2 / 2 * |direction|**2``.
    """
    shift = tilt * direction.double()
    drawn = noise.double()
    log_ratio = -((drawn * shift).flatten(1).sum(1) + shift.square().flatten(1).sum(1) / 2)
    return (drawn + shift).to(noise.dtype), log_ratio


def limited(direction: torch.Tensor, tilt: float) -> torch.Tensor:
    """Directions ``(batch, ...)`` shortened to where a tilt costs `MOST_NATS` at most.

    Close to the end a step's noise is small, and an image that is still far from every aim would
    be torn towards one at a price in its weight that no copy could ever be worth.
    """
    lengths = abs(tilt) * direction.flatten(1).norm(dim=1)
    shares = (math.sqrt(2 * MOST_NATS) / lengths).clamp(max=1.0)
    shortened: torch.Tensor = direction * shares.view(-1, *[1] * (direction.ndim - 1))
    return shortened


def fit_tilts(
    along: NDArray[np.float64], squared: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The tilts under which given trajectories would have been likeliest (least squares).

    The cross-entropy method for a Gaussian mean along a known direction (Rubinstein and Kroese
    2004): minimises the Kullback-Leibler divergence from the trajectories that arrived to the
    proposal. Averaged over three neighbouring steps, and 0 where not clearly above 0.

    Args:
        along: ``(num_steps, num_trajectories)`` inner products of all the noise of a step, its
            tilt included, and the direction to where the trajectory ended.
        squared: ``(num_steps, num_trajectories)`` squared lengths of that direction.
        weights: ``(num_trajectories,)`` non-negative.

    Returns:
        ``(num_steps,)`` in [0, 1].
    """
    if not weights.sum() > 0:
        return np.zeros(len(along))
    shares = weights / weights.sum()
    known = _around(squared @ shares)
    explained = _around(along @ shares)
    tilts = np.divide(explained, known, out=np.zeros(len(along)), where=known > 0)
    # Of one trajectory the inner product has the variance of the squared length.
    error = np.sqrt(_around(squared @ np.square(shares)))
    sure = explained > _SURE * error
    return np.clip(np.where(sure, tilts, 0.0), 0.0, 1.0)


def fit_slope(
    plain: NDArray[np.float64], arrived: NDArray[np.float64], weights: NDArray[np.float64]
) -> float:
    """How fast the chance of ending at an image falls with the distance of a clean prediction.

    The exponential tilt of the distances of ordinary trajectories under which those of the
    trajectories that ended there are likeliest.

    Args:
        plain: ``(num_plain, num_arrived)`` mean squared distance of the clean prediction of each
            ordinary trajectory from the image where each of the others arrived.
        arrived: ``(num_arrived,)`` distances of those that arrived.
        weights: ``(num_arrived,)`` non-negative, sum above 0.

    Returns:
        The likeliest slope times `CAUTION`, at least 0; 0 where distances say next to nothing.
    """
    shares = weights / weights.sum()
    num_plain = len(plain)

    def loss(log_slope: float) -> float:
        slope = np.exp(log_slope)
        mean = special.logsumexp(-slope * plain, axis=0) - np.log(num_plain)
        return float(shares @ (slope * arrived + mean))

    found = optimize.minimize_scalar(  # type: ignore[no-untyped-call]
        loss, bounds=(-5.0, np.log(MAX_SLOPE)), method="bounded"
    )
    # What fitting one parameter gains on average where there is nothing to find.
    by_chance = 0.5 * float(np.square(shares).sum())
    if -float(found.fun) - by_chance < _LEAST_INFORMATION:
        return 0.0
    # Late in the schedule few trajectories are told apart by any slope, however steep.
    spread = float(np.sqrt(shares @ np.square(arrived - shares @ arrived)))
    steepest = _SPREAD / max(spread, _SPREAD / MAX_SLOPE)
    return CAUTION * min(float(np.exp(found.x)), steepest)


def _around(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums over three neighbours, of as many values as there are, also of one or two."""
    sums: NDArray[np.float64] = np.convolve(values, np.ones(3))[1:-1]
    return sums
