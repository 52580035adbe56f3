"""How far the weights of two networks of one shape are from each other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

_CHUNK = 1 << 18  # numbers that are worked on at once
# Half a step of bfloat16, and a little for a number that was rounded to float16 before; below the
# smallest normal float16, half its constant step.
_ROUNDING, _SUBNORMAL = 2**-8 + 2**-10, 2**-24


@dataclass(kw_only=True)
class WeightSums:
    """Sums over the tensors of two networks, one tensor after the other.

    θ' are the fine-tune's weights, θ the base's. Matrices are tensors of two or more dimensions.
    """

    is_identical: bool = True
    is_rounding: bool = True  # no number differs by more than float16 or bfloat16 rounds it
    squared: float = 0.0  # |θ' - θ|²
    base: float = 0.0  # |θ|²
    matrices: float = 0.0  # |θ|² over matrices
    matrices_tuned: float = 0.0  # |θ'|² over matrices
    product: float = 0.0  # ⟨θ', θ⟩ over matrices

    def add(self, tuned: torch.Tensor, base: torch.Tensor) -> None:
        """One tensor of both, as used by the models."""
        is_matrix = base.dim() > 1
        chunks = (each.reshape(-1).split(_CHUNK) for each in (tuned, base))  # type: ignore[no-untyped-call]
        for ours, theirs in zip(*chunks, strict=True):
            self._add(ours.float(), theirs.float(), is_matrix)

    def _add(self, tuned: torch.Tensor, base: torch.Tensor, is_matrix: bool) -> None:
        norm = _dot(base, base)
        self.base += norm
        self.matrices += norm * is_matrix
        if torch.equal(tuned, base):
            self.matrices_tuned += norm * is_matrix
            self.product += norm * is_matrix
            return
        self.is_identical = False
        change = tuned - base
        self.squared += _dot(change, change)
        if self.is_rounding:
            bound = torch.maximum(tuned.abs(), base.abs()).mul_(_ROUNDING).add_(_SUBNORMAL)
            self.is_rounding = bool((change.abs() <= bound).all())
        if is_matrix:
            self.matrices_tuned += _dot(tuned, tuned)
            self.product += _dot(tuned, base)

    @property
    def distance(self) -> float:
        """``|θ' - θ| / |θ|``, Euclidean norms over all weights."""
        return math.sqrt(self.squared / self.base) if self.base else 0.0

    @property
    def cosine(self) -> float:
        """Between θ' and θ, over matrices; 1 if there are none."""
        norms = math.sqrt(self.matrices * self.matrices_tuned)
        return self.product / norms if norms else 1.0


def _dot(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((left * right).sum(dtype=torch.float64))
