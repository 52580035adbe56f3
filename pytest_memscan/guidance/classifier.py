"""Classifier guidance on the denoiser of a stock pipeline.

``eps - scale * level * grad_x log p(y | x, t)`` (Dhariwal and Nichol 2021, arXiv:2105.05233,
algorithm 2; as SIDE uses it, arXiv:2410.02467), with ``x = signal * clean + level * noise`` the
denoiser's own input. With ``scale`` 1 and the classifier that is right about ``x``, this is the
noise that a denoiser of the images of class y alone would predict.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypedDict

import torch

from pytest_memscan.denoising.attach import CallCounter, denoiser_of, first_output
from pytest_memscan.denoising.parametrisation import (
    Kind,
    Mixture,
    clean_latents,
    noise_change,
    prediction_of,
)
from pytest_memscan.denoising.schedule import Parametrisation, read_parametrisation
from pytest_memscan.errors import MemscanError
from pytest_memscan.guidance.answers import Answers, Call, answering, refuse_nesting, timestep_in
from pytest_memscan.guidance.arguments import latents_in


class Meaning(TypedDict):
    """What a prediction is a prediction of, and at which noise."""

    kind: Kind
    mixture: Mixture


_ROUNDING = 0.01  # of a timestep in half precision


@contextmanager
def classifier_guided(
    pipeline: Any,
    classifier: torch.nn.Module,
    classes: torch.Tensor,
    scale: float,
    *,
    counter: CallCounter | None = None,
) -> Iterator[None]:
    """While open, the pipeline's denoiser answers as if it were asked for these classes.

    Sampling loop, scheduler and seeds stay the pipeline's. With `scale` 0 the answers are the
    denoiser's, bit by bit, and the classifier is not asked; nor is it at pure noise. The gradient
    goes through the classifier alone. Hooks on the denoiser see the guided answer.

    Args:
        pipeline: Of diffusers, on its device, called without classifier-free guidance.
        classifier: In float32 on the pipeline's device, in evaluation mode, so that an image
            does not depend on its batch. Called as ``classifier(noisy, timesteps)`` with
            ``noisy`` float32 ``(batch, channels, height, width)`` and ``timesteps`` float32
            ``(batch,)``, as the scheduler counts; answers logits ``(batch, num_classes)``.
        classes: ``(batch,)`` whole numbers, the class that each row of the batch is asked for.
        scale: Weight of the gradient, lambda of SIDE; not scale-free: the gradient competes with
            a noise whose length is the root of the number of values.
        counter: Counts the classifier's single-sample forwards; each has its backward.

    Raises:
        ValueError: Arguments that are not as described, or the pipeline is guided already. Within
            the pipeline's call: another number of images than classes, a class that the
            classifier does not know, logits of another shape, classifier-free guidance, or a
            denoiser whose predictions are not of the shape of its input.
        MemscanError: Within the pipeline's call: the classifier has no finite gradient at a
            finite image.
    """
    _check(classifier, classes, scale)
    refuse_nesting(pipeline)
    denoiser = denoiser_of(pipeline)
    guided = _ClassifierGuided(
        forward=denoiser.forward,
        pipeline=pipeline,
        classifier=classifier,
        classes=classes.long(),
        scale=scale,
        counter=CallCounter() if counter is None else counter,
    )
    with answering(pipeline, guided):
        yield


def _check(classifier: torch.nn.Module, classes: torch.Tensor, scale: float) -> None:
    if classes.dim() != 1 or not len(classes) or classes.is_floating_point():
        raise ValueError(
            f"classes of shape {tuple(classes.shape)} and type {classes.dtype}; expected a whole "
            "number for each image"
        )
    if int(classes.min()) < 0:
        raise ValueError(f"class {int(classes.min())}; classes are counted from 0")
    if not math.isfinite(scale):
        raise ValueError(f"classifier guidance with scale {scale}; expected a number")
    if any(module.training for module in classifier.modules()):
        raise ValueError("the classifier is in training mode; put it into evaluation mode first")
    if others := {each.dtype for each in classifier.parameters()} - {torch.float32}:
        raise ValueError(f"the classifier is in {others.pop()}; expected float32")


@dataclass(kw_only=True, eq=False)
class _ClassifierGuided(Answers):
    classifier: torch.nn.Module
    classes: torch.Tensor
    scale: float
    counter: CallCounter
    _highest: int = field(init=False)
    # The schedule that was last seen; read anew when the pipeline sets its timesteps.
    _timesteps: torch.Tensor | None = field(default=None, repr=False)
    _known: Parametrisation = field(init=False, repr=False)
    _counted: list[float] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._highest = int(self.classes.max())

    def answer(self, call: Call) -> tuple[Any, torch.Tensor]:
        noisy = latents_in(call)
        if len(noisy) != len(self.classes):
            raise ValueError(
                f"{len(self.classes)} classes for a batch of {len(noisy)} images; expected one each"
            )
        output = self.forward(**call)
        prediction = first_output(output)
        if not self.scale:
            return output, prediction
        timestep = self._timestep(timestep_in(call))
        mixture = self._known.mixture(timestep)
        if mixture.is_pure_noise:
            # Nothing of an image is there to be classified: every class is as likely as before,
            # whatever the noise. And a prediction that is not the noise could not express a
            # change of it: only here it would be divided by 0.
            return output, prediction
        change = -self.scale * mixture.level * self._gradient(noisy, timestep)
        meaning: Meaning = {"kind": self._known.kind, "mixture": mixture}
        guided = _shifted(prediction, change, **meaning)
        return output, _clipped(guided, noisy, limit=_clip_limit(self.pipeline), **meaning)

    def _timestep(self, told: float) -> float:
        """As the scheduler counts: in half precision, pipelines tell their denoisers nearly that.

        Raises:
            ValueError: Nothing like it is in the schedule.
        """
        scheduler = self.pipeline.scheduler
        if scheduler.timesteps is not self._timesteps:
            self._timesteps = scheduler.timesteps
            self._known = read_parametrisation(scheduler)
            self._counted = [float(each) for each in scheduler.timesteps.tolist()]
        nearest = min(self._counted, key=lambda each: abs(each - told))
        if not math.isclose(nearest, told, rel_tol=_ROUNDING):
            raise ValueError(
                f"the denoiser is asked about timestep {told:g}, which is not one of its scheduler"
            )
        return nearest

    def _gradient(self, noisy: torch.Tensor, timestep: float) -> torch.Tensor:
        """Of ``log p(class | noisy)`` by the noisy images, float32, of their shape."""
        # Pipelines run without gradients, maybe with autocast; the classifier with, and without.
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(noisy.device.type, enabled=False),
        ):
            asked = noisy.detach().to(torch.float32, copy=True).requires_grad_()
            timesteps = torch.full((len(asked),), timestep, device=asked.device)
            logits = self.classifier(asked, timesteps)
            self.counter.calls += len(asked)
            self._check_logits(logits)
            # A copy, since what was made in inference mode can have no part in a gradient.
            classes = self.classes.to(noisy.device, copy=True)
            likely = logits.log_softmax(dim=1).gather(1, classes[:, None])
            (gradient,) = torch.autograd.grad(likely.sum(), asked)
        _check_finite(gradient, noisy, timestep)
        return gradient

    def _check_logits(self, logits: torch.Tensor) -> None:
        if logits.dim() != 2 or len(logits) != len(self.classes):
            raise ValueError(
                f"the classifier answers logits of shape {tuple(logits.shape)} for a batch of "
                f"{len(self.classes)} images; expected one row for each"
            )
        if self._highest >= logits.shape[1]:
            raise ValueError(
                f"class {self._highest} is asked for, but the classifier knows {logits.shape[1]}: "
                f"0 ... {logits.shape[1] - 1}"
            )
        if not logits.requires_grad:
            raise ValueError("the classifier's logits have no gradient; it must not detach them")


def _check_finite(gradient: torch.Tensor, noisy: torch.Tensor, timestep: float) -> None:
    if bool(gradient.isfinite().all()):
        return
    # An image that is no number already is the denoiser's doing, and is counted as such.
    broken = ~gradient.isfinite().flatten(1).all(1) & noisy.isfinite().flatten(1).all(1)
    if num_broken := int(broken.sum()):
        raise MemscanError(
            f"the classifier has no finite gradient for {num_broken} of {len(noisy)} images at "
            f"timestep {timestep:g}; guide by a smaller scale, or train the classifier again"
        )


def _shifted(
    prediction: torch.Tensor, change: torch.Tensor, *, kind: Kind, mixture: Mixture
) -> torch.Tensor:
    """The prediction whose implied noise is changed by so much, at the same noisy images.

    Args:
        prediction: ``(batch, channels, ...)``; with more channels than `change`, the rest is the
            predicted variance, which stays.
        change: ``(batch, channels, ...)`` of the noise, float32.
        kind: What is predicted.
        mixture: Of the noisy images; not pure noise.

    Returns:
        In the dtype of `prediction`; computed in float32 at least.
    """
    parts = change.shape[1]
    mean, variance = prediction[:, :parts], prediction[:, parts:]
    if mean.shape != change.shape:
        raise ValueError(
            f"the denoiser answers {tuple(prediction.shape)} for images of shape "
            f"{tuple(change.shape)}"
        )
    wide = torch.promote_types(mean.dtype, torch.float32)
    one = torch.ones((), dtype=torch.float64)
    noise_per_unit = float(noise_change(one, kind=kind, mixture=mixture))
    guided = (mean.to(wide) + change / noise_per_unit).to(prediction.dtype)
    return torch.cat([guided, variance], dim=1) if variance.shape[1] else guided


def _clip_limit(pipeline: Any) -> float:
    """Largest value of clean images that the scheduler lets pass; infinite where it clips none."""
    config = pipeline.scheduler.config
    return float(config.get("clip_sample_range", 1.0)) if config.get("clip_sample") else math.inf


def _clipped(
    prediction: torch.Tensor, noisy: torch.Tensor, *, limit: float, kind: Kind, mixture: Mixture
) -> torch.Tensor:
    """The prediction with its clean images clipped, and the noise that goes with them.

    Schedulers clip the clean image of a prediction and keep its noise, which at the noisy image at
    hand belongs to the unclipped one. Strong guidance leads out of the range of images, and what
    the clip takes away the noise then puts back with the other sign: at lambda 5 and with the
    exact classifier of a data set, not one image is of the class that was asked for. (DDIM has
    ``use_clipped_model_output`` for this, which does the same.)
    """
    if math.isinf(limit):
        return prediction
    wide = torch.promote_types(prediction.dtype, torch.float32)
    latents = noisy.to(wide)
    mean = prediction[:, : latents.shape[1]]
    clean = clean_latents(latents, mean.to(wide), kind=kind, mixture=mixture)
    kept = clean.clamp(-limit, limit)
    noise = (latents - mixture.signal * kept) / mixture.level
    within = prediction_of(kept, noise, kind=kind, mixture=mixture).to(prediction.dtype)
    # What lies within the range stays as it was, to the bit.
    mean = torch.where(clean == kept, mean, within)
    return torch.cat([mean, prediction[:, mean.shape[1] :]], dim=1)
