"""What a splitting scan of a text-to-image checkpoint works with besides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.generation import Progress, ProgressCallback
from pytest_memscan.results import PromptCoverage
from pytest_memscan.scans.splitting_source import Prompt, Source, Targets
from pytest_memscan.similarity.planted import planted_rows
from pytest_memscan.similarity.reference import Planted


@dataclass(frozen=True, kw_only=True)
class SplitPrompting:
    """Prompts, and what belongs to them.

    Attributes:
        prompts: Those that are scanned, at least one.
        coverage: What became of the list of prompts.
        settings: Arguments of the pipeline's call besides the prompt.
        seeds_each: Seeds that a prompt may use; prompt ``p`` begins with ``p * seeds_each``.
        calls_per_step: Forwards for one image, 2 with classifier-free guidance.
        latents: ``(num_targets, ...)`` float32 clean latents of the different training images.
        decode: Clean latents ``(num, ...)`` -> images ``(num, height, width, channels)`` uint8.
    """

    prompts: tuple[Prompt, ...]
    coverage: PromptCoverage
    settings: Mapping[str, Any]
    seeds_each: int
    calls_per_step: int
    latents: NDArray[np.float32] = field(repr=False)
    decode: Callable[[NDArray[np.float32]], NDArray[np.uint8]] = field(repr=False)

    def of(self, source: Source, number: int) -> Source:
        """A source that makes images of one prompt.

        Args:
            source: Of the checkpoint.
            number: Place of the prompt in `prompts`.
        """
        prompt = self.prompts[number]
        return replace(
            source,
            prompt=prompt,
            settings=self.settings,
            seed=source.seed + prompt.prompt_id * self.seeds_each,
            progress=_of_prompt(source.progress, number + 1, len(self.prompts)),
        )

    def autoencoded(self, targets: Targets) -> Planted:
        """The closest that any image can come to a training image: through the autoencoder."""
        rows = planted_rows(len(targets.ids))
        return Planted(
            name="autoencoder",
            sentence="training images as the autoencoder of the checkpoint gives them back",
            nearest=targets.reference.nearest(self.decode(self.latents[rows])),
            originals=targets.ids[rows],
        )


def _of_prompt(progress: ProgressCallback, number: int, num_prompts: int) -> ProgressCallback:
    """Tells which prompt is being worked on."""

    def tell(now: Progress) -> None:
        progress(replace(now, unit=f"{now.unit} (prompt {number} of {num_prompts})"))

    return tell
