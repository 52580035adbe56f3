"""What the score of a pair can be at most, from float32 products of all pairs.

With the names of `quantised`: ``v = x.y - h`` grows with the score. A float32 product of any
summation order is within ``dim * 2**-24 |x||y|`` of the real number (Higham, Accuracy and
Stability of Numerical Algorithms, section 3.1), and rounding x, y and h to float32 and subtracting
h adds at most ``2**-22 (|x||y| + h)``. Twice the sum of both is allowed for. Centring makes ``|y|``
small, so the bound is tight even where all vectors lie close together.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from pytest_memscan.similarity.matching.quantised import Grid

_UNDERFLOW = 2.0**-100  # above the sum of all products too small for float32, in scaled units


class Bounds:
    """Some generated vectors, ready to be compared with tiles of training vectors.

    Args:
        generated: ``(rows, dim)``.
        grid: Of the training vectors.
        device: Where products are computed.
    """

    def __init__(self, generated: NDArray[np.float32], grid: Grid, *, device: str) -> None:
        self.generated, self.grid, self._device = generated, grid, device
        vectors = generated.astype(np.float64)
        self._offsets = vectors @ grid.centre
        if grid.metric == "l2":
            vectors -= grid.centre
        self._lengths = np.linalg.norm(vectors, axis=1)
        if grid.metric == "l2":
            self._offsets = self._lengths**2
        # Scaled to about 1, so that no product leaves the range of float32.
        self._train_scale = 128 * grid.step
        self._scale = max(float(np.abs(vectors).max()), self._train_scale)
        self._type = _product_type()
        self._left = torch.from_numpy(vectors / self._scale).to(device, self._type)

    def possible(
        self, train: NDArray[np.float32], reached: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows and columns of the pairs whose score may be at least ``reached[row]``.

        Args:
            train: ``(columns, dim)`` training vectors.
            reached: ``(rows,)``; minus infinity makes every pair of the row possible.
        """
        unit = self._scale * self._train_scale
        vectors = train - self.grid.centre
        squares = np.einsum("ij,ij->i", vectors, vectors)
        right = torch.from_numpy(vectors / self._train_scale).to(self._device, self._type)
        values = self._left @ right.T
        longest = float(np.sqrt(squares.max()))
        most = self._lengths * longest
        limits = reached - self._offsets
        if self.grid.metric == "l2":
            halves = torch.from_numpy(squares / (2 * unit))
            values -= halves.to(self._device, self._type)
            most = most + longest**2 / 2
            limits = (reached + self._offsets) / 2
        relative = 2 * (train.shape[1] + 4) * torch.finfo(self._type).eps
        limits = (limits - relative * most) / unit - _UNDERFLOW
        lowest = torch.from_numpy(limits).to(self._device, self._type)
        lowest -= lowest.abs() * torch.finfo(self._type).eps
        rows, columns = (values >= lowest[:, None]).nonzero(as_tuple=True)
        return rows.cpu().numpy(), columns.cpu().numpy()


def _product_type() -> torch.dtype:
    """float32, or float64 where torch was told to compute float32 products less exactly."""
    # Older releases have no such switch in some of these places.
    switches = [
        getattr(each, "matmul", None) for each in (torch.backends.cuda, torch.backends.mkldnn)
    ]
    exact = all(getattr(each, "fp32_precision", "none") in ("none", "ieee") for each in switches)
    try:
        exact &= torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # the older switches were mixed with the newer ones
        exact = False
    return torch.float32 if exact else torch.float64
