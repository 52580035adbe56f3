"""Which detectors there are, what they cost, and when they say nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pytest_memscan.denoising.conditioning import DISTILLED

PACKED = "the latents are packed as tokens: there is no picture whose structure could be compared"
_EARLY_SHARE = 2  # half of the schedule; earlier, seeds have not come together


@dataclass(frozen=True, kw_only=True)
class ScreenPlan:
    """What a prompt's calls depend on.

    Attributes:
        num_seeds: For each prompt, at least two.
        steps: Length of the sampling schedule.
        early_step: Step of the early look, at most `steps`; 1 for the first.
        branches: Denoiser forwards for each row and step: 2 with an unconditional one, else 1.
    """

    num_seeds: int
    steps: int
    early_step: int
    branches: int = 2

    def __post_init__(self) -> None:
        if self.num_seeds < 2:
            raise ValueError(f"{self.num_seeds} seeds for each prompt; at least 2 are needed")
        if not 1 <= self.early_step <= self.steps:
            raise ValueError(f"an early look at step {self.early_step} of {self.steps}")
        if self.branches not in (1, 2):
            raise ValueError(f"{self.branches} branches; expected 1 or 2")


@dataclass(frozen=True, kw_only=True)
class Detector:
    """One detector.

    Attributes:
        name: As in results and options.
        title: With its source.
        higher_is_memorised: False where memorised prompts score low.
        calls: Single-sample denoiser forwards for a prompt when it is computed alone; together,
            detectors share most of them.
        needs_both_branches: Compares with the predictions without a prompt.
        needs_picture: Latents must be ``(channels, height, width)``.
        is_default: Cheap enough to screen every prompt with.
    """

    name: str
    title: str
    higher_is_memorised: bool
    calls: Callable[[ScreenPlan], int]
    needs_both_branches: bool = False
    needs_picture: bool = False
    is_default: bool = True

    def why_not(self, *, has_both_branches: bool, has_picture: bool) -> str:
        """Why it says nothing on a checkpoint, or ""."""
        if self.needs_both_branches and not has_both_branches:
            return DISTILLED
        if self.needs_picture and not has_picture:
            return PACKED
        return ""


def early_step_of(steps: int) -> int:
    """Step at which the outcome is looked at early: half of the schedule, rounded up."""
    return -(-steps // _EARLY_SHARE)


def _one_step(plan: ScreenPlan) -> int:
    return plan.branches * plan.num_seeds


def _early(plan: ScreenPlan) -> int:
    return plan.branches * plan.early_step * plan.num_seeds


DETECTORS: tuple[Detector, ...] = (
    Detector(
        name="noise_magnitude",
        title="noise magnitude at the first step (Wen et al. 2024)",
        higher_is_memorised=True,
        calls=_one_step,
        needs_both_branches=True,
    ),
    Detector(
        name="norm_alignment",
        title="norm and alignment (Asthana and Belagiannis 2026)",
        higher_is_memorised=True,
        calls=lambda plan: 2 * _one_step(plan),
        needs_both_branches=True,
    ),
    Detector(
        name="masked_magnitude",
        title="noise magnitude where seeds agree (ours, after Chen et al. 2025)",
        higher_is_memorised=True,
        calls=_one_step,
        needs_both_branches=True,
    ),
    Detector(
        name="denoising_confidence",
        title="denoising confidence (Webster 2023)",
        higher_is_memorised=True,
        calls=_one_step,
    ),
    Detector(
        name="seed_agreement",
        title="structural agreement of seeds (NeMo, Hintersdorf et al. 2024)",
        higher_is_memorised=True,
        calls=_one_step,
        needs_picture=True,
    ),
    Detector(
        name="early_spread",
        title="spread of early clean latents over seeds (ours)",
        higher_is_memorised=False,
        calls=_early,
    ),
    Detector(
        name="masked_early_spread",
        title="lowest spread of early clean latents over seeds (ours)",
        higher_is_memorised=False,
        calls=_early,
    ),
    Detector(
        name="early_noise_magnitude",
        title="noise magnitude over the steps to the early look (after Wen et al. 2024)",
        higher_is_memorised=True,
        calls=_early,
        needs_both_branches=True,
    ),
    Detector(
        name="mean_noise_magnitude",
        title="noise magnitude over all steps (Wen et al. 2024)",
        higher_is_memorised=True,
        calls=lambda plan: plan.steps * _one_step(plan),
        needs_both_branches=True,
        is_default=False,
    ),
)
DEFAULT_DETECTORS: tuple[str, ...] = tuple(each.name for each in DETECTORS if each.is_default)
BY_NAME: dict[str, Detector] = {each.name: each for each in DETECTORS}
EARLY = frozenset({"early_spread", "masked_early_spread", "early_noise_magnitude"})
