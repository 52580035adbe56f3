"""MS-SSIM against its definition, written out window by window."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pytest_memscan.detectors.agreement import (
    seed_agreement,
    structural_similarity,
    window_and_scales,
)

Floats = NDArray[np.float64]


def ssim_by_definition(left: Floats, right: Floats, window: int) -> tuple[float, float]:
    """Wang et al. 2004 on ``(channels, height, width)``: SSIM, and without its luminance."""
    centre = (window - 1) / 2
    weights = np.array(
        [
            [
                math.exp(-((row - centre) ** 2 + (column - centre) ** 2) / (2 * 1.5**2))
                for column in range(window)
            ]
            for row in range(window)
        ]
    )
    weights /= weights.sum()
    with_luminance, without = [], []
    channels, height, width = left.shape
    for channel in range(channels):
        for row in range(height - window + 1):
            for column in range(width - window + 1):
                x = left[channel, row : row + window, column : column + window]
                y = right[channel, row : row + window, column : column + window]
                mean_x, mean_y = (weights * x).sum(), (weights * y).sum()
                variance_x = (weights * (x - mean_x) ** 2).sum()
                variance_y = (weights * (y - mean_y) ** 2).sum()
                covariance = (weights * (x - mean_x) * (y - mean_y)).sum()
                contrast = (2 * covariance + 0.03**2) / (variance_x + variance_y + 0.03**2)
                luminance = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
                without.append(contrast)
                with_luminance.append(luminance * contrast)
    return float(np.mean(with_luminance)), float(np.mean(without))


def halved(picture: Floats) -> Floats:
    """Means of blocks of 2 x 2; an odd row or column is left out."""
    channels, height, width = picture.shape
    blocks = picture[:, : height // 2 * 2, : width // 2 * 2]
    return blocks.reshape(channels, height // 2, 2, width // 2, 2).mean(axis=(2, 4))


def similarity_by_definition(left: Floats, right: Floats, window: int, scales: int) -> float:
    product = 1.0
    for scale in range(scales):
        whole, contrast = ssim_by_definition(left, right, window)
        product *= max(0.0, whole if scale == scales - 1 else contrast) ** (1 / scales)
        left, right = halved(left), halved(right)
    return product


def pictures(seed: int, shape: tuple[int, ...], *, common: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shared = torch.rand(shape[1:], generator=generator, dtype=torch.float64)
    return common * shared + (1 - common) * torch.rand(
        shape, generator=generator, dtype=torch.float64
    )


@settings(max_examples=15, deadline=None)
@given(
    side=st.sampled_from([(2, 2), (3, 5), (8, 8), (9, 8), (16, 16), (24, 23)]),
    channels=st.integers(1, 2),
    common=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_similarity_by_definition(
    side: tuple[int, int], channels: int, common: float, seed: int
) -> None:
    both = pictures(seed, (2, channels, *side), common=common)
    window, scales = window_and_scales(min(side))
    expected = similarity_by_definition(both[0].numpy(), both[1].numpy(), window, scales)
    assert float(structural_similarity(both[:1], both[1:])) == pytest.approx(expected, abs=1e-9)


def test_similarity_by_definition_on_three_scales() -> None:
    both = pictures(0, (2, 1, 44, 46), common=0.7)
    assert window_and_scales(44) == (11, 3)
    expected = similarity_by_definition(both[0].numpy(), both[1].numpy(), 11, 3)
    assert float(structural_similarity(both[:1], both[1:])) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("side", "window", "scales"),
    [
        (1, 1, 1),
        (2, 1, 2),
        (8, 7, 1),
        (10, 9, 1),
        (11, 11, 1),
        (22, 11, 2),
        (64, 11, 3),
        (128, 11, 3),
    ],
)
def test_window_and_scales_fit(side: int, window: int, scales: int) -> None:
    assert window_and_scales(side) == (window, scales)
    assert side // 2 ** (scales - 1) >= window


@settings(max_examples=20, deadline=None)
@given(num_seeds=st.integers(2, 4), common=st.floats(0, 1), seed=st.integers(0, 2**32 - 1))
def test_agreement_is_that_of_the_most_alike_pair(num_seeds: int, common: float, seed: int) -> None:
    clean = 7 * pictures(seed, (num_seeds, 2, 8, 8), common=common) - 3
    low = clean.numpy().min(axis=(2, 3), keepdims=True)
    high = clean.numpy().max(axis=(2, 3), keepdims=True)
    negated = (high - clean.numpy()) / (high - low)  # minus the latents, scaled to 0 ... 1
    expected = max(similarity_by_definition(a, b, 7, 1) for a, b in combinations(list(negated), 2))
    assert seed_agreement(clean) == pytest.approx(expected, abs=1e-9)
    assert seed_agreement(clean.flip(0) * 2 + 5) == pytest.approx(expected, abs=1e-9)
    assert 0 <= seed_agreement(clean) <= 1 + 1e-12


def test_two_equal_seeds_agree_fully_whatever_the_others() -> None:
    clean = torch.randn((4, 4, 16, 16), generator=torch.Generator().manual_seed(0))
    assert seed_agreement(clean) < 0.5
    clean[3] = clean[1]
    assert seed_agreement(clean) == pytest.approx(1)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_never_scored(bad: float) -> None:
    clean = torch.randn((3, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    clean[2, 3, 7, 7] = bad
    assert math.isnan(seed_agreement(clean))


def test_flat_channels_are_no_division_by_zero() -> None:
    assert seed_agreement(torch.ones(2, 4, 8, 8)) == pytest.approx(1)


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (4, 64, 16)])
def test_one_seed_or_packed_latents_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected \\(num_seeds, channels, height, width\\)"):
        seed_agreement(torch.ones(shape))
