"""Known clean latents and noise come back out of every kind of prediction."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_memscan.denoising.parametrisation import (
    KINDS,
    Kind,
    Mixture,
    clean_change,
    clean_latents,
    noise,
    noise_change,
    noisy_latents,
    prediction_of,
    score,
    velocity,
    visible_change,
)

SHAPE = (2, 3, 4, 4)


@st.composite
def mixtures(draw: st.DrawFn) -> Mixture:
    """Of unit variance or of a flow; never so near to an end that only rounding is left."""
    share = draw(st.floats(0.02, 0.98))
    if draw(st.booleans()):
        return Mixture(signal=math.sqrt(1 - share), level=math.sqrt(share))
    return Mixture(signal=1 - share, level=share)


def _pair(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    clean, eps = torch.randn((2, *SHAPE), generator=generator, dtype=torch.float64)
    return clean, eps


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(mixture=mixtures(), seed=st.integers(0, 2**32 - 1))
def test_clean_latents_noise_velocity_and_score_come_back(
    kind: Kind, mixture: Mixture, seed: int
) -> None:
    clean, eps = _pair(seed)
    latents = noisy_latents(clean, eps, mixture)
    prediction = prediction_of(clean, eps, kind=kind, mixture=mixture)
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(
        clean_latents(latents, prediction, kind=kind, mixture=mixture), clean, **close
    )
    torch.testing.assert_close(noise(latents, prediction, kind=kind, mixture=mixture), eps, **close)
    torch.testing.assert_close(
        velocity(latents, prediction, kind=kind, mixture=mixture),
        mixture.signal * eps - mixture.level * clean,
        **close,
    )
    # Of the normal distribution around the scaled clean latents.
    torch.testing.assert_close(
        score(latents, prediction, kind=kind, mixture=mixture),
        (mixture.signal * clean - latents) / mixture.level**2,
        **close,
    )


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(mixture=mixtures(), seed=st.integers(0, 2**32 - 1))
def test_a_change_is_the_difference_of_two_predictions(
    kind: Kind, mixture: Mixture, seed: int
) -> None:
    """Two beliefs about the same noisy latents, by way of each belief."""
    clean, eps = _pair(seed)
    latents = noisy_latents(clean, eps, mixture)
    other_clean = clean + _pair(seed ^ 1)[0]
    other_eps = (latents - mixture.signal * other_clean) / mixture.level
    change = prediction_of(other_clean, other_eps, kind=kind, mixture=mixture) - prediction_of(
        clean, eps, kind=kind, mixture=mixture
    )
    close = {"rtol": 1e-8, "atol": 1e-8}
    in_noise = noise_change(change, kind=kind, mixture=mixture)
    torch.testing.assert_close(in_noise, other_eps - eps, **close)
    in_clean = clean_change(change, kind=kind, mixture=mixture)
    torch.testing.assert_close(in_clean, other_clean - clean, **close)
    assert torch.equal(visible_change(change, kind=kind, mixture=mixture), in_noise)


@pytest.mark.parametrize("kind", ["v_prediction", "flow", "sample"])
def test_at_pure_noise_the_velocity_still_changes(kind: Kind) -> None:
    mixture = Mixture(signal=0.0, level=1.0)
    change = torch.tensor([1.0, -2.0], dtype=torch.float64)
    in_clean = clean_change(change, kind=kind, mixture=mixture)
    assert torch.equal(in_clean.abs(), change.abs())
    assert torch.equal(noise_change(change, kind=kind, mixture=mixture), 0 * change)
    # velocity = signal * noise - level * clean, of which only the clean latents are left
    assert torch.equal(visible_change(change, kind=kind, mixture=mixture), -in_clean)


def test_epsilon_at_pure_noise_says_nothing_about_clean_latents() -> None:
    """Not a number that looks like a result."""
    mixture = Mixture(signal=0.0, level=1.0)
    latents = torch.ones(2)
    clean = latents.new_tensor([0.5, 1.0])
    assert not clean_latents(latents, clean, kind="epsilon", mixture=mixture).isfinite().any()


@pytest.mark.parametrize(("signal", "level"), [(-0.1, 1.0), (1.0, 0.0), (math.nan, 1.0)])
def test_impossible_mixtures_are_refused(signal: float, level: float) -> None:
    with pytest.raises(ValueError, match="expected at least 0, and more than 0"):
        Mixture(signal=signal, level=level)
