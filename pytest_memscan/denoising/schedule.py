"""How noisy the denoiser's input is at a timestep, read from a diffusers scheduler.

The denoiser's input is what counts, not the scheduler's sample: Euler-like schedulers keep
``clean + sigma * noise`` and scale it to unit variance (``scale_model_input``) before the
denoiser sees it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pytest_memscan.denoising import parametrisation
from pytest_memscan.denoising.parametrisation import Kind, Mixture

NEAR_CLEAN = 1.0  # timestep with next to no noise, of the 1,000 that models are trained on
_KINDS: dict[str, Kind] = {
    "epsilon": "epsilon",
    "sample": "sample",
    "v_prediction": "v_prediction",
    "flow_prediction": "flow",
}


@dataclass(frozen=True, kw_only=True)
class Parametrisation:
    """What a denoiser predicts, and how noisy its input is at every timestep.

    Attributes:
        kind: What is predicted.
        is_flow: The input is ``(1 - sigma) * clean + sigma * noise`` with ``sigma`` the share of
            `num_train_timesteps`; else it has unit variance and follows `signal_shares`.
        num_train_timesteps: Timesteps that the model was trained on.
        signal_shares: ``alphas_cumprod``, one for each training timestep; empty for a flow.
        scheduled: Timestep of the sampling schedule -> its ``sigma``, where the scheduler has
            its own (between training timesteps, interpolation is the scheduler's choice).
    """

    kind: Kind
    is_flow: bool
    num_train_timesteps: int
    signal_shares: Sequence[float] = field(default=(), repr=False)
    scheduled: dict[float, float] = field(default_factory=dict, repr=False)

    def mixture(self, timestep: float) -> Mixture:
        """Of the denoiser's input.

        Args:
            timestep: As the scheduler counts, 0 ... `num_train_timesteps`.

        Raises:
            ValueError: Outside of what the model was trained on.
        """
        if not 0 <= timestep <= self.num_train_timesteps:
            raise ValueError(
                f"timestep {timestep} is not within the {self.num_train_timesteps} that the "
                "model was trained on"
            )
        sigma = self.scheduled.get(timestep)
        if self.is_flow:
            sigma = timestep / self.num_train_timesteps if sigma is None else sigma
            return Mixture(signal=max(0.0, 1.0 - sigma), level=sigma)
        if sigma is None:
            share = self._signal_share(timestep)
            return Mixture(signal=math.sqrt(share), level=math.sqrt(1.0 - share))
        scale = math.sqrt(1.0 + sigma**2)
        return Mixture(signal=1.0 / scale, level=sigma / scale)

    def clean_latents(
        self, latents: torch.Tensor, prediction: torch.Tensor, timestep: float
    ) -> torch.Tensor:
        """Predicted clean latents; see `parametrisation.clean_latents`."""
        return parametrisation.clean_latents(
            latents, prediction, kind=self.kind, mixture=self.mixture(timestep)
        )

    def noise(
        self, latents: torch.Tensor, prediction: torch.Tensor, timestep: float
    ) -> torch.Tensor:
        """Predicted noise; see `parametrisation.noise`."""
        return parametrisation.noise(
            latents, prediction, kind=self.kind, mixture=self.mixture(timestep)
        )

    def noise_change(self, change: torch.Tensor, timestep: float) -> torch.Tensor:
        """See `parametrisation.noise_change`."""
        mixture = self.mixture(timestep)
        return parametrisation.noise_change(change, kind=self.kind, mixture=mixture)

    def visible_change(self, change: torch.Tensor, timestep: float) -> torch.Tensor:
        """See `parametrisation.visible_change`."""
        mixture = self.mixture(timestep)
        return parametrisation.visible_change(change, kind=self.kind, mixture=mixture)

    def _signal_share(self, timestep: float) -> float:
        """``alphas_cumprod``; between timesteps the logarithm of sigma is interpolated."""
        lower = min(int(timestep), len(self.signal_shares) - 1)
        below = self.signal_shares[lower]
        rest = timestep - lower
        if rest == 0 or lower + 1 == len(self.signal_shares):
            return below
        above = self.signal_shares[lower + 1]
        if above <= 0:
            return below if rest < 0.5 else above  # towards pure noise sigma has no logarithm
        log_odds = (1 - rest) * _log_odds(below) + rest * _log_odds(above)
        return 1.0 / (1.0 + math.exp(log_odds))


def read_parametrisation(scheduler: Any) -> Parametrisation:
    """What the pipeline of this scheduler predicts, with the schedule that was last set.

    Args:
        scheduler: Of diffusers, after ``set_timesteps``.

    Raises:
        ValueError: A kind of scheduler or prediction that is not understood.
    """
    name, config = type(scheduler).__name__, scheduler.config
    is_flow_matching = name.startswith("FlowMatch")
    predicted = "flow_prediction" if is_flow_matching else config.get("prediction_type")
    if predicted not in _KINDS or "EDM" in name or config.get("invert_sigmas"):
        raise ValueError(f"{name} with predictions of type {predicted!r} is not understood")
    is_flow = is_flow_matching or bool(config.get("use_flow_sigmas"))
    shares = getattr(scheduler, "alphas_cumprod", None)
    if shares is None and not is_flow:
        raise ValueError(f"{name} does not say how noisy its timesteps are")
    return Parametrisation(
        kind=_KINDS[predicted],
        is_flow=is_flow,
        num_train_timesteps=int(config["num_train_timesteps"]),
        signal_shares=() if is_flow or shares is None else tuple(shares.double().tolist()),
        scheduled=_scheduled(scheduler),
    )


def _scheduled(scheduler: Any) -> dict[float, float]:
    """Timestep -> sigma of the sampling schedule; empty where ``alphas_cumprod`` says it all."""
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is None or len(sigmas) != len(scheduler.timesteps) + 1:
        return {}
    pairs = zip(scheduler.timesteps.tolist(), sigmas.tolist()[:-1], strict=True)
    return {float(timestep): float(sigma) for timestep, sigma in pairs if sigma > 0}


def _log_odds(share: float) -> float:
    """Logarithm of ``sigma**2``, the odds of noise against signal."""
    return math.log1p(-share) - math.log(share)
