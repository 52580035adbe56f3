"""Answering in a denoiser's place, inside a stock pipeline, with a guided prediction."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from pytest_memscan.denoising.attach import denoiser_of, replaced
from pytest_memscan.guidance.arguments import named

TWO_BRANCHES = (
    "the pipeline uses classifier-free guidance, or changes the denoiser's answers in another "
    "way; a guided pipeline must be called with guidance_scale=1"
)

Call = dict[str, Any]


@dataclass(kw_only=True, eq=False)
class Answers:
    """Stands in for a denoiser's ``forward``; what it answers is up to those derived from it."""

    forward: Callable[..., Any]
    pipeline: Any
    _answered: torch.Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.__wrapped__ = self.forward  # whose signature this has
        self._signature = inspect.signature(self.forward)

    def answer(self, call: Call) -> tuple[Any, torch.Tensor]:
        """The output to answer in, and the guided prediction, to one call of the denoiser.

        Args:
            call: The call's arguments by name.
        """
        raise NotImplementedError

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the pipeline hears instead of its denoiser.

        Raises:
            ValueError: The pipeline asks in a way in which its answers would not be kept.
        """
        if getattr(self.pipeline, "do_classifier_free_guidance", False):
            raise ValueError(TWO_BRANCHES)
        if "step" not in vars(self.pipeline.scheduler):
            raise ValueError("the pipeline was given another scheduler while it is guided")
        output, guided = self.answer(named(self._signature, args, kwargs))
        self._answered = guided
        return _with_prediction(output, guided)

    def checked_step(self) -> Callable[..., Any]:
        """The scheduler's ``step``, only for the prediction that was answered.

        Not every pipeline says that it uses classifier-free guidance; what it steps with does.
        """
        original = self.pipeline.scheduler.step

        # Pipelines look at the signature of `step` for what it takes; `wraps` keeps it.
        @functools.wraps(original)
        def step(model_output: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            answered, self._answered = self._answered, None
            if answered is not None and not _is_answer(model_output, answered):
                raise ValueError(TWO_BRANCHES)
            return original(model_output, *args, **kwargs)

        return step


@contextmanager
def answering(pipeline: Any, answers: Answers) -> Iterator[None]:
    """While open, `answers` stands in for the denoiser; afterwards nothing is left of it."""
    with (
        replaced(denoiser_of(pipeline), "forward", answers),
        replaced(pipeline.scheduler, "step", answers.checked_step()),
    ):
        yield


def refuse_nesting(pipeline: Any) -> None:
    """No guidance within another: whose answer is guided then, and by how much?

    Raises:
        ValueError: The pipeline is guided, or its scheduler's steps are watched, already.
    """
    # Every guidance checks the scheduler's steps, so a step of its own is what they share.
    guided = isinstance(denoiser_of(pipeline).forward, Answers)
    if guided or "step" in vars(pipeline.scheduler):
        raise ValueError("this pipeline is already guided; leave that guidance first")


def timestep_in(call: Call) -> float:
    """The timestep of all rows of a call.

    Raises:
        ValueError: Rows are at different timesteps.
    """
    timestep = torch.as_tensor(call["timestep"]).flatten()
    if not bool((timestep == timestep[0]).all()):
        raise ValueError("rows of one batch are at different timesteps")
    return float(timestep[0])


def _with_prediction(output: Any, prediction: torch.Tensor) -> Any:
    """The denoiser's output with another prediction."""
    if isinstance(output, tuple):
        if len(output) != 1:
            raise ValueError(f"the denoiser answers {len(output)} things; expected 1")
        return (prediction,)
    return type(output)(sample=prediction)


def _is_answer(prediction: torch.Tensor, answered: torch.Tensor) -> bool:
    """Whether a pipeline steps with what it was told, but for a predicted variance."""
    if prediction is answered:
        return True
    mean = answered[:, : prediction.shape[1]] if prediction.dim() == answered.dim() else answered
    if mean.shape != prediction.shape:
        return False
    return torch.allclose(prediction, mean.to(prediction.dtype), rtol=0, atol=0, equal_nan=True)
