"""The theorem of SIDE (arXiv:2410.02467v6), with images that stock pipelines really make.

The exact denoiser of a finite set is the model that has learnt its images by heart. An
informative label lowers the memorisation divergence of its images by ``log 1 / P(label)``,
whether the denoiser is that of the labelled images or is guided by the classifier that is right
about every noisy image; a random label does not.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
from numpy.typing import NDArray

from pytest_memscan.denoising.exact import ExactDenoiser, standing_in
from pytest_memscan.denoising.parametrisation import Mixture
from pytest_memscan.denoising.schedule import read_parametrisation
from pytest_memscan.guidance.classifier import classifier_guided
from pytest_memscan.memorisation import (
    divergence_drop,
    kernel_log_density,
    memorisation_divergence,
)
from pytest_memscan.results import Estimate

Floats = NDArray[np.float64]
LABELS = torch.tensor([0, 0, 1, 1, 1, 1, 1, 1])
NUM = 1600
SIGMA = 0.01  # of images in [0, 1]; they are more than 100 times as far apart
SURPRISE = math.log(4)
# Of log shares that are counted among NUM images, each of about 1 in 8 or 1 in 2: four standard
# deviations of the mean of two, by the delta method for multinomial counts.
COUNTING = 4 * math.sqrt((8 / 2 - 1) / NUM + (2 / 2 - 1) / NUM)
PIXEL = 1e-5


class ExactClassifier(torch.nn.Module):
    """Logits of the labels of a noisy image, by Bayes' rule; of sharpness 0, of random labels."""

    def __init__(self, clean: torch.Tensor, mixture_of: Callable[[float], Mixture]) -> None:
        super().__init__()
        self.clean, self.mixture_of = clean.double(), mixture_of
        self.sharpness = 1.0

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        mixture = self.mixture_of(float(timesteps[0]))
        differences = noisy.double()[:, None] - mixture.signal * self.clean
        joint = -differences.square().flatten(2).sum(2) / (2 * mixture.level**2)
        logits = [joint[:, label == LABELS].logsumexp(1) for label in LABELS.unique()]
        return self.sharpness * torch.stack(logits, dim=1)


def training_images() -> torch.Tensor:
    """In [-1, 1]; what a pipeline clamps is nothing."""
    return torch.rand((8, 1, 4, 4), generator=torch.Generator().manual_seed(0)) * 2 - 1


def in_pixels(images: torch.Tensor) -> Floats:
    pixels: Floats = (images / 2 + 0.5).flatten(1).double().numpy()
    return pixels


@functools.cache
def pipeline_of(kind: str) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DModel(
            sample_size=4,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=(8,),
            norm_num_groups=4,
            down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",),
        ).eval()
    pipeline = DDIMPipeline(unet, DDIMScheduler(prediction_type=kind))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@functools.cache
def made(
    weights: tuple[float, ...], scale: float = 0.0, *, kind: str = "epsilon", sharpness: float = 1.0
) -> Floats:
    """Flat, in [0, 1]; by the exact denoiser of weighted images, guided to label 0 or not."""
    pipeline, clean = pipeline_of(kind), training_images()
    known = read_parametrisation(pipeline.scheduler)
    exact = ExactDenoiser(clean=clean, weights=torch.tensor(weights))
    classifier = ExactClassifier(clean, known.mixture).eval()
    classifier.sharpness = sharpness
    classes = torch.zeros(NUM, dtype=torch.int64)
    with contextlib.ExitStack() as stack:
        stack.enter_context(standing_in(pipeline.unet, exact, known.mixture, known.kind))
        if scale:
            stack.enter_context(classifier_guided(pipeline, classifier, classes, scale))
        images: torch.Tensor = pipeline(
            batch_size=NUM,
            num_inference_steps=40,
            generator=torch.Generator().manual_seed(1),
            output_type="pt",
        ).images
    flat: Floats = images.flatten(1).double().numpy()
    return flat


EVERY_IMAGE = (1.0,) * 8
OF_LABEL = tuple((LABELS == 0).double().tolist())


def drop(before: Floats, after: Floats) -> Estimate:
    """Of the divergence of the images of label 0."""
    return divergence_drop(
        in_pixels(training_images()[LABELS == 0]),
        sigma=SIGMA,
        log_density=kernel_log_density(before, SIGMA),
        conditional=kernel_log_density(after, SIGMA),
        num_draws=500,
        seed=2,
    )


def divergence(images: Floats) -> float:
    return memorisation_divergence(
        in_pixels(training_images()[LABELS == 0]),
        sigma=SIGMA,
        log_density=kernel_log_density(images, SIGMA),
        num_draws=500,
        seed=3,
    ).value


def test_the_unconditional_model_is_as_far_as_the_label_is_surprising() -> None:
    """All its images are training images, one in four of the label's."""
    assert divergence(made(EVERY_IMAGE)) == pytest.approx(SURPRISE, abs=COUNTING)


def test_the_denoiser_of_the_labelled_images_has_next_to_no_divergence() -> None:
    before, after = made(EVERY_IMAGE), made(OF_LABEL)
    assert divergence(after) == pytest.approx(0.0, abs=0.02)
    assert drop(before, after).value == pytest.approx(SURPRISE, abs=COUNTING)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_guidance_by_the_exact_classifier_is_the_denoiser_of_the_labelled_images(
    kind: str,
) -> None:
    """Image for image: with scale 1, Bayes' rule makes the one prediction of the other."""
    guided, conditional = made(EVERY_IMAGE, 1.0, kind=kind), made(OF_LABEL, kind=kind)
    np.testing.assert_allclose(guided, conditional, rtol=0, atol=PIXEL)
    lowered = drop(made(EVERY_IMAGE, kind=kind), guided)
    assert lowered.value == pytest.approx(SURPRISE, abs=COUNTING)


def test_a_random_label_changes_nothing() -> None:
    """Equally likely at every image: the classifier that is right about it has no gradient."""
    before, after = made(EVERY_IMAGE), made(EVERY_IMAGE, 1.0, sharpness=0.0)
    np.testing.assert_array_equal(before, after)
    assert drop(before, after).value == 0.0


def test_random_labels_of_what_was_made_change_nothing_but_the_noise() -> None:
    """A fourth of the images by random labels, against a fourth that label 0 is really on."""
    before = made(EVERY_IMAGE)
    chosen = np.random.default_rng(4).permutation(NUM) < NUM // 4
    at_random = drop(before, before[chosen]).value
    far = np.abs(before[:, None] - in_pixels(training_images())).max(axis=2)
    informed = drop(before, before[(LABELS == 0).numpy()[far.argmin(axis=1)]]).value
    assert abs(at_random) < 2 * COUNTING  # a fourth of the images: twice the noise
    assert informed == pytest.approx(SURPRISE, abs=COUNTING)
    assert informed > 2 * COUNTING > abs(at_random)
