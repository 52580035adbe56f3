"""How far a generated density is from having learnt its training points by heart.

The *memorisation divergence* of training points ``x_1 ... x_n`` and a density p is

    KL(q || p) = E_q[log q - log p],    q = mean over i of N(x_i, sigma**2 I),

for a small sigma (SIDE, arXiv:2410.02467v6, definition 1). It is 0 for the model that makes the
points, each equally often, with noise of standard deviation sigma, and larger the less the model
does so. It depends on sigma, and grows with dimension and with the number of other things that
the model makes: it only compares models (or conditions) at the same points and the same sigma.

A condition y lowers it by ``E_q[log p(y | x)] - log P(y)``, by Bayes' rule. That is
``log 1 / P(y)``, the most there is, if what lies near the training points in question surely
belongs to the condition, and 0 if the label says nothing about the image.

Everything is in nats, and of flat points, ``(num_points, num_values)`` in any one unit: pixels,
latents or descriptors. Spreads and sigma have that unit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from pytest_memscan.results import Estimate

Floats = NDArray[np.float64]
LogDensity = Callable[[Floats], Floats]  # (num_points, num_values) -> (num_points,), in nats

TILE_BYTES = 2**25
_VALUE_BYTES = 8  # float64


def mixture_log_density(
    points: ArrayLike,
    means: ArrayLike,
    weights: ArrayLike,
    spreads: ArrayLike,
    *,
    tile_bytes: int = TILE_BYTES,
) -> Floats:
    """Log density of ``sum_j weights[j] N(means[j], spreads[j]**2 I)``.

    Distances are those of float64 products of points that were centred on the mean of the means:
    off by about 1e-16 of the squared width of the data, which shows once spreads are below about
    1e-6 of that width.

    Args:
        points: ``(num_points, num_values)``.
        means: ``(num_means, num_values)``, at least one.
        weights: ``(num_means,)``, at least 0, not all 0; only their ratios matter.
        spreads: Standard deviation, above 0, or ``(num_means,)`` of them.
        tile_bytes: About the size of each of the four arrays or so that are in memory at a time,
            apart from what goes in and comes out.

    Returns:
        ``(num_points,)``, in nats; the density is one per unit to the power of `num_values`.

    Raises:
        ValueError: Shapes that do not belong together, or values that make no density.

    Example:
        >>> at_the_mean = mixture_log_density([[0.0]], [[0.0]], [1.0], 1.0)
        >>> f"{at_the_mean[0]:.4f}"  # -log(2 pi) / 2
        '-0.9189'
    """
    mixture = _Mixture.of(means, weights, spreads)
    at = _points(points, "points")
    if at.shape[1] != mixture.means.shape[1]:
        raise ValueError(f"points of {at.shape[1]} values, and means of {mixture.means.shape[1]}")
    num_values = at.shape[1]
    columns = _slices(len(mixture.means), tile_bytes, num_values)
    densities = np.full(len(at), -np.inf)
    for rows in _slices(len(at), tile_bytes, max(num_values, columns[0].stop)):
        centred = at[rows] - mixture.centre
        for tile in columns:
            terms = mixture.log_terms(centred, tile)
            densities[rows] = np.logaddexp(densities[rows], special.logsumexp(terms, axis=1))
    return densities


def kernel_log_density(generated: ArrayLike, bandwidth: float) -> LogDensity:
    """Kernel estimate of the density that images were generated from (Parzen 1962).

    Two biases, both of which make divergences too large, so that only estimates with the same
    bandwidth and the same number of images compare:

    - Its mean is the density convolved with ``N(0, bandwidth**2 I)``: a model that repeats its
      training points with a spread of s seems to do so with ``sqrt(s**2 + bandwidth**2)``.
    - It is noisy, and the mean logarithm of something noisy is below the logarithm of its mean:
      by about ``(1 - w) / (2 w num_generated)`` nats near a point where a share w of the images
      fall. Near a point that no image came close to, the logarithm falls with the squared
      distance over ``2 bandwidth**2`` to the nearest one: the divergence is then a matter of the
      bandwidth, not of the model.

    In more than a few dimensions it says something about repeated images only, which is what
    memorisation is about. With images that lie on the points, ``bandwidth = sigma`` is natural.

    Args:
        generated: ``(num_generated, num_values)``, at least one.
        bandwidth: Standard deviation of the kernel, above 0, in the unit of the images.

    Raises:
        ValueError: No images, values that are not finite, or no such bandwidth.
    """
    images = _points(generated, "generated")
    weights = np.ones(len(images))
    _Mixture.of(images, weights, bandwidth)  # refuses here what it would refuse when called
    if np.ndim(bandwidth) != 0:
        raise ValueError(f"one bandwidth is needed, got {np.shape(bandwidth)} of them")

    def log_density(points: Floats) -> Floats:
        return mixture_log_density(points, images, weights, bandwidth)

    return log_density


def memorisation_divergence(
    train: ArrayLike,
    *,
    sigma: float,
    log_density: LogDensity,
    num_draws: int,
    seed: int,
    confidence: float = 0.95,
) -> Estimate:
    """``KL(q || p)`` of the training points' mixture q and a density p, see the module.

    Monte Carlo over independent draws of q: unbiased for the density that it is given, so an
    estimate may fall below 0 where the divergence is near 0. The bounds are normal ones, from the
    spread of the draws alone: right for about 100 draws or more. What is uncertain or biased
    about ``log_density`` itself (see `kernel_log_density`) is not in them.

    Args:
        train: ``(num_train, num_values)``, the points, or those of one label.
        sigma: Standard deviation around every point, above 0, in the points' unit.
        log_density: Of what is generated, in nats.
        num_draws: At least 2.
        seed: Of the draws.
        confidence: Of each of the one-sided bounds.

    Returns:
        Nats, over `num_draws` trials. Infinite if a draw has density 0.

    Raises:
        ValueError: Arguments out of range, or a log density that is no number, ``+inf`` or not
            ``(num_points,)``.
    """
    centres, draws = _draws(train, sigma, num_draws, seed)
    own = mixture_log_density(draws, centres, np.ones(len(centres)), sigma)
    return _mean(own - _asked(log_density, draws), confidence)


def divergence_drop(
    train: ArrayLike,
    *,
    sigma: float,
    log_density: LogDensity,
    conditional: LogDensity,
    num_draws: int,
    seed: int,
    confidence: float = 0.95,
) -> Estimate:
    """By how much a condition lowers the memorisation divergence of some training points.

    The divergence from ``log_density`` less that from ``conditional``, of the same draws: what
    they have in common cancels, and the interval is much shorter than those of the two.

    Positive where the condition is closer to the points; at most ``log 1 / P(y)`` if the one is
    the other under the condition y. If the conditional density is q itself, the drop is
    ``KL(q || p)`` and so never negative. One that is wider than q can be farther from the points
    than the unconditional one: the theorem is about models that have converged.

    Arguments, bounds and errors are those of `memorisation_divergence`; both densities must be
    above 0 at the draws.
    """
    _, draws = _draws(train, sigma, num_draws, seed)
    before, after = _asked(log_density, draws), _asked(conditional, draws)
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        raise ValueError("a density is 0 at a draw: there is no finite drop")
    return _mean(after - before, confidence)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Mixture:
    """Means around their centre, and of each the constants of its normal density."""

    means: Floats
    centre: Floats
    log_weights: Floats
    variances: Floats

    @classmethod
    def of(cls, means: ArrayLike, weights: ArrayLike, spreads: ArrayLike) -> _Mixture:
        centres = _points(means, "means")
        shares, widths = np.asarray(weights, np.float64), np.asarray(spreads, np.float64)
        if shares.shape != (len(centres),) or widths.shape not in ((), (len(centres),)):
            raise ValueError(
                f"weights of shape {shares.shape} and spreads of shape {widths.shape} for "
                f"{len(centres)} means"
            )
        if not (np.isfinite(shares).all() and (shares >= 0).all() and shares.any()):
            raise ValueError("weights must be finite and at least 0, and one of them above 0")
        if not (np.isfinite(widths).all() and (widths > 0).all()):
            raise ValueError("spreads must be finite and above 0: a point has no density")
        centre = centres.mean(axis=0)
        with np.errstate(divide="ignore"):
            log_weights = np.log(shares / shares.sum())
        variances = np.broadcast_to(widths**2, shares.shape)
        return cls(means=centres, centre=centre, log_weights=log_weights, variances=variances)

    def log_terms(self, centred: Floats, tile: slice) -> Floats:
        """``(rows, columns)``, log of weight times normal density, at points less the centre."""
        means, variances = self.means[tile] - self.centre, self.variances[tile]
        terms: Floats = centred @ means.T
        terms *= -2
        terms += (centred**2).sum(axis=1)[:, None]
        terms += (means**2).sum(axis=1)
        np.maximum(terms, 0, out=terms)  # squared distances, but for rounding
        terms /= -2 * variances
        terms += self.log_weights[tile] - means.shape[1] / 2 * np.log(2 * np.pi * variances)
        return terms


def _draws(train: ArrayLike, sigma: float, num_draws: int, seed: int) -> tuple[Floats, Floats]:
    """The points, and ``(num_draws, num_values)`` draws of their mixture."""
    centres = _points(train, "train")
    if not 0 < sigma < np.inf or num_draws < 2:
        raise ValueError(f"need sigma > 0 and num_draws >= 2, got {sigma} and {num_draws}")
    generator = np.random.default_rng(seed)
    draws = centres[generator.integers(len(centres), size=num_draws)]
    draws += sigma * generator.standard_normal(draws.shape)
    return centres, draws


def _asked(log_density: LogDensity, draws: Floats) -> Floats:
    values = np.asarray(log_density(draws), np.float64)
    if values.shape != (len(draws),) or not (values < np.inf).all():
        raise ValueError(
            f"the log density gave values of shape {values.shape} for {len(draws)} points, or "
            "some that are no number or infinite"
        )
    return values


def _mean(values: Floats, confidence: float) -> Estimate:
    """With normal one-sided bounds; infinite if one of the values is."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
    mean = float(values.mean())
    margin = 0.0
    if np.isfinite(mean):
        error = float(values.std(ddof=1)) / math.sqrt(len(values))
        margin = float(special.ndtri(confidence)) * error
    return Estimate(
        value=mean,
        lower=mean - margin,
        upper=mean + margin,
        confidence=confidence,
        num_trials=len(values),
    )


def _points(values: ArrayLike, name: str) -> Floats:
    points = np.asarray(values, np.float64)
    if points.ndim != 2 or points.size == 0 or not np.isfinite(points).all():
        raise ValueError(
            f"{name} of shape {points.shape}; expected at least one row of finite numbers"
        )
    return points


def _slices(num: int, num_bytes: int, values: int) -> list[slice]:
    """Of `num` rows of so many float64 values, as many at once as the bytes allow."""
    at_once = max(1, num_bytes // (_VALUE_BYTES * values))
    return [slice(start, min(start + at_once, num)) for start in range(0, num, at_once)]
