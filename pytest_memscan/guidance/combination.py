"""The arithmetic of model guidance: two predictions in, one out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from pytest_memscan.denoising.parametrisation import Kind, Mixture, noise, noise_change

FLOW_HAS_NO_K = (
    "model guidance with k other than 0 is not defined for a model that predicts a flow: k is a "
    "share of the predicted noise, and at sigma = 1, where sampling starts, the latents are the "
    "noise whatever the model predicts, so that no prediction could express the sum; use k = 0"
)


@dataclass(frozen=True, kw_only=True)
class ModelGuidance:
    """``e'(c) + (scale - 1) * (e'(c) - e(empty)) + k * e(empty)`` (arXiv:2410.03039).

    ``e'(c)`` is the noise that the fine-tune predicts for the prompt, ``e(empty)`` what the base
    predicts for the empty prompt.

    Attributes:
        scale: ``w'`` where the fine-tune has a caption, ``w`` where its prompt is empty; 1 with
            ``k = 0`` is the fine-tune alone. The authors' values: 3 for a full fine-tune, 5 for
            a LoRA.
        k: Correction; the authors' values: -0.02 for a full fine-tune, 0 for a LoRA.
    """

    scale: float
    k: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and math.isfinite(self.k)):
            raise ValueError(f"guidance with scale {self.scale} and k {self.k}; expected numbers")


def combine(
    tuned: torch.Tensor,
    base: torch.Tensor,
    guidance: ModelGuidance,
    *,
    kind: Kind = "epsilon",
    latents: torch.Tensor | None = None,
    mixture: Mixture | None = None,
) -> torch.Tensor:
    """The guided prediction, of the same kind as the two that it is made of.

    Without `k` the weights sum to 1. At the same noisy latents every kind of prediction is an
    affine function of the noise, and such functions keep weighted sums whose weights sum to 1:
    whatever is predicted can be combined as it is. With `k` they sum to ``1 + k``, so `k` times
    the base's noise is translated: the implied noise of the result is exactly the sum of
    `ModelGuidance`.

    Args:
        tuned: ``(batch, ...)``, predicted by the fine-tune.
        base: Likewise by the base, at the same latents.
        guidance: Scale and `k`.
        kind: What is predicted. Only asked with `k`, like the rest.
        latents: ``(batch, ...)``, noisy, as the denoiser sees them.
        mixture: How noisy they are.

    Returns:
        In the dtype of `tuned`; computed in float32 at least.

    Raises:
        ValueError: With `k`, a flow, or noisy latents that are nothing but noise; or latents or
            their mixture are missing.
    """
    wide = torch.promote_types(tuned.dtype, torch.float32)
    ours, other = tuned.to(wide), base.to(wide)
    guided = ours + (guidance.scale - 1.0) * (ours - other)
    if guidance.k and kind == "epsilon":
        guided = guided + guidance.k * other
    elif guidance.k:
        guided = guided + guidance.k * _base_noise(other, kind, latents, mixture)
    return guided.to(tuned.dtype)


def _base_noise(
    base: torch.Tensor, kind: Kind, latents: torch.Tensor | None, mixture: Mixture | None
) -> torch.Tensor:
    """The change of the prediction that changes its implied noise by the base's."""
    if kind == "flow":
        raise ValueError(FLOW_HAS_NO_K)
    if latents is None or mixture is None or latents.shape != base.shape:
        raise ValueError("k other than 0 needs the noisy latents and how noisy they are")
    if mixture.is_pure_noise:
        raise ValueError(
            "model guidance with k other than 0 is not defined where the latents are nothing "
            "but noise: no prediction could express the sum; use k = 0"
        )
    one = torch.ones((), dtype=torch.float64)
    noise_per_unit = float(noise_change(one, kind=kind, mixture=mixture))
    return noise(latents.to(base.dtype), base, kind=kind, mixture=mixture) / noise_per_unit
