"""The training vectors that may belong to the answer, found in 8-bit integers.

Training vectors pass by in tiles, once for each block of generated vectors. Of a tile of products
only the maximum of every ``BLOCK`` neighbouring columns is looked at, and a block is opened only
when that maximum beats what a row already has. So choosing costs a small part of the product
itself, whatever the number of training vectors.

Memory: a tile of training vectors in float32 and in int8, ``TILE_GENERATED * TILE_TRAIN`` products
with what is chosen of them, and the codes of one block of generated vectors: under 300 MB in all,
whatever the number of vectors on either side.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pytest_memscan.similarity.matching.products import integer_product
from pytest_memscan.similarity.matching.quantised import (
    CodedGenerated,
    CodedTrain,
    Grid,
    code_train,
)

TILE_GENERATED = 1024
TILE_TRAIN = 4096
BLOCK = 32  # neighbouring training vectors whose best product is looked at first
OPENED_SHARE = 0.5  # of blocks; where more are promising, opening them one by one is slower
TILE_VALUES = 2**24  # float32 values of a tile
BLOCK_VALUES = 2**26  # 8-bit values of a block of generated vectors
GENERATED_AT_ONCE = 16  # tiles of generated vectors for which a training tile is coded once
_NONE = torch.iinfo(torch.int32).min


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The ``width`` largest products of every generated vector, largest first.

    Attributes:
        products: ``(rows, width)`` int32.
        train_ids: ``(rows, width)`` int64, -1 where there were fewer training vectors.
        residual: R over all training vectors.
        length: Q over all training vectors.
    """

    products: NDArray[np.int32]
    train_ids: NDArray[np.int64]
    residual: float
    length: float


def tile_rows(most: int, dimension: int, values: int = TILE_VALUES) -> int:
    """Rows of a tile: ``most``, fewer where vectors are long."""
    return max(1, min(most, values // dimension))


def generated_rows(dimension: int) -> int:
    """Generated vectors worked on at once."""
    return tile_rows(GENERATED_AT_ONCE * TILE_GENERATED, dimension, BLOCK_VALUES)


def top_candidates(
    generated: CodedGenerated,
    train: NDArray[np.float32],
    *,
    width: int,
    exclude: NDArray[np.int64] | None,
    device: str,
) -> Candidates:
    """Keep the ``width`` largest products of every row while all training vectors pass by.

    A training vector that is not among them has a product of at most the smallest one kept.
    """
    shape = (len(generated.units), width)
    best = torch.full(shape, _NONE, dtype=torch.int32, device=device)
    ids = torch.full(shape, -1, dtype=torch.int64, device=device)
    residual = length = 0.0
    for start, tile in coded_tiles(train, generated.grid, device=device):
        residual, length = max(residual, tile.residual), max(length, tile.length)
        for rows, products in product_tiles(generated, tile):
            if exclude is not None:
                own = torch.from_numpy(exclude[rows] - start).to(device)
                inside = ((own >= 0) & (own < products.shape[1])).nonzero().flatten()
                products[inside, own[inside]] = _NONE
            _merge(best[rows], ids[rows], products, start)
    best, order = best.sort(dim=1, descending=True)
    ids = ids.gather(1, order)
    return Candidates(
        products=best.cpu().numpy(), train_ids=ids.cpu().numpy(), residual=residual, length=length
    )


def coded_tiles(
    train: NDArray[np.float32], grid: Grid, *, device: str
) -> Iterator[tuple[int, CodedTrain]]:
    """All training vectors on the grid, a tile at a time, each with the id of its first."""
    at_once = tile_rows(TILE_TRAIN, train.shape[1])
    for start in range(0, len(train), at_once):
        yield start, code_train(train[start : start + at_once], grid, device=device)


def product_tiles(
    generated: CodedGenerated, tile: CodedTrain
) -> Iterator[tuple[slice, torch.Tensor]]:
    """The integers I of a training tile with all generated vectors, a tile at a time.

    Yields:
        Rows, and ``(rows, columns)`` int32, the number of columns rounded up to whole blocks;
        surplus columns hold the smallest integer.
    """
    at_once = tile_rows(TILE_GENERATED, generated.codes.shape[1])
    columns = len(tile.codes)
    whole = -(-columns // BLOCK) * BLOCK
    codes = torch.nn.functional.pad(tile.codes, (0, 0, 0, whole - columns))
    half_squares = None
    if tile.half_squares is not None:
        rounded = (tile.half_squares / float(generated.units[0])).round_().to(torch.int32)
        half_squares = torch.nn.functional.pad(rounded, (0, whole - columns))
    for start in range(0, len(generated.codes), at_once):
        rows = slice(start, start + at_once)
        products = integer_product(generated.codes[rows], codes).contiguous()
        if half_squares is not None:
            products -= half_squares
        products[:, columns:] = _NONE
        yield rows, products


def _peaks(products: torch.Tensor) -> torch.Tensor:
    return products.view(len(products), -1, BLOCK).amax(dim=2)


def _inside(
    products: torch.Tensor, promising: torch.Tensor, threshold: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What is above the threshold in the promising blocks."""
    row, block = promising.nonzero(as_tuple=True)
    opened = products.view(len(products), -1, BLOCK)[row, block]
    hit, offset = (opened > threshold[row, None]).nonzero(as_tuple=True)
    return row[hit], block[hit] * BLOCK + offset


def _merge(best: torch.Tensor, ids: torch.Tensor, products: torch.Tensor, start: int) -> None:
    """Let the products of a tile into the best so far, in place and in no order."""
    threshold = best.amin(dim=1)
    promising = _peaks(products) > threshold[:, None]
    if int(promising.sum()) > OPENED_SHARE * promising.numel():
        # The first tile, or training vectors in ascending order: all of it is looked through.
        entrants, columns = products.topk(min(best.shape[1], products.shape[1]), sorted=False)
        active = torch.arange(len(best), device=best.device)
    else:
        rows, columns = _inside(products, promising, threshold)
        if not len(rows):
            return
        active, entrants, columns = _in_rows(products, rows, columns)
    entrant_ids = torch.where(entrants == _NONE, -1, columns + start)
    kept, order = torch.cat([best[active], entrants], dim=1).topk(best.shape[1], sorted=False)
    best[active] = kept
    ids[active] = torch.cat([ids[active], entrant_ids], dim=1).gather(1, order)


def _in_rows(
    products: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Chosen products side by side: which rows have any, the products, and their columns.

    Rows with fewer than others are filled up with the smallest integer, which is never kept.
    """
    active, group, counts = torch.unique_consecutive(rows, return_inverse=True, return_counts=True)
    place = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[group]
    shape = (len(active), int(counts.max()))
    entrants = torch.full(shape, _NONE, dtype=products.dtype, device=products.device)
    entrants[group, place] = products[rows, columns]
    entrant_columns = torch.zeros(shape, dtype=columns.dtype, device=columns.device)
    entrant_columns[group, place] = columns
    return active, entrants, entrant_columns
