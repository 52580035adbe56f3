"""What a denoiser predicts, in noise, clean latents, velocity and score.

Noisy latents are ``x = signal * clean + noise_level * noise``. A prediction is another known sum
``p = to_clean * clean + to_noise * noise``; two equations, two unknowns:

==============  ====================  ==========================================
kind            prediction            source
==============  ====================  ==========================================
epsilon         noise                 Ho et al. 2020
sample          clean                 Ho et al. 2020
v_prediction    signal * noise        Salimans and Ho 2022, where
                - level * clean       signal**2 + level**2 = 1
flow            noise - clean         Liu et al. 2023, Lipman et al. 2023, where
                                      signal + level = 1
==============  ====================  ==========================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

Kind = Literal["epsilon", "sample", "v_prediction", "flow"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_PURE_NOISE = 1e-4  # signal below it is rounding: nothing of the clean latents is left


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Noisy latents are ``signal * clean + level * noise``.

    Attributes:
        signal: At least 0; 0 at pure noise.
        level: Above 0.
    """

    signal: float
    level: float

    def __post_init__(self) -> None:
        if not self.signal >= 0 or not self.level > 0:
            raise ValueError(
                f"a mixture of {self.signal} parts of clean latents and {self.level} of noise; "
                "expected at least 0, and more than 0"
            )

    @property
    def is_pure_noise(self) -> bool:
        """Whether nothing of the clean latents is left."""
        return self.signal < _PURE_NOISE


def noisy_latents(clean: torch.Tensor, noise: torch.Tensor, mixture: Mixture) -> torch.Tensor:
    """``x``, of the shape of `clean` and `noise`."""
    return mixture.signal * clean + mixture.level * noise


def prediction_of(
    clean: torch.Tensor, noise: torch.Tensor, *, kind: Kind, mixture: Mixture
) -> torch.Tensor:
    """What a denoiser of this kind says when it believes in `clean` and `noise`."""
    to_clean, to_noise = _weights(kind, mixture)
    return to_clean * clean + to_noise * noise


def clean_latents(
    latents: torch.Tensor, prediction: torch.Tensor, *, kind: Kind, mixture: Mixture
) -> torch.Tensor:
    """Predicted clean latents, of the shape of `latents`.

    Infinite or not a number for ``epsilon`` at signal 0: the noise alone tells nothing there.
    """
    _, to_noise = _weights(kind, mixture)
    return (to_noise * latents - mixture.level * prediction) / _determinant(kind, mixture)


def noise(
    latents: torch.Tensor, prediction: torch.Tensor, *, kind: Kind, mixture: Mixture
) -> torch.Tensor:
    """Predicted noise, of the shape of `latents`."""
    if kind == "epsilon":
        return prediction  # also where the signal is 0
    to_clean, _ = _weights(kind, mixture)
    return (mixture.signal * prediction - to_clean * latents) / _determinant(kind, mixture)


def velocity(
    latents: torch.Tensor, prediction: torch.Tensor, *, kind: Kind, mixture: Mixture
) -> torch.Tensor:
    """``signal * noise - level * clean`` (Salimans and Ho 2022, appendix D)."""
    predicted_clean = clean_latents(latents, prediction, kind=kind, mixture=mixture)
    predicted_noise = noise(latents, prediction, kind=kind, mixture=mixture)
    return mixture.signal * predicted_noise - mixture.level * predicted_clean


def score(
    latents: torch.Tensor, prediction: torch.Tensor, *, kind: Kind, mixture: Mixture
) -> torch.Tensor:
    """Gradient of the log density of the noisy latents: ``-noise / level`` (Song et al. 2021)."""
    return -noise(latents, prediction, kind=kind, mixture=mixture) / mixture.level


def noise_change(change: torch.Tensor, *, kind: Kind, mixture: Mixture) -> torch.Tensor:
    """Change of the predicted noise when the prediction changes, at the same noisy latents.

    Linear, so that nothing cancels: zero at pure noise, and exact just before it.
    """
    if kind == "epsilon":
        return change
    return change * (mixture.signal / _determinant(kind, mixture))


def clean_change(change: torch.Tensor, *, kind: Kind, mixture: Mixture) -> torch.Tensor:
    """Change of the predicted clean latents, ``-level / signal`` times that of the noise."""
    return change * (-mixture.level / _determinant(kind, mixture))


def visible_change(change: torch.Tensor, *, kind: Kind, mixture: Mixture) -> torch.Tensor:
    """Change of the predicted noise, or at pure noise of the velocity.

    All predictions are proportional to each other at one timestep, so a score that compares
    prompts at one timestep orders them alike in any unit. The noise is what the papers measure;
    at pure noise it is known beforehand and only the velocity, there minus the clean latents,
    tells prompts apart.
    """
    if mixture.is_pure_noise:
        return -clean_change(change, kind=kind, mixture=mixture)
    return noise_change(change, kind=kind, mixture=mixture)


def _weights(kind: Kind, mixture: Mixture) -> tuple[float, float]:
    """Of clean latents and of noise in a prediction."""
    if kind == "epsilon":
        return 0.0, 1.0
    if kind == "sample":
        return 1.0, 0.0
    if kind == "v_prediction":
        return -mixture.level, mixture.signal
    return -1.0, 1.0


def _determinant(kind: Kind, mixture: Mixture) -> float:
    """Of the two equations; 0 only where the prediction says nothing that is not known."""
    to_clean, to_noise = _weights(kind, mixture)
    return mixture.signal * to_noise - mixture.level * to_clean
