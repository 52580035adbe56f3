"""A fine-tune and its base, found to belong together and loaded as stock pipelines.

Imports torch and diffusers; configuration and collection never come here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pytest_memscan.checkpoints.adapters import attach_adapter
from pytest_memscan.checkpoints.integrity import adapter_of
from pytest_memscan.checkpoints.load import load_text_to_image, ready, resolve_dtype
from pytest_memscan.checkpoints.pairing import (
    Difference,
    check_configs,
    compare,
    compare_adapter,
    share_identical,
)
from pytest_memscan.checkpoints.resolve import ResolvedCheckpoint
from pytest_memscan.checkpoints.single_file import vet_single_file
from pytest_memscan.checkpoints.single_file_load import load_single_file
from pytest_memscan.checkpoints.verify import vet
from pytest_memscan.results import Fit

_KINDS = {"pipeline": "full", "lora": "lora", "single file": "single file"}


@dataclass(frozen=True, kw_only=True)
class Finetune:
    """Both models, on their device.

    Attributes:
        pipeline: Of the fine-tune; a LoRA is attached and active.
        base: Of its base, which has modules of its own only where they differ; None for a LoRA,
            whose base is ``pipeline`` with the adapters switched off.
        fit: How they belong together.
    """

    pipeline: Any
    base: Any | None
    fit: Fit


def load_finetune(
    checkpoint: ResolvedCheckpoint,
    base: ResolvedCheckpoint,
    *,
    base_origin: str,
    device: str,
    dtype: str,
) -> Finetune:
    """Load both, and make sure that one was made from the other.

    Args:
        checkpoint: Of any form, vetted.
        base: A whole text-to-image pipeline, vetted.
        base_origin: Where the base was learnt, for reports.
        device: "auto", "cpu", "cuda" or "cuda:N".
        dtype: "float32", "float16" or "bfloat16".

    Raises:
        OptionError: Unknown dtype or device, or a GPU was asked for and there is none.
        CheckpointError: As `load_text_to_image`, or the two do not belong together.
    """
    pipeline = None
    if checkpoint.form == "pipeline":
        # Before gigabytes are read.
        check_configs(vet(checkpoint.folder), vet(base.folder), base_label=base.label)
        pipeline = load_text_to_image(checkpoint, device=device, dtype=dtype)
    of_base = load_text_to_image(base, device=device, dtype=dtype)
    if checkpoint.form == "lora":
        return _with_lora(of_base, checkpoint, base, base_origin)
    if pipeline is None:
        pipeline = load_single_file(
            vet_single_file(checkpoint.folder),
            vet(base.folder),
            base.folder,
            lender=of_base,
            dtype=resolve_dtype(dtype),
        )
        pipeline = ready(pipeline, str(of_base.device))
    difference = compare(pipeline, of_base)
    share_identical(pipeline, of_base)
    fit = _fit(checkpoint, base, base_origin, difference)
    return Finetune(pipeline=pipeline, base=of_base, fit=fit)


def _with_lora(
    pipeline: Any, checkpoint: ResolvedCheckpoint, base: ResolvedCheckpoint, base_origin: str
) -> Finetune:
    adapter = adapter_of(checkpoint)
    attach_adapter(pipeline, adapter, label=checkpoint.label)
    fit = _fit(checkpoint, base, base_origin, compare_adapter(pipeline), adapter.description)
    return Finetune(pipeline=pipeline, base=None, fit=fit)


def _fit(
    checkpoint: ResolvedCheckpoint,
    base: ResolvedCheckpoint,
    base_origin: str,
    difference: Difference,
    adapter: str = "",
) -> Fit:
    return Fit(
        kind=_KINDS[checkpoint.form],
        base=base.label,
        base_origin=base_origin,
        parts=difference.parts,
        distance=difference.distance,
        warning=difference.warning,
        adapter=adapter,
    )
