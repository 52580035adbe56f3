"""Prompt detectors as pure functions of one prompt's tensors, one row for each seed.

A *change* is the conditional minus the unconditional prediction at the same noisy latents. A
score is not a number (NaN) where anything that it is made of is not finite; it is never dropped.
"""

from __future__ import annotations

import math

import torch

_MASKED_SHARE = 4  # a quarter of the places


def change_norms(changes: torch.Tensor) -> torch.Tensor:
    """Euclidean norm of the change of each seed, ``(num_seeds,)`` in float64.

    Args:
        changes: ``(num_seeds, ...)``.
    """
    norms: torch.Tensor = torch.linalg.vector_norm(_rows(changes), dim=1)
    return norms


def noise_magnitude(changes: torch.Tensor) -> float:
    """How strongly the prompt steers: mean over seeds of the norm of the change.

    Wen et al., ICLR 2024, at the first step. At one timestep the changes of noise, velocity and
    clean latents are proportional, so any of them orders prompts alike; at pure noise, where
    the noise is known beforehand, the velocity has to be taken.

    Args:
        changes: ``(num_seeds, ...)``.

    Returns:
        At least 0; higher on memorised prompts. Grows with the square root of the latents' size.
    """
    return _number(change_norms(changes).mean())


def mean_noise_magnitude(norms: torch.Tensor) -> float:
    """`noise_magnitude` averaged over the steps of the guided trajectory.

    Wen et al., ICLR 2024, their full statistic. Of the noise at every step: unlike at one
    timestep, units would weigh the steps differently. A step at pure noise adds 0.

    Args:
        norms: ``(num_seeds, num_steps)``, `change_norms` of the predicted noise.

    Returns:
        At least 0; higher on memorised prompts.
    """
    return _number(norms.double().mean())


def alignment(changes: torch.Tensor, unconditional: torch.Tensor) -> float:
    """Mean over seeds of the cosine of the change and the unconditional prediction.

    The angular part of Asthana and Belagiannis, ICLR 2026: both of the score (or the noise,
    which is minus a multiple of it) near timestep 0, at pure noise.

    Args:
        changes: ``(num_seeds, ...)`` of the predicted noise.
        unconditional: ``(num_seeds, ...)`` predicted noise without the prompt.

    Returns:
        -1 ... 1, higher on memorised prompts; NaN where either is zero.
    """
    return _number(_cosines(_rows(changes), _rows(unconditional)).mean())


def denoising_confidence(noise: torch.Tensor, clean: torch.Tensor) -> float:
    """How far one guided step goes: mean squared difference of noise and clean latents.

    Webster 2023, for verbatim memorisation.

    Args:
        noise: ``(num_seeds, ...)``, the first latents in the denoiser's scale.
        clean: ``(num_seeds, ...)``, the guided clean latents predicted from them.

    Returns:
        At least 0; higher on memorised prompts.
    """
    return _number((_rows(noise) - _rows(clean)).square().mean())


def masked_magnitude(changes: torch.Tensor) -> float:
    """Magnitude of what the prompt steers to from every seed, where seeds agree most.

    Ours, for template memorisation, where only part of the image is fixed. The idea of a mask is
    that of Chen et al., ICLR 2025 (bright ending), who read it from cross-attention at the last
    step; here it comes from the seeds, at the first. The mask is the quarter of the places
    (at least one) where `seed_shares` of the change is highest; the score is the norm of the mean
    change over seeds inside it. Where several places agree alike, any of them may be inside.

    Args:
        changes: ``(num_seeds, channels, height, width)`` or ``(num_seeds, places, channels)``,
            at least two seeds.

    Returns:
        At least 0; higher on memorised prompts.

    Raises:
        ValueError: Fewer than two seeds.
    """
    _require_seeds(changes)
    places = places_of(changes)
    shares = seed_shares(places)
    if not shares.isfinite().all():
        return math.nan
    mask = shares.topk(_quarter(len(shares))).indices
    return _number(torch.linalg.vector_norm(places.mean(dim=0)[mask]))


def seed_shares(places: torch.Tensor) -> torch.Tensor:
    """At each place, the share of the mean square that is common to all seeds.

    ``|mean over seeds|**2 / mean over seeds of |.|**2``, where ``|.|`` is the norm over channels.

    Args:
        places: ``(num_seeds, places, channels)``.

    Returns:
        ``(places,)`` in 0 ... 1: 1 where all seeds are equal, 0 where they cancel or are all zero.
    """
    common = places.mean(dim=0).square().sum(dim=1)
    total = places.square().sum(dim=2).mean(dim=0)
    return common / total.clamp_min(torch.finfo(total.dtype).tiny)


def consistency(descriptors: torch.Tensor) -> float:
    """Mean pairwise cosine of the descriptors of one prompt's images.

    The cheap form of the clique test: a memorised prompt makes one image from every seed.

    Args:
        descriptors: ``(num_images, dimension)``, at least two; need not be normalised.

    Returns:
        -1 ... 1, higher on memorised prompts; NaN where a descriptor is zero.

    Raises:
        ValueError: Fewer than two images.
    """
    _require_seeds(descriptors)
    first, second = _pairs(_rows(descriptors))
    return _number(_cosines(first, second).mean())


def early_spread(clean: torch.Tensor) -> float:
    """Mean distance between seeds of the clean latents predicted at an early step.

    Extended SIDE (arXiv 2410.02467) measures variance over seeds on finished images; ours looks
    early, and at directions: each seed's latents are divided by their norm. At an early step
    guidance scales them by as much as the prompt steers, which is more for memorised prompts, so
    that their absolute distance is the larger one.

    Args:
        clean: ``(num_seeds, ...)``, guided, at least two seeds.

    Returns:
        Mean distance of pairs of unit vectors, 0 ... 2; **lower** on memorised prompts. NaN
        where a seed's latents are zero.

    Raises:
        ValueError: Fewer than two seeds.
    """
    _require_seeds(clean)
    rows = _rows(clean)
    first, second = _pairs(rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True))
    return _number(torch.linalg.vector_norm(first - second, dim=1).mean())


def masked_early_spread(clean: torch.Tensor) -> float:
    """Spread over seeds where it is lowest, of the clean latents predicted at an early step.

    Ours, for template memorisation. The spread of a place is its variance over seeds divided by
    its mean square, ``1 - seed_shares``; the score is the mean over the quarter of the places (at
    least one) where it is lowest.

    Args:
        clean: ``(num_seeds, channels, height, width)`` or ``(num_seeds, places, channels)``,
            guided, at least two seeds.

    Returns:
        0 ... 1, **lower** on memorised prompts.

    Raises:
        ValueError: Fewer than two seeds.
    """
    _require_seeds(clean)
    spreads = 1 - seed_shares(places_of(clean))
    if not spreads.isfinite().all():
        return math.nan
    return _number(spreads.topk(_quarter(len(spreads)), largest=False).values.mean())


def places_of(latents: torch.Tensor) -> torch.Tensor:
    """``(num_seeds, places, channels)`` in float64, of a picture or of packed tokens.

    Args:
        latents: ``(num_seeds, channels, height, width)`` or ``(num_seeds, places, channels)``.

    Raises:
        ValueError: Neither.
    """
    if latents.dim() == 4:
        return latents.double().flatten(2).transpose(1, 2)
    if latents.dim() == 3:
        return latents.double()
    raise ValueError(f"latents of shape {tuple(latents.shape)}; expected 3 or 4 dimensions")


def _number(value: torch.Tensor) -> float:
    """NaN also for an infinity: it says that something broke, not how much."""
    return float(value) if value.isfinite() else math.nan


def _rows(values: torch.Tensor) -> torch.Tensor:
    """``(num_seeds, values)`` in float64."""
    return values.double().flatten(1)


def _pairs(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both members of every unordered pair of rows, ``(num_pairs, ...)`` each."""
    first, second = torch.triu_indices(len(rows), len(rows), offset=1, device=rows.device)
    return rows[first], rows[second]


def _cosines(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Row by row; 0 / 0 where a row is zero."""
    left = left / torch.linalg.vector_norm(left, dim=1, keepdim=True)
    right = right / torch.linalg.vector_norm(right, dim=1, keepdim=True)
    return (left * right).sum(dim=1).clamp(-1, 1)


def _quarter(places: int) -> int:
    return max(1, places // _MASKED_SHARE)


def _require_seeds(values: torch.Tensor) -> None:
    if len(values) < 2:
        raise ValueError(f"{len(values)} seeds cannot be compared; at least 2 are needed")
