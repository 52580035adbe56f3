"""From plan rows to stored images, through a stock diffusers pipeline.

An image is a function of its plan row, the batch shape and the dtype: each image has its own
CPU generator, batch ``b`` always holds rows ``b * batch_size ...``, and a batch that would be
short is padded with the rows that would follow. Order, resume point and worker never matter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pytest_memscan.errors import MemscanError
from pytest_memscan.store import ImageStore, StoredImage


class Pipeline(Protocol):
    """The part of ``diffusers.DDIMPipeline`` that is used; diffusers has no type hints."""

    unet: Any
    scheduler: Any

    def __call__(self, **settings: Any) -> Any:
        """Generate a batch."""


NON_FINITE = "not a number"
FLAT = "constant"
BLOCKED = "blacked out by a safety checker"
_MIN_DEVIATION = 2.0  # of the 8-bit pixels of a channel; below it an image shows nothing
_MIN_VALUES = 4  # different 8-bit values in an image that shows something
PLANNED = "planned"
ALONE = "alone"  # one image a batch in float32, for near-threshold matches


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """One image to generate. ``seed`` is unique in the plan and fits in 32 bits."""

    sample_id: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where generation stands, in images; ``resumed`` were found in the store."""

    done: int
    total: int
    resumed: int


ProgressCallback = Callable[[Progress], None]


def plan_rows(num_images: int, *, seed: int, start: int = 0) -> list[PlanRow]:
    """Rows ``start ... start + num_images - 1`` of the plan that belongs to ``seed``.

    Seeds are enumerated, not hashed: a torch CPU generator keeps only the low 32 bits of its
    seed, so hashed seeds collide.

    Args:
        num_images: At most 2**32.
        seed: Seed of row 0.
        start: First row.

    Raises:
        ValueError: More rows than there are seeds.
    """
    if start + num_images > 2**32:
        raise ValueError(f"{start + num_images} rows, but only 2**32 different seeds")
    return [
        PlanRow(sample_id=row, seed=(seed + row) % 2**32)
        for row in range(start, start + num_images)
    ]


def generate(
    pipeline: Pipeline,
    rows: Sequence[PlanRow],
    *,
    store: ImageStore,
    kind: str = PLANNED,
    batch_size: int,
    steps: int,
    plan_seed: int,
    progress: ProgressCallback = lambda _: None,
) -> None:
    """Generate the rows that the store does not have, committing batch by batch.

    Args:
        pipeline: Unconditional pipeline, on its device.
        rows: What to make.
        store: Where it goes, under ``kind``.
        kind: `PLANNED` or `ALONE`.
        batch_size: Images in every denoiser call, whatever the number of rows.
        steps: Denoiser calls per image.
        plan_seed: Seed of row 0, for the rows that pad a short batch.
        progress: Told after every batch.
    """
    stored = store.ids(kind)
    resumed = sum(row.sample_id in stored for row in rows)
    done = resumed
    progress(Progress(done=done, total=len(rows), resumed=resumed))
    for batch in _batches(rows, stored, batch_size):
        first = batch[0].sample_id // batch_size * batch_size
        padded = plan_rows(batch_size, seed=plan_seed, start=first)
        images = _sample(pipeline, padded, steps=steps)
        wanted = {row.sample_id for row in batch}
        store.add(kind, [image for image in images if image.sample_id in wanted])
        done += len(batch)
        progress(Progress(done=done, total=len(rows), resumed=resumed))


def images_per_second(pipeline: Pipeline, *, batch_size: int, steps: int, plan_seed: int) -> float:
    """Rate of one batch, measured after one denoiser call to warm up."""
    rows = plan_rows(batch_size, seed=plan_seed)
    _sample(pipeline, rows, steps=1)
    started = time.perf_counter()
    _sample(pipeline, rows, steps=steps)
    return batch_size / (time.perf_counter() - started)


def _batches(rows: Sequence[PlanRow], stored: set[int], batch_size: int) -> Iterable[list[PlanRow]]:
    """Missing rows, grouped by the batch that their sample id belongs to."""
    batches: dict[int, list[PlanRow]] = {}
    for row in rows:
        if row.sample_id not in stored:
            batches.setdefault(row.sample_id // batch_size, []).append(row)
    return batches.values()


def _sample(pipeline: Pipeline, rows: Sequence[PlanRow], *, steps: int) -> list[StoredImage]:
    generators = [torch.Generator("cpu").manual_seed(row.seed) for row in rows]
    finite = torch.ones(len(rows), dtype=torch.bool)

    # The pipeline clamps its images, which would turn an infinity into white.
    def watch(_: object, __: object, output: Any) -> None:
        finite.logical_and_(output.sample.isfinite().flatten(1).all(dim=1).cpu())

    handle = pipeline.unet.register_forward_hook(watch)
    try:
        output = pipeline(
            batch_size=len(rows),
            generator=generators,
            num_inference_steps=steps,
            eta=0.0,
            output_type="pt",
        )
    except torch.OutOfMemoryError:
        smaller = max(1, len(rows) // 2)
        raise MemscanError(
            f"out of memory on {pipeline.unet.device} with {len(rows)} images in a batch; try "
            f"--memscan-batch-size {smaller}, or --memscan-device cpu. Another batch size is "
            "another scan: its images are made anew"
        ) from None
    finally:
        handle.remove()
    images = output.images.float().cpu()  # (batch, channels, height, width)
    finite &= images.isfinite().flatten(1).all(dim=1)
    blocked = getattr(output, "nsfw_content_detected", None) or [False] * len(rows)
    levels = images.nan_to_num().clamp(0, 1).mul(255).round().to(torch.uint8)
    pixels = levels.permute(0, 2, 3, 1).numpy()
    return [
        StoredImage(
            sample_id=row.sample_id,
            seed=row.seed,
            invalid=why_invalid(pixels[index], finite=bool(finite[index]), blocked=blocked[index]),
            pixels=pixels[index],
        )
        for index, row in enumerate(rows)
    ]


def why_invalid(pixels: NDArray[np.uint8], *, finite: bool, blocked: bool = False) -> str:
    """Reason why an image must not be counted, or "".

    Args:
        pixels: ``(height, width, channels)`` uint8.
        finite: Whether every denoiser output and every raw pixel was finite.
        blocked: Whether a safety checker replaced the image.
    """
    if not finite:
        return NON_FINITE
    if blocked:
        return BLOCKED
    # Channel by channel: one flat colour differs between its channels, but shows nothing.
    if pixels.std(axis=(0, 1)).max() < _MIN_DEVIATION or len(np.unique(pixels)) < _MIN_VALUES:
        return FLAT
    return ""
