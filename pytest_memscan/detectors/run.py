"""All detectors on all prompts: prompts x seeds in batches of one shape, calls shared.

A prompt's scores follow from the prompt, its seeds and the batch shape; other prompts and their
order do not matter. One run of the stock pipeline per batch serves all detectors: its first step
gives the first-step scores, its early steps the early look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pytest_memscan.denoising.attach import Rows
from pytest_memscan.denoising.conditioning import not_applicable
from pytest_memscan.detectors import scores
from pytest_memscan.detectors.agreement import seed_agreement
from pytest_memscan.detectors.catalogue import (
    BY_NAME,
    DEFAULT_DETECTORS,
    DETECTORS,
    ScreenPlan,
    early_step_of,
)
from pytest_memscan.detectors.norm_alignment import norm_alignment
from pytest_memscan.detectors.observe import Seen, Wanted, observe
from pytest_memscan.errors import MemscanError

__all__ = ["DEFAULT_DETECTORS", "DETECTORS", "Scores", "score_prompt", "screen"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What the detectors said.

    Attributes:
        values: Detector -> ``(num_prompts,)``, in the order of the prompts; NaN where a
            prediction was not finite. ``norm_alignment`` is there after `relative_to`.
        parts: ``norm`` and ``alignment``, ``(num_prompts,)`` each, if asked for and applicable.
        not_applicable: Detector -> why it says nothing on this checkpoint.
        calls_alone: Detector -> single-sample forwards for a prompt if it were the only one.
        calls: Single-sample forwards that were spent on all prompts together, padding included.
    """

    values: dict[str, Floats]
    parts: dict[str, Floats] = field(default_factory=dict)
    not_applicable: dict[str, str] = field(default_factory=dict)
    calls_alone: dict[str, int] = field(default_factory=dict)
    calls: int = 0

    def relative_to(self, negatives: Scores) -> Scores:
        """With ``norm_alignment``, whose parts are combined on the scale of the negatives.

        Args:
            negatives: Scores of prompts that were not trained on; may be these themselves.

        Raises:
            ValueError: Fewer than two negatives have finite parts.
        """
        if not self.parts:
            return self
        combined = norm_alignment(
            self.parts["norm"],
            self.parts["alignment"],
            negative_norms=negatives.parts["norm"],
            negative_alignments=negatives.parts["alignment"],
        )
        return replace(self, values={**self.values, "norm_alignment": combined})


def screen(
    pipeline: Any,
    prompts: Sequence[str],
    *,
    seeds_of: Callable[[int], Sequence[int]],
    steps: int,
    batch_size: int,
    num_seeds: int = 4,
    early_step: int | None = None,
    guidance_scale: float | None = None,
    detectors: Sequence[str] = DEFAULT_DETECTORS,
    settings: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Scores:
    """Score prompts without making an image.

    Args:
        pipeline: Text-to-image pipeline of diffusers, on its device.
        prompts: What to score.
        seeds_of: Index of a prompt -> its seeds, `num_seeds` at least; the first are used.
        steps: Length of the sampling schedule.
        batch_size: Rows (prompt and seed) in every run of the pipeline; the last is padded.
        num_seeds: For each prompt, at least two.
        early_step: Step of the early look; None for half of the schedule.
        guidance_scale: None for the pipeline's own default.
        detectors: Names in `catalogue.BY_NAME`.
        settings: More arguments of the pipeline's call, such as ``height``.
        progress: Told prompts done and all prompts, after each.

    Raises:
        ValueError: An unknown detector, too few seeds, an early step outside of the schedule, or
            no guidance.
        MemscanError: Out of memory.
    """
    plan = _plan(pipeline, detectors, num_seeds=num_seeds, steps=steps, early_step=early_step)
    if plan.branches == 2 and guidance_scale is not None and guidance_scale <= 1:
        raise ValueError(f"guidance scale {guidance_scale}: detectors compare with no prompt")
    template = Rows(
        prompts=[""],
        seeds=[0],
        steps=steps,
        guidance_scale=guidance_scale,
        settings=settings or {},
    )
    batches = _Batches(
        pipeline=pipeline,
        template=template,
        wanted=Wanted.by(detectors, plan),
        batch_size=batch_size,
    )
    rows = [
        (prompt, seed)
        for index, prompt in enumerate(prompts)
        for seed in _seeds(seeds_of(index), num_seeds)
    ]
    scored: list[dict[str, float]] = []
    for each in batches.scored(rows, num_seeds):
        scored.append(each)
        progress(len(scored), len(prompts))
    return _gathered(scored, detectors, plan=plan, batches=batches)


@dataclass(kw_only=True)
class _Batches:
    """Rows in batches of one shape, and what they cost."""

    pipeline: Any
    template: Rows
    wanted: Wanted
    batch_size: int
    calls: int = 0
    num_steps: int = 0
    has_picture: bool = True

    def scored(self, rows: Sequence[tuple[str, int]], num_seeds: int) -> Iterator[dict[str, float]]:
        """Scores of each prompt, of which `rows` hold all seeds next to each other."""
        waiting: list[dict[str, torch.Tensor]] = []
        for row in self.observed(rows):
            waiting.append(row)
            if len(waiting) == num_seeds:
                yield score_prompt(_stacked(waiting))
                waiting = []

    def observed(self, rows: Sequence[tuple[str, int]]) -> Iterator[dict[str, torch.Tensor]]:
        """What was seen of each row, in order."""
        if self.batch_size < 1:
            raise ValueError(f"a batch of {self.batch_size} rows")
        for start in range(0, len(rows), self.batch_size):
            batch = list(rows[start : start + self.batch_size])
            padded = batch + batch[-1:] * (self.batch_size - len(batch))
            prompts, seeds = zip(*padded, strict=True)
            seen = self._observe(replace(self.template, prompts=prompts, seeds=seeds))
            self.has_picture, self.num_steps = seen.has_picture, seen.num_steps
            self.calls += seen.calls
            for index in range(len(batch)):
                yield {name: tensor[index] for name, tensor in seen.tensors.items()}

    def _observe(self, rows: Rows) -> Seen:
        try:
            return observe(self.pipeline, rows, self.wanted)
        except torch.OutOfMemoryError:
            raise MemscanError(
                f"out of memory with {self.batch_size} prompts and seeds in a batch; try "
                f"--memscan-batch-size {max(1, self.batch_size // 2)}, or --memscan-device cpu"
            ) from None


def score_prompt(seen: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """All scores that the tensors of one prompt allow.

    Args:
        seen: As `observe` names them, ``(num_seeds, ...)`` each.

    Returns:
        Detector, or part of ``norm_alignment`` -> score.
    """
    scored = {"denoising_confidence": scores.denoising_confidence(seen["noise"], seen["guided"])}
    if seen["clean"].dim() == 4:
        scored["seed_agreement"] = seed_agreement(seen["clean"])
    if "change" in seen:
        scored["noise_magnitude"] = scores.noise_magnitude(seen["change"])
        scored["masked_magnitude"] = scores.masked_magnitude(seen["change"])
    if "near_change" in seen:
        scored["norm"] = scored["noise_magnitude"]
        scored["alignment"] = scores.alignment(seen["near_change"], seen["near_unconditional"])
    if "early" in seen:
        scored["early_spread"] = scores.early_spread(seen["early"])
        scored["masked_early_spread"] = scores.masked_early_spread(seen["early"])
    if "early_norms" in seen:
        scored["early_noise_magnitude"] = scores.mean_noise_magnitude(seen["early_norms"])
    if "norms" in seen:
        scored["mean_noise_magnitude"] = scores.mean_noise_magnitude(seen["norms"])
    return scored


def _gathered(
    scored: Sequence[dict[str, float]],
    detectors: Sequence[str],
    *,
    plan: ScreenPlan,
    batches: _Batches,
) -> Scores:
    plan = replace(plan, steps=max(plan.steps, batches.num_steps))
    why_not = {
        name: BY_NAME[name].why_not(
            has_both_branches=plan.branches == 2, has_picture=batches.has_picture
        )
        for name in detectors
    }
    applicable = [name for name in detectors if not why_not[name]]

    def column(name: str) -> Floats:
        return np.array([each[name] for each in scored], dtype=np.float64)

    is_combined = "norm_alignment" in applicable
    return Scores(
        values={name: column(name) for name in applicable if name != "norm_alignment"},
        parts={name: column(name) for name in ("norm", "alignment")} if is_combined else {},
        not_applicable={name: reason for name, reason in why_not.items() if reason},
        calls_alone={name: BY_NAME[name].calls(plan) for name in applicable},
        calls=batches.calls,
    )


def _stacked(rows: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def _seeds(seeds: Sequence[int], num_seeds: int) -> Sequence[int]:
    if len(seeds) < num_seeds:
        raise ValueError(f"{len(seeds)} seeds for a prompt; {num_seeds} are needed")
    return seeds[:num_seeds]


def _plan(
    pipeline: Any, detectors: Sequence[str], *, num_seeds: int, steps: int, early_step: int | None
) -> ScreenPlan:
    for name in detectors:
        if name not in BY_NAME:
            raise ValueError(f"detector {name!r} is unknown; there are {', '.join(BY_NAME)}")
    return ScreenPlan(
        num_seeds=num_seeds,
        steps=steps,
        early_step=early_step_of(steps) if early_step is None else early_step,
        branches=1 if not_applicable(pipeline) else 2,
    )
