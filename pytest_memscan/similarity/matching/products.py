"""The one integer matrix product that all matching is built on."""

from __future__ import annotations

import torch

INT32_SAFE_VALUES = 2**16  # 2**16 products of at most 2**14 stay below 2**31
_FEWEST_ROWS_ON_CUDA = 32  # its kernel wants more than 16, and multiples of 8


def integer_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """``left @ right.T`` of int8 matrices in int32, ``(len(left), len(right))``, exactly.

    Both have at most ``INT32_SAFE_VALUES`` columns. Sides that a kernel does not take are padded
    with zeros, which add nothing to a product.
    """
    rows, columns, inner = len(left), len(right), left.shape[1]
    if left.is_cuda:
        left = _pad(left, max(_FEWEST_ROWS_ON_CUDA, -(-rows // 8) * 8), -(-inner // 16) * 16)
        right = _pad(right, -(-columns // 16) * 16, -(-inner // 16) * 16)
    elif inner == 1:
        # On the CPU torch 2.13 leaves the product of single columns uninitialised.
        left, right = _pad(left, rows, 2), _pad(right, columns, 2)
    product: torch.Tensor = torch._int_mm(left.contiguous(), right.contiguous().T)
    return product[:rows, :columns]


def _pad(matrix: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    missing = (0, columns - matrix.shape[1], 0, rows - matrix.shape[0])
    return torch.nn.functional.pad(matrix, missing)
