"""A fine-tune and the base it was made from, both as stock pipelines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ADAPTER = "memscan"  # name of the attached LoRA, in denoiser and text encoders


@dataclass(frozen=True, kw_only=True)
class ModelPair:
    """What model guidance compares.

    Attributes:
        pipeline: Text-to-image pipeline of the fine-tune, on its device. A LoRA is attached and
            active: peft layers in denoiser and text encoders, by the name `ADAPTER`.
        base: Likewise of the base; may share modules with `pipeline`. None where the base is
            `pipeline` with its adapters switched off.
    """

    pipeline: Any
    base: Any | None
