"""Guidance that leads out of the range of images, where schedulers clip them."""

from __future__ import annotations

import pytest
import torch
from unit.guidance.classifiers import Linear, made, unconditional
from unit.guidance.test_classifier import ASKED, Posterior, assert_of_asked_class, images_of

from pytest_memscan.denoising.exact import ExactDenoiser, standing_in
from pytest_memscan.denoising.parametrisation import clean_latents, noise
from pytest_memscan.denoising.schedule import read_parametrisation
from pytest_memscan.guidance.classifier import classifier_guided

KINDS = ["epsilon", "v_prediction", "sample"]
LABELS_FROM = (3, 8, 8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [2.0, 5.0, 9.0, 20.0])
@pytest.mark.parametrize("ddpm", [False, True])
def test_strong_guidance_still_ends_in_the_class_that_was_asked_for(
    kind: str, scale: float, ddpm: bool
) -> None:
    """With DDIM and the noise of the unclipped image, none does from lambda 5 on."""
    pipeline = unconditional(kind, ddpm=ddpm)
    clean = images_of(LABELS_FROM)
    known = read_parametrisation(pipeline.scheduler)
    exact = ExactDenoiser(clean=clean, weights=torch.ones(len(clean)))
    labels = torch.tensor([0, 1, 1, 2, 2, 2, 2])
    with (
        standing_in(pipeline.unet, exact, known.mixture, known.kind),
        classifier_guided(pipeline, Posterior(clean, labels, known.mixture), ASKED, scale),
    ):
        images = made(pipeline, len(ASKED), steps=25)
    assert_of_asked_class(images * 2 - 1, clean)


@pytest.mark.parametrize("kind", KINDS)
def test_a_guided_answer_is_within_the_range_and_fits_its_noisy_image(kind: str) -> None:
    pipeline, classes = unconditional(kind), torch.tensor([2, 0])
    noisy = torch.randn((2, 3, 8, 8), generator=torch.Generator().manual_seed(2))
    known = read_parametrisation(pipeline.scheduler)
    free = unconditional(kind, clips=False)
    for timestep in (20, 500, 990):
        mixture = known.mixture(timestep)
        answers = []
        for each in (pipeline, free):
            with torch.no_grad(), classifier_guided(each, Linear(192), classes, 9.0):
                answers.append(each.unet(noisy, timestep).sample)
        clean, unclipped = (
            clean_latents(noisy, answer, kind=known.kind, mixture=mixture) for answer in answers
        )
        torch.testing.assert_close(clean, unclipped.clamp(-1, 1), rtol=0, atol=2e-3)
        implied = noise(noisy, answers[0], kind=known.kind, mixture=mixture)
        mixed = mixture.signal * clean + mixture.level * implied
        torch.testing.assert_close(mixed, noisy, rtol=0, atol=2e-3)
        inside = unclipped.abs() < 1
        assert torch.equal(answers[0][inside], answers[1][inside])


def test_a_scheduler_that_clips_elsewhere_is_followed() -> None:
    pipeline, classes = unconditional(), torch.tensor([1])
    pipeline.scheduler.register_to_config(clip_sample_range=0.5)
    noisy = torch.randn((1, 3, 8, 8), generator=torch.Generator().manual_seed(3))
    mixture = read_parametrisation(pipeline.scheduler).mixture(700)
    with torch.no_grad(), classifier_guided(pipeline, Linear(192), classes, 9.0):
        answer = pipeline.unet(noisy, 700).sample
    clean = clean_latents(noisy, answer, kind="epsilon", mixture=mixture)
    assert clean.abs().max() == pytest.approx(0.5, abs=1e-3)
