"""From plan rows to stored images, through a stock diffusers pipeline.

An image is a function of its plan row, the batch shape and the dtype: each image has its own
CPU generator, batch ``b`` always holds rows ``b * batch_size ...``, and a batch that would be
short is padded with the rows that would follow. Order, resume point and worker never matter.
With prompts, the rows of one prompt fill whole batches, so that no batch holds two of them.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pytest_memscan.denoising.attach import takes
from pytest_memscan.errors import MemscanError
from pytest_memscan.store import ImageStore, StoredImage


class Pipeline(Protocol):
    """The part of a diffusers pipeline that is used; diffusers has no type hints.

    The denoiser is ``unet`` or ``transformer``.
    """

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
class Prompting:
    """Which prompt each row of the plan belongs to.

    Attributes:
        prompts: Prompt ``p`` has rows ``p * rows_per_prompt ...``. Private.
        rows_per_prompt: A multiple of the batch size.
        guidance_scale: Of classifier-free guidance; None for the pipeline's own default.
    """

    prompts: tuple[str, ...] = field(repr=False)
    rows_per_prompt: int
    guidance_scale: float | None = None

    def settings(self, rows: Sequence[PlanRow]) -> dict[str, Any]:
        """What a text-to-image pipeline is called with for these rows."""
        prompts = [self.prompts[row.sample_id // self.rows_per_prompt] for row in rows]
        scale = self.guidance_scale
        return {"prompt": prompts} | ({} if scale is None else {"guidance_scale": scale})


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where work stands; ``resumed`` were found in the store."""

    done: int
    total: int
    resumed: int
    unit: str = "images"  # what is counted, and what is done to it: "prompts screened"


ProgressCallback = Callable[[Progress], None]
# Given the pipeline and all rows of a batch, a context in which its denoiser answers for them.
Guided = Callable[[Pipeline, Sequence[PlanRow]], AbstractContextManager[None]]


def unguided(_: Pipeline, __: Sequence[PlanRow]) -> AbstractContextManager[None]:
    """The denoiser answers as it is."""
    return nullcontext()


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
    prompting: Prompting | None = None,
    guided: Guided = unguided,
    progress: ProgressCallback = lambda _: None,
) -> None:
    """Generate the rows that the store does not have, committing batch by batch.

    Args:
        pipeline: On its device; unconditional unless there are prompts.
        rows: What to make.
        store: Where it goes, under ``kind``.
        kind: `PLANNED` or `ALONE`.
        batch_size: Images in every denoiser call, whatever the number of rows.
        steps: Denoiser calls per image.
        plan_seed: Seed of row 0, for the rows that pad a short batch.
        prompting: Prompts of the rows.
        guided: Opened around every batch, with the rows that pad it.
        progress: Told after every batch.

    Raises:
        ValueError: A batch would hold rows of two prompts.
        MemscanError: Out of memory.
    """
    if prompting is not None and prompting.rows_per_prompt % batch_size:
        raise ValueError(f"{prompting.rows_per_prompt} rows a prompt in batches of {batch_size}")
    stored = store.ids(kind)
    resumed = sum(row.sample_id in stored for row in rows)
    done = resumed
    progress(Progress(done=done, total=len(rows), resumed=resumed))
    for batch in _batches(rows, stored, batch_size):
        first = batch[0].sample_id // batch_size * batch_size
        padded = plan_rows(batch_size, seed=plan_seed, start=first)
        with guided(pipeline, padded):
            images = _sample(pipeline, padded, steps=steps, prompting=prompting)
        wanted = {row.sample_id for row in batch}
        store.add(kind, [image for image in images if image.sample_id in wanted])
        done += len(batch)
        progress(Progress(done=done, total=len(rows), resumed=resumed))


def images_per_second(
    pipeline: Pipeline,
    *,
    batch_size: int,
    steps: int,
    plan_seed: int,
    prompting: Prompting | None = None,
    guided: Guided = unguided,
) -> float:
    """Rate of one batch, measured after one denoiser call to warm up."""
    rows = plan_rows(batch_size, seed=plan_seed)
    with guided(pipeline, rows):
        _sample(pipeline, rows, steps=1, prompting=prompting)
        started = time.perf_counter()
        _sample(pipeline, rows, steps=steps, prompting=prompting)
    return batch_size / (time.perf_counter() - started)


def _batches(rows: Sequence[PlanRow], stored: set[int], batch_size: int) -> Iterable[list[PlanRow]]:
    """Missing rows, grouped by the batch that their sample id belongs to."""
    batches: dict[int, list[PlanRow]] = {}
    for row in rows:
        if row.sample_id not in stored:
            batches.setdefault(row.sample_id // batch_size, []).append(row)
    return batches.values()


def image_shape(pipeline: Pipeline) -> tuple[int, int, int]:
    """Height, width and channels of what a pipeline makes unless told otherwise."""
    config = denoiser_of(pipeline).config
    vae = getattr(pipeline, "vae", None)
    size = getattr(pipeline, "default_sample_size", None) or config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    if vae is None:
        return height, width, config.in_channels
    scale: int = pipeline.vae_scale_factor  # type: ignore[attr-defined]
    return height * scale, width * scale, vae.config.out_channels


def call_settings(pipeline: Pipeline) -> dict[str, Any]:
    """Arguments with which a text-to-image pipeline makes its own size from a prompt as it is."""
    height, width, _ = image_shape(pipeline)
    settings: dict[str, Any] = {"height": height, "width": width}
    if takes(pipeline, "use_resolution_binning"):
        # PixArt knows a list of sizes, and cleans captions only where further packages are there.
        settings |= {"use_resolution_binning": False, "clean_caption": False}
    return settings


def denoiser_of(pipeline: Pipeline) -> Any:
    """The pipeline's denoiser, U-Net or transformer."""
    unet = getattr(pipeline, "unet", None)
    return pipeline.transformer if unet is None else unet  # type: ignore[attr-defined]


def _sample(
    pipeline: Pipeline, rows: Sequence[PlanRow], *, steps: int, prompting: Prompting | None = None
) -> list[StoredImage]:
    denoiser = denoiser_of(pipeline)
    finite = torch.ones(len(rows), dtype=torch.bool)

    # The pipeline clamps its images, which would turn an infinity into white.
    def watch(_: object, __: object, output: Any) -> None:
        predicted = output[0] if isinstance(output, tuple) else output.sample
        each = predicted.isfinite().flatten(1).all(dim=1).cpu()
        # Guided rows come twice, all without their prompt before all with it.
        finite.logical_and_(each.view(-1, len(rows)).all(dim=0))

    handle = denoiser.register_forward_hook(watch)
    if prompting is None:
        settings: dict[str, Any] = {"batch_size": len(rows), "eta": 0.0}
    else:
        settings = call_settings(pipeline) | prompting.settings(rows)
    try:
        with warnings.catch_warnings():
            # Under ``-W error`` a deprecation within diffusers must not end a scan.
            warnings.simplefilter("ignore")
            output = pipeline(
                generator=[torch.Generator("cpu").manual_seed(row.seed) for row in rows],
                num_inference_steps=steps,
                output_type="pt",
                **settings,
            )
    except torch.OutOfMemoryError:
        smaller = max(1, len(rows) // 2)
        raise MemscanError(
            f"out of memory on {denoiser.device} with {len(rows)} images in a batch; try "
            f"--memscan-batch-size {smaller}, or --memscan-device cpu. Another batch size is "
            "another scan: its images are made anew"
        ) from None
    finally:
        handle.remove()
    blocked = getattr(output, "nsfw_content_detected", None)
    return as_stored(output.images, rows, finite=finite.numpy(), blocked=blocked)


def as_stored(
    images: torch.Tensor,
    rows: Sequence[PlanRow],
    *,
    finite: NDArray[np.bool_],
    blocked: Sequence[bool] | None = None,
) -> list[StoredImage]:
    """Images as they are kept: 8 bits, with the reason why one must not be counted.

    Args:
        images: ``(batch, channels, height, width)`` in [0, 1].
        rows: One for each image.
        finite: ``(batch,)`` whether every denoiser output was finite.
        blocked: Whether a safety checker replaced each image.
    """
    images = images.float().cpu()
    finite = finite & images.isfinite().flatten(1).all(dim=1).numpy()
    levels = images.nan_to_num().clamp(0, 1).mul(255).round().to(torch.uint8)
    pixels = levels.permute(0, 2, 3, 1).numpy()
    replaced = [False] * len(rows) if blocked is None else blocked
    return [
        StoredImage(
            sample_id=row.sample_id,
            seed=row.seed,
            invalid=why_invalid(pixels[index], finite=bool(finite[index]), blocked=replaced[index]),
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
