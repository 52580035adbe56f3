"""Vectors in 8 bits, and a proven bound on what that does to their comparison.

Exact comparison of float vectors costs too much to do for every pair, so every pair is compared
in 8-bit integers first. This module makes the integers and the bound.

Let ``c`` be a fixed vector (about the mean of the training vectors), ``y = b - c`` for a training
vector ``b``, and for a generated vector ``a``

- cosine: ``x = a``, ``h = 0``, so that ``v = x.y - h = a.b - a.c``,
- L2: ``x = a - c``, ``h = |y|^2 / 2``, so that ``v = x.y - h = (|x|^2 - |a - b|^2) / 2``.

``a.c`` and ``|x|^2`` are the same for all training vectors, so the larger ``v``, the more alike.
Where a few coordinates outweigh the others by far, as in CLIP's vectors, x and y are first turned
by one fixed orthogonal matrix, which spreads them evenly and leaves ``x.y`` and all lengths alone.

With positive steps ``s`` (one for all training vectors) and ``t`` (of the generated vector), let
``q = round(y / s)``, ``p = round(x / t)``, ``g = round(h / (s t))`` and ``I = p.q - g``. All of
them are integers and ``I`` is computed exactly: entries of p and q lie in -127..127, and with at
most 2**16 of them no sum leaves int32. What is lost is only in the rounding:

    ``v - s t I = x.(y - s q) + (x - t p).(s q) - (h - s t g)``

and by Cauchy-Schwarz

    ``|v - s t I| <= |x| R + r Q + s t / 2``,    ``R = max |y - s q|``, ``Q = max |s q|``,
                                             ``r = |x - t p|``,

the last term for L2 only. R, Q, r and |x| are not estimates: they are measured, in float64, on
the vectors at hand. Float64 itself rounds, by less than ``dim * 2**-50 <= 2**-34`` of
``(|x| + max |y| + |c|)^2`` in everything above together with the exact scores; ``_FLOAT64_SLACK``
times that square is added and covers it many times over.

No bound depends on how the vectors are distributed; only how many pairs it decides does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

Metric = Literal["cosine", "l2"]

MAX_DIMENSION = 2**16
_LARGEST_CODE = 127
_FLOAT64_SLACK = 1e-9
_CODED_AT_ONCE = 2**17  # float64 values, so that a chunk stays in the processor's cache
_PEAKED = 8.0  # largest coordinate over root mean square; normally distributed ones reach 6
_UNIT_TOLERANCE = 1e-4  # of a length; vectors kept as float16 are not accepted as unit vectors


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What all training vectors are rounded to.

    Attributes:
        metric: What is compared.
        centre: ``(dim,)`` c.
        step: s.
        turns: Two orthogonal matrices, see `_turned`; None where vectors are left as they are.
    """

    metric: Metric
    centre: NDArray[np.float64]
    step: float = 1.0
    turns: tuple[torch.Tensor, torch.Tensor] | None = None


@dataclass(frozen=True, kw_only=True)
class CodedTrain:
    """Some training vectors on the grid.

    Attributes:
        codes: ``(rows, dim)`` int8, q.
        half_squares: ``(rows,)`` float64, h; None where the metric is cosine.
        residual: R of these.
        length: Q of these.
    """

    codes: torch.Tensor
    half_squares: torch.Tensor | None
    residual: float
    length: float


@dataclass(frozen=True, kw_only=True)
class CodedGenerated:
    """Generated vectors on a grid of their own; all but the codes ``(rows,)`` float64.

    Attributes:
        grid: That of the training vectors.
        codes: ``(rows, dim)`` int8, p.
        units: s t.
        lengths: |x|.
        residuals: r.
        offsets: Lead from a score to v, see `values`.
    """

    grid: Grid
    codes: torch.Tensor
    units: NDArray[np.float64]
    lengths: NDArray[np.float64]
    residuals: NDArray[np.float64]
    offsets: NDArray[np.float64]

    def margins(self, *, residual: float, length: float) -> NDArray[np.float64]:
        """``(rows,)`` bound on ``|v - s t I|`` for training vectors with that R and Q."""
        reach = self.lengths + residual + length
        margins: NDArray[np.float64] = self.lengths * residual + self.residuals * length
        if self.grid.metric == "cosine":
            reach = reach + float(np.linalg.norm(self.grid.centre))
        else:
            margins = margins + self.units / 2
        return margins + _FLOAT64_SLACK * reach**2

    def values(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """From scores ``(rows,)``, ``a.b`` or for L2 ``-|a - b|^2``, to v."""
        if self.grid.metric == "cosine":
            return scores - self.offsets
        return (scores + self.offsets) / 2


def survey(train: NDArray[np.float32], *, metric: Metric, tile_rows: int) -> Grid:
    """Look at all training vectors once: refuse what cannot be compared, choose the grid.

    Raises:
        ValueError: A vector is not finite, or not of unit length where the metric is cosine.
    """
    total, squares = np.zeros(train.shape[1]), 0.0
    lowest, highest = np.full(train.shape[1], np.inf), np.full(train.shape[1], -np.inf)
    for start in range(0, len(train), tile_rows):
        tile = train[start : start + tile_rows]
        squares += check_vectors(tile, side="train", first_row=start, metric=metric)
        total += tile.sum(axis=0, dtype=np.float64)
        lowest = np.minimum(lowest, tile.min(axis=0))
        highest = np.maximum(highest, tile.max(axis=0))
    centre = total / len(train)
    grid = Grid(metric=metric, centre=centre)
    farthest = float(np.maximum(highest - centre, centre - lowest).max())
    spread = max(0.0, squares / len(train) - float(centre @ centre))
    if farthest * np.sqrt(len(centre)) > _PEAKED * np.sqrt(spread):
        grid = replace(grid, turns=_orthogonal_pair(len(centre)))
        chunks = _centred_chunks(train, centre, "cpu", grid.turns)
        farthest = max(float(turned.abs().max()) for _, _, turned in chunks)
    return replace(grid, step=farthest / _LARGEST_CODE or 1.0)


def check_vectors(
    vectors: NDArray[np.float32], *, side: str, first_row: int = 0, metric: Metric
) -> float:
    """Refuse vectors that are not finite, or not of unit length where the metric is cosine.

    Returns:
        The sum of their squared lengths.

    Raises:
        ValueError: Names the first such row.
    """
    squares = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64, casting="same_kind")
    wrong = ~np.isfinite(squares)
    if metric == "cosine":
        wrong |= np.abs(np.sqrt(squares) - 1.0) > _UNIT_TOLERANCE
    if not wrong.any():
        return float(squares.sum())
    row = int(np.argmax(wrong))
    what = "is not finite"
    if np.isfinite(squares[row]):
        what = f"has length {np.sqrt(squares[row]):.6g}; expected a unit vector"
    raise ValueError(f"{side} vector {first_row + row} {what}")


def code_train(train: NDArray[np.float32], grid: Grid, *, device: str) -> CodedTrain:
    """Training vectors ``(rows, dim)`` on the grid."""
    codes = _empty_codes(len(train), grid, device)
    steps = torch.full((len(train), 1), grid.step, dtype=torch.float64, device=device)
    residual = length = 0.0
    halves = []
    for rows, centred, turned in _centred_chunks(train, grid.centre, device, grid.turns):
        codes[rows], residuals, lengths = _code(turned, steps[rows])
        residual = max(residual, float(residuals.max()))
        length = max(length, float(lengths.max()))
        halves.append(centred.square().sum(dim=1) / 2)
    half_squares = torch.cat(halves) if grid.metric == "l2" else None
    return CodedTrain(codes=codes, half_squares=half_squares, residual=residual, length=length)


def code_generated(generated: NDArray[np.float32], grid: Grid, *, device: str) -> CodedGenerated:
    """Generated vectors ``(rows, dim)``, on a grid of their own for each (L2: for all)."""
    centre = np.zeros_like(grid.centre) if grid.metric == "cosine" else grid.centre
    codes = _empty_codes(len(generated), grid, device)
    steps = _generated_steps(generated, centre, grid)
    lengths, residuals, offsets = (np.empty(len(generated)) for _ in range(3))
    against = torch.from_numpy(grid.centre).to(device)
    on_device = torch.from_numpy(steps[:, None]).to(device)
    for rows, centred, turned in _centred_chunks(generated, centre, device, grid.turns):
        codes[rows], missed, _ = _code(turned, on_device[rows])
        residuals[rows] = missed.cpu().numpy()
        lengths[rows] = centred.norm(dim=1).cpu().numpy()
        # Centred on zero where the metric is cosine: these are then the vectors themselves.
        offsets[rows] = (centred @ against).cpu().numpy()
    if grid.metric == "l2":
        offsets = lengths**2
    return CodedGenerated(
        grid=grid,
        codes=codes,
        units=steps * grid.step,
        lengths=lengths,
        residuals=residuals,
        offsets=offsets,
    )


def _generated_steps(
    generated: NDArray[np.float32], centre: NDArray[np.float64], grid: Grid
) -> NDArray[np.float64]:
    """The steps t of each row.

    L2 rounds ``|y|^2 / (2 s t)`` to one integer for a training vector, so there t is the same for
    all, and at least s, which keeps that integer within int32.
    """
    largest = np.empty(len(generated))
    for rows, _, turned in _centred_chunks(generated, centre, "cpu", grid.turns):
        largest[rows] = turned.abs().amax(dim=1).numpy()
    steps = largest / _LARGEST_CODE
    if grid.metric == "l2":
        return np.full(len(generated), max(float(steps.max()), grid.step))
    steps[steps == 0] = 1.0
    return steps


def _empty_codes(count: int, grid: Grid, device: str) -> torch.Tensor:
    dimension = len(grid.centre)
    if grid.turns is not None:
        dimension = len(grid.turns[0]) * len(grid.turns[1])
    return torch.empty((count, dimension), dtype=torch.int8, device=device)


def _centred_chunks(
    vectors: NDArray[np.float32],
    centre: NDArray[np.float64],
    device: str,
    turns: tuple[torch.Tensor, torch.Tensor] | None,
) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """``vectors - centre`` in float64, and the same turned, a few rows at a time."""
    at_once = max(1, _CODED_AT_ONCE // vectors.shape[1])
    for start in range(0, len(vectors), at_once):
        rows = slice(start, min(start + at_once, len(vectors)))
        centred = torch.from_numpy(vectors[rows] - centre).to(device)
        yield rows, centred, centred if turns is None else _turned(centred, turns)


def _orthogonal_pair(dimension: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two orthogonal matrices whose sizes multiply to at least ``dimension``; always the same."""
    rng = np.random.default_rng(0)
    inner = int(np.ceil(np.sqrt(dimension)))
    left, right = (
        np.linalg.qr(rng.standard_normal((size, size)))[0]
        for size in (-(-dimension // inner), inner)
    )
    return torch.from_numpy(left), torch.from_numpy(right)


def _turned(vectors: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Vectors times the Kronecker product of the two: every value goes into every coordinate.

    Short vectors are filled up with zeros. Costs ``2 * sqrt(dim)`` multiply-adds for a value
    instead of the ``dim`` of a full matrix.
    """
    left, right = (each.to(vectors.device) for each in turns)
    missing = len(left) * len(right) - vectors.shape[1]
    square = torch.nn.functional.pad(vectors, (0, missing)).view(-1, len(left), len(right))
    return (left @ (square @ right)).flatten(start_dim=1)


def _code(
    values: torch.Tensor, steps: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes, and the lengths of what rounding took away and of what it left."""
    scaled = values / steps
    codes = scaled.round().clamp_(-_LARGEST_CODE, _LARGEST_CODE)
    residuals = (scaled - codes).norm(dim=1) * steps[:, 0]
    return codes.to(torch.int8), residuals, codes.norm(dim=1) * steps[:, 0]
