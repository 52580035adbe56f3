"""Scores against plain loops over plain lists, and what they promise."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_memscan.detectors import scores
from pytest_memscan.detectors.scores import (
    alignment,
    change_norms,
    consistency,
    denoising_confidence,
    early_spread,
    masked_early_spread,
    masked_magnitude,
    mean_noise_magnitude,
    noise_magnitude,
    places_of,
    seed_shares,
)

Vector = list[float]


@st.composite
def latents(draw: st.DrawFn) -> torch.Tensor:
    """``(num_seeds, channels, height, width)`` or packed, with a common part or none."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    num_seeds = draw(st.integers(2, 5))
    shape = draw(st.sampled_from([(4, 3, 5), (1, 2, 2), (4, 8, 8), (6, 4), (1, 3)]))
    common = draw(st.floats(0, 3)) * torch.randn(shape, generator=generator)
    return common + torch.randn((num_seeds, *shape), generator=generator)


def dot(left: Vector, right: Vector) -> float:
    return math.fsum(a * b for a, b in zip(left, right, strict=True))


def flat(values: torch.Tensor) -> list[Vector]:
    return [each.flatten().tolist() for each in values]


def by_place(values: torch.Tensor) -> list[list[Vector]]:
    """Place -> seed -> channels, walking through the tensor."""
    if values.dim() == 3:
        return [
            [values[seed, place].tolist() for seed in range(len(values))]
            for place in range(values.shape[1])
        ]
    return [
        [values[seed, :, row, column].tolist() for seed in range(len(values))]
        for row in range(values.shape[2])
        for column in range(values.shape[3])
    ]


def mean_of(vectors: list[Vector]) -> Vector:
    return [math.fsum(column) / len(vectors) for column in zip(*vectors, strict=True)]


def share_of(vectors: list[Vector]) -> float:
    mean = mean_of(vectors)
    total = math.fsum(dot(each, each) for each in vectors) / len(vectors)
    return dot(mean, mean) / total


def cosine(left: Vector, right: Vector) -> float:
    return dot(left, right) / math.sqrt(dot(left, left) * dot(right, right))


def distance(left: Vector, right: Vector) -> float:
    return math.sqrt(math.fsum((a - b) ** 2 for a, b in zip(left, right, strict=True)))


def unit(vector: Vector) -> Vector:
    return [value / math.sqrt(dot(vector, vector)) for value in vector]


@settings(deadline=None)
@given(changes=latents())
def test_noise_magnitude_by_definition(changes: torch.Tensor) -> None:
    norms = [math.sqrt(dot(each, each)) for each in flat(changes)]
    assert change_norms(changes).tolist() == pytest.approx(norms)
    assert noise_magnitude(changes) == pytest.approx(sum(norms) / len(norms))


def test_noise_magnitude_by_hand() -> None:
    changes = torch.tensor([[[[3.0, 0.0], [0.0, 4.0]]], [[[0.0, 0.0], [0.0, 1.0]]]])
    assert noise_magnitude(changes) == 3.0  # norms 5 and 1


def test_mean_noise_magnitude_is_the_mean_over_seeds_and_steps() -> None:
    norms = torch.tensor([[1.0, 2.0, 3.0], [5.0, 6.0, 7.0]])
    assert mean_noise_magnitude(norms) == 4.0


@settings(deadline=None)
@given(changes=latents(), seed=st.integers(0, 2**32 - 1))
def test_alignment_by_definition(changes: torch.Tensor, seed: int) -> None:
    other = torch.randn(changes.shape, generator=torch.Generator().manual_seed(seed))
    cosines = [cosine(a, b) for a, b in zip(flat(changes), flat(other), strict=True)]
    assert alignment(changes, other) == pytest.approx(sum(cosines) / len(cosines), abs=1e-9)


def test_alignment_by_hand() -> None:
    """Same direction, opposite, at 60 degrees."""
    changes = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, math.sqrt(3)]])
    unconditional = torch.tensor([[7.0, 0.0], [0.0, -3.0], [5.0, 0.0]])
    assert alignment(changes, unconditional) == pytest.approx((1 - 1 + 0.5) / 3)
    assert math.isnan(alignment(changes, torch.zeros(3, 2)))


@settings(deadline=None)
@given(noise=latents(), seed=st.integers(0, 2**32 - 1))
def test_denoising_confidence_by_definition(noise: torch.Tensor, seed: int) -> None:
    clean = torch.randn(noise.shape, generator=torch.Generator().manual_seed(seed))
    squares = [
        (a - b) ** 2
        for first, second in zip(flat(noise), flat(clean), strict=True)
        for a, b in zip(first, second, strict=True)
    ]
    assert denoising_confidence(noise, clean) == pytest.approx(sum(squares) / len(squares))


@settings(deadline=None)
@given(changes=latents())
def test_masked_magnitude_by_definition(changes: torch.Tensor) -> None:
    places = by_place(changes)
    shares = [share_of(place) for place in places]
    assert seed_shares(places_of(changes)).tolist() == pytest.approx(shares, abs=1e-9)
    best = sorted(range(len(places)), key=lambda place: -shares[place])
    chosen = best[: max(1, len(places) // 4)]
    means = [mean_of(places[place]) for place in chosen]
    expected = math.sqrt(math.fsum(dot(mean, mean) for mean in means))
    assert masked_magnitude(changes) == pytest.approx(expected, abs=1e-9)


def test_masked_magnitude_sees_a_fixed_part_that_the_whole_hides() -> None:
    """Template: one quarter steered alike from all seeds; else the same magnitude, scattered."""
    generator = torch.Generator().manual_seed(0)
    fixed = torch.randn((4, 4, 8, 8), generator=generator)
    free = fixed.clone()
    fixed[:, :, :4, :4] = torch.randn((4, 4, 4), generator=generator)
    assert noise_magnitude(fixed) == pytest.approx(noise_magnitude(free), rel=0.1)
    assert masked_magnitude(fixed) > 1.2 * masked_magnitude(free)
    assert masked_early_spread(fixed) < 0.01 < 0.2 < masked_early_spread(free)
    inside = places_of(fixed).mean(dim=0).reshape(8, 8, 4)[:4, :4]
    assert masked_magnitude(fixed) == pytest.approx(float(inside.norm()))


@settings(deadline=None)
@given(descriptors=latents())
def test_consistency_by_definition(descriptors: torch.Tensor) -> None:
    cosines = [cosine(a, b) for a, b in combinations(flat(descriptors), 2)]
    assert consistency(descriptors) == pytest.approx(sum(cosines) / len(cosines), abs=1e-9)


@settings(deadline=None)
@given(clean=latents())
def test_spreads_by_definition(clean: torch.Tensor) -> None:
    distances = [distance(unit(a), unit(b)) for a, b in combinations(flat(clean), 2)]
    assert early_spread(clean) == pytest.approx(sum(distances) / len(distances), abs=1e-7)
    relative = []
    for place in by_place(clean):
        mean = mean_of(place)
        variance = math.fsum(distance(each, mean) ** 2 for each in place) / len(place)
        relative.append(variance / (math.fsum(dot(each, each) for each in place) / len(place)))
    lowest = sorted(relative)[: max(1, len(relative) // 4)]
    assert masked_early_spread(clean) == pytest.approx(sum(lowest) / len(lowest), abs=1e-9)


@settings(deadline=None)
@given(clean=latents(), factor=st.floats(0.01, 100))
def test_spreads_do_not_depend_on_scale_nor_on_the_order_of_seeds(
    clean: torch.Tensor, factor: float
) -> None:
    for spread in (early_spread, masked_early_spread):
        assert spread(clean.flip(0) * factor) == pytest.approx(spread(clean), abs=1e-5)
    assert 0 <= early_spread(clean) <= 2
    assert -1e-12 <= masked_early_spread(clean) <= 1


def test_equal_seeds_have_no_spread() -> None:
    clean = torch.randn((1, 4, 6, 6)).expand(3, 4, 6, 6)
    assert early_spread(clean) == pytest.approx(0, abs=1e-7)
    assert masked_early_spread(clean) == pytest.approx(0, abs=1e-7)
    assert consistency(clean) == pytest.approx(1)


@settings(deadline=None)
@given(picture=latents().filter(lambda each: each.dim() == 4))
def test_a_picture_and_its_tokens_score_alike(picture: torch.Tensor) -> None:
    packed = picture.flatten(2).transpose(1, 2)
    for score in (masked_magnitude, masked_early_spread):
        assert score(packed) == pytest.approx(score(picture), abs=1e-12)


ONE_ARGUMENT = [
    noise_magnitude,
    mean_noise_magnitude,
    masked_magnitude,
    consistency,
    early_spread,
    masked_early_spread,
]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 5, 47])
def test_what_is_not_finite_is_never_scored(bad: float, place: int) -> None:
    values = torch.randn((3, 1, 4, 4), generator=torch.Generator().manual_seed(1))
    broken = values.clone()
    broken.view(-1)[place] = bad
    for score in ONE_ARGUMENT:
        assert math.isfinite(score(values))
        assert math.isnan(score(broken))
    for pair_score in (alignment, denoising_confidence):
        assert math.isnan(pair_score(broken, values))
        assert math.isnan(pair_score(values, broken))


@pytest.mark.parametrize(
    "score", [masked_magnitude, consistency, early_spread, masked_early_spread]
)
def test_one_seed_cannot_be_compared(score: Callable[[torch.Tensor], float]) -> None:
    with pytest.raises(ValueError, match="at least 2 are needed"):
        score(torch.ones(1, 4, 4, 4))


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 5, 6)])
def test_latents_without_places_are_refused(shape: Any) -> None:
    with pytest.raises(ValueError, match="expected 3 or 4 dimensions"):
        places_of(torch.ones(shape))


def test_half_precision_is_summed_up_in_double() -> None:
    changes = torch.full((2, 4, 64, 64), 300.0, dtype=torch.float16)  # squares overflow
    assert scores.noise_magnitude(changes) == pytest.approx(300 * math.sqrt(4 * 64 * 64))
