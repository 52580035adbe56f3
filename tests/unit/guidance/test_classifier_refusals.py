"""Classifier guidance that cannot be what was meant is refused with a sentence."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from pipeline_factory import call_settings, tiny_pipeline
from unit.guidance.classifiers import Linear, latent_pipeline, made, unconditional

from pytest_memscan.errors import MemscanError
from pytest_memscan.guidance.classifier import classifier_guided
from pytest_memscan.guidance.model import ModelGuidance, model_guided
from pytest_memscan.guidance.pair import ModelPair

# diffusers 0.42 with numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.mark.parametrize(
    ("classes", "scale", "message"),
    [
        (torch.tensor([[0]]), 1.0, r"classes of shape \(1, 1\)"),
        (torch.tensor([], dtype=torch.int64), 1.0, "a whole number for each image"),
        (torch.tensor([0.0]), 1.0, "a whole number for each image"),
        (torch.tensor([0, -1]), 1.0, "class -1; classes are counted from 0"),
        (torch.tensor([0]), math.nan, "scale nan"),
        (torch.tensor([0]), math.inf, "scale inf"),
    ],
)
def test_what_is_no_guidance_is_refused(classes: torch.Tensor, scale: float, message: str) -> None:
    pipeline = unconditional()
    with (
        pytest.raises(ValueError, match=message),
        classifier_guided(pipeline, Linear(192), classes, scale),
    ):
        pass
    assert "forward" not in vars(pipeline.unet)


@pytest.mark.parametrize(
    ("classifier", "message"),
    [
        (Linear(192).train(), "put it into evaluation mode"),
        (Linear(192).bfloat16(), r"in torch.bfloat16; expected float32"),
    ],
)
def test_a_classifier_that_is_not_ready_is_refused(
    classifier: torch.nn.Module, message: str
) -> None:
    with (
        pytest.raises(ValueError, match=message),
        classifier_guided(unconditional(), classifier, torch.tensor([0]), 1.0),
    ):
        pass


def ask_guided(classifier: torch.nn.Module, classes: list[int], **call: Any) -> None:
    """One call of a guided denoiser about two images."""
    pipeline = unconditional()
    arguments = {"sample": torch.randn(2, 3, 8, 8), "timestep": 500} | call
    with torch.no_grad(), classifier_guided(pipeline, classifier, torch.tensor(classes), 1.0):
        pipeline.unet(**arguments)


class Answering(Linear):
    """Answers something else than it should."""

    def __init__(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__(192)
        self.change = change

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Changed logits."""
        return self.change(super().forward(noisy, timesteps))


@pytest.mark.parametrize(
    ("classifier", "classes", "call", "message"),
    [
        (Linear(192), [0], {}, "1 classes for a batch of 2 images"),
        (Linear(192), [0, 1, 2], {}, "3 classes for a batch of 2 images"),
        (Linear(192), [0, 3], {}, r"class 3 is asked for, but the classifier knows 3: 0 \.\.\. 2"),
        (Linear(192), [0, 1], {"timestep": 0.5}, "timestep 0.5, which is not one"),
        (Linear(192), [0, 1], {"timestep": torch.tensor([1, 2])}, "at different timesteps"),
        (Answering(lambda logits: logits[:1]), [0, 1], {}, r"logits of shape \(1, 3\)"),
        (Answering(lambda logits: logits[0]), [0, 1], {}, r"logits of shape \(3,\)"),
        (Answering(torch.Tensor.detach), [0, 1], {}, "have no gradient"),
    ],
)
def test_what_does_not_fit_is_refused_at_the_first_call(
    classifier: torch.nn.Module, classes: list[int], call: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ask_guided(classifier, classes, **call)


def test_a_gradient_that_is_no_number_is_an_error() -> None:
    spoilt = Answering(lambda logits: logits * torch.tensor([[1.0], [math.nan]]))
    with pytest.raises(MemscanError, match="no finite gradient for 1 of 2 images at timestep 500"):
        ask_guided(spoilt, [0, 1])


def test_an_image_that_is_no_number_already_is_left_to_be_counted() -> None:
    pipeline, noisy = unconditional(), torch.randn(2, 3, 8, 8)
    noisy[1, 0, 0, 0] = math.nan
    guided = classifier_guided(pipeline, Linear(192), torch.tensor([0, 1]), 1.0)
    with torch.no_grad(), guided:
        answer = pipeline.unet(noisy, 500).sample
    assert bool(answer[0].isfinite().all())
    assert not bool(answer[1].isfinite().all())


def test_no_guidance_within_another() -> None:
    pipeline, classifier = latent_pipeline("sd1"), Linear(4 * 8 * 8)
    classes = torch.tensor([0])
    pair = ModelPair(pipeline=pipeline, base=tiny_pipeline("sd1", seed=1))
    with (
        classifier_guided(pipeline, classifier, classes, 0.0),
        pytest.raises(ValueError, match="already guided"),
        classifier_guided(pipeline, classifier, classes, 1.0),
    ):
        pass
    with (
        model_guided(pair, ModelGuidance(scale=2.0), settings=call_settings("sd1")),
        pytest.raises(ValueError, match="already guided"),
        classifier_guided(pipeline, classifier, classes, 1.0),
    ):
        pass
    assert "step" not in vars(pipeline.scheduler)


def test_classifier_free_guidance_is_refused() -> None:
    pipeline = latent_pipeline("sd1")
    with (
        classifier_guided(pipeline, Linear(4 * 8 * 8), torch.tensor([0]), 1.0),
        pytest.raises(ValueError, match="guidance_scale=1"),
    ):
        pipeline("the dog", guidance_scale=5.0, num_inference_steps=2, **call_settings("sd1"))


def test_another_scheduler_within_is_refused() -> None:
    pipeline = unconditional()
    with classifier_guided(pipeline, Linear(192), torch.tensor([0]), 1.0):
        pipeline.scheduler = diffusers.DDIMScheduler()
        with pytest.raises(ValueError, match="given another scheduler"):
            made(pipeline, 1)
