"""Divergences against closed forms and quadrature; kernel estimates against their biases."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import integrate, stats

from pytest_memscan.memorisation import (
    LogDensity,
    divergence_drop,
    kernel_log_density,
    memorisation_divergence,
    mixture_log_density,
)

Floats = NDArray[np.float64]
SURELY = 1 - 1e-6  # of bounds that hypothesis must not be able to break by chance
ROUNDING = 1e-9
FAR = 100.0  # between points, in units of sigma: nothing overlaps

seeds = st.integers(0, 2**32 - 1)


def density_of(means: Any, weights: Any, spreads: Any) -> LogDensity:
    return lambda points: mixture_log_density(points, means, weights, spreads)


def between_normals(num_values: int, sigma: float, spread: float, squared: float = 0.0) -> float:
    """KL of ``N(a, sigma**2 I)`` and ``N(b, spread**2 I)``, with ``|a - b|**2 = squared``."""
    wider = num_values * math.log(spread / sigma)
    return wider + (num_values * sigma**2 + squared) / (2 * spread**2) - num_values / 2


def far_points(num: int, num_values: int, sigma: float = 1.0) -> Floats:
    points = np.zeros((num, num_values))
    points[:, 0] = FAR * sigma * np.arange(num)
    return points


# The density of a mixture


@st.composite
def mixtures(draw: st.DrawFn) -> dict[str, Any]:
    num, num_values = draw(st.integers(1, 7)), draw(st.integers(1, 4))
    generator = np.random.default_rng(draw(seeds))
    weights = np.array(draw(st.lists(st.sampled_from([0.0, 0.1, 3.0]), min_size=num, max_size=num)))
    weights[draw(st.integers(0, num - 1))] = 1.0
    spreads: Any = draw(st.sampled_from([0.01, 0.5, 4.0]))
    if draw(st.booleans()):
        spreads = generator.uniform(0.05, 2.0, num)
    return {
        "points": generator.normal(5.0, 2.0, (draw(st.integers(1, 6)), num_values)),
        "means": generator.normal(5.0, 1.0, (num, num_values)),
        "weights": weights,
        "spreads": spreads,
        "tile_bytes": draw(st.sampled_from([1, 100, 2**20])),
    }


@settings(deadline=None, max_examples=60)
@given(mixture=mixtures())
def test_a_mixture_has_the_density_of_the_definition(mixture: dict[str, Any]) -> None:
    means, shares = mixture["means"], mixture["weights"] / mixture["weights"].sum()
    spreads = np.broadcast_to(mixture["spreads"], shares.shape)
    terms = [
        np.log(share) + stats.norm(mean, spread).logpdf(mixture["points"]).sum(axis=1)
        for mean, share, spread in zip(means, shares, spreads, strict=True)
        if share > 0
    ]
    expected = np.logaddexp.reduce(terms, axis=0)
    np.testing.assert_allclose(mixture_log_density(**mixture), expected, rtol=1e-8, atol=1e-8)


def test_a_density_integrates_to_one() -> None:
    def density(at: float) -> float:
        return math.exp(mixture_log_density([[at]], [[-1.0], [2.0]], [1, 3], [0.5, 1.0])[0])

    assert integrate.quad(density, -8, 10, points=[-1, 2])[0] == pytest.approx(1, abs=1e-7)


def test_memory_is_bounded_by_tiles() -> None:
    generator = np.random.default_rng(0)
    points, means = generator.normal(size=(3000, 64)), generator.normal(size=(3000, 64))
    weights, tile_bytes = np.ones(3000), 2**18
    tracemalloc.start()
    try:
        tiled = mixture_log_density(points, means, weights, 0.5, tile_bytes=tile_bytes)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    per_point = 8 * 3000 * 5  # the answer, and weights and variances of every mean
    assert peak < 8 * tile_bytes + per_point  # a whole matrix alone is 275 tiles
    whole = mixture_log_density(points, means, weights, 0.5)
    np.testing.assert_allclose(tiled, whole, rtol=1e-12)


# The divergence


@pytest.mark.parametrize(
    ("num_values", "sigma", "spread", "distance"),
    [(1, 1.0, 1.0, 2.0), (3, 0.1, 0.4, 0.3), (16, 0.05, 0.03, 0.0), (256, 0.1, 0.1, 0.5)],
)
def test_two_normal_densities(
    num_values: int, sigma: float, spread: float, distance: float
) -> None:
    here, there = np.zeros((1, num_values)), np.zeros((1, num_values))
    there[0, 0] = distance
    found = memorisation_divergence(
        here,
        sigma=sigma,
        log_density=density_of(there, [1.0], spread),
        num_draws=4000,
        seed=0,
        confidence=SURELY,
    )
    expected = between_normals(num_values, sigma, spread, distance**2)
    assert found.lower <= expected <= found.upper
    assert found.upper - found.lower < 0.2 * (1 + expected)


@settings(deadline=None, max_examples=30)
@given(
    weights=st.lists(st.floats(0.01, 5), min_size=1, max_size=6),
    spread=st.floats(0.3, 4.0),
    num_values=st.integers(1, 5),
    seed=seeds,
)
def test_points_far_apart_cost_their_weights_and_their_widths(
    weights: list[float], spread: float, num_values: int, seed: int
) -> None:
    """Mean of ``log (1/n) - log w_i``, and the divergence of one width from the other."""
    points = far_points(len(weights), num_values)
    shares = np.array(weights) / sum(weights)
    found = memorisation_divergence(
        points,
        sigma=1.0,
        log_density=density_of(points, weights, spread),
        num_draws=2000,
        seed=seed,
        confidence=SURELY,
    )
    expected = -np.log(shares * len(shares)).mean() + between_normals(num_values, 1.0, spread)
    assert found.lower - ROUNDING <= expected <= found.upper + ROUNDING


@pytest.mark.parametrize("sigma", [0.1, 0.5, 2.0])
def test_overlapping_points_against_quadrature(sigma: float) -> None:
    train, means = np.array([[-1.0], [0.0], [2.0]]), np.array([[-0.8], [1.0], [5.0]])
    weights, spreads = np.array([1.0, 2.0, 0.5]), np.array([0.5, 1.0, 2.0])
    grid = np.linspace(-20, 20, 40_001)[:, None]
    own = np.mean([stats.norm(at, sigma).pdf(grid[:, 0]) for at in train[:, 0]], axis=0)
    log_ratio = np.log(own + 1e-300) - mixture_log_density(grid, means, weights, spreads)
    expected = integrate.simpson(own * log_ratio, x=grid[:, 0])
    found = memorisation_divergence(
        train,
        sigma=sigma,
        log_density=density_of(means, weights, spreads),
        num_draws=20_000,
        seed=1,
        confidence=SURELY,
    )
    assert found.lower <= expected <= found.upper


def test_a_model_that_makes_its_training_points_has_none() -> None:
    train = np.random.default_rng(2).normal(size=(20, 3))
    found = memorisation_divergence(
        train,
        sigma=0.7,
        log_density=density_of(train, np.ones(20), 0.7),
        num_draws=100,
        seed=3,
    )
    assert found.lower == found.value == found.upper == 0.0


def test_bounds_hold_as_often_as_they_say() -> None:
    train, mean = np.array([[0.0, 0.0], [1.0, 0.5]]), np.array([[0.5, 0.5]])
    ask: dict[str, Any] = {"sigma": 0.3, "log_density": density_of(mean, [1.0], 0.6)}
    exactly = memorisation_divergence(train, **ask, num_draws=2_000_000, seed=0).value
    runs = [memorisation_divergence(train, **ask, num_draws=200, seed=seed) for seed in range(600)]
    for missed in ([r.lower > exactly for r in runs], [r.upper < exactly for r in runs]):
        assert stats.binomtest(sum(missed), len(runs), 0.05).pvalue > 1e-3
    assert runs[0].confidence == 0.95
    assert runs[0].num_trials == 200


def test_draws_are_those_of_the_seed() -> None:
    ask: dict[str, Any] = {"sigma": 0.5, "log_density": density_of([[1.0]], [1.0], 1.0)}
    first, again, other = (
        memorisation_divergence([[0.0]], **ask, num_draws=50, seed=seed) for seed in (4, 4, 5)
    )
    assert first == again != other


def test_a_density_of_zero_is_infinitely_far() -> None:
    def one_side(points: Floats) -> Floats:
        return np.where(points[:, 0] > 0, 0.0, -np.inf)

    ask: dict[str, Any] = {"sigma": 1.0, "num_draws": 50, "seed": 0}
    found = memorisation_divergence([[0.0]], log_density=one_side, **ask)
    assert found.value == found.lower == found.upper == math.inf
    with pytest.raises(ValueError, match="no finite drop"):
        divergence_drop(
            [[0.0]], log_density=one_side, conditional=density_of([[0.0]], [1.0], 1.0), **ask
        )


# Kernel estimates


@settings(deadline=None, max_examples=20)
@given(mixture=mixtures())
def test_a_kernel_estimate_is_the_mean_of_its_kernels(mixture: dict[str, Any]) -> None:
    images, points = mixture["means"], mixture["points"]
    kernels = [np.exp(stats.norm(image, 0.8).logpdf(points).sum(axis=1)) for image in images]
    found = np.exp(kernel_log_density(images, 0.8)(points))
    np.testing.assert_allclose(found, np.mean(kernels, axis=0), rtol=1e-8)


def test_a_kernel_estimate_is_on_average_the_widened_density() -> None:
    spread, bandwidth, at = 0.6, 0.8, np.array([[0.5, -0.3]])
    generator = np.random.default_rng(6)
    found = np.array(
        [
            math.exp(kernel_log_density(generator.normal(0, spread, (20, 2)), bandwidth)(at)[0])
            for _ in range(800)
        ]
    )
    expected = stats.norm(0, math.hypot(spread, bandwidth)).pdf(at).prod()
    assert abs(found.mean() - expected) < 4 * found.std() / math.sqrt(len(found))


def generated_log_shares(num_generated: int, num_runs: int) -> Floats:
    """Divergence of 4 equally likely points far apart from images that lie on them."""
    points, generator = far_points(4, 2), np.random.default_rng(7)
    found = []
    for seed in range(num_runs):
        images = points[generator.integers(4, size=num_generated)]
        estimate = memorisation_divergence(
            points,
            sigma=1.0,
            log_density=kernel_log_density(images, 1.0),
            num_draws=100,
            seed=seed,
        )
        found.append(estimate.value)
    return np.array(found)


def test_a_noisy_kernel_estimate_errs_by_as_much_as_is_documented() -> None:
    """``(1 - w) / (2 w num_generated)`` nats, w = 1/4."""
    found = generated_log_shares(200, 300)
    error = found.std() / math.sqrt(len(found))
    bias = (1 - 0.25) / (2 * 0.25 * 200)
    assert abs(found.mean() - bias) < 4 * error
    assert found.mean() > 4 * error  # there is a bias


def test_a_point_that_no_image_came_near_costs_its_distance() -> None:
    points, images = np.array([[0.0, 0.0]]), np.array([[3.0, 0.0], [500.0, 0.0]])
    found = memorisation_divergence(
        points,
        sigma=0.1,
        log_density=kernel_log_density(images, 0.1),
        num_draws=4000,
        seed=8,
        confidence=SURELY,
    )
    expected = 3.0**2 / (2 * 0.1**2) + math.log(2)
    assert found.lower <= expected <= found.upper


# Bad input


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"points": [1.0]}, r"points of shape \(1,\)"),
        ({"points": [[1.0]]}, "points of 1 values, and means of 2"),
        ({"points": [[1.0, math.nan]]}, "finite"),
        ({"means": np.empty((0, 2))}, "means of shape"),
        ({"weights": [1.0]}, r"weights of shape \(1,\)"),
        ({"weights": [0.0, 0.0]}, "one of them above 0"),
        ({"weights": [1.0, -1.0]}, "at least 0"),
        ({"spreads": 0.0}, "a point has no density"),
        ({"spreads": [1.0, math.inf]}, "finite and above 0"),
        ({"spreads": [1.0, 1.0, 1.0]}, r"spreads of shape \(3,\)"),
    ],
)
def test_what_is_no_mixture_is_refused(changed: dict[str, Any], message: str) -> None:
    good = {"points": [[0.0, 0.0]], "means": np.eye(2), "weights": [1.0, 2.0], "spreads": 1.0}
    with pytest.raises(ValueError, match=message):
        mixture_log_density(**{**good, **changed})


def wrong_shape(points: Floats) -> Floats:
    return np.zeros((len(points), 1))


def not_a_number(points: Floats) -> Floats:
    return np.full(len(points), np.nan)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train": np.empty((0, 2))}, "train of shape"),
        ({"sigma": 0.0}, "need sigma > 0"),
        ({"sigma": math.nan}, "need sigma > 0"),
        ({"num_draws": 1}, "num_draws >= 2"),
        ({"confidence": 1.0}, "confidence must lie"),
        ({"log_density": wrong_shape}, r"shape \(10, 1\) for 10 points"),
        ({"log_density": not_a_number}, "no number or infinite"),
    ],
)
def test_what_has_no_divergence_is_refused(changed: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {
        "train": np.eye(2),
        "sigma": 1.0,
        "log_density": density_of(np.eye(2), [1.0, 1.0], 1.0),
        "num_draws": 10,
        "seed": 0,
    }
    with pytest.raises(ValueError, match=message):
        memorisation_divergence(**{**good, **changed})


@pytest.mark.parametrize(
    "bad",
    [
        lambda: kernel_log_density(np.empty((0, 2)), 1.0),
        lambda: kernel_log_density([[math.inf]], 1.0),
        lambda: kernel_log_density([[1.0]], 0.0),
        lambda: kernel_log_density([[1.0], [2.0]], np.ones(2)),  # type: ignore[arg-type]
    ],
)
def test_kernels_without_images_or_width_are_refused(bad: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"finite|bandwidth"):
        bad()
