"""Nearest training images by pixel distance: exact, tiled, in bounded memory.

Pixels are 8-bit integers, so squared distances are integers too and are computed exactly:
``|a|^2 + |b|^2 - 2 a.b`` with the product as an int8 matrix product accumulated in int32. A
float32 product would be off by up to 0.4 % on near-duplicates, the pairs that matter.

Cost: ``num_generated * num_train * num_pixels`` multiply-adds. Memory: inputs as given, plus
under 400 MB for one tile of each side (at most ``TILE_BYTES`` of pixels) and one tile of distances
(``TILE_GENERATED * TILE_TRAIN`` of up to 30 bytes), whatever their number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pytest_memscan.similarity.matching.products import INT32_SAFE_VALUES, integer_product

NUM_NEIGHBOURS = 50  # Carlini et al. 2023, section 5.1
ALPHA = 0.5  # Carlini et al. 2023, section 5.1
TILE_GENERATED = 1024
TILE_TRAIN = 4096
TILE_BYTES = 2**25  # of 8-bit pixels
_SQUARED_AT_ONCE = 2**17  # pixels, so that their squares stay in the processor's cache


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """For each generated image its nearest training images, closest first.

    ``squared`` ``(num_generated, k)`` int64: summed squared differences of 8-bit pixels.
    ``train_ids`` ``(num_generated, k)`` int64; equal distances go to the lower id first.
    ``num_pixels``: values per image (height * width * channels).
    """

    squared: NDArray[np.int64]
    train_ids: NDArray[np.int64]
    num_pixels: int

    @property
    def distances(self) -> NDArray[np.float64]:
        """Normalised L2, ``(num_generated, k)``: 0 for equal images, 1 for black and white."""
        normalised: NDArray[np.float64] = np.sqrt(self.squared / self.num_pixels) / 255.0
        return normalised

    @property
    def ratios(self) -> NDArray[np.float64]:
        """Neighbour-normalised L2, see `neighbour_normalised`."""
        return neighbour_normalised(self.distances)


def neighbour_normalised(
    distances: NDArray[np.float64], *, alpha: float = ALPHA
) -> NDArray[np.float64]:
    """Distances relative to the neighbourhood: ``d_j / (alpha * mean(d_1 ... d_k))``.

    An image that is equally far from all its neighbours scores ``1 / alpha`` = 2 for each of
    them; a copy scores near 0 for the image it copies.

    Args:
        distances: ``(num_generated, k)`` distances to the k nearest training images of each
            generated image, closest first. The closest one belongs to the neighbourhood, as in
            known code; the paper leaves it open.
        alpha: Scale; 0.5 in the paper.

    Returns:
        ``(num_generated, k)``, unitless, smaller = more alike. All neighbours at distance 0
        give 0: such an image equals k training images.

    References:
        Carlini et al. 2023, arXiv:2301.13188, section 5.1.

    Example:
        >>> neighbour_normalised(np.array([[0.1, 0.3, 0.4, 0.4]])).round(2)
        array([[0.67, 2.  , 2.67, 2.67]])
    """
    scale = alpha * distances.mean(axis=1, keepdims=True)
    ratios = np.zeros_like(distances)
    np.divide(distances, scale, out=ratios, where=scale > 0)
    return ratios


def nearest_neighbours(
    generated: NDArray[np.uint8],
    train: NDArray[np.uint8],
    *,
    k: int = NUM_NEIGHBOURS,
    exclude: NDArray[np.int64] | None = None,
    device: str = "cpu",
) -> Neighbours:
    """The ``k`` training images nearest to each generated image by L2, exactly.

    Args:
        generated: ``(num_generated, num_pixels)`` or any shape that flattens to it, uint8.
        train: ``(num_train, ...)`` uint8, same pixels per image; may be a memory map.
        k: Neighbours to return; all training images where there are fewer.
        exclude: ``(num_generated,)`` id of the training image that each row must not be
            compared with (itself, when real images are compared with each other).
        device: Where the products are computed.

    Raises:
        ValueError: Either side is empty, or the images differ in size.
    """
    num_generated, num_train = len(generated), len(train)
    num_pixels = int(np.prod(generated.shape[1:]))
    if not num_generated or not num_train:
        raise ValueError(f"cannot match {num_generated} generated with {num_train} train images")
    if num_pixels != int(np.prod(train.shape[1:])):
        raise ValueError(f"generated images are {generated.shape[1:]}, train {train.shape[1:]}")
    k = min(k, num_train - (exclude is not None))
    if k < 1:
        raise ValueError("one training image cannot be compared with the others: there are none")
    keys = _smallest_keys(generated, train, k=k, exclude=exclude, device=device)
    return Neighbours(squared=keys // num_train, train_ids=keys % num_train, num_pixels=num_pixels)


def _smallest_keys(
    generated: NDArray[np.uint8],
    train: NDArray[np.uint8],
    *,
    k: int,
    exclude: NDArray[np.int64] | None,
    device: str,
) -> NDArray[np.int64]:
    """``(num_generated, k)`` ascending keys ``squared * num_train + train_id``.

    Sorting keys sorts by distance and breaks ties by id, and one int64 holds both: squared stays
    below 2**44 for any image we read. Training images are the outer loop, since there are more.
    """
    num_pixels = int(np.prod(generated.shape[1:]))
    generated_tiles = _tiles(len(generated), _rows_per_tile(TILE_GENERATED, num_pixels))
    left_norms = [_squared_norms(_centred(generated[rows], device)) for rows in generated_tiles]
    best: list[torch.Tensor | None] = [None] * len(generated_tiles)
    for columns in _tiles(len(train), _rows_per_tile(TILE_TRAIN, num_pixels)):
        right = _centred(train[columns], device)
        right_norms = _squared_norms(right)
        ids = torch.arange(columns.start, columns.start + len(right), device=device)
        for tile, rows in enumerate(generated_tiles):
            keys = left_norms[tile][:, None] + right_norms[None, :]
            _subtract_twice_the_product(keys, _centred(generated[rows], device), right)
            keys.mul_(len(train)).add_(ids)
            if exclude is not None:
                own = torch.as_tensor(exclude[rows], device=device) - columns.start
                inside = ((own >= 0) & (own < len(right))).nonzero().flatten()
                keys[inside, own[inside]] = torch.iinfo(torch.int64).max
            best[tile] = _merge(best[tile], keys, k)
    kept = torch.cat([keys for keys in best if keys is not None])
    smallest: NDArray[np.int64] = kept.cpu().numpy()
    return smallest


def _tiles(count: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]


def _rows_per_tile(most: int, num_pixels: int) -> int:
    return max(1, min(most, TILE_BYTES // num_pixels))


def _merge(best: torch.Tensor | None, keys: torch.Tensor, k: int) -> torch.Tensor:
    """The k smallest of what was kept and a new tile, ascending."""
    smallest = keys.topk(min(k, keys.shape[1]), largest=False, sorted=False).values
    if best is not None:
        smallest = torch.cat([best, smallest], dim=1)
    return smallest.sort(dim=1).values[:, :k]


def _centred(images: NDArray[np.uint8], device: str) -> torch.Tensor:
    """uint8 0..255 as int8 -128..127, ``(num, num_pixels)``: a shift leaves distances alone."""
    flat = np.ascontiguousarray(images).reshape(len(images), -1)
    return torch.from_numpy((flat ^ 0x80).view(np.int8)).to(device)


def _subtract_twice_the_product(
    keys: torch.Tensor, left: torch.Tensor, right: torch.Tensor
) -> None:
    """``keys -= 2 * left @ right.T``, exactly: turns sums of norms into squared distances."""
    for start in range(0, left.shape[1], INT32_SAFE_VALUES):
        block = slice(start, start + INT32_SAFE_VALUES)
        keys.sub_(integer_product(left[:, block], right[:, block]), alpha=2)


def _squared_norms(images: torch.Tensor) -> torch.Tensor:
    """Of int8 rows, in int64: exact, since float64 holds every integer up to 2**53."""
    at_once = max(1, _SQUARED_AT_ONCE // images.shape[1])
    norms = [
        images[start : start + at_once].to(torch.float64).square_().sum(dim=1)
        for start in range(0, len(images), at_once)
    ]
    return torch.cat(norms).to(torch.int64)
