"""How a LoRA of clusters is trained, what that costs, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pytest_memscan.results.basics import Estimate


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """How the LoRA is trained.

    The paper's are ``rank=512, learning_rate=1e-5``; neither its batches nor its steps are known.
    The defaults are the small ones that are usual for Stable Diffusion. Tiny models need larger
    rates.

    Attributes:
        rank: Of the update of each attention projection.
        learning_rate: Of the LoRA; AdamW, constant.
        token_learning_rate: Of the tokens, which all start alike and have far to go.
        num_steps: Batches.
        batch_size: Samples in a batch.
        empty_share: Of the samples are shown with the empty prompt, as such models are trained,
            so that classifier-free guidance keeps its other branch.
        held_out_share: Of the samples are not trained on, and asked about in the end.
        seed: Of everything that is random.
    """

    rank: int = 8
    learning_rate: float = 1e-4
    token_learning_rate: float = 5e-3
    num_steps: int = 1_000
    batch_size: int = 8
    empty_share: float = 0.1
    held_out_share: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.rank, self.num_steps, self.batch_size) < 1:
            raise ValueError("rank, steps and batch size are at least 1")
        if not 0 < self.held_out_share < 1 or not 0 <= self.empty_share < 1:
            raise ValueError("shares are between 0 and 1, and something is held out")
        if min(self.learning_rate, self.token_learning_rate) <= 0:
            raise ValueError("learning rates are above 0")


@dataclass(frozen=True, kw_only=True)
class LoraCost:
    """What training will cost, known before it starts.

    Attributes:
        num_steps: Of training.
        trained_forwards: Single-sample forwards of the denoiser with their backward.
        plain_forwards: Further ones without; at most.
        num_encoded: Samples that the autoencoder encodes.
        num_parameters: That are trained.
        latent_bytes: Memory of the latents, all the while.
    """

    num_steps: int
    trained_forwards: int
    plain_forwards: int
    num_encoded: int
    num_parameters: int
    latent_bytes: int


@dataclass(frozen=True, kw_only=True)
class LoraRecord:
    """How a LoRA was trained, and what it learnt.

    Attributes:
        num_parameters: That were trained, LoRA and tokens.
        num_samples: That it was trained on.
        loss_at_start: Mean over the first tenth of the steps.
        loss_at_end: Mean over the last tenth.
        loss_right: Of held-out samples with the token of their cluster.
        loss_wrong: With that of another, at the same noise.
        advantage: ``loss_wrong - loss_right``, with one-sided Student-t bounds over samples.
    """

    rank: int
    learning_rate: float
    token_learning_rate: float
    num_steps: int
    batch_size: int
    seed: int
    num_parameters: int
    num_classes: int
    num_samples: int
    num_held_out: int
    loss_at_start: float
    loss_at_end: float
    loss_right: float
    loss_wrong: float
    advantage: Estimate

    @property
    def learnt_something(self) -> bool:
        """Whether the right token helps with samples that were not trained on."""
        return self.advantage.lower > 0

    def as_json(self) -> dict[str, Any]:
        """As `from_json` reads it."""
        return asdict(self)

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> LoraRecord:
        """As `as_json` wrote it."""
        return cls(**{**kept, "advantage": Estimate(**kept["advantage"])})
