"""What a condition does to divergences: the theorem, on the exact model of a finite set."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

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

seeds = st.integers(0, 2**32 - 1)


def density_of(means: Any, weights: Any, spreads: Any) -> LogDensity:
    return lambda points: mixture_log_density(points, means, weights, spreads)


def far_points(num: int, num_values: int) -> Floats:
    """With a spread of 1, nothing overlaps."""
    points = np.zeros((num, num_values))
    points[:, 0] = 100 * np.arange(num)
    return points


@st.composite
def labelled_sets(draw: st.DrawFn) -> tuple[Floats, NDArray[np.bool_], float]:
    """Points, perhaps the same ones or close; which of them bear the label; a spread."""
    num = draw(st.integers(2, 8))
    chosen = draw(st.lists(st.booleans(), min_size=num, max_size=num))
    chosen[draw(st.integers(0, num - 1))] = True
    generator = np.random.default_rng(draw(seeds))
    points = np.round(
        generator.normal(size=(num, draw(st.integers(1, 4)))), draw(st.integers(0, 2))
    )
    return points, np.array(chosen), draw(st.sampled_from([0.02, 0.3, 1.0]))


@settings(deadline=None, max_examples=60)
@given(labelled=labelled_sets(), seed=seeds)
def test_an_informative_label_lowers_the_divergence_up_to_its_surprise(
    labelled: tuple[Floats, NDArray[np.bool_], float], seed: int
) -> None:
    """For every finite set: from ``KL(q || p)`` to 0, hence by 0 up to ``log 1 / P(y)``."""
    points, chosen, sigma = labelled
    whole = density_of(points, np.ones(len(points)), sigma)
    conditional = density_of(points, chosen, sigma)
    ask: dict[str, Any] = {"sigma": sigma, "num_draws": 500, "seed": seed, "confidence": SURELY}
    subset = points[chosen]
    before = memorisation_divergence(subset, log_density=whole, **ask)
    after = memorisation_divergence(subset, log_density=conditional, **ask)
    drop = divergence_drop(subset, log_density=whole, conditional=conditional, **ask)
    assert after.value == pytest.approx(0.0, abs=1e-8)
    assert drop.value == pytest.approx(before.value - after.value, abs=1e-8)
    assert drop.upper >= -ROUNDING
    assert drop.value <= math.log(len(points) / chosen.sum()) + 1e-8


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    spread=st.floats(0.3, 4.0),
    num_values=st.integers(1, 4),
    seed=seeds,
)
def test_a_label_of_sets_far_apart_lowers_it_by_its_surprise(
    sizes: list[int], spread: float, num_values: int, seed: int
) -> None:
    """Whatever the width of the model, at every single draw."""
    points, labels = far_points(sum(sizes), num_values), np.repeat(np.arange(len(sizes)), sizes)
    for label, size in enumerate(sizes):
        drop = divergence_drop(
            points[labels == label],
            sigma=1.0,
            log_density=density_of(points, np.ones(len(points)), spread),
            conditional=density_of(points, labels == label, spread),
            num_draws=20,
            seed=seed,
        )
        assert drop.value == pytest.approx(math.log(sum(sizes) / size), abs=1e-6)
        assert drop.upper - drop.lower < 1e-6


@pytest.mark.parametrize("truth", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("num_labels", [2, 5])
def test_a_label_that_is_often_random_lowers_it_less(truth: float, num_labels: int) -> None:
    """True with probability `truth`, else drawn from all: a random label changes nothing."""
    points, labels = far_points(3 * num_labels, 2), np.repeat(np.arange(num_labels), 3)
    says_first = truth * (labels == 0) + (1 - truth) / num_labels
    drop = divergence_drop(
        points[labels == 0],
        sigma=1.0,
        log_density=density_of(points, np.ones(len(points)), 1.0),
        conditional=density_of(points, says_first, 1.0),
        num_draws=100,
        seed=9,
    )
    expected = math.log(truth + (1 - truth) / num_labels) - math.log(1 / num_labels)
    assert drop.value == pytest.approx(expected, abs=1e-9)
    assert (abs(drop.value) < ROUNDING) == (truth == 0)


def test_random_labels_of_samples_change_nothing_but_the_noise() -> None:
    """Estimated from a part of the samples that was chosen by random labels.

    In expectation the part has the density of the whole; that there are fewer of them costs what
    is documented of kernel estimates.
    """
    points, num, num_labels = far_points(4, 2), 400, 4
    generator, found = np.random.default_rng(10), []
    for seed in range(300):
        images = points[generator.integers(4, size=num)]
        labels = generator.permutation(num) % num_labels
        drop = divergence_drop(
            points,
            sigma=1.0,
            log_density=kernel_log_density(images, 1.0),
            conditional=kernel_log_density(images[labels == 0], 1.0),
            num_draws=100,
            seed=seed,
        )
        found.append(drop.value)
    bias = (1 - 0.25) / (2 * 0.25) * (1 / num - num_labels / num)
    error = np.std(found) / math.sqrt(len(found))
    assert abs(np.mean(found) - bias) < 4 * error
    assert abs(np.mean(found)) < 0.02 * math.log(num_labels)


def test_a_condition_can_raise_it_where_the_model_is_wide() -> None:
    """The points of the label lie around those of another: a wide model prefers the middle."""
    points, chosen, spread = np.array([[-1.0], [1.0], [0.0]]), np.array([1.0, 1.0, 0.0]), 10.0
    drop = divergence_drop(
        points[:2],
        sigma=1e-3,
        log_density=density_of(points, np.ones(3), spread),
        conditional=density_of(points, chosen, spread),
        num_draws=200,
        seed=11,
    )
    same, next_to, across = 1.0, math.exp(-1 / 200), math.exp(-4 / 200)
    expected = math.log((same + across) / 2) - math.log((same + across + next_to) / 3)
    assert drop.value == pytest.approx(expected, abs=1e-5)
    assert drop.upper < 0
