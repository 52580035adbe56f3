"""The best possible denoiser of a finite set of images, in closed form.

The data distribution is ``sum_j w_j N(x_j, s_j**2 I)``; with ``s_j = 0`` it is the set of images
itself, which a model that memorises everything samples from. A noisy image, ``x = signal * clean
+ level * noise``, then belongs to image j with probability

    r_j(x)  proportional to  w_j v_j**(-d/2) exp(-|x - signal x_j|**2 / (2 v_j)),
    v_j = level**2 + signal**2 s_j**2,

and the denoiser of least squared error answers the mean of what is left of it:

    sum_j r_j(x) * (x_j + (signal s_j**2 / v_j) (x - signal x_j)).

Source: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models",
appendix B.3, for ``s_j = 0``; the rest is the conditional mean of a normal distribution.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from pytest_memscan.denoising.attach import replaced
from pytest_memscan.denoising.parametrisation import Kind, Mixture, prediction_of

TILE_BYTES = 2**26
_VALUE_BYTES = 8  # float64


@dataclass(frozen=True, kw_only=True, eq=False)
class ExactDenoiser:
    """Optimal denoiser of ``sum_j weights[j] N(clean[j], spread[j]**2 I)``.

    Works in float64 on images that were centred on their weighted mean: at little noise, squared
    distances are divided by a small number, and float32 could not tell near-duplicates apart.
    Answers lie on the device of the noisy images and have their dtype.

    Attributes:
        clean: ``(num_images, ...)`` floating point, the training images or their latents, in the
            units of the model's clean latents.
        weights: ``(num_images,)``, at least 0, not all 0; only their ratios matter.
        spread: Standard deviation around every image, at least 0, or ``(num_images,)`` of them.
        tile_bytes: About the size of each of the few arrays that are in memory at a time, apart
            from what goes in and comes out.

    Raises:
        ValueError: Shapes that do not belong together, no image, or values that make no
            distribution.
    """

    clean: torch.Tensor
    weights: torch.Tensor
    spread: float | torch.Tensor = 0.0
    tile_bytes: int = TILE_BYTES

    def __post_init__(self) -> None:
        clean, weights, spreads = self.clean, self.weights, torch.as_tensor(self.spread)
        if clean.ndim < 2 or clean.numel() == 0 or not clean.is_floating_point():
            raise ValueError(
                f"images of shape {tuple(clean.shape)} and type {clean.dtype}; expected at least "
                "one, of floating point numbers"
            )
        if weights.shape != clean.shape[:1] or spreads.shape not in ((), clean.shape[:1]):
            raise ValueError(
                f"weights of shape {tuple(weights.shape)} and spreads of shape "
                f"{tuple(spreads.shape)} for {len(clean)} images"
            )
        if not bool(torch.stack(torch.aminmax(clean)).isfinite().all()):
            raise ValueError("the images hold values that are not finite")
        if not _is_measure(weights) or not bool((weights > 0).any()) or not _is_measure(spreads):
            raise ValueError(
                "weights and spreads must be finite and at least 0, and one weight above 0"
            )

    def posterior(self, noisy: torch.Tensor, mixture: Mixture) -> torch.Tensor:
        """How likely each noisy image was made from each image.

        Args:
            noisy: ``(batch, ...)``, images of the shape of `clean`.
            mixture: What they were mixed from.

        Returns:
            ``(batch, num_images)`` float64; rows sum to 1.

        Raises:
            ValueError: The images have another shape.
        """
        shape = (len(noisy), len(self.clean))
        logits = torch.empty(shape, dtype=torch.float64, device=noisy.device)
        for rows, centred in self._row_blocks(noisy, mixture):
            for columns, tile in self._tiles(mixture, noisy.device):
                logits[rows, columns] = tile.logits(centred)
        return logits.softmax(dim=1)

    def clean_latents(self, noisy: torch.Tensor, mixture: Mixture) -> torch.Tensor:
        """Mean of the clean images that the noisy ones may have been made from.

        Arguments and errors are those of `posterior`; shape, dtype and device those of `noisy`.
        """
        return self._clean_latents(noisy, mixture).to(noisy.dtype)

    def prediction(self, noisy: torch.Tensor, *, kind: Kind, mixture: Mixture) -> torch.Tensor:
        """What the optimal denoiser of this kind answers; the rest is as for `clean_latents`."""
        clean = self._clean_latents(noisy, mixture)
        noise = (noisy.to(torch.float64) - mixture.signal * clean) / mixture.level
        return prediction_of(clean, noise, kind=kind, mixture=mixture).to(noisy.dtype)

    def sample(self, num: int, generator: torch.Generator) -> torch.Tensor:
        """Independent draws of the data distribution.

        Args:
            num: How many.
            generator: On any device; random numbers are drawn there.

        Returns:
            ``(num, ...)``, dtype and device of `clean`.
        """
        drawn_on = generator.device
        weights = self.weights.to(drawn_on, torch.float64)
        ids = torch.multinomial(weights, num, replacement=True, generator=generator)
        images = self.clean[ids.to(self.clean.device)]
        noise = torch.randn(images.shape, generator=generator, device=drawn_on, dtype=torch.float64)
        spreads = self._spreads.to(drawn_on)[ids].reshape(-1, *[1] * (images.ndim - 1))
        return images + (spreads * noise).to(images.device, images.dtype)

    def _clean_latents(self, noisy: torch.Tensor, mixture: Mixture) -> torch.Tensor:
        """In float64, whatever the dtype of `noisy`."""
        means = torch.empty(noisy.shape, dtype=torch.float64, device=noisy.device)
        for rows, centred in self._row_blocks(noisy, mixture):
            mean = _Mean(centred)
            for _, tile in self._tiles(mixture, noisy.device):
                mean.add(tile)
            block = self._centre.to(noisy.device) + mean.value()
            means[rows] = block.reshape(means[rows].shape)
        return means

    @property
    def _spreads(self) -> torch.Tensor:
        return torch.as_tensor(self.spread, dtype=torch.float64).expand(len(self.clean))

    @functools.cached_property
    def _centre(self) -> torch.Tensor:
        """Weighted mean of the images, ``(values,)`` float64."""
        shares = self.weights.to(self.clean.device, torch.float64)
        images = self.clean.flatten(1)
        total = torch.zeros(images.shape[1], dtype=torch.float64, device=images.device)
        for columns in self._column_slices:
            total += shares[columns] @ images[columns].to(torch.float64)
        return total / shares.sum()

    @property
    def _column_slices(self) -> list[slice]:
        return _slices(len(self.clean), self.tile_bytes, self.clean[0].numel())

    def _row_blocks(
        self, noisy: torch.Tensor, mixture: Mixture
    ) -> Iterator[tuple[slice, torch.Tensor]]:
        """Rows, and ``(rows, values)`` float64 noisy images less the scaled centre."""
        if noisy.shape[1:] != self.clean.shape[1:]:
            raise ValueError(
                f"noisy images of shape {tuple(noisy.shape[1:])}; those of the data set have "
                f"{tuple(self.clean.shape[1:])}"
            )
        shift = mixture.signal * self._centre.to(noisy.device)
        widest = max(self.clean[0].numel(), self._column_slices[0].stop)
        for rows in _slices(len(noisy), self.tile_bytes, widest):
            yield rows, noisy[rows].flatten(1).to(torch.float64) - shift

    def _tiles(self, mixture: Mixture, device: torch.device) -> Iterator[tuple[slice, _Tile]]:
        centre = self._centre.to(device)
        log_weights = self.weights.to(device, torch.float64).log()
        variances = self._spreads.to(device) ** 2
        for columns in self._column_slices:
            tile = _Tile(
                images=self.clean[columns].flatten(1).to(device, torch.float64) - centre,
                log_weights=log_weights[columns],
                variances=variances[columns],
                mixture=mixture,
            )
            yield columns, tile


@dataclass(frozen=True, kw_only=True, eq=False)
class _Tile:
    """Some images of the data set, ``(columns, values)``, centred; all in float64."""

    images: torch.Tensor
    log_weights: torch.Tensor
    variances: torch.Tensor
    mixture: Mixture

    @functools.cached_property
    def noisy_variances(self) -> torch.Tensor:
        """``v_j``, of the noisy images made from each image."""
        return self.mixture.level**2 + self.mixture.signal**2 * self.variances

    def logits(self, noisy: torch.Tensor) -> torch.Tensor:
        """``(rows, columns)``, logarithm of the posterior but for a number for each row."""
        signal, variances = self.mixture.signal, self.noisy_variances
        lengths: torch.Tensor = torch.linalg.vector_norm(self.images, dim=1)
        distances: torch.Tensor = torch.linalg.vector_norm(noisy, dim=1, keepdim=True) ** 2
        distances = distances + (signal * lengths) ** 2
        distances -= 2 * signal * (noisy @ self.images.T)
        constants = self.log_weights - self.images.shape[1] / 2 * variances.log()
        return constants - distances / (2 * variances)


class _Mean:
    """Posterior mean while the tiles pass by, centred: the sums of a stable softmax."""

    def __init__(self, noisy: torch.Tensor) -> None:
        self._noisy = noisy
        # Finite, so that a tile of zero weights before all others is no 0 / 0.
        self._peak = noisy.new_full((len(noisy), 1), torch.finfo(noisy.dtype).min)
        self._total, self._share = torch.zeros_like(self._peak), torch.zeros_like(self._peak)
        self._sum = torch.zeros_like(noisy)

    def add(self, tile: _Tile) -> None:
        logits = tile.logits(self._noisy)
        peak = torch.maximum(self._peak, logits.amax(dim=1, keepdim=True))
        scale, likely = (self._peak - peak).exp(), (logits - peak).exp()
        # Of what is seen: how much is told by the image, and how much by the noisy image.
        of_image = tile.mixture.level**2 / tile.noisy_variances
        of_noisy = tile.mixture.signal * tile.variances / tile.noisy_variances
        self._peak = peak
        self._total = scale * self._total + likely.sum(dim=1, keepdim=True)
        self._share = scale * self._share + (likely @ of_noisy)[:, None]
        self._sum = scale * self._sum + (likely * of_image) @ tile.images

    def value(self) -> torch.Tensor:
        """``(rows, values)``."""
        return (self._sum + self._share * self._noisy) / self._total


@contextmanager
def standing_in(
    denoiser: torch.nn.Module,
    exact: ExactDenoiser,
    mixture_of: Callable[[float], Mixture],
    kind: Kind,
) -> Iterator[None]:
    """Makes a pipeline's denoiser answer as the exact one while it is open.

    Only noisy images and timesteps are looked at: prompts, labels and learned variances play no
    part. Hooks on the module are called as ever.

    Args:
        denoiser: Of diffusers, such as a ``UNet2DModel``.
        exact: What it answers.
        mixture_of: Timestep -> what the denoiser's input is mixed from; see
            `schedule.Parametrisation.mixture`.
        kind: What the pipeline's scheduler takes the answers for.
    """
    from diffusers.models.unets.unet_2d import UNet2DOutput

    original = denoiser.forward
    signature = inspect.signature(original)

    @functools.wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        noisy = next(iter(given.values()))
        prediction = _at_timesteps(exact, noisy, given["timestep"], mixture_of, kind)
        if not given.get("return_dict", True):
            return (prediction,)
        return UNet2DOutput(sample=prediction)

    with replaced(denoiser, "forward", forward):
        yield


def _at_timesteps(
    exact: ExactDenoiser,
    noisy: torch.Tensor,
    timestep: Any,
    mixture_of: Callable[[float], Mixture],
    kind: Kind,
) -> torch.Tensor:
    """Prediction at one timestep for all rows, or at one for each."""
    timesteps = torch.as_tensor(timestep, device=noisy.device).flatten().expand(len(noisy))
    prediction = torch.empty_like(noisy)
    for each in set(timesteps.tolist()):
        rows, mixture = timesteps == each, mixture_of(float(each))
        prediction[rows] = exact.prediction(noisy[rows], kind=kind, mixture=mixture)
    return prediction


def _is_measure(values: torch.Tensor) -> bool:
    return bool((values.isfinite() & (values >= 0)).all())


def _slices(num: int, num_bytes: int, values: int) -> list[slice]:
    """Of `num` rows of so many float64 values, as many at once as the bytes allow."""
    at_once = max(1, num_bytes // (_VALUE_BYTES * values))
    return [slice(start, min(start + at_once, num)) for start in range(0, num, at_once)]
