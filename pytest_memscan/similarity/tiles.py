"""Pixel comparisons by tile: which generations are near-identical, wholly or in part.

Carlini et al. 2023 (section 4.2) cut both images into 4 x 4 tiles and take the *largest* tile
distance, so that a large flat background does not make two images alike. The *smallest* tile
distances and variances see the opposite case, template memorisation: part of the image comes back
with every seed, the rest does not (Webster 2023). A tile that is flat in most images, such as a
white border, looks fixed too. Pixels alone cannot tell the two apart; thresholds calibrated on the
same checkpoint's images of prompts it was not trained on can, as far as those have such borders.

Images are ``(num_images, height, width, channels)``. Distances are of 8-bit pixels scaled to
[0, 1] and exact: sums of squares are integers until the last division and root. Memory: one tile of
each image at a time, and the distances.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from pytest_memscan.similarity.matching.products import INT32_SAFE_VALUES, integer_product

GRID = 4  # tiles along a side; Carlini et al. 2023, section 4.2
_PIXEL_RANGE = 255.0

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]
_Value = TypeVar("_Value", bound=np.generic)


def tile_distances(images: Pixels, others: Pixels | None = None, *, grid: int = GRID) -> Floats:
    """Normalised L2 between the same tile of every pair of images.

    Args:
        images: ``(n, height, width, channels)``.
        others: ``(m, height, width, channels)``; the images themselves by default.
        grid: Tiles along a side.

    Returns:
        ``(grid * grid, n, m)`` in [0, 1], tiles row by row.

    Raises:
        ValueError: If these are not 8-bit images of one size, or a side does not divide by
            ``grid``: resize first, since dropping pixels would change what is compared.

    Example:
        >>> black = np.zeros((1, 4, 4, 3), dtype=np.uint8)
        >>> half = black.copy()
        >>> half[:, :2] = 255
        >>> tile_distances(black, half, grid=2).ravel().tolist()
        [1.0, 1.0, 0.0, 0.0]
    """
    return np.sqrt(np.stack(list(_tile_squares(images, others, grid))))


def tiled_l2(images: Pixels, others: Pixels | None = None, *, grid: int = GRID) -> Floats:
    """Largest of the `tile_distances` of each pair: Carlini's distance of two generations.

    Arguments and errors as there; returns ``(n, m)`` in [0, 1]. Keeps one tile at a time, so that
    adding ``k`` images to ``n`` costs ``tiled_l2(new, all)``: ``k * n`` pairs.

    Example:
        >>> black = np.zeros((1, 4, 4, 3), dtype=np.uint8)
        >>> spot = black.copy()
        >>> spot[:, 0, 0] = 255
        >>> tiled_l2(black, spot).item(), l2(black, spot).item()
        (1.0, 0.25)
    """
    squares = _tile_squares(images, others, grid)
    largest = next(squares)
    for square in squares:
        np.maximum(largest, square, out=largest)
    return np.sqrt(largest)


def l2(images: Pixels, others: Pixels | None = None) -> Floats:
    """Normalised L2 of whole images, ``(n, m)`` in [0, 1]; arguments as `tile_distances`.

    Example:
        >>> white = np.full((1, 2, 2, 3), 255, dtype=np.uint8)
        >>> l2(white, np.zeros_like(white)).item()
        1.0
    """
    return np.sqrt(next(_tile_squares(images, others, 1)))


def masked_l2(images: Pixels, others: Pixels | None = None, *, grid: int = GRID) -> Floats:
    """Normalised L2 over the quarter of the tiles where a pair is closest (4 of 16).

    Arguments and errors as `tile_distances`; returns ``(n, m)`` in [0, 1]. Small where two images
    share a part, whichever it is: which tiles count is chosen for each pair on its own, so the
    triangle inequality does not hold.

    Example:
        >>> black = np.zeros((1, 4, 4, 3), dtype=np.uint8)
        >>> other = np.full_like(black, 255)
        >>> other[:, 0] = 0
        >>> masked_l2(black, other).item()
        0.0
    """
    quarter = max(1, grid * grid // 4)
    squares = _tile_squares(images, others, grid)
    closest = np.stack([next(squares) for _ in range(quarter)])
    for square in squares:
        farthest = closest.argmax(axis=0)[None]
        kept = np.minimum(np.take_along_axis(closest, farthest, axis=0), square[None])
        np.put_along_axis(closest, farthest, kept, axis=0)
    distances: Floats = np.sqrt(closest.mean(axis=0))
    return distances


def mean_image(images: NDArray[np.uint8] | NDArray[np.floating]) -> Floats:
    """Mean over the images, ``images.shape[1:]``: 8-bit ones scaled to [0, 1], floats as given.

    Raises:
        ValueError: If there is no image, or a value is not finite.

    Example:
        >>> mean_image(np.array([[0, 255], [255, 255]], dtype=np.uint8)).tolist()
        [0.5, 1.0]
    """
    return _mean(images) / _unit(images)


def variance(images: NDArray[np.uint8] | NDArray[np.floating]) -> float:
    """Mean squared deviation from the mean image: Extended SIDE's measure of a key string.

    Of pixels in [0, 1], latents or descriptors: ``(num_images, ...)``; 8-bit values are scaled to
    [0, 1], floats taken as they are. The sum is divided by the number of images, so for
    independent images the expectation is ``(n - 1) / n`` of the true variance: compare only at
    equal ``n``. Exactly 0 for identical 8-bit or float32 images. Source: SIDE v7, "Extended SIDE".

    Raises:
        ValueError: As `mean_image`.

    Example:
        >>> variance(np.array([[0], [255]], dtype=np.uint8))
        0.25
    """
    return float(_deviation(images).mean())


def tile_variances(images: NDArray[np.uint8] | NDArray[np.floating], *, grid: int = GRID) -> Floats:
    """`variance` of each tile on its own, ``(grid * grid,)``, tiles row by row.

    Args:
        images: ``(num_images, height, width, channels)``: for latents, move the channels last.
        grid: Tiles along a side.

    Raises:
        ValueError: As `mean_image`, or if a side does not divide by ``grid``.

    Example:
        >>> images = np.zeros((2, 2, 2, 1), dtype=np.uint8)
        >>> images[0, 0, 1] = 255
        >>> tile_variances(images, grid=2).tolist()
        [0.0, 0.25, 0.0, 0.0]
    """
    _check_sides(images, grid)
    return np.array([part.mean() for part in _tiles(_deviation(images)[None], grid)])


def masked_variance(images: NDArray[np.uint8] | NDArray[np.floating], *, grid: int = GRID) -> float:
    """Mean of the lowest quarter of the `tile_variances` (4 of 16).

    Near 0 when part of the image is the same for every seed; never above `variance`.

    Example:
        >>> images = np.zeros((2, 4, 4, 1), dtype=np.uint8)
        >>> images[0, 1:] = 255
        >>> masked_variance(images), variance(images)
        (0.0, 0.1875)
    """
    lowest = np.sort(tile_variances(images, grid=grid))
    return float(lowest[: max(1, grid * grid // 4)].mean())


def _tile_squares(images: Pixels, others: Pixels | None, grid: int) -> Iterator[Floats]:
    """Mean squared difference of each tile, ``(n, m)`` in [0, 1]."""
    for given in (images,) if others is None else (images, others):
        _check_sides(given, grid)
        if given.dtype != np.uint8:
            raise ValueError(f"images must be 8-bit (uint8), got {given.dtype}")
    if others is not None and others.shape[1:] != images.shape[1:]:
        raise ValueError(f"images of {images.shape[1:]} and {others.shape[1:]} cannot be compared")
    for tile, other in zip(
        _tiles(images, grid), _tiles(images if others is None else others, grid), strict=True
    ):
        yield _squares(tile, other) / (tile.shape[1] * _PIXEL_RANGE**2)


def _squares(tile: Pixels, other: Pixels) -> NDArray[np.int64]:
    """Summed squared differences of every pair of rows, exactly."""
    total = np.zeros((len(tile), len(other)), dtype=np.int64)
    for start in range(0, tile.shape[1], INT32_SAFE_VALUES):
        left, right = (
            _centred(part[:, start : start + INT32_SAFE_VALUES]) for part in (tile, other)
        )
        total -= 2 * integer_product(left, right).numpy().astype(np.int64)
        total += _norms(left)[:, None] + _norms(right)[None]
    return total


def _centred(pixels: Pixels) -> torch.Tensor:
    """The same differences in int8: 0 ... 255 become -128 ... 127."""
    return torch.from_numpy((np.ascontiguousarray(pixels) ^ 128).view(np.int8))


def _norms(rows: torch.Tensor) -> NDArray[np.int64]:
    """Sum of squares of each row, without a wider copy of the rows."""
    values = rows.numpy()
    norms: NDArray[np.int64] = np.einsum("ij,ij->i", values, values, dtype=np.int64)
    return norms


def _tiles(images: NDArray[_Value], grid: int) -> Iterator[NDArray[_Value]]:
    """Each tile of all images as rows, ``(num_images, tile_height * tile_width * channels)``."""
    height, width = images.shape[1] // grid, images.shape[2] // grid
    for row in range(grid):
        for column in range(grid):
            rows = slice(row * height, (row + 1) * height)
            columns = slice(column * width, (column + 1) * width)
            yield images[:, rows, columns].reshape(len(images), -1)


def _check_sides(images: NDArray[np.generic], grid: int) -> None:
    if images.ndim != 4 or not images.size:
        raise ValueError(f"images must be (number, height, width, channels), got {images.shape}")
    height, width = images.shape[1:3]
    if grid < 1 or height % grid or width % grid:
        raise ValueError(
            f"images of {height} x {width} cannot be cut into {grid} x {grid} equal tiles: "
            f"resize them to sides that divide by {grid}"
        )


def _unit(images: NDArray[np.generic]) -> float:
    return _PIXEL_RANGE if images.dtype == np.uint8 else 1.0


def _mean(images: NDArray[np.uint8] | NDArray[np.floating]) -> Floats:
    """Mean image in the units given."""
    if not images.size or not (images.dtype == np.uint8 or images.dtype.kind == "f"):
        raise ValueError(
            f"need at least one 8-bit or float image, got {images.dtype} {images.shape}"
        )
    mean: Floats = images.mean(axis=0, dtype=np.float64)
    if not np.isfinite(mean).all():
        raise ValueError("images hold values that are not finite")
    return mean


def _deviation(images: NDArray[np.uint8] | NDArray[np.floating]) -> Floats:
    """Mean squared deviation of each value from its mean, ``images.shape[1:]``."""
    mean = _mean(images)
    total = np.zeros_like(mean)
    for image in images:
        total += np.square(image - mean)
    return total / (len(images) * _unit(images) ** 2)
