"""What a text-to-image scan makes images of, and the images themselves, made as they are needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.results import Coverage
from pytest_memscan.sampler import Sampler


@dataclass(frozen=True, kw_only=True)
class Texts:
    """All texts of a scan; a text's id is its place in `everything`.

    Given prompts come first, so that the id of a prompt is its place in the list of prompts.

    Attributes:
        prompts: Given, or of the built-in probe list.
        canaries: Planted before fine-tuning.
        recombined: Negatives made of parts of the prompts.
        strings: Negatives that are random strings like the canaries.
    """

    prompts: tuple[str, ...] = field(repr=False)
    canaries: tuple[str, ...] = field(default=(), repr=False)
    recombined: tuple[str, ...] = field(default=(), repr=False)
    strings: tuple[str, ...] = field(default=(), repr=False)

    @property
    def everything(self) -> tuple[str, ...]:
        """In the order of their ids."""
        return self.prompts + self.canaries + self.recombined + self.strings

    @property
    def prompt_ids(self) -> range:
        """Ids of the prompts."""
        return range(len(self.prompts))

    @property
    def canary_ids(self) -> range:
        """Ids of the planted strings."""
        return _following(self.prompt_ids, self.canaries)

    @property
    def recombined_ids(self) -> range:
        """Ids of the recombined prompts."""
        return _following(self.canary_ids, self.recombined)

    @property
    def string_ids(self) -> range:
        """Ids of the random strings."""
        return _following(self.recombined_ids, self.strings)


def _following(before: range, texts: Sequence[str]) -> range:
    return range(before.stop, before.stop + len(texts))


@dataclass(frozen=True, kw_only=True)
class TextImages:
    """The valid images of one text: ``sample_ids`` ``(num_images,)`` and ``pixels`` of each."""

    sample_ids: NDArray[np.int64]
    pixels: NDArray[np.uint8]  # (num_images, height, width, channels)

    def __len__(self) -> int:
        return len(self.sample_ids)

    def first(self, count: int) -> TextImages:
        """The first of them."""
        return TextImages(sample_ids=self.sample_ids[:count], pixels=self.pixels[:count])

    def and_then(self, others: TextImages) -> TextImages:
        """These, then the others."""
        return TextImages(
            sample_ids=np.concatenate([self.sample_ids, others.sample_ids]),
            pixels=np.concatenate([self.pixels, others.pixels]),
        )


@dataclass(kw_only=True)
class PromptImages:
    """The images of a scan by text and number, counted as they are asked for.

    Memory: the images of one text, which callers hold.

    Attributes:
        sampler: Makes and keeps images; its plan has ``rows_per_text`` rows for each text.
        rows_per_text: At least the images of the fixed protocol.
        most: Images that the budget allows; None for any number.
    """

    sampler: Sampler
    rows_per_text: int
    most: int | None = None
    asked: int = 0
    invalid: Counter[str] = field(default_factory=Counter)

    def can_afford(self, count: int) -> bool:
        """Whether that many more images are within the budget."""
        return self.most is None or self.asked + count <= self.most

    def take(self, text_id: int, start: int, count: int) -> TextImages:
        """The valid ones of images ``start ... start + count - 1`` of a text."""
        first = text_id * self.rows_per_text + start
        images = self.sampler.images(range(first, first + count))
        self.asked += count
        self.invalid.update(image.invalid for image in images if image.invalid)
        valid = [image for image in images if not image.invalid]
        shape = images[0].pixels.shape
        return TextImages(
            sample_ids=np.array([image.sample_id for image in valid], dtype=np.int64),
            pixels=np.array([image.pixels for image in valid], np.uint8).reshape(-1, *shape),
        )

    def pixels_of(self, sample_id: int) -> NDArray[np.uint8]:
        """One image that was made, ``(height, width, channels)``."""
        return self.sampler.pixels_of(sample_id)

    def coverage(self, train: Coverage | None = None) -> Coverage:
        """What was asked for and what came, beside what is known of the training images."""
        return replace(
            train or Coverage(planned=0, generated=0, valid=0),
            planned=self.asked,
            generated=self.asked,
            valid=self.asked - sum(self.invalid.values()),
            invalid=dict(sorted(self.invalid.items())),
            damaged=self.sampler.store.damaged,
        )
