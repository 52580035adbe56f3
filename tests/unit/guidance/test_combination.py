"""The guided prediction means the guided noise, whatever the models predict."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pytest_memscan.denoising.parametrisation import KINDS, Kind, Mixture, noise, prediction_of
from pytest_memscan.guidance.combination import ModelGuidance, combine

SHAPE = (2, 3, 2, 2)


def mixture_of(kind: Kind, level: float) -> Mixture:
    signal = 1 - level if kind == "flow" else math.sqrt(1 - level**2)
    return Mixture(signal=signal, level=level)


def drawn(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noisy latents, and the noise in them as fine-tune and base see it; float64."""
    latents, ours, other = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(seed))
    return latents.double(), ours.double(), other.double()


def predicted(
    latents: torch.Tensor, seen: torch.Tensor, kind: Kind, mixture: Mixture
) -> torch.Tensor:
    """By a model of this kind that sees that noise in the latents."""
    clean = (latents - mixture.level * seen) / mixture.signal
    return prediction_of(clean, seen, kind=kind, mixture=mixture)


def test_by_hand() -> None:
    tuned, base = torch.tensor([[3.0]]), torch.tensor([[1.0]])
    assert combine(tuned, base, ModelGuidance(scale=3)).item() == 7  # 3 + 2 * (3 - 1)
    assert combine(tuned, base, ModelGuidance(scale=3, k=-0.5)).item() == 6.5
    assert combine(tuned, base, ModelGuidance(scale=1)).item() == 3
    assert combine(tuned, base, ModelGuidance(scale=0)).item() == 1


@pytest.mark.parametrize("kind", KINDS)
@given(
    scale=st.floats(-5, 10), k=st.floats(-0.5, 0.5), level=st.floats(0.05, 0.99), seed=st.integers()
)
def test_the_result_implies_the_guided_noise(
    kind: Kind, scale: float, k: float, level: float, seed: int
) -> None:
    k = 0.0 if kind == "flow" else k
    mixture = mixture_of(kind, level)
    latents, ours, other = drawn(seed % 2**32)
    guided = combine(
        predicted(latents, ours, kind, mixture),
        predicted(latents, other, kind, mixture),
        ModelGuidance(scale=scale, k=k),
        kind=kind,
        latents=latents,
        mixture=mixture,
    )
    expected = scale * ours + (1 - scale + k) * other
    implied = noise(latents, guided, kind=kind, mixture=mixture)
    torch.testing.assert_close(implied, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_without_k_predictions_are_combined_as_they_are(kind: Kind) -> None:
    mixture = mixture_of(kind, 0.8)
    latents, ours, other = drawn(0)
    tuned, base = (predicted(latents, each, kind, mixture) for each in (ours, other))
    plain = combine(tuned, base, ModelGuidance(scale=5))
    assert torch.equal(plain, tuned + 4 * (tuned - base))
    told = combine(tuned, base, ModelGuidance(scale=5), kind=kind, latents=latents, mixture=mixture)
    assert torch.equal(told, plain)


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_k_times_a_raw_prediction_would_be_another_noise(kind: Kind) -> None:
    mixture = mixture_of(kind, 0.8)
    latents, ours, other = drawn(0)
    tuned, base = (predicted(latents, each, kind, mixture) for each in (ours, other))
    naive = tuned + 2 * (tuned - base) - 0.02 * base
    implied = noise(latents, naive, kind=kind, mixture=mixture)
    assert (implied - (3 * ours - 2.02 * other)).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_combined_in_single(dtype: torch.dtype) -> None:
    _, ours, other = (each.to(dtype) for each in drawn(0))
    guided = combine(ours, other, ModelGuidance(scale=5, k=-0.02))
    exact = 5 * ours.double() - 4.02 * other.double()
    assert guided.dtype == dtype
    # Rounded once, at the end.
    torch.testing.assert_close(guided.double(), exact, rtol=torch.finfo(dtype).eps / 2, atol=1e-6)


def test_what_has_no_meaning_is_refused() -> None:
    latents, ours, other = drawn(0)
    guidance = ModelGuidance(scale=3, k=0.1)
    halfway = Mixture(signal=0.5, level=0.5)
    with pytest.raises(ValueError, match="predicts a flow: k is a share of the predicted noise"):
        combine(ours, other, guidance, kind="flow", latents=latents, mixture=halfway)
    pure = Mixture(signal=0.0, level=1.0)
    with pytest.raises(ValueError, match="nothing but noise"):
        combine(ours, other, guidance, kind="v_prediction", latents=latents, mixture=pure)
    with pytest.raises(ValueError, match="needs the noisy latents"):
        combine(ours, other, guidance, kind="v_prediction")
    with pytest.raises(ValueError, match="expected numbers"):
        ModelGuidance(scale=math.nan)
